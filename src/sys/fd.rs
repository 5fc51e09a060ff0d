//! Descriptors: the few operations that nix does not wrap the way we need them.

use std::ffi::CStr;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::stat::Mode;

nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);

/// Writes to whatever descriptor 2 is, without the standard library's lock. A short write is not continued.
///
/// # Errors
/// As write(2).
pub fn write_stderr(bytes: &[u8]) -> io::Result<usize> {
    Ok(nix::unistd::write(standard(libc::STDERR_FILENO), bytes)?)
}

/// /dev/null, close-on-exec.
///
/// # Errors
/// As open(2).
pub fn open_null() -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Points 0, 1 and 2 at `null`: the driver waits for the end of its pipes. Each is tried whatever became of the others.
///
/// # Errors
/// As dup2(2), which has none to give for descriptors that are open.
pub fn release_stdio(null: &OwnedFd) -> io::Result<()> {
    let stdin = uninterrupted(|| nix::unistd::dup2_stdin(null));
    let stdout = uninterrupted(|| nix::unistd::dup2_stdout(null));
    let stderr = uninterrupted(|| nix::unistd::dup2_stderr(null));
    Ok(stdin.and(stdout).and(stderr)?)
}

fn uninterrupted(call: impl Fn() -> nix::Result<()>) -> nix::Result<()> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// Opens /dev/null over each of 0, 1 and 2 that is closed. To be called first of all.
pub fn hold_standard() {
    for fd in 0..=libc::STDERR_FILENO {
        if !is_open(fd) {
            // The lowest number that is free is this one. Without /dev/null there is nothing better to do.
            let _ = nix::fcntl::open("/dev/null", OFlag::O_RDWR, Mode::empty()).map(IntoRawFd::into_raw_fd);
        }
    }
}

fn standard(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the program keeps 0, 1 and 2 open for its whole life (`hold_standard` has opened the closed ones).
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// How far descriptors are looked for where they can't be listed.
const PROBED: RawFd = 1024;

/// Takes every descriptor from 3 up that the program was started with. To be called first thing and once, before
/// anything else opens or owns a descriptor. conmon: `close_fds.c:init`, which knows of none without /proc and closes
/// none then, but uses the driver's pipes all the same.
pub fn take_inherited() -> Vec<OwnedFd> {
    let listed = listed().unwrap_or_else(|_| (3..PROBED).collect());
    // A listing is closed by now; what is still open was there before it.
    let numbers = listed.into_iter().filter(|&fd| fd >= 3 && is_open(fd));
    // SAFETY: the numbers were open a moment ago, and at this point of the program nobody owns any of them.
    numbers.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// The numbers in the directory of our own descriptors, that of the directory itself included.
///
/// Read without the C library, whose functions for it would set up its heap for this alone.
fn listed() -> io::Result<Vec<RawFd>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = nix::fcntl::open("/proc/self/fd", flags, Mode::empty())?;
    let mut numbers = Vec::new();
    let mut buffer = [0_u8; 1024];
    loop {
        // SAFETY: getdents64 writes at most the given number of bytes into `buffer`, which is exclusively ours.
        let filled = unsafe {
            libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
        };
        let filled = usize::try_from(filled).map_err(|_| io::Error::last_os_error())?;
        if filled == 0 {
            return Ok(numbers);
        }
        numbers.extend(entries(buffer.get(..filled).unwrap_or_default()).filter_map(number));
    }
}

/// Where an entry of getdents64(2) has its length, and its name.
const LENGTH_AT: usize = 16;
const NAME_AT: usize = 19;

/// The names of the entries in `bytes`, each with its NUL and what fills the entry up.
fn entries(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = bytes.get(LENGTH_AT..)?.first_chunk().map(|length| u16::from_ne_bytes(*length))?;
        let (entry, rest) = bytes.split_at_checked(length.into())?;
        bytes = rest;
        entry.get(NAME_AT..)
    })
}

fn number(name: &[u8]) -> Option<RawFd> {
    std::str::from_utf8(CStr::from_bytes_until_nul(name).ok()?.to_bytes()).ok()?.parse().ok()
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD touches no memory, and a number that is not open is an error return.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// A close-on-exec duplicate (numbered 3 or higher) of one of the standard descriptors.
///
/// # Errors
/// As fcntl(2).
pub fn duplicate_standard(fd: RawFd) -> io::Result<OwnedFd> {
    let copy = fcntl(standard(fd), FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: fcntl returned a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// # Errors
/// As fcntl(2).
pub fn set_cloexec(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// # Errors
/// As fcntl(2).
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A pipe whose both ends are close-on-exec: (read end, write end).
///
/// # Errors
/// As pipe2(2).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// How many bytes can be read from `fd` right now; 0 where the kernel does not say.
pub fn readable_bytes(fd: &OwnedFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which `count` is, and `fd` is open.
    let known = unsafe { fionread(fd.as_raw_fd(), &raw mut count) };
    known.ok().and_then(|_| usize::try_from(count).ok()).unwrap_or(0)
}

/// Runs `use_it` with a descriptor whose owner is elsewhere, known by number only.
/// For the panic hook: it must not own what it writes to.
pub fn with_number<T>(fd: RawFd, use_it: impl FnOnce(&OwnedFd) -> T) -> T {
    // SAFETY: ManuallyDrop never closes it; a stale number makes the callee's system call fail, nothing worse.
    let borrowed = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) });
    use_it(&borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_open_descriptors_are_listed() {
        let files: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let found = listed().unwrap();
        let missing = files.iter().find(|file| !found.contains(&file.as_raw_fd()));
        assert!(missing.is_none(), "{missing:?} of {found:?}");
    }
}
