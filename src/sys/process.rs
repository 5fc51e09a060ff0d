//! Processes: fork, wait, pidfds, and what a forked child may do before it becomes another program.

use std::ffi::{CStr, CString, OsString, c_char, c_int};
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
/// thread and goes on as an ordinary program; a child that is to exec something uses [`spawn`].
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

/// A program to become, with everything allocated before the fork.
#[derive(Debug)]
pub struct Program {
    path: CString,
    argv: Vec<CString>,
    env: Environment,
}

impl Program {
    /// `argv` includes the program's own name; `path` is taken as it is, there is no search in PATH.
    pub fn new(path: CString, argv: Vec<CString>, env: Environment) -> Self {
        Self { path, argv, env }
    }
}

/// The environment for a program: exactly the one we were started with, duplicates and all, but for one variable.
#[derive(Debug)]
pub struct Environment {
    entries: Vec<*const c_char>,
    /// Where in `entries` the pid of the child is to be written, and the buffer for it.
    pid_variable: Option<(usize, Box<[u8]>)>,
}

impl Environment {
    /// Our own environment as it is in memory.
    pub fn inherited() -> Self {
        unsafe extern "C" {
            static environ: *const *const c_char;
        }
        let mut entries = Vec::new();
        // SAFETY: environ is the process's null-terminated array; nothing in this program changes the environment.
        unsafe {
            let mut next = environ;
            while !next.is_null() && !(*next).is_null() {
                entries.push(*next);
                next = next.add(1);
            }
        }
        Self { entries, pid_variable: None }
    }

    /// The same, where the first variable `name` will hold the pid of the child that becomes the program.
    #[must_use]
    pub fn with_child_pid_in(mut self, name: &str) -> Self {
        let prefix = format!("{name}=");
        let starts = |&entry: &*const c_char| {
            // SAFETY: each entry is a NUL-terminated string of the environment, which nobody changes.
            unsafe { CStr::from_ptr(entry) }.to_bytes().starts_with(prefix.as_bytes())
        };
        if let Some(index) = self.entries.iter().position(starts) {
            let mut buffer = prefix.into_bytes();
            buffer.resize(buffer.len() + PID_DIGITS + 1, 0);
            self.pid_variable = Some((index, buffer.into_boxed_slice()));
        }
        self
    }

    /// The array for execve, null-terminated. Async-signal-safe but for `into`, which has room already.
    fn fill(&mut self, pid: Pid, into: &mut Vec<*const c_char>) {
        into.clear();
        into.extend_from_slice(&self.entries);
        if let Some((index, buffer)) = &mut self.pid_variable {
            write_digits(buffer, pid.as_raw());
            if let Some(entry) = into.get_mut(*index) {
                *entry = buffer.as_ptr().cast();
            }
        }
        into.push(std::ptr::null());
    }
}

const PID_DIGITS: usize = 10;

/// Puts the decimal digits of `pid` and a NUL at the end of `buffer`'s reserve.
fn write_digits(buffer: &mut [u8], pid: i32) {
    let mut rest = pid.unsigned_abs();
    let count = rest.checked_ilog10().unwrap_or(0) as usize + 1;
    let Some(start) = buffer.len().checked_sub(PID_DIGITS + 1) else { return };
    for slot in buffer.iter_mut().skip(start).take(count).rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// What a child tells the monitor when it could not become the program: the errno.
#[derive(Debug)]
pub struct ExecFailure(OwnedFd);

impl ExecFailure {
    /// To be asked once the child is gone; `None` when the program was started.
    pub fn error(&self) -> Option<io::Error> {
        let mut errno = [0; 4];
        match nix::unistd::read(&self.0, &mut errno) {
            Ok(4) => Some(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            _ => None,
        }
    }
}

/// Forks a child that runs `prepare` and then becomes `program`; if it can't, it exits with 127.
///
/// `prepare` runs in the child of a process that may hold locks and half-written buffers: it may only make
/// async-signal-safe calls, allocate nothing, and tells by an `Err` the status to exit with at once.
///
/// # Errors
/// As pipe2(2) and fork(2).
pub fn spawn(
    mut program: Program,
    prepare: impl FnOnce() -> Result<(), i32>,
) -> io::Result<(Pid, ExecFailure)> {
    let (failure, tell) = super::fd::pipe()?;
    super::fd::set_nonblocking(&failure)?;
    let argv: Vec<_> = program.argv.iter().map(|a| a.as_ptr()).chain([std::ptr::null()]).collect();
    let mut envp = Vec::with_capacity(program.env.entries.len() + 1);
    match fork()? {
        Side::Parent { child } => Ok((child, ExecFailure(failure))),
        Side::Child => {
            if let Err(status) = prepare() {
                leave(status);
            }
            program.env.fill(nix::unistd::getpid(), &mut envp);
            // SAFETY: path, argv and envp are null-terminated and outlive the call, which returns only on failure.
            unsafe { libc::execve(program.path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
            let _ = nix::unistd::write(&tell, &Errno::last_raw().to_ne_bytes());
            leave(127)
        }
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

    #[test]
    fn pid_digits_end_in_nul() {
        for pid in [1, 10, 4_194_304, i32::MAX] {
            let mut buffer = [b"LISTEN_PID=".as_slice(), &[0; PID_DIGITS + 1]].concat();
            write_digits(&mut buffer, pid);
            let text = CStr::from_bytes_until_nul(&buffer).unwrap();
            assert_eq!(text.to_str().unwrap(), format!("LISTEN_PID={pid}"));
        }
    }
}
