//! One attach client: a socket that takes output and gives input, either of which may end before the other.
//!
//! Output goes straight into the socket while the client keeps up and is queued from the first packet that does not
//! fit. Writable readiness is asked for only while something is queued, so a client that is idle or stuck costs no
//! wake-ups. conmon: `conn_sock.c`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};

use super::queue::Queue;
use crate::diag::warn;
use crate::error::strerror;
use crate::log::Stream;
use crate::sys::socket::{Stopped, send_packets, unread_by_peer};

/// Payload bytes of a packet; podman's and CRI-O's readers cut anything longer.
const PACKET_MAX: usize = 8192;

/// How often within the time limit a stuck client is looked at.
const CHECKS: u32 = 4;

/// Packets thrown away of a client that never stops sending while it is being closed.
const DRAIN_MAX: usize = 1024;

/// Empty ones among them.
const EMPTY_MAX: usize = 4;

/// What one read from a client gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// So many bytes are in the buffer.
    Packet(usize),
    /// Nothing for now.
    Empty,
    /// The client half-closed, closed or sent an empty packet, which conmon can't tell apart either.
    End,
}

#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    token: Token,
    output: Side,
    input: Side,
    queue: Queue,
    /// When the client was last seen taking something, of importance only while something is queued.
    progress: Instant,
    /// What it had not taken when it was last looked at.
    unread: usize,
    next_check: Instant,
    /// Whether the attach socket's list of clients to read from has this one.
    pub(super) in_read_list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Open,
    Ended,
}

impl Client {
    /// # Errors
    /// The socket can't be watched.
    pub(super) fn new(socket: OwnedFd, token: Token, registry: &Registry, now: Instant) -> io::Result<Self> {
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self {
            socket,
            token,
            output: Side::Open,
            input: Side::Open,
            queue: Queue::default(),
            progress: now,
            unread: 0,
            next_check: now,
            in_read_list: false,
        })
    }

    /// Nothing can come from it or go to it any more.
    pub(super) fn is_done(&self) -> bool {
        self.output == Side::Ended && self.input == Side::Ended
    }

    /// It is gone, or at least reads no more, and its input is not read yet.
    pub(super) fn has_departed(&self) -> bool {
        self.output == Side::Ended && self.input == Side::Open
    }

    pub(super) fn takes_input(&self) -> bool {
        self.input == Side::Open
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Bytes queued of `stream`.
    pub(super) fn held(&self, stream: Stream) -> usize {
        self.queue.held(stream)
    }

    /// Sends `bytes`, or queues what the client can't take now.
    pub(super) fn send(&mut self, stream: Stream, bytes: &[u8], registry: &Registry, stall: Stall) {
        if self.output == Side::Ended {
            return;
        }
        if self.has_queued() {
            return self.queue.push(stream, bytes);
        }
        let sent = send_packets(self.socket.as_fd(), stream_id(stream), bytes, PACKET_MAX);
        match sent.stopped {
            None => {}
            Some(Stopped::Full) => {
                self.queue.push(stream, bytes.get(sent.bytes..).unwrap_or_default());
                self.note_progress(stall);
                if let Err(error) = self.watch(registry, Interest::READABLE | Interest::WRITABLE) {
                    self.on_send_failed(&error, registry);
                }
            }
            Some(Stopped::Failed(error)) => self.on_send_failed(&error, registry),
        }
    }

    /// The client may take more of what is queued.
    pub(super) fn flush(&mut self, registry: &Registry, stall: Stall) {
        if !self.has_queued() {
            return;
        }
        while let Some((stream, run)) = self.queue.front() {
            let sent = send_packets(self.socket.as_fd(), stream_id(stream), run, PACKET_MAX);
            if sent.bytes > 0 {
                self.queue.advance(sent.bytes);
                self.note_progress(stall);
            }
            match sent.stopped {
                None => {}
                Some(Stopped::Full) => return,
                Some(Stopped::Failed(error)) => return self.on_send_failed(&error, registry),
            }
        }
        self.watch_input_only(registry);
    }

    fn on_send_failed(&mut self, error: &io::Error, registry: &Registry) {
        // A client that has gone is no news.
        if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            warn!("Failed to write to remote console socket: {}", strerror(error));
        }
        self.end_output(registry);
    }

    /// The client is gone or reads no more. What it has sent can still be read.
    pub(super) fn end_output(&mut self, registry: &Registry) {
        if self.output == Side::Ended {
            return;
        }
        if self.has_queued() {
            self.queue.clear();
            self.watch_input_only(registry);
        }
        self.output = Side::Ended;
        // Fails only when the client is gone, and then there is nobody to tell.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
    }

    /// Reads one packet into `buffer`; what is longer than that is cut, as by conmon.
    pub(super) fn receive(&mut self, buffer: &mut [u8], registry: &Registry) -> Input {
        if self.input == Side::Ended {
            return Input::Empty;
        }
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return self.end_input(),
                Ok(len) => return Input::Packet(len),
                Err(Errno::EAGAIN) => return Input::Empty,
                Err(Errno::EINTR) => {}
                // Reported once, before what the client had sent until it closed with output unread.
                Err(Errno::ECONNRESET) => self.end_output(registry),
                Err(error) => {
                    warn!("Failed to read from remote console socket: {}", error.desc());
                    return self.end_input();
                }
            }
        }
    }

    fn end_input(&mut self) -> Input {
        self.input = Side::Ended;
        // conmon: after an empty packet the client's further writes fail.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Read);
        Input::End
    }

    /// When to call [`Self::is_stuck`] next; `None` while nothing is queued or no time limit is set.
    pub(super) fn deadline(&self, limit: Option<Duration>) -> Option<Instant> {
        let limit = limit.filter(|_| self.has_queued())?;
        Some(self.next_check.min(self.progress + limit))
    }

    /// Whether the client has taken nothing for the time limit.
    pub(super) fn is_stuck(&mut self, stall: Stall) -> bool {
        let Some(limit) = stall.limit.filter(|_| self.has_queued()) else { return false };
        // The kernel reports room only when three quarters of the socket are free; a slow client deserves better.
        let unread = unread_by_peer(self.socket.as_fd()).unwrap_or(self.unread);
        if unread < self.unread {
            self.note_progress(stall);
        }
        self.next_check = stall.now + limit / CHECKS;
        stall.now >= self.progress + limit
    }

    /// The client has the whole time limit again, because it took something or because the limit is new.
    pub(super) fn note_progress(&mut self, stall: Stall) {
        let Some(limit) = stall.limit else { return };
        self.progress = stall.now;
        self.unread = unread_by_peer(self.socket.as_fd()).unwrap_or(0);
        self.next_check = stall.now + limit / CHECKS;
    }

    fn watch_input_only(&self, registry: &Registry) {
        // If it fails there is an event more than needed when the client takes something.
        let _ = self.watch(registry, Interest::READABLE);
    }

    fn watch(&self, registry: &Registry, interest: Interest) -> io::Result<()> {
        registry.reregister(&mut SourceFd(&self.socket.as_raw_fd()), self.token, interest)
    }

    /// Lets the client go: it sees the end of output behind all that was sent.
    pub(super) fn close(self, registry: &Registry) {
        let _ = registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()));
        // The kernel turns unread input into a reset of the client, which overtakes the output that it has not read.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Read);
        let mut empty = 0;
        for _ in 0..DRAIN_MAX {
            match recv(self.socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
                Ok(1..) | Err(Errno::EINTR) => {}
                // An empty packet looks like the end.
                Ok(0) if empty < EMPTY_MAX => empty += 1,
                Ok(0) | Err(_) => break,
            }
        }
    }
}

/// The time, and for how long a client may take nothing while output is queued for it. `None`: for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stall {
    pub(super) now: Instant,
    pub(super) limit: Option<Duration>,
}

/// The first byte of a packet. A terminal's output is all stdout.
fn stream_id(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 2,
        Stream::Stderr => 3,
    }
}
