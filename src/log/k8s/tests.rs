//! The sink over a disk that fails on demand: whatever happens, the joined log and the counted loss are the input.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::log::file::Renewed;
use crate::log::frame::PIECE_MAX;
use crate::sys::bytes;

/// What the disk does with one write.
#[derive(Clone, Debug)]
enum Step {
    Take,
    Short(usize),
    Fail(i32),
    /// Takes a part, and fails in the write after it.
    ShortThenFail(usize, i32),
}

#[derive(Debug, Default)]
struct Disk {
    /// All files that ever were the log, the present one last.
    files: Vec<Vec<u8>>,
    steps: VecDeque<Step>,
    fifo: bool,
    can_cut: bool,
    renewals_fail: bool,
    writes: usize,
}

impl Disk {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { files: vec![vec![]], steps: steps.into_iter().collect(), can_cut: true, ..Self::default() }
    }

    fn log(&mut self) -> &mut Vec<u8> {
        self.files.last_mut().unwrap()
    }
}

impl Target for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        let taken = match self.steps.pop_front().unwrap_or(Step::Take) {
            Step::Take => bytes.len(),
            Step::Short(count) => count.clamp(1, bytes.len()),
            Step::Fail(errno) => return Err(io::Error::from_raw_os_error(errno)),
            Step::ShortThenFail(count, errno) => {
                self.steps.push_front(Step::Fail(errno));
                count.clamp(1, bytes.len())
            }
        };
        self.log().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn take_back(&mut self, count: u64) -> io::Result<()> {
        if self.fifo || !self.can_cut {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let len = self.log().len() - usize::try_from(count).unwrap();
        self.log().truncate(len);
        Ok(())
    }

    fn size(&self) -> u64 {
        if self.fifo { 0 } else { self.files.last().unwrap().len() as u64 }
    }

    fn is_regular(&self) -> bool {
        !self.fifo
    }

    fn renew(&mut self, _: Occasion) -> io::Result<Renewed> {
        if self.renewals_fail {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        self.files.push(vec![]);
        Ok(Renewed::Replaced)
    }
}

const NONE: Limits = Limits { file: u64::MAX, total: u64::MAX };

fn sink(disk: Disk, limits: Limits) -> K8s<Disk> {
    K8s::new(disk, limits, Stamp::default()).unwrap()
}

/// A record as the readers see it.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    stream: Stream,
    full: bool,
    text: Vec<u8>,
}

/// Parses a log file; every line has to be a record.
fn records(file: &[u8]) -> Vec<Record> {
    assert!(file.is_empty() || file.ends_with(b"\n"), "torn: {:?}", String::from_utf8_lossy(file));
    let lines = file.split_inclusive(|&b| b == b'\n');
    lines
        .map(|line| {
            let (prefix, text) = line.split_at(PREFIX_LEN);
            let head = std::str::from_utf8(prefix).unwrap();
            assert_eq!(
                (&head[4..5], &head[10..11], &head[19..20], &head[35..36]),
                ("-", "T", ".", " "),
                "{head}"
            );
            let stream = match &head[36..43] {
                "stdout " => Stream::Stdout,
                "stderr " => Stream::Stderr,
                other => panic!("{other}"),
            };
            let full = match &head[43..] {
                "F " => true,
                "P " => false,
                other => panic!("{other}"),
            };
            assert!(text.len() <= PIECE_MAX + 1);
            Record { stream, full, text: text[..text.len() - 1].to_vec() }
        })
        .collect()
}

/// The counts of a marker: bytes and lines of stdout, then of stderr.
fn marker(record: &Record) -> Option<[Count; 2]> {
    let text = std::str::from_utf8(&record.text).ok()?.strip_prefix("conmon: log incomplete: ")?;
    assert!(record.full && record.stream == Stream::Stderr);
    let count = |name| {
        let words: Vec<&str> = text.split(' ').collect();
        let at = words.iter().position(|word| *word == name);
        at.map_or(Count::default(), |at| Count {
            bytes: words[at - 6].parse().unwrap(),
            lines: words[at - 3].parse().unwrap(),
        })
    };
    Some([count("stdout"), count("stderr")])
}

/// Checks that `log` is `input` but for the gaps that its markers tell of; returns the number of markers.
fn check(log: &[Record], input: [&[u8]; 2], what: &str) -> usize {
    let (mut at, mut markers) = ([0, 0], 0);
    for record in log {
        if let Some(counts) = marker(record) {
            markers += 1;
            for i in 0..2 {
                let gap = &input[i][at[i]..][..usize::try_from(counts[i].bytes).unwrap()];
                assert_eq!(bytes::count(b'\n', gap) as u64, counts[i].lines, "{what}");
                at[i] += gap.len();
            }
            continue;
        }
        let i = usize::from(record.stream == Stream::Stderr);
        let rest = &input[i][at[i]..];
        assert!(rest.starts_with(&record.text), "{what}: {record:?}");
        at[i] += record.text.len();
        if record.full {
            assert_eq!(rest[record.text.len()], b'\n', "{what}");
            at[i] += 1;
        }
    }
    assert_eq!(at, [input[0].len(), input[1].len()], "{what}");
    markers
}

/// Appends like the event loop: what was not taken comes again, with more behind it.
fn feed(sink: &mut K8s<Disk>, input: [&[u8]; 2], reads: &[(bool, usize, bool)]) {
    let streams = [Stream::Stdout, Stream::Stderr];
    let (mut taken, mut read) = ([0, 0], [0, 0]);
    for &(second, size, more) in reads.iter().cycle() {
        if taken == [input[0].len(), input[1].len()] {
            break;
        }
        let i = usize::from(second);
        read[i] = (read[i] + size).min(input[i].len()).min(taken[i] + 72 * 1024);
        let more = more && read[i] < input[i].len();
        taken[i] += sink.append(streams[i], &input[i][taken[i]..read[i]], more);
        assert!(more || sink.is_blocked() || taken[i] == read[i]);
    }
}

#[test]
fn records_have_the_format_that_readers_know() {
    let mut sink = sink(Disk::new([]), NONE);
    assert_eq!(sink.append(Stream::Stdout, b"one\n\npar", true), 5);
    assert_eq!(sink.append(Stream::Stdout, b"par", false), 3);
    assert_eq!(sink.append(Stream::Stderr, b"\xff\0\r\n", false), 4);
    let got = records(sink.target.log());
    let want = [
        (Stream::Stdout, true, &b"one"[..]),
        (Stream::Stdout, true, b""),
        (Stream::Stdout, false, b"par"),
        (Stream::Stderr, true, b"\xff\0\r"),
    ];
    let want = want.map(|(stream, full, text)| Record { stream, full, text: text.to_vec() });
    assert_eq!(got, want);
    assert_eq!(sink.target.writes, 3);
}

#[test]
fn a_batch_larger_than_one_write_keeps_its_order() {
    let lines: Vec<u8> = (0..15_000).flat_map(|i| format!("{i}\n").into_bytes()).collect();
    let mut sink = sink(Disk::new([]), NONE);
    assert_eq!(
        sink.append(Stream::Stdout, &lines[..72 * 1024], true),
        bytes::find_last(b'\n', &lines[..72 * 1024]).unwrap() + 1
    );
    let got = records(sink.target.log());
    assert!(got.iter().enumerate().all(|(i, record)| record.text == i.to_string().into_bytes()));
    assert!(sink.target.writes > 1);
}

#[test]
fn a_line_that_exceeds_the_limit_begins_a_new_file() {
    // Each record costs 50 bytes; conmon compares with "greater than".
    let mut sink = sink(Disk::new([]), Limits { file: 100, total: u64::MAX });
    for _ in 0..5 {
        sink.append(Stream::Stdout, b"1234\n", false);
    }
    let lens: Vec<usize> = sink.target.files.iter().map(Vec::len).collect();
    assert_eq!(lens, [100, 100, 50]);
    // All at once is no different.
    let mut sink = self::sink(Disk::new([]), Limits { file: 100, total: u64::MAX });
    sink.append(Stream::Stdout, &b"1234\n".repeat(5), false);
    let lens: Vec<usize> = sink.target.files.iter().map(Vec::len).collect();
    assert_eq!(lens, [100, 100, 50]);
}

#[test]
fn a_line_larger_than_the_limit_goes_in_alone() {
    let mut sink = sink(Disk::new([]), Limits { file: 60, total: u64::MAX });
    sink.append(Stream::Stdout, b"a\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\nc\n", false);
    let counts: Vec<usize> = sink.target.files.iter().map(|file| records(file).len()).collect();
    assert_eq!(counts, [1, 1, 1]);
}

#[test]
fn a_file_that_was_emptied_by_somebody_is_not_replaced() {
    let mut sink = sink(Disk::new([]), Limits { file: 100, total: u64::MAX });
    sink.append(Stream::Stdout, b"1234\n1234\n", false);
    sink.target.log().clear();
    sink.append(Stream::Stdout, b"1234\n1234\n", false);
    assert_eq!(sink.target.files.len(), 1);
    sink.append(Stream::Stdout, b"1234\n", false);
    assert_eq!(sink.target.files.len(), 2);
}

#[test]
fn the_total_limit_keeps_the_line_that_crosses_it_and_ends_with_one_marker() {
    let mut disk = Disk::new([]);
    disk.log().extend_from_slice(b"12345678901234567890123456789012345678901234567890");
    let mut sink = sink(disk, Limits { file: u64::MAX, total: 120 });
    for _ in 0..3 {
        assert_eq!(sink.append(Stream::Stdout, b"1234\n1234\n1234\n1234\npart", false), 24);
    }
    let log = records(&sink.target.log()[50..]);
    assert_eq!(log.len(), 3);
    assert_eq!(log[2].text, b"conmon: log ends here: its total size has reached 120 bytes");
    assert_eq!(log[2].stream, Stream::Stderr);
}

#[test]
fn a_file_that_cant_be_replaced_is_kept_and_written_in_batches() {
    let mut disk = Disk::new([]);
    disk.renewals_fail = true;
    let mut sink = sink(disk, Limits { file: 100, total: u64::MAX });
    sink.append(Stream::Stdout, &b"1234\n".repeat(1000), false);
    assert_eq!(records(sink.target.log()).len(), 1000);
    assert!(sink.target.writes < 5);
    sink.reopen();
    assert_eq!(sink.owed.unwrap().0, Occasion::Request);
    sink.target.renewals_fail = false;
    sink.owed = Some((Occasion::Request, 0));
    sink.append(Stream::Stdout, b"1\n", false);
    assert_eq!(sink.target.files.len(), 2);
    assert_eq!(records(sink.target.log()).len(), 1);
}

#[test]
fn a_full_disk_costs_whole_records_and_one_marker_tells_how_many() {
    let full = || Step::Fail(libc::ENOSPC);
    let mut sink = sink(Disk::new([Step::ShortThenFail(120, libc::ENOSPC), full(), full()]), NONE);
    for _ in 0..3 {
        sink.append(Stream::Stdout, b"1234\n1234\n1234\n", false);
    }
    assert_eq!(records(sink.target.log()).len(), 2);
    sink.append(Stream::Stderr, b"again\n", false);
    let log = records(sink.target.log());
    let text = String::from_utf8(log[2].text.clone()).unwrap();
    assert_eq!(
        text,
        "conmon: log incomplete: 35 bytes in 7 lines of stdout missing here: No space left on device"
    );
    assert_eq!(log[3].text, b"again");
    sink.finish();
    assert_eq!(records(sink.target.log()).len(), 4);
}

#[test]
fn what_is_missing_at_the_end_is_told_there() {
    let mut sink = sink(Disk::new([Step::Fail(libc::EIO)]), NONE);
    sink.append(Stream::Stderr, b"1234\n", false);
    sink.finish();
    let log = records(sink.target.log());
    assert_eq!(marker(&log[0]).unwrap()[1], Count { bytes: 5, lines: 1 });
}

#[test]
fn a_full_fifo_is_waited_for_and_loses_nothing() {
    let wait = || Step::Fail(libc::EAGAIN);
    let mut disk = Disk::new([Step::ShortThenFail(10, libc::EAGAIN), wait(), wait()]);
    disk.fifo = true;
    let mut sink = sink(disk, NONE);
    assert_eq!(sink.append(Stream::Stdout, b"1234\n", false), 5);
    assert!(sink.is_blocked());
    assert_eq!(sink.append(Stream::Stdout, b"5\n", false), 0);
    assert_eq!(sink.append(Stream::Stdout, b"5\n", false), 0);
    assert_eq!(sink.append(Stream::Stdout, b"5\n", false), 2);
    assert!(!sink.is_blocked());
    assert_eq!(records(sink.target.log()).len(), 2);
}

#[test]
fn memory_is_given_back_only_when_nothing_is_held() {
    let mut disk = Disk::new([Step::Fail(libc::EAGAIN)]);
    disk.fifo = true;
    let mut sink = sink(disk, NONE);
    sink.append(Stream::Stdout, b"1234\n", false);
    sink.shed();
    sink.finish();
    let mut sink = self::sink(Disk::new([]), NONE);
    sink.append(Stream::Stdout, b"1234\n", false);
    sink.shed();
    sink.append(Stream::Stdout, b"5678\n", false);
    assert_eq!(records(sink.target.log())[1].text, b"5678");
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        6 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (0usize..20_000).prop_map(|n| vec![b'y'; n]),
    ];
    proptest::collection::vec(line, 0..40).prop_map(|lines| lines.join(&b'\n'))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let errno = || prop_oneof![Just(libc::ENOSPC), Just(libc::EIO), Just(libc::EFBIG), Just(libc::EAGAIN)];
    let step = prop_oneof![
        2 => Just(Step::Take),
        1 => (1usize..2000).prop_map(Step::Short),
        2 => errno().prop_map(Step::Fail),
        2 => (1usize..9000, errno()).prop_map(|(count, errno)| Step::ShortThenFail(count, errno)),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn the_joined_log_and_the_counted_loss_are_the_input(
        (out, err) in (text(), text()),
        steps in steps(),
        reads in proptest::collection::vec((any::<bool>(), 1usize..9000, any::<bool>()), 2..9),
        file in prop_oneof![Just(u64::MAX), 50u64..20_000],
        (fifo, can_cut) in (any::<bool>(), any::<bool>()),
    ) {
        let mut disk = Disk::new(steps);
        (disk.fifo, disk.can_cut) = (fifo, can_cut);
        // A file that can't be cut is finished later, so it must not be replaced before.
        let file = if can_cut { file } else { u64::MAX };
        let mut sink = sink(disk, Limits { file, total: u64::MAX });
        let both = [(false, 100, false), (true, 100, false)];
        feed(&mut sink, [&out, &err], &[&reads[..], &both[..]].concat());
        sink.target.steps.clear();
        sink.finish();
        let log: Vec<Record> = sink.target.files.iter().flat_map(|file| records(file)).collect();
        check(&log, [&out, &err], "log");
        if !fifo {
            for file_ in &sink.target.files {
                let records = records(file_);
                let marked = records.len() == 2 && marker(&records[0]).is_some();
                prop_assert!(file_.len() as u64 <= file || records.len() == 1 || marked);
            }
        }
    }
}
