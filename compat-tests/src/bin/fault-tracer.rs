//! `fault-tracer`: see `compat_tests::faults::tracer`.

#![allow(clippy::exit)]

fn main() {
    std::process::exit(compat_tests::faults::tracer::main())
}
