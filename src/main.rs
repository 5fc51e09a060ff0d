//! The process: run the monitor and exit with the status it chooses.
//!
//! C's entry point in place of std's. What std does before its `main` (a handler for stack overflows with a stack of its
//! own, for which it reads /proc/self/maps) is a seventh of a start-up's instructions and four pages for as long as the
//! container runs, and a monitor has one thread and no recursion. The parts that are needed are in [`sys::process`].

#![no_main]

use std::ffi::{c_char, c_int};

use ferromon::sys;

// The name is the C library's for the program's start; nothing else in the program has it.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    sys::process::enter();
    // SAFETY: they are what the C library was started with.
    let words = unsafe { sys::process::arguments(argc, argv) };
    let status = ferromon::main(words.into_iter().skip(1));
    // Nothing is left to flush, so no handler of the C library has to be run for it.
    sys::process::leave(status.into())
}
