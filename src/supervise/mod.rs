//! The event loop: one for containers and exec sessions, with and without a terminal, from the start of the runtime
//! to the last byte of output.
//!
//! Nothing in here is fatal. What fails is warned about and left out, because whatever happens, the way the
//! container ends has to be told. mio is edge-triggered, so a source that may have more to give than its turn
//! allowed stays in `ready`, and while anything is there the loop does not wait.

pub mod attach;
pub mod console;
pub mod control;
mod event;
mod lifecycle;
mod memory;
pub mod notify;
pub mod oom;
mod output;
mod pace;
mod perform;
pub mod pidfile;
pub mod privileges;
pub mod stdin;
mod streams;
mod terminal;
mod watch;

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

pub use self::event::{Event, FIRST_CLIENT, Turn};
pub use self::lifecycle::Outcome;
pub use self::terminal::{Controls, Terminal};

use self::attach::Attach;
use self::console::ConsoleSocket;
use self::lifecycle::{Input, Lifecycle};
use self::notify::NotifyRelay;
use self::oom::OomWatch;
use self::perform::KILL_PATIENCE;
use self::stdin::Stdin;
use self::streams::Streams;
use self::watch::{POLL_INTERVAL, Watch};
use crate::config::Config;
use crate::diag::warn;
use crate::error::{Context, Result, strerror};
use crate::launch::stdio::MonitorEnds;
use crate::log::Log;
use crate::report::oom_files::OomFiles;
use crate::report::sync_pipe::SyncPipe;
use crate::sys;
use crate::sys::process::reap;
use crate::sys::signal::Signals;
use crate::sys::spawn::ExecFailure;

/// Events taken from the kernel at once; more wait for the next turn.
const EVENTS_AT_ONCE: usize = 32;

/// Input bytes moved in one turn.
const INPUT_BUDGET: usize = 256 * 1024;

/// A container that is quiet for so long costs no buffers.
const QUIET_AFTER: Duration = Duration::from_millis(250);

/// Everything that supervision owns.
#[derive(Debug)]
pub struct Monitor<'a> {
    config: &'a Config,
    poll: Poll,
    signals: Signals,
    lifecycle: Lifecycle,
    sync: SyncPipe,
    log: Log,
    streams: Streams,
    /// The log is full for the moment; nothing is read from the container until it takes more.
    is_log_full: bool,
    /// It could not be waited for, which was warned about.
    is_log_unwatched: bool,
    attach: Attach,
    stdin: Stdin,
    terminal: Terminal,
    controls: Controls,
    /// `None` without `--sdnotify-socket`.
    notify: Option<NotifyRelay>,
    /// `None` until the container runs, and where its memory is not accounted.
    oom: Option<OomWatch>,
    /// How often to look again for a kill that the last event may have announced.
    oom_looks: u32,
    /// What became of the `oom` files; `None`: none was due.
    oom_files: Option<OomFiles>,
    /// `None` until the pid is known, and where there is nothing to watch.
    container: Option<Watch>,
    /// `None` once the runtime is known to have been started.
    exec_failure: Option<ExecFailure>,
    /// What to report if there turns out to be no container and the runtime says nothing.
    failure: String,
    /// Sources that may have more to give.
    ready: Vec<Event>,
    deadlines: Deadlines,
    outcome: Option<Outcome>,
}

/// When something is due though no source speaks; `None`: nothing of that kind.
#[derive(Debug, Default)]
struct Deadlines {
    /// `--timeout`.
    timeout: Option<Instant>,
    /// A killed container should be dead by then.
    give_up: Option<Instant>,
    /// The next look for a container that can't be watched.
    look: Option<Instant>,
    /// The next attempt to reopen the log.
    reopen: Option<Instant>,
    /// The next attempt at a full log that can't be waited for.
    log: Option<Instant>,
    /// The next look for a kill that is not counted yet.
    oom: Option<Instant>,
    /// The buffers go back if nobody needs them until then.
    quiet: Option<Instant>,
}

/// What the launch has prepared for the loop.
#[derive(Debug)]
pub struct Sources {
    pub poll: Poll,
    pub signals: Signals,
    pub ends: MonitorEnds,
    pub attach: Attach,
    pub terminal: Terminal,
    pub controls: Controls,
    pub notify: Option<NotifyRelay>,
    pub log: Log,
}

impl<'a> Monitor<'a> {
    /// Takes over `sources` and registers them. `runtime` is the runtime's pid. Only a monitor that has come to be
    /// takes `sync`: until then the caller has a failure to report there.
    ///
    /// # Errors
    /// No descriptors or address space are left: the last place where that is fatal.
    pub fn new(
        config: &'a Config,
        sources: Sources,
        runtime: Pid,
        exec_failure: ExecFailure,
        sync: &mut SyncPipe,
    ) -> Result<Self> {
        let Sources { poll, signals, ends, attach, terminal, controls, notify, log } = sources;
        let registry = poll.registry();
        let stdin = match ends.stdin {
            Some(end) => Stdin::pipe(end, config.stdin, Event::Stdin.token()),
            None if config.terminal => Stdin::terminal(Event::Stdin.token()),
            None => Stdin::none(Event::Stdin.token()),
        };
        let mut streams = Streams::new(ends.stdout, ends.stderr, registry)?;
        if log.may_lag() {
            streams.keep_pipes();
        }
        attach
            .register(registry, Event::Accept.token())
            .context(|| "Failed to watch the attach socket".into())?;
        if let Some(console) = &terminal.console {
            console.register(registry).context(|| "Failed to watch the console socket".into())?;
        }
        for (fifo, event) in [(&controls.ctl, Event::Ctl), (&controls.winsz, Event::Winsz)] {
            let watching = fifo.as_ref().map_or(Ok(()), |fifo| fifo.register(registry, event.token()));
            watching.context(|| "Failed to watch a control fifo".into())?;
        }
        if let Some(relay) = &notify {
            let watching = relay.register(registry, Event::Notify.token());
            watching.context(|| "Failed to watch the notify socket".into())?;
        }
        registry
            .register(&mut SourceFd(&signals.as_fd().as_raw_fd()), Event::Signals.token(), Interest::READABLE)
            .context(|| "Failed to watch signals".into())?;
        Ok(Self {
            config,
            signals,
            lifecycle: Lifecycle::new(runtime, config.is_exec()),
            sync: sync.take(),
            log,
            streams,
            is_log_full: false,
            is_log_unwatched: false,
            attach,
            stdin,
            terminal,
            controls,
            notify,
            oom: None,
            oom_looks: 0,
            oom_files: None,
            container: None,
            exec_failure: Some(exec_failure),
            failure: String::new(),
            ready: Vec::new(),
            deadlines: Deadlines::default(),
            outcome: None,
            poll,
        })
    }

    /// Supervises until the container has ended and its output is in the log, or until there turns out to be none.
    pub fn run(&mut self) -> Outcome {
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        loop {
            if let Some(outcome) = self.outcome {
                return outcome;
            }
            self.turn(&mut events);
        }
    }

    /// The container is gone. Clients that have all of its output see the end, and nobody can attach any more.
    pub fn begin_linger(&mut self) {
        self.attach.begin_linger(self.poll.registry(), Instant::now());
    }

    /// Waits for clients that are still taking output, then makes the log durable.
    pub fn linger(&mut self) {
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        while self.attach.is_lingering() {
            self.turn(&mut events);
        }
        self.log.sync();
    }

    pub fn sync_pipe(&mut self) -> &mut SyncPipe {
        &mut self.sync
    }

    /// Waits until something is to be done, and lets every source have its turn.
    fn turn(&mut self, events: &mut Events) {
        self.collect(events);
        let now = Instant::now();
        self.on_deadlines(now);
        for event in std::mem::take(&mut self.ready) {
            if self.on_event(event, now) == Turn::More {
                self.mark(event);
            }
        }
    }

    /// Adds to `ready` what the kernel has to tell.
    fn collect(&mut self, events: &mut Events) {
        let timeout = if self.ready.is_empty() { self.time_left() } else { Some(Duration::ZERO) };
        if let Err(e) = self.poll.poll(events, timeout)
            && e.kind() != ErrorKind::Interrupted
        {
            // Only a fault of ours leads here; the sources that are ready still get their turn.
            warn!("Failed to wait for events: {}", strerror(&e));
        }
        for event in events.iter() {
            match Event::from_token(event.token()) {
                Some(Event::Client) => self.on_client(event),
                Some(known) => self.mark(known),
                None => {}
            }
        }
    }

    fn mark(&mut self, event: Event) {
        if self.ready.contains(&event) {
            return;
        }
        // Whoever has connected by now gets what is read in this turn.
        let place = if event == Event::Accept { 0 } else { self.ready.len() };
        self.ready.insert(place, event);
    }

    fn on_event(&mut self, event: Event, now: Instant) -> Turn {
        match event {
            Event::Signals => self.on_signals(),
            Event::Container => self.on_container_ended(),
            Event::Output(stream) => self.on_output(stream, now),
            Event::Stdin => self.on_stdin_writable(),
            Event::Accept => self.attach.on_listener(self.poll.registry(), now),
            Event::Client => self.on_input(now),
            Event::Log => self.on_log_writable(now),
            Event::Notify => self.on_notify(),
            Event::OutOfMemory => self.on_out_of_memory(now),
            Event::Ctl | Event::Winsz => self.on_control(event, now),
            Event::Console => self.on_console(now),
        }
    }

    fn on_signals(&mut self) -> Turn {
        while let Some(signal) = self.signals.take_next() {
            // CHLD says that there is something to reap, which is looked for below whatever the signal was.
            if signal != Signal::SIGCHLD {
                self.step(Input::Signal(signal));
            }
        }
        self.reap_children();
        Turn::Dry
    }

    fn reap_children(&mut self) {
        while let Some((pid, status)) = reap() {
            self.step(Input::Reaped(pid, status));
        }
    }

    fn on_container_ended(&mut self) -> Turn {
        // If it is our child this tells how it ended, and what follows is ignored.
        self.reap_children();
        // A pidfd tells of the end before a tracer has let go of the process, and with it of its status.
        if !self.container.as_ref().is_some_and(Watch::is_child) {
            self.step(Input::ContainerGone);
        }
        Turn::Dry
    }

    fn on_notify(&mut self) -> Turn {
        self.notify.as_mut().map_or(Turn::Dry, NotifyRelay::on_readable)
    }

    fn on_stdin_writable(&mut self) -> Turn {
        self.stdin.on_writable(self.poll.registry());
        self.mark_input();
        Turn::Dry
    }

    fn on_client(&mut self, event: &mio::event::Event) {
        self.attach.on_client(event.token(), event.into(), self.poll.registry(), Instant::now());
        self.mark_input();
        self.resume();
    }

    fn on_input(&mut self, now: Instant) -> Turn {
        let turn = self.attach.read_input(&mut self.stdin, INPUT_BUDGET, self.poll.registry(), now);
        if !self.attach.has_clients() {
            // What they needed goes back, too.
            self.deadlines.quiet = Some(now + QUIET_AFTER);
        }
        turn
    }

    fn mark_input(&mut self) {
        // Also when the last client has gone, however it went: what it needed is given back there.
        if self.attach.has_input(&self.stdin) || !self.attach.has_clients() {
            self.mark(Event::Client);
        }
    }

    /// How long nothing is due by time; `None`: nothing ever.
    fn time_left(&self) -> Option<Duration> {
        let console = self.terminal.console.as_ref().and_then(ConsoleSocket::next_deadline);
        let due =
            self.deadlines.all().into_iter().chain([self.attach.next_deadline(), console]).flatten().min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    fn on_deadlines(&mut self, now: Instant) {
        if is_due(&mut self.deadlines.timeout, now) {
            self.step(Input::TimedOut);
        }
        if is_due(&mut self.deadlines.give_up, now) {
            warn!("The container was killed {} seconds ago and still exists", KILL_PATIENCE.as_secs());
            self.step(Input::GaveUp);
        }
        if is_due(&mut self.deadlines.look, now) {
            self.look_for_container(now);
        }
        if is_due(&mut self.deadlines.reopen, now) && self.log.owes_reopen() {
            self.reopen_log(now);
        }
        if is_due(&mut self.deadlines.log, now) {
            self.mark(Event::Log);
        }
        if is_due(&mut self.deadlines.oom, now) {
            self.look_again_for_oom(now);
        }
        if is_due(&mut self.deadlines.quiet, now) {
            self.streams.shed();
            self.log.shed();
            sys::mem::forget_the_past();
        }
        if self.terminal.console.as_ref().and_then(ConsoleSocket::next_deadline).is_some_and(|due| due <= now)
        {
            self.mark(Event::Console);
        }
        if self.attach.next_deadline().is_some_and(|due| due <= now) {
            if self.attach.on_deadline(self.poll.registry(), now) == Turn::More {
                self.mark(Event::Accept);
            }
            self.mark_input();
            self.resume();
        }
    }

    fn look_for_container(&mut self, now: Instant) {
        match &self.container {
            Some(container) if container.has_vanished() => self.mark(Event::Container),
            Some(_) => self.deadlines.look = Some(now + POLL_INTERVAL),
            None => {}
        }
    }
}

impl Deadlines {
    fn all(&self) -> [Option<Instant>; 7] {
        [self.timeout, self.give_up, self.look, self.reopen, self.log, self.oom, self.quiet]
    }
}

/// Whether `deadline` has come; it is over then.
fn is_due(deadline: &mut Option<Instant>, now: Instant) -> bool {
    let due = deadline.is_some_and(|at| at <= now);
    if due {
        *deadline = None;
    }
    due
}
