//! What a container writes, and what of it could not be logged, can be told from its log to the byte: whatever the
//! sizes of the reads, the limits and the failures of the disk.

#![no_main]

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use ferromon::log::Stream;
use ferromon::log::file::{Occasion, Renewed, Target};
use ferromon::log::k8s::{K8s, Limits};
use ferromon::log::stamp::PREFIX_LEN;
use libfuzzer_sys::fuzz_target;

/// A disk that keeps everything, also what was in files that have been replaced.
struct Disk {
    bytes: Rc<RefCell<Vec<u8>>>,
    file_start: usize,
    /// How many bytes each write takes at most; used up, everything works.
    plan: Vec<u8>,
}

impl Target for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = match self.plan.pop() {
            Some(0) => return Err(io::Error::from_raw_os_error(28)),
            Some(step) if step < 128 => usize::from(step) * 5,
            _ => bytes.len(),
        };
        let taken = bytes.len().min(room);
        self.bytes.borrow_mut().extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn take_back(&mut self, count: u64) -> io::Result<()> {
        let mut bytes = self.bytes.borrow_mut();
        let left = bytes.len() - usize::try_from(count).expect("size");
        assert!(left >= self.file_start, "cuts a file that is gone");
        bytes.truncate(left);
        Ok(())
    }

    fn size(&self) -> u64 {
        (self.bytes.borrow().len() - self.file_start) as u64
    }

    fn is_regular(&self) -> bool {
        true
    }

    fn renew(&mut self, _: Occasion) -> io::Result<Renewed> {
        if self.plan.last().is_some_and(|step| *step == 1) {
            return Err(io::Error::from_raw_os_error(24));
        }
        self.file_start = self.bytes.borrow().len();
        Ok(Renewed::Replaced)
    }
}

/// Bytes of stdout in the log, and bytes that markers say are missing.
fn read_back(log: &[u8]) -> (Vec<u8>, u64) {
    let (mut joined, mut missing) = (Vec::new(), 0);
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        assert!(
            line.ends_with(b"\n") && line.len() > PREFIX_LEN,
            "torn: {:?}",
            String::from_utf8_lossy(line)
        );
        let (prefix, payload) = line.split_at(PREFIX_LEN);
        if prefix.windows(6).any(|word| word == b"stderr") {
            // Nothing but markers is written there in this target.
            let text = String::from_utf8_lossy(payload);
            let numbers = text.split(' ').zip(text.split(' ').skip(1));
            let bytes = numbers.filter(|(_, unit)| unit.starts_with("bytes"));
            missing += bytes.filter_map(|(number, _)| number.parse::<u64>().ok()).sum::<u64>();
        } else {
            let whole = prefix[PREFIX_LEN - 2] == b'F';
            joined.extend_from_slice(if whole { payload } else { &payload[..payload.len() - 1] });
        }
    }
    (joined, missing)
}

fuzz_target!(|data: &[u8]| {
    let (plan, stream) = data.split_at(data.len().min(12));
    let limit = match plan.first() {
        Some(byte) if *byte < 100 => u64::from(*byte) * 20 + 1,
        _ => u64::MAX,
    };
    let bytes = Rc::new(RefCell::new(Vec::new()));
    let disk = Disk { bytes: Rc::clone(&bytes), file_start: 0, plan: plan.to_vec() };
    let works = plan.iter().all(|step| *step >= 2);
    let mut log =
        K8s::new(disk, Limits { file: limit, total: u64::MAX }, Default::default()).expect("memory");
    let (mut held, mut at, mut turn) = (Vec::new(), 0, 0usize);
    while at < stream.len() {
        let step = usize::from(plan.get(turn % plan.len().max(1)).copied().unwrap_or(255));
        turn += 1;
        let end = (at + step * 31 + 1).min(stream.len());
        held.extend_from_slice(&stream[at..end]);
        at = end;
        let taken = log.append(Stream::Stdout, &held, step % 2 == 1 && at < stream.len());
        held.drain(..taken);
    }
    let taken = log.append(Stream::Stdout, &held, false);
    assert_eq!(taken, held.len());
    // Once writes work again nothing is missing that is not told.
    let works_again = log.target().plan.is_empty();
    log.finish();
    let (joined, missing) = read_back(&bytes.borrow());
    if works {
        assert_eq!(joined, stream);
    } else {
        let told = joined.len() as u64 + missing;
        assert!(told <= stream.len() as u64 && (told == stream.len() as u64 || !works_again));
    }
});
