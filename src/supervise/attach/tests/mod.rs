//! Clients on real sockets against an [`Attach`] that a small loop drives, the way the monitor does.

mod clients;
mod files;
mod input;
mod output;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mio::{Events, Poll};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, send, shutdown, socket,
};
use nix::unistd::pipe2;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::config::StdinPolicy;

const LISTENER: Token = Token(0);
const STDIN: Token = Token(1);
const CLIENTS: Token = Token(10);
const DEADLINE: Duration = Duration::from_secs(20);

/// A directory that goes away with its content.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        Self(nix::unistd::mkdtemp(&std::env::temp_dir().join("ferromon-attach.XXXXXX")).unwrap())
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Bench {
    poll: Poll,
    attach: Attach,
    stdin: Stdin,
    dir: TempDir,
    _file: FileGuard,
    listener_ready: bool,
    wakeups: usize,
    /// The time where a test is about that; `None`: as on the wall.
    clock: Option<Instant>,
}

impl Bench {
    fn new(stdin: Stdin, stall: Option<Duration>) -> Self {
        let dir = TempDir::new();
        let socket = listen_in(&dir.0).unwrap();
        let poll = Poll::new().unwrap();
        let attach = Attach::new(Some(socket.listener), CLIENTS, stall);
        attach.register(poll.registry(), LISTENER).unwrap();
        Self { poll, attach, stdin, dir, _file: socket.file, listener_ready: false, wakeups: 0, clock: None }
    }

    fn with_pipe(policy: StdinPolicy) -> (Self, File) {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (Self::new(Stdin::pipe(writer, policy, STDIN), None), File::from(reader))
    }

    fn connect(&mut self) -> Remote {
        let before = self.count();
        let remote = Remote::connect(&self.dir.0.join("attach"));
        self.until(|bench| bench.count() > before);
        remote
    }

    fn count(&self) -> usize {
        self.attach.clients.iter().count()
    }

    fn now(&self) -> Instant {
        self.clock.unwrap_or_else(Instant::now)
    }

    fn broadcast(&mut self, stream: Stream, bytes: &[u8]) {
        let now = self.now();
        self.attach.broadcast(stream, bytes, self.poll.registry(), now);
    }

    /// One turn of a loop, which waits at most `wait`.
    fn turn(&mut self, wait: Duration) {
        let mut events = Events::with_capacity(64);
        let busy = self.listener_ready || self.attach.has_input(&self.stdin);
        let now = self.now();
        let due =
            self.attach.next_deadline().map_or(wait, |due| due.saturating_duration_since(now).min(wait));
        self.poll.poll(&mut events, Some(if busy { Duration::ZERO } else { due })).unwrap();
        let (registry, now) = (self.poll.registry(), self.now());
        for event in &events {
            self.wakeups += 1;
            match event.token() {
                LISTENER => self.listener_ready = true,
                STDIN => self.stdin.on_writable(registry),
                token => self.attach.on_client(token, event.into(), registry, now),
            }
        }
        if self.attach.next_deadline().is_some_and(|due| due <= now) {
            self.listener_ready |= self.attach.on_deadline(registry, now) == Turn::More;
        }
        if self.listener_ready {
            self.listener_ready = self.attach.on_listener(registry, now) == Turn::More;
        }
        self.attach.read_input(&mut self.stdin, 65536, registry, now);
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(Instant::now() < deadline, "nothing happened in time");
            self.turn(Duration::from_millis(10));
        }
    }

    /// Lets everything happen that is going to.
    fn quiesce(&mut self) {
        loop {
            let before = self.wakeups;
            self.turn(Duration::from_millis(20));
            if self.wakeups == before && !self.attach.has_input(&self.stdin) && !self.listener_ready {
                return;
            }
        }
    }
}

/// The client's side.
struct Remote(OwnedFd);

impl Remote {
    fn connect(path: &Path) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        connect(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Self(fd)
    }

    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn send(&self, bytes: &[u8]) -> nix::Result<usize> {
        send(self.raw(), bytes, MsgFlags::MSG_NOSIGNAL)
    }

    fn half_close(&self) {
        shutdown(self.raw(), Shutdown::Write).unwrap();
    }

    fn recv(&self) -> nix::Result<Vec<u8>> {
        let mut buffer = vec![0; 20_000];
        let len = recv(self.raw(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(len);
        Ok(buffer)
    }

    /// Everything that is there now, by stream byte; fails on a packet that is too long.
    fn take(&self, into: &mut [Vec<u8>; 2]) -> usize {
        let mut packets = 0;
        while let Ok(packet) = self.recv() {
            let Some((id, payload)) = packet.split_first() else { break };
            assert!(!payload.is_empty() && payload.len() <= 8192);
            into[usize::from(*id) - 2].extend_from_slice(payload);
            packets += 1;
        }
        packets
    }
}

fn read_now(pipe: &mut File) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), [0; 65536]);
    while let Ok(len @ 1..) = pipe.read(&mut part) {
        all.extend_from_slice(&part[..len]);
    }
    all
}

/// Whether everything was read and the end comes, be it when a child that another test is starting at this moment has let
/// go of the pipe as well.
fn comes_to_its_end(pipe: &mut File) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while at_end(pipe) == Some(false) && Instant::now() < deadline {
        std::thread::yield_now();
    }
    at_end(pipe) == Some(true)
}

/// `Some(true)`: at its end; `Some(false)`: empty but open; `None`: there is something.
fn at_end(pipe: &mut File) -> Option<bool> {
    match pipe.read(&mut [0; 1]) {
        Ok(0) => Some(true),
        Ok(_) => None,
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            Some(false)
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
}
