//! What could not be logged: counted by stream while writing fails, told in one marker record when it works again.

use std::borrow::Cow;
use std::io;

use super::Stream;
use super::stamp::{PREFIX_LEN, TAG_AT};
use crate::error::strerror;
use crate::sys::bytes;

/// Bytes of the container's output, newlines included, and line ends among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub bytes: u64,
    pub lines: u64,
}

impl Count {
    /// Of raw output.
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, lines: bytes::count(b'\n', bytes) as u64 }
    }
}

#[derive(Debug, Default)]
pub struct Loss {
    stdout: Count,
    stderr: Count,
    /// Why the first record since the last marker was lost.
    reason: Cow<'static, str>,
}

impl Loss {
    pub fn is_empty(&self) -> bool {
        self.stdout == Count::default() && self.stderr == Count::default()
    }

    #[cfg(test)]
    pub(super) fn count(&self, stream: Stream) -> Count {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    pub fn add(&mut self, stream: Stream, lost: Count, reason: &io::Error) {
        if lost == Count::default() {
            return;
        }
        if self.is_empty() {
            self.reason = strerror(reason);
        }
        let count = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        count.bytes += lost.bytes;
        count.lines += lost.lines;
    }

    /// Takes back what `earlier` was not told after all.
    pub fn merge(&mut self, earlier: Self) {
        for (count, other) in [(&mut self.stdout, earlier.stdout), (&mut self.stderr, earlier.stderr)] {
            count.bytes += other.bytes;
            count.lines += other.lines;
        }
        if !earlier.reason.is_empty() {
            self.reason = earlier.reason;
        }
    }

    /// Counts finished k8s-file records, each ending in its newline.
    pub fn add_records(&mut self, records: &[u8], reason: &io::Error) {
        for record in records.split_inclusive(|&byte| byte == b'\n') {
            let partial = record.get(TAG_AT) == Some(&b'P');
            let stream = if record.get(..TAG_AT - 1).is_some_and(|head| head.ends_with(b"stderr")) {
                Stream::Stderr
            } else {
                Stream::Stdout
            };
            // The newline of a partial record is ours, not the container's.
            let bytes = record.len().saturating_sub(PREFIX_LEN + usize::from(partial));
            let lost = Count { bytes: u64::try_from(bytes).unwrap_or(u64::MAX), lines: u64::from(!partial) };
            self.add(stream, lost, reason);
        }
    }

    /// The marker's text: what is missing where it stands.
    pub fn text(&self) -> String {
        let parts: Vec<String> = [("stdout", self.stdout), ("stderr", self.stderr)]
            .into_iter()
            .filter(|(_, count)| *count != Count::default())
            .map(|(name, Count { bytes, lines })| format!("{bytes} bytes in {lines} lines of {name}"))
            .collect();
        format!("conmon: log incomplete: {} missing here: {}", parts.join(" and "), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_by_stream_with_its_first_reason() {
        let mut loss = Loss::default();
        assert!(loss.is_empty());
        let stamp = "2024-02-29T23:59:59.999999999+00:00";
        let records =
            format!("{stamp} stdout F ab\n{stamp} stdout P cd\n{stamp} stdout F \n{stamp} stderr P x\n");
        loss.add_records(records.as_bytes(), &io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(loss.count(Stream::Stdout), Count { bytes: 6, lines: 2 });
        assert_eq!(loss.count(Stream::Stderr), Count { bytes: 1, lines: 0 });
        loss.add(Stream::Stderr, Count { bytes: 9, lines: 1 }, &io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(
            loss.text(),
            "conmon: log incomplete: 6 bytes in 2 lines of stdout and 10 bytes in 1 lines of stderr missing here: \
             No space left on device"
        );
    }
}
