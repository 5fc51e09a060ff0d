//! What a k8s-file record starts with: `YYYY-MM-DDThh:mm:ss.nnnnnnnnn±hh:mm stdout F `, written as digits.
//!
//! The clock is read once an append. The date and time digits are made again when the second changes, and the offset
//! from UTC is looked up again when the quarter hour does: no zone changes its offset anywhere else.
//! conmon: `ctr_logging.c:set_k8s_timestamp`.

use std::time::{SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, UtcOffset};

use super::Stream;
use super::zone::Zone;

/// Bytes before a record's payload, see the file's head.
pub const PREFIX_LEN: usize = 45;
/// Where the `F` or `P` of a record is.
pub const TAG_AT: usize = 43;

const QUARTER_HOUR: i64 = 15 * 60;
const TEMPLATE: &[u8; PREFIX_LEN] = b"1970-01-01T00:00:00.000000000+00:00 stdout F ";
const STREAM_AT: usize = 36;
const NANOS_AT: usize = 20;

/// The start of every record of one append.
#[derive(Clone, Copy, Debug)]
pub struct Prefix {
    pub full: [u8; PREFIX_LEN],
    pub partial: [u8; PREFIX_LEN],
}

#[derive(Debug)]
pub struct Stamp {
    text: [u8; PREFIX_LEN],
    /// The second whose digits `text` holds, since 1970 UTC.
    second: i64,
    /// The quarter hour that `offset` was looked up in; `None` before the first time.
    quarter: Option<i64>,
    offset: UtcOffset,
    /// `None` before the first time.
    zone: Option<Zone>,
}

impl Default for Stamp {
    fn default() -> Self {
        Self { text: *TEMPLATE, second: 0, quarter: None, offset: UtcOffset::UTC, zone: None }
    }
}

impl Stamp {
    /// Reads the clock.
    pub fn now(&mut self, stream: Stream) -> Prefix {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.at(i64::try_from(since.as_secs()).unwrap_or(0), since.subsec_nanos(), stream)
    }

    /// The second of the last [`Self::now`].
    pub fn second(&self) -> i64 {
        self.second
    }

    fn at(&mut self, second: i64, nanos: u32, stream: Stream) -> Prefix {
        if self.quarter.is_none() || second != self.second {
            self.new_second(second);
        }
        digits(&mut self.text, NANOS_AT, 9, nanos);
        self.again(stream)
    }

    /// The moment of the last [`Self::now`] again.
    pub fn again(&mut self, stream: Stream) -> Prefix {
        let name: &[u8; 6] = match stream {
            Stream::Stdout => b"stdout",
            Stream::Stderr => b"stderr",
        };
        put(&mut self.text, STREAM_AT, name);
        let (mut full, mut partial) = (self.text, self.text);
        put(&mut full, TAG_AT, b"F");
        put(&mut partial, TAG_AT, b"P");
        Prefix { full, partial }
    }

    fn new_second(&mut self, second: i64) {
        self.second = second;
        let utc = OffsetDateTime::from_unix_timestamp(second).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let quarter = second.div_euclid(QUARTER_HOUR);
        if self.quarter != Some(quarter) {
            self.quarter = Some(quarter);
            let zone = self.zone.get_or_insert_with(|| Zone::local(second));
            self.offset = UtcOffset::from_whole_seconds(zone.offset(second)).unwrap_or(UtcOffset::UTC);
        }
        let local = utc.to_offset(self.offset);
        let text = &mut self.text;
        digits(text, 0, 4, local.year().unsigned_abs());
        for (at, value) in [
            (5, u8::from(local.month())),
            (8, local.day()),
            (11, local.hour()),
            (14, local.minute()),
            (17, local.second()),
        ] {
            digits(text, at, 2, u32::from(value));
        }
        let seconds = self.offset.whole_seconds();
        put(text, 29, if seconds < 0 { b"-" } else { b"+" });
        digits(text, 30, 2, seconds.unsigned_abs() / 3600);
        digits(text, 33, 2, seconds.unsigned_abs() / 60 % 60);
    }
}

/// Writes the last `count` decimal digits of `value` at `at`.
fn digits(text: &mut [u8], at: usize, count: usize, mut value: u32) {
    for digit in text.iter_mut().skip(at).take(count).rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

fn put(text: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in text.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(zone: &str) -> Stamp {
        Stamp { zone: Some(Zone::named_for_tests(zone)), ..Stamp::default() }
    }

    #[test]
    fn the_stamp_is_local_time_with_a_numeric_offset() {
        for (zone, second, nanos, want) in [
            ("", 0, 0, "1970-01-01T00:00:00.000000000+00:00 stderr F "),
            ("UTC0", 1_709_251_199, 999_999_999, "2024-02-29T23:59:59.999999999+00:00 stderr F "),
            ("IST-5:30", 1_709_251_199, 7, "2024-03-01T05:29:59.000000007+05:30 stderr F "),
            ("NFT3:30", 1_704_067_200, 120_000, "2023-12-31T20:30:00.000120000-03:30 stderr F "),
            ("<+14>-14", 1_704_067_200, 1, "2024-01-01T14:00:00.000000001+14:00 stderr F "),
        ] {
            let prefix = stamp(zone).at(second, nanos, Stream::Stderr);
            assert_eq!(String::from_utf8(prefix.full.to_vec()).unwrap(), want);
        }
    }

    #[test]
    fn the_offset_is_looked_up_once_a_quarter_hour() {
        // The clocks go forward at 01:00 UTC.
        let mut stamp = stamp("CET-1CEST,0,364");
        let mut at = |second| {
            let prefix = stamp.at(second, 0, Stream::Stdout);
            String::from_utf8(prefix.partial[11..].to_vec()).unwrap()
        };
        assert_eq!(at(3599), "01:59:59.000000000+01:00 stdout P ");
        assert_eq!(at(3600), "03:00:00.000000000+02:00 stdout P ");
        assert_eq!(at(3599), "01:59:59.000000000+01:00 stdout P ");
    }

    #[test]
    fn the_two_tags_and_streams_differ_in_nothing_else() {
        let mut stamp = stamp("");
        let (out, err) = (stamp.at(9, 1, Stream::Stdout), stamp.at(9, 2, Stream::Stderr));
        assert_eq!(&out.full, b"1970-01-01T00:00:09.000000001+00:00 stdout F ");
        assert_eq!(&out.partial, b"1970-01-01T00:00:09.000000001+00:00 stdout P ");
        assert_eq!(&err.partial, b"1970-01-01T00:00:09.000000002+00:00 stderr P ");
    }

    #[test]
    fn the_clock_is_now() {
        let before = OffsetDateTime::now_utc().unix_timestamp();
        let mut stamp = Stamp::default();
        stamp.now(Stream::Stdout);
        assert!((before..before + 60).contains(&stamp.second()));
    }
}
