//! How soon to read again from a container that writes many small pieces.
//!
//! A monitor that is woken for every line costs the container a wake-up for every line, and itself three system
//! calls; the faster it is, the fewer lines each of them brings. So once reads bring little and follow each other
//! closely, the next one is left until the pipe has had time to fill. The first line after a pause is never delayed,
//! and nobody who looks at a log can tell a tenth of a millisecond.

use std::time::{Duration, Instant};

/// Reads of at least this many bytes pay for themselves.
const SMALL_READ: usize = 16 * 1024;

/// Reads that are no further apart follow each other closely.
const CLOSE: Duration = Duration::from_micros(100);

/// Close small reads in a row before the next one is left to wait.
const STREAK: u32 = 16;

/// How long it is left, to which the kernel's timer slack adds some: a fast writer fills half a pipe meanwhile.
pub(super) const NAP: Duration = Duration::from_micros(100);
/// The same for a pipe that was enlarged.
pub(super) const LONG_NAP: Duration = Duration::from_micros(300);

#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    streak: u32,
}

impl Pace {
    /// A read at `now` has brought `len` bytes and emptied the pipe. Whether to nap before the next one instead of
    /// waiting for an event; the one after a nap that brings nothing ends it.
    pub(super) fn naps_after(&mut self, len: usize, now: Instant) -> bool {
        let since = self.last.replace(now).map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        let is_napping = self.streak >= STREAK;
        if len == 0 || len >= SMALL_READ {
            self.streak = 0;
        } else if since <= CLOSE {
            self.streak = self.streak.saturating_add(1);
        } else if !is_napping {
            self.streak = 0;
        }
        self.streak >= STREAK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds reads of `len` bytes, `apart` from each other, and returns after how many the first nap comes.
    fn first_nap(len: usize, apart: Duration) -> Option<u32> {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        (1..1000).find(|_| {
            now += apart;
            pace.naps_after(len, now)
        })
    }

    #[test]
    fn only_close_small_reads_lead_to_naps() {
        assert_eq!(first_nap(100, Duration::from_micros(10)), Some(STREAK + 1));
        assert_eq!(first_nap(100, Duration::from_millis(1)), None, "a quiet container");
        assert_eq!(first_nap(SMALL_READ, Duration::from_micros(10)), None, "a flood in large pieces");
    }

    #[test]
    fn naps_go_on_until_one_brings_nothing() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        while !pace.naps_after(100, now) {
            now += Duration::from_micros(5);
        }
        for _ in 0..10 {
            now += 2 * NAP;
            assert!(pace.naps_after(8000, now));
        }
        assert!(!pace.naps_after(0, now + NAP));
        assert!(!pace.naps_after(100, now + 2 * NAP), "it starts all over");
    }
}
