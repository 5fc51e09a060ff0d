//! One of the container's output streams, and the bytes of it that have not found their place yet.
//!
//! The buffer is as large as a pipe plus one unfinished log line. While the runtime creates the container it holds
//! what was written so far, because the end of that is the error message if creation fails. Afterwards it holds at
//! most an unfinished line that the log has not taken.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::pace::{LONG_NAP, NAP, Pace};
use crate::sys::mem::Mapping;

/// What a default pipe holds, so that one read empties it.
pub(super) const READ_SIZE: usize = 64 * 1024;
/// The longest unfinished line that the log leaves with us, and some room.
const TAIL_SIZE: usize = 8 * 1024 + 64;

/// The longest piece that one read of a pipe in packet mode brings. A container puts its pipe into that mode with
/// O_DIRECT, as `dd oflag=direct of=/dev/stdout` does; then a short read does not mean that the pipe is empty.
const PACKET_MAX: usize = libc::PIPE_BUF;

/// What the pipe of a busy stream holds: with less, writer and reader mostly wait for each other. The kernel allocates
/// what is used of it.
const BUSY_PIPE: libc::c_int = 512 * 1024;
/// Reads of at least this much, one after the other, before a stream counts as busy.
const LARGE_READ: usize = READ_SIZE / 2;
const BUSY_AFTER: u32 = 4;

/// How much of a failing runtime's text is kept for the report.
pub(super) const MESSAGE_SIZE: usize = 4096;

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// New bytes, and probably more behind them.
    More,
    /// New bytes, and nothing more right now, unless it [`Output::is_in_doubt`]. Never said of a pty, which hands out its
    /// buffer in small pieces.
    Last,
    /// Nothing to read right now.
    Dry,
    /// No writer is left.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PipeSize {
    Default,
    /// It was this large, in bytes, before it was enlarged.
    Enlarged {
        before: libc::c_int,
    },
    /// It is no pipe, it must not hold much, or the user's share of pipe memory is used up.
    Fixed,
}

#[derive(Debug)]
pub(super) struct Output {
    /// `None` once the last writer is gone.
    source: Option<OwnedFd>,
    is_pty: bool,
    buffer: Mapping,
    /// `buffer[..len]` is held.
    len: usize,
    /// `buffer[..seen]` was shown to attached clients already.
    seen: usize,
    /// What was read since the pipe was last found empty.
    pub(super) since_empty: usize,
    pace: Pace,
    /// Registered with epoll, which is how it normally wakes the loop.
    pub(super) is_watched: bool,
    large_reads: u32,
    pipe: PipeSize,
    /// More than the first page of the buffer was used since [`Output::shed`].
    is_dirty: bool,
    /// The last read may have been a packet, so there may be more.
    is_in_doubt: bool,
}

impl Output {
    /// `source` must be non-blocking.
    ///
    /// # Errors
    /// No address space is left.
    pub(super) fn new(source: OwnedFd, is_pty: bool) -> io::Result<Self> {
        let buffer = Mapping::new(READ_SIZE + TAIL_SIZE)?;
        Ok(Self {
            source: Some(source),
            is_pty,
            buffer,
            len: 0,
            seen: 0,
            since_empty: 0,
            pace: Pace::default(),
            is_watched: false,
            large_reads: 0,
            pipe: if is_pty { PipeSize::Fixed } else { PipeSize::Default },
            is_dirty: false,
            is_in_doubt: false,
        })
    }

    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().map(AsFd::as_fd)
    }

    /// Takes the descriptor out, to be deregistered and closed.
    pub(super) fn close(&mut self) -> Option<OwnedFd> {
        self.source.take()
    }

    /// One read, behind the bytes that are held.
    ///
    /// # Errors
    /// As read(2), where it is neither a full stop nor a pause.
    pub(super) fn fill(&mut self) -> io::Result<Fill> {
        self.is_in_doubt = false;
        let Some(source) = &self.source else { return Ok(Fill::End) };
        let room = self.buffer.get_mut(self.len..).unwrap_or_default();
        let room = if room.len() > READ_SIZE { room.split_at_mut(READ_SIZE).0 } else { room };
        let wanted = room.len();
        let read = loop {
            match nix::unistd::read(source, room) {
                Err(Errno::EINTR) => {}
                Ok(read) => break read,
                Err(Errno::EAGAIN) => return Ok(Fill::Dry),
                // A pty without a follower. That can change: the next one to open it makes it readable again.
                Err(Errno::EIO) if self.is_pty => return Ok(Fill::Dry),
                Err(e) => return Err(e.into()),
            }
        };
        if read == 0 && wanted > 0 {
            return Ok(Fill::End);
        }
        self.len += read;
        self.since_empty += read;
        self.is_dirty |= self.len > 4096;
        self.large_reads = if read >= LARGE_READ { self.large_reads.saturating_add(1) } else { 0 };
        if self.large_reads == BUSY_AFTER {
            self.enlarge_pipe();
        }
        let is_short = read < wanted && !self.is_pty;
        self.is_in_doubt = is_short && read <= PACKET_MAX;
        Ok(if is_short { Fill::Last } else { Fill::More })
    }

    /// The stream is busy.
    pub(super) fn enlarge_pipe(&mut self) {
        if let (PipeSize::Default, Some(source)) = (self.pipe, &self.source) {
            let before = fcntl(source, FcntlArg::F_GETPIPE_SZ).unwrap_or(BUSY_PIPE);
            let enlarged = before < BUSY_PIPE && fcntl(source, FcntlArg::F_SETPIPE_SZ(BUSY_PIPE)).is_ok();
            self.pipe = if enlarged { PipeSize::Enlarged { before } } else { PipeSize::Fixed };
            self.is_dirty |= enlarged;
        }
    }

    /// Only another read shows whether the pipe is empty.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }

    /// The pipe is empty: whether to leave its writer to itself for [`Output::nap`] before the next read.
    pub(super) fn naps(&mut self, now: Instant) -> bool {
        let len = std::mem::take(&mut self.since_empty);
        self.pace.naps_after(len, self.capacity(), now)
    }

    fn capacity(&self) -> usize {
        match self.pipe {
            PipeSize::Enlarged { .. } => BUSY_PIPE as usize,
            PipeSize::Default | PipeSize::Fixed => READ_SIZE,
        }
    }

    /// How long to leave a writer of small pieces to itself.
    pub(super) fn nap(&self) -> Duration {
        match self.pipe {
            PipeSize::Enlarged { .. } => LONG_NAP,
            PipeSize::Default | PipeSize::Fixed => NAP,
        }
    }

    fn restore_pipe(&mut self) {
        if let (PipeSize::Enlarged { before }, Some(source)) = (self.pipe, &self.source) {
            // Refused while it holds more than that; then it is busy still.
            if fcntl(source, FcntlArg::F_SETPIPE_SZ(before)).is_ok() {
                self.pipe = PipeSize::Default;
            }
        }
    }

    pub(super) fn held(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    /// The first `upto` held bytes, less those that clients have seen. They count as seen from now on.
    pub(super) fn take_unseen(&mut self, upto: usize) -> &[u8] {
        let from = self.seen;
        self.seen = from.max(upto);
        self.buffer.get(from..upto).unwrap_or_default()
    }

    /// Forgets the first `taken` held bytes.
    pub(super) fn consume(&mut self, taken: usize) {
        let taken = taken.min(self.len);
        if taken > 0 && taken < self.len {
            self.buffer.copy_within(taken..self.len, 0);
        }
        self.len -= taken;
        self.seen = self.seen.saturating_sub(taken);
    }

    /// There is no room for another whole read.
    pub(super) fn is_crowded(&self) -> bool {
        self.len > TAIL_SIZE
    }

    pub(super) fn ends_mid_line(&self) -> bool {
        self.held().last().is_some_and(|&byte| byte != b'\n')
    }

    /// Leaves the pipe as large as it is, however busy the stream.
    pub(super) fn keep_pipe(&mut self) {
        self.pipe = PipeSize::Fixed;
    }

    /// How many bytes the pipe holds right now.
    pub(super) fn waiting(&self) -> usize {
        // A pty does not say reliably; its buffer is far smaller than this.
        let pty_limit = if self.is_pty { READ_SIZE } else { 0 };
        self.source.as_ref().map_or(0, crate::sys::fd::readable_bytes).max(pty_limit)
    }

    /// Gives the buffer's pages back if it is empty. Returns whether there was anything to give.
    pub(super) fn shed(&mut self) -> bool {
        let sheds = self.is_dirty && self.len == 0;
        if sheds {
            self.buffer.discard();
            self.restore_pipe();
            self.is_dirty = false;
        }
        sheds
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.is_dirty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (Output, OwnedFd) {
        let (read, write) = crate::sys::fd::pipe().unwrap();
        crate::sys::fd::set_nonblocking(&read).unwrap();
        (Output::new(read, false).unwrap(), write)
    }

    #[test]
    fn reads_follow_each_other_behind_an_unfinished_line() {
        let (mut out, write) = pipe();
        assert_eq!(out.fill().unwrap(), Fill::Dry);
        nix::unistd::write(&write, b"one\ntw").unwrap();
        assert_eq!(out.fill().unwrap(), Fill::Last);
        assert!(out.ends_mid_line());
        assert_eq!(out.take_unseen(6), b"one\ntw");
        out.consume(4);
        nix::unistd::write(&write, b"o\n").unwrap();
        assert_eq!(out.fill().unwrap(), Fill::Last);
        assert_eq!((out.held(), out.ends_mid_line()), (b"two\n".as_slice(), false));
        assert_eq!(out.take_unseen(4), b"o\n", "clients see every byte once");
        drop(write);
        // A child that another test is starting at this moment may hold the pipe, too.
        while out.fill().unwrap() != Fill::End {
            std::thread::yield_now();
        }
    }

    #[test]
    fn only_a_read_that_is_longer_than_a_packet_shows_that_the_pipe_is_empty() {
        let (mut out, write) = pipe();
        for (len, is_in_doubt) in [(PACKET_MAX, true), (PACKET_MAX + 1, false)] {
            nix::unistd::write(&write, &vec![b'x'; len]).unwrap();
            assert_eq!((out.fill().unwrap(), out.is_in_doubt()), (Fill::Last, is_in_doubt), "{len}");
            out.consume(len);
        }
        assert_eq!((out.fill().unwrap(), out.is_in_doubt()), (Fill::Dry, false));
    }

    #[test]
    fn a_full_pipe_takes_one_read() {
        let (mut out, write) = pipe();
        nix::unistd::write(&write, &[b'x'; READ_SIZE]).unwrap();
        assert_eq!(out.waiting(), READ_SIZE);
        assert_eq!(out.fill().unwrap(), Fill::More);
        assert!(out.is_crowded());
        out.consume(READ_SIZE);
        assert_eq!(out.fill().unwrap(), Fill::Dry);
        assert!(out.shed() && !out.shed());
    }

    #[test]
    fn the_pipe_of_a_busy_stream_is_larger_until_it_falls_quiet() {
        let (mut out, write) = pipe();
        let size = |write: &OwnedFd| fcntl(write, FcntlArg::F_GETPIPE_SZ).unwrap();
        let before = size(&write);
        for _ in 0..BUSY_AFTER {
            assert_eq!((size(&write), out.nap()), (before, NAP));
            nix::unistd::write(&write, &[b'x'; READ_SIZE]).unwrap();
            assert_eq!(out.fill().unwrap(), Fill::More);
            out.consume(READ_SIZE);
        }
        assert_eq!((size(&write), out.nap()), (BUSY_PIPE, LONG_NAP));
        assert!(out.shed());
        assert_eq!(size(&write), before);
        out.keep_pipe();
        out.enlarge_pipe();
        assert_eq!(size(&write), before);
    }
}
