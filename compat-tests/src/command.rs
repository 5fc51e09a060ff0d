//! The command line, environment and descriptors that a driver gives to the monitor, under full control of the test.
//!
//! The process is made with fork and execve here and not with `std::process::Command`, because drivers do what that
//! can't: duplicate variables, descriptors at chosen numbers, nothing else inherited.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal};

use crate::bench::{Bench, CID, LOG_CAP, SESSION, built};
use crate::channel::{Kind, report_pair, start_pair};
use crate::monitor::Monitor;

/// A process that nobody lets through its gate ends by itself.
const GATE_LIMIT_MS: i32 = 60_000;

/// Where one of the descriptors 0, 1 and 2 leads.
#[derive(Debug)]
enum Stdio {
    Null,
    /// A file of the bench, emptied first.
    File(PathBuf),
    Fd(OwnedFd),
}

#[derive(Debug)]
pub struct MonitorCommand<'b> {
    bench: &'b Bench,
    program: PathBuf,
    args: Vec<OsString>,
    /// `NAME=VALUE`, in order, duplicates kept.
    env: Vec<OsString>,
    cwd: PathBuf,
    sync: Option<(Kind, RawFd)>,
    start: Option<(Kind, RawFd)>,
    attach: Option<(Kind, RawFd)>,
    /// Descriptors that the monitor inherits beyond its own, and their numbers there.
    extra: Vec<(OwnedFd, RawFd)>,
    stdio: [Stdio; 3],
    umask: u32,
    ignored: Vec<Signal>,
    blocked: Vec<Signal>,
    /// The process waits for a byte from this pipe before it becomes the monitor.
    gate: Option<OwnedFd>,
}

impl<'b> MonitorCommand<'b> {
    /// Nothing but the program, a short environment, stdout and stderr into files `out` and `err` of the bench.
    #[must_use]
    pub fn bare(bench: &'b Bench) -> Self {
        let env = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"].map(OsString::from).to_vec();
        Self {
            bench,
            program: bench.program().to_owned(),
            args: Vec::new(),
            env,
            cwd: bench.dir().to_owned(),
            sync: None,
            start: None,
            attach: None,
            extra: Vec::new(),
            stdio: [Stdio::Null, Stdio::File(bench.path("out")), Stdio::File(bench.path("err"))],
            umask: 0o022,
            ignored: Vec::new(),
            blocked: Vec::new(),
            gate: None,
        }
    }

    /// `podman run`: contract 1.2 and 1.4.
    #[must_use]
    pub fn podman(bench: &'b Bench) -> Self {
        let command = Self::bare(bench).args(["--api-version", "1", "-c", CID, "-u", CID]);
        let command = command.option("-r", built("standin-runtime")).option("-b", bench.bundle());
        let command = command.option("-p", bench.path("pidfile")).option("-n", "web");
        let command = command.option("--exit-dir", bench.path("exits")).arg("--full-attach");
        let command = command.option("--persist-dir", bench.path("persist"));
        let command =
            command.option("-l", with_prefix("k8s-file:", &bench.log())).option("--log-level", "warning");
        let command = command.option("--conmon-pidfile", bench.path("conmon.pid"));
        command.sync(Kind::Seqpacket, 3).start(Kind::Seqpacket, 4)
    }

    /// CRI-O: contract 2.2.
    #[must_use]
    pub fn crio(bench: &'b Bench) -> Self {
        let command = Self::bare(bench).cwd(bench.bundle()).option("-b", bench.bundle()).option("-c", CID);
        let command = command.option("--exit-dir", bench.path("exits")).option("-l", bench.log());
        let command = command.option("--log-level", "info").option("-n", "k8s_web_default");
        let command = command.option("-P", bench.path("conmon.pid")).option("-p", bench.path("pidfile"));
        let command = command.option("--persist-dir", bench.path("persist"));
        let command = command.option("-r", built("standin-runtime")).option("--runtime-arg", "--root=/run/r");
        let command = command.option("--socket-dir-path", bench.path("s")).option("-u", CID);
        command.sync(Kind::Stream, 3).start(Kind::Stream, 4).env("CRI_O_EXTERNAL", "1")
    }

    /// `podman exec`: contract 1.3.
    #[must_use]
    pub fn podman_exec(bench: &'b Bench) -> Self {
        let dir = bench.exec_bundle();
        let command = Self::bare(bench).cwd(&dir).args(["--api-version", "1", "-c", CID, "-u", SESSION]);
        let command = command.option("-r", built("standin-runtime")).option("-b", &dir);
        let command = command.option("-p", dir.join("exec_pid")).option("-n", "web");
        let command = command.option("--exit-dir", dir.join("exit")).arg("--full-attach");
        let command = command.option("--persist-dir", dir.join("persist"));
        let command = command.option("-l", "none").option("--log-level", "warning");
        let command = command.args(["-e", "--exec-attach"]).option("--exec-process-spec", dir.join("spec"));
        command.sync(Kind::Seqpacket, 3).start(Kind::Seqpacket, 4).attach_pipe(Kind::Seqpacket, 5)
    }

    /// CRI-O's ExecSync: contract 2.3. The pid file and the log file exist already, empty.
    #[must_use]
    pub fn crio_exec(bench: &'b Bench) -> Self {
        std::fs::write(bench.path("x/pidfile"), "").expect("pid file");
        std::fs::write(bench.log(), "").expect("log");
        let command = Self::bare(bench).option("-c", CID).option("-n", "k8s_web_default");
        let command = command.option("-r", built("standin-runtime")).option("-p", bench.path("x/pidfile"));
        let command =
            command.arg("-e").option("-l", bench.log()).option("--socket-dir-path", bench.path("s"));
        let command = command.args(["--log-level", "info", "--sync"]);
        let command = command.option("--exec-process-spec", bench.path("x/spec"));
        let command = command.option("--runtime-arg", "--root=/run/r");
        command.sync(Kind::Pipe, 3).start(Kind::Stream, 4)
    }

    /// Adds one word.
    #[must_use]
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.args.push(word.as_ref().to_owned());
        self
    }

    /// Adds words.
    #[must_use]
    pub fn args<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.args.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Adds an option and its value as two words.
    #[must_use]
    pub fn option(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arg(name).arg(value)
    }

    /// Takes an option and its value away.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        let at = self.args.iter().position(|word| word == name).unwrap_or_else(|| panic!("no {name}"));
        self.args.drain(at..(at + 2).min(self.args.len()));
        self
    }

    /// Gives an option of the standard line another value.
    #[must_use]
    pub fn replace(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.without(name).option(name, value)
    }

    /// The stand-in as exit command, obeying [`Bench::exit_script`], with `words` before what it needs itself.
    #[must_use]
    pub fn exit_command<W: AsRef<OsStr>>(self, words: impl IntoIterator<Item = W>) -> Self {
        let folder = self.bench.path("t");
        let own: Vec<OsString> = [
            "create".into(),
            "--bundle".into(),
            (&folder).into(),
            "--pid-file".into(),
            folder.join("pid").into(),
        ]
        .to_vec();
        let mut command = self.option("--exit-command", built("standin-runtime"));
        for word in words.into_iter().map(|word| word.as_ref().to_owned()).chain(own) {
            command = command.option("--exit-command-arg", word);
        }
        command
    }

    /// Takes the environment away.
    #[must_use]
    pub fn no_env(mut self) -> Self {
        self.env.clear();
        self
    }

    /// Adds a variable, even if it is there already.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push(with_prefix(&format!("{name}="), Path::new(value.as_ref())));
        self
    }

    #[must_use]
    pub fn cwd(mut self, path: impl AsRef<Path>) -> Self {
        self.cwd = path.as_ref().to_owned();
        self
    }

    /// A sync pipe of this kind at this number.
    #[must_use]
    pub fn sync(mut self, kind: Kind, number: RawFd) -> Self {
        self.sync = Some((kind, number));
        self
    }

    #[must_use]
    pub fn no_sync_pipe(mut self) -> Self {
        self.sync = None;
        self
    }

    /// A start pipe of this kind at this number.
    #[must_use]
    pub fn start(mut self, kind: Kind, number: RawFd) -> Self {
        self.start = Some((kind, number));
        self
    }

    #[must_use]
    pub fn no_start_pipe(mut self) -> Self {
        self.start = None;
        self
    }

    /// An attach pipe of this kind at this number.
    #[must_use]
    pub fn attach_pipe(mut self, kind: Kind, number: RawFd) -> Self {
        self.attach = Some((kind, number));
        self
    }

    /// Lets the monitor inherit `fd` as `number`.
    #[must_use]
    pub fn inherit(mut self, fd: OwnedFd, number: RawFd) -> Self {
        self.extra.push((fd, number));
        self
    }

    /// Gives the monitor `fd` as its stdin, stdout or stderr.
    #[must_use]
    pub fn stdio(mut self, number: usize, fd: impl Into<OwnedFd>) -> Self {
        self.stdio[number] = Stdio::Fd(fd.into());
        self
    }

    /// The umask the driver had (the standard is 022).
    #[must_use]
    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = mask;
        self
    }

    /// Starts the monitor with `signal` ignored.
    #[must_use]
    pub fn ignoring(mut self, signal: Signal) -> Self {
        self.ignored.push(signal);
        self
    }

    /// Starts the monitor with `signal` blocked.
    #[must_use]
    pub fn blocking(mut self, signal: Signal) -> Self {
        self.blocked.push(signal);
        self
    }

    /// Holds the process back, in place of the program that it will become, until `gate` can be read.
    #[must_use]
    pub fn behind(mut self, gate: &OwnedFd) -> Self {
        // Out of the way of the numbers that the monitor's own descriptors get.
        let high = nix::fcntl::fcntl(gate, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(500)).expect("descriptor");
        // SAFETY: the number is that of a new descriptor which nobody else knows.
        self.gate = Some(unsafe { OwnedFd::from_raw_fd(high) });
        self
    }

    /// Another program than the one under test.
    #[must_use]
    pub fn program(mut self, path: impl AsRef<Path>) -> Self {
        self.program = path.as_ref().to_owned();
        self
    }

    /// Runs the program by another one, such as strace, which is started with `words`.
    #[must_use]
    pub fn under<W: AsRef<OsStr>>(mut self, tool: &Path, words: impl IntoIterator<Item = W>) -> Self {
        let program = std::mem::replace(&mut self.program, tool.to_owned());
        let words = words.into_iter().map(|word| word.as_ref().to_owned());
        self.args.splice(0..0, words.chain([program.into_os_string()]));
        self
    }

    /// The words of the command line, without the program.
    #[must_use]
    pub fn words(&self) -> &[OsString] {
        &self.args
    }

    /// Starts it; it waits for the start byte if it has a start pipe.
    #[must_use]
    pub fn spawn(self) -> Monitor<'b> {
        let mut fds: Vec<(OwnedFd, RawFd)> = Vec::new();
        for (number, stdio) in (0..).zip(self.stdio) {
            fds.push((stdio.open(number), number));
        }
        let mut env = self.env;
        let mut pipe = |name: &str, made: Option<(Kind, RawFd)>, pair: fn(Kind) -> (crate::End, OwnedFd)| {
            let (kind, number) = made?;
            let (ours, theirs) = pair(kind);
            fds.push((theirs, number));
            env.push(OsString::from(format!("{name}={number}")));
            Some(ours)
        };
        let sync = pipe("_OCI_SYNCPIPE", self.sync, report_pair);
        let start = pipe("_OCI_STARTPIPE", self.start, start_pair);
        let attach = pipe("_OCI_ATTACHPIPE", self.attach, report_pair);
        fds.extend(self.extra);
        env.push(self.bench.mark());
        let image = Image {
            program: c_string(self.program.as_os_str()),
            argv: std::iter::once(self.program.as_os_str())
                .chain(self.args.iter().map(OsString::as_os_str))
                .map(c_string)
                .collect(),
            envp: env.iter().map(|item| c_string(item)).collect(),
            cwd: c_string(self.cwd.as_os_str()),
            fds,
            umask: self.umask,
            ignored: self.ignored,
            blocked: self.blocked,
            gate: self.gate,
        };
        let pid = image.fork();
        self.bench.remember(pid);
        Monitor::new(self.bench, pid, sync, start, attach)
    }

    /// Starts it and gives it the start byte.
    #[must_use]
    pub fn run(self) -> Monitor<'b> {
        let mut monitor = self.spawn();
        monitor.go();
        monitor
    }
}

impl Stdio {
    fn open(self, number: RawFd) -> OwnedFd {
        match self {
            Self::Null => std::fs::OpenOptions::new()
                .read(number == 0)
                .write(number != 0)
                .open("/dev/null")
                .expect("null")
                .into(),
            Self::File(path) => std::fs::File::create(path).expect("stdio file").into(),
            Self::Fd(fd) => fd,
        }
    }
}

fn with_prefix(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}

fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes())
        .unwrap_or_else(|_| panic!("NUL in {:?}", OsString::from_vec(text.as_bytes().to_vec())))
}

/// Everything that the child needs, built before the fork.
struct Image {
    program: CString,
    argv: Vec<CString>,
    envp: Vec<CString>,
    cwd: CString,
    fds: Vec<(OwnedFd, RawFd)>,
    umask: u32,
    ignored: Vec<Signal>,
    blocked: Vec<Signal>,
    gate: Option<OwnedFd>,
}

impl Image {
    fn fork(self) -> i32 {
        let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
            list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&self.argv), pointers(&self.envp));
        let moves: Vec<(RawFd, RawFd)> =
            self.fds.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect();
        let mut high = vec![-1; moves.len()];
        // SAFETY: the child of this multi-threaded process makes only system calls on memory prepared above, then
        // execs or exits; it allocates nothing and takes no lock.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            // SAFETY: this is the child; the pointers lead to memory prepared above.
            0 => unsafe {
                self.prepare(&moves, &mut high);
                libc::execve(self.program.as_ptr(), argv.as_ptr(), envp.as_ptr());
                libc::_exit(126)
            },
            pid => pid,
        }
    }

    /// # Safety
    /// Only for the forked child.
    unsafe fn prepare(&self, moves: &[(RawFd, RawFd)], high: &mut [RawFd]) {
        // SAFETY: system calls on prepared memory only, as the caller guarantees that this is the child.
        unsafe {
            libc::setpgid(0, 0);
            libc::umask(self.umask);
            libc::chdir(self.cwd.as_ptr());
            // What cargo or make left open is not the monitor's business.
            libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            for ((from, _), copy) in moves.iter().zip(high.iter_mut()) {
                *copy = libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, 400);
            }
            for ((_, to), copy) in moves.iter().zip(high.iter()) {
                if libc::dup2(*copy, *to) < 0 {
                    libc::_exit(125);
                }
            }
            let size = libc::rlimit { rlim_cur: LOG_CAP, rlim_max: LOG_CAP };
            libc::setrlimit(libc::RLIMIT_FSIZE, &size);
            // The test harness ignores SIGPIPE; drivers don't hand that down.
            for signal in Signal::iterator() {
                let _ = nix::sys::signal::signal(signal, SigHandler::SigDfl);
            }
            for signal in &self.ignored {
                let _ = nix::sys::signal::signal(*signal, SigHandler::SigIgn);
            }
            let mask: SigSet = self.blocked.iter().copied().collect();
            let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
            if let Some(gate) = &self.gate {
                let mut set = libc::pollfd { fd: gate.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                if libc::poll(&raw mut set, 1, GATE_LIMIT_MS) < 1 {
                    libc::_exit(124);
                }
            }
        }
    }
}
