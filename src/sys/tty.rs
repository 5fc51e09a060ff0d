//! Terminals: the window size, whose ioctls nix does not wrap.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

nix::ioctl_write_ptr_bad!(tiocswinsz, libc::TIOCSWINSZ, libc::winsize);
#[cfg(test)]
nix::ioctl_read_bad!(tiocgwinsz, libc::TIOCGWINSZ, libc::winsize);

/// Sets the window size of the pty that `leader` is an end of, in characters; its pixels are unknown, which is 0.
///
/// # Errors
/// As ioctl(2): `leader` is no terminal.
pub fn set_window_size(leader: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize through the pointer, which is valid for the call.
    unsafe { tiocswinsz(leader.as_raw_fd(), &raw const size) }?;
    Ok(())
}

/// The window size as rows, columns, and width and height in pixels.
///
/// # Errors
/// As ioctl(2): `terminal` is none.
#[cfg(test)]
pub(crate) fn window_size(terminal: BorrowedFd<'_>) -> io::Result<[u16; 4]> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ stores one winsize through the pointer, which is valid and exclusive for the call.
    unsafe { tiocgwinsz(terminal.as_raw_fd(), &raw mut size) }?;
    Ok([size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel])
}
