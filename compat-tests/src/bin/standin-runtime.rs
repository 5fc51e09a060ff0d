//! The stand-in for runc: see `compat_tests::standin`.
//!
//! Without Rust's own `main`, whose start-up code ignores SIGPIPE and opens closed descriptors: the stand-in records
//! exactly what the monitor handed down.

#![no_main]

/// Called by the C library.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: i32, _argv: *const *const std::ffi::c_char) -> i32 {
    compat_tests::standin::main()
}
