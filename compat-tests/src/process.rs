//! A process as `/proc` shows it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::deadline;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process(pub i32);

impl Process {
    /// Running or sleeping, not dead and not waiting to be reaped.
    #[must_use]
    pub fn alive(self) -> bool {
        self.state().is_some_and(|state| state != 'Z' && state != 'X')
    }

    /// The letter of the state; `None` when there is no such process.
    #[must_use]
    pub fn state(self) -> Option<char> {
        self.stat(0)?.chars().next()
    }

    #[must_use]
    pub fn ppid(self) -> i32 {
        self.number(1)
    }

    #[must_use]
    pub fn group(self) -> i32 {
        self.number(2)
    }

    #[must_use]
    pub fn session(self) -> i32 {
        self.number(3)
    }

    #[must_use]
    pub fn threads(self) -> i32 {
        self.number(17)
    }

    /// Time on a processor so far.
    #[must_use]
    pub fn cpu(self) -> Duration {
        let text = std::fs::read_to_string(self.path("schedstat")).unwrap_or_default();
        let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
        // Kernels without schedstat count in ticks.
        let ticks = || u64::try_from(self.number(11) + self.number(12)).unwrap_or(0);
        nanoseconds.map_or_else(|| Duration::from_millis(ticks() * 10), Duration::from_nanos)
    }

    /// Makes the calling thread its tracer, as strace and CRIU are: what it dies of is told to the tracer first, and to
    /// its parent only after [`Self::let_go`].
    pub fn trace(self) {
        ptrace::seize(self.nix(), ptrace::Options::empty()).expect("seize");
    }

    /// Takes the end of a traced process; to be called in the thread that traces it.
    pub fn let_go(self) {
        waitpid(self.nix(), Some(WaitPidFlag::__WALL)).expect("the end of the traced process");
    }

    fn nix(self) -> Pid {
        Pid::from_raw(self.0)
    }

    /// Checks that the process comes to rest: it sleeps, and in 300 ms it uses next to no time. One that is busy and does
    /// not get a processor does not sleep, so the answer does not depend on how busy the machine is.
    ///
    /// # Panics
    /// When it is busy, or dies.
    pub fn expect_idle(self) {
        deadline::until("the process to come to rest", || {
            assert!(self.alive(), "the process lives");
            let (slept, before) = (self.sleeps(), self.cpu());
            std::thread::sleep(Duration::from_millis(300));
            let used = self.cpu().saturating_sub(before);
            (slept && self.sleeps() && used < Duration::from_millis(8)).then_some(())
        });
    }

    /// Whether the process sleeps all the time for `time`. One that wants to run and does not get a processor is not
    /// taken for a sleeping one, so the answer does not depend on how busy the machine is.
    #[must_use]
    pub fn rests(self, time: Duration) -> bool {
        let before = self.activity();
        if !self.sleeps() {
            return false;
        }
        std::thread::sleep(time);
        before == self.activity() && self.sleeps()
    }

    /// Waiting for something, and not for a processor or a disk.
    #[must_use]
    pub fn sleeps(self) -> bool {
        self.state() == Some('S')
    }

    /// Stays the same as long as the process does not run.
    fn activity(self) -> (Duration, String, String) {
        (self.cpu(), self.status("voluntary_ctxt_switches"), self.status("nonvoluntary_ctxt_switches"))
    }

    /// Field `index` of `/proc/PID/stat`, counted from the state.
    fn stat(self, index: usize) -> Option<String> {
        let text = std::fs::read_to_string(self.path("stat")).ok()?;
        let (_, fields) = text.rsplit_once(") ")?;
        fields.split(' ').nth(index).map(str::to_owned)
    }

    fn number(self, index: usize) -> i32 {
        self.stat(index).and_then(|text| text.parse().ok()).unwrap_or(-1)
    }

    /// A field of `/proc/PID/status`, for instance `SigIgn` or `Umask`; empty when the process is gone.
    #[must_use]
    pub fn status(self, field: &str) -> String {
        let text = std::fs::read_to_string(self.path("status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    }

    /// Whether the set `field` (`SigIgn`, `SigBlk`, `SigCgt`) of the process holds `signal`.
    #[must_use]
    pub fn signal_in(self, field: &str, signal: Signal) -> bool {
        let set = u64::from_str_radix(&self.status(field), 16).unwrap_or(0);
        set & (1 << (signal as i32 - 1)) != 0
    }

    /// Open descriptors and what they lead to.
    #[must_use]
    pub fn fds(self) -> BTreeMap<i32, String> {
        let Ok(entries) = std::fs::read_dir(self.path("fd")) else { return BTreeMap::new() };
        let named = entries.flatten().filter_map(|entry| {
            let target = std::fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, target.to_string_lossy().into_owned()))
        });
        named.collect()
    }

    /// Whether one of its descriptors leads to `target`, as [`Self::fds`] shows it.
    #[must_use]
    pub fn holds(self, target: &str) -> bool {
        self.fds().values().any(|held| held == target)
    }

    #[must_use]
    pub fn cwd(self) -> PathBuf {
        std::fs::read_link(self.path("cwd")).unwrap_or_default()
    }

    #[must_use]
    pub fn cmdline(self) -> Vec<u8> {
        std::fs::read(self.path("cmdline")).unwrap_or_default()
    }

    #[must_use]
    pub fn environ(self) -> Vec<u8> {
        std::fs::read(self.path("environ")).unwrap_or_default()
    }

    #[must_use]
    pub fn oom_score_adj(self) -> i32 {
        let text = std::fs::read_to_string(self.path("oom_score_adj")).unwrap_or_default();
        text.trim().parse().unwrap_or(i32::MIN)
    }

    /// Private and proportional memory in KiB, as `smaps_rollup` counts it.
    #[must_use]
    pub fn memory(self) -> (u64, u64) {
        (self.memory_of("Private_Clean") + self.memory_of("Private_Dirty"), self.memory_of("Pss"))
    }

    /// A field of `smaps_rollup` in KiB; 0 when the process is gone.
    #[must_use]
    pub fn memory_of(self, field: &str) -> u64 {
        let text = std::fs::read_to_string(self.path("smaps_rollup")).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        found.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Memory of its own, not of files, in KiB; 0 when the process is gone.
    #[must_use]
    pub fn anonymous(self) -> u64 {
        self.status("RssAnon").strip_suffix(" kB").and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    pub fn signal(self, signal: Signal) {
        assert!(self.0 > 1, "no process to signal");
        let _ = kill(Pid::from_raw(self.0), signal);
    }

    fn path(self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(file)
    }
}

/// Every process on the machine, zombies as well.
pub(crate) fn all() -> impl Iterator<Item = Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(Process(entry.file_name().to_str()?.parse().ok()?)))
}
