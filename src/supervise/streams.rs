//! The way of the container's output: from its pipes to the log, then to attached clients.

use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry};

use super::output::{Fill, MESSAGE_SIZE, Output, READ_SIZE};
use super::pace::NAP;
use super::{Event, Monitor, QUIET_AFTER, Turn};
use crate::diag::warn;
use crate::error::{Context, Result, strerror};
use crate::log::Stream;

/// Reads of one stream in one turn, each as large as a pipe.
const READS_PER_TURN: usize = 4;

/// After the container's end, a log that lags behind what its pipes held, but still takes some of it, holds the exit up
/// no longer than this. podman waits five seconds for an exit file.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// How long a full log is left alone after it has said that it takes more; the kernel's timer slack makes it about
/// 0.06 ms. Longer, and a journal whose socket holds ten datagrams runs dry.
const LOG_NAP: Duration = Duration::from_micros(10);

/// How soon a full log is tried again where the kernel can't tell when it takes more.
const LOG_RETRY: Duration = Duration::from_millis(10);

pub(super) const BOTH: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// Both output streams; `None` is one that does not pass through us (yet).
#[derive(Debug)]
pub(super) struct Streams {
    stdout: Option<Output>,
    stderr: Option<Output>,
}

impl Streams {
    /// Registers the read ends that there are.
    ///
    /// # Errors
    /// No address space or kernel memory is left.
    pub(super) fn new(stdout: Option<OwnedFd>, stderr: Option<OwnedFd>, registry: &Registry) -> Result<Self> {
        let open = |stream, end: Option<OwnedFd>| match end {
            Some(end) => Self::open(stream, end, false, registry).map(Some),
            None => Ok(None),
        };
        Ok(Self { stdout: open(Stream::Stdout, stdout)?, stderr: open(Stream::Stderr, stderr)? })
    }

    fn open(stream: Stream, end: OwnedFd, is_pty: bool, registry: &Registry) -> Result<Output> {
        let mut output = Output::new(end, is_pty).context(|| "Failed to map a buffer".into())?;
        if let Some(source) = output.source() {
            watch(registry, source, Event::Output(stream))
                .context(|| "Failed to watch a stdio pipe".into())?;
        }
        output.is_watched = true;
        Ok(output)
    }

    /// The log may be slow: what fills up meanwhile is no more than a pipe holds by itself.
    pub(super) fn keep_pipes(&mut self) {
        [&mut self.stdout, &mut self.stderr].into_iter().flatten().for_each(Output::keep_pipe);
    }

    /// Waits for the stream again, which is reported at once if there is something to read. Returns whether it is, or
    /// need not be, waited for.
    fn rewatch(&mut self, stream: Stream, registry: &Registry) -> bool {
        let Some(output) = self.get(stream).filter(|output| !output.is_watched) else { return true };
        let watching =
            output.source().map_or(Ok(()), |source| watch(registry, source, Event::Output(stream)));
        output.is_watched = watching.is_ok();
        output.is_watched
    }

    /// Does not wait for the stream: every write to a pipe that epoll watches costs the writer a call into epoll,
    /// which is for nothing while the pipe is read by the clock.
    fn unwatch(&mut self, stream: Stream, registry: &Registry) {
        let Some(output) = self.get(stream).filter(|output| output.is_watched) else { return };
        let unwatched = output.source().map(|fd| registry.deregister(&mut SourceFd(&fd.as_raw_fd())));
        output.is_watched = !matches!(unwatched, Some(Ok(())));
    }

    /// The terminal is there: it is stdout from now on.
    ///
    /// # Errors
    /// As [`Streams::new`].
    pub(super) fn open_terminal(&mut self, leader: OwnedFd, registry: &Registry) -> Result<()> {
        self.stdout = Some(Self::open(Stream::Stdout, leader, true, registry)?);
        Ok(())
    }

    pub(super) fn get(&mut self, stream: Stream) -> Option<&mut Output> {
        match stream {
            Stream::Stdout => self.stdout.as_mut(),
            Stream::Stderr => self.stderr.as_mut(),
        }
    }

    /// Gives buffers back that are empty.
    pub(super) fn shed(&mut self) {
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            output.shed();
        }
    }

    fn close(&mut self, stream: Stream, registry: &Registry) {
        // First out of epoll: a duplicate of the pipe in a child would keep it reporting.
        if let Some(source) = self.get(stream).and_then(Output::close) {
            let _ = registry.deregister(&mut SourceFd(&source.as_raw_fd()));
        }
    }
}

/// Watches `source` for input under the token of `event`.
pub(super) fn watch(registry: &Registry, source: BorrowedFd<'_>, event: Event) -> std::io::Result<()> {
    registry.register(&mut SourceFd(&source.as_raw_fd()), event.token(), Interest::READABLE)
}

impl Monitor<'_> {
    pub(super) fn on_output(&mut self, stream: Stream, now: Instant) -> Turn {
        if self.lifecycle.is_creating() {
            return self.hold_back(stream, now);
        }
        let turn = self.read_on(stream, now);
        if turn == Turn::Dry && !self.streams.rewatch(stream, self.poll.registry()) {
            // The kernel has no memory for that now; until it has, the pipe is read by the clock.
            std::thread::sleep(NAP);
            return Turn::More;
        }
        turn
    }

    fn read_on(&mut self, stream: Stream, now: Instant) -> Turn {
        let mut is_probe = false;
        for _ in 0..READS_PER_TURN {
            if self.is_held(stream) {
                // The log or a client takes no more for now: the pipe fills up, as if they held its other end.
                // `resume` brings us back.
                self.deliver_all(stream, false, now);
                return Turn::Dry;
            }
            if self.pump(stream, now) == Turn::More {
                continue;
            }
            // A probe that brings nothing says nothing of how the container writes.
            let Some(output) = self.streams.get(stream) else { return Turn::Dry };
            if is_probe && output.since_empty == 0 {
                return Turn::Dry;
            }
            if self.pace(stream, now) == Turn::More {
                return Turn::More;
            }
            if !self.streams.get(stream).is_some_and(|output| output.is_in_doubt()) {
                return Turn::Dry;
            }
            is_probe = true;
        }
        Turn::More
    }

    /// The pipe is empty. A container that writes line after line is given a moment to fill it again, unless somebody
    /// is attached, who may be waiting for an answer.
    fn pace(&mut self, stream: Stream, now: Instant) -> Turn {
        let Some(output) = self.streams.get(stream) else { return Turn::Dry };
        if output.source().is_none() || !output.naps(now) || self.attach.has_clients() {
            return Turn::Dry;
        }
        output.enlarge_pipe();
        let nap = output.nap();
        self.streams.unwatch(stream, self.poll.registry());
        std::thread::sleep(nap);
        Turn::More
    }

    /// There is no container, and will not be: reads what the pipe holds at this moment, of which the end is kept. Not
    /// more, because a child of the runtime may go on writing for ever.
    pub(super) fn read_last_words(&mut self, stream: Stream, now: Instant) {
        let waiting = self.streams.get(stream).map_or(0, |output| output.waiting());
        for _ in 0..=waiting / READ_SIZE {
            if self.hold_back(stream, now) == Turn::Dry {
                return;
            }
        }
    }

    /// One read, and everything that follows from it.
    fn pump(&mut self, stream: Stream, now: Instant) -> Turn {
        let Some(output) = self.streams.get(stream) else { return Turn::Dry };
        match output.fill() {
            Ok(Fill::More) => {
                self.deliver_all(stream, true, now);
                Turn::More
            }
            Ok(Fill::Last) => {
                // A line may be in the middle of being written; one more read tells whether the rest is there.
                let is_unfinished = output.ends_mid_line();
                self.deliver_all(stream, is_unfinished, now);
                if is_unfinished { Turn::More } else { Turn::Dry }
            }
            Ok(Fill::Dry) => {
                self.deliver_all(stream, false, now);
                Turn::Dry
            }
            Ok(Fill::End) => self.end_of(stream, now),
            Err(e) => {
                warn!("Failed to read the container's {}: {}", stream.name(), strerror(&e));
                self.end_of(stream, now)
            }
        }
    }

    fn end_of(&mut self, stream: Stream, now: Instant) -> Turn {
        self.deliver_all(stream, false, now);
        self.streams.close(stream, self.poll.registry());
        Turn::Dry
    }

    /// Before there is a container: keeps what the runtime writes, the end of which explains a failure. What is more
    /// than that is passed on, so that a talkative runtime waits for nothing but a full log.
    pub(super) fn hold_back(&mut self, stream: Stream, now: Instant) -> Turn {
        for _ in 0..READS_PER_TURN {
            let Some(output) = self.streams.get(stream) else { return Turn::Dry };
            if output.is_crowded() {
                let held = output.held().len();
                if self.is_log_full && self.lifecycle.is_creating() {
                    return Turn::Dry;
                }
                if self.is_log_full {
                    // There will be no container, so the log does not miss it, and the end is still to come.
                    output.consume(held - MESSAGE_SIZE);
                    continue;
                }
                self.deliver(stream, held - MESSAGE_SIZE, true, now);
                let is_stuck = self.streams.get(stream).is_some_and(|output| output.held().len() == held);
                if is_stuck && !self.is_log_full {
                    // One long line, whose start would take the room for the next read.
                    self.deliver(stream, held - MESSAGE_SIZE, false, now);
                }
                continue;
            }
            match output.fill() {
                Ok(Fill::More | Fill::Last) => {}
                Ok(Fill::Dry) => return Turn::Dry,
                Ok(Fill::End) | Err(_) => {
                    self.streams.close(stream, self.poll.registry());
                    return Turn::Dry;
                }
            }
        }
        Turn::More
    }

    /// Log first, then clients. `more`: the rest of an unfinished line can be read at once.
    pub(super) fn deliver_all(&mut self, stream: Stream, more: bool, now: Instant) {
        let all = self.streams.get(stream).map_or(0, |output| output.held().len());
        self.deliver(stream, all, more, now);
    }

    fn deliver(&mut self, stream: Stream, upto: usize, more: bool, now: Instant) {
        let Some(output) = self.streams.get(stream) else { return };
        let bytes = output.held().get(..upto).unwrap_or_default();
        // A log that is full may hold back what it has taken; then it wants to be called without anything new, too.
        if bytes.is_empty() && self.log.blocked().is_none() {
            return;
        }
        let taken = self.log.append(stream, bytes, more);
        self.attach.broadcast(stream, output.take_unseen(upto), self.poll.registry(), now);
        output.consume(taken);
        if output.is_dirty() {
            self.deadlines.quiet = Some(now + QUIET_AFTER);
        }
        self.watch_full_log(now);
    }

    fn is_held(&self, stream: Stream) -> bool {
        self.is_log_full || self.attach.holds(stream)
    }

    /// Waits for a log that is full, and goes on when it is full no longer.
    fn watch_full_log(&mut self, now: Instant) {
        let Some(full) = self.log.blocked() else {
            self.deadlines.log = None;
            if std::mem::take(&mut self.is_log_full) {
                // Nobody else would say so: what was full may be gone, and its descriptor with it.
                self.resume();
            }
            return;
        };
        self.is_log_full = true;
        let (registry, fd, token) = (self.poll.registry(), full.as_raw_fd(), Event::Log.token());
        let watching = match registry.register(&mut SourceFd(&fd), token, Interest::WRITABLE) {
            // Still watched from a time when another source found it full. Asking anew tells if there is room by now.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                registry.reregister(&mut SourceFd(&fd), token, Interest::WRITABLE)
            }
            watching => watching,
        };
        self.deadlines.log = watching.is_err().then(|| now + LOG_RETRY);
        let was_unwatched = std::mem::replace(&mut self.is_log_unwatched, watching.is_err());
        if let (Err(e), false) = (watching, was_unwatched) {
            warn!("Failed to wait for the log, trying it by the clock: {}", strerror(&e));
        }
    }

    pub(super) fn on_log_writable(&mut self, now: Instant) -> Turn {
        // Its reader has taken one record. Answering each with the next would wake both for every record, so it is left
        // to make room for several.
        std::thread::sleep(LOG_NAP);
        if let Some(full) = self.log.blocked() {
            let _ = self.poll.registry().deregister(&mut SourceFd(&full.as_raw_fd()));
        }
        self.is_log_full = false;
        for stream in BOTH {
            if self.lifecycle.is_creating() {
                // What the runtime said last stays here: it is the message if there is to be no container.
                self.deliver(stream, 0, false, now);
            } else {
                self.deliver_all(stream, false, now);
            }
        }
        self.resume();
        Turn::Dry
    }

    /// Clients have taken something: streams that waited for that go on.
    pub(super) fn resume(&mut self) {
        for stream in BOTH {
            if !self.is_held(stream) {
                self.mark(Event::Output(stream));
            }
        }
    }

    /// Takes what the pipes hold at this moment, and no more: an orphan of the container may go on writing for ever.
    pub(super) fn drain(&mut self) {
        let start = Instant::now();
        // The container may have come and gone since the kernel was asked last. Whoever attached to it before it
        // wrote this is waiting to be accepted.
        self.attach.accept_all(self.poll.registry(), start);
        for stream in BOTH {
            self.drain_one(stream, start + DRAIN_LIMIT);
        }
        self.log.finish();
        self.close_streams();
        // Who has asked for the log to be reopened waits for the new file, and CRI-O does so for ever.
        self.on_control(Event::Ctl, Instant::now());
    }

    /// Whatever is written from now on has come too late.
    pub(super) fn close_streams(&mut self) {
        for stream in BOTH {
            self.streams.close(stream, self.poll.registry());
        }
    }

    fn drain_one(&mut self, stream: Stream, deadline: Instant) {
        let mut left = self.streams.get(stream).map_or(0, |output| output.waiting());
        // The log takes nothing more in time: the rest is read to be counted.
        let mut late = false;
        loop {
            let now = Instant::now();
            let Some(output) = self.streams.get(stream) else { return };
            let held = output.held().len();
            let filled = if left > 0 { output.fill() } else { Ok(Fill::Dry) };
            left = left.saturating_sub(output.held().len() - held);
            let last = !matches!(filled, Ok(Fill::More | Fill::Last)) || left == 0;
            if last || late {
                self.deliver_last(stream, if late { now } else { deadline }, now);
            } else {
                self.deliver_all(stream, true, now);
                late = !self.log.wait(deadline);
            }
            if last {
                return;
            }
        }
    }

    /// As [`Monitor::deliver_all`], but nobody will come back for what a full log does not take until `deadline`.
    fn deliver_last(&mut self, stream: Stream, deadline: Instant, now: Instant) {
        let Some(output) = self.streams.get(stream) else { return };
        let all = output.held().len();
        if all > 0 {
            self.log.append_last(stream, output.held(), deadline);
            self.attach.broadcast(stream, output.take_unseen(all), self.poll.registry(), now);
            output.consume(all);
        }
    }
}
