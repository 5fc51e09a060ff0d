//! The container's log: where every byte of its output goes first, before any attached client sees it.

pub mod batch;
pub mod file;
pub mod frame;
pub mod journal_record;
pub mod journald;
pub mod k8s;
pub mod loss;
mod rotate;
#[cfg(test)]
mod scratch;
pub mod stamp;

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::fsync;

use crate::config::LogConfig;
use crate::diag::warn;
use crate::error::{Error, Result};
use file::{LogFile, Target};
use journal_record::Fields;
use journald::{Journald, Settings};
use k8s::{K8s, Limits, Progress};
use stamp::Stamp;

/// What [`Log::finish`] waits for a destination that is full.
const FINISH_TIME: Duration = Duration::from_secs(1);

/// A full destination that takes nothing for so long is not waited for any more at the end. One that is only slow is,
/// so that the end of the output is not lost on a busy machine.
const STALL: Duration = Duration::from_secs(1);

/// One of the container's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Whose log it is; the journal's fields name it.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    pub cid: &'a OsStr,
    pub name: Option<&'a OsStr>,
}

/// All log drivers of one container; several `-l` add up.
#[derive(Debug)]
pub struct Log {
    k8s: Option<K8s<LogFile>>,
    journald: Option<Journald>,
    /// Bytes at the start of what comes next that are in the file and not yet in the journal: stdout, stderr.
    ahead: [usize; 2],
    /// `--no-sync-log`.
    no_sync: bool,
}

impl Log {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// The log file can't be opened; the text is conmon's. A journal that is not there is no error.
    pub fn open(config: &LogConfig, identity: &Identity<'_>) -> Result<Self> {
        let k8s = config.k8s_file.as_deref().map(|path| open_k8s(path, config)).transpose()?;
        let journald = config.journald.then(|| {
            let fields =
                Fields::new(identity, config.tag.as_deref(), &config.labels, config.no_partial_message);
            Journald::new(
                Path::new(journald::SOCKET),
                fields,
                Settings::from_env(|name| std::env::var_os(name)),
            )
        });
        Ok(Self { k8s, journald, ahead: [0; 2], no_sync: config.no_sync })
    }

    /// Logs the complete lines of `bytes` and returns how many bytes were taken. While `more` can be read at once
    /// an unfinished last line of at most 8192 bytes may be left for the next call, which must begin with it.
    ///
    /// When less was taken and [`Self::blocked`] is `Some`, the call is to be repeated with the same bytes, and as many
    /// behind them as the caller likes, once that descriptor is writable.
    pub fn append(&mut self, stream: Stream, bytes: &[u8], more: bool) -> usize {
        match (&mut self.k8s, &mut self.journald) {
            (None, None) => bytes.len(),
            (Some(k8s), None) => k8s.append(stream, bytes, more),
            (None, Some(journald)) => journald.append(stream, bytes),
            (Some(k8s), Some(journald)) => {
                let [stdout, stderr] = &mut self.ahead;
                let ahead = if stream == Stream::Stdout { stdout } else { stderr };
                let new = bytes.get(*ahead..).unwrap_or_default();
                // conmon: the file first.
                let in_file = *ahead + k8s.append(stream, new, more);
                let in_journal = journald.append(stream, bytes.get(..in_file).unwrap_or(bytes));
                *ahead = in_file - in_journal;
                in_journal
            }
        }
    }

    /// Logs the very last bytes of a stream, waiting until `deadline` for a destination that is full. What does not get
    /// through is counted as lost.
    pub fn append_last(&mut self, stream: Stream, mut bytes: &[u8], deadline: Instant) {
        loop {
            let taken = self.append(stream, bytes, false);
            bytes = bytes.get(taken..).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            if !self.wait(deadline) {
                break;
            }
        }
        let [stdout, stderr] = &mut self.ahead;
        let ahead = std::mem::take(if stream == Stream::Stdout { stdout } else { stderr });
        if let Some(k8s) = &mut self.k8s {
            k8s.lose_bytes(stream, bytes.get(ahead..).unwrap_or_default());
        }
        if let Some(journald) = &mut self.journald {
            journald.lose_bytes(stream, bytes);
        }
    }

    /// Waits for the destination that is full, if one is; false when `deadline` has passed, or it takes nothing for a
    /// second.
    pub fn wait(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(fd) = self.blocked() else { return true };
        let timeout = PollTimeout::try_from(left.min(STALL)).unwrap_or(PollTimeout::MAX);
        // An interrupted wait is a short one.
        let stalled = poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], timeout) == Ok(0);
        !stalled && !left.is_zero()
    }

    /// A destination that is full for the moment, and has to be writable before more is read from the container:
    /// a journal that lags behind, or a FIFO as log file. The descriptor may be another one at the next call.
    pub fn blocked(&self) -> Option<BorrowedFd<'_>> {
        let file = self.k8s.as_ref().filter(|k8s| k8s.is_blocked()).map(|k8s| k8s.target().as_fd());
        file.or_else(|| self.journald.as_ref().and_then(Journald::blocked))
    }

    /// Whether there is a destination that is waited for when it is full: what the container's pipes hold at its end has
    /// to get through in the little time that the exit can wait.
    pub fn may_lag(&self) -> bool {
        self.journald.is_some() || self.k8s.as_ref().is_some_and(|k8s| !k8s.target().is_regular())
    }

    /// Re-creates the log file at its path (ctl request `2`), keeping the old one when that fails.
    pub fn reopen(&mut self) {
        if let Some(k8s) = &mut self.k8s {
            k8s.reopen();
        }
    }

    /// A reopen was asked for and has failed. Whoever asked may wait for a new file, so [`Self::reopen`] is to be tried
    /// again though the container says nothing.
    pub fn owes_reopen(&self) -> bool {
        self.k8s.as_ref().is_some_and(K8s::owes_reopen)
    }

    /// Nothing more will come: flushes what is held back, waiting as [`Self::wait`] for a destination that is full, and tells
    /// once more of what was lost.
    pub fn finish(&mut self) {
        let deadline = Instant::now() + FINISH_TIME;
        if let Some(journald) = &mut self.journald {
            journald.end_lines();
        }
        while self.flush() == Progress::Blocked && self.wait(deadline) {}
        if let Some(k8s) = &mut self.k8s {
            k8s.finish();
        }
        if let Some(journald) = &mut self.journald {
            journald.give_up();
        }
    }

    fn flush(&mut self) -> Progress {
        let file = self.k8s.as_mut().map_or(Progress::Done, K8s::flush);
        if file == Progress::Blocked { file } else { self.journald.as_mut().map_or(file, Journald::flush) }
    }

    /// Makes the log durable, unless `--no-sync-log`. Can take long on a slow disk, so it comes after the exit was published.
    pub fn sync(&mut self) {
        if self.no_sync {
            return;
        }
        if let Some(Err(error)) = self.k8s.as_ref().map(|k8s| fsync(k8s.target().as_fd())) {
            warn!("Failed to sync log file before exit: {}", error.desc());
        }
    }

    /// Gives working memory back when the container has fallen quiet.
    pub fn shed(&mut self) {
        if let Some(k8s) = &mut self.k8s {
            k8s.shed();
        }
        if let Some(journald) = &mut self.journald {
            journald.shed();
        }
    }
}

fn open_k8s(path: &Path, config: &LogConfig) -> Result<K8s<LogFile>> {
    let keep = config.rotate.then_some(config.max_files.max(1));
    let limits = Limits {
        file: config.size_max.unwrap_or(u64::MAX),
        total: config.global_size_max.unwrap_or(u64::MAX),
    };
    LogFile::open(path, keep, &config.allowlist)
        .and_then(|file| K8s::new(file, limits, Stamp::default()))
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENXIO) if is_fifo(path) => {
                Error::message(format!("Failed to open log file {}: nobody reads this FIFO", path.display()))
            }
            _ => Error::os("Failed to open log file", error),
        })
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

#[cfg(test)]
mod tests;
