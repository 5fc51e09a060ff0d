//! How soon to read again from a container that writes many small pieces.
//!
//! A monitor that is woken for every line costs the container a wake-up for every line, and itself three system
//! calls; the faster it is, the fewer lines each of them brings. So once reads bring little and follow each other
//! closely, the next one is left until the pipe has had time to fill. The first line after a pause is never delayed,
//! and nobody who looks at a log can tell half a millisecond.

use std::time::{Duration, Instant};

/// Reads of at least this many bytes pay for themselves.
const SMALL_READ: usize = 16 * 1024;

/// Reads that are no further apart follow each other closely.
const CLOSE: Duration = Duration::from_micros(100);

/// Close small reads in a row before the next one is left to wait.
const STREAK: u32 = 8;

/// How long it is left, to which the kernel's timer slack adds some: a fast writer fills half a pipe meanwhile.
pub(super) const NAP: Duration = Duration::from_micros(100);
/// The same for a pipe that was enlarged.
pub(super) const LONG_NAP: Duration = Duration::from_micros(600);

#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    streak: u32,
}

impl Pace {
    /// Since it was last asked, reads have brought `len` bytes; now, at `now`, a pipe that holds `capacity` is empty.
    /// Whether to nap before the next read instead of waiting for an event. A nap that brings nothing was for nothing,
    /// and one in which the pipe all but filled up has held the writer up: both end it.
    pub(super) fn naps_after(&mut self, len: usize, capacity: usize, now: Instant) -> bool {
        let since = self.last.replace(now).map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        let goes_on = if self.streak >= STREAK {
            len > 0 && len < capacity / 4 * 3
        } else {
            len > 0 && len < SMALL_READ && since <= CLOSE
        };
        self.streak = if goes_on { self.streak.saturating_add(1) } else { 0 };
        self.streak >= STREAK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 64 * 1024;

    /// Feeds reads of `len` bytes, `apart` from each other, and returns after how many the first nap comes.
    fn first_nap(len: usize, apart: Duration) -> Option<u32> {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        (1..1000).find(|_| {
            now += apart;
            pace.naps_after(len, CAPACITY, now)
        })
    }

    #[test]
    fn only_close_small_reads_lead_to_naps() {
        assert_eq!(first_nap(100, Duration::from_micros(10)), Some(STREAK + 1));
        assert_eq!(first_nap(100, Duration::from_millis(1)), None, "a quiet container");
        assert_eq!(first_nap(SMALL_READ, Duration::from_micros(10)), None, "a flood in large pieces");
    }

    fn napping() -> (Pace, Instant) {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        while !pace.naps_after(100, CAPACITY, now) {
            now += Duration::from_micros(5);
        }
        (pace, now)
    }

    #[test]
    fn naps_go_on_while_they_bring_something_and_hold_nobody_up() {
        for last in [0, CAPACITY] {
            let (mut pace, mut now) = napping();
            for _ in 0..10 {
                now += 2 * NAP;
                assert!(pace.naps_after(CAPACITY / 2, CAPACITY, now));
            }
            assert!(!pace.naps_after(last, CAPACITY, now + NAP));
            assert!(!pace.naps_after(100, CAPACITY, now + 2 * NAP), "it starts all over");
        }
    }
}
