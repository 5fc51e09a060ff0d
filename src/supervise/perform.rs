//! The only place that carries out what the lifecycle decides.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::lifecycle::{Action, Input, Outcome};
use super::streams::{BOTH, watch};
use super::watch::{POLL_INTERVAL, Watch};
use super::{Event, Monitor, QUIET_AFTER, Turn, pidfile, privileges};
use crate::config::{ApiVersion, Operation};
use crate::diag::{debug, error, info, warn};
use crate::error::strerror;
use crate::log::Stream;
use crate::sys::process::{ExitStatus, is_child};

/// How long a killed container may take to die before its end is published anyway.
pub(super) const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Monitor<'_> {
    /// Tells the lifecycle `input` and does what it decides.
    pub(super) fn step(&mut self, input: Input) {
        for action in self.lifecycle.step(input) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::ReadPidFile => {
                let answer = self.read_pid_file();
                if let Some(pid) = answer.filter(|pid| is_child(*pid)) {
                    self.lifecycle.forget(pid);
                }
                self.step(Input::PidFile(answer));
            }
            Action::Start(pid) => self.start(pid),
            Action::ReportFailure(runtime) => self.report_failure(runtime),
            Action::Forward(pid, signal) => self.forward(pid, signal),
            Action::Kill => self.kill(),
            Action::DrainOutput => {
                self.drain();
                self.step(Input::Drained);
            }
            Action::Finish(outcome) => self.finish(outcome),
        }
    }

    /// The pid that the runtime wrote. `None` with the reason in `failure` when it did not start anything.
    fn read_pid_file(&mut self) -> Option<Pid> {
        // It may have been sent in the runtime's last moment.
        self.on_console(Instant::now());
        if self.config.terminal && !self.has_terminal() {
            self.failure = "Runtime did not set up terminal".into();
            return None;
        }
        let path = &self.config.container_pidfile;
        self.failure = match pidfile::read(path) {
            Ok(Some(pid)) => return Some(pid),
            Ok(None) => format!("The runtime left no pid in {}", path.display()),
            Err(e) => format!("Failed to open file {}: {}", path.display(), strerror(&e)),
        };
        None
    }

    fn start(&mut self, pid: Pid) {
        debug!("container PID: {pid}");
        self.exec_failure = None;
        // Before the report: its reader may start the container at once, and a kill before the base line is taken would
        // count as an old one. conmon: afterwards.
        self.watch_memory(pid);
        let now = Instant::now();
        self.let_output_through(now);
        if self.config.api == ApiVersion::V1 || !matches!(self.config.operation, Operation::Exec { .. }) {
            self.sync.report(pid.as_raw(), b"");
        }
        self.watch_container(pid, now);
        privileges::drop_unneeded();
        self.deadlines.timeout = self.config.timeout.map(|timeout| now + timeout);
        self.deadlines.quiet = Some(now + QUIET_AFTER);
    }

    /// What was held back is the container's output now, and there may be more. The pipes are emptied before the
    /// driver knows of the container: it attaches next and starts it then, and if we read on our own account at that
    /// time we might have the first output in hand before we have seen the client.
    fn let_output_through(&mut self, now: Instant) {
        for stream in BOTH {
            self.deliver_all(stream, false, now);
            if self.on_output(stream, now) == Turn::More {
                self.mark(Event::Output(stream));
            }
        }
    }

    fn watch_container(&mut self, pid: Pid, now: Instant) {
        self.container = Watch::open(pid);
        match &self.container {
            Some(Watch::Polling(_)) => self.deadlines.look = Some(now + POLL_INTERVAL),
            Some(watched) => {
                let watching =
                    watched.descriptor().map(|fd| watch(self.poll.registry(), fd, Event::Container));
                if let Some(Err(e)) = watching {
                    warn!("Failed to watch the container: {}", strerror(&e));
                    self.container = Some(Watch::Polling(pid));
                    self.deadlines.look = Some(now + POLL_INTERVAL);
                }
            }
            // Gone already. If it was our child the lifecycle has its status, or reaping brings it.
            None => self.mark(Event::Container),
        }
    }

    /// conmon: `conmon.c:main`, where the runtime's status is looked at.
    fn report_failure(&mut self, runtime: ExitStatus) {
        // What it said last may not have been read yet. None of it is the container's output: there is no container.
        self.read_last_words(Stream::Stderr, Instant::now());
        let text = self.streams.get(Stream::Stderr).map(|output| output.held().to_vec()).unwrap_or_default();
        self.close_streams();
        // A runtime that sees no failure does not speak of one.
        let is_unaware = runtime == ExitStatus::Code(0) && self.config.terminal && !self.has_terminal();
        let message = if text.is_empty() || is_unaware { self.why_nothing_started() } else { text };
        if !message.is_empty() {
            warn!("runtime stderr: {}", String::from_utf8_lossy(&message));
        }
        self.sync.report(-1, &message);
    }

    fn why_nothing_started(&self) -> Vec<u8> {
        let path = self.config.runtime.path.display();
        match self.exec_failure.as_ref().and_then(|failure| failure.error()) {
            Some(e) => format!("Failed to execute the runtime {path}: {}", strerror(&e)).into_bytes(),
            None => self.failure.clone().into_bytes(),
        }
    }

    fn forward(&self, pid: Pid, signal: Signal) {
        let sent = match &self.container {
            Some(container) => container.send(signal),
            None => kill(pid, signal).map_err(Into::into),
        };
        if let Err(e) = sent {
            debug!("Failed to forward {signal} to {pid}: {}", strerror(&e));
        }
    }

    fn kill(&mut self) {
        info!("Timed out, killing the container");
        if let Some(container) = &self.container {
            container.kill();
        }
        self.deadlines.give_up = Some(Instant::now() + KILL_PATIENCE);
    }

    fn finish(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Exited(ExitStatus::Unknown) => {
                warn!(
                    "The container is not a child of the monitor: how it ended is unknown, and recorded as -1"
                );
            }
            Outcome::Exited(status) => debug!("container exited with status {}", status.number()),
            Outcome::TimedOut => {}
            Outcome::NotStarted(runtime) => {
                error!("Failed to create container: exit status {}", runtime.number());
            }
        }
        self.outcome = Some(outcome);
    }
}
