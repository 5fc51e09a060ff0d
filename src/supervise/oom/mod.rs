//! Notices when the kernel kills a process of the container because its memory limit was reached.
//!
//! Everything here is best effort: a host without the memory controller, a cgroup that is gone already or a refused
//! descriptor costs the watch and nothing else. Only kills count; a cgroup that ran out of memory and in which nobody
//! died (reclaim helped, or the killer is disabled) is not reported. conmon: `cgroup.c`.

pub mod cgroup;
pub mod counters;
pub mod v1;
pub mod v2;

use std::io;

use mio::{Registry, Token};
use nix::unistd::Pid;

use crate::diag::debug;
use crate::supervise::oom::cgroup::Hierarchy;

/// The watch on the memory cgroup that the container was in when the watch was opened.
#[derive(Debug)]
pub enum OomWatch {
    V1(v1::Watch),
    V2(v2::Watch),
}

impl OomWatch {
    /// Starts to watch the memory cgroup of the process `container`.
    ///
    /// What has happened in that cgroup before is the base line and is not reported. `None`: nothing to watch, which
    /// is only worth a warning where the controller is there and refuses.
    pub fn open(container: Pid) -> Option<Self> {
        let hierarchy = cgroup::mounted_hierarchy();
        let Some(directory) = cgroup::memory_directory(container, hierarchy) else {
            debug!("no memory cgroup to watch for OOM kills: absent, or process {container} is gone");
            return None;
        };
        match hierarchy {
            Hierarchy::V1 => v1::Watch::open(directory).map(Self::V1),
            Hierarchy::V2 => v2::Watch::open(&directory).map(Self::V2),
        }
    }

    /// Has `registry` report `token` when [`Self::on_readable`] should be called, whatever kind of readiness it is.
    ///
    /// # Errors
    /// As epoll_ctl(2). The watch is still good for [`Self::final_check`] then.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Self::V1(watch) => watch.register(registry, token),
            Self::V2(watch) => watch.register(registry, token),
        }
    }

    /// An event was seen and no kill yet: [`Self::look_again`] soon may find one.
    pub fn is_undecided(&self) -> bool {
        match self {
            Self::V1(watch) => watch.is_undecided(),
            Self::V2(_) => false,
        }
    }

    /// Whether a kill was counted since the last look; as [`Self::on_readable`], but without an event.
    pub fn look_again(&mut self) -> bool {
        match self {
            Self::V1(watch) => watch.look_again(),
            Self::V2(watch) => watch.on_readable(),
        }
    }

    /// Takes what the kernel has to tell; never blocks, and one call takes all there is.
    ///
    /// True when processes were killed since the last look. False proves nothing on cgroup v1, where the event comes
    /// a moment before the kill: only [`Self::final_check`] is the last word.
    pub fn on_readable(&mut self) -> bool {
        match self {
            Self::V1(watch) => watch.on_readable(),
            Self::V2(watch) => watch.on_readable(),
        }
    }

    /// The last look, to be taken after the container was reaped and before its exit is published. The kernel counts
    /// a kill before it sends the signal, so whatever killed the container is in the counters by then, unless the
    /// cgroup has been removed already. True as for [`Self::on_readable`].
    pub fn final_check(&mut self) -> bool {
        match self {
            Self::V1(watch) => watch.final_check(),
            Self::V2(watch) => watch.on_readable(),
        }
    }
}
