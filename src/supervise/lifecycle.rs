//! What the monitor should do next, decided without touching the kernel.
//!
//! [`Lifecycle::step`] takes one fact about the world and returns the actions that follow from it. The event loop
//! gathers the facts and carries out the actions; nothing here reads, writes, forks or looks at the clock. The table
//! of phases and inputs is in `docs/architecture.md`.

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::sys::process::ExitStatus;

/// A fact the event loop has learned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    Reaped(Pid, ExitStatus),
    /// The container has ended without being our child to reap.
    ContainerGone,
    /// The answer to [`Action::ReadPidFile`]: the pid that the runtime wrote, if it started anything.
    PidFile(Option<Pid>),
    /// The answer to [`Action::DrainOutput`].
    Drained,
    /// `--timeout` has passed.
    TimedOut,
    /// A container that was killed still has not died.
    GaveUp,
    /// TERM, INT or QUIT was sent to the monitor.
    Signal(Signal),
}

/// Something the event loop must now do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    ReadPidFile,
    /// The container exists: report its pid, watch it, let its output through.
    Start(Pid),
    /// There is no container; how the runtime ended.
    ReportFailure(ExitStatus),
    Forward(Pid, Signal),
    /// SIGKILL to the container and its process group.
    Kill,
    /// Take what the container's pipes hold.
    DrainOutput,
    Finish(Outcome),
}

/// How it all ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Exited(ExitStatus),
    TimedOut,
    /// There never was a container; how the runtime ended.
    NotStarted(ExitStatus),
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The runtime is setting the container up.
    Creating {
        runtime: Pid,
    },
    /// The runtime is gone, and the pid file tells whether it left a container.
    Created {
        runtime: ExitStatus,
    },
    Running {
        container: Pid,
    },
    /// Killed because its time was up; the exit is published when it is really dead.
    Killed {
        container: Pid,
    },
    /// The container is gone; its last output may still be in the pipes.
    Draining {
        outcome: Outcome,
    },
    Done,
}

#[derive(Debug)]
pub(super) struct Lifecycle {
    phase: Phase,
    /// The status of `RUNTIME exec` can be that of the command, so only the pid file tells whether it started.
    is_exec: bool,
    /// Children reaped before the pid file told which one is the container.
    unclaimed: Vec<(Pid, ExitStatus)>,
}

impl Lifecycle {
    pub(super) fn new(runtime: Pid, is_exec: bool) -> Self {
        Self { phase: Phase::Creating { runtime }, is_exec, unclaimed: Vec::new() }
    }

    /// No container yet: output is held back, because it may turn out to be why there is none.
    pub(super) fn is_creating(&self) -> bool {
        matches!(self.phase, Phase::Creating { .. } | Phase::Created { .. })
    }

    pub(super) fn step(&mut self, input: Input) -> Vec<Action> {
        match self.phase {
            Phase::Creating { runtime } => self.creating(runtime, input),
            Phase::Created { runtime } => self.created(runtime, input),
            Phase::Running { container } => self.running(container, input),
            Phase::Killed { container } => self.killed(container, input),
            Phase::Draining { outcome } => self.draining(outcome, input),
            Phase::Done => vec![],
        }
    }

    fn creating(&mut self, runtime: Pid, input: Input) -> Vec<Action> {
        match input {
            Input::Reaped(pid, status) if pid == runtime => {
                self.phase = Phase::Created { runtime: status };
                if self.is_exec || status == ExitStatus::Code(0) {
                    vec![Action::ReadPidFile]
                } else {
                    self.not_started(status)
                }
            }
            Input::Reaped(pid, status) => self.keep(pid, status),
            Input::Signal(signal) => vec![Action::Forward(runtime, signal)],
            Input::ContainerGone | Input::PidFile(_) | Input::Drained | Input::TimedOut | Input::GaveUp => {
                vec![]
            }
        }
    }

    fn created(&mut self, runtime: ExitStatus, input: Input) -> Vec<Action> {
        match input {
            Input::PidFile(Some(pid)) => self.started(pid),
            Input::PidFile(None) => self.not_started(runtime),
            Input::Reaped(pid, status) => self.keep(pid, status),
            Input::ContainerGone | Input::Drained | Input::TimedOut | Input::GaveUp | Input::Signal(_) => {
                vec![]
            }
        }
    }

    fn running(&mut self, container: Pid, input: Input) -> Vec<Action> {
        match input {
            Input::Reaped(pid, status) if pid == container => self.drain(Outcome::Exited(status)),
            Input::ContainerGone => self.drain(Outcome::Exited(ExitStatus::Unknown)),
            Input::TimedOut => {
                self.phase = Phase::Killed { container };
                vec![Action::Kill]
            }
            Input::Signal(signal) => vec![Action::Forward(container, signal)],
            // Orphans re-parented to us, the subreaper.
            Input::Reaped(..) => vec![],
            Input::PidFile(_) | Input::Drained | Input::GaveUp => vec![],
        }
    }

    fn killed(&mut self, container: Pid, input: Input) -> Vec<Action> {
        match input {
            Input::Reaped(pid, _) if pid == container => self.drain(Outcome::TimedOut),
            Input::ContainerGone | Input::GaveUp => self.drain(Outcome::TimedOut),
            Input::Reaped(..) | Input::PidFile(_) | Input::Drained | Input::TimedOut | Input::Signal(_) => {
                vec![]
            }
        }
    }

    fn draining(&mut self, outcome: Outcome, input: Input) -> Vec<Action> {
        match input {
            Input::Drained => self.finish(outcome),
            Input::Reaped(..) | Input::ContainerGone | Input::PidFile(_) => vec![],
            Input::TimedOut | Input::GaveUp | Input::Signal(_) => vec![],
        }
    }

    /// `pid` is a child that has not been reaped: whoever was reaped under that number had it before.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.unclaimed.retain(|(reaped, _)| *reaped != pid);
    }

    fn keep(&mut self, pid: Pid, status: ExitStatus) -> Vec<Action> {
        self.unclaimed.push((pid, status));
        vec![]
    }

    fn started(&mut self, container: Pid) -> Vec<Action> {
        self.phase = Phase::Running { container };
        let mut actions = vec![Action::Start(container)];
        let early = std::mem::take(&mut self.unclaimed).into_iter().find(|(pid, _)| *pid == container);
        if let Some((pid, status)) = early {
            actions.extend(self.step(Input::Reaped(pid, status)));
        }
        actions
    }

    fn drain(&mut self, outcome: Outcome) -> Vec<Action> {
        self.phase = Phase::Draining { outcome };
        vec![Action::DrainOutput]
    }

    fn not_started(&mut self, runtime: ExitStatus) -> Vec<Action> {
        let mut actions = vec![Action::ReportFailure(runtime)];
        actions.extend(self.finish(Outcome::NotStarted(runtime)));
        actions
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<Action> {
        self.phase = Phase::Done;
        vec![Action::Finish(outcome)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RT: Pid = Pid::from_raw(10);
    const CTR: Pid = Pid::from_raw(20);
    const OK: ExitStatus = ExitStatus::Code(0);

    fn running() -> Lifecycle {
        let mut l = Lifecycle::new(RT, false);
        assert_eq!(l.step(Input::Reaped(RT, OK)), [Action::ReadPidFile]);
        assert!(l.is_creating());
        assert_eq!(l.step(Input::PidFile(Some(CTR))), [Action::Start(CTR)]);
        assert!(!l.is_creating());
        l
    }

    fn ends_with(mut l: Lifecycle, outcome: Outcome) {
        assert_eq!(l.step(Input::Drained), [Action::Finish(outcome)]);
        assert_eq!(l.step(Input::Drained), []);
    }

    #[test]
    fn create_run_exit() {
        let mut l = running();
        assert_eq!(l.step(Input::Reaped(Pid::from_raw(99), OK)), [], "orphans are ignored");
        let killed = ExitStatus::Signal(9);
        assert_eq!(l.step(Input::Reaped(CTR, killed)), [Action::DrainOutput]);
        assert_eq!(l.step(Input::ContainerGone), [], "the pidfd tells the same again");
        ends_with(l, Outcome::Exited(killed));
    }

    #[test]
    fn container_reaped_before_the_runtime() {
        let mut l = Lifecycle::new(RT, true);
        assert_eq!(l.step(Input::Reaped(CTR, ExitStatus::Code(7))), []);
        l.step(Input::Reaped(RT, ExitStatus::Code(7)));
        assert_eq!(l.step(Input::PidFile(Some(CTR))), [Action::Start(CTR), Action::DrainOutput]);
        ends_with(l, Outcome::Exited(ExitStatus::Code(7)));
    }

    #[test]
    fn a_number_that_another_child_had_before_is_the_containers() {
        let mut l = Lifecycle::new(RT, false);
        l.step(Input::Reaped(CTR, ExitStatus::Code(5)));
        l.step(Input::Reaped(RT, OK));
        l.forget(CTR);
        assert_eq!(l.step(Input::PidFile(Some(CTR))), [Action::Start(CTR)]);
        assert_eq!(l.step(Input::Reaped(CTR, ExitStatus::Code(9))), [Action::DrainOutput]);
        ends_with(l, Outcome::Exited(ExitStatus::Code(9)));
    }

    #[test]
    fn a_container_that_is_not_our_child_ends_with_unknown_status() {
        let mut l = running();
        assert_eq!(l.step(Input::ContainerGone), [Action::DrainOutput]);
        ends_with(l, Outcome::Exited(ExitStatus::Unknown));
    }

    #[test]
    fn runtime_failure_is_reported_once() {
        let failed = ExitStatus::Code(1);
        let end = [Action::ReportFailure(failed), Action::Finish(Outcome::NotStarted(failed))];
        let mut create = Lifecycle::new(RT, false);
        assert_eq!(create.step(Input::Reaped(RT, failed)), end);
        assert_eq!(create.step(Input::Reaped(CTR, OK)), []);
        let mut exec = Lifecycle::new(RT, true);
        assert_eq!(exec.step(Input::Reaped(RT, failed)), [Action::ReadPidFile]);
        assert_eq!(exec.step(Input::PidFile(None)), end);
    }

    #[test]
    fn timeout_waits_for_the_death_and_drains() {
        for last in [Input::Reaped(CTR, ExitStatus::Signal(9)), Input::ContainerGone, Input::GaveUp] {
            let mut l = running();
            assert_eq!(l.step(Input::TimedOut), [Action::Kill]);
            assert_eq!(l.step(Input::Signal(Signal::SIGTERM)), []);
            assert_eq!(l.step(last), [Action::DrainOutput]);
            ends_with(l, Outcome::TimedOut);
        }
    }

    #[test]
    fn a_timeout_after_the_exit_changes_nothing() {
        let mut l = running();
        l.step(Input::Reaped(CTR, OK));
        assert_eq!(l.step(Input::TimedOut), []);
        ends_with(l, Outcome::Exited(OK));
    }

    #[test]
    fn signals_follow_whoever_is_alive() {
        let term = Signal::SIGTERM;
        assert_eq!(Lifecycle::new(RT, false).step(Input::Signal(term)), [Action::Forward(RT, term)]);
        assert_eq!(running().step(Input::Signal(term)), [Action::Forward(CTR, term)]);
    }
}
