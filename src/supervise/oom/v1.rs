//! cgroup v1: an eventfd that is registered for the cgroup's `memory.oom_control`, and that file's kill counter.
//!
//! The kernel signals the eventfd
//! - when this cgroup or one above it is out of memory, before it kills somebody, or nobody (`oom_kill_disable`);
//! - once when the cgroup is removed, some time after its files are gone.
//!
//! The counter `oom_kill` (Linux 4.13) rises before the SIGKILL is sent, for the cgroup that the victim is in, no
//! matter whether the container's first process or a child of it dies. Victims in cgroups below do not raise it, and
//! there is no group kill. So a rise is a kill; an event without a rise is either too early, or a victim below, or a
//! sibling's misfortune, and is judged at the end. conmon: `cgroup.c`, where each event that is not the removal counts.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::uio::pread;

use crate::diag::{debug, info, warn};
use crate::error::strerror;
use crate::supervise::oom::counters::{FILE_MAX, Killer, OomControl, parse_count, parse_oom_control};

#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    /// `memory.oom_control`, which answers ENODEV once the cgroup is gone.
    control: File,
    /// `None` where the kernel has no such events (PREEMPT_RT); the counter is looked at in the end then.
    event: Option<EventFd>,
    /// Kills known of. At first those from before the watch.
    kills: u64,
    /// How often this cgroup's own limits had been hit before the watch.
    limit_hits: u64,
    unexplained: Unexplained,
}

/// Signals of the eventfd that no rise of the counter explains.
#[derive(Debug, Default)]
struct Unexplained {
    /// An event came while the cgroup was there: out of memory for sure, a kill perhaps.
    out_of_memory: bool,
    /// Signals taken after the cgroup's files were gone. One of them is the removal.
    after_removal: u64,
}

impl Watch {
    /// Watches the cgroup `directory`; `None` when it is gone, or when there is neither event nor counter.
    pub fn open(directory: PathBuf) -> Option<Self> {
        let path = directory.join("memory.oom_control");
        let control = match File::open(&path) {
            Ok(control) => control,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                debug!("{} does not exist, no watch for OOM kills", path.display());
                return None;
            }
            Err(error) => {
                warn!("Failed to open {}: {}", path.display(), strerror(&error));
                return None;
            }
        };
        // Registered before the base line is read: a kill in between is an event with nothing to explain it, and the
        // limit hit that goes with it is not in the base line of hits, which is read first.
        let limit_hits = limit_hits(&directory);
        let registered = register_event(&directory, &control);
        let kills = read_control(&control).ok().and_then(|control| control.kills);
        let event = match registered {
            Ok(event) => Some(event),
            // Not ours to watch, as without root: the container shares it with others, whose kills it counts too.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                debug!("no right to watch {} for OOM kills", directory.display());
                return None;
            }
            Err(error) if kills.is_some() => {
                debug!(
                    "no OOM events from {}, its counter must do: {}",
                    directory.display(),
                    strerror(&error)
                );
                None
            }
            Err(error) => {
                warn!(
                    "Failed to write to cgroup.event_control of {}: {}",
                    directory.display(),
                    strerror(&error)
                );
                return None;
            }
        };
        let unexplained = Unexplained::default();
        Some(Self { directory, control, event, kills: kills.unwrap_or(0), limit_hits, unexplained })
    }

    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        match &self.event {
            Some(event) => registry.register(&mut SourceFd(&event.as_raw_fd()), token, Interest::READABLE),
            None => Ok(()),
        }
    }

    pub(super) fn on_readable(&mut self) -> bool {
        match self.take_signals() {
            0 => false,
            signals => self.judge(signals, read_control(&self.control)),
        }
    }

    /// The event comes before the kernel has counted the kill: whether one may be about to be counted.
    pub(super) fn is_undecided(&self) -> bool {
        self.unexplained.out_of_memory
    }

    pub(super) fn look_again(&mut self) -> bool {
        let signals = self.take_signals();
        self.judge(signals, read_control(&self.control))
    }

    pub(super) fn final_check(&mut self) -> bool {
        let signals = self.take_signals();
        let control = read_control(&self.control);
        if self.judge(signals, control) {
            return true;
        }
        // Out of memory, and no kill in this very cgroup. If its own limit was hit the victim was below; if not, the
        // limit of a cgroup above was, and a sibling paid.
        let killer_ran = control.is_ok_and(|control| control.killer == Killer::Enabled);
        self.unexplained.out_of_memory && killer_ran && limit_hits(&self.directory) > self.limit_hits
    }

    fn take_signals(&self) -> u64 {
        self.event.as_ref().and_then(|event| event.read().ok()).unwrap_or(0)
    }

    /// Weighs `signals` against what `memory.oom_control` said afterwards; true for a kill not known of.
    fn judge(&mut self, signals: u64, control: nix::Result<OomControl>) -> bool {
        match control {
            Ok(OomControl { kills: Some(kills), .. }) => {
                let killed = kills > self.kills;
                self.kills = kills;
                self.unexplained.out_of_memory = !killed && (self.unexplained.out_of_memory || signals > 0);
                killed
            }
            // A kernel that doesn't count: the event is all there is.
            Ok(OomControl { kills: None, .. }) => signals > 0,
            Err(Errno::ENODEV) => self.judge_after_removal(signals),
            Err(error) => {
                warn!("Failed to read memory.oom_control: {}", error.desc());
                false
            }
        }
    }

    fn judge_after_removal(&mut self, signals: u64) -> bool {
        debug!("Memory cgroup was removed, {signals} events since the last look");
        self.unexplained.after_removal += signals;
        let killed = self.unexplained.out_of_memory || self.unexplained.after_removal > 1;
        if killed {
            info!("Memory cgroup was removed after it ran out of memory");
            self.unexplained = Unexplained::default();
        }
        killed
    }
}

/// Asks the kernel to signal an eventfd when the cgroup is out of memory; the registration ends with the eventfd.
fn register_event(directory: &Path, control: &File) -> io::Result<EventFd> {
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let request = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    let event_control = fs::OpenOptions::new().write(true).open(directory.join("cgroup.event_control"))?;
    nix::unistd::write(&event_control, request.as_bytes())?;
    Ok(event)
}

fn read_control(control: &File) -> nix::Result<OomControl> {
    let mut buffer = [0; FILE_MAX];
    let length = pread(control, &mut buffer, 0)?;
    Ok(parse_oom_control(buffer.get(..length).unwrap_or_default()))
}

/// How often a charge met this cgroup's limit of memory, or of memory and swap together; not those above or below it.
fn limit_hits(directory: &Path) -> u64 {
    let count = |name| {
        let mut buffer = [0; FILE_MAX];
        let read = File::open(directory.join(name)).map(|file| pread(&file, &mut buffer, 0));
        let length = read.ok().and_then(Result::ok).unwrap_or(0);
        parse_count(buffer.get(..length).unwrap_or_default())
    };
    count("memory.failcnt").saturating_add(count("memory.memsw.failcnt"))
}

#[cfg(test)]
mod tests;
