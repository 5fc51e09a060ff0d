//! The journald driver: complete lines as journal entries, many a system call.
//!
//! A line is held back until its newline comes or it is as long as an entry may be; then its priority prefix is known as
//! well, however many reads it came in. A full socket is waited for, and the container with it; a journal that isn't
//! there loses entries, which are counted and told when it is back. conmon: `ctr_logging.c:write_journald`.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::sys::bytes;

use super::Stream;
use super::journal_record::{Fields, Priority};
use super::k8s::Progress;
use super::loss::{Count, Loss};
use crate::diag::warn;
use crate::error::strerror;
use crate::sys::datagram::{SEND_MAX, send_many, send_sealed};

pub const SOCKET: &str = "/run/systemd/journal/socket";

/// conmon's longest line, without its newline.
pub const LINE_MAX: usize = 8191;

/// What a line may take of our memory, however it is set.
const LINE_MAX_LIMIT: usize = 64 * 1024 * 1024;

/// Entries are sent when they take this much memory, or are [`SEND_MAX`].
const BATCH_LEN: usize = 128 * 1024;

/// Longer entries go in a sealed file. A socket that is writable has room for this much, so nobody waits in vain.
const DATAGRAM_MAX: usize = 32 * 1024;

/// Where an entry's priority comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrioritySource {
    /// `<N>` at the start of a line, else the stream.
    Prefix,
    /// The stream alone, and a prefix is text like any other: podman's reader knows only 6 and 3.
    Stream,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of a line, without its newline, that one entry holds.
    pub line_max: usize,
    pub priority: PrioritySource,
}

impl Settings {
    /// What the driver's configuration has put into the environment; `get` is `std::env::var_os`.
    pub fn from_env(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let line_max = get("CONMON_JOURNALD_LINE_MAX").map_or(LINE_MAX, |value| {
            let parsed = value
                .to_str()
                .and_then(|text| text.parse().ok())
                .filter(|max| (1..=LINE_MAX_LIMIT).contains(max));
            parsed.unwrap_or_else(|| {
                warn!(
                    "CONMON_JOURNALD_LINE_MAX is not a number from 1 to {LINE_MAX_LIMIT}, using {LINE_MAX}"
                );
                LINE_MAX
            })
        });
        let priority = match get("CONMON_JOURNALD_PRIORITY") {
            Some(value) if value == "stream" => PrioritySource::Stream,
            _ => PrioritySource::Prefix,
        };
        Self { line_max, priority }
    }
}

/// An unfinished line of one stream.
#[derive(Debug, Default)]
struct Line {
    text: Vec<u8>,
    /// Entries with the line's start have been sent, with this priority.
    begun: Option<Priority>,
}

/// An encoded entry.
#[derive(Debug)]
struct Entry {
    range: Range<usize>,
    stream: Stream,
    /// What is missing when it can't be sent; nothing for the monitor's own entries.
    holds: Count,
}

impl Entry {
    fn is_marker(&self) -> bool {
        self.holds == Count::default()
    }
}

#[derive(Debug)]
pub struct Journald {
    path: PathBuf,
    /// `None` while nobody listens there.
    socket: Option<UnixDatagram>,
    fields: Fields,
    settings: Settings,
    stdout: Line,
    stderr: Line,
    batch: Vec<u8>,
    entries: Vec<Entry>,
    /// How many of `entries` are sent; not 0 only while the socket is full.
    sent: usize,
    blocked: bool,
    loss: Loss,
    /// What the marker among `entries` tells; it is lost with it.
    telling: Loss,
    /// A warning was given since the last success.
    warned: bool,
}

impl Journald {
    /// The journal need not be there yet.
    pub fn new(path: &Path, fields: Fields, settings: Settings) -> Self {
        Self {
            path: path.to_owned(),
            socket: None,
            fields,
            settings,
            stdout: Line::default(),
            stderr: Line::default(),
            batch: Vec::new(),
            entries: Vec::new(),
            sent: 0,
            blocked: false,
            loss: Loss::default(),
            telling: Loss::default(),
            warned: false,
        }
    }

    /// The full socket, `None` when nothing is held back.
    pub fn blocked(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| self.blocked).map(|socket| socket.as_fd())
    }

    /// Takes `bytes`, or as much as the socket has room for.
    pub fn append(&mut self, stream: Stream, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        if self.flush() == Progress::Blocked {
            return 0;
        }
        while !rest.is_empty() {
            if self.is_full() && self.flush() == Progress::Blocked {
                return bytes.len() - rest.len();
            }
            rest = self.take_line(stream, rest);
        }
        let _ = self.flush();
        bytes.len()
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= SEND_MAX || self.batch.len() >= BATCH_LEN
    }

    fn line(&mut self, stream: Stream) -> &mut Line {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Makes an entry of the start of `rest`, or holds all of it back; returns what comes behind.
    fn take_line<'a>(&mut self, stream: Stream, rest: &'a [u8]) -> &'a [u8] {
        // conmon: the newline counts, so a longer line is cut at 8192 bytes.
        let max = self.settings.line_max.saturating_add(1);
        let mut held = std::mem::take(&mut self.line(stream).text);
        let room = max.saturating_sub(held.len()).max(1);
        let window = rest.get(..room).unwrap_or(rest);
        let (end, full) = match bytes::find(b'\n', window) {
            Some(end) => (end + 1, true),
            None => (window.len(), false),
        };
        let (text, behind) = rest.split_at_checked(end).unwrap_or((rest, b""));
        if full || held.len() + text.len() >= max {
            self.put(stream, &held, text, full);
            held.clear();
        } else {
            held.extend_from_slice(text);
        }
        self.line(stream).text = held;
        behind
    }

    /// Encodes `head` and `tail`, which `full`-y end a line or not.
    fn put(&mut self, stream: Stream, head: &[u8], tail: &[u8], full: bool) {
        let holds = Count { bytes: (head.len() + tail.len()) as u64, lines: u64::from(full) };
        let begun = self.line(stream).begun;
        let (priority, parts) = match (begun, self.settings.priority) {
            (Some(priority), _) => (priority, [head, tail]),
            (None, PrioritySource::Stream) => (Priority::of(stream), [head, tail]),
            (None, PrioritySource::Prefix) => split_priority(stream, head, tail),
        };
        self.line(stream).begun = (!full).then_some(priority);
        self.encode(stream, parts, priority, !full, holds);
    }

    fn encode(&mut self, stream: Stream, parts: [&[u8]; 2], priority: Priority, partial: bool, holds: Count) {
        let start = self.batch.len();
        self.fields.encode(&mut self.batch, parts, priority, partial);
        self.entries.push(Entry { range: start..self.batch.len(), stream, holds });
    }

    /// Sends what is encoded.
    pub fn flush(&mut self) -> Progress {
        self.blocked = false;
        if self.entries.is_empty() {
            return Progress::Done;
        }
        let progress = match self.send() {
            Ok(()) => {
                self.warned = false;
                Progress::Done
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                return Progress::Blocked;
            }
            Err(error) => {
                self.lose(&error);
                Progress::Failed
            }
        };
        self.forget();
        progress
    }

    fn forget(&mut self) {
        self.batch.clear();
        self.entries.clear();
        (self.sent, self.telling) = (0, Loss::default());
    }

    /// Sends all entries, over a new connection when the old one turns out to be dead.
    fn send(&mut self) -> io::Result<()> {
        let mut fresh = self.connect()?;
        self.tell_loss();
        while self.sent < self.entries.len() {
            match self.send_some() {
                Ok((count, offered)) => {
                    self.sent += count;
                    if count < offered {
                        // Full. Asking on would get one entry in each time that the journal takes one out.
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ECONNREFUSED | libc::ENOTCONN | libc::ECONNRESET | libc::EPIPE) => {
                        self.socket = None;
                        if std::mem::replace(&mut fresh, true) {
                            return Err(error);
                        }
                        self.connect()?;
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// One system call's worth; returns how many entries went out, of how many.
    fn send_some(&self) -> io::Result<(usize, usize)> {
        let Some(socket) = &self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        let unsent = self.entries.get(self.sent..).unwrap_or_default();
        let small =
            unsent.iter().map(|entry| entry.range.clone()).take_while(|range| range.len() <= DATAGRAM_MAX);
        let sealed = || {
            let first = unsent.first().and_then(|entry| self.batch.get(entry.range.clone()));
            send_sealed(socket.as_fd(), first.unwrap_or_default()).map(|()| (1, 1))
        };
        let offered = small.clone().take(SEND_MAX).count();
        if offered == 0 {
            return sealed();
        }
        match send_many(socket.as_fd(), &self.batch, small) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOBUFS)) => sealed(),
            sent => sent.map(|count| (count, offered)),
        }
    }

    /// Whether the connection is a new one.
    fn connect(&mut self) -> io::Result<bool> {
        if self.socket.is_some() {
            return Ok(false);
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // The library does not repeat this call by itself.
        while let Err(error) = socket.connect(&self.path) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        self.socket = Some(socket);
        Ok(true)
    }

    /// Puts one entry that tells what is missing before those that are about to be sent.
    fn tell_loss(&mut self) {
        if self.loss.is_empty() || self.sent > 0 {
            return;
        }
        self.telling = std::mem::take(&mut self.loss);
        let text = self.telling.text();
        self.encode(
            Stream::Stderr,
            [text.as_bytes(), b"\n"],
            Priority::of(Stream::Stderr),
            false,
            Count::default(),
        );
        if let Some(marker) = self.entries.pop() {
            self.entries.insert(0, marker);
        }
    }

    fn lose(&mut self, error: &io::Error) {
        for entry in self.entries.get(self.sent..).unwrap_or_default() {
            if entry.is_marker() {
                self.loss.merge(std::mem::take(&mut self.telling));
            } else {
                self.loss.add(entry.stream, entry.holds, error);
            }
        }
        if !std::mem::replace(&mut self.warned, true) {
            warn!("Failed to write to the journal, entries are being lost: {}", strerror(error));
        }
    }

    /// As [`super::Log::finish`], first half: what was held back becomes entries.
    pub fn end_lines(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let text = std::mem::take(&mut self.line(stream).text);
            if !text.is_empty() {
                self.put(stream, &text, b"", false);
            }
        }
    }

    /// As [`super::Log::finish`], second half: what a full socket has not taken by now is lost.
    pub fn give_up(&mut self) {
        if self.flush() == Progress::Blocked {
            self.lose(&io::Error::from_raw_os_error(libc::EAGAIN));
            self.blocked = false;
            self.forget();
        } else if !self.loss.is_empty() && self.connect().is_ok() {
            self.tell_loss();
            let _ = self.flush();
        }
        if !self.loss.is_empty() {
            warn!("{}", self.loss.text());
        }
    }

    /// Counts bytes that never came here.
    pub fn lose_bytes(&mut self, stream: Stream, bytes: &[u8]) {
        self.loss.add(stream, Count::of(bytes), &io::Error::from_raw_os_error(libc::EAGAIN));
    }

    /// As [`super::Log::shed`].
    pub fn shed(&mut self) {
        if self.entries.is_empty() {
            (self.batch, self.entries) = (Vec::new(), Vec::new());
        }
        self.stdout.text.shrink_to_fit();
        self.stderr.text.shrink_to_fit();
    }
}

/// Takes a priority off the start of a line whose head may have come earlier than its tail.
fn split_priority<'a>(stream: Stream, head: &'a [u8], tail: &'a [u8]) -> (Priority, [&'a [u8]; 2]) {
    const PREFIX_LEN: usize = 3;
    let mut start = [0; PREFIX_LEN];
    for (to, from) in start.iter_mut().zip(head.iter().chain(tail)) {
        *to = *from;
    }
    match Priority::split(&start) {
        Some((priority, _)) => {
            let of_head = head.len().min(PREFIX_LEN);
            let parts = [head.get(of_head..), tail.get(PREFIX_LEN - of_head..)];
            (priority, parts.map(Option::unwrap_or_default))
        }
        None => (Priority::of(stream), [head, tail]),
    }
}

#[cfg(test)]
mod tests;
