//! The process: run the monitor, print what it could not report elsewhere, choose the exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    ferromon::main(std::env::args_os().skip(1))
}
