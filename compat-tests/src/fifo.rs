//! The ctl and winsz fifos, from the driver's side.

use std::path::Path;

use nix::errno::Errno;

use crate::deadline;

/// Writes to a fifo that somebody reads.
///
/// # Panics
/// When there is no fifo or no reader.
pub fn write_fifo(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut fifo = deadline::until(&format!("a reader of {}", path.display()), || {
        std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
    });
    let mut rest = bytes;
    while !rest.is_empty() {
        assert!(deadline::writable(&fifo, deadline::limit()), "{} stays full", path.display());
        match fifo.write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if Errno::from_raw(error.raw_os_error().unwrap_or(0)) == Errno::EAGAIN => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

/// How many bytes written to a fifo nobody has read yet.
///
/// # Panics
/// When there is no fifo.
#[must_use]
pub fn unread_in_fifo(path: &Path) -> usize {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let fifo = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).expect("fifo");
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel stores one int through the pointer, which leads to a local.
    let result = unsafe { libc::ioctl(fifo.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    assert_eq!(result, 0, "FIONREAD on {}", path.display());
    usize::try_from(count).unwrap_or(0)
}
