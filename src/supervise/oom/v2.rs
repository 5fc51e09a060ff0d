//! cgroup v2: the counters in `memory.events`.
//!
//! The kernel raises a priority event on an open `memory.events` whenever one of its counters changes, at most every
//! 10 ms, the last change always. So the one descriptor is polled and read again, and no inotify instance is used up:
//! a user has 128 of these by default, which is fewer than the containers a host runs.
//!
//! The counters include the cgroups below. A kill of a child while the container survives raises `oom_kill` like one
//! of the container's first process; a group kill (`memory.oom.group`) raises it for each member. conmon:
//! `cgroup.c`, which watches through inotify, counts plain `oom` and starts at 0.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::uio::pread;

use crate::diag::{debug, warn};
use crate::error::strerror;
use crate::supervise::oom::counters::{FILE_MAX, kills_in_memory_events};

#[derive(Debug)]
pub struct Watch {
    events: File,
    /// Kills known of. At first those from before the watch: an exec or a shared cgroup inherits old ones.
    kills: u64,
}

impl Watch {
    /// Watches the cgroup `directory`; `None` when it is gone or has no memory controller.
    pub fn open(directory: &Path) -> Option<Self> {
        Self::open_file(&directory.join("memory.events"))
    }

    fn open_file(path: &Path) -> Option<Self> {
        match File::open(path) {
            Ok(events) => {
                let mut watch = Self { events, kills: 0 };
                watch.on_readable();
                Some(watch)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                debug!("{} does not exist, no watch for OOM kills", path.display());
                None
            }
            Err(error) => {
                warn!("Failed to watch {} for OOM kills: {}", path.display(), strerror(&error));
                None
            }
        }
    }

    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        // The file is always readable, so only PRIORITY says something. A change since the last read is reported at
        // once: registering loses nothing.
        registry.register(&mut SourceFd(&self.events.as_raw_fd()), token, Interest::PRIORITY)
    }

    pub(super) fn on_readable(&mut self) -> bool {
        let kills = match self.read_kills() {
            Ok(kills) => kills,
            // What an open file of a removed cgroup answers.
            Err(Errno::ENODEV) => {
                debug!("Cgroup appears to have been removed, its OOM counters are gone");
                return false;
            }
            Err(error) => {
                warn!("Failed to read memory.events: {}", error.desc());
                return false;
            }
        };
        let killed = kills > self.kills;
        self.kills = kills;
        killed
    }

    fn read_kills(&self) -> nix::Result<u64> {
        let mut buffer = [0; FILE_MAX];
        let length = pread(&self.events, &mut buffer, 0)?;
        Ok(kills_in_memory_events(buffer.get(..length).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;
    use crate::supervise::attach::tests::TempDir;

    #[test]
    fn old_kills_are_the_base_line_and_the_watch_stays_alive() {
        let dir = TempDir::new();
        let file = dir.0.join("memory.events");
        fs::write(&file, "oom 9\noom_kill 2\noom_group_kill 0\n").unwrap();
        let mut watch = Watch::open_file(&file).unwrap();
        let steps = [
            ("oom 9\noom_kill 2\noom_group_kill 0\n", false),
            ("oom 10\noom_kill 2\noom_group_kill 0\n", false),
            ("oom 10\noom_kill 3\noom_group_kill 0\n", true),
            ("oom 10\noom_kill 3\noom_group_kill 0\n", false),
            ("oom 11\noom_kill 3\noom_group_kill 1\n", true),
            ("oom 12\noom_kill 4\noom_group_kill 1\n", true),
        ];
        for (text, killed) in steps {
            fs::write(&file, text).unwrap();
            assert_eq!(watch.on_readable(), killed, "{text:?}");
        }
    }

    #[test]
    fn no_memory_controller_no_watch() {
        assert!(Watch::open(Path::new("/nonexistent/cgroup")).is_none());
    }

    /// A new cgroup below a cgroup2 mount that may be written to, removed with the value.
    struct Cgroup(PathBuf);

    impl Cgroup {
        fn create() -> Option<Self> {
            let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
                .into_iter()
                .find(|root| Path::new(root).join("cgroup.controllers").exists())?;
            nix::unistd::mkdtemp(&Path::new(root).join("ferromon-test.XXXXXX")).ok().map(Self)
        }
    }

    impl Drop for Cgroup {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    /// `cgroup.events` changes whenever a cgroup becomes empty or not, through the same kernel function as
    /// `memory.events`, and is there on hybrid layouts too.
    #[test]
    fn each_change_of_a_cgroup_file_wakes_an_edge_triggered_poll() {
        let Some(cgroup) = Cgroup::create() else {
            eprintln!("skipped: no cgroup2 mount that this user may write to");
            return;
        };
        let mut watch = Watch::open_file(&cgroup.0.join("cgroup.events")).unwrap();
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(4);
        watch.register(poll.registry(), Token(7)).unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "nothing has changed yet");
        for _ in 0..3 {
            // The cgroup is populated by the child until it ends at the end of its input.
            let script = format!("echo $$ > {}/cgroup.procs && read end", cgroup.0.display());
            let mut child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
            for change in ["populated", "empty"] {
                poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
                assert_eq!(
                    events.iter().map(|event| event.token()).collect::<Vec<_>>(),
                    [Token(7)],
                    "{change}"
                );
                assert!(!watch.on_readable());
                drop(child.stdin.take());
            }
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_removed_cgroup_is_no_kill() {
        let Some(cgroup) = Cgroup::create() else {
            eprintln!("skipped: no cgroup2 mount that this user may write to");
            return;
        };
        let mut watch = Watch::open_file(&cgroup.0.join("cgroup.events")).unwrap();
        drop(cgroup);
        assert_eq!(watch.read_kills(), Err(Errno::ENODEV));
        assert!(!watch.on_readable());
    }
}
