//! The k8s-file driver: `stamp stream F|P text`, whole records or nothing.
//!
//! Each append builds its records in one batch and writes them at once. When a write fails, the file is cut back to the
//! last whole record, what is missing is counted, and the next batch that gets through begins with one marker record
//! that tells how much that was. conmon: `ctr_logging.c:write_k8s_log`.

use std::io;

use crate::sys::bytes;
use nix::errno::Errno;

use super::Stream;
use super::batch::Batch;
use super::file::{Occasion, Renewed, Target};
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

    /// Bytes of records that may be added before a write, a new file or the end is due.
    fn free_room(&self) -> usize {
        let used = self.batch.len() as u64;
        let file = self.file_limit().saturating_sub(self.used).saturating_sub(used);
        let total = self.limits.total.saturating_sub(self.total).saturating_sub(used);
        usize::try_from(file.min(total)).unwrap_or(usize::MAX).min(self.batch.room())
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

    /// Decides about a record of `cost` bytes, in conmon's order: total limit, file limit.
    fn make_room(&mut self, cost: usize) -> Fit {
        if self.total.saturating_add(self.batch.len() as u64) >= self.limits.total {
            self.tell_total();
            return Fit::Over;
        }
        // Twice, because a marker may come first and leave no room; a marker that fails again shares its file.
        for _ in 0..2 {
            if !self.exceeds_file(cost) {
                break;
            }
            if self.flush() == Progress::Blocked {
                return Fit::Blocked;
            }
            self.keep_limit(cost + self.marker_cost());
            self.begin();
        }
        if cost > self.batch.room() {
            if self.flush() == Progress::Blocked {
                return Fit::Blocked;
            }
            self.begin();
        }
        Fit::Fits
    }

    fn exceeds_file(&self, cost: usize) -> bool {
        self.used.saturating_add((self.batch.len() + cost) as u64) > self.file_limit()
    }

    /// A file that could not be replaced grows on until the next attempt.
    fn file_limit(&self) -> u64 {
        if self.renewed_this_second() { u64::MAX } else { self.limits.file }
    }

    /// Replaces a file that a record of `cost` bytes does not fit into; nothing is held in the batch.
    fn keep_limit(&mut self, cost: usize) {
        // Somebody may have emptied the file (copytruncate).
        self.used = self.target.size();
        if self.used > 0 && self.exceeds_file(cost) {
            self.renew(Occasion::SizeLimit);
        }
    }

    /// A failed attempt is not repeated for every record.
    fn renewed_this_second(&self) -> bool {
        self.owed.is_some_and(|(_, second)| second == self.stamp.second())
    }

    fn settle_debt(&mut self) {
        if let Some((Occasion::Request, _)) = self.owed
            && !self.renewed_this_second()
        {
            self.renew(Occasion::Request);
        }
    }

    fn renew(&mut self, occasion: Occasion) {
        match self.target.renew(occasion) {
            Ok(Renewed::Replaced) => self.warned_renew = false,
            Ok(Renewed::Emptied(error)) => {
                self.warn_renew("Log file could not be rotated and was emptied:", &error)
            }
            Err(error) => {
                self.warn_renew("Failed to reopen log file, keeping the old one:", &error);
                let occasion = self
                    .owed
                    .map_or(occasion, |(owed, _)| if owed == Occasion::Request { owed } else { occasion });
                self.owed = Some((occasion, self.stamp.second()));
                return;
            }
        }
        self.owed = None;
        self.used = self.target.size();
        self.lose_torn(&io::Error::other("the file was replaced"));
    }

    fn warn_renew(&mut self, what: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.warned_renew, true) {
            warn!("{what} {}", crate::error::strerror(error));
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

    fn tell_total(&mut self) {
        if self.told_total || self.flush() == Progress::Blocked {
            return;
        }
        let text = format!("conmon: log ends here: its total size has reached {} bytes", self.limits.total);
        let cost = PREFIX_LEN + text.len() + 1;
        if self.exceeds_file(cost) {
            self.keep_limit(cost);
        }
        self.begin();
        self.put_own(&text);
        self.told_total = self.flush() != Progress::Failed;
    }

    /// Writes what the batch holds.
    pub fn flush(&mut self) -> Progress {
        if self.batch.is_empty() && self.torn.is_empty() {
            return Progress::Done;
        }
        let written = self.write_out();
        self.blocked = matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        if self.blocked {
            return Progress::Blocked;
        }
        match written {
            Ok(()) => {
                self.account(self.batch.len());
                if self.marker_len > 0 {
                    self.loss = Loss::default();
                    self.warned_write = false;
                }
            }
            Err(error) => {
                self.on_failure(&error);
                return Progress::Failed;
            }
        }
        self.clear();
        Progress::Done
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.marker_len = 0;
    }

    fn write_out(&mut self) -> io::Result<()> {
        while !self.torn.is_empty() {
            let count = write_some(&mut self.target, &self.torn)?;
            self.torn.drain(..count.min(self.torn.len()));
        }
        while !self.batch.unsent().is_empty() {
            let count = write_some(&mut self.target, self.batch.unsent())?;
            self.batch.advance(count);
        }
        Ok(())
    }

    fn account(&mut self, written: usize) {
        self.used += written as u64;
        self.total += written as u64;
    }

    /// Leaves whole records in the file and counts the others.
    fn on_failure(&mut self, error: &io::Error) {
        let (sent, records) = (self.batch.sent(), self.batch.records());
        let whole =
            records.get(..sent).and_then(|sent| bytes::find_last(b'\n', sent)).map_or(0, |end| end + 1);
        // A marker alone would only eat the last bytes of a full disk, again and again.
        let mut keep = if self.marker_len > 0 && self.target.is_regular() { 0 } else { whole };
        if sent > keep && self.target.take_back((sent - keep) as u64).is_err() {
            keep = whole;
            if sent > whole {
                let rest = records.get(sent..).unwrap_or_default();
                let end = bytes::find(b'\n', rest).map_or(rest.len(), |end| end + 1);
                self.torn = rest.get(..end).unwrap_or_default().to_vec();
                keep = sent + end;
            }
        }
        if self.marker_len > 0 && keep >= self.marker_len {
            self.loss = Loss::default();
        }
        self.loss.add_records(records.get(keep.max(self.marker_len)..).unwrap_or_default(), error);
        self.account(keep);
        self.clear();
        if self.target.is_regular() {
            self.used = self.target.size();
        }
        if !std::mem::replace(&mut self.warned_write, true) {
            warn!("Failed to write to the log, records are being lost: {}", crate::error::strerror(error));
        }
    }

    /// Gives up the end of a half written record. Whose it was isn't known any more.
    fn lose_torn(&mut self, reason: &io::Error) {
        if !self.torn.is_empty() {
            let lost = Count { bytes: self.torn.len() as u64, lines: 1 };
            self.torn.clear();
            self.loss.add(Stream::Stdout, lost, reason);
        }
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

fn write_some(target: &mut impl Target, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match target.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;
