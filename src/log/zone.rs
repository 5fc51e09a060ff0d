//! The local zone: how far its clocks are from UTC, by `TZ` or /etc/localtime, as conmon's C library understands them.
//!
//! Not through ours: musl has no summer time for `EST5EDT`, and keeps the zone's file mapped, so a monitor would die by
//! SIGBUS after somebody had emptied that file. Here it is read once, like conmon's, and only what is ahead is kept.
//! The file's format is RFC 8536's.

mod rule;

use std::env;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use self::rule::Rule;
use crate::sys::mem::Mapping;

const SYSTEM: &str = "/etc/localtime";
const DIRECTORY: &str = "/usr/share/zoneinfo";
/// Real ones have less than 4 KiB.
const FILE_MAX: usize = 64 * 1024;

const HEADER: usize = 44;
const TYPE: usize = 6;

/// Offsets are seconds east of UTC, moments are seconds since 1970 UTC.
#[derive(Debug, Default)]
pub(super) struct Zone {
    /// The offset before the first change.
    first: i32,
    /// In order.
    changes: Vec<Change>,
    /// What holds from the last change on.
    rule: Option<Rule>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    at: i64,
    offset: i32,
}

impl Zone {
    /// The zone of this process from `now` on; UTC when it is unknown.
    pub(super) fn local(now: i64) -> Self {
        let directory = env::var_os("TZDIR");
        Self::named(env::var_os("TZ").as_deref(), directory.as_deref().unwrap_or(OsStr::new(DIRECTORY)), now)
    }

    fn named(name: Option<&OsStr>, directory: &OsStr, now: i64) -> Self {
        let name = name.map_or(SYSTEM.as_bytes(), OsStr::as_bytes);
        let name = name.strip_prefix(b":").unwrap_or(name);
        if name.is_empty() {
            return Self::default();
        }
        read(&Path::new(directory).join(OsStr::from_bytes(name)))
            .ok()
            .and_then(|(content, length)| Self::parse(content.get(..length)?, now))
            .or_else(|| Some(Self { rule: Some(Rule::parse(name)?), ..Self::default() }))
            .unwrap_or_default()
    }

    /// The offset at a moment. Before the `now` that the zone was made with it may be a wrong one.
    pub(super) fn offset(&self, moment: i64) -> i32 {
        let past = self.changes.partition_point(|change| change.at <= moment);
        match &self.rule {
            Some(rule) if past == self.changes.len() => rule.offset(moment),
            _ => past
                .checked_sub(1)
                .and_then(|last| self.changes.get(last))
                .map_or(self.first, |change| change.offset),
        }
    }

    /// The content of a zone's file.
    fn parse(file: &[u8], now: i64) -> Option<Self> {
        let (old, rest) = Counts::read(file)?;
        // The first block has four bytes for a moment; since version 2 a second one follows, with eight.
        if old.version == 0 {
            return Self::block(&old, 4, rest, now);
        }
        let (counts, rest) = Counts::read(rest.get(old.len(4)..)?)?;
        Self::block(&counts, 8, rest, now)
    }

    fn block(counts: &Counts, width: usize, block: &[u8], now: i64) -> Option<Self> {
        let (moments, rest) = block.split_at_checked(counts.changes * width)?;
        let (kinds, rest) = rest.split_at_checked(counts.changes)?;
        let (types, _) = rest.split_at_checked(counts.types * TYPE)?;
        let offset = |kind: u8| number(types.chunks_exact(TYPE).nth(kind.into())?.get(..4)?);
        let standard = types.chunks_exact(TYPE).position(|kind| kind.get(4) == Some(&0)).unwrap_or(0);
        let mut zone = Self { first: offset(u8::try_from(standard).ok()?)?, ..Self::default() };
        for (moment, kind) in moments.chunks_exact(width).zip(kinds) {
            let change = Change { at: long_number(moment)?, offset: offset(*kind)? };
            if change.at <= now {
                zone.first = zone.changes.pop().map_or(zone.first, |before| before.offset);
            }
            zone.changes.push(change);
        }
        zone.rule =
            block.get(counts.len(width)..).and_then(|footer| Rule::parse(footer.strip_prefix(b"\n")?));
        Some(zone)
    }
}

/// A file's header: how much of everything there is.
struct Counts {
    version: u8,
    changes: usize,
    types: usize,
    letters: usize,
    leaps: usize,
    /// One byte each, two lists.
    flags: usize,
}

impl Counts {
    /// And what is behind it.
    fn read(file: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = file.split_at_checked(HEADER)?;
        let count = |nth: usize| usize::try_from(number(header.get(20 + 4 * nth..24 + 4 * nth)?)?).ok();
        let counts = Self {
            version: *header.strip_prefix(b"TZif")?.first()?,
            flags: count(0)?.checked_add(count(1)?)?,
            leaps: count(2)?,
            changes: count(3)?,
            types: count(4)?,
            letters: count(5)?,
        };
        // Nothing can overflow then.
        let all = [counts.flags, counts.leaps, counts.changes, counts.types, counts.letters];
        all.iter().all(|count| *count <= file.len()).then_some((counts, rest))
    }

    /// The length of the block behind the header, when a moment takes `width` bytes.
    fn len(&self, width: usize) -> usize {
        self.changes * (width + 1) + self.types * TYPE + self.letters + self.leaps * (width + 4) + self.flags
    }
}

fn number(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.try_into().ok()?))
}

fn long_number(bytes: &[u8]) -> Option<i64> {
    match bytes.len() {
        4 => number(bytes).map(i64::from),
        _ => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
    }
}

/// Whatever `TZ` names, a FIFO does not hold us up. The content is not on the heap, which would keep its pages.
fn read(path: &Path) -> io::Result<(Mapping, usize)> {
    let mut file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let mut content = Mapping::new(FILE_MAX)?;
    let mut length = 0;
    loop {
        match file.read(content.get_mut(length..).unwrap_or_default()) {
            Ok(0) => return Ok((content, length)),
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
