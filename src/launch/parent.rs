//! The pipes to the program that started us: start, sync and attach, named by number in the environment, and all
//! other descriptors it left open for us to keep.
//!
//! podman makes them SEQPACKET sockets, CRI-O stream sockets or pipes. conmon: `parent_pipe_fd.c`.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::sys;

/// Everything from descriptor 3 up that was open when the program started.
///
/// podman keeps published ports reserved this way, and its rootless port forwarder waits for the end of such a pipe.
/// So they stay open, and without close-on-exec, as long as the container runs; dropping this value closes them,
/// which has to happen before the exit is published.
#[derive(Debug, Default)]
pub struct Inherited(Vec<OwnedFd>);

impl Inherited {
    /// To be called before the program opens anything.
    pub fn take() -> Self {
        Self(sys::fd::take_inherited())
    }

    /// The descriptor number `fd` out of the lot.
    fn remove(&mut self, fd: RawFd) -> Option<OwnedFd> {
        let index = self.0.iter().position(|owned| owned.as_raw_fd() == fd)?;
        Some(self.0.swap_remove(index))
    }

    /// Finds the pipe that `variable` names. `Ok(None)`: not set, or one of the standard descriptors, which conmon
    /// accepts and points at /dev/null before it ever writes there.
    ///
    /// # Errors
    /// The value is no number, or no such descriptor is open.
    pub fn adopt(&mut self, variable: &str) -> Result<Option<OwnedFd>> {
        let Some(number) = pipe_number(variable, std::env::var_os(variable))? else { return Ok(None) };
        if (0..=libc::STDERR_FILENO).contains(&number) {
            return Ok(None);
        }
        let tried = || format!("unable to make {variable} CLOEXEC");
        let fd = self.remove(number).ok_or_else(|| Error::os(tried(), Errno::EBADF))?;
        sys::fd::set_cloexec(&fd).map_err(|e| Error::os(tried(), e))?;
        Ok(Some(fd))
    }

    /// The start pipe, which is read, so that a standard descriptor is a real one here; 0 is ignored.
    ///
    /// # Errors
    /// As [`Inherited::adopt`].
    pub fn adopt_start_pipe(&mut self) -> Result<Option<OwnedFd>> {
        let variable = "_OCI_STARTPIPE";
        match pipe_number(variable, std::env::var_os(variable))? {
            Some(number @ (libc::STDOUT_FILENO | libc::STDERR_FILENO)) => sys::fd::duplicate_standard(number)
                .map(Some)
                .map_err(|e| Error::os(format!("unable to make {variable} CLOEXEC"), e)),
            _ => self.adopt(variable),
        }
    }
}

/// Waits until the parent has put us where it wants us (its cgroup). The end of the pipe counts as go.
///
/// # Errors
/// The pipe can't be read.
pub fn wait_for_start(pipe: &OwnedFd) -> Result<()> {
    read_start_byte(pipe).map_err(|e| Error::os("start-pipe read failed", e))
}

/// One message from the start pipe; async-signal-safe, because with `--exec-attach` the runtime child reads the
/// second one.
///
/// # Errors
/// As read(2).
pub fn read_start_byte(pipe: &OwnedFd) -> nix::Result<()> {
    let mut message = [0; 64];
    loop {
        match nix::unistd::read(pipe, &mut message) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// conmon parses with strtol base 10 over the whole value; an empty one is 0, and errno text stands behind the message.
fn pipe_number(variable: &str, value: Option<OsString>) -> Result<Option<RawFd>> {
    let Some(value) = value else { return Ok(None) };
    let unparsable = |errno| Error::os(format!("unable to parse {variable}"), errno);
    let digits = strip_blanks(&value);
    if digits.is_empty() {
        return Ok(Some(0));
    }
    match digits.parse::<i64>() {
        Ok(number) => Ok(Some(RawFd::try_from(number).unwrap_or(-1))),
        Err(e) if out_of_range(&e) => Err(unparsable(Errno::ERANGE)),
        Err(_) => Err(unparsable(Errno::from_raw(0))),
    }
}

/// What strtol skips in front of a number. Text that is not UTF-8 is no number.
fn strip_blanks(value: &OsStr) -> &str {
    let text = std::str::from_utf8(value.as_bytes()).unwrap_or("?");
    text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r'])
}

pub(super) fn out_of_range(error: &std::num::ParseIntError) -> bool {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    matches!(error.kind(), PosOverflow | NegOverflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> std::result::Result<Option<RawFd>, String> {
        pipe_number("X", Some(value.into())).map_err(|e| e.to_string())
    }

    #[test]
    fn numbers_are_strtols() {
        let table = [("3", 3), (" +4", 4), ("\t010", 10), ("", 0), ("-1", -1), ("9999999999", -1)];
        table.into_iter().for_each(|(text, number)| assert_eq!(parse(text), Ok(Some(number)), "{text:?}"));
        assert_eq!(pipe_number("X", None).unwrap(), None);
    }

    #[test]
    fn errors_carry_conmons_errno_text() {
        for text in ["abc", "3x", "3 ", "0x3"] {
            assert_eq!(parse(text), Err("unable to parse X Success".into()), "{text:?}");
        }
        let huge = "99999999999999999999";
        assert_eq!(parse(huge), Err("unable to parse X Numerical result out of range".into()));
    }
}
