//! What a record may need before it is put: a new file, a write, or that nothing more is logged.

use std::io;

use super::{Fit, K8s, Progress};
use crate::diag::warn;
use crate::error::strerror;
use crate::log::file::{Occasion, Renewed, Target};
use crate::log::stamp::PREFIX_LEN;

impl<T: Target> K8s<T> {
    /// Bytes of records that may be added before a write, a new file or the end is due.
    pub(super) fn free_room(&self) -> usize {
        let used = self.batch.len() as u64;
        let file = self.file_limit().saturating_sub(self.used).saturating_sub(used);
        let total = self.limits.total.saturating_sub(self.total).saturating_sub(used);
        usize::try_from(file.min(total)).unwrap_or(usize::MAX).min(self.batch.room())
    }

    /// Decides about a record of `cost` bytes, in conmon's order: total limit, file limit.
    pub(super) fn make_room(&mut self, cost: usize) -> Fit {
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

    pub(super) fn exceeds_file(&self, cost: usize) -> bool {
        self.used.saturating_add((self.batch.len() + cost) as u64) > self.file_limit()
    }

    /// A file that could not be replaced grows on until the next attempt.
    fn file_limit(&self) -> u64 {
        if self.renewed_this_second() { u64::MAX } else { self.limits.file }
    }

    /// Replaces a file that a record of `cost` bytes does not fit into; nothing is held in the batch.
    pub(super) fn keep_limit(&mut self, cost: usize) {
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

    pub(super) fn settle_debt(&mut self) {
        if let Some((Occasion::Request, _)) = self.owed
            && !self.renewed_this_second()
        {
            self.renew(Occasion::Request);
        }
    }

    pub(super) fn renew(&mut self, occasion: Occasion) {
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
            warn!("{what} {}", strerror(error));
        }
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
}
