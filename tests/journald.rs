//! Contract 6.5: the journal, played by a socket of the bench's own in a mount namespace.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use compat_tests::bench::CID;
use compat_tests::{Bench, Kind, MonitorCommand, behaviour};

type Entry = BTreeMap<String, Vec<u8>>;

/// The bench's own journal, which reads all the time: the kernel queues ten datagrams and no more.
struct Journal {
    enough: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Entry>>,
}

impl Journal {
    fn new(bench: &Bench) -> Self {
        std::fs::create_dir(bench.path("j")).unwrap();
        let socket = UnixDatagram::bind(bench.path("j/socket")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let enough = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&enough);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut buffer = vec![0; 1 << 18];
            loop {
                // Looked at first: what was sent before that is read below.
                let is_last = stop.load(Ordering::SeqCst);
                while let Ok(count) = socket.recv(&mut buffer) {
                    all.push(parse(&buffer[..count]));
                }
                if is_last {
                    return all;
                }
            }
        });
        Self { enough, reader }
    }

    /// The entries that have been sent by now.
    fn entries(self) -> Vec<Entry> {
        self.enough.store(true, Ordering::SeqCst);
        self.reader.join().unwrap()
    }
}

/// podman's command line with `-l journald` and `args`, started where that is the journal.
fn logging<'b>(bench: &'b Bench, args: &[&str]) -> MonitorCommand<'b> {
    let command = bench.podman().replace("-l", "journald").args(args);
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
        mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
    let wrapped = MonitorCommand::bare(bench).program("/usr/bin/unshare");
    let wrapped = wrapped.args(["-m", "/bin/sh", "-c", script]).arg(bench.path("j"));
    let wrapped = wrapped.arg(bench.program()).args(command.words());
    wrapped.sync(Kind::Seqpacket, 3).start(Kind::Seqpacket, 4)
}

/// journald's own protocol: `NAME=value` and a newline, or the name, a newline, a length, the value, a newline.
fn parse(datagram: &[u8]) -> Entry {
    let mut entry = Entry::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').expect("a newline");
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            entry.insert(String::from_utf8(line[..at].to_vec()).unwrap(), line[at + 1..].to_vec());
            continue;
        }
        let (length, after) = rest.split_at(8);
        let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
        entry.insert(String::from_utf8(line.to_vec()).unwrap(), after[..length].to_vec());
        assert_eq!(after[length], b'\n');
        rest = &after[length + 1..];
    }
    entry
}

fn field(entry: &Entry, name: &str) -> String {
    entry.get(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
}

/// What a container that follows `payload` leaves in the journal: messages and priorities.
fn logged(bench: &Bench, command: MonitorCommand<'_>, journal: Journal) -> Vec<(String, String)> {
    let (_, exit) = command.run().finish();
    assert_eq!(exit, "3");
    assert!(!bench.log().exists());
    let pair = |entry: &Entry| (field(entry, "MESSAGE").trim_end().to_owned(), field(entry, "PRIORITY"));
    journal.entries().iter().map(pair).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(text, priority)| ((*text).to_owned(), (*priority).to_owned())).collect()
}

#[test]
fn entries_are_there_before_the_exit_file() {
    behaviour!(|| {
        let bench = Bench::new();
        let journal = Journal::new(&bench);
        bench.script("payload\nlines 100 50\nexit 3");
        let mut monitor = logging(&bench, &[]).run();
        monitor.report();
        bench.wait_exit_file();
        let lines = journal.entries().iter().map(|entry| field(entry, "MESSAGE")).collect::<Vec<_>>();
        assert_eq!(lines.len(), 100);
        assert!(lines[99].starts_with("line 100."), "{}", lines[99]);
        monitor.wait();
    });
}

#[test]
fn an_entry_names_the_container() {
    behaviour!(|| {
        let bench = Bench::new();
        let journal = Journal::new(&bench);
        bench.script("payload\nprint hello\\n\nexit 3");
        logging(&bench, &["--log-tag", "the tag"]).run().finish();
        let entries = journal.entries();
        assert_eq!(entries.len(), 1);
        for (name, value) in [
            ("MESSAGE", "hello\n"),
            ("CONTAINER_ID_FULL", CID),
            ("CONTAINER_ID", &CID[..12]),
            ("CONTAINER_NAME", "web"),
            ("CONTAINER_TAG", "the tag"),
            ("SYSLOG_IDENTIFIER", "the tag"),
            ("PRIORITY", "6"),
        ] {
            assert_eq!(field(&entries[0], name), value, "{name}");
        }
        assert!(!entries[0].contains_key("CONTAINER_PARTIAL_MESSAGE"));
    });
}

#[test]
fn a_line_in_two_writes_is_one_entry() {
    behaviour!(|| {
        let bench = Bench::new();
        let journal = Journal::new(&bench);
        bench.script("payload\nprint par\ndrained\nprint tial\\n\neprint err\\n\nexit 3");
        let mut seen = logged(&bench, logging(&bench, &[]), journal);
        seen.sort();
        assert_eq!(seen, pairs(&[("err", "3"), ("partial", "6")]));
    });
}

#[test]
fn an_unfinished_last_line_is_marked() {
    behaviour!(|| {
        let bench = Bench::new();
        let journal = Journal::new(&bench);
        bench.script("payload\nprint no newline\nexit 3");
        logging(&bench, &[]).run().finish();
        let entries = journal.entries();
        assert_eq!(field(&entries[0], "MESSAGE"), "no newline");
        assert_eq!(field(&entries[0], "CONTAINER_PARTIAL_MESSAGE"), "true");
    });
}

#[test]
fn a_line_can_set_its_priority() {
    behaviour!(|| {
        let bench = Bench::new();
        let journal = Journal::new(&bench);
        bench.script("payload\nprint <4>warning\\n<8>text\\n\nexit 3");
        let seen = logged(&bench, logging(&bench, &[]), journal);
        assert_eq!(seen, pairs(&[("warning", "4"), ("<8>text", "6")]));
    });
}

#[test]
fn also_one_that_comes_in_pieces() {
    behaviour!(|| {
        let bench = Bench::new();
        let journal = Journal::new(&bench);
        bench.script("payload\nprint <\ndrained\nprint 4>warning\\n\nexit 3");
        assert_eq!(logged(&bench, logging(&bench, &[]), journal), pairs(&[("warning", "4")]));
    });
}

#[test]
fn on_request_the_stream_sets_the_priority() {
    behaviour!(|| {
        let bench = Bench::new();
        let journal = Journal::new(&bench);
        bench.script("payload\nprint <4>warning\\n\nexit 3");
        let command = logging(&bench, &[]).env("CONMON_JOURNALD_PRIORITY", "stream");
        assert_eq!(logged(&bench, command, journal), pairs(&[("<4>warning", "6")]));
    });
}

#[test]
fn without_a_journal_the_container_goes_on() {
    behaviour!(|| {
        let bench = Bench::new();
        std::fs::create_dir(bench.path("j")).unwrap();
        bench.script("payload\nlines 100 50\nexit 3");
        assert_eq!(logging(&bench, &[]).run().finish().1, "3");
    });
}

#[test]
fn a_file_beside_the_journal_has_everything_too() {
    behaviour!(|| {
        let bench = Bench::new();
        let journal = Journal::new(&bench);
        bench.script("payload\nlines 100 50\nexit 3");
        let file = format!("k8s-file:{}", bench.log().display());
        logging(&bench, &["-l", &file]).run().finish();
        assert_eq!(journal.entries().len(), 100);
        assert_eq!(bench.log_lines().len(), 100);
    });
}
