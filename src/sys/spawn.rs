//! Children that become another program.
//!
//! A child usually shares our memory until its execve(2), and we stand still for so long: nothing is copied, which is
//! what a fork costs, and no page of ours has to be copied later because the child could still see it.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::ptr;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::process::{Side, fork, leave};

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

/// What a child has of our memory until it becomes the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// All of it, while we stand still.
    Shared,
    /// A copy: for a child that first waits for something that we have to do.
    Copied,
}

/// Starts a child that runs `prepare` and then becomes `program`; if it can't, it exits with 127.
///
/// `prepare` runs in the child, on a small stack: it may only make async-signal-safe calls, allocate nothing, and tells
/// by an `Err` the status to exit with at once.
///
/// # Errors
/// As pipe2(2) and clone(2).
pub fn spawn(
    mut program: Program,
    memory: Memory,
    prepare: impl FnOnce() -> Result<(), i32>,
) -> io::Result<(Pid, ExecFailure)> {
    let (failure, tell) = super::fd::pipe()?;
    super::fd::set_nonblocking(&failure)?;
    let argv = program.argv.iter().map(|a| a.as_ptr()).chain([ptr::null()]).collect();
    let envp = Vec::with_capacity(program.env.entries.len() + 1);
    let path = std::mem::take(&mut program.path);
    let mut child = Child { path, argv, env: &mut program.env, envp, tell, prepare: Some(prepare) };
    let pid = match memory {
        Memory::Shared => child.start_sharing()?,
        Memory::Copied => match fork()? {
            Side::Parent { child } => child,
            Side::Child => child.become_program(),
        },
    };
    Ok((pid, ExecFailure(failure)))
}

/// Enough for the calls of `prepare`, of which none is deep.
#[repr(C, align(16))]
struct Stack([u8; 16 * 1024]);

/// All that a child needs, allocated before it is there.
struct Child<'a, F> {
    path: CString,
    argv: Vec<*const c_char>,
    env: &'a mut Environment,
    envp: Vec<*const c_char>,
    tell: OwnedFd,
    /// Taken when it runs.
    prepare: Option<F>,
}

impl<F: FnOnce() -> Result<(), i32>> Child<'_, F> {
    /// Returns when the child has become the program, or is gone.
    fn start_sharing(&mut self) -> io::Result<Pid> {
        extern "C" fn enter<F: FnOnce() -> Result<(), i32>>(child: *mut c_void) -> c_int {
            // SAFETY: `start_sharing` passes its `self`, which nobody else uses: our process stands still.
            unsafe { &mut *child.cast::<Child<'_, F>>() }.become_program()
        }
        // On our own stack, so that it can't be refused: an exit command has to run on a machine without memory, too.
        let mut stack = MaybeUninit::<Stack>::uninit();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let this = ptr::from_mut(self).cast();
        // SAFETY: the child runs `enter` on `stack`, which grows down from its aligned end and lives until the call
        // returns: because of CLONE_VFORK that is when the child no longer uses our memory. Signals are blocked or have
        // handlers that only _exit, and `become_program` never returns.
        let pid = unsafe { libc::clone(enter::<F>, stack.as_mut_ptr().add(1).cast(), flags, this) };
        Ok(Pid::from_raw(Errno::result(pid)?))
    }

    /// Runs in the child.
    fn become_program(&mut self) -> ! {
        if let Some(prepare) = self.prepare.take()
            && let Err(status) = prepare()
        {
            leave(status);
        }
        self.env.fill(nix::unistd::getpid(), &mut self.envp);
        // SAFETY: path, argv and envp are null-terminated and outlive the call, which returns only on failure.
        unsafe { libc::execve(self.path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        let _ = nix::unistd::write(&self.tell, &Errno::last_raw().to_ne_bytes());
        leave(127)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};

    fn program(words: &[&str]) -> Program {
        let c_string = |word: &&str| CString::new(*word).unwrap();
        Program::new(c_string(&words[0]), words.iter().map(c_string).collect(), Environment::inherited())
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

    #[test]
    fn a_child_becomes_the_program_with_either_memory() {
        for memory in [Memory::Shared, Memory::Copied] {
            let (reader, writer) = crate::sys::fd::pipe().unwrap();
            let prepare = || nix::unistd::dup2_stdout(&writer).map_err(|_| 1);
            let (pid, failure) =
                spawn(program(&["/bin/sh", "-c", "echo $$; exit 5"]), memory, prepare).unwrap();
            drop(writer);
            let mut told = String::new();
            std::io::Read::read_to_string(&mut std::fs::File::from(reader), &mut told).unwrap();
            assert_eq!(told, format!("{pid}\n"));
            assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 5)), "{memory:?}");
            assert!(failure.error().is_none());
        }
    }

    #[test]
    fn a_child_that_cannot_says_why() {
        for memory in [Memory::Shared, Memory::Copied] {
            let (pid, failure) = spawn(program(&["/nowhere/at/all"]), memory, || Ok(())).unwrap();
            assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 127)));
            assert_eq!(failure.error().unwrap().raw_os_error(), Some(libc::ENOENT), "{memory:?}");
            let (pid, failure) = spawn(program(&["/bin/true"]), memory, || Err(9)).unwrap();
            assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 9)));
            assert!(failure.error().is_none());
        }
    }
}
