//! One fresh directory, laid out as drivers do it, and everything that is started in it.
//!
//! Whatever runs here carries `FERROMON_BENCH=<directory>` in its environment; that is how the bench finds its
//! processes again, wherever they were re-parented to, and ends them by their own pids when it is dropped. The test
//! process is a subreaper, so that monitors that put themselves into the background can be waited for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::attach::AttachClient;
use crate::command::MonitorCommand;
use crate::deadline;
use crate::differences::{self, Broken};
use crate::fifo::write_fifo;
use crate::log::{LogLine, joined};
use crate::monitor::Monitor;
use crate::process::{self, Process};
use crate::twin;

/// The container id that all command lines use; as long as a real one.
pub const CID: &str = "c0ffee0123456789c0ffee0123456789c0ffee0123456789c0ffee0123456789";
/// The session id of execs.
pub const SESSION: &str = "5e55101234567890abcdef1234567890abcdef1234567890abcdef1234567890";

const MARK: &str = "FERROMON_BENCH=";
/// No log of a test may grow beyond this.
pub const LOG_CAP: u64 = 64 << 20;

#[derive(Debug)]
pub struct Bench {
    dir: PathBuf,
    /// The monitor that command lines start.
    program: PathBuf,
    /// Pids ever seen in this bench, to be reaped at the end.
    seen: RefCell<BTreeSet<i32>>,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    /// A bench for the program under test: `CONMON_UNDER_TEST`, or ours.
    #[must_use]
    pub fn new() -> Self {
        Self::with_program(&differences::original().unwrap_or_else(twin::our_program))
    }

    /// A bench for `program`.
    #[must_use]
    pub fn with_program(program: &Path) -> Self {
        nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
        let dir = fresh_directory("fm");
        let bench = Self { dir, program: program.to_owned(), seen: RefCell::default() };
        for folder in ["b", "exits", "persist", "s", "t", "x", "x/exit", "x/persist"] {
            std::fs::create_dir(bench.path(folder)).expect("mkdir");
        }
        bench
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A path inside the bench.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// The bundle of the container (podman: `userdata`).
    #[must_use]
    pub fn bundle(&self) -> PathBuf {
        self.path("b")
    }

    /// The bundle of an exec session.
    #[must_use]
    pub fn exec_bundle(&self) -> PathBuf {
        self.path("x")
    }

    /// The container's log as the standard command lines name it.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// The file in the exit dir.
    #[must_use]
    pub fn exit_file(&self) -> PathBuf {
        self.path("exits").join(CID)
    }

    /// The file in the persist dir.
    #[must_use]
    pub fn persist_exit_file(&self) -> PathBuf {
        self.path("persist/exit")
    }

    /// Sets what the stand-in runtime does when asked to create or restore the container (see [`crate::standin`]).
    pub fn script(&self, text: &str) {
        std::fs::write(self.bundle().join("script"), text).expect("script");
    }

    /// Sets what the stand-in runtime does when asked to exec.
    pub fn exec_script(&self, text: &str) {
        std::fs::write(self.path("x/spec"), "{}").expect("process spec");
        std::fs::write(self.path("x/spec.script"), text).expect("script");
    }

    /// What the runtime recorded under `name` with the verb `record` (bundle of the container).
    #[must_use]
    pub fn recorded(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.bundle().join("seen").join(name))
            .unwrap_or_else(|error| panic!("seen/{name}: {error}"))
    }

    /// The same as text.
    #[must_use]
    pub fn recorded_text(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.recorded(name)).into_owned()
    }

    /// The NUL-separated list recorded under `name` (`argv`, `env`).
    #[must_use]
    pub fn recorded_list(&self, name: &str) -> Vec<String> {
        let bytes = self.recorded(name);
        let items = bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|byte| *byte == 0);
        items.map(|item| String::from_utf8_lossy(item).into_owned()).collect()
    }

    /// The command line of podman for a container.
    #[must_use]
    pub fn podman(&self) -> MonitorCommand<'_> {
        MonitorCommand::podman(self)
    }

    /// The command line of CRI-O for a container.
    #[must_use]
    pub fn crio(&self) -> MonitorCommand<'_> {
        MonitorCommand::crio(self)
    }

    /// The command line of podman for an exec session.
    #[must_use]
    pub fn podman_exec(&self) -> MonitorCommand<'_> {
        MonitorCommand::podman_exec(self)
    }

    /// The command line of CRI-O's ExecSync.
    #[must_use]
    pub fn crio_exec(&self) -> MonitorCommand<'_> {
        MonitorCommand::crio_exec(self)
    }

    /// podman's monitor and its pid, with a container that has followed `payload`, then waits for the file `go`, and
    /// exits with 3.
    #[must_use]
    pub fn started(&self, payload: &str) -> (Monitor<'_>, Process) {
        self.script(&format!("payload\n{payload}\ntouch ready\nwait go\nexit 3"));
        let mut monitor = self.podman().run();
        monitor.report();
        self.wait_file(&self.path("ready"));
        let pid = monitor.pid();
        (monitor, pid)
    }

    /// Sets what the exit command does (see [`MonitorCommand::exit_command`]); its `record` writes to `t/seen`.
    pub fn exit_script(&self, text: &str) {
        std::fs::write(self.path("t/script"), text).expect("script");
    }

    /// A client of the container's attach socket.
    #[must_use]
    pub fn attach(&self) -> AttachClient {
        AttachClient::connect(&self.bundle().join("attach"))
    }

    /// Writes one line to the container's ctl fifo.
    pub fn ctl(&self, line: &str) {
        write_fifo(&self.bundle().join("ctl"), line.as_bytes());
    }

    /// Waits for the file in the exit dir and gives its content.
    pub fn wait_exit_file(&self) -> String {
        self.wait_file(&self.exit_file())
    }

    /// Waits for `path` and gives its content.
    pub fn wait_file(&self, path: &Path) -> String {
        let bytes = deadline::until(&format!("file {}", path.display()), || std::fs::read(path).ok());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Makes an executable file. A process of its own writes it: one that is open for writing can't be executed, and what
    /// this process has open is inherited by whatever another test happens to be starting.
    pub fn executable(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let mut write = std::process::Command::new("/bin/sh");
        write.args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""]).arg(&path).arg(text);
        crate::session::run(write).exits(0);
        path
    }

    /// Creates an empty file, which scripts wait for with `wait`.
    pub fn touch(&self, name: &str) {
        std::fs::write(self.path(name), "").expect("touch");
    }

    /// The log so far, every line parsed.
    #[must_use]
    pub fn log_lines(&self) -> Vec<LogLine> {
        LogLine::parse_all(&self.log_bytes(&self.log()))
    }

    /// As [`Self::logged`], of a log that is being written: a record of which only a part is there yet is left out.
    #[must_use]
    pub fn logged_so_far(&self, stream: &str) -> Vec<u8> {
        joined(&LogLine::parse_whole(&self.log_bytes(&self.log())), stream)
    }

    /// The content of a log file, checked against the cap.
    #[must_use]
    pub fn log_bytes(&self, path: &Path) -> Vec<u8> {
        let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
        assert!(size <= LOG_CAP, "{} has {size} bytes", path.display());
        std::fs::read(path).unwrap_or_default()
    }

    /// Everything the container wrote to `stream` so far, according to the log.
    #[must_use]
    pub fn logged(&self, stream: &str) -> Vec<u8> {
        joined(&self.log_lines(), stream)
    }

    /// The mark that belongs into the environment of everything started here.
    #[must_use]
    pub fn mark(&self) -> OsString {
        let mut mark = OsString::from(MARK);
        mark.push(&self.dir);
        mark
    }

    /// What runs in this bench now, zombies not included.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let mark = self.mark();
        let ours: Vec<Process> = process::all()
            .filter(|process| process.environ().split(|byte| *byte == 0).any(|item| item == mark.as_bytes()))
            .filter(|process| process.alive())
            .collect();
        self.seen.borrow_mut().extend(ours.iter().map(|process| process.0));
        ours
    }

    /// The monitor itself, found by its command line; for execs, which have no conmon pid file.
    #[must_use]
    pub fn monitor(&self) -> Process {
        let own = std::process::id().cast_signed();
        let program = self.program.as_os_str().as_bytes();
        deadline::until("the monitor", || {
            let runs = |process: &Process| {
                process.ppid() == own && process.cmdline().split(|byte| *byte == 0).next() == Some(program)
            };
            self.processes().into_iter().find(runs)
        })
    }

    /// The file in the exit dir of an exec session.
    #[must_use]
    pub fn exec_exit_file(&self) -> PathBuf {
        self.path("x/exit").join(CID)
    }

    /// Has `pid` reaped at the end.
    pub(crate) fn remember(&self, pid: i32) {
        self.seen.borrow_mut().insert(pid);
    }

    /// `pid` has been reaped; its number may be given to anybody now.
    pub(crate) fn forget(&self, pid: i32) {
        self.seen.borrow_mut().remove(&pid);
    }

    /// Checks that nothing of what was started here is still running.
    pub fn expect_nothing_running(&self) {
        deadline::until("every process to be gone", || self.processes().is_empty().then_some(()));
    }

    /// The names in a directory of the bench, sorted.
    #[must_use]
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn reap(&self) {
        for pid in self.seen.borrow().iter() {
            let _ = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let mut looks = 0;
        let gone = deadline::try_until(deadline::scaled(Duration::from_secs(60)), || {
            let mut left = self.processes();
            let own = std::process::id().cast_signed();
            // What has not become its program yet does not carry the mark, but is a child of ours.
            let started = self.seen.borrow().iter().copied().map(Process).collect::<Vec<_>>();
            left.extend(started.into_iter().filter(|process| process.ppid() == own && process.alive()));
            for process in &left {
                let _ = kill(Pid::from_raw(process.0), Signal::SIGKILL);
            }
            self.reap();
            // One look can miss a process whose parent has forked it, and gone, since the list of processes was taken. The
            // end of its start pipe has just set such a parent going.
            looks = if left.is_empty() { looks + 1 } else { 0 };
            (looks > 1).then_some(())
        });
        self.reap();
        let removed = std::fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            assert!(gone.is_some(), "processes of {} can't be ended", self.dir.display());
            removed.expect("remove the bench");
        }
    }
}

/// An empty directory that nobody else has, `NAME.` and six letters. In `/tmp` where the system's temporary directory has
/// a path so long that sockets in it could not be named.
///
/// # Panics
/// When it can't be made.
#[must_use]
pub fn fresh_directory(name: &str) -> PathBuf {
    let usual = Some(std::env::temp_dir()).filter(|path| path.as_os_str().len() <= 30);
    let base = usual.unwrap_or_else(|| PathBuf::from("/tmp"));
    nix::unistd::mkdtemp(&base.join(format!("{name}.XXXXXX"))).expect("temporary directory")
}

/// A program built beside the test executable (`target/<profile>/NAME`).
///
/// Cargo builds it along with the tests, but not when it is asked for one test file only: then a missing program, or a
/// stand-in older than its source, is built here.
///
/// # Panics
/// When it can't be built.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/test").to_owned();
    let program = profile.join(name);
    static BUILD: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = BUILD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !program.exists() || (name == "standin-runtime" && older_than_source(&program)) {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut build = std::process::Command::new(cargo);
        build.args(["build", "--quiet", "--bins"]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        if profile.file_name() == Some(OsStr::new("release")) {
            build.arg("--release");
        }
        let built = build.status().is_ok_and(|status| status.success());
        if !built || !program.exists() {
            eprintln!("{} is not built", program.display());
            std::panic::panic_any(Broken);
        }
    }
    program
}

fn older_than_source(program: &Path) -> bool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = ["standin.rs", "standin/console.rs", "standin/record.rs", "bin/standin-runtime.rs"];
    let time = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    files.iter().filter_map(|file| time(&source.join(file))).max() > time(program)
}
