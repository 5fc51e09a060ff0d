//! The end: tell how the container ended to everybody who waits for it, then leave.
//!
//! Straight-line code again, and the order is the contract: ports and clients are let go first, the exit is
//! published, then comes what may take long (slow clients, a slow disk), and last the driver's clean-up.
//! conmon: the end of `conmon.c:main`, and `ctr_exit.c`.

pub mod exit_command;
pub mod exit_files;
pub mod oom_files;
pub mod publish;
pub mod sync_pipe;

use crate::config::Config;
use crate::launch::Launched;
use crate::launch::parent::Inherited;
use crate::supervise::Outcome;
use crate::sys::process::ExitStatus;

/// What CRI-O looks for in the report of an exec that ran out of time.
const TIMED_OUT: &[u8] = b"command timed out";

/// The monitor's own exit status where the container's can't be told.
const FAILED: u8 = 1;

/// Publishes `outcome`, cleans up, and returns the monitor's own exit status.
pub fn finish(config: &Config, outcome: Outcome, launched: Launched<'_>, inherited: Inherited) -> u8 {
    let Launched { mut monitor, attach_file, link, oom, mask } = launched;
    // Published ports are free before anybody can learn that the container has ended.
    drop(inherited);
    let status = match outcome {
        Outcome::NotStarted(_) => {
            // conmon: leaves the socket behind where nothing was started.
            if let Some(file) = attach_file {
                file.keep();
            }
            FAILED
        }
        Outcome::Exited(status) => {
            let status = publish_exit(config, &mut monitor, status.number(), b"");
            drop(attach_file);
            status
        }
        Outcome::TimedOut => {
            let status = publish_exit(config, &mut monitor, ExitStatus::Unknown.number(), TIMED_OUT);
            drop(attach_file);
            status
        }
    };
    monitor.linger();
    // Closes all that is left, the sync pipe too: the parent sees its end before the clean-up starts.
    drop(monitor);
    if let Some(command) = &config.exit_command {
        exit_command::run(command, mask, oom);
    }
    drop(link);
    status
}

fn publish_exit(
    config: &Config,
    monitor: &mut crate::supervise::Monitor<'_>,
    number: i32,
    message: &[u8],
) -> u8 {
    // Clients that have everything see the end first, as with conmon.
    monitor.begin_linger();
    // Before the exit files: whoever sees those looks for this one at once.
    monitor.look_for_oom();
    let is_published = exit_files::write(config, number);
    if config.is_exec() {
        monitor.sync_pipe().report(number, message);
    }
    // conmon: exits with 1 where a file that was asked for is missing. −1 becomes 255.
    if is_published { number as u8 } else { FAILED }
}
