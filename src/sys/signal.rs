//! Signals: all that can be blocked is blocked in the monitor, and those it wants are read from a descriptor.
//!
//! A signal that is blocked and not read has no effect, which is how HUP, USR1, ALRM and the rest are ignored, and
//! how a log write past RLIMIT_FSIZE ends in EFBIG instead of death. The runtime and the exit command get the mask
//! back that the driver gave us.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the CPU raises for a fault of ours; blocking these would only hide it.
const FAULTS: [Signal; 7] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGSYS,
];

/// The signals the monitor acts on.
const WATCHED: [Signal; 4] = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];

/// How often a signal that can't be read is tried.
const READ_ATTEMPTS: usize = 4;

/// The signal mask that the driver started us with.
#[derive(Clone, Copy, Debug)]
pub struct DriverMask(SigSet);

impl DriverMask {
    /// Makes it the current mask again; async-signal-safe, for a forked child about to exec.
    pub fn restore(self) {
        // Fails only for an invalid `how`.
        let _ = self.0.thread_set_mask();
    }
}

/// Blocks everything but faults, and returns what was in force before.
///
/// # Errors
/// As sigprocmask(2).
pub fn block() -> io::Result<DriverMask> {
    let mut mask = SigSet::all();
    FAULTS.into_iter().for_each(|fault| mask.remove(fault));
    Ok(DriverMask(mask.thread_swap_mask(SigmaskHow::SIG_SETMASK)?))
}

/// Until the monitor has anything to clean up, TERM ends it with status 1, as it ends conmon.
///
/// # Errors
/// As sigaction(2).
pub fn exit_on_term() -> io::Result<()> {
    extern "C" fn leave(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(1) }
    }
    let action = SigAction::new(SigHandler::Handler(leave), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler calls nothing but _exit.
    unsafe { sigaction(Signal::SIGTERM, &action) }?;
    Ok(())
}

/// SIGPIPE is ignored by the monitor and, like under conmon, by all it starts. std's own start-up would do the same, but
/// is left out.
///
/// # Errors
/// As sigaction(2).
pub fn ignore_sigpipe() -> io::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_IGN runs no code.
    unsafe { sigaction(Signal::SIGPIPE, &ignore) }?;
    Ok(())
}

/// Has ended children wait to be reaped, whatever the driver did with SIGCHLD: if it ignored it the kernel would throw
/// every exit status away.
///
/// # Errors
/// As sigaction(2).
pub fn keep_children() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_DFL runs no code.
    unsafe { sigaction(Signal::SIGCHLD, &default) }?;
    Ok(())
}

/// The descriptor the event loop reads [`WATCHED`] signals from.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// # Errors
    /// As signalfd(2).
    pub fn open() -> io::Result<Self> {
        let mask = WATCHED.into_iter().collect::<SigSet>();
        Ok(Self(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The next pending signal, `None` when there is none.
    pub fn take_next(&mut self) -> Option<Signal> {
        // A signal that stays pending hides the next of its kind: epoll tells of new ones only. So a read that fails
        // is tried again, but not for ever.
        let info = (0..READ_ATTEMPTS).find_map(|_| self.0.read_signal().ok()).flatten()?;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }

    /// Waits for the next signal and takes it, or until `limit` has passed. False when waiting does not work.
    pub fn wait(&mut self, limit: Duration) -> bool {
        // Not a moment too short, which would be a wait of nothing again and again.
        let limit = PollTimeout::try_from(limit + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) => true,
            Ok(_) => self.take_next().is_some(),
            Err(_) => false,
        }
    }
}

impl std::os::fd::AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
