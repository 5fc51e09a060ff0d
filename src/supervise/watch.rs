//! Keeps an eye on the container process, whoever its parent is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid, getpgrp};

use crate::sys::process::{PidFd, is_child};

/// How often a process is looked for where the kernel has no pidfds (before Linux 5.3).
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The running container.
#[derive(Debug)]
pub(super) enum Watch {
    Descriptor(Pid, PidFd),
    /// No pidfd is to be had: the process is looked for by number every [`POLL_INTERVAL`].
    Polling(Pid),
}

impl Watch {
    /// `None`: there is no such process (any more).
    pub(super) fn open(pid: Pid) -> Option<Self> {
        match PidFd::open(pid) {
            Ok(fd) => Some(Self::Descriptor(pid, fd)),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => None,
            Err(_) => Some(Self::Polling(pid)),
        }
    }

    /// What becomes readable when the process has ended.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Descriptor(_, fd) => Some(fd.as_fd()),
            Self::Polling(_) => None,
        }
    }

    /// For [`Watch::Polling`]: the process is not there any more, not even as a zombie.
    pub(super) fn has_vanished(&self) -> bool {
        match self {
            Self::Descriptor(..) => false,
            Self::Polling(pid) => kill(*pid, None) == Err(Errno::ESRCH),
        }
    }

    /// Its end will be told by SIGCHLD, sooner or later.
    pub(super) fn is_child(&self) -> bool {
        let (Self::Descriptor(pid, _) | Self::Polling(pid)) = self;
        is_child(*pid)
    }

    /// # Errors
    /// As kill(2).
    pub(super) fn send(&self, signal: Signal) -> io::Result<()> {
        match self {
            Self::Descriptor(_, fd) => fd.send(signal),
            Self::Polling(pid) => Ok(kill(*pid, signal)?),
        }
    }

    /// SIGKILL to the process and to its group, but never to our own group, nor to everybody.
    pub(super) fn kill(&self) {
        let (Self::Descriptor(pid, _) | Self::Polling(pid)) = self;
        // conmon: `conmon.c:main` asks for the group at the end, so that a later setpgid counts.
        if let Some(group) = getpgid(Some(*pid)).ok().filter(|group| is_foreign(*group)) {
            let _ = kill(Pid::from_raw(-group.as_raw()), Signal::SIGKILL);
        }
        // The group may be gone or another's; what has to die is the process.
        let _ = self.send(Signal::SIGKILL);
    }
}

/// Group 0 or 1 would be everybody, and ours holds the monitor.
fn is_foreign(group: Pid) -> bool {
    group.as_raw() > 1 && group != getpgrp()
}
