//! The container's log: where every byte of its output goes first, before any attached client sees it.

pub mod batch;
pub mod file;
pub mod frame;
pub mod k8s;
pub mod loss;
mod rotate;
#[cfg(test)]
mod scratch;
pub mod stamp;

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;

use nix::unistd::fsync;

use crate::config::LogConfig;
use crate::diag::warn;
use crate::error::{Context, Error, Result};
use file::LogFile;
use k8s::{K8s, Limits};
use stamp::Stamp;

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
    /// `--no-sync-log`.
    no_sync: bool,
}

impl Log {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// The log can't be opened, or a tag or label was given that the driver can't hold. The texts are conmon's.
    pub fn open(config: &LogConfig, _identity: &Identity<'_>) -> Result<Self> {
        let k8s = match &config.k8s_file {
            Some(path) => {
                let keep = config.rotate.then_some(config.max_files.max(1));
                let limits = Limits {
                    file: config.size_max.unwrap_or(u64::MAX),
                    total: config.global_size_max.unwrap_or(u64::MAX),
                };
                let sink = LogFile::open(path, keep, &config.allowlist)
                    .and_then(|file| K8s::new(file, limits, Stamp::default()))
                    .context(|| "Failed to open log file".into())?;
                Some(sink)
            }
            None => None,
        };
        if config.journald {
            return Err(Error::message("log driver journald is not supported yet"));
        }
        Ok(Self { k8s, no_sync: config.no_sync })
    }

    /// Logs the complete lines of `bytes` and returns how many bytes were taken. While `more` can be read at once
    /// an unfinished last line of at most 8192 bytes may be left for the next call, which must begin with it.
    ///
    /// When less was taken and [`Self::blocked`] is `Some`, the call is to be repeated with the same bytes, and as many
    /// behind them as the caller likes, once that descriptor is writable.
    pub fn append(&mut self, stream: Stream, bytes: &[u8], more: bool) -> usize {
        match &mut self.k8s {
            Some(k8s) => k8s.append(stream, bytes, more),
            None => bytes.len(),
        }
    }

    /// A destination that is full for the moment, and has to be writable before more is read from the container:
    /// a journal that lags behind, or a FIFO as log file. The descriptor may be another one at the next call.
    pub fn blocked(&self) -> Option<BorrowedFd<'_>> {
        self.k8s.as_ref().filter(|k8s| k8s.is_blocked()).map(|k8s| k8s.target().as_fd())
    }

    /// Re-creates the log file at its path (ctl request `2`), keeping the old one when that fails.
    pub fn reopen(&mut self) {
        if let Some(k8s) = &mut self.k8s {
            k8s.reopen();
        }
    }

    /// Nothing more will come: flushes what is held back, and tells once more of what was lost.
    pub fn finish(&mut self) {
        if let Some(k8s) = &mut self.k8s {
            k8s.finish();
        }
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
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::scratch::Scratch;
    use super::*;

    fn identity() -> Identity<'static> {
        Identity { cid: OsStr::new("0123456789abcdef"), name: None }
    }

    fn config(path: PathBuf) -> LogConfig {
        LogConfig { k8s_file: Some(path), max_files: 1, ..LogConfig::default() }
    }

    #[test]
    fn what_cant_be_opened_is_named() {
        let dir = Scratch::new();
        let cases = [
            (config(dir.path("none/c")), "Failed to open log file No such file or directory"),
            (config(dir.fifo("fifo")), "Failed to open log file No such device or address"),
        ];
        for (config, text) in cases {
            assert_eq!(Log::open(&config, &identity()).unwrap_err().to_string(), text);
        }
        assert_eq!(dir.names(), ["fifo"]);
        let none = LogConfig { tag: Some("t".into()), ..LogConfig::default() };
        assert_eq!(Log::open(&none, &identity()).unwrap().append(Stream::Stdout, b"x", true), 1);
    }

    #[test]
    fn a_full_device_costs_output_and_nothing_else() {
        let mut log = Log::open(&config("/dev/full".into()), &identity()).unwrap();
        assert_eq!(log.append(Stream::Stdout, b"a\nb\n", false), 4);
        log.reopen();
        assert!(log.blocked().is_none());
        log.finish();
        log.sync();
        assert!(!std::fs::metadata("/dev/full").unwrap().is_file());
    }

    #[test]
    fn a_slow_reader_of_a_fifo_is_waited_for() {
        let dir = Scratch::new();
        let fifo = dir.fifo("log");
        let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_NONBLOCK;
        let reader = nix::fcntl::open(&fifo, flags, nix::sys::stat::Mode::empty()).unwrap();
        let mut log = Log::open(&config(fifo), &identity()).unwrap();
        let (mut sent, mut got) = (0, Vec::new());
        while sent < 2000 {
            sent += usize::from(log.append(Stream::Stdout, &[b'x'; 1000], false) > 0);
            if log.blocked().is_some() {
                let mut buffer = [0; 5000];
                let count = nix::unistd::read(&reader, &mut buffer).unwrap();
                got.extend_from_slice(&buffer[..count]);
            }
        }
        log.finish();
        drop(log);
        let mut buffer = vec![0; 1 << 20];
        let count = nix::unistd::read(&reader, &mut buffer).unwrap();
        got.extend_from_slice(&buffer[..count]);
        let complete = got.split(|&byte| byte == b'\n').filter(|line| line.len() == 1045).count();
        assert!(complete >= 1990, "{complete}");
    }

    #[test]
    fn a_log_survives_being_copied_and_emptied() {
        let dir = Scratch::new();
        let limited = LogConfig { size_max: Some(100), ..config(dir.path("log")) };
        let mut log = Log::open(&limited, &identity()).unwrap();
        for _ in 0..10 {
            log.append(Stream::Stdout, b"1234\n1234\n", false);
            assert_eq!(dir.read("log").len(), 100);
            std::fs::write(dir.path("log"), "").unwrap();
        }
        assert_eq!(dir.names(), ["log"]);
        log.sync();
    }
}
