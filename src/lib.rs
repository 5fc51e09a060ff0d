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
use std::io::Write;
use std::process::ExitCode;

use crate::cli::Parsed;
use crate::config::Config;
use crate::error::{Error, Result};

/// The program: runs the monitor on the `words` of its command line (without its own name) and chooses the exit status.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    match run(words) {
        Ok(code) => code,
        Err(Error::Usage(text)) => {
            let line = [b"conmon: ", text.as_encoded_bytes(), b"\n"].concat();
            let _ = sys::fd::write_stderr(&line);
            ExitCode::FAILURE
        }
        Err(error) => {
            diag::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: impl Iterator<Item = OsString>) -> Result<ExitCode> {
    let args = match cli::parse(words)? {
        Parsed::Print(text) => {
            // A reader that has gone, as in `conmon --help | head -1`, is no error.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return Ok(ExitCode::SUCCESS);
        }
        Parsed::Run(args) => *args,
    };
    config::start_messages(&args);
    let config = Config::try_from(args)?;
    let _log = log::Log::open(&config.log)?;
    config.log.check_tags()?;
    Ok(ExitCode::SUCCESS)
}
