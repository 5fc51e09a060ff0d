//! Descriptors: the few operations that nix does not wrap the way we need them.

use std::io;
use std::os::fd::BorrowedFd;

/// Writes to whatever descriptor 2 is, without the standard library's lock. A short write is not continued.
///
/// # Errors
/// As write(2).
pub fn write_stderr(bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the program keeps 0, 1 and 2 open for its whole life (std opens /dev/null over a closed one at start).
    let stderr = unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) };
    Ok(nix::unistd::write(stderr, bytes)?)
}
