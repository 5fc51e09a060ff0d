//! Many datagrams in one system call, and one that is too large for the socket in a sealed memory file.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::socket::send_messages;

/// Datagrams a call of [`send_many`] takes at most.
pub const SEND_MAX: usize = 64;

/// Sends `bytes[range]` for the first [`SEND_MAX`] of `ranges`, each as one datagram, without waiting; returns how many
/// were sent. `socket` is connected. A range outside of `bytes` is an empty datagram.
///
/// # Errors
/// As send(2), when the first one could not be sent.
pub fn send_many(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    ranges: impl Iterator<Item = Range<usize>>,
) -> io::Result<usize> {
    let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; SEND_MAX];
    // SAFETY: an all-zero mmsghdr is a valid value: null pointers with lengths of zero.
    let mut messages: [libc::mmsghdr; SEND_MAX] = unsafe { std::mem::zeroed() };
    let mut count = 0;
    for ((range, part), message) in ranges.zip(&mut parts).zip(&mut messages) {
        let datagram = bytes.get(range).unwrap_or_default();
        part.iov_base = datagram.as_ptr().cast_mut().cast();
        part.iov_len = datagram.len();
        message.msg_hdr.msg_iov = ptr::from_mut(part);
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    let messages = messages.get_mut(..count).unwrap_or_default();
    // SAFETY: each message points to one iovec in `parts`, and that to bytes that `bytes` keeps alive.
    unsafe { send_messages(socket, messages) }
}

/// Sends `bytes` as a file that nobody can change any more: what journald takes for entries of any size.
///
/// # Errors
/// As memfd_create(2), write(2) and sendmsg(2).
pub fn send_sealed(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        File::from(memfd_create("journal-entry", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(bytes)?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    let rights = [file.as_raw_fd()];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&[])],
        &[ControlMessage::ScmRights(&rights)],
        flags,
        None,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn datagrams_arrive_apart_and_in_order() {
        let (near, far) = UnixDatagram::pair().unwrap();
        let ranges = [0..1, 1..1, 1..4, 9..12];
        assert_eq!(send_many(near.as_fd(), b"abcd", ranges.into_iter()).unwrap(), 4);
        let mut buffer = [0; 9];
        for want in ["a", "", "bcd", ""] {
            let count = far.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], want.as_bytes());
        }
    }

    #[test]
    fn a_full_socket_takes_a_part_or_says_so() {
        let (near, far) = UnixDatagram::pair().unwrap();
        let mut total = 0;
        let error = loop {
            match send_many(near.as_fd(), b"x", (0..200).map(|_| 0..1)) {
                Ok(count) => total += count,
                Err(error) => break error,
            }
            assert!(total < 100_000);
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        far.set_nonblocking(true).unwrap();
        assert_eq!((0..).take_while(|_| far.recv(&mut [0; 2]).is_ok()).count(), total);
    }
}
