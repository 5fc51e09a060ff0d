//! What the monitor does about the container's memory: watches it, and tells the driver when a process was killed.

use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::oom::OomWatch;
use super::{Event, Monitor, Turn};
use crate::diag::debug;
use crate::error::strerror;
use crate::report::oom_files::{OomFiles, report_oom};

/// On cgroup v1 the event comes before the kill is counted. So the counter is looked at again this often, so many times.
const OOM_INTERVAL: Duration = Duration::from_millis(50);
const OOM_LOOKS: u32 = 40;

impl Monitor<'_> {
    /// Best effort: a container without a watch runs as well.
    pub(super) fn watch_memory(&mut self, pid: Pid) {
        self.oom = OomWatch::open(pid);
        if let Some(Err(e)) =
            self.oom.as_ref().map(|oom| oom.register(self.poll.registry(), Event::OutOfMemory.token()))
        {
            debug!("Failed to watch the container's memory: {}", strerror(&e));
        }
    }

    pub(super) fn on_out_of_memory(&mut self, now: Instant) -> Turn {
        let was_killed = self.oom.as_mut().is_some_and(OomWatch::on_readable);
        self.oom_looks = OOM_LOOKS;
        self.decide_oom(was_killed, now);
        Turn::Dry
    }

    pub(super) fn look_again_for_oom(&mut self, now: Instant) {
        let was_killed = self.oom.as_mut().is_some_and(OomWatch::look_again);
        self.decide_oom(was_killed, now);
    }

    /// Reports a kill; where one may be about to be counted, looks again a little later, but not for ever.
    fn decide_oom(&mut self, was_killed: bool, now: Instant) {
        let is_undecided = !was_killed && self.oom.as_ref().is_some_and(OomWatch::is_undecided);
        self.deadlines.oom = (is_undecided && self.oom_looks > 0).then(|| now + OOM_INTERVAL);
        self.oom_looks = self.oom_looks.saturating_sub(1);
        if was_killed {
            self.report_oom();
        }
    }

    fn report_oom(&mut self) {
        if self.oom_files != Some(OomFiles::Written) {
            self.oom_files =
                Some(report_oom(self.config.persist_dir.as_deref(), self.config.bundle.as_deref()));
        }
    }

    /// The container is gone: what its last event did not tell, the counters may.
    pub fn look_for_oom(&mut self) {
        let was_killed = self.oom.as_mut().is_some_and(OomWatch::final_check);
        if was_killed || self.oom_files == Some(OomFiles::Incomplete) {
            self.report_oom();
        }
    }
}
