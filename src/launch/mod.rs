//! Start-up: from a child of the driver to a monitor whose runtime is creating the container.
//!
//! Straight-line code in conmon's order, which drivers rely on: nothing is forked before the start byte (the driver
//! moves us to a cgroup first), and the parent side is gone before the runtime starts.

mod argv;
mod daemon;
pub mod oom_score;
pub mod parent;
mod runtime;
pub mod stdio;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use mio::{Poll, Token};
use nix::errno::Errno;

use self::oom_score::OomScore;
use self::parent::Inherited;
use self::runtime::RuntimeChild;
use crate::config::Config;
use crate::diag::{debug, warn};
use crate::error::{Context, Error, Result, strerror};
use crate::log::Log;
use crate::report::sync_pipe::{Key, SyncPipe};
use crate::supervise::attach::{self, Attach, AttachSocket, FileGuard};
use crate::supervise::console::ConsoleSocket;
use crate::supervise::control::Fifo;
use crate::supervise::notify::NotifyRelay;
use crate::supervise::pidfile;
use crate::supervise::{Controls, Event, FIRST_CLIENT, Monitor, Sources, Terminal};
use crate::sys;
use crate::sys::process::Side;
use crate::sys::signal::{DriverMask, Signals};

/// Which process a launch returned in.
#[derive(Debug)]
pub enum Role<'a> {
    /// The one the driver started. Its work is done but for the monitor's pidfile; the monitor goes on without that
    /// file, so an error is the parent's alone, and nothing for the sync pipe.
    Parent(Result<()>),
    Monitor(Box<Launched<'a>>),
}

/// A monitor with its runtime at work, and what the end of the process needs.
#[derive(Debug)]
pub struct Launched<'a> {
    pub monitor: Monitor<'a>,
    /// The attach socket's file. `None` for a container without one.
    pub attach_file: Option<FileGuard>,
    /// The link to the bundle in the socket directory; it goes last of all.
    pub link: Option<FileGuard>,
    pub oom: OomScore,
    pub mask: DriverMask,
}

/// Waits for the start byte, becomes a daemon and starts the runtime.
///
/// # Errors
/// Anything that fails here is fatal; the parent has been told on the sync pipe if it could be.
#[inline(never)]
pub fn launch<'a>(config: &'a Config, log: Log, inherited: &mut Inherited) -> Result<Role<'a>> {
    let oom = OomScore::lower();
    sys::signal::keep_children().context(|| "Failed to handle SIGCHLD".into())?;
    sys::signal::exit_on_term().context(|| "Failed to handle SIGTERM".into())?;
    let start_pipe = inherited.adopt_start_pipe()?;
    if let Some(pipe) = &start_pipe {
        parent::wait_for_start(pipe)?;
    }
    if config.sync {
        daemon::write_pidfile(config.conmon_pidfile.as_deref(), nix::unistd::getpid().as_raw())?;
    } else if let Side::Parent { child } = daemon::daemonise()? {
        return Ok(Role::Parent(daemon::write_pidfile(config.conmon_pidfile.as_deref(), child.as_raw())));
    }
    // From here on a signal waits until the loop reads it, so whatever is made below is cleaned up.
    let mask = sys::signal::block().context(|| "Failed to block signals".into())?;
    let mut sync = SyncPipe::new(inherited.adopt("_OCI_SYNCPIPE")?, Key::of(config));
    sync.answer_on_panic();
    let attach_pipe = attach_pipe(config, inherited);
    match attach_pipe.and_then(|pipe| Preparation { config, oom, mask, start_pipe }.run(log, &mut sync, pipe))
    {
        Ok(launched) => Ok(Role::Monitor(Box::new(launched))),
        Err(e) => {
            sync.report(-1, e.to_string().as_bytes());
            Err(e)
        }
    }
}

/// `Ok(None)` where there is nobody to tell that clients can attach.
fn attach_pipe(config: &Config, inherited: &mut Inherited) -> Result<Option<OwnedFd>> {
    if !config.waits_for_attach() {
        return Ok(None);
    }
    if std::env::var_os("_OCI_ATTACHPIPE").is_none() {
        // conmon: prints whatever errno happens to be behind this.
        return Err(Error::os("--attach specified but _OCI_ATTACHPIPE was not", Errno::ENOENT));
    }
    inherited.adopt("_OCI_ATTACHPIPE")
}

/// What the daemon brings into the preparation of the container.
struct Preparation<'a> {
    config: &'a Config,
    oom: OomScore,
    mask: DriverMask,
    start_pipe: Option<OwnedFd>,
}

impl<'a> Preparation<'a> {
    fn run(self, log: Log, sync: &mut SyncPipe, attach_pipe: Option<OwnedFd>) -> Result<Launched<'a>> {
        let config = self.config;
        let notify = match &config.sdnotify_socket {
            Some(host) => Some(NotifyRelay::bind(config.bundle.as_deref().unwrap_or(Path::new(".")), host)?),
            None => None,
        };
        if !config.log.passthrough {
            sys::fd::release_stdio().context(|| "Failed to open /dev/null".into())?;
        }
        daemon::lead_own_session()?;
        let poll = Poll::new().context(|| "Failed to create an epoll descriptor".into())?;
        let signals = Signals::open().context(|| "Failed to create signalfd".into())?;
        let (ends, runtime_ends) = stdio::pipes(config)?;
        let terminal = open_console(config)?;
        let endpoints = Endpoints::open(config)?;
        if let Some(pipe) = attach_pipe {
            // Its own pipe: the parent may connect now.
            SyncPipe::new(Some(pipe), Key::of(config)).report(0, b"");
        }
        let (attach_file, listener) = endpoints.socket.map(|s| (s.file, s.listener)).unzip();
        let attach = Attach::new(listener, Token(FIRST_CLIENT), stall_timeout());
        if let Err(e) = pidfile::forget(&config.container_pidfile) {
            warn!("Failed to empty {}: {}", config.container_pidfile.display(), strerror(&e));
        }
        let child = RuntimeChild {
            stdio: runtime_ends,
            second_start: self.start_pipe.filter(|_| config.waits_for_attach()),
            mask: self.mask,
            oom: self.oom,
        };
        let console = terminal.console.as_ref().map(ConsoleSocket::socket_path);
        let (runtime, exec_failure) = runtime::start(config, console, child)?;
        debug!("runtime PID: {runtime}");
        let sources =
            Sources { poll, signals, ends, attach, terminal, controls: endpoints.controls, notify, log };
        let monitor = Monitor::new(config, sources, runtime, exec_failure, sync)?;
        if config.log.passthrough {
            sys::fd::release_stdio().context(|| "Failed to open /dev/null".into())?;
        }
        Ok(Launched { monitor, attach_file, link: endpoints.link, oom: self.oom, mask: self.mask })
    }
}

/// The socket on which the runtime will hand over the terminal, if there is to be one.
fn open_console(config: &Config) -> Result<Terminal> {
    if !config.terminal {
        return Ok(Terminal::default());
    }
    let tmpdir = std::env::var_os("TMPDIR");
    let console = ConsoleSocket::new(tmpdir.as_deref(), Event::Console.token())?;
    Ok(Terminal::behind(console))
}

/// What clients of the container find in the bundle and in the socket directory.
#[derive(Debug, Default)]
struct Endpoints {
    socket: Option<AttachSocket>,
    link: Option<FileGuard>,
    controls: Controls,
}

impl Endpoints {
    /// None for an exec without a bundle, and none where the driver's own descriptors are the container's.
    fn open(config: &Config) -> Result<Self> {
        let Some(bundle) = config.bundle.as_deref().filter(|_| !config.log.passthrough) else {
            return Ok(Self::default());
        };
        let link = match &config.cuuid {
            Some(cuuid) if !config.full_attach => Some(attach::link(&config.socket_dir, cuuid, bundle)?),
            _ => None,
        };
        let socket = Some(attach::listen_in(bundle)?);
        let controls = Controls { ctl: Some(Fifo::ctl(bundle)?), winsz: Some(Fifo::winsz(bundle)?) };
        Ok(Self { socket, link, controls })
    }
}

/// `CONMON_ATTACH_STALL_TIMEOUT`: seconds after which a client that takes nothing is disconnected.
fn stall_timeout() -> Option<Duration> {
    let name = "CONMON_ATTACH_STALL_TIMEOUT";
    let value = std::env::var_os(name)?;
    let seconds = value.to_str().and_then(|text| text.parse::<u64>().ok()).filter(|&s| s > 0);
    if seconds.is_none() {
        warn!("{name}={} is not a number of seconds; clients are never disconnected", value.display());
    }
    // A moment that is further away than the clock reaches can't be computed.
    seconds.map(|seconds| Duration::from_secs(seconds.min(u32::MAX.into())))
}
