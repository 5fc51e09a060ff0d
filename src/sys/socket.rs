//! Sockets: batches of attach packets in one system call, how much a peer has yet to take, and descriptors that
//! come as messages. Nothing here ever blocks or raises SIGPIPE.

use std::array;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::sys::socket::{SockFlag, accept4};

/// The longest path that an address of a unix socket holds, and that others can dial.
pub const ADDRESS_MAX: usize = 107;

/// Packets a single sendmmsg(2) carries; 8 of 8192 bytes are what a default pipe holds.
const BATCH: usize = 8;

nix::ioctl_read_bad!(siocoutq, libc::TIOCOUTQ, libc::c_int);

/// What became of [`send_packets`].
#[derive(Debug)]
pub struct Sent {
    /// Payload bytes that are on their way, always whole packets.
    pub bytes: usize,
    /// `None` when everything was sent.
    pub stopped: Option<Stopped>,
}

/// Why not everything was sent.
#[derive(Debug)]
pub enum Stopped {
    /// The peer can't take more at the moment.
    Full,
    Failed(io::Error),
}

/// Sends `payload` as packets of one `header` byte and at most `packet_size` bytes each, as far as the peer takes them.
///
/// `packet_size` must not be 0.
pub fn send_packets(socket: BorrowedFd<'_>, header: u8, payload: &[u8], packet_size: usize) -> Sent {
    let mut bytes = 0;
    loop {
        let Some(rest) = payload.get(bytes..).filter(|rest| !rest.is_empty()) else {
            return Sent { bytes, stopped: None };
        };
        let mut chunks: [&[u8]; BATCH] = [&[]; BATCH];
        let mut count = 0;
        for (slot, chunk) in chunks.iter_mut().zip(rest.chunks(packet_size)) {
            *slot = chunk;
            count += 1;
        }
        match send_batch(socket, header, &chunks, count) {
            Ok(sent) => bytes += chunks.iter().take(sent).map(|chunk| chunk.len()).sum::<usize>(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Sent { bytes, stopped: Some(Stopped::Full) };
            }
            Err(error) => return Sent { bytes, stopped: Some(Stopped::Failed(error)) },
        }
    }
}

/// Sends the first `count` of `chunks`, each behind the header byte; returns how many went.
fn send_batch(
    socket: BorrowedFd<'_>,
    header: u8,
    chunks: &[&[u8]; BATCH],
    count: usize,
) -> io::Result<usize> {
    let mut parts: [[libc::iovec; 2]; BATCH] = array::from_fn(|i| {
        let chunk = chunks.get(i).copied().unwrap_or_default();
        [
            libc::iovec { iov_base: ptr::from_ref(&header).cast_mut().cast(), iov_len: 1 },
            libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() },
        ]
    });
    let mut headers: [libc::mmsghdr; BATCH] = array::from_fn(|_| {
        // SAFETY: mmsghdr is a C struct of integers and pointers, for which all zeros is a valid value.
        unsafe { std::mem::zeroed() }
    });
    for (message, parts) in headers.iter_mut().zip(parts.iter_mut()) {
        message.msg_hdr.msg_iov = parts.as_mut_ptr();
        message.msg_hdr.msg_iovlen = 2;
    }
    let headers = headers.get_mut(..count).unwrap_or_default();
    // SAFETY: each header points at one of `parts`, those at `header` and `chunks`, and all live to the end of this
    // function.
    unsafe { send_messages(socket, headers) }
}

/// Sends `messages` in one call without waiting; returns how many went.
///
/// # Errors
/// As sendmmsg(2), when the first one could not be sent.
///
/// # Safety
/// What the messages point at is alive and may be read.
pub(super) unsafe fn send_messages(
    socket: BorrowedFd<'_>,
    messages: &mut [libc::mmsghdr],
) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // Not through the C library: musl's function makes a call for each message.
    // SAFETY: sendmmsg(2) reads the given number of headers and what they point at, which the caller vouches for, and
    // writes only msg_len in them, which are exclusively ours.
    let sent = unsafe {
        libc::syscall(libc::SYS_sendmmsg, socket.as_raw_fd(), messages.as_mut_ptr(), messages.len(), flags)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// How much memory the peer of a unix socket has yet to free by reading: falls whenever it takes a packet.
///
/// # Errors
/// As ioctl(2) with SIOCOUTQ.
pub fn unread_by_peer(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ stores one int through the pointer, which is valid and exclusive for the call.
    unsafe { siocoutq(socket.as_raw_fd(), &raw mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Takes one waiting connection of `listener`: close-on-exec and non-blocking.
///
/// # Errors
/// As accept4(2); `WouldBlock` when nobody waits.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: accept4(2) has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The descriptors of one message.
#[derive(Debug)]
pub struct Received {
    /// Close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// The message carried descriptors that could not be taken; the kernel has dropped those.
    pub truncated: bool,
}

/// Room for a dozen descriptors, aligned for the header of the control message.
#[repr(C)]
union ControlBuffer {
    bytes: [u8; 64],
    _align: libc::cmsghdr,
}

/// Receives one message into `payload`, with at most a few descriptors, without blocking.
///
/// # Errors
/// As recvmsg(2).
pub fn recv_fds(socket: BorrowedFd<'_>, payload: &mut [u8]) -> io::Result<Received> {
    let mut control = ControlBuffer { bytes: [0; 64] };
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: msghdr is a C struct of integers and pointers, for which all zeros is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<ControlBuffer>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: recvmsg(2) writes at most the stated lengths into `payload` and `control`, both exclusively ours.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    if received == -1 {
        return Err(io::Error::last_os_error());
    }
    // nix is no help here: it won't parse a message that was cut, and the descriptors in it would leak.
    // SAFETY: recvmsg(2) succeeded, so msg_control holds msg_controllen bytes of well-formed control messages.
    let fds = unsafe { take_fds(&message) };
    Ok(Received { fds, truncated: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

/// The descriptors that came with `message`.
///
/// # Safety
/// `message` is as a successful recvmsg(2) left it, its control buffer is alive, and this is called once for it.
unsafe fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the caller vouches for the control buffer, which CMSG_FIRSTHDR and CMSG_NXTHDR never leave.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it points at a header inside the control buffer, which is aligned for it.
        let (level, kind, len) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len) };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: CMSG_LEN only computes; CMSG_DATA of a header that is not null points right behind it.
            let (base, data) = unsafe { (libc::CMSG_LEN(0) as usize, libc::CMSG_DATA(header)) };
            // The C libraries have different types for it.
            #[allow(clippy::unnecessary_cast)]
            let len = len as usize;
            for index in 0..len.saturating_sub(base) / size_of::<libc::c_int>() {
                // SAFETY: inside cmsg_len; the data need not be aligned, and each descriptor was installed for us
                // alone by recvmsg(2) and is taken once.
                fds.push(unsafe {
                    OwnedFd::from_raw_fd(data.cast::<libc::c_int>().add(index).read_unaligned())
                });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    fds
}
