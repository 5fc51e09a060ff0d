//! Runs the driver's clean-up once the exit is published. conmon: `ctr_exit.c:do_exit_command`.

use std::ffi::{CString, NulError, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use crate::config::ExitCommand;
use crate::diag::{debug, warn};
use crate::error::strerror;
use crate::launch::oom_score::OomScore;
use crate::sys::process::{reap, wait_any};
use crate::sys::signal::{DriverMask, Signals};
use crate::sys::spawn::{Environment, Memory, Program, spawn};

/// Waits for `command.delay`, runs the command, and returns when no child is left at all, neither the command nor
/// an orphan of the container. How the command ends is nobody's business: the monitor's status is the container's.
///
/// The delay is spent here and not in a forked child: one process that sleeps is enough.
pub fn run(command: &ExitCommand, mask: DriverMask, oom: OomScore) {
    // The command's own orphans are not ours to wait for.
    if nix::sys::prctl::set_child_subreaper(false).is_err() {
        warn!("Failed to disable self subreaper attribute - might wait for indirect children a long time");
    }
    if !command.delay.is_zero() {
        debug!("Sleeping for {} seconds before executing exit command", command.delay.as_secs());
        pass(command.delay);
    }
    let started = program(command).map_err(std::io::Error::from).and_then(|program| {
        spawn(program, Memory::Shared, || {
            mask.restore();
            oom.restore();
            Ok(())
        })
    });
    while wait_any().is_some() {}
    if let Some(e) = started.map_or_else(Some, |(_, failure)| failure.error()) {
        warn!("Failed to run the exit command {}: {}", command.path.display(), strerror(&e));
    }
}

/// Lets `delay` pass, which may be minutes: orphans that end meanwhile are reaped at once.
fn pass(delay: Duration) {
    let end = Instant::now() + delay;
    let mut signals = Signals::open().ok();
    loop {
        while reap().is_some() {}
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if !signals.as_mut().is_some_and(|signals| signals.wait(left)) {
            std::thread::sleep(left);
        }
    }
}

fn program(command: &ExitCommand) -> Result<Program, NulError> {
    let c_string = |word: &OsString| CString::new(word.as_bytes());
    let argv = [&command.path].into_iter().chain(&command.args).map(c_string).collect::<Result<_, _>>()?;
    Ok(Program::new(c_string(&command.path)?, argv, Environment::inherited()))
}
