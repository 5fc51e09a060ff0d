//! Starts the OCI runtime, which creates the container and ends.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::oom_score::OomScore;
use super::parent::{out_of_range, read_start_byte};
use super::stdio::RuntimeEnds;
use crate::config::Config;
use crate::error::{Context, Error, Result, strerror};
use crate::sys::fd::write_stderr;
use crate::sys::signal::DriverMask;
use crate::sys::spawn::{Environment, ExecFailure, Memory, Program, spawn};

/// What the runtime child puts in order before it becomes the runtime.
#[derive(Debug)]
pub(super) struct RuntimeChild {
    pub stdio: RuntimeEnds,
    /// `--exec-attach`: the runtime starts only after a second message, when the parent has attached.
    pub second_start: Option<OwnedFd>,
    pub mask: DriverMask,
    pub oom: OomScore,
}

/// Forks and execs the runtime: its pid, and what tells later whether the exec worked.
///
/// # Errors
/// No process or descriptor left, or an argument holds a NUL byte.
pub(super) fn start(
    config: &Config,
    console_socket: Option<&Path>,
    child: RuntimeChild,
) -> Result<(Pid, ExecFailure)> {
    let argv = super::argv::runtime_argv(config, console_socket);
    crate::diag::trace!("calling runtime args: {argv:?}");
    let path = c_string(config.runtime.path.clone().into())?;
    let argv = argv.into_iter().map(c_string).collect::<Result<_>>()?;
    let listen_pid =
        ListenPid::decide(std::env::var_os("LISTEN_PID").as_deref(), config.runtime.replace_listen_pid);
    let env = Environment::inherited();
    let env = if listen_pid == ListenPid::Replace { env.with_child_pid_in("LISTEN_PID") } else { env };
    let monitor = nix::unistd::getpid();
    // The second message comes from a driver that waits for what the monitor says until then.
    let memory = if child.second_start.is_some() { Memory::Copied } else { Memory::Shared };
    spawn(Program::new(path, argv, env), memory, || child.prepare(monitor, &listen_pid))
        .context(|| "Failed to fork the create command".into())
}

fn c_string(word: OsString) -> Result<CString> {
    CString::new(word.into_vec()).map_err(|e| Error::message(format!("an argument holds a NUL byte: {e}")))
}

impl RuntimeChild {
    /// Runs in the forked child: async-signal-safe calls only.
    fn prepare(&self, monitor: Pid, listen_pid: &ListenPid) -> std::result::Result<(), i32> {
        // A runtime whose monitor is gone would create a container that nobody watches.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|_| 1)?;
        if nix::unistd::getppid() != monitor {
            return Err(1);
        }
        self.mask.restore();
        self.stdio.install().map_err(|_| 1)?;
        if let ListenPid::Invalid(text) = listen_pid {
            let _ = write_stderr(text.as_bytes());
            return Err(1);
        }
        if let Some(pipe) = &self.second_start {
            read_start_byte(pipe).map_err(|e| {
                for part in ["[conmon:e]: start-pipe read failed ", e.desc(), "\n"] {
                    let _ = write_stderr(part.as_bytes());
                }
                1
            })?;
        }
        self.oom.restore();
        Ok(())
    }
}

/// Socket activation: LISTEN_PID names the process that the sockets are for.
#[derive(Debug, PartialEq, Eq)]
enum ListenPid {
    /// Unset, or meant for another process.
    Keep,
    /// It named us, so now it has to name the runtime.
    Replace,
    /// What to print in place of starting the runtime.
    Invalid(String),
}

impl ListenPid {
    fn decide(value: Option<&OsStr>, always_replace: bool) -> Self {
        let Some(value) = value else { return Self::Keep };
        match leading_number(value.as_bytes()) {
            Ok(pid) if pid > 0 && (always_replace || pid == i64::from(std::process::id())) => Self::Replace,
            Ok(pid) if pid > 0 => Self::Keep,
            Ok(_) => Self::invalid(value, 0),
            Err(errno) => Self::invalid(value, errno),
        }
    }

    /// conmon: the value is cut to ten bytes, and errno text stands behind it.
    fn invalid(value: &OsStr, errno: i32) -> Self {
        let shown = value.as_bytes().get(..10).unwrap_or(value.as_bytes());
        let reason = strerror(&std::io::Error::from_raw_os_error(errno));
        Self::Invalid(format!("[conmon:e]: Invalid LISTEN_PID {} {reason}\n", String::from_utf8_lossy(shown)))
    }
}

/// What strtol finds at the start of `text` (0 when it is no number), or ERANGE.
fn leading_number(text: &[u8]) -> std::result::Result<i64, i32> {
    let text = text.trim_ascii_start();
    let sign = usize::from(text.first().is_some_and(|b| matches!(b, b'+' | b'-')));
    let digits = text.iter().skip(sign).take_while(|b| b.is_ascii_digit()).count();
    let number = text.get(..sign + digits).and_then(|t| std::str::from_utf8(t).ok()).unwrap_or_default();
    match number.parse::<i64>() {
        Ok(value) => Ok(value),
        Err(e) if out_of_range(&e) => Err(libc::ERANGE),
        Err(_) => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_pid_follows_conmons_rules() {
        let ours = std::process::id().to_string();
        let decide = |value: &str, always| ListenPid::decide(Some(OsStr::new(value)), always);
        assert_eq!(ListenPid::decide(None, true), ListenPid::Keep);
        assert_eq!(decide(&ours, false), ListenPid::Replace);
        assert_eq!(decide("7", false), ListenPid::Keep);
        assert_eq!(decide("7x", true), ListenPid::Replace);
        let invalid = |text: &str| ListenPid::Invalid(format!("[conmon:e]: Invalid LISTEN_PID {text}\n"));
        assert_eq!(decide("0", true), invalid("0 Success"));
        assert_eq!(decide("-5", false), invalid("-5 Success"));
        assert_eq!(
            decide("99999999999999999999", false),
            invalid("9999999999 Numerical result out of range")
        );
    }
}
