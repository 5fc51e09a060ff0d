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

use nix::sys::stat::Mode;

use crate::cli::Parsed;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::launch::Role;
use crate::launch::parent::Inherited;
use crate::report::sync_pipe::{Key, SyncPipe};
use crate::sys::heap::HEAP;

/// The exit status of a program that could not do what it was asked to.
const FAILURE: u8 = 1;

/// The program: runs the monitor on the `words` of its command line (without its own name) and chooses the exit status.
pub fn main(words: impl Iterator<Item = OsString>) -> u8 {
    let mut inherited = Inherited::take();
    // Whatever the driver's umask is: the modes of the files we make are part of the contract.
    nix::sys::stat::umask(Mode::from_bits_retain(0o022));
    let words: Vec<OsString> = words.collect();
    match run(&words, &mut inherited) {
        Ok(code) => code,
        Err(error) => {
            // A parent that waits for a report gets one; once the pipe is adopted its owner sees to that.
            if let Ok(Some(pipe)) = inherited.adopt("_OCI_SYNCPIPE") {
                SyncPipe::new(Some(pipe), Key::guess(&words)).report(-1, error.to_string().as_bytes());
            }
            print_error(&error);
            FAILURE
        }
    }
}

fn print_error(error: &Error) {
    match error {
        Error::Usage(text) => {
            let line = [b"conmon: ", text.as_encoded_bytes(), b"\n"].concat();
            let _ = sys::fd::write_stderr(&line);
        }
        Error::Message(_) | Error::Os { .. } => diag::error!("{error}"),
    }
}

fn run(words: &[OsString], inherited: &mut Inherited) -> Result<u8> {
    match read_config(words)? {
        Some(config) => supervise(&config, inherited),
        None => Ok(0),
    }
}

/// What the command line means; `None` when it only asked for something to be printed.
// Not inlined: its large frame would stay below the event loop for as long as the container runs.
#[inline(never)]
fn read_config(words: &[OsString]) -> Result<Option<Config>> {
    // clap's leavings would stay with the monitor for as long as its container runs: only the options leave this heap.
    HEAP.open();
    let parsed = cli::parse(words.iter().cloned());
    HEAP.close();
    let args = match parsed? {
        Parsed::Print(text) => {
            // A reader that has gone, as in `conmon --help | head -1`, is no error.
            let mut stdout = std::io::stdout();
            let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
            return Ok(None);
        }
        Parsed::Run(args) => (*args).clone(),
    };
    HEAP.release();
    config::start_messages(&args);
    Config::try_from(args).map(Some)
}

fn supervise(config: &Config, inherited: &mut Inherited) -> Result<u8> {
    let log = log::Log::open(&config.log, &config.identity())?;
    config.log.check_tags()?;
    match launch::launch(config, log, inherited)? {
        Role::Parent(Ok(())) => Ok(0),
        Role::Parent(Err(error)) => {
            print_error(&error);
            Ok(FAILURE)
        }
        Role::Monitor(mut launched) => {
            let outcome = launched.monitor.run();
            Ok(report::finish(config, outcome, *launched, std::mem::take(inherited)))
        }
    }
}
