//! The driver against a socket of our own in journald's place.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use proptest::prelude::*;

use super::*;
use crate::config::LogConfig;
use crate::log::scratch::Scratch;
use crate::log::{Identity, Log};
use crate::sys::bytes;

const CONMON: Settings = Settings { line_max: LINE_MAX, priority: PrioritySource::Prefix };

fn journald(dir: &Scratch, settings: Settings) -> Journald {
    let identity = Identity { cid: OsStr::new("0123456789abcdef"), name: None };
    Journald::new(&dir.path("socket"), Fields::new(&identity, None, &[], false), settings)
}

struct Server(UnixDatagram);

impl Server {
    fn start(dir: &Scratch) -> Self {
        let _ = std::fs::remove_file(dir.path("socket"));
        let socket = UnixDatagram::bind(dir.path("socket")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// The next entry, `None` when there is none right now.
    fn next(&self) -> Option<Received> {
        let mut buffer = vec![0; 256 * 1024];
        let mut control = cmsg_space!([std::os::fd::RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
                .ok()?;
        let (count, mut fd) = (message.bytes, None);
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(fds) = control {
                fd = fds.first().copied();
            }
        }
        let Some(fd) = fd else { return Some(Received::parse(&buffer[..count])) };
        let mut file = File::open(format!("/proc/self/fd/{fd}")).unwrap();
        nix::unistd::close(fd).unwrap();
        assert_eq!(count, 0);
        assert_eq!(fcntl(&file, FcntlArg::F_GET_SEALS).unwrap(), 0b1111);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        Some(Received { sealed: true, ..Received::parse(&bytes) })
    }

    fn all(&self) -> Vec<Received> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// An entry as journald understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Received {
    message: Vec<u8>,
    priority: u8,
    partial: bool,
    sealed: bool,
}

impl Received {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut fields = BTreeMap::new();
        while !bytes.is_empty() {
            let end = bytes::find(b'\n', bytes).unwrap();
            let (name, value);
            if let Some(equals) = bytes::find(b'=', &bytes[..end]) {
                (name, value) = (&bytes[..equals], &bytes[equals + 1..end]);
                bytes = &bytes[end + 1..];
            } else {
                let len = u64::from_le_bytes(bytes[end + 1..end + 9].try_into().unwrap());
                let len = usize::try_from(len).unwrap();
                (name, value) = (&bytes[..end], &bytes[end + 9..end + 9 + len]);
                assert_eq!(bytes[end + 9 + len], b'\n');
                bytes = &bytes[end + 10 + len..];
            }
            assert_eq!(fields.insert(name.to_vec(), value.to_vec()), None);
        }
        Self {
            message: fields[&b"MESSAGE"[..]].clone(),
            priority: fields[&b"PRIORITY"[..]][0] - b'0',
            partial: fields.contains_key(&b"CONTAINER_PARTIAL_MESSAGE"[..]),
            sealed: false,
        }
    }

    /// Message, priority and whether it is partial.
    fn brief(&self) -> (&str, u8, bool) {
        (std::str::from_utf8(&self.message).unwrap(), self.priority, self.partial)
    }
}

/// The entries for `pieces` of stdout, as `brief`.
fn entries(settings: Settings, pieces: &[&str]) -> Vec<(String, u8, bool)> {
    let dir = Scratch::new();
    let server = Server::start(&dir);
    let mut journald = journald(&dir, settings);
    for piece in pieces {
        assert_eq!(journald.append(Stream::Stdout, piece.as_bytes()), piece.len());
    }
    journald.end_lines();
    journald.give_up();
    server.all().iter().map(|entry| (entry.brief().0.to_owned(), entry.priority, entry.partial)).collect()
}

#[test]
fn lines_become_entries_and_unfinished_ones_wait_for_their_end() {
    let own = |want: &[(&str, u8, bool)]| -> Vec<(String, u8, bool)> {
        want.iter().map(|&(text, priority, partial)| (text.to_owned(), priority, partial)).collect()
    };
    let stream = Settings { priority: PrioritySource::Stream, ..CONMON };
    type Case = (Settings, &'static [&'static str], &'static [(&'static str, u8, bool)]);
    let cases: [Case; 7] = [
        (CONMON, &["a\n\nb\n"], &[("a\n", 6, false), ("\n", 6, false), ("b\n", 6, false)]),
        (CONMON, &["par", "ti", "al\n"], &[("partial\n", 6, false)]),
        (CONMON, &["a\nrest"], &[("a\n", 6, false), ("rest", 6, true)]),
        (
            CONMON,
            &["<", "3", ">x\n", "<7>\n<8>\n"],
            &[("x\n", 3, false), ("\n", 7, false), ("<8>\n", 6, false)],
        ),
        (CONMON, &["a<3>\n", "<4", ">rest"], &[("a<3>\n", 6, false), ("rest", 4, true)]),
        (stream, &["<3>x\n"], &[("<3>x\n", 6, false)]),
        // The end of a long line has the priority of its start, and no prefix of its own.
        (
            Settings { line_max: 5, ..CONMON },
            &["<2>abc<3>def<4>g\nh\n"],
            &[("abc", 2, true), ("<3>def", 2, true), ("<4>g\n", 2, false), ("h\n", 6, false)],
        ),
    ];
    for (settings, pieces, want) in cases {
        assert_eq!(entries(settings, pieces), own(want), "{pieces:?}");
    }
}

#[test]
fn long_lines_are_cut_where_conmon_cuts_them() {
    for (len, want) in [(8191, &[8192][..]), (8192, &[8192, 1]), (20_000, &[8192, 8192, 3617])] {
        let text = "x".repeat(len) + "\n";
        let got: Vec<usize> = entries(CONMON, &[&text]).iter().map(|entry| entry.0.len()).collect();
        assert_eq!(got, want);
    }
    let whole = Settings { line_max: 100_000, ..CONMON };
    assert_eq!(entries(whole, &[&("x".repeat(100_000) + "\n")]).len(), 1);
}

#[test]
fn stderr_has_a_line_and_a_priority_of_its_own() {
    let dir = Scratch::new();
    let server = Server::start(&dir);
    let mut journald = journald(&dir, CONMON);
    journald.append(Stream::Stdout, b"out");
    journald.append(Stream::Stderr, b"err\n");
    journald.append(Stream::Stdout, b"put\n");
    let got = server.all();
    assert_eq!([got[0].brief(), got[1].brief()], [("err\n", 3, false), ("output\n", 6, false)]);
}

#[test]
fn an_entry_that_no_datagram_holds_comes_as_a_sealed_file() {
    let dir = Scratch::new();
    let server = Server::start(&dir);
    let mut journald = journald(&dir, Settings { line_max: 1_000_000, ..CONMON });
    let long = "y".repeat(900_000) + "\n";
    for text in ["first\n", &long, "last\n"] {
        assert_eq!(journald.append(Stream::Stdout, text.as_bytes()), text.len());
    }
    let got = server.all();
    assert_eq!(got.iter().map(|entry| entry.sealed).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(got[1].message, long.as_bytes());
    journald.shed();
    assert_eq!(journald.stdout.text.capacity(), 0);
}

#[test]
fn a_full_socket_is_waited_for_and_loses_nothing() {
    let dir = Scratch::new();
    let server = Server::start(&dir);
    let mut journald = journald(&dir, CONMON);
    let input: String = (0..20_000).map(|i| format!("{i}\n")).collect();
    let (mut at, mut got, mut blocked) = (0, Vec::new(), 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while at < input.len() {
        assert!(Instant::now() < deadline);
        let end = (at + 65_536).min(input.len());
        at += journald.append(Stream::Stdout, &input.as_bytes()[at..end]);
        if let Some(fd) = journald.blocked() {
            blocked += 1;
            assert_eq!(poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::ZERO).unwrap(), 0);
            got.extend(server.all());
        }
    }
    while journald.flush() == Progress::Blocked {
        got.extend(server.all());
    }
    got.extend(server.all());
    assert!(blocked > 0);
    assert_eq!(got.len(), 20_000);
    let joined: Vec<u8> = got.into_iter().flat_map(|entry| entry.message).collect();
    assert_eq!(joined, input.as_bytes());
}

#[test]
fn a_missing_journal_is_counted_and_told_when_it_is_there() {
    let dir = Scratch::new();
    let mut journald = journald(&dir, CONMON);
    assert_eq!(journald.append(Stream::Stdout, b"a\nbc\n"), 5);
    assert_eq!(journald.append(Stream::Stderr, b"d\n"), 2);
    assert!(journald.blocked().is_none());
    let server = Server::start(&dir);
    journald.append(Stream::Stdout, b"back\n");
    let got = server.all();
    let marker = "conmon: log incomplete: 5 bytes in 2 lines of stdout and 2 bytes in 1 lines of stderr missing here: \
                  No such file or directory\n";
    assert_eq!([got[0].brief(), got[1].brief()], [(marker, 3, false), ("back\n", 6, false)]);
    journald.append(Stream::Stdout, b"again\n");
    assert_eq!(server.all().len(), 1);
}

#[test]
fn a_restarted_journal_is_found_without_a_loss() {
    let dir = Scratch::new();
    let mut journald = journald(&dir, CONMON);
    for _ in 0..3 {
        let server = Server::start(&dir);
        journald.append(Stream::Stdout, b"a\nb\n");
        assert_eq!(server.all().len(), 2);
    }
    // Between the two it is gone, with its socket file left behind.
    journald.append(Stream::Stdout, b"lost\n");
    let server = Server::start(&dir);
    journald.end_lines();
    journald.give_up();
    let got = server.all();
    assert!(got[0].brief().0.contains("5 bytes in 1 lines of stdout missing here: Connection refused"));
}

#[test]
fn a_marker_that_gets_lost_is_told_again() {
    let dir = Scratch::new();
    let mut journald = journald(&dir, CONMON);
    journald.append(Stream::Stdout, b"a\n");
    let server = Server::start(&dir);
    while journald.blocked().is_none() {
        // The marker is the first entry, so fill the socket before it is encoded.
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.connect(dir.path("socket")).unwrap();
        while socket.send(b"MESSAGE=x\nPRIORITY=6\n").is_ok() {}
        journald.append(Stream::Stdout, b"b\n");
    }
    drop(server);
    assert_eq!(journald.append(Stream::Stdout, b"c\n"), 2);
    let server = Server::start(&dir);
    journald.append(Stream::Stdout, b"d\n");
    let got = server.all();
    assert!(
        got[0].brief().0.contains(" 6 bytes in 3 lines of stdout missing here: No such file"),
        "{:?}",
        got[0].brief()
    );
    assert_eq!(got[1].brief().0, "d\n");
}

#[test]
fn the_end_does_not_wait_for_ever() {
    let dir = Scratch::new();
    let _server = Server::start(&dir);
    let mut log = Log { k8s: None, journald: Some(journald(&dir, CONMON)), ahead: [0; 2], no_sync: true };
    let text = b"x\n".repeat(100_000);
    let start = Instant::now();
    log.append_last(Stream::Stdout, &text, start + Duration::from_millis(50));
    log.finish();
    assert!(start.elapsed() < Duration::from_secs(20));
    let lost = log.journald.unwrap().loss.count(Stream::Stdout);
    assert!(lost.lines > 90_000 && lost.bytes == 2 * lost.lines);
}

#[test]
fn the_environment_sets_what_conmons_flags_cant() {
    let settings = |pairs: &'static [(&str, &str)]| {
        let get = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into());
        let Settings { line_max, priority } = Settings::from_env(get);
        (line_max, priority)
    };
    assert_eq!(settings(&[]), (8191, PrioritySource::Prefix));
    let both = &[("CONMON_JOURNALD_LINE_MAX", "1000000"), ("CONMON_JOURNALD_PRIORITY", "stream")];
    assert_eq!(settings(both), (1_000_000, PrioritySource::Stream));
    for wrong in [&[("CONMON_JOURNALD_LINE_MAX", "0")], &[("CONMON_JOURNALD_LINE_MAX", "9x")]] {
        assert_eq!(settings(wrong).0, 8191);
    }
    assert_eq!(settings(&[("CONMON_JOURNALD_PRIORITY", "x")]).1, PrioritySource::Prefix);
}

#[test]
fn with_both_drivers_each_has_everything_once() {
    let dir = Scratch::new();
    let server = Server::start(&dir);
    let config = LogConfig { k8s_file: Some(dir.path("log")), ..LogConfig::default() };
    let identity = Identity { cid: OsStr::new("0123456789abcdef"), name: None };
    let mut log = Log::open(&config, &identity).unwrap();
    log.journald = Some(journald(&dir, CONMON));
    assert!(log.may_lag());
    let input: String = (0..5000).map(|i| format!("{i}\n")).collect();
    let (mut at, mut got, mut blocked, mut round) = (0, Vec::new(), 0, 0);
    while at < input.len() {
        round += 1;
        let end = (at + 3000 + round).min(input.len());
        at += log.append(Stream::Stdout, &input.as_bytes()[at..end], end < input.len());
        if log.blocked().is_some() {
            blocked += 1;
            if blocked % 2 == 0 {
                got.extend(server.all());
            }
        }
    }
    got.extend(server.all());
    log.finish();
    got.extend(server.all());
    assert!(blocked > 0);
    let joined: Vec<u8> = got.into_iter().flat_map(|entry| entry.message).collect();
    assert_eq!(joined, input.as_bytes());
    let file = dir.read("log");
    assert!(file.lines().enumerate().all(|(i, line)| line.ends_with(&format!(" stdout F {i}"))));
    assert_eq!(file.lines().count(), 5000);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn the_joined_entries_are_the_input_however_it_is_read(
        lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..30),
        sizes in proptest::collection::vec(1usize..100, 1..9),
        line_max in 1usize..80,
    ) {
        let input = lines.join(&b'\n');
        let settings = Settings { line_max, priority: PrioritySource::Stream };
        let mut results = Vec::new();
        for sizes in [&sizes[..], &[input.len().max(1)]] {
            let dir = Scratch::new();
            let server = Server::start(&dir);
            let mut journald = journald(&dir, settings);
            let (mut at, mut got) = (0, Vec::new());
            for size in sizes.iter().cycle() {
                if at == input.len() {
                    break;
                }
                let end = (at + size).min(input.len());
                at += journald.append(Stream::Stderr, &input[at..end]);
                got.extend(server.all());
            }
            journald.end_lines();
            while journald.flush() == Progress::Blocked {
                got.extend(server.all());
            }
            got.extend(server.all());
            results.push(got);
        }
        prop_assert_eq!(&results[0], &results[1]);
        let joined: Vec<u8> = results[0].iter().flat_map(|entry| entry.message.clone()).collect();
        prop_assert_eq!(joined, input);
        for entry in &results[0] {
            prop_assert!(entry.message.len() <= line_max + 1);
            prop_assert_eq!(entry.partial, entry.message.last() != Some(&b'\n'));
        }
    }
}
