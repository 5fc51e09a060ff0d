//! The k8s-file driver: `stamp stream F|P text`, whole records or nothing.
//!
//! Each append builds its records in one batch and writes them at once. When a write fails, the file is cut back to the
//! last whole record, what is missing is counted, and the next batch that gets through begins with one marker record
//! that tells how much that was. conmon: `ctr_logging.c:write_k8s_log`.

mod limits;
mod write;

use std::io;

use nix::errno::Errno;

use super::Stream;
use super::batch::Batch;
use super::file::{Occasion, Target};
use super::frame::{Piece, Pieces, pieces};
use super::loss::{Count, Loss};
use super::stamp::{PREFIX_LEN, Prefix, Stamp};
use crate::diag::warn;

/// Limits in bytes; `u64::MAX` for none.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub file: u64,
    pub total: u64,
}

/// Whether all that was to be written has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    Done,
    /// The target (a FIFO) is full. The rest is kept.
    Blocked,
    /// Something was lost, and counted.
    Failed,
}

/// What a record that doesn't simply fit leads to.
enum Fit {
    Fits,
    /// The total limit is reached: nothing more is logged.
    Over,
    Blocked,
}

#[derive(Debug)]
pub struct K8s<T> {
    target: T,
    stamp: Stamp,
    batch: Batch,
    /// Length of the marker that the batch begins with; 0 without one.
    marker_len: usize,
    /// The target did not take all of the batch at the last attempt.
    blocked: bool,
    /// The rest of a record that is half written in a target that can't be cut. It goes first.
    torn: Vec<u8>,
    loss: Loss,
    limits: Limits,
    /// Bytes in the file now, and ever written, as far as the batch before this one.
    used: u64,
    total: u64,
    /// The marker of the total limit is in the log.
    told_total: bool,
    /// Since the last success a warning was given: about writing, about replacing the file.
    warned_write: bool,
    warned_renew: bool,
    /// A replacement that failed and is owed, and the second of the last attempt.
    owed: Option<(Occasion, i64)>,
}

impl<T: Target> K8s<T> {
    /// # Errors
    /// No memory for the records.
    pub fn new(target: T, mut limits: Limits, stamp: Stamp) -> io::Result<Self> {
        if !target.is_regular() {
            limits.file = u64::MAX;
        }
        let used = target.size();
        Ok(Self {
            target,
            stamp,
            batch: Batch::new()?,
            marker_len: 0,
            blocked: false,
            torn: Vec::new(),
            loss: Loss::default(),
            limits,
            used,
            total: used,
            told_total: false,
            warned_write: false,
            warned_renew: false,
            owed: None,
        })
    }

    pub fn target(&self) -> &T {
        &self.target
    }

    /// Bytes are held back because the target is full.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// As [`super::Log::append`].
    pub fn append(&mut self, stream: Stream, bytes: &[u8], more: bool) -> usize {
        if self.flush() == Progress::Blocked {
            return 0;
        }
        let prefix = self.stamp.now(stream);
        self.settle_debt();
        self.begin();
        let mut pieces = pieces(bytes, more);
        loop {
            self.fill(&mut pieces, &prefix);
            let Some(piece) = pieces.clone().next() else { break };
            match self.make_room(cost(piece)) {
                Fit::Fits => {
                    self.put(&prefix, piece);
                    pieces.next();
                }
                Fit::Over => {
                    let _ = self.flush();
                    return bytes.len();
                }
                Fit::Blocked => return bytes.len() - pieces.rest().len(),
            }
        }
        let _ = self.flush();
        bytes.len() - pieces.rest().len()
    }

    /// The hot loop: as many pieces as fit without a decision.
    #[inline]
    fn fill(&mut self, pieces: &mut Pieces<'_>, prefix: &Prefix) {
        let mut room = self.free_room();
        let mut writer = self.batch.writer();
        loop {
            let source = pieces.rest();
            let mut ahead = pieces.clone();
            let Some(piece) = ahead.next() else { break };
            let Some(left) = room.checked_sub(cost(piece)) else { break };
            room = left;
            match piece {
                Piece::Full(text) => writer.put_from(&prefix.full, source, text.len()),
                Piece::Partial(text) => {
                    writer.put(&prefix.partial, text);
                    writer.put_bytes(b"\n");
                }
            }
            *pieces = ahead;
        }
    }

    fn put(&mut self, prefix: &Prefix, piece: Piece<'_>) {
        let mut writer = self.batch.writer();
        match piece {
            Piece::Full(text) => writer.put(&prefix.full, text),
            Piece::Partial(text) => {
                writer.put(&prefix.partial, text);
                writer.put_bytes(b"\n");
            }
        }
    }

    /// Starts a batch: with the marker when something is missing before it.
    fn begin(&mut self) {
        if !self.loss.is_empty() && self.batch.is_empty() {
            let cost = self.marker_cost();
            if self.exceeds_file(cost) {
                self.keep_limit(cost);
            }
            self.put_own(&self.loss.text());
        }
    }

    /// The length of the marker that is due; 0 when there is none.
    fn marker_cost(&self) -> usize {
        if self.loss.is_empty() { 0 } else { PREFIX_LEN + self.loss.text().len() + 1 }
    }

    /// A record of the monitor's own. It is not counted as lost with what follows it.
    fn put_own(&mut self, text: &str) {
        let prefix = self.stamp.again(Stream::Stderr);
        let mut writer = self.batch.writer();
        writer.put(&prefix.full, text.as_bytes());
        writer.put_bytes(b"\n");
        drop(writer);
        self.marker_len = self.batch.len();
    }

    /// Counts bytes that never came here.
    pub fn lose_bytes(&mut self, stream: Stream, bytes: &[u8]) {
        self.loss.add(stream, Count::of(bytes), &Errno::EAGAIN.into());
    }

    /// As [`super::Log::reopen`].
    pub fn reopen(&mut self) {
        if !self.target.is_regular() {
            return;
        }
        let _ = self.flush();
        self.renew(Occasion::Request);
    }

    /// As [`super::Log::owes_reopen`].
    pub fn owes_reopen(&self) -> bool {
        matches!(self.owed, Some((Occasion::Request, _)))
    }

    /// As [`super::Log::finish`]. What a full FIFO has not taken by now is lost.
    pub fn finish(&mut self) {
        if self.flush() == Progress::Blocked {
            self.blocked = false;
            self.on_failure(&Errno::EAGAIN.into());
        }
        if !self.loss.is_empty() {
            self.stamp.now(Stream::Stderr);
            self.begin();
        }
        if self.flush() != Progress::Done {
            self.lose_torn(&Errno::EAGAIN.into());
            warn!("{}", self.loss.text());
        }
    }

    /// As [`super::Log::shed`].
    pub fn shed(&mut self) {
        if self.batch.is_empty() {
            self.batch.shed();
        }
    }
}

/// A record's length in the file.
#[inline]
fn cost(piece: Piece<'_>) -> usize {
    match piece {
        Piece::Full(text) => PREFIX_LEN + text.len(),
        Piece::Partial(text) => PREFIX_LEN + text.len() + 1,
    }
}

#[cfg(test)]
mod tests;
