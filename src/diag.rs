//! The monitor's own messages: `[conmon:w]: …` on stderr and, with `--syslog`, a record in the system log.
//!
//! Stderr is gone once the monitor has let go of its stdio, so then the system log is the only place where messages
//! go. Callers use the macros of the `log` crate through this module; nothing is formatted below the chosen level.
//! conmon: `utils.h`.

pub(crate) use ::log::{debug, error, info, trace, warn};

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

use ::log::{Level, LevelFilter, Log, Metadata, Record};
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

/// conmon cuts the container's id to this many bytes in the system log.
const SYSLOG_ID_LEN: usize = 20;

type Syslog = Logger<LoggerBackend, Formatter3164>;

#[derive(Debug)]
struct Diag {
    /// `None` without `--syslog`.
    syslog: Option<SyslogTarget>,
}

struct SyslogTarget {
    id: String,
    /// Connected at the first message, and again after a failure: the daemon may be restarted under us.
    connection: Mutex<Option<Syslog>>,
}

impl std::fmt::Debug for SyslogTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyslogTarget").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Starts message output; until then nothing is printed. A second call changes nothing but the level.
///
/// `syslog_id` is the text that marks this container's records in the system log (`--syslog`), `None` without it.
pub fn init(level: LevelFilter, syslog_id: Option<&OsStr>) {
    let syslog = syslog_id.map(|id| SyslogTarget {
        id: String::from_utf8_lossy(id.as_bytes().get(..SYSLOG_ID_LEN).unwrap_or(id.as_bytes())).into_owned(),
        connection: Mutex::new(None),
    });
    // Fails only when a logger is there already, which keeps working.
    let _ = ::log::set_boxed_logger(Box::new(Diag { syslog }));
    ::log::set_max_level(level);
}

impl Log for Diag {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= ::log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // One write, so that lines of several monitors on one stderr do not mix; nobody to tell if it fails.
        let line = format!("[conmon:{}]: {}\n", prefix(record.level()), record.args());
        let _ = crate::sys::fd::write_stderr(line.as_bytes());
        if let Some(target) = &self.syslog {
            target.send(record);
        }
    }

    fn flush(&self) {}
}

impl SyslogTarget {
    fn send(&self, record: &Record<'_>) {
        let text = format!("conmon {} <{}>: {}", self.id, syslog_tag(record.level()), record.args());
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..2 {
            if connection.is_none() {
                *connection = connect();
            }
            let Some(logger) = connection.as_mut() else { return };
            // It may have been connected before the fork.
            logger.formatter.pid = std::process::id();
            // conmon: everything but errors has priority info, whatever its level.
            let sent = if record.level() == Level::Error { logger.err(&text) } else { logger.info(&text) };
            if sent.is_ok() {
                return;
            }
            *connection = None;
        }
    }
}

/// `None` when no system log is running: like syslog(3), messages are dropped then.
///
/// Unlike there, they are also dropped while a daemon that hangs has a full queue: no message is worth the container's.
fn connect() -> Option<Syslog> {
    let formatter = Formatter3164 {
        facility: Facility::LOG_USER,
        hostname: None,
        process: "conmon".into(),
        pid: std::process::id(),
    };
    let logger = syslog::unix(formatter).ok()?;
    never_wait(&logger.backend).ok()?;
    Some(logger)
}

fn never_wait(backend: &LoggerBackend) -> io::Result<()> {
    match backend {
        LoggerBackend::Unix(socket) => socket.set_nonblocking(true),
        LoggerBackend::UnixStream(stream) => stream.get_ref().set_nonblocking(true),
        LoggerBackend::Udp(..) | LoggerBackend::Tcp(_) => Ok(()),
    }
}

fn prefix(level: Level) -> char {
    match level {
        Level::Error => 'e',
        Level::Warn => 'w',
        Level::Info => 'i',
        // conmon: trace messages carry the letter of debug ones.
        Level::Debug | Level::Trace => 'd',
    }
}

fn syslog_tag(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "nwarn",
        Level::Info => "ninfo",
        Level::Debug => "ndebug",
        Level::Trace => "ntrace",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_system_log_that_hangs_is_not_waited_for() {
        let (socket, _daemon) = UnixDatagram::pair().unwrap();
        let mut backend = LoggerBackend::Unix(socket);
        never_wait(&backend).unwrap();
        let refused = std::iter::repeat_with(|| backend.write(&[b'x'; 1000])).find_map(Result::err);
        assert_eq!(refused.unwrap().kind(), ErrorKind::WouldBlock);
    }
}
