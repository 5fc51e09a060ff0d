//! One life of a container, from the start of the monitor to its end, as a driver sees it.
//!
//! The driver here is a patient one: it waits for what it should get, but not for long, because in most runs
//! something is broken.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Fault, Trace, Who};
use crate::attach::AttachClient;
use crate::bench::{Bench, built};
use crate::channel::Report;
use crate::command::MonitorCommand;
use crate::deadline;
use crate::journal_socket::{JournalSocket, field};
use crate::monitor::Monitor;
use crate::mounts::Mounts;

/// What is lived through.
#[derive(Clone, Copy)]
pub struct Life {
    pub name: &'static str,
    /// Sets the bench up and gives the command line.
    pub command: for<'b> fn(&'b Bench) -> MonitorCommand<'b>,
    /// What the stand-in runtime does. The container says `hello` when `go1` is there, and ends when `go2` is.
    pub script: &'static str,
    pub exec: bool,
    /// The process that is spawned is the monitor itself.
    pub sync: bool,
    /// The number in the reports.
    pub key: &'static str,
    /// How the container ends; `None` when the runtime fails.
    pub code: Option<i32>,
    /// A client attaches, and types.
    pub attach: bool,
    /// What goes into the ctl fifo while the container runs.
    pub control: &'static str,
    /// The log is a journal, which needs the right to mount.
    pub journal: bool,
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Run {
    pub trace: Trace,
    /// The reports in their order; an invalid one is a panic.
    pub reports: Vec<Report>,
    pub exit: Option<String>,
    pub persist: Option<String>,
    /// The exit command was run.
    pub cleaned_up: bool,
    pub logged: Option<Vec<u8>>,
    pub files: Vec<String>,
    pub stderr: String,
    key: &'static str,
}

/// How long the driver waits for something that a fault may have prevented.
const PATIENCE: Duration = Duration::from_millis(400);

impl Run {
    /// Lives through `life` while `fault` happens.
    pub(super) fn of(life: &Life, fault: Option<&Fault>) -> Self {
        let bench = Bench::new();
        let journal = life.journal.then(OwnJournal::start);
        if life.exec {
            bench.exec_script(life.script);
        } else {
            bench.script(life.script);
        }
        let (gate, opener) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
        let mut monitor = (life.command)(&bench).behind(&gate).spawn();
        drop(gate);
        let tracer = Tracer::attach(&monitor, life.sync, fault);
        nix::unistd::write(&opener, b"\0").expect("open the gate");
        monitor.go();
        let mut reports = Driver { life, bench: &bench, monitor: &mut monitor }.live();
        let trace = tracer.finish(&bench);
        while let Some(report) = monitor.sync_pipe().next_report("the last reports") {
            reports.push(report);
        }
        if trace.ends.contains_key(&Who::Parent) || life.sync {
            monitor.wait_parent();
        }
        if let Some(pid) = trace.pids.get(&Who::Monitor) {
            bench.remember(*pid);
        }
        bench.expect_nothing_running();
        let exit = if life.exec && !life.sync {
            bench.path("x/exit").join(crate::bench::CID)
        } else {
            bench.exit_file()
        };
        let persist = if life.exec { bench.path("x/persist/exit") } else { bench.persist_exit_file() };
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        Self {
            trace,
            reports,
            exit: read(&exit),
            persist: read(&persist),
            cleaned_up: bench.path("cleaned").exists(),
            logged: journal.map_or_else(|| log(&bench), |journal| Some(journal.finish())),
            files: files(&bench),
            stderr: monitor.stderr(),
            key: life.key,
        }
    }

    /// The parent was told that there is a container.
    pub(super) fn started(&self) -> bool {
        self.reports.first().is_some_and(|report| report.number(self.key) > 0)
    }
}

/// A journal that only this run's processes see.
struct OwnJournal {
    journal: JournalSocket,
    _mounts: Mounts,
}

impl OwnJournal {
    fn start() -> Self {
        let mut mounts = Mounts::private().expect("a mount namespace");
        mounts.tmpfs(Path::new("/run/systemd"), "1m");
        std::fs::create_dir("/run/systemd/journal").expect("mkdir");
        Self { journal: JournalSocket::bind(Path::new("/run/systemd/journal/socket")), _mounts: mounts }
    }

    /// All messages, the monitor's own about losses included. Panics unless all are whole entries of this container.
    fn finish(self) -> Vec<u8> {
        let mut text = String::new();
        for entry in self.journal.entries() {
            assert_eq!(field(&entry, "CONTAINER_ID_FULL"), crate::bench::CID, "whose entry?");
            text.push_str(&field(&entry, "MESSAGE"));
            text.push('\n');
        }
        text.into_bytes()
    }
}

/// Everything that is logged, rotated logs first; `None` without a log. Panics unless all are made of whole records.
fn log(bench: &Bench) -> Option<Vec<u8>> {
    let rotated = (1..10).rev().map(|number| bench.path(format!("log.{number}")));
    let files = rotated.chain([bench.log()]).filter_map(|path| std::fs::read(path).ok());
    let parts: Vec<Vec<u8>> =
        files.map(|bytes| crate::log::joined(&crate::LogLine::parse_all(&bytes), "stdout")).collect();
    (!parts.is_empty()).then(|| parts.concat())
}

/// All names below the bench, sorted.
fn files(bench: &Bench) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders: Vec<PathBuf> = vec![bench.dir().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path.clone());
            }
            names.push(path.strip_prefix(bench.dir()).expect("below").to_string_lossy().into_owned());
        }
    }
    names.sort();
    names
}

struct Tracer {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    first: String,
}

impl Tracer {
    fn attach(monitor: &Monitor<'_>, sync: bool, fault: Option<&Fault>) -> Self {
        let mut command = Command::new(built("fault-tracer"));
        command.arg(monitor.parent().0.to_string()).arg(if sync { "sync" } else { "fork" });
        command.args(fault.map(Fault::words).into_iter().flatten()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("tracer");
        let mut output = BufReader::new(child.stdout.take().expect("pipe"));
        let mut first = String::new();
        while !first.ends_with("ready\n") {
            let count = output.read_line(&mut first).expect("tracer's output");
            assert!(count > 0, "the tracer can't attach");
        }
        Self { child, output, first }
    }

    /// Waits for all of the monitor's processes to be gone.
    fn finish(mut self, bench: &Bench) -> Trace {
        let reader = std::thread::spawn(move || {
            let mut text = self.first;
            let _ = self.output.read_to_string(&mut text);
            text
        });
        let gone = deadline::try_until(deadline::limit(), || self.child.try_wait().expect("wait"));
        if gone.is_none() {
            // Ends the monitor as well. What it was doing is told by the calls so far.
            let states: Vec<String> = bench
                .processes()
                .iter()
                .map(|p| format!("{p:?} {:?} cpu {:?}", p.state(), p.cpu()))
                .collect();
            let _ = self.child.kill();
            let _ = self.child.wait();
            let text = reader.join().expect("reader");
            let last: Vec<&str> = text.lines().rev().take(24).collect();
            panic!("the monitor does not end; left: {states:?}; its last calls, backwards: {last:#?}");
        }
        Trace::parse(&reader.join().expect("reader"))
    }
}

struct Driver<'a, 'b> {
    life: &'a Life,
    bench: &'a Bench,
    monitor: &'a mut Monitor<'b>,
}

impl Driver<'_, '_> {
    /// The reports until the container was told to end.
    fn live(&mut self) -> Vec<Report> {
        let life = self.life;
        let client = if life.exec && !life.sync { self.attach_to_exec() } else { None };
        // A session that reports only its end has to be told to end first.
        if life.exec && life.sync {
            self.bench.touch("go1");
            self.bench.touch("go2");
        }
        // Without news the tracer tells what the monitor is doing instead.
        let news =
            deadline::try_until(deadline::limit(), || self.monitor.sync_pipe().has_news().then_some(()));
        let report = news.and_then(|()| self.monitor.sync_pipe().next_report("the first report"));
        let reports: Vec<Report> = report.into_iter().collect();
        let started = reports.first().is_some_and(|report| report.number(life.key) > 0);
        if started {
            let client = client.or_else(|| life.attach.then(|| self.connect()).flatten());
            self.notify();
            self.use_container(client.as_ref());
        }
        self.bench.touch("go1");
        self.bench.touch("go2");
        reports
    }

    /// podman's way into a session: the attach pipe, the socket, the second start message.
    fn attach_to_exec(&mut self) -> Option<AttachClient> {
        let ready = self.monitor.attach_pipe().next_report("the socket is ready");
        let client = ready.and_then(|_| self.connect());
        let _ = self.monitor.start_pipe().write(b"\0");
        client
    }

    fn connect(&self) -> Option<AttachClient> {
        let bundle = if self.life.exec { self.bench.exec_bundle() } else { self.bench.bundle() };
        deadline::try_until(PATIENCE, || AttachClient::try_connect(&bundle.join("attach")))
    }

    fn notify(&self) {
        let path = self.bench.bundle().join("notify/notify.sock");
        if let (true, Ok(socket)) = (path.exists(), UnixDatagram::unbound()) {
            let _ = socket.send_to(b"READY=1\nMAINPID=1\n", path);
        }
    }

    fn use_container(&self, client: Option<&AttachClient>) {
        if let Some(client) = client {
            let _ = client.try_send(b"typed\n");
            let _ = deadline::try_until(PATIENCE, || {
                std::fs::read(self.bench.path("got")).ok().filter(|got| got.starts_with(b"typed"))
            });
        }
        self.control();
        self.bench.touch("go1");
        if let Some(client) = client {
            let _ = deadline::try_until(PATIENCE, || client.has_news().then(|| client.packet()));
            client.half_close();
        }
        let _ = deadline::try_until(PATIENCE, || {
            let Ok(log) = std::fs::read(self.bench.log()) else { return Some(()) };
            let elsewhere = self.life.exec || self.life.journal;
            (elsewhere || log.windows(5).any(|window| window == b"hello")).then_some(())
        });
    }

    fn control(&self) {
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
        if self.life.control.is_empty() {
            return;
        }
        let bundle = if self.life.exec { self.bench.exec_bundle() } else { self.bench.bundle() };
        let mut options = std::fs::OpenOptions::new();
        let inode = || std::fs::metadata(self.bench.log()).map(|meta| meta.ino()).ok();
        let before = inode();
        if let Ok(mut fifo) = options.write(true).custom_flags(libc::O_NONBLOCK).open(bundle.join("ctl")) {
            let _ = fifo.write_all(self.life.control.as_bytes());
        }
        if self.life.control.starts_with('2') {
            let _ = deadline::try_until(PATIENCE, || (inode() != before).then_some(()));
        }
    }
}

impl Bench {
    /// A host's notify socket that takes what the relay sends.
    #[must_use]
    pub fn notify_host(&self) -> PathBuf {
        std::fs::create_dir(self.bundle().join("notify")).expect("mkdir");
        let path = self.path("host.sock");
        // The socket goes on taking datagrams while a descriptor of it is open, which is until the test ends.
        std::mem::forget(UnixDatagram::bind(&path).map(OwnedFd::from).expect("bind"));
        path
    }
}
