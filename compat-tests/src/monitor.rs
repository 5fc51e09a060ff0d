//! The running monitor, seen from its driver.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::attach::AttachClient;
use crate::bench::{Bench, CID};
use crate::channel::{End, Report};
use crate::deadline;
use crate::process::Process;

/// How a process ended, and what it had used.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// User and system time.
    pub cpu: Duration,
    pub max_rss_kib: i64,
}

#[derive(Debug)]
pub struct Monitor<'b> {
    bench: &'b Bench,
    /// The process that was spawned; the monitor itself with `--sync`.
    parent: i32,
    ended: Cell<Option<Ended>>,
    sync: Option<End>,
    start: Option<End>,
    attach: Option<End>,
}

impl<'b> Monitor<'b> {
    pub(crate) fn new(
        bench: &'b Bench,
        parent: i32,
        sync: Option<End>,
        start: Option<End>,
        attach: Option<End>,
    ) -> Self {
        Self { bench, parent, ended: Cell::new(None), sync, start, attach }
    }

    /// Writes the start byte, if there is a start pipe.
    pub fn go(&mut self) {
        if let Some(start) = &mut self.start {
            let _ = start.write(b"\0");
        }
    }

    /// The driver's end of the start pipe.
    pub fn start_pipe(&mut self) -> &mut End {
        self.start.as_mut().expect("a start pipe")
    }

    /// The driver's end of the sync pipe.
    pub fn sync_pipe(&mut self) -> &mut End {
        self.sync.as_mut().expect("a sync pipe")
    }

    /// The driver's end of the attach pipe.
    pub fn attach_pipe(&mut self) -> &mut End {
        self.attach.as_mut().expect("an attach pipe")
    }

    /// The next report on the sync pipe.
    pub fn report(&mut self) -> Report {
        self.sync_pipe().report("a report on the sync pipe")
    }

    /// The spawned process.
    #[must_use]
    pub fn parent(&self) -> Process {
        Process(self.parent)
    }

    /// Waits for the spawned process.
    pub fn wait_parent(&self) -> Ended {
        if let Some(ended) = self.ended.get() {
            return ended;
        }
        let ended = deadline::until("the parent to exit", || wait(self.parent));
        self.bench.forget(self.parent);
        self.ended.set(Some(ended));
        ended
    }

    /// The pid in the conmon pid file, once that is there.
    #[must_use]
    pub fn pid(&self) -> Process {
        let text = self.bench.wait_file(&self.bench.path("conmon.pid"));
        let pid = text.parse().unwrap_or_else(|_| panic!("conmon pid file holds {text:?}"));
        self.bench.remember(pid);
        Process(pid)
    }

    /// The container's pid from its pid file.
    #[must_use]
    pub fn container(&self) -> Process {
        let text = self.bench.wait_file(&self.bench.path("pidfile"));
        Process(text.parse().unwrap_or_else(|_| panic!("pid file holds {text:?}")))
    }

    /// A client of the container's attach socket that the monitor has accepted, so that it misses no output from now on.
    #[must_use]
    pub fn attach(&self) -> AttachClient {
        let pid = self.pid();
        // By their inodes, because clients that have left may still be on their way out.
        let sockets = || -> BTreeSet<String> {
            pid.fds().into_values().filter(|target| target.starts_with("socket:")).collect()
        };
        let before = sockets();
        let client = self.bench.attach();
        deadline::until("the client to be accepted", || (!sockets().is_subset(&before)).then_some(()));
        client
    }

    /// Waits until nothing goes on any more: the monitor sleeps, and so does everybody in its bench. A container that
    /// writes has been brought to a halt then, and what it wrote before is where it is going to stay.
    pub fn wait_for_halt(&self) {
        let pid = self.pid();
        let sleep = || self.bench.processes().into_iter().all(Process::sleeps);
        deadline::until("everything to come to a halt", || {
            (sleep() && pid.rests(Duration::from_millis(150)) && sleep()).then_some(())
        });
    }

    /// Waits for the monitor: the parent has exited 0 (checked) and then the process of its pid file ends.
    pub fn wait(&self) -> Ended {
        let monitor = self.pid();
        let parent = self.wait_parent();
        assert_eq!(parent.code, Some(0), "exit status of the parent; stderr: {}", self.stderr());
        self.wait_pid(monitor)
    }

    /// Waits for a process that has been, or will be, re-parented to the test.
    pub fn wait_pid(&self, process: Process) -> Ended {
        let ended = deadline::until(&format!("process {} to end", process.0), || wait(process.0));
        self.bench.forget(process.0);
        ended
    }

    /// Runs a container through to its end: report, exit file, death of the monitor. The report and the exit file.
    pub fn finish(mut self) -> (Report, String) {
        let report = self.report();
        (report, self.finish_rest())
    }

    /// The same when the report has been read already: the exit file's content.
    pub fn finish_rest(self) -> String {
        let exit = self.bench.wait_exit_file();
        self.wait();
        exit
    }

    /// What the program printed to stderr before it let go of it.
    #[must_use]
    pub fn stderr(&self) -> String {
        let bytes = std::fs::read(self.bench.path("err")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The id on the command line.
    #[must_use]
    pub fn cid(&self) -> &'static str {
        CID
    }
}

/// Reaps `pid` if it has ended; `None` while it runs or is not (yet) a child of this process.
pub(crate) fn wait(pid: i32) -> Option<Ended> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value, and both pointers are to locals that outlive the call.
    let (result, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid, &mut status, libc::WNOHANG, &mut usage), usage)
    };
    if result != pid {
        return None;
    }
    let time = |value: libc::timeval| {
        let micros = value.tv_sec * 1_000_000 + value.tv_usec;
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    Some(Ended {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        max_rss_kib: usage.ru_maxrss,
    })
}
