//! The container's log: where every byte of its output goes first, before any attached client sees it.

use crate::config::LogConfig;
use crate::error::Result;

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

/// All log drivers of one container; several `-l` add up.
#[derive(Debug)]
pub struct Log {}

impl Log {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// The log can't be opened, or a tag or label was given that the driver can't hold.
    pub fn open(_config: &LogConfig) -> Result<Self> {
        Ok(Self {})
    }

    /// Logs the complete lines of `bytes` and returns how many bytes were taken. While `more` can be read at once
    /// an unfinished last line of at most 8192 bytes may be left for the next call, which must begin with it.
    pub fn append(&mut self, _stream: Stream, bytes: &[u8], _more: bool) -> usize {
        bytes.len()
    }

    /// Re-creates the log file at its path (ctl request `2`), keeping the old one when that fails.
    pub fn reopen(&mut self) {}

    /// Nothing more will come: flushes what is held back, and tells once more of what was lost.
    pub fn finish(&mut self) {}

    /// Makes the log durable, unless `--no-sync-log`. Can take long on a slow disk, so it comes after the exit was published.
    pub fn sync(&mut self) {}

    /// Gives working memory back when the container has fallen quiet.
    pub fn shed(&mut self) {}
}
