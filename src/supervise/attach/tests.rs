//! Clients on real sockets against an [`Attach`] that a small loop drives, the way the monitor does.

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
}

impl Bench {
    fn new(stdin: Stdin, stall: Option<Duration>) -> Self {
        let dir = TempDir::new();
        let socket = listen_in(&dir.0).unwrap();
        let poll = Poll::new().unwrap();
        let attach = Attach::new(Some(socket.listener), CLIENTS, stall);
        attach.register(poll.registry(), LISTENER).unwrap();
        Self { poll, attach, stdin, dir, _file: socket.file, listener_ready: false, wakeups: 0 }
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

    fn broadcast(&mut self, stream: Stream, bytes: &[u8]) {
        self.attach.broadcast(stream, bytes, self.poll.registry(), Instant::now());
    }

    /// One turn of a loop, which waits at most `wait`.
    fn turn(&mut self, wait: Duration) {
        let mut events = Events::with_capacity(64);
        let busy = self.listener_ready || self.attach.has_input(&self.stdin);
        let now = Instant::now();
        let due =
            self.attach.next_deadline().map_or(wait, |due| due.saturating_duration_since(now).min(wait));
        self.poll.poll(&mut events, Some(if busy { Duration::ZERO } else { due })).unwrap();
        let (registry, now) = (self.poll.registry(), Instant::now());
        for event in &events {
            self.wakeups += 1;
            match event.token() {
                LISTENER => self.listener_ready = true,
                STDIN => self.stdin.on_writable(registry),
                token => self.attach.on_client(token, event.into(), registry, now),
            }
        }
        if self.attach.next_deadline().is_some_and(|due| due <= now) {
            self.listener_ready |= self.attach.on_deadline(registry, now) == Progress::More;
        }
        if self.listener_ready {
            self.listener_ready = self.attach.on_listener(registry, now) == Progress::More;
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

#[test]
fn output_comes_in_packets_of_a_stream_byte_and_8192_bytes() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let remote = bench.connect();
    let data = pattern(20_000);
    bench.broadcast(Stream::Stdout, &data);
    bench.broadcast(Stream::Stderr, b"e");
    bench.broadcast(Stream::Stdout, b"");
    let sizes: Vec<(u8, usize)> =
        std::iter::from_fn(|| remote.recv().ok()).map(|p| (p[0], p.len() - 1)).collect();
    assert_eq!(sizes, [(2, 8192), (2, 8192), (2, 3616), (3, 1)]);
    assert_eq!(remote.recv(), Err(Errno::EAGAIN), "an empty output is no packet, which would mean the end");
}

#[test]
fn a_slow_client_gets_every_byte_and_holds_the_stream_meanwhile() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let (slow, quick) = (bench.connect(), bench.connect());
    let data = pattern(3_000_000);
    let (mut seen, mut quick_seen, mut written) = (<[Vec<u8>; 2]>::default(), <[Vec<u8>; 2]>::default(), 0);
    let deadline = Instant::now() + DEADLINE;
    let mut holds = 0;
    while seen[0].len() < data.len() {
        assert!(Instant::now() < deadline);
        if bench.attach.holds(Stream::Stdout) {
            holds += 1;
            slow.take(&mut seen);
        } else if written < data.len() {
            let end = (written + 65536).min(data.len());
            bench.broadcast(Stream::Stdout, &data[written..end]);
            written = end;
        } else {
            slow.take(&mut seen);
        }
        quick.take(&mut quick_seen);
        bench.turn(Duration::ZERO);
    }
    assert!(holds > 3);
    assert!(seen[0] == data && quick_seen[0] == data);
}

#[test]
fn a_stuck_client_costs_no_wakeups_and_only_its_stream() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let stuck = bench.connect();
    while !bench.attach.holds(Stream::Stdout) {
        bench.broadcast(Stream::Stdout, &[7; 65536]);
    }
    bench.quiesce();
    let before = bench.wakeups;
    for _ in 0..20 {
        bench.turn(Duration::from_millis(5));
    }
    assert_eq!(bench.wakeups, before);
    for _ in 0..100 {
        bench.broadcast(Stream::Stderr, b"still going on\n");
    }
    assert!(!bench.attach.holds(Stream::Stderr));
    let mut seen = <[Vec<u8>; 2]>::default();
    while bench.attach.clients.iter().any(Client::has_queued) {
        stuck.take(&mut seen);
        bench.turn(Duration::from_millis(10));
    }
    stuck.take(&mut seen);
    assert_eq!(seen[1], b"still going on\n".repeat(100));
    assert!(!bench.attach.holds(Stream::Stdout));
}

#[test]
fn a_client_that_takes_nothing_is_disconnected_after_the_timeout_a_slow_one_is_not() {
    let mut bench = Bench::new(Stdin::none(STDIN), Some(Duration::from_millis(400)));
    let (stuck, slow) = (bench.connect(), bench.connect());
    let start = Instant::now();
    while !bench.attach.holds(Stream::Stdout) {
        bench.broadcast(Stream::Stdout, &[7; 65536]);
    }
    for step in 1..=12 {
        while start.elapsed() < Duration::from_millis(100) * step {
            bench.turn(Duration::from_millis(20));
            assert!(bench.count() == 2 || start.elapsed() >= Duration::from_millis(400));
        }
        // One packet now and then: too little for the kernel to report any room.
        slow.recv().unwrap();
    }
    assert_eq!(bench.count(), 1);
    while !stuck.recv().unwrap().is_empty() {}
    bench.until(|bench| bench.count() == 0);
}

#[test]
fn what_is_queued_at_the_end_is_still_delivered() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let (behind, idle, stuck) = (bench.connect(), bench.connect(), bench.connect());
    behind.send(b"input that nobody read").unwrap();
    let data = pattern(1_000_000);
    let mut seen = <[Vec<u8>; 2]>::default();
    for part in data.chunks(65536) {
        bench.broadcast(Stream::Stdout, part);
        idle.take(&mut seen);
        bench.turn(Duration::ZERO);
    }
    bench.quiesce();
    bench.attach.begin_linger(bench.poll.registry(), Instant::now());
    idle.take(&mut seen);
    assert_eq!(idle.recv().unwrap(), b"", "one that has everything sees the end at once");
    assert!(seen[0] == data && bench.attach.is_lingering());
    let mut seen = <[Vec<u8>; 2]>::default();
    let deadline = Instant::now() + DEADLINE;
    while bench.count() == 2 {
        assert!(Instant::now() < deadline);
        behind.take(&mut seen);
        bench.turn(Duration::from_millis(5));
    }
    behind.take(&mut seen);
    assert!(seen[0] == data);
    assert_eq!(behind.recv().unwrap(), b"", "unread input must not turn the end into a reset");
    let due = bench.attach.next_deadline().unwrap();
    assert!(due <= Instant::now() + Duration::from_secs(10));
    bench.attach.on_deadline(bench.poll.registry(), Instant::now() + Duration::from_secs(11));
    assert!(!bench.attach.is_lingering());
    drop(stuck);
}

#[test]
fn all_input_arrives_before_its_end_does() {
    for policy in [StdinPolicy::CloseWithClient, StdinPolicy::KeepOpen] {
        let (mut bench, mut pipe) = Bench::with_pipe(policy);
        let remote = bench.connect();
        let data = pattern(1_000_000);
        let (mut sent, mut seen) = (0, Vec::new());
        let deadline = Instant::now() + DEADLINE;
        let mut closed = false;
        while seen.len() < data.len() {
            assert!(Instant::now() < deadline);
            while sent < data.len() {
                match remote.send(&data[sent..(sent + 32768).min(data.len())]) {
                    Ok(len) => sent += len,
                    Err(_) => break,
                }
            }
            if sent == data.len() && !closed {
                remote.half_close();
                closed = true;
            }
            bench.turn(Duration::from_millis(1));
            seen.extend(read_now(&mut pipe));
        }
        bench.quiesce();
        assert!(seen == data);
        assert_eq!(at_end(&mut pipe), Some(policy == StdinPolicy::CloseWithClient));
        bench.broadcast(Stream::Stdout, b"after half-close");
        assert_eq!(remote.recv().unwrap(), b"\x02after half-close");
        drop(remote);
        bench.until(|bench| bench.count() == 0);
    }
}

#[test]
fn a_client_that_is_gone_has_its_input_delivered_first() {
    let (mut bench, mut pipe) = Bench::with_pipe(StdinPolicy::CloseWithClient);
    let remote = bench.connect();
    // Output that it never reads makes the kernel report a reset ahead of its input.
    bench.broadcast(Stream::Stdout, b"unread");
    remote.send(b"last words").unwrap();
    drop(remote);
    bench.until(|bench| bench.count() == 0);
    assert_eq!(read_now(&mut pipe), b"last words");
    assert_eq!(at_end(&mut pipe), Some(true));
}

#[test]
fn an_empty_packet_is_the_end_of_input() {
    let (mut bench, mut pipe) = Bench::with_pipe(StdinPolicy::CloseWithClient);
    let (first, other) = (bench.connect(), bench.connect());
    first.send(b"a").unwrap();
    first.send(b"").unwrap();
    bench.quiesce();
    assert_eq!(read_now(&mut pipe), b"a");
    assert_eq!(at_end(&mut pipe), Some(true), "stdin is closed for all clients");
    assert_eq!(first.send(b"b"), Err(Errno::EPIPE));
    other.send(b"dropped").unwrap();
    bench.quiesce();
    assert_eq!(bench.count(), 2);
}

#[test]
fn a_packet_is_kept_up_to_32768_bytes() {
    let (mut bench, mut pipe) = Bench::with_pipe(StdinPolicy::KeepOpen);
    let remote = bench.connect();
    let data = pattern(40_001);
    remote.send(&data).unwrap();
    remote.send(b"next").unwrap();
    bench.quiesce();
    assert!(read_now(&mut pipe) == [&data[..32768], b"next"].concat());
}

#[test]
fn packets_of_several_clients_are_never_mixed() {
    let (mut bench, mut pipe) = Bench::with_pipe(StdinPolicy::KeepOpen);
    let remotes: Vec<Remote> = (0..5).map(|_| bench.connect()).collect();
    for (n, remote) in remotes.iter().enumerate() {
        for _ in 0..4 {
            remote.send(&[n as u8; 30_000]).unwrap();
        }
    }
    let (mut seen, deadline) = (Vec::new(), Instant::now() + DEADLINE);
    while seen.len() < 5 * 4 * 30_000 {
        assert!(Instant::now() < deadline);
        bench.turn(Duration::from_millis(1));
        seen.extend(read_now(&mut pipe));
    }
    assert!(seen.chunks(30_000).all(|packet| packet.iter().all(|byte| *byte == packet[0])));
}

#[test]
fn without_stdin_input_is_dropped_and_clients_stay() {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    drop(reader);
    for stdin in [Stdin::none(STDIN), Stdin::pipe(writer, StdinPolicy::CloseWithClient, STDIN)] {
        let mut bench = Bench::new(stdin, None);
        let remote = bench.connect();
        for _ in 0..50 {
            remote.send(&[1; 32768]).unwrap();
            bench.quiesce();
        }
        assert_eq!(bench.count(), 1);
        bench.broadcast(Stream::Stdout, b"x");
        assert_eq!(remote.recv().unwrap(), b"\x02x");
        let before = bench.wakeups;
        bench.turn(Duration::from_millis(20));
        assert_eq!(bench.wakeups, before);
    }
}

#[test]
fn input_typed_before_the_terminal_exists_is_delivered() {
    let mut bench = Bench::new(Stdin::terminal(STDIN), None);
    let remote = bench.connect();
    for packet in [&b"one "[..], b"two ", b"three"] {
        remote.send(packet).unwrap();
    }
    remote.half_close();
    bench.quiesce();
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
    bench.stdin.on_console(writer, bench.poll.registry());
    bench.quiesce();
    let mut reader = File::from(reader);
    assert_eq!(read_now(&mut reader), b"one two three");
    let later = bench.connect();
    later.send(b"again").unwrap();
    bench.quiesce();
    assert_eq!(read_now(&mut reader), b"again", "a client that left does not end the terminal's input");
}

#[test]
fn people_who_type_and_go_while_nobody_reads_leave_nothing() {
    let (mut bench, mut pipe) = Bench::with_pipe(StdinPolicy::KeepOpen);
    let big = bench.connect();
    for _ in 0..4 {
        big.send(&[b'x'; 32768]).unwrap();
    }
    bench.quiesce();
    for _ in 0..300 {
        let remote = bench.connect();
        remote.send(b"y").unwrap();
        drop(remote);
        bench.turn(Duration::ZERO);
    }
    bench.quiesce();
    assert!(bench.count() <= DEPARTED_MAX + 1, "{}", bench.count());
    let mut seen = Vec::new();
    while bench.count() > 1 {
        seen.extend(read_now(&mut pipe));
        bench.turn(Duration::from_millis(5));
    }
    bench.quiesce();
    seen.extend(read_now(&mut pipe));
    assert_eq!(seen.iter().filter(|byte| **byte == b'x').count(), 4 * 32768);
    assert_eq!(seen.iter().filter(|byte| **byte == b'y').count(), DEPARTED_MAX);
}

#[test]
fn clients_come_and_go_in_every_way_without_a_trace() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    for round in 0..500 {
        let remote = bench.connect();
        match round % 5 {
            0 => {}
            1 => remote.half_close(),
            2 => shutdown(remote.raw(), Shutdown::Both).unwrap(),
            3 => {
                shutdown(remote.raw(), Shutdown::Read).unwrap();
                bench.broadcast(Stream::Stdout, b"nobody reads this");
            }
            _ => _ = remote.send(b"bye").unwrap(),
        }
        if round % 2 == 0 {
            bench.turn(Duration::ZERO);
        }
        drop(remote);
        bench.until(|bench| bench.count() == 0);
    }
    assert!(bench.attach.readable.is_empty());
}

#[test]
fn many_clients_at_once() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let path = bench.dir.0.join("attach");
    // All of them before the first is accepted.
    let remotes: Vec<Remote> = (0..128).map(|_| Remote::connect(&path)).collect();
    bench.until(|bench| bench.count() == 128);
    bench.broadcast(Stream::Stdout, b"all");
    assert!(remotes.iter().all(|remote| remote.recv().unwrap() == b"\x02all"));
    drop(remotes);
    bench.until(|bench| bench.count() == 0);
}

#[test]
fn accepting_pauses_while_there_are_no_descriptors() {
    let mut bench = Bench::new(Stdin::none(STDIN), None);
    let now = Instant::now();
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
        let failed = bench.attach.on_accept_failed(&io::Error::from_raw_os_error(errno), now);
        assert_eq!(failed, Progress::Drained);
    }
    assert_eq!(bench.attach.next_deadline(), Some(now + ACCEPT_PAUSE));
    let remote = Remote::connect(&bench.dir.0.join("attach"));
    assert_eq!(bench.attach.on_listener(bench.poll.registry(), now), Progress::Drained);
    assert_eq!(bench.count(), 0);
    bench.attach.on_deadline(bench.poll.registry(), now + ACCEPT_PAUSE);
    assert_eq!((bench.count(), bench.attach.next_deadline()), (1, None));
    drop(remote);
}

#[test]
fn the_socket_has_mode_0700_replaces_a_stale_one_and_has_a_path_of_any_length() {
    let dir = TempDir::new();
    let long = (0..6).fold(dir.0.clone(), |path, _| path.join("d".repeat(60)));
    fs::create_dir_all(&long).unwrap();
    let path = long.join("attach");
    let mut stale = File::create(&path).unwrap();
    stale.write_all(b"stale").unwrap();
    let socket = listen_in(&long).unwrap();
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o700);
    let again = listen_in(&long).unwrap();
    drop(socket.file);
    assert!(path.exists(), "an old guard spares a new monitor's socket");
    drop(again.file);
    assert!(!path.exists());
}

#[test]
fn the_symlink_is_a_byte_short_where_conmons_is_and_is_removed() {
    let dir = TempDir::new();
    let room = 107 - dir.0.as_os_str().len() - 1;
    for (len, expected) in [(room - 1, room - 1), (room, room - 1), (room + 1, room + 1)] {
        let guard = link(&dir.0, OsStr::new(&"u".repeat(len)), Path::new("/some/bundle")).unwrap();
        let path = dir.0.join("u".repeat(expected));
        assert_eq!(guard.path(), path);
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("/some/bundle"));
        let replaced = link(&dir.0, OsStr::new(&"u".repeat(len)), Path::new("/other")).unwrap();
        drop(guard);
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("/other"));
        drop(replaced);
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn output_cut_into_any_pieces_rejoins_at_every_client(
        pieces in vec((any::<bool>(), 1usize..70_000), 1..24), eager in any::<bool>())
    {
        let mut bench = Bench::new(Stdin::none(STDIN), None);
        let (remote, mut seen) = (bench.connect(), <[Vec<u8>; 2]>::default());
        let mut expected = <[Vec<u8>; 2]>::default();
        for (stderr, len) in pieces {
            let (stream, piece) = (if stderr { Stream::Stderr } else { Stream::Stdout }, pattern(len));
            while bench.attach.holds(stream) {
                remote.take(&mut seen);
                bench.turn(Duration::from_millis(1));
            }
            bench.broadcast(stream, &piece);
            expected[usize::from(stderr)].extend(piece);
            if eager {
                remote.take(&mut seen);
                bench.turn(Duration::ZERO);
            }
        }
        bench.attach.begin_linger(bench.poll.registry(), Instant::now());
        while bench.attach.is_lingering() {
            remote.take(&mut seen);
            bench.turn(Duration::from_millis(1));
        }
        remote.take(&mut seen);
        prop_assert!(seen == expected);
    }
}
