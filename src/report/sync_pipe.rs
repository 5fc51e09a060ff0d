//! Reports to the parent: one JSON object, one line, one write.
//!
//! podman reads from a SEQPACKET socket with a 4096-byte buffer, so a longer report, or one in two writes, is lost.
//! conmon: `parent_pipe_fd.c:write_or_close_sync_fd`.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use crate::config::{ApiVersion, Config, Operation};
use crate::diag::{error, warn};
use crate::sys;

/// The most that podman's reader takes of one message.
pub const REPORT_MAX: usize = 4096;

/// Under which name the number of a report stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Data,
    Pid,
    ExitCode,
}

impl Key {
    pub fn of(config: &Config) -> Self {
        match (config.api, &config.operation) {
            (ApiVersion::V1, _) => Self::Data,
            (ApiVersion::Legacy, Operation::Exec { .. }) => Self::ExitCode,
            (ApiVersion::Legacy, Operation::Create | Operation::Restore { .. }) => Self::Pid,
        }
    }

    /// For a command line that could not be understood: what most likely was meant.
    pub fn guess(words: &[OsString]) -> Self {
        let has = |names: [&str; 2]| words.iter().any(|word| names.into_iter().any(|name| word == name));
        match (has(["--api-version", "--api-version=1"]), has(["-e", "--exec"])) {
            (true, _) => Self::Data,
            (false, true) => Self::ExitCode,
            (false, false) => Self::Pid,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Pid => "pid",
            Self::ExitCode => "exit_code",
        }
    }
}

/// The write end of a pipe (or socket) to the parent.
#[derive(Debug)]
pub struct SyncPipe {
    /// `None` when the parent gave none, or has closed its end.
    fd: Option<OwnedFd>,
    key: Key,
    /// The parent has had an answer; from then on a panic says no more.
    answered: Arc<AtomicBool>,
}

impl SyncPipe {
    pub fn new(fd: Option<OwnedFd>, key: Key) -> Self {
        Self { fd, key, answered: Arc::default() }
    }

    /// Hands the pipe over; what is left reports to nobody.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { fd: self.fd.take(), key: self.key, answered: Arc::clone(&self.answered) }
    }

    /// Sends `number`, with `message` if it is not empty. Bytes that are not UTF-8 are replaced, and of a long
    /// message the end is sent, where runtimes put what went wrong.
    pub fn report(&mut self, number: i32, message: &[u8]) {
        self.answered.store(true, Ordering::Relaxed);
        let Some(fd) = &self.fd else { return };
        match send(fd, &render(self.key, number, message)) {
            Ok(()) => {}
            // The parent has stopped listening; the container goes on.
            Err(Errno::EPIPE) => self.fd = None,
            Err(e) => {
                warn!("Unable to send the report {number} to the parent: {}", e.desc());
                self.fd = None;
            }
        }
    }

    /// Sees to it that a parent that has not had an answer gets one if this process panics.
    pub fn answer_on_panic(&self) {
        let Some(fd) = self.fd.as_ref().map(AsRawFd::as_raw_fd) else { return };
        let (key, answered) = (self.key, Arc::clone(&self.answered));
        std::panic::set_hook(Box::new(move |panic| {
            error!("the monitor failed: {panic}");
            if !answered.swap(true, Ordering::Relaxed) {
                let report = render(key, -1, format!("the monitor failed: {panic}").as_bytes());
                // Nobody is left to tell if this fails as well.
                let _ = sys::fd::with_number(fd, |fd| send(fd, &report));
            }
        }));
    }
}

fn send(fd: &OwnedFd, report: &[u8]) -> nix::Result<()> {
    loop {
        match nix::unistd::write(fd, report) {
            Err(Errno::EINTR) => {}
            Ok(sent) if sent < report.len() => return Err(Errno::EMSGSIZE),
            other => return other.map(drop),
        }
    }
}

/// One report as it goes over the pipe, at most [`REPORT_MAX`] bytes with its newline. Pure.
pub fn render(key: Key, number: i32, message: &[u8]) -> Vec<u8> {
    let head = format!("{{\"{}\": {number}", key.name());
    if message.is_empty() {
        return format!("{head}}}\n").into_bytes();
    }
    let head = format!("{head}, \"message\": ");
    let room = REPORT_MAX - head.len() - "\"\"}\n".len();
    let text = String::from_utf8_lossy(message);
    let quoted = serde_json::Value::from(tail_within(&text, room));
    format!("{head}{quoted}}}\n").into_bytes()
}

/// The longest end of `text` that takes at most `room` bytes once it is escaped.
fn tail_within(text: &str, room: usize) -> &str {
    let mut left = room;
    let fits = |c: &(usize, char)| match left.checked_sub(escaped_len(c.1)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    let start = text.char_indices().rev().take_while(fits).last().map_or(text.len(), |(index, _)| index);
    text.get(start..).unwrap_or_default()
}

/// How many bytes serde_json makes of `c` inside a string.
fn escaped_len(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\x1f' => 6,
        _ => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(key: Key, number: i32, message: &[u8]) -> String {
        String::from_utf8(render(key, number, message)).unwrap()
    }

    #[test]
    fn reports_are_conmons() {
        assert_eq!(text(Key::Pid, 42, b""), "{\"pid\": 42}\n");
        assert_eq!(text(Key::Data, -1, b"no \"x\"\n"), "{\"data\": -1, \"message\": \"no \\\"x\\\"\\n\"}\n");
        assert_eq!(
            text(Key::ExitCode, 3, b"\xff\0"),
            "{\"exit_code\": 3, \"message\": \"\u{fffd}\\u0000\"}\n"
        );
    }

    proptest! {
        #[test]
        fn any_text_makes_one_valid_line_that_holds_its_end(bytes: Vec<u8>, fill in 0usize..9000, c: char) {
            let message = [c.to_string().repeat(fill).into_bytes(), bytes, b"!".to_vec()].concat();
            let report = render(Key::Data, -1, &message);
            prop_assert!(report.len() <= REPORT_MAX);
            prop_assert_eq!(report.iter().filter(|&&b| b == b'\n').count(), 1);
            let parsed: serde_json::Value = serde_json::from_slice(&report).unwrap();
            let sent = parsed["message"].as_str().unwrap().to_owned();
            let whole = String::from_utf8_lossy(&message).into_owned();
            prop_assert!(whole.ends_with(&sent) && sent.ends_with('!'));
            prop_assert!(sent == whole || report.len() > REPORT_MAX - 6, "no more is cut than has to be");
        }
    }
}
