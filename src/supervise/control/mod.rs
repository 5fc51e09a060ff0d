//! Requests from the driver: the fifos `ctl` and `winsz` in the bundle.
//!
//! A fifo is open for reading and writing here, so that it never reports a hang-up when a writer leaves. A turn gives the last
//! size asked for and whether the logs are to be re-opened, however many lines said so: later ones overrule earlier
//! ones, and a writer of millions costs no memory. conmon: `ctrl.c`.

mod line;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, read};

pub use line::{Dialect, Parser, Rejected, Request, WindowSize};

use super::event::Turn;
use crate::diag;
use crate::error::{Context, Result};

/// Bytes read from a fifo in one turn.
const TURN_BUDGET: usize = 64 * 1024;

/// Warnings about bad lines in one period; what is beyond is only counted.
const WARNINGS: u32 = 10;
const WARNING_PERIOD: Duration = Duration::from_secs(60);

/// What the lines of one turn ask for together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// The last size asked for.
    pub size: Option<WindowSize>,
    pub reopen_logs: bool,
}

/// One control fifo.
#[derive(Debug)]
pub struct Fifo {
    /// `None` after it failed.
    fifo: Option<OwnedFd>,
    name: &'static str,
    parser: Parser,
    warnings: Limiter,
}

impl Fifo {
    /// Makes `ctl` in `bundle`, in place of what an earlier monitor has left there.
    ///
    /// # Errors
    /// The fifo can't be made or opened, in conmon's words.
    pub fn ctl(bundle: &Path) -> Result<Self> {
        Self::new(bundle, "ctl", "terminal control fifo", Dialect::Ctl)
    }

    /// Makes `winsz` in `bundle`. Sizes that come this way are for the container's terminal; without one they are
    /// read all the same, so that no writer blocks, and ignored.
    ///
    /// # Errors
    /// As [`Self::ctl`].
    pub fn winsz(bundle: &Path) -> Result<Self> {
        Self::new(bundle, "winsz", "window resize control fifo", Dialect::Winsz)
    }

    fn new(bundle: &Path, name: &'static str, title: &str, dialect: Dialect) -> Result<Self> {
        let path = bundle.join(name);
        make(&path).context(|| format!("Failed to mkfifo at {}", path.display()))?;
        // Linux opens a fifo for both at once: as its own writer it never sees a hang-up, with one descriptor.
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let fifo =
            open(&path, flags, Mode::empty()).context(|| format!("Failed to open {title} read half"))?;
        Ok(Self { fifo: Some(fifo), name, parser: Parser::new(dialect), warnings: Limiter::default() })
    }

    /// Watches the fifo under `token`.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        match &self.fifo {
            Some(fifo) => registry.register(&mut SourceFd(&fifo.as_raw_fd()), token, Interest::READABLE),
            None => Ok(()),
        }
    }

    /// Reads what has come, at most 64 KiB of it.
    // Not inlined, nor are other rare users of large buffers: the loop's own frame lives as long as the container.
    #[inline(never)]
    pub fn on_readable(&mut self, registry: &Registry, now: Instant) -> (Requests, Turn) {
        let (mut requests, mut total, mut buffer) = (Requests::default(), 0, [0; 4096]);
        while total < TURN_BUDGET {
            let Some(fifo) = &self.fifo else { return (requests, Turn::Dry) };
            match read(fifo.as_fd(), &mut buffer) {
                Ok(0) | Err(Errno::EAGAIN) => return (requests, Turn::Dry),
                Ok(len) => {
                    total += len;
                    self.take(buffer.get(..len).unwrap_or_default(), &mut requests, now);
                }
                Err(Errno::EINTR) => {}
                Err(error) => {
                    diag::warn!("Failed to read from fifo {}: {}", self.name, error.desc());
                    let _ = registry.deregister(&mut SourceFd(&fifo.as_raw_fd()));
                    self.fifo = None;
                }
            }
        }
        (requests, Turn::More)
    }

    fn take(&mut self, bytes: &[u8], requests: &mut Requests, now: Instant) {
        let (name, warnings) = (self.name, &mut self.warnings);
        self.parser.feed(bytes, |line| match line {
            Ok(Request::Resize(size)) => requests.size = Some(size),
            Ok(Request::ReopenLogs) => requests.reopen_logs = true,
            Err(rejected) => warnings.warn(name, rejected, now),
        });
    }
}

/// Leaves a fresh fifo at `path` with mode 0660 less the umask.
fn make(path: &Path) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(0o660);
    match mkfifo(path, mode) {
        Err(Errno::EEXIST) => {
            fs::remove_file(path)?;
            Ok(mkfifo(path, mode)?)
        }
        result => Ok(result?),
    }
}

/// Lets a few warnings a minute through and counts the others, so that garbage does not become a flood of messages.
#[derive(Debug, Default)]
struct Limiter {
    /// `None` before the first warning.
    period_start: Option<Instant>,
    given: u32,
    withheld: u64,
}

impl Limiter {
    fn warn(&mut self, fifo: &str, rejected: Rejected, now: Instant) {
        if let Some(withheld) = self.admit(now) {
            if withheld > 0 {
                diag::warn!("{withheld} more bad lines on fifo {fifo}");
            }
            diag::warn!("{rejected}");
        }
    }

    /// `Some`: warn, and about that many that were withheld before. `None`: don't.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.period_start.is_none_or(|start| now.saturating_duration_since(start) >= WARNING_PERIOD) {
            (self.period_start, self.given) = (Some(now), 0);
        }
        if self.given >= WARNINGS {
            self.withheld += 1;
            return None;
        }
        self.given += 1;
        Some(std::mem::take(&mut self.withheld))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};

    use mio::{Events, Poll};

    use super::*;
    use crate::supervise::attach::tests::TempDir;

    const CTL: Token = Token(3);

    struct Bench {
        _dir: TempDir,
        poll: Poll,
        fifo: Fifo,
        writer: File,
    }

    impl Bench {
        fn new() -> Self {
            let dir = TempDir::new();
            let fifo = Fifo::ctl(&dir.0).unwrap();
            let poll = Poll::new().unwrap();
            fifo.register(poll.registry(), CTL).unwrap();
            let writer = open_writer(&dir.0.join("ctl"));
            Self { _dir: dir, poll, fifo, writer }
        }

        fn has_events(&mut self, wait: u64) -> bool {
            let mut events = Events::with_capacity(8);
            self.poll.poll(&mut events, Some(Duration::from_millis(wait))).unwrap();
            !events.is_empty()
        }

        fn read(&mut self) -> (Requests, Turn) {
            self.fifo.on_readable(self.poll.registry(), Instant::now())
        }
    }

    fn open_writer(path: &Path) -> File {
        OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
    }

    #[test]
    fn requests_of_one_turn_are_taken_together() {
        let mut bench = Bench::new();
        bench.writer.write_all(b"1 10 20\n2 0 0\nbad\n1 30 40\n1 50").unwrap();
        assert!(bench.has_events(5000));
        let size = |rows, columns| Some(WindowSize { rows, columns });
        let requests = Requests { size: size(30, 40), reopen_logs: true };
        assert_eq!(bench.read(), (requests, Turn::Dry));
        bench.writer.write_all(b" 60\n").unwrap();
        assert!(bench.has_events(5000));
        let requests = Requests { size: size(50, 60), reopen_logs: false };
        assert_eq!(bench.read(), (requests, Turn::Dry));
    }

    #[test]
    fn writers_that_leave_are_no_event() {
        let mut bench = Bench::new();
        assert!(!bench.has_events(0));
        bench.writer = File::open("/dev/null").unwrap();
        assert!(!bench.has_events(30));
    }

    #[test]
    fn a_flood_ends_with_the_turn_and_loses_no_request() {
        let mut bench = Bench::new();
        let (mut written, mut turns, mut more) = (0, 0, false);
        let deadline = Instant::now() + Duration::from_secs(20);
        while written < 1_000_000 || more {
            assert!(Instant::now() < deadline);
            written += bench.writer.write(&[b'x'; 40_000]).unwrap_or(0);
            more = bench.read().1 == Turn::More;
            turns += 1;
        }
        bench.writer.write_all(b"\n1 7 8\n").unwrap();
        assert_eq!(bench.read().0.size, Some(WindowSize { rows: 7, columns: 8 }));
        assert!(turns > 10);
    }

    #[test]
    fn stale_files_are_replaced_and_links_not_followed() {
        let dir = TempDir::new();
        let victim = dir.0.join("victim");
        File::create(&victim).unwrap();
        std::os::unix::fs::symlink(&victim, dir.0.join("ctl")).unwrap();
        File::create(dir.0.join("winsz")).unwrap();
        let _fifos = (Fifo::ctl(&dir.0).unwrap(), Fifo::winsz(&dir.0).unwrap());
        for name in ["ctl", "winsz"] {
            let metadata = fs::symlink_metadata(dir.0.join(name)).unwrap();
            assert!(metadata.file_type().is_fifo());
            assert_eq!(metadata.permissions().mode() & 0o7117, 0);
        }
        assert!(fs::metadata(&victim).unwrap().is_file());
        let again = Fifo::ctl(&dir.0).unwrap();
        drop(again);
        let error = Fifo::ctl(&dir.0.join("missing")).unwrap_err().to_string();
        assert!(error.starts_with("Failed to mkfifo at "), "{error}");
    }

    #[test]
    fn warnings_are_few_and_the_rest_is_counted() {
        let mut limiter = Limiter::default();
        let now = Instant::now();
        let given = (0..1000).filter(|_| limiter.admit(now).is_some()).count();
        assert_eq!(given, WARNINGS as usize);
        assert_eq!(limiter.admit(now + WARNING_PERIOD), Some(1000 - u64::from(WARNINGS)));
        assert_eq!(limiter.admit(now + WARNING_PERIOD), Some(0));
    }
}
