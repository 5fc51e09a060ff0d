//! Writing a batch, and what becomes of it when that fails.

use std::io;

use super::{K8s, Progress};
use crate::diag::warn;
use crate::error::strerror;
use crate::log::Stream;
use crate::log::file::Target;
use crate::log::loss::{Count, Loss};
use crate::sys::bytes;

impl<T: Target> K8s<T> {
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
    pub(super) fn on_failure(&mut self, error: &io::Error) {
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
            warn!("Failed to write to the log, records are being lost: {}", strerror(error));
        }
    }

    /// Gives up the end of a half written record. Whose it was isn't known any more.
    pub(super) fn lose_torn(&mut self, reason: &io::Error) {
        if !self.torn.is_empty() {
            let lost = Count { bytes: self.torn.len() as u64, lines: 1 };
            self.torn.clear();
            self.loss.add(Stream::Stdout, lost, reason);
        }
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
