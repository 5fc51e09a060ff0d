//! CRI-O's side of the conversation, with real runc in a bench: what it prepares before it starts the monitor, the words
//! and descriptors it gives to it, the order in which it acts, and what it makes of the answers.
//!
//! The facts are those of CRI-O 1.37, `internal/oci/runtime_oci.go` and `server/server.go`. Streaming exec is left out,
//! because CRI-O runs it without the monitor.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::attach::AttachClient;
use crate::bench::{Bench, CID};
use crate::channel::Kind;
use crate::command::MonitorCommand;
use crate::deadline;
use crate::image::program;
use crate::monitor::Monitor;
use crate::runc::Runc;
use crate::session::Outcome;
use crate::watch::{EventKind, Watch};

/// What a probe may write; CRI-O asks the monitor for it and cuts off what is beyond.
const PROBE_MAX: usize = 16 << 20;
/// The message that CRI-O takes for a probe's timeout.
const TIMED_OUT: &str = "command timed out";

/// What a container's specification says of its input and its terminal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streams {
    pub terminal: bool,
    pub stdin: bool,
    pub stdin_once: bool,
}

/// A container that CRI-O has created.
#[derive(Debug)]
pub struct Crio<'b> {
    bench: &'b Bench,
    runc: Runc<'b>,
    monitor: Monitor<'b>,
    streams: Streams,
    /// The control group that the monitor was put into.
    cgroup: PathBuf,
    exits: Watch,
    probes: Cell<usize>,
}

/// What ExecSync answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Ended { code: i64, stdout: Vec<u8>, stderr: Vec<u8> },
    Failed(String),
}

/// A running ExecSync.
#[derive(Debug)]
pub struct Probe<'b> {
    monitor: Monitor<'b>,
    output: [File; 2],
    pidfile: PathBuf,
    log: PathBuf,
    spec: PathBuf,
}

impl<'b> Crio<'b> {
    /// CreateContainer; the error is the message that CRI-O would pass on.
    pub fn create(
        bench: &'b Bench,
        runc: Runc<'b>,
        streams: Streams,
        options: &[&str],
    ) -> Result<Self, String> {
        let exits = Watch::new(&bench.path("exits"));
        let (command, stderr) = create_command(bench, &runc, streams, options);
        let mut monitor = command.spawn();
        let cgroup = runc.monitors_cgroup();
        move_to(&cgroup, monitor.parent().0);
        monitor.go();
        // As long as anybody holds a terminal's stderr, CRI-O waits.
        let words = stderr.map_or_else(String::new, |pipe| read_to_end(&mut File::from(pipe)));
        assert_eq!(monitor.wait_parent().code, Some(0), "{words}");
        let report = monitor.report();
        monitor.sync_pipe().close();
        monitor.start_pipe().close();
        if report.number("pid") == -1 {
            fs::remove_file(bench.log()).expect("the log of a container that was not created");
            runc.call(&["delete", "--force", CID]);
            remove_cgroup(&cgroup);
            return Err(report.message());
        }
        assert_eq!(report.number("pid"), i64::from(monitor.container().0));
        Ok(Self { bench, runc, monitor, streams, cgroup, exits, probes: Cell::new(0) })
    }

    /// StartContainer.
    pub fn start(&self) {
        self.runc.start();
    }

    pub fn runc(&self) -> &Runc<'b> {
        &self.runc
    }

    pub fn monitor(&self) -> &Monitor<'b> {
        &self.monitor
    }

    /// The control group of the monitor, as the kernel names it.
    pub fn monitors_cgroup(&self) -> String {
        cgroup_of(self.monitor.pid().0)
    }

    /// The socket that AttachContainer connects to.
    pub fn attach(&self) -> AttachClient {
        AttachClient::connect(&self.bench.path("s").join(CID).join("attach"))
    }

    /// One line on the control fifo, which CRI-O opens for each of them and waits for if nobody reads it.
    fn control(&self, line: &str) {
        let mut fifo = OpenOptions::new().write(true).open(self.bench.bundle().join("ctl")).expect("ctl");
        fifo.write_all(line.as_bytes()).expect("a line for ctl");
    }

    /// What AttachContainer does when the client's window changes.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.control(&format!("1 {rows} {columns}\n"));
    }

    /// ReopenContainerLog, after kubelet has renamed the log to `old`: it waits for an event of the log's own name.
    pub fn rotate(&self, old: &Path) {
        fs::rename(self.bench.log(), old).expect("rename the log");
        let watch = Watch::new(self.bench.dir());
        self.control("2 0 0\n");
        deadline::until("an event of the log's name", || {
            let kinds = [EventKind::Created, EventKind::MovedHere, EventKind::Modified];
            let found = |event: &crate::watch::Event| event.name == "log" && kinds.contains(&event.kind);
            watch.events().iter().any(found).then_some(())
        });
        assert!(self.bench.log().is_file());
    }

    /// ExecSyncContainer up to the start byte. With `inside`, the monitor is put into the container's control group.
    pub fn probe(&self, args: &[&str], timeout: u64, inside: bool) -> Probe<'b> {
        let number = self.probes.replace(self.probes.get() + 1);
        let file = |name: &str| self.bench.path(format!("x/{name}.{number}"));
        let (pidfile, log, spec) = (file("pidfile"), file("log"), file("spec"));
        File::create(&pidfile).expect("pid file");
        File::create(&log).expect("log");
        self.runc.process(&spec, args);
        let (output, theirs) = output_pipes();
        let command = self.probe_command(&pidfile, &log, &spec, timeout);
        let [stdout, stderr] = theirs;
        let mut monitor = command.stdio(1, stdout).stdio(2, stderr).spawn();
        if inside {
            move_to(&self.runc.memory_cgroup(), monitor.parent().0);
        }
        monitor.go();
        monitor.start_pipe().close();
        Probe { monitor, output, pidfile, log, spec }
    }

    /// ExecSync; a `timeout` of 0 is none.
    pub fn exec_sync(&self, args: &[&str], timeout: u64) -> Answer {
        self.probe(args, timeout, false).answer()
    }

    fn probe_command(&self, pidfile: &Path, log: &Path, spec: &Path, timeout: u64) -> MonitorCommand<'b> {
        let command = driver(self.bench).option("-c", CID).option("-n", NAME).option("-r", program("runc"));
        let command = command.option("-p", pidfile).arg("-e").option("-l", log);
        let command = command.option("--socket-dir-path", self.bench.path("s")).option("--log-level", "info");
        let command = command.arg("--sync").option("--log-global-size-max", PROBE_MAX.to_string());
        let command = if self.streams.terminal { command.arg("-t") } else { command };
        let command = if timeout > 0 { command.option("-T", timeout.to_string()) } else { command };
        let command = command.option("--exec-process-spec", spec);
        let command = command.option("--runtime-arg", self.runc.root_argument());
        command.sync(Kind::Pipe, 3).start(Kind::Stream, 4)
    }

    /// Waits for the event that CRI-O acts on. The exit code, read at once from the file that CRI-O reads it from, and
    /// whether the container was out of memory; then CRI-O takes the file in the exit directory away.
    pub fn wait_exit(&self) -> (String, bool) {
        deadline::until("the event of the exit file", || {
            let created = |event: &crate::watch::Event| {
                let came = matches!(event.kind, EventKind::Created | EventKind::MovedHere);
                // CRI-O takes a part of an id for the whole.
                came && !event.name.is_empty() && CID.starts_with(&event.name)
            };
            self.exits.events().iter().any(created).then_some(())
        });
        let code = fs::read_to_string(self.bench.persist_exit_file()).expect("the persisted exit");
        let killed = self.bench.bundle().join("oom").exists();
        fs::remove_file(self.bench.exit_file()).expect("take the exit file away");
        (code, killed)
    }

    /// The first part of StopContainer.
    pub fn kill(&self, signal: &str) -> Outcome {
        self.runc.call(&["kill", CID, signal])
    }

    /// What there is to clean up after the end: DeleteContainer and the control group, in which nobody may be left.
    pub fn remove(self) {
        self.monitor.wait();
        self.runc.call(&["delete", "--force", CID]);
        remove_cgroup(&self.cgroup);
        self.bench.expect_nothing_running();
    }
}

impl Probe<'_> {
    /// What a stop does to the probes that still run.
    pub fn interrupt(&self) {
        self.monitor.parent().signal(Signal::SIGINT);
    }

    pub fn cgroup(&self) -> String {
        cgroup_of(self.monitor.parent().0)
    }

    /// Waits for the end of it, and of its output, and makes the answer of the report and the log.
    pub fn answer(mut self) -> Answer {
        let [stdout, stderr] = &mut self.output;
        let words = read_to_end(stdout) + &read_to_end(stderr);
        self.monitor.wait_parent();
        let report = self.monitor.sync_pipe().next_report("a report of the probe");
        let answer = match report {
            None => Answer::Failed(format!("EOF {words}")),
            Some(report) => match (report.number("exit_code"), report.message()) {
                (-1, message) if message == TIMED_OUT => {
                    Answer::Ended { code: -1, stdout: Vec::new(), stderr: message.into_bytes() }
                }
                (-1, message) => Answer::Failed(message),
                (code, _) => self.logged(code),
            },
        };
        self.reap();
        for file in [&self.pidfile, &self.log, &self.spec] {
            fs::remove_file(file).expect("a file of the probe");
        }
        answer
    }

    /// What the host's first process does for a process that its monitor killed and left: the container ends only when
    /// no dead process waits for that. Here they come to the test, which is a subreaper.
    fn reap(&self) {
        let text = fs::read_to_string(&self.pidfile).unwrap_or_default();
        let Ok(pid) = text.parse().map(Pid::from_raw) else { return };
        deadline::until("the probe's process to be reaped", || {
            let status = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            (!matches!(status, Ok(WaitStatus::StillAlive))).then_some(())
        });
    }

    fn logged(&self, code: i64) -> Answer {
        let mut bytes = fs::read(&self.log).expect("log of the probe");
        bytes.truncate(PROBE_MAX);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let fields: Vec<&[u8]> = line.splitn(4, |byte| *byte == b' ').collect();
            let [_, stream, tag, content] = fields[..] else {
                assert!(!line.ends_with(b"\n"), "not a record: {:?}", String::from_utf8_lossy(line));
                continue;
            };
            let part = if tag == b"P" { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
            match stream {
                b"stdout" => stdout.extend_from_slice(part),
                b"stderr" => stderr.extend_from_slice(part),
                _ => panic!("not a record: {:?}", String::from_utf8_lossy(line)),
            }
        }
        Answer::Ended { code, stdout, stderr }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended { code, stdout, stderr } => write!(
                formatter,
                "{code}, stdout {:?}, stderr {:?}",
                String::from_utf8_lossy(stdout),
                String::from_utf8_lossy(stderr)
            ),
            Self::Failed(message) => write!(formatter, "failed: {message}"),
        }
    }
}

/// Container names of CRI-O: kind, container, pod, namespace, uid, attempt.
const NAME: &str = "k8s_web_pod_default_uid_0";

/// The environment that CRI-O makes: nothing of its own but the path.
fn driver(bench: &Bench) -> MonitorCommand<'_> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    MonitorCommand::bare(bench).no_env().env("PATH", path).env("CRI_O_EXTERNAL", "1").env("PATH", path)
}

/// The command of CreateContainer; for a terminal with the end of its stderr that CRI-O reads.
fn create_command<'b>(
    bench: &'b Bench,
    runc: &Runc<'b>,
    streams: Streams,
    options: &[&str],
) -> (MonitorCommand<'b>, Option<OwnedFd>) {
    let command = driver(bench).cwd(bench.bundle()).option("-b", bench.bundle()).option("-c", CID);
    let command = command.option("--exit-dir", bench.path("exits")).option("-l", bench.log());
    let command = command.option("--log-level", "info").option("-n", NAME);
    let command = command.option("-P", bench.path("conmon.pid")).option("-p", bench.path("pidfile"));
    let command = command.option("--persist-dir", bench.path("persist")).option("-r", program("runc"));
    let command = command.option("--runtime-arg", runc.root_argument());
    let command = command.option("--socket-dir-path", bench.path("s")).arg("--syslog").option("-u", CID);
    let command = command.args(options);
    let command = match streams {
        Streams { terminal: true, .. } => command.arg("-t"),
        Streams { stdin: true, stdin_once: true, .. } => command.arg("-i"),
        Streams { stdin: true, .. } => command.arg("--leave-stdin-open").arg("-i"),
        Streams { .. } => command,
    };
    let command = command.sync(Kind::Stream, 3).start(Kind::Stream, 4);
    if !streams.terminal {
        return (command, None);
    }
    let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("pipe");
    (command.stdio(2, theirs), Some(ours))
}

fn output_pipes() -> ([File; 2], [OwnedFd; 2]) {
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("pipe");
    let ((stdout, stdout_in), (stderr, stderr_in)) = (pipe(), pipe());
    ([File::from(stdout), File::from(stderr)], [stdout_in, stderr_in])
}

fn read_to_end(pipe: &mut File) -> String {
    let mut bytes = Vec::new();
    loop {
        assert!(deadline::readable(std::os::fd::AsFd::as_fd(pipe), deadline::limit()), "a pipe stays open");
        let mut buffer = [0; 4096];
        match pipe.read(&mut buffer).expect("read") {
            0 => return String::from_utf8_lossy(&bytes).into_owned(),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn move_to(cgroup: &Path, pid: i32) {
    fs::create_dir_all(cgroup).expect("control group");
    fs::write(cgroup.join("cgroup.procs"), pid.to_string()).expect("move to the control group");
}

fn cgroup_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let named = |line: &&str| line.contains(":memory:") || line.starts_with("0::");
    let line = text.lines().find(named).unwrap_or_default();
    line.rsplit(':').next().unwrap_or_default().to_owned()
}

fn remove_cgroup(cgroup: &Path) {
    deadline::until("the monitor's control group to be empty", || fs::remove_dir(cgroup).ok());
}
