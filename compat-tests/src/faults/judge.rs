//! What must hold in every run, whatever system call failed.

use std::time::Duration;

use super::life::{Life, Run};
use super::{Fault, Lasting, Who};
use crate::bench::CID;

/// Processor time of a whole life under the tracer; a monitor that spins uses more.
const CPU_MAX: Duration = Duration::from_millis(700);

/// The end of what stands in a journal for a line that could not be sent.
const LOSS: &[u8] = b" of stdout missing here: ";

/// Calls without which a program can't be started.
const STARTING: [&str; 3] = ["clone", "fork", "pipe2"];

/// Checks a run against the one without a fault.
pub(super) fn judge(life: &Life, run: &Run, baseline: &Run, fault: Option<&Fault>) -> Result<(), String> {
    let verdict = Verdict { life, run, fault };
    verdict.told_the_parent()?;
    verdict.told_the_exit()?;
    verdict.cleaned_up()?;
    verdict.logged()?;
    verdict.let_go(baseline)?;
    verdict.did_not_spin()
}

struct Verdict<'a> {
    life: &'a Life,
    run: &'a Run,
    fault: Option<&'a Fault>,
}

impl Verdict<'_> {
    fn end_of(&self, who: Who) -> &str {
        self.run.trace.ends.get(&who).map_or("never started", String::as_str)
    }

    /// Whether the fault hit a call about a file of this name.
    fn hit(&self, part: &str) -> bool {
        self.run.trace.injected().any(|call| call.subject.contains(part))
    }

    fn hit_call(&self, names: &[&str]) -> bool {
        self.run.trace.injected().any(|call| names.contains(&call.name.as_str()))
    }

    /// A valid line (its parser panics on any other), or an exit status that is not 0.
    fn told_the_parent(&self) -> Result<(), String> {
        if self.run.reports.is_empty() {
            let spawned = if self.life.sync { Who::Monitor } else { Who::Parent };
            let told = self.end_of(spawned) != "exit 0" || self.hit_call(&["write"]) && self.hit("socket:");
            return if told { Ok(()) } else { Err(format!("no report and status 0; {}", self.run.stderr)) };
        }
        for report in &self.run.reports {
            let number = report.number(self.life.key);
            // What the runtime said can't be told if it can't be read.
            if number < 0 && report.message().is_empty() && !self.hit("pipe:") {
                return Err(format!("a failure without a message: {}", report.text()));
            }
        }
        if self.fault.is_none() && self.run.started() != self.life.code.is_some() && !self.life.sync {
            return Err(format!("the life without faults begins with {:?}", self.run.reports));
        }
        Ok(())
    }

    /// Once a container was reported, its end is told, and told right.
    fn told_the_exit(&self) -> Result<(), String> {
        let Some(code) = self.life.code.filter(|_| self.run.started() && !self.life.sync) else {
            return Ok(());
        };
        let code = code.to_string();
        let (in_persist, in_exits) = (self.hit("persist/exit"), self.hit(&format!("/{CID}")));
        for (content, failed, name) in
            [(&self.run.exit, in_exits, "exit dir"), (&self.run.persist, in_persist, "persist dir")]
        {
            match content {
                Some(content) if *content == code => {}
                None if failed => {}
                other => {
                    return Err(format!("{other:?} in the {name}; monitor: {}", self.end_of(Who::Monitor)));
                }
            }
        }
        let published = self.run.exit.is_some() && self.run.persist.is_some();
        let want = if published { format!("exit {code}") } else { "exit 1".into() };
        // With an unwritable exit file the status tells; where it is there all the same both are right.
        if self.end_of(Who::Monitor) != want && !(in_persist || in_exits) {
            return Err(format!("the monitor's end is {}, not {want}", self.end_of(Who::Monitor)));
        }
        Ok(())
    }

    fn cleaned_up(&self) -> Result<(), String> {
        if self.run.started() && !self.run.cleaned_up && !self.life.exec && !self.hit_call(&STARTING) {
            return Err("the exit command was not run".into());
        }
        Ok(())
    }

    /// Nothing is lost unless the log itself failed.
    fn logged(&self) -> Result<(), String> {
        let Some(logged) = self.run.logged.as_ref().filter(|_| self.run.started()) else { return Ok(()) };
        // A log that can't be rotated is emptied: it must not grow for ever.
        let rotating =
            self.run.trace.injected().any(|call| call.subject == "log" || call.subject.starts_with("log."));
        // A journal's failed entry is not sent again; one that says so takes its place.
        let told = self.life.journal
            && has(logged, LOSS)
            && self.fault.is_some_and(|fault| fault.errno != libc::EINTR);
        let about_log = rotating || told || self.hit("/log") || self.hit("pipe:") || self.hit("/dev/pt");
        let whole = has(logged, b"hello");
        if whole || about_log || self.fault.is_some_and(|fault| fault.lasting == Lasting::Forever) {
            return Ok(());
        }
        Err(format!("the log holds {:?}", String::from_utf8_lossy(logged)))
    }

    /// No descriptor and no file is left that the life without faults does not leave.
    fn let_go(&self, baseline: &Run) -> Result<(), String> {
        let count = |run: &Run| run.trace.open.get(&Who::Monitor).map_or(0, Vec::len);
        // With the container's own stdio it is late when the monitor lets go of it: then a failure is only told.
        let stays = self.hit_call(&["dup2"]);
        if self.run.started() && !stays && count(self.run) > count(baseline) {
            return Err(format!("descriptors left: {:?}", self.run.trace.open));
        }
        // A file that may have become somebody else's is left alone, so one that can't be looked at is.
        let removing =
            self.hit_call(&["unlink", "unlinkat", "rmdir", "rename", "renameat", "statx", "lstat"]);
        let extra = self.run.files.iter().find(|name| !baseline.files.contains(name) && is_temporary(name));
        match extra.filter(|_| !removing && self.run.started()) {
            Some(name) => Err(format!("{name} is left behind")),
            None => Ok(()),
        }
    }

    fn did_not_spin(&self) -> Result<(), String> {
        match self.run.trace.cpu.iter().find(|(_, time)| **time > CPU_MAX) {
            Some((who, time)) => Err(format!("the {who:?} worked for {time:?}")),
            None => Ok(()),
        }
    }
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Not one of the names that drivers know.
fn is_temporary(name: &str) -> bool {
    let known =
        ["ctl", "winsz", "attach", "log", "got", "cleaned", "exit", "pidfile", "conmon.pid", "notify.sock"];
    !known.iter().any(|end| name.ends_with(end))
}
