//! ferromon: a container monitor that takes conmon's place.
//!
//! Start-up is straight-line code, supervision is one loop, the end is straight-line code again; the folders are
//! these phases. `docs/architecture.md` draws the whole.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod diag;
pub mod error;
pub mod launch;
pub mod log;
pub mod report;
pub mod supervise;
pub mod sys;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli::Parsed;
use crate::error::{Error, Result};

/// The program: runs the monitor on the `words` of its command line (without its own name) and chooses the exit status.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    diag::init(::log::LevelFilter::Warn, None);
    match run(words) {
        Ok(code) => code,
        Err(Error::Usage(text)) => {
            let _ = sys::fd::write_stderr(format!("conmon: {text}\n").as_bytes());
            ExitCode::FAILURE
        }
        Err(error) => {
            diag::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    match cli::parse(words)? {
        Parsed::Print(text) => {
            print!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Parsed::Run(_args) => Ok(ExitCode::SUCCESS),
    }
}
