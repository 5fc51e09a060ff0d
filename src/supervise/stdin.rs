//! The container's input: what attach clients send, on its way into the stdin pipe or the pty leader.
//!
//! At most one packet is in hand. While the container does not take it, [`Stdin::intake`] says `Hold`, no client is
//! read, and the pressure reaches the client through its own socket: nothing is lost and nothing grows. So whatever
//! a client sent is in the container's hands before the client's end of input is even seen.
//! conmon: `conn_sock.c`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::unistd::write;

use crate::config::StdinPolicy;
use crate::diag;
use crate::error::strerror;

/// Bytes of a packet that are kept; conmon cuts a longer one, too.
pub const PACKET_MAX: usize = 32768;

/// What to do with input that a client has for the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// Read it and [`Stdin::deliver`] it.
    Take,
    /// Leave it in the client's socket for now.
    Hold,
    /// Read it and forget it: the container has no stdin, or no longer.
    Drop,
}

#[derive(Debug)]
pub struct Stdin {
    end: End,
    on_end: OnEnd,
    /// Read into by the attach socket, empty while nobody sends.
    packet: Vec<u8>,
    /// Bytes of `packet` that wait for the container: `len` of them from `start` on.
    start: usize,
    len: usize,
    token: Token,
    /// Whether `end` is registered, which it is only while bytes wait: a readiness that nobody needs costs wake-ups.
    armed: bool,
}

#[derive(Debug)]
enum End {
    /// The runtime has not sent the pty leader yet. One packet is kept for it.
    Expected,
    Open(OwnedFd),
    /// There was none, it was closed for its reader, or the reader closed it.
    Closed,
}

/// What the end of a client's input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnEnd {
    Close,
    Nothing,
}

impl Stdin {
    /// The container reads /dev/null; clients are read all the same, so that they don't block.
    pub fn none(token: Token) -> Self {
        Self::new(End::Closed, OnEnd::Nothing, token)
    }

    /// The write end of the container's stdin pipe. It must not block.
    pub fn pipe(end: OwnedFd, policy: StdinPolicy, token: Token) -> Self {
        match policy {
            StdinPolicy::None => Self::none(token),
            StdinPolicy::CloseWithClient => Self::new(End::Open(end), OnEnd::Close, token),
            StdinPolicy::KeepOpen => Self::new(End::Open(end), OnEnd::Nothing, token),
        }
    }

    /// A terminal, whose leader comes later through [`Self::on_console`]. It takes input with and without `-i`.
    ///
    /// The end of a client's input closes nothing: a terminal has no end of file that closing could cause. conmon
    /// with `-t -i` closes its own side all the same, and whoever attaches after that types into the void.
    pub fn terminal(token: Token) -> Self {
        Self::new(End::Expected, OnEnd::Nothing, token)
    }

    fn new(end: End, on_end: OnEnd, token: Token) -> Self {
        Self { end, on_end, packet: Vec::new(), start: 0, len: 0, token, armed: false }
    }

    pub fn intake(&self) -> Intake {
        match self.end {
            End::Closed => Intake::Drop,
            End::Expected | End::Open(_) if self.is_waiting() => Intake::Hold,
            End::Expected | End::Open(_) => Intake::Take,
        }
    }

    /// Bytes wait for the container.
    pub fn is_waiting(&self) -> bool {
        self.len > 0
    }

    /// Where the next packet is to be read into; only while [`Self::intake`] does not say `Hold`.
    pub(crate) fn packet_buffer(&mut self) -> &mut [u8] {
        self.packet.resize(PACKET_MAX, 0);
        &mut self.packet
    }

    /// The first `len` bytes of [`Self::packet_buffer`] are input: gives the container what it takes now, keeps the rest.
    pub(crate) fn deliver(&mut self, len: usize, registry: &Registry) {
        (self.start, self.len) = (0, len.min(self.packet.len()));
        self.flush(registry);
    }

    /// A client's input has ended, and all of it was delivered.
    pub(crate) fn on_client_end(&mut self, registry: &Registry) {
        if self.on_end == OnEnd::Close && matches!(self.end, End::Open(_)) {
            self.close(registry);
        }
    }

    /// The pty leader has come: what was typed before goes out. `leader` must not block.
    pub fn on_console(&mut self, leader: OwnedFd, registry: &Registry) {
        self.close(registry);
        self.end = End::Open(leader);
        self.flush(registry);
    }

    /// The container may take more. Afterwards clients can be read again if [`Self::intake`] says so.
    pub fn on_writable(&mut self, registry: &Registry) {
        self.flush(registry);
    }

    /// Gives the buffer back while nothing waits in it.
    pub fn shed(&mut self) {
        if self.len == 0 {
            self.packet = Vec::new();
        }
    }

    fn flush(&mut self, registry: &Registry) {
        while let Some(waiting) = self.packet.get(self.start..self.start + self.len).filter(|w| !w.is_empty())
        {
            let end = match &self.end {
                End::Expected => return,
                End::Closed => return self.discard(),
                End::Open(end) => end,
            };
            match write(end.as_fd(), waiting) {
                // A pty leader reports no room in this way, too.
                Ok(0) => return self.arm(registry),
                Ok(written) => {
                    self.start += written;
                    self.len = self.len.saturating_sub(written);
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return self.arm(registry),
                Err(error) => {
                    diag::warn!("The container takes no more input: {}", error.desc());
                    self.close(registry);
                    return self.discard();
                }
            }
        }
        self.disarm(registry);
    }

    fn discard(&mut self) {
        (self.start, self.len) = (0, 0);
    }

    fn arm(&mut self, registry: &Registry) {
        let End::Open(end) = &self.end else { return };
        if self.armed {
            return;
        }
        match registry.register(&mut SourceFd(&end.as_raw_fd()), self.token, Interest::WRITABLE) {
            Ok(()) => self.armed = true,
            Err(error) => self.give_up(&error, registry),
        }
    }

    fn give_up(&mut self, error: &io::Error, registry: &Registry) {
        diag::warn!("Failed to wait for the container's stdin: {}", strerror(error));
        self.close(registry);
        self.discard();
    }

    fn disarm(&mut self, registry: &Registry) {
        if let End::Open(end) = &self.end
            && self.armed
        {
            // Deregistering what is registered can't fail in a way that anybody could act upon.
            let _ = registry.deregister(&mut SourceFd(&end.as_raw_fd()));
        }
        self.armed = false;
    }

    fn close(&mut self, registry: &Registry) {
        self.disarm(registry);
        self.end = End::Closed;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::BorrowedFd;
    use std::time::{Duration, Instant};

    use mio::{Events, Poll};
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::pty::openpty;
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
    use nix::unistd::pipe2;

    use super::*;

    const TOKEN: Token = Token(1);

    fn set_nonblocking(fd: BorrowedFd<'_>) {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    }

    fn pipe(policy: StdinPolicy) -> (Stdin, File) {
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        (Stdin::pipe(writer, policy, TOKEN), File::from(reader))
    }

    fn give(stdin: &mut Stdin, poll: &Poll, bytes: &[u8]) {
        stdin.packet_buffer()[..bytes.len()].copy_from_slice(bytes);
        stdin.deliver(bytes.len(), poll.registry());
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
    }

    /// Moves `data` through `stdin` in packets of `packet` bytes to a reader that never hurries.
    fn moves_all(stdin: &mut Stdin, poll: &mut Poll, reader: &mut File, packet: usize) {
        let data = pattern(600_000);
        let (mut rest, mut seen, mut buffer) = (&data[..], Vec::new(), [0; 3000]);
        let mut events = Events::with_capacity(8);
        let deadline = Instant::now() + Duration::from_secs(20);
        while seen.len() < data.len() {
            assert!(Instant::now() < deadline, "stuck at {}", seen.len());
            if stdin.intake() == Intake::Take && !rest.is_empty() {
                let (now, later) = rest.split_at(packet.min(rest.len()));
                give(stdin, poll, now);
                rest = later;
                continue;
            }
            if let Ok(len) = reader.read(&mut buffer) {
                seen.extend_from_slice(&buffer[..len]);
            }
            poll.poll(&mut events, Some(Duration::from_millis(1))).unwrap();
            if !events.is_empty() {
                stdin.on_writable(poll.registry());
            }
        }
        assert!(seen == data && !stdin.is_waiting());
    }

    #[test]
    fn every_byte_passes_a_pipe() {
        for packet in [1000, 4096, PACKET_MAX] {
            let (mut stdin, mut reader) = pipe(StdinPolicy::KeepOpen);
            moves_all(&mut stdin, &mut Poll::new().unwrap(), &mut reader, packet);
        }
    }

    #[test]
    fn every_byte_passes_a_terminal() {
        let pty = openpty(None, None).unwrap();
        let mut settings = tcgetattr(&pty.slave).unwrap();
        cfmakeraw(&mut settings);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &settings).unwrap();
        set_nonblocking(pty.master.as_fd());
        set_nonblocking(pty.slave.as_fd());
        let mut poll = Poll::new().unwrap();
        let mut stdin = Stdin::terminal(TOKEN);
        stdin.on_console(pty.master, poll.registry());
        moves_all(&mut stdin, &mut poll, &mut File::from(pty.slave), PACKET_MAX);
    }

    #[test]
    fn nothing_is_watched_unless_something_waits() {
        let (mut stdin, mut reader) = pipe(StdinPolicy::KeepOpen);
        let mut poll = Poll::new().unwrap();
        give(&mut stdin, &poll, b"small");
        assert!(!stdin.armed);
        while stdin.intake() == Intake::Take {
            give(&mut stdin, &poll, &[0; PACKET_MAX]);
        }
        assert!(stdin.armed && stdin.is_waiting());
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
        assert!(events.is_empty(), "a container that does not read costs nothing");
        while reader.read(&mut [0; 65536]).is_ok() {}
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert!(!events.is_empty());
        stdin.on_writable(poll.registry());
        assert!(!stdin.armed && stdin.intake() == Intake::Take);
        stdin.shed();
        assert_eq!(stdin.packet.capacity(), 0);
    }

    #[test]
    fn a_container_that_closes_its_stdin_while_input_waits_ends_it() {
        let (mut stdin, reader) = pipe(StdinPolicy::CloseWithClient);
        let mut poll = Poll::new().unwrap();
        while stdin.intake() == Intake::Take {
            give(&mut stdin, &poll, &[0; PACKET_MAX]);
        }
        drop(reader);
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert!(!events.is_empty());
        stdin.on_writable(poll.registry());
        assert_eq!(stdin.intake(), Intake::Drop);
        assert!(!stdin.is_waiting());
    }

    #[test]
    fn the_end_of_a_clients_input_closes_a_pipe_only_and_only_by_policy() {
        let poll = Poll::new().unwrap();
        for (policy, closed) in [(StdinPolicy::CloseWithClient, true), (StdinPolicy::KeepOpen, false)] {
            let (mut stdin, mut reader) = pipe(policy);
            stdin.on_client_end(poll.registry());
            let at_end = |reader: &mut File| reader.read(&mut [0]).is_ok();
            // A child that another test is starting at this moment may hold the pipe, too.
            while closed && !at_end(&mut reader) {
                std::thread::yield_now();
            }
            assert_eq!(at_end(&mut reader), closed);
            assert_eq!(stdin.intake(), if closed { Intake::Drop } else { Intake::Take });
        }
        let mut terminal = Stdin::terminal(TOKEN);
        terminal.on_client_end(poll.registry());
        assert_eq!(terminal.intake(), Intake::Take);
        assert_eq!(Stdin::none(TOKEN).intake(), Intake::Drop);
    }
}
