//! The options as typed.

use std::ffi::OsString;

use crate::error::{Error, Result};

/// Every option as typed, with no decision taken.
#[derive(Debug, Default)]
pub struct Args {}

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Print this on stdout and exit with 0 (`--help`, `--version`).
    Print(String),
    Run(Args),
}

/// Reads the words after the program's name by GOption's rules (contract 4.2).
///
/// # Errors
/// [`Error::Usage`] with GOption's text.
pub fn parse(_words: impl Iterator<Item = OsString>) -> Result<Parsed> {
    Err(Error::usage("Container ID not provided. Use --cid"))
}
