//! Waiting with an end: every wait of the tests goes through here.
//!
//! The limit is a minute, times `FERROMON_TEST_SLOW` where a machine needs it, and three seconds where a failure is the
//! expected result (see [`crate::differences`]). It is far beyond what anything takes on a busy machine: only a test
//! that fails gets there.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

thread_local! {
    static FAILURE_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Shortens the waits of this thread, because the test is known to fail on the program under test.
pub fn expect_failure(expected: bool) {
    FAILURE_EXPECTED.set(expected);
}

/// `duration`, stretched for slow machines.
#[must_use]
pub fn scaled(duration: Duration) -> Duration {
    let factor = std::env::var("FERROMON_TEST_SLOW").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    duration * factor
}

/// How long a wait may last.
#[must_use]
pub fn limit() -> Duration {
    scaled(Duration::from_secs(if FAILURE_EXPECTED.get() { 3 } else { 60 }))
}

/// Asks `probe` until it has an answer.
///
/// # Panics
/// Names `what` when the limit is reached first.
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match try_until(limit(), probe) {
        Some(answer) => answer,
        None => panic!("gave up waiting for {what}"),
    }
}

/// Asks `probe` until it has an answer or `limit` is over.
pub fn try_until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// Checks that `condition` stays true for a while (for things that must *not* happen).
///
/// # Panics
/// When it does not.
pub fn holds(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    let broken = try_until(time, || (!condition()).then_some(()));
    assert!(broken.is_none(), "did not last: {what}");
}

/// Waits until `fd` can be read (or its other end is gone).
#[must_use]
pub fn readable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    ready(fd, PollFlags::POLLIN, limit)
}

/// Waits until `fd` can be written.
#[must_use]
pub fn writable(fd: impl AsFd, limit: Duration) -> bool {
    ready(fd.as_fd(), PollFlags::POLLOUT, limit)
}

fn ready(fd: BorrowedFd<'_>, flags: PollFlags, limit: Duration) -> bool {
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let mut set = [PollFd::new(fd, flags)];
    loop {
        match poll(&mut set, timeout) {
            Ok(count) => return count > 0,
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
