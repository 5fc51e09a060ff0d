//! The sync, start and attach pipes: podman's are SEQPACKET socket pairs, CRI-O's STREAM pairs or plain pipes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};

use crate::deadline::{self, limit};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Seqpacket,
    Stream,
    Pipe,
}

/// The driver's end of one pipe.
#[derive(Debug)]
pub struct End {
    /// `None` once the driver has closed it.
    file: Option<File>,
    kind: Kind,
    /// Bytes read from a stream beyond the report asked for.
    pending: Vec<u8>,
}

/// One line sent by the monitor.
#[derive(Clone, Debug)]
pub struct Report {
    pub bytes: Vec<u8>,
}

impl Report {
    /// The JSON object.
    ///
    /// # Panics
    /// When the bytes are not one valid JSON object and a newline.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.bytes.last(), Some(&b'\n'), "no newline at the end of {self:?}");
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The number under `key` (`pid`, `data` or `exit_code`).
    #[must_use]
    pub fn number(&self, key: &str) -> i64 {
        self.json()[key].as_i64().unwrap_or_else(|| panic!("no number {key} in {:?}", self.text()))
    }

    /// The message, empty when there is none.
    #[must_use]
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// A pair for reports: the driver's end and what the monitor inherits.
#[must_use]
pub fn report_pair(kind: Kind) -> (End, OwnedFd) {
    let (ours, theirs) = match kind {
        Kind::Pipe => nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("pipe"),
        Kind::Seqpacket | Kind::Stream => sockets(kind),
    };
    (End { file: Some(File::from(ours)), kind, pending: Vec::new() }, theirs)
}

/// A pair for start bytes: the driver's end and what the monitor inherits.
#[must_use]
pub fn start_pair(kind: Kind) -> (End, OwnedFd) {
    let (ours, theirs) = match kind {
        Kind::Pipe => {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("pipe");
            (write, read)
        }
        Kind::Seqpacket | Kind::Stream => sockets(kind),
    };
    (End { file: Some(File::from(ours)), kind, pending: Vec::new() }, theirs)
}

fn sockets(kind: Kind) -> (OwnedFd, OwnedFd) {
    let socket_type = if kind == Kind::Seqpacket { SockType::SeqPacket } else { SockType::Stream };
    socketpair(AddressFamily::Unix, socket_type, None, SockFlag::SOCK_CLOEXEC).expect("socketpair")
}

impl End {
    /// The next report. Everything that came in one write stays together on SEQPACKET; a stream is cut at newlines.
    pub fn report(&mut self, what: &str) -> Report {
        self.next_report(what).unwrap_or_else(|| panic!("end of file instead of {what}"))
    }

    /// Checks that the other end is closed without a further report.
    pub fn expect_eof(&mut self, what: &str) {
        if let Some(report) = self.next_report(what) {
            panic!("report {:?} instead of end of file: {what}", report.text());
        }
    }

    /// Whether something (a report or the end of file) has arrived.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.pending.is_empty() || deadline::readable(self.file().as_fd(), std::time::Duration::ZERO)
    }

    /// The next report, `None` at end of file.
    pub fn next_report(&mut self, what: &str) -> Option<Report> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n')
                && self.kind != Kind::Seqpacket
            {
                let rest = self.pending.split_off(end + 1);
                return Some(Report { bytes: std::mem::replace(&mut self.pending, rest) });
            }
            let bytes = self.read_once(what);
            if bytes.is_empty() {
                assert!(self.pending.is_empty(), "cut off: {:?}", String::from_utf8_lossy(&self.pending));
                return None;
            }
            if self.kind == Kind::Seqpacket {
                return Some(Report { bytes });
            }
            self.pending.extend_from_slice(&bytes);
        }
    }

    fn read_once(&mut self, what: &str) -> Vec<u8> {
        assert!(deadline::readable(self.file().as_fd(), limit()), "gave up waiting for {what}");
        let mut buffer = vec![0; 256 * 1024];
        let result = if self.kind == Kind::Pipe {
            self.file().read(&mut buffer)
        } else {
            recv(self.file().as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(Into::into)
        };
        match result {
            Ok(count) => buffer.truncate(count),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => buffer.clear(),
            Err(error) => panic!("{what}: {error}"),
        }
        buffer
    }

    /// Sends `bytes` in one write.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file().write_all(bytes)
    }

    /// Gives the end up, as a driver that dies does.
    pub fn close(&mut self) {
        self.file = None;
    }

    fn file(&self) -> &File {
        self.file.as_ref().expect("closed by the test")
    }
}
