//! A client of the attach socket, as podman and CRI-O are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, send, shutdown, socket,
};
use nix::sys::stat::Mode;

use crate::deadline::{self, limit};

#[derive(Debug)]
pub struct AttachClient {
    socket: OwnedFd,
    /// Packets of the other stream that [`Self::read_until`] has come across: which stream is passed on first is chance.
    kept: RefCell<VecDeque<(u8, Vec<u8>)>>,
}

impl AttachClient {
    /// Connects to the socket file at `path`, however long that is, once it is there.
    #[must_use]
    pub fn connect(path: &Path) -> Self {
        deadline::until(&format!("attach socket {}", path.display()), || Self::try_connect(path))
    }

    /// Connects unless the socket is missing or nobody listens.
    #[must_use]
    pub fn try_connect(path: &Path) -> Option<Self> {
        let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).ok()?;
        let address = UnixAddr::new(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str()).ok()?;
        connect(socket.as_raw_fd(), &address).ok()?;
        Some(Self { socket, kept: RefCell::default() })
    }

    /// Sends `bytes` as one packet.
    pub fn send(&self, bytes: &[u8]) {
        let sent =
            send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).expect("send to attach socket");
        assert_eq!(sent, bytes.len());
    }

    /// Sends `bytes` as one packet if the monitor is there and takes it at once.
    #[must_use]
    pub fn try_send(&self, bytes: &[u8]) -> bool {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT).is_ok()
    }

    /// The next packet: stream number and payload; `None` when the monitor has hung up.
    #[must_use]
    pub fn packet(&self) -> Option<(u8, Vec<u8>)> {
        let kept = self.kept.borrow_mut().pop_front();
        kept.or_else(|| self.next_packet())
    }

    fn next_packet(&self) -> Option<(u8, Vec<u8>)> {
        assert!(deadline::readable(self.socket.as_fd(), limit()), "gave up waiting for an attach packet");
        let mut buffer = vec![0; 64 * 1024];
        let count = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap_or(0);
        buffer.truncate(count);
        let (stream, payload) = buffer.split_first()?;
        Some((*stream, payload.to_vec()))
    }

    /// Whether a packet or the end has arrived.
    #[must_use]
    pub fn has_news(&self) -> bool {
        deadline::readable(self.socket.as_fd(), std::time::Duration::ZERO)
    }

    /// Reads packets until the payload of `stream` contains `needle`; everything of that stream so far. What comes of the
    /// other stream meanwhile is kept.
    #[must_use]
    pub fn read_until(&self, stream: u8, needle: &str) -> String {
        let (own, mut others): (VecDeque<_>, VecDeque<_>) =
            self.kept.take().into_iter().partition(|(from, _)| *from == stream);
        let mut seen: Vec<u8> = own.into_iter().flat_map(|(_, payload)| payload).collect();
        while !String::from_utf8_lossy(&seen).contains(needle) {
            match self.next_packet() {
                Some((from, payload)) if from == stream => seen.extend_from_slice(&payload),
                Some(other) => others.push_back(other),
                None => panic!("attach ended without {needle:?}, only {:?}", String::from_utf8_lossy(&seen)),
            }
        }
        self.kept.replace(others);
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Everything up to the end, per stream: (stdout, stderr).
    #[must_use]
    pub fn read_to_end(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some((stream, payload)) = self.packet() {
            match stream {
                2 => stdout.extend_from_slice(&payload),
                3 => stderr.extend_from_slice(&payload),
                _ => panic!("stream number {stream}"),
            }
        }
        (stdout, stderr)
    }

    /// No more input from this client; output goes on.
    pub fn half_close(&self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
    }
}

impl AsFd for AttachClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
