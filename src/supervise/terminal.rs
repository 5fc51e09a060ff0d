//! The container's terminal, from the socket that waits for the runtime to the size of the window.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::console::{ConsoleSocket, resize};
use super::control::{Fifo, Requests, WindowSize};
use super::{Event, Monitor, Turn};
use crate::diag::warn;
use crate::error::strerror;
use crate::log::Stream;

/// How soon a log that could not be reopened is tried again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// What there is of a terminal before and beside its pty.
#[derive(Debug, Default)]
pub struct Terminal {
    /// `None` without `--terminal`, and once the pty leader has come.
    pub console: Option<ConsoleSocket>,
    /// The last size asked for; it may be asked before there is a pty.
    size: Option<WindowSize>,
}

/// The fifos through which the driver asks for things; `None` where there is no bundle to have them in.
#[derive(Debug, Default)]
pub struct Controls {
    pub ctl: Option<Fifo>,
    pub winsz: Option<Fifo>,
}

impl Terminal {
    /// One that is to come through `console`.
    pub fn behind(console: ConsoleSocket) -> Self {
        Self { console: Some(console), size: None }
    }
}

impl Monitor<'_> {
    pub(super) fn on_console(&mut self, now: Instant) -> Turn {
        let Some(console) = &mut self.terminal.console else { return Turn::Dry };
        if let Some(leader) = console.on_ready(self.poll.registry(), now) {
            // The runtime has one terminal to give: nobody else is listened to, and the socket's directory goes.
            self.terminal.console = None;
            self.open_terminal(leader);
        }
        Turn::Dry
    }

    fn open_terminal(&mut self, leader: OwnedFd) {
        let registry = self.poll.registry();
        match leader.try_clone() {
            Ok(input) => self.stdin.on_console(input, registry),
            Err(e) => warn!("The terminal takes no input: {}", strerror(&e)),
        }
        if let Err(e) = self.streams.open_terminal(leader, registry) {
            warn!("The terminal's output can't be read: {e}");
        }
        self.apply_size();
        self.mark_input();
    }

    pub(super) fn has_terminal(&mut self) -> bool {
        self.streams.get(Stream::Stdout).is_some()
    }

    fn apply_size(&mut self) {
        let leader = self.streams.get(Stream::Stdout).and_then(|output| output.source());
        if let (Some(leader), Some(size)) = (leader, self.terminal.size) {
            resize(leader, size);
        }
    }

    pub(super) fn on_control(&mut self, event: Event, now: Instant) -> Turn {
        let fifo = if event == Event::Ctl { &mut self.controls.ctl } else { &mut self.controls.winsz };
        let Some(fifo) = fifo else { return Turn::Dry };
        let (requests, turn) = fifo.on_readable(self.poll.registry(), now);
        self.obey(requests, now);
        turn
    }

    fn obey(&mut self, requests: Requests, now: Instant) {
        // Without a terminal there is nothing that has a size.
        if self.config.terminal && requests.size.is_some() {
            self.terminal.size = requests.size;
            self.apply_size();
        }
        if requests.reopen_logs {
            self.reopen_log(now);
        }
    }

    /// Tries until it works: CRI-O waits for the new file without a timeout.
    pub(super) fn reopen_log(&mut self, now: Instant) {
        self.log.reopen();
        self.deadlines.reopen = self.log.owes_reopen().then(|| now + REOPEN_INTERVAL);
    }
}
