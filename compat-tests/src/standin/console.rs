//! The terminal of a container, made as runc does it.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// Opens a terminal and sends its leader to `socket`; the follower.
pub(super) fn open(socket: Option<&Path>) -> RawFd {
    let (Some(socket), Ok(pty)) = (socket, nix::pty::openpty(None, None)) else { super::quit(super::BROKEN) };
    let Ok(stream) = UnixStream::connect(socket) else { super::quit(super::BROKEN) };
    let leader = [pty.master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&leader)];
    let name = [IoSlice::new(b"/dev/ptmx")];
    super::check(
        sendmsg::<()>(stream.as_raw_fd(), &name, &rights, MsgFlags::empty(), None).map_err(Into::into),
    );
    pty.slave.into_raw_fd()
}

/// Makes `terminal` the controlling terminal and stdio of this session leader.
pub(super) fn become_terminal(terminal: RawFd) {
    // SAFETY: plain system calls on descriptors of this single-threaded process.
    unsafe {
        libc::ioctl(terminal, libc::TIOCSCTTY, 0);
        for fd in 0..3 {
            libc::dup2(terminal, fd);
        }
        if terminal > 2 {
            libc::close(terminal);
        }
    }
}

/// `ROWS COLUMNS` of the terminal on stdin.
pub(super) fn size() -> String {
    // SAFETY: the kernel fills the winsize, for which zeros are valid.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        libc::ioctl(0, libc::TIOCGWINSZ, &raw mut size);
        size
    };
    format!("{} {}", size.ws_row, size.ws_col)
}

/// Stops the terminal on stdin from changing or echoing bytes.
pub(super) fn make_raw() {
    let stdin = std::io::stdin();
    if let Ok(mut attributes) = tcgetattr(&stdin) {
        cfmakeraw(&mut attributes);
        let _ = tcsetattr(&stdin, SetArg::TCSANOW, &attributes);
    }
}
