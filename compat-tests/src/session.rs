//! A child program under a deadline: what it writes is read while it runs, and it is gone when its session is dropped.
//!
//! Everything is one loop around poll(2), so a child can't dead-lock a test by filling a pipe, and a test can wait for
//! a text, type an answer and go on. The output is capped: a program that floods fails its test instead of the machine.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::deadline::scaled;

/// A single program in a test takes seconds at most on an idle machine; stretched as [`scaled`] says.
const DEADLINE: Duration = Duration::from_secs(300);
/// Bytes of output a stream may have.
const OUTPUT_MAX: usize = 256 << 20;
const TURN: Duration = Duration::from_millis(50);

/// What the child gets as its stdin.
#[derive(Debug)]
pub enum Input {
    Null,
    /// A pipe that stays open until [`Session::end_input`].
    Pipe,
    /// All three streams are one terminal of this many rows and columns, which is the child's controlling terminal.
    Terminal(u16, u16),
}

#[derive(Debug)]
pub struct Session {
    title: String,
    child: Child,
    status: Option<ExitStatus>,
    /// `None` when the input has ended.
    stdin: Option<File>,
    stdout: Stream,
    stderr: Stream,
    /// The follower's end, kept so that its size can be changed.
    terminal: Option<OwnedFd>,
    deadline: Instant,
}

#[derive(Debug, Default)]
struct Stream {
    /// `None` after the end of the stream.
    file: Option<File>,
    bytes: Vec<u8>,
}

/// How a program ended and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub title: String,
    /// The exit code, or 128 and the signal's number.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Runs `command` to its end without input.
pub fn run(command: Command) -> Outcome {
    Session::start(command, Input::Null).finish()
}

impl Session {
    /// Starts `command` in a process group of its own.
    pub fn start(mut command: Command, input: Input) -> Self {
        let title = format!("{command:?}");
        let mut ends = Ends::attach(&mut command, &input);
        if let Input::Terminal(..) = input {
            command = with_controlling_terminal(&command);
            ends.give_terminal(&mut command);
        } else {
            command.process_group(0);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{title}: {error}"));
        drop(command);
        let terminal = ends.terminal.take();
        let stdout = ends.leader.as_ref().map(|fd| File::from(fd.try_clone().unwrap()));
        let stdin = ends.leader.take().map(File::from);
        let this = Self {
            title,
            stdin: stdin.or_else(|| child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe)))),
            stdout: Stream::new(
                stdout.or_else(|| child.stdout.take().map(|pipe| OwnedFd::from(pipe).into())),
            ),
            stderr: Stream::new(child.stderr.take().map(|pipe| OwnedFd::from(pipe).into())),
            terminal,
            child,
            status: None,
            deadline: Instant::now() + scaled(DEADLINE),
        };
        for file in [&this.stdin, &this.stdout.file, &this.stderr.file].into_iter().flatten() {
            set_non_blocking(file);
        }
        this
    }

    /// Gives the child `times` as long as a single program has, because it starts many.
    #[must_use]
    pub fn patient(mut self, times: u32) -> Self {
        self.deadline = Instant::now() + scaled(DEADLINE * times);
        self
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Writes all of `bytes` to the child, reading its output meanwhile.
    pub fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.turn("taking input", true);
            let Some(stdin) = &mut self.stdin else { panic!("{}: the input has ended", self.title) };
            match stdin.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{}: writing its input: {error}\n{}", self.title, self.so_far()),
            }
        }
    }

    pub fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Changes the size of the child's terminal; its foreground process group gets SIGWINCH.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        set_size(self.terminal.as_ref().unwrap(), rows, columns);
    }

    /// Reads until stdout and stderr together contain `text`.
    pub fn wait_for(&mut self, text: &str) {
        let found = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        self.wait_until(&format!("writing {text:?}"), |stdout, stderr| found(stdout) || found(stderr));
    }

    /// Reads until `done` is content with what stdout and stderr gave so far; `doing` is for the failure's text.
    pub fn wait_until(&mut self, doing: &str, done: impl Fn(&[u8], &[u8]) -> bool) {
        while !done(&self.stdout.bytes, &self.stderr.bytes) {
            assert!(
                self.stdout.file.is_some() || self.stderr.file.is_some(),
                "{}: ended, not done with {doing}\n{}",
                self.title,
                self.so_far()
            );
            self.turn(doing, false);
        }
    }

    /// Closes the reading end of the child's stdout, as a reader that has seen enough does.
    pub fn leave_output(&mut self) {
        self.stdout.file = None;
    }

    /// The follower's end of the child's terminal; `None` without one.
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Types `keys` one by one until the child has ended: a program that looks for a sequence of keys (podman's detach
    /// keys) may want each of them in a read of its own.
    pub fn leave_with(&mut self, keys: &[u8]) {
        while self.status.is_none() {
            for key in keys {
                self.send(std::slice::from_ref(key));
                self.read_for(Duration::from_millis(100));
            }
            self.read_for(Duration::from_secs(1));
        }
    }

    /// Reads for `time` or until the child has ended.
    pub fn read_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while self.status.is_none() && Instant::now() < end {
            self.turn("ending", false);
            self.status = self.child.try_wait().unwrap();
        }
    }

    /// Forgets what the child has written so far, for a [`Self::wait_for`] that must see something new.
    pub fn forget_output(&mut self) {
        self.stdout.bytes.clear();
        self.stderr.bytes.clear();
    }

    pub fn stdout(&self) -> &[u8] {
        &self.stdout.bytes
    }

    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
    }

    /// Ends the input (not a terminal's) and waits for the child and for the end of its output.
    pub fn finish(mut self) -> Outcome {
        if self.terminal.is_none() {
            self.end_input();
        }
        while self.status.is_none() || self.stdout.file.is_some() || self.stderr.file.is_some() {
            self.turn("ending", false);
            if self.status.is_none() {
                self.status = self.child.try_wait().unwrap();
            }
            // The leader sees the end of a terminal only when nobody holds the follower, so neither may we.
            if self.status.is_some() {
                self.terminal = None;
            }
        }
        let status = self.status.unwrap();
        Outcome {
            title: std::mem::take(&mut self.title),
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: std::mem::take(&mut self.stdout.bytes),
            stderr: std::mem::take(&mut self.stderr.bytes),
        }
    }

    /// Waits for something to happen, but not long, and reads what is there.
    fn turn(&mut self, doing: &str, writable: bool) {
        assert!(
            Instant::now() < self.deadline,
            "{}: not done with {doing} in time\n{}",
            self.title,
            self.so_far()
        );
        let mut waiting = Vec::new();
        for stream in [&self.stdout, &self.stderr] {
            waiting.extend(stream.file.as_ref().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
        }
        if writable {
            waiting.extend(self.stdin.as_ref().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLOUT)));
        }
        // With nothing to wait for this is how often the child's end is looked for.
        let timeout = if waiting.is_empty() { Duration::from_millis(2) } else { TURN };
        match poll(&mut waiting, PollTimeout::try_from(timeout).unwrap()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
        self.stdout.read(&self.title);
        self.stderr.read(&self.title);
    }

    fn so_far(&self) -> String {
        format!(
            "stdout: {}\nstderr: {}",
            String::from_utf8_lossy(tail(&self.stdout.bytes)),
            String::from_utf8_lossy(tail(&self.stderr.bytes))
        )
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = killpg(self.pid(), Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Outcome {
    /// Fails the test, with all output, unless the program ended with `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            code,
            "exit code of {}\nstdout: {}\nstderr: {}",
            self.title,
            String::from_utf8_lossy(tail(&self.stdout)),
            self.stderr_text()
        );
        self
    }

    #[track_caller]
    pub fn prints(self, stdout: &str) -> Self {
        assert_eq!(self.stdout_text(), stdout, "stdout of {}\nstderr: {}", self.title, self.stderr_text());
        self
    }

    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl Stream {
    fn new(file: Option<File>) -> Self {
        Self { file, bytes: Vec::new() }
    }

    /// Reads at most one buffer of what is there now: a test that reads in small steps must not be overtaken by a child
    /// that writes as fast as it is read.
    fn read(&mut self, title: &str) {
        let Some(file) = &mut self.file else { return };
        let mut buffer = [0; 65536];
        match file.read(&mut buffer) {
            Ok(count) if count > 0 => self.bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // A terminal's end is EIO.
            Ok(_) | Err(_) => self.file = None,
        }
        assert!(self.bytes.len() <= OUTPUT_MAX, "{title}: writes more than {OUTPUT_MAX} bytes");
    }
}

/// The ends of a terminal while a child is being started.
struct Ends {
    leader: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

impl Ends {
    fn attach(command: &mut Command, input: &Input) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        match input {
            Input::Null => command.stdin(Stdio::null()),
            Input::Pipe => command.stdin(Stdio::piped()),
            Input::Terminal(rows, columns) => {
                let (leader, terminal) = open_terminal();
                set_size(&terminal, *rows, *columns);
                return Self { leader: Some(leader), terminal: Some(terminal) };
            }
        };
        Self { leader: None, terminal: None }
    }

    fn give_terminal(&self, command: &mut Command) {
        let follower = || self.terminal.as_ref().unwrap().try_clone().unwrap();
        command.stdin(follower()).stdout(follower()).stderr(follower());
    }
}

/// setsid(1) gives its stdin to the program as controlling terminal, which std can't do.
fn with_controlling_terminal(command: &Command) -> Command {
    let mut outer = Command::new("setsid");
    outer.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

/// Both ends are closed on exec from the start: tests run side by side, and an end that another test's child holds
/// would keep this terminal from ending.
fn open_terminal() -> (OwnedFd, OwnedFd) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let leader = posix_openpt(flags).unwrap();
    grantpt(&leader).unwrap();
    unlockpt(&leader).unwrap();
    let name = ptsname_r(&leader).unwrap();
    let follower =
        OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name).unwrap();
    (leader.into(), follower.into())
}

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);

/// In one step, so that nobody sees the rows of the new size with the columns of the old one.
fn set_size(terminal: &OwnedFd, rows: u16, columns: u16) {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and the kernel only reads the size.
    unsafe { set_window_size(terminal.as_raw_fd(), &raw const size) }.unwrap();
}

fn set_non_blocking(file: &File) {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).unwrap());
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
}

fn tail(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(4096)..]
}
