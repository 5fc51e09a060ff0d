//! Processes: how ours begins and ends, fork, wait and pidfds.

use std::ffi::{CStr, OsString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{ForkResult, Pid};

/// What a program needs before anything else, as it is not std's entry point that runs: 0, 1 and 2 are open, so that no
/// other descriptor gets one of these numbers, and a reader that is gone is an error of the write and no signal.
pub fn enter() {
    super::fd::hold_standard();
    let _ = super::signal::ignore_sigpipe();
}

/// The words of the command line, the program's own name first. std's own list is empty without its entry point, except
/// on glibc.
///
/// # Safety
/// `argv` has at least `argc` strings that are there until the process ends, as C's `main` gets them.
pub unsafe fn arguments(argc: c_int, argv: *const *const c_char) -> Vec<OsString> {
    // SAFETY: the caller's promise.
    let word = |index: usize| unsafe { CStr::from_ptr(*argv.add(index)) };
    (0..usize::try_from(argc).unwrap_or(0)).map(|i| OsString::from_vec(word(i).to_bytes().to_vec())).collect()
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
    /// It ended, but its parent is somebody else, who alone learns how.
    Unknown,
}

impl ExitStatus {
    /// The number that exit files and reports carry: the code, 128 + the signal, or −1.
    /// conmon: `ctr_exit.c:get_exit_status`.
    pub fn number(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::Unknown => -1,
        }
    }
}

/// Which of the two processes a fork returned in.
#[derive(Debug)]
pub enum Side {
    Parent { child: Pid },
    Child,
}

/// Splits the process in two. Both sides go on with all of its memory, so this is for the daemon, which is one
/// thread and goes on as an ordinary program; a child that is to exec something uses [`super::spawn::spawn`].
///
/// # Errors
/// As fork(2).
pub fn fork() -> io::Result<Side> {
    // SAFETY: the monitor has one thread, so the child's memory is consistent and no lock is held by a lost thread.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent { child }),
        ForkResult::Child => Ok(Side::Child),
    }
}

/// Ends a forked child without running anything that belongs to its parent.
pub fn leave(status: i32) -> ! {
    // SAFETY: _exit is async-signal-safe and runs no handlers.
    unsafe { libc::_exit(status) }
}

/// One child that has ended since the last call, without waiting; `None` when there is none (left).
pub fn reap() -> Option<(Pid, ExitStatus)> {
    wait_with(libc::WNOHANG)
}

/// Waits until any child ends; `None` when there is no child (left).
pub fn wait_any() -> Option<(Pid, ExitStatus)> {
    wait_with(0)
}

/// Whether `pid` is a child that has not been reaped. One that has ended under a tracer can't be reaped before the tracer
/// has seen its end; SIGCHLD comes then.
pub fn is_child(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(pid), flags) != Err(Errno::ECHILD)
}

/// Not nix's waitpid: that one has no name for real-time signals and loses the status of a child they killed.
fn wait_with(flags: libc::c_int) -> Option<(Pid, ExitStatus)> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int, which `status` is.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
        if pid > 0 {
            return Some((Pid::from_raw(pid), decode(status)));
        }
        if pid == 0 || Errno::last() != Errno::EINTR {
            return None;
        }
    }
}

/// What a wait status says; without WUNTRACED there is nothing but an exit or a signal.
fn decode(status: libc::c_int) -> ExitStatus {
    if libc::WIFEXITED(status) {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(libc::WTERMSIG(status))
    } else {
        ExitStatus::Unknown
    }
}

/// A process that can be waited for and signalled without its number being mistaken for a later process's.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// # Errors
    /// ESRCH when there is no such process, ENOSYS before Linux 5.3.
    pub fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: pidfd_open takes a pid and flags and touches no memory.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel returned a new descriptor (close-on-exec by definition) that nobody else knows.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// # Errors
    /// ESRCH when the process has ended, EPERM when it may not be signalled.
    pub fn send(&self, signal: Signal) -> io::Result<()> {
        let (fd, number, no_info) =
            (self.0.as_raw_fd(), signal as libc::c_int, std::ptr::null::<libc::siginfo_t>());
        // SAFETY: a null siginfo asks the kernel to fill in what kill(2) would.
        Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, no_info, 0) })?;
        Ok(())
    }
}

impl std::os::fd::AsFd for PidFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_numbers_are_conmons() {
        let table = [(ExitStatus::Code(3), 3), (ExitStatus::Signal(9), 137), (ExitStatus::Unknown, -1)];
        table.into_iter().for_each(|(status, number)| assert_eq!(status.number(), number));
    }
}
