//! The pipes that become the container's stdin, stdout and stderr.
//!
//! Pipes and not sockets, because a program in the container may open /dev/stdout, which a socket does not allow.

use std::os::fd::OwnedFd;

use nix::sys::stat::Mode;

use crate::config::{Config, StdinPolicy};
use crate::error::{Context, Result};
use crate::sys;

/// The monitor's ends; `None` is a stream that does not pass through a pipe of ours.
#[derive(Debug, Default)]
pub struct MonitorEnds {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// The runtime's ends, which the container inherits from it.
#[derive(Debug)]
pub enum RuntimeEnds {
    /// `-l passthrough`: the descriptors that the driver gave us, untouched.
    Driver,
    /// `None` is /dev/null.
    Pipes { stdin: Option<OwnedFd>, stdout: Option<OwnedFd>, stderr: OwnedFd, null: OwnedFd },
}

/// Makes the pipes. With a terminal only stderr is one: it carries what the runtime says before the pty exists.
///
/// # Errors
/// No descriptors left.
pub fn pipes(config: &Config) -> Result<(MonitorEnds, RuntimeEnds)> {
    if config.log.passthrough {
        return Ok((MonitorEnds::default(), RuntimeEnds::Driver));
    }
    let (stdin_read, stdin_write) = pipe_if(config.stdin != StdinPolicy::None && !config.terminal, "stdin")?;
    let (stdout_read, stdout_write) = pipe_if(!config.terminal, "stdout")?;
    let (stderr_read, stderr_write) = sys::fd::pipe().context(|| "Failed to create stderr pipe".into())?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.context(|| "Failed to open /dev/null".into())?.into();
    for end in [&stdin_write, &stdout_read].into_iter().flatten().chain([&stderr_read]) {
        sys::fd::set_nonblocking(end).context(|| "Failed to make a stdio pipe non-blocking".into())?;
    }
    let monitor = MonitorEnds { stdin: stdin_write, stdout: stdout_read, stderr: Some(stderr_read) };
    let runtime = RuntimeEnds::Pipes { stdin: stdin_read, stdout: stdout_write, stderr: stderr_write, null };
    Ok((monitor, runtime))
}

fn pipe_if(wanted: bool, name: &str) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    if !wanted {
        return Ok((None, None));
    }
    let (read, write) = sys::fd::pipe().context(|| format!("Failed to create !terminal {name} pipe"))?;
    Ok((Some(read), Some(write)))
}

impl RuntimeEnds {
    /// Puts them in place as 0, 1 and 2; async-signal-safe, for the runtime child.
    ///
    /// # Errors
    /// As dup2(2).
    pub fn install(&self) -> nix::Result<()> {
        let Self::Pipes { stdin, stdout, stderr, null } = self else { return Ok(()) };
        nix::unistd::dup2_stdin(stdin.as_ref().unwrap_or(null))?;
        nix::unistd::dup2_stdout(stdout.as_ref().unwrap_or(null))?;
        nix::unistd::dup2_stderr(stderr)?;
        for pipe in [stdin.as_ref(), stdout.as_ref(), Some(stderr)].into_iter().flatten() {
            // So that a container user other than root can open /dev/stdout; some kernels refuse it, which is fine.
            let _ = nix::sys::stat::fchmod(pipe, Mode::from_bits_retain(0o777));
        }
        Ok(())
    }
}
