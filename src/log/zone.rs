//! The local zone: how far its clocks are from UTC, by `TZ` or /etc/localtime, as conmon's C library understands them.
//!
//! Not through ours: musl keeps the zone's file mapped, so a monitor would die by SIGBUS after somebody had emptied it, and
//! has no summer time for `EST5EDT`. Here the file is read once, like conmon's, and only what is ahead is kept.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use tz::timezone::TimeZoneSettings;
use tz::{LocalTimeType, TimeZone};

const DIRECTORY: &str = "/usr/share/zoneinfo";
/// Real ones have less than 4 KiB.
const FILE_MAX: u64 = 64 * 1024;

/// For a summer time without dates: that of the United States.
const DATES: &str = ",M3.2.0,M11.1.0";

/// Offsets are seconds east of UTC, moments are seconds since 1970 UTC.
#[derive(Debug, Default)]
pub(super) struct Zone(Option<TimeZone>);

impl Zone {
    /// The zone of this process from `now` on; UTC when it is unknown.
    pub(super) fn local(now: i64) -> Self {
        let directory = env::var_os("TZDIR");
        let directory = directory.as_deref().and_then(OsStr::to_str).unwrap_or(DIRECTORY);
        Self::named(env::var_os("TZ").as_deref(), directory, now)
    }

    fn named(name: Option<&OsStr>, directory: &str, now: i64) -> Self {
        let name = name.unwrap_or(OsStr::new("/etc/localtime")).to_str().unwrap_or_default();
        let name = name.strip_prefix(':').unwrap_or(name);
        let directories = [directory];
        let settings = TimeZoneSettings::new(&directories, read);
        let zone = settings.parse_posix_tz(&format!(":{name}")).ok().or_else(|| by_rule(name));
        Self(zone.map(|zone| ahead(&zone, now).unwrap_or(zone)))
    }

    /// The offset at a moment. Before the `now` that the zone was made with it may be a wrong one.
    pub(super) fn offset(&self, moment: i64) -> i32 {
        self.0.as_ref().and_then(|zone| kind(zone, moment)).map_or(0, LocalTimeType::ut_offset)
    }
}

/// Without a rule for what is behind the last change, that change holds.
fn kind(zone: &TimeZone, moment: i64) -> Option<&LocalTimeType> {
    zone.find_local_time_type(moment).ok().or_else(|| {
        let last = zone.as_ref().transitions().last()?;
        zone.as_ref().local_time_types().get(last.local_time_type_index())
    })
}

/// The zone that a rule describes, such as `CET-1CEST,M3.5.0,M10.5.0/3`.
fn by_rule(rule: &str) -> Option<TimeZone> {
    let rule = rule.trim_end_matches(',');
    [rule.to_owned(), format!("{rule}{DATES}")]
        .iter()
        .find_map(|rule| TimeZone::from_tz_data(&file(rule)).ok())
}

/// A zone's file with nothing but a rule: there it may have the hours that glibc takes in `TZ`, too, such as `/-1`.
fn file(rule: &str) -> Vec<u8> {
    // RFC 8536: version 3, one type (UTC, named "U"), and no change.
    let mut block = b"TZif3".to_vec();
    block.resize(36, 0);
    block.extend([0, 0, 0, 1, 0, 0, 0, 2]);
    block.extend(b"\0\0\0\0\0\0U\0");
    [&block, &block, b"\n".as_slice(), rule.as_bytes(), b"\n"].concat()
}

/// `zone` without the changes before `now`, but for the last one.
fn ahead(zone: &TimeZone, now: i64) -> Option<TimeZone> {
    let zone = zone.as_ref();
    let past = zone.transitions().partition_point(|change| change.unix_leap_time() <= now);
    let rest = zone.transitions().get(past.saturating_sub(1)..)?;
    TimeZone::new(
        rest.to_vec(),
        zone.local_time_types().to_vec(),
        zone.leap_seconds().to_vec(),
        *zone.extra_rule(),
    )
    .ok()
}

/// Whatever `TZ` names, a FIFO does not hold us up.
fn read(path: &str) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let mut content = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests;
