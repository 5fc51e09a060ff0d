//! A scripted runtime: it does to the monitor what runc and a container do, and whatever they do wrong.
//!
//! `create` and `restore` obey `<bundle>/script`, `exec` obeys `<process spec>.script`. A script has one verb a line;
//! the lines after `payload` are for the container's process, which that verb forks into a session of its own. When the
//! runtime's part ends it writes the pid file (a new file, renamed, as runc does) and exits 0. Paths are relative to the bench; in texts `\n`, `\r`, `\t`,
//! `\0`, `\\` and `\xHH` stand for bytes.
//!
//! | verb | effect |
//! |--|--|
//! | `record [DIR]` | writes argv, env, fds, status, ids, cwd, oom, pdeathsig into `DIR` (`seen`) beside the script |
//! | `print TEXT`, `eprint TEXT` | bytes to stdout, to stderr |
//! | `bytes N [C]`, `ebytes N [C]` | N times the character C (`x`) to stdout, to stderr |
//! | `lines N [WIDTH [FIRST]]`, `elines N [WIDTH [FIRST]]` | numbered lines |
//! | `noise` | empty lines to stdout, for ever |
//! | `drained` | waits until the monitor has read all that was written to the pipes of stdout and stderr |
//! | `write PATH TEXT` | a file |
//! | `touch PATH`, `wait PATH` | makes a file, waits for one |
//! | `sleep MS` | |
//! | `exit N`, `die SIGNAL` | ends this process at once |
//! | `ignore SIGNAL`, `trap SIGNAL N`, `default SIGNAL` | dispositions; a trap exits with N |
//! | `cat PATH`, `echo` | stdin to a file, to stdout, until end of file |
//! | `close N` | closes a descriptor |
//! | `packets` | stdout is a pipe in packet mode (O_DIRECT) from now on |
//! | `background` … `end` | a child of the same session that runs the lines between and exits |
//! | `daemon` … `end` | the same twice forked into a session of its own, so that it becomes an orphan |
//! | `winsize PATH` | keeps `ROWS COLUMNS` of the terminal in a file, for ever |
//! | `raw` | the terminal passes bytes unchanged and without echo |
//! | `memory MB` | touches that much memory, so that dying takes a while |
//! | `pause` | for ever |
//! | `console` | (runtime) opens a terminal and sends its leader to `--console-socket` |
//! | `pidfile none`, `pidfile text TEXT` | (runtime) no pid file, or this text instead of the payload's pid |
//! | `status N` | (runtime) the exit status after the pid file is written |
//! | `payload` | (runtime) the rest is the container's process |

mod console;
mod record;

use std::fs::File;
use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, fork, setsid};

/// Exit code for a script or call that makes no sense, distinct from all that tests use.
const BROKEN: i32 = 99;

/// The words of the runtime's command line that matter here.
struct Call {
    script: PathBuf,
    pidfile: PathBuf,
    console_socket: Option<PathBuf>,
}

impl Call {
    fn parse(words: &[String]) -> Option<Self> {
        let verb = words.iter().position(|word| matches!(word.as_str(), "create" | "restore" | "exec"))?;
        let rest = words.get(verb + 1..)?;
        let value = |name: &str| {
            let at = rest.iter().position(|word| word == name)?;
            rest.get(at + 1).map(PathBuf::from)
        };
        let script = match value("--process") {
            Some(spec) => spec.with_extension("script"),
            None => value("--bundle")?.join("script"),
        };
        Some(Self { script, pidfile: value("--pid-file")?, console_socket: value("--console-socket") })
    }
}

/// The program; the result is its exit status.
#[must_use]
pub fn main() -> i32 {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let Some(call) = Call::parse(&words) else { return BROKEN };
    let Ok(script) = std::fs::read_to_string(&call.script) else { return BROKEN };
    let lines: Vec<&str> = script.lines().map(str::trim_start).collect();
    let split = lines.iter().position(|line| *line == "payload").unwrap_or(lines.len());
    let (own, payload) = lines.split_at(split);
    let home = call.script.parent().map(Path::to_path_buf).unwrap_or_default();
    let base = std::env::var_os("FERROMON_BENCH").map_or_else(|| home.clone(), PathBuf::from);
    let mut actor = Actor { home, base, call: &call, pidfile: Pidfile::Payload, status: 0, terminal: None };
    actor.play(own);
    let pid = payload.get(1..).map(|lines| actor.start_payload(lines));
    let text = match (actor.pidfile, pid) {
        (Pidfile::Text(text), _) => text,
        (Pidfile::Payload, Some(pid)) => pid.to_string().into_bytes(),
        (Pidfile::None, _) | (Pidfile::Payload, None) => return actor.status,
    };
    let temporary = call.pidfile.with_extension("new");
    let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &call.pidfile));
    if written.is_ok() { actor.status } else { BROKEN }
}

enum Pidfile {
    Payload,
    Text(Vec<u8>),
    None,
}

/// Whoever is carrying out a part of the script.
struct Actor<'a> {
    /// The directory of the script.
    home: PathBuf,
    /// What relative paths start from.
    base: PathBuf,
    call: &'a Call,
    pidfile: Pidfile,
    /// The runtime's exit status.
    status: i32,
    /// The follower of the container's terminal.
    terminal: Option<RawFd>,
}

impl Actor<'_> {
    fn play(&mut self, lines: &[&str]) {
        let mut rest = lines;
        while let [line, after @ ..] = rest {
            let (verb, text) = line.split_once(' ').unwrap_or((line, ""));
            rest = after;
            match verb {
                "background" | "daemon" => {
                    let end = block_end(rest);
                    self.branch(verb == "daemon", &rest[..end]);
                    rest = &rest[end + 1..];
                }
                "" | "#" => {}
                _ => self.act(verb, text),
            }
        }
    }

    fn act(&mut self, verb: &str, text: &str) {
        let (first, second) = text.split_once(' ').unwrap_or((text, ""));
        match verb {
            "record" => record::all(&self.home.join(if text.is_empty() { "seen" } else { text })),
            "print" => put(1, &unescape(text)),
            "eprint" => put(2, &unescape(text)),
            "bytes" => repeat(1, number(first), second),
            "ebytes" => repeat(2, number(first), second),
            "lines" => numbered(1, number(first), second),
            "elines" => numbered(2, number(first), second),
            "write" => check(std::fs::write(self.base.join(first), unescape(second))),
            "touch" => check(std::fs::write(self.base.join(text), "")),
            "wait" => wait_for(&self.base.join(text)),
            "sleep" => std::thread::sleep(Duration::from_millis(number(first))),
            "exit" => quit(number(first)),
            "die" => die(signal(first)),
            "ignore" => dispose(signal(first), SigHandler::SigIgn),
            "default" => dispose(signal(first), SigHandler::SigDfl),
            "trap" => trap(signal(first), number(second)),
            "cat" => copy_stdin(&mut File::create(self.base.join(text)).unwrap_or_else(|_| quit(BROKEN))),
            "echo" => copy_stdin(&mut descriptor(1)),
            "close" => drop(ManuallyDrop::into_inner(descriptor(number(first)))),
            "packets" => packets(),
            "noise" => {
                while descriptor(1).write_all(&[b'\n'; 4096]).is_ok() {}
                pause()
            }
            "drained" => drained(),
            "winsize" => loop {
                check(std::fs::write(self.base.join(text), console::size()));
                std::thread::sleep(Duration::from_millis(10));
            },
            "raw" => console::make_raw(),
            "memory" => std::mem::forget(std::hint::black_box(vec![1_u8; number::<usize>(first) << 20])),
            "pause" => pause(),
            "console" => self.terminal = Some(console::open(self.call.console_socket.as_deref())),
            "status" => self.status = number(first),
            "pidfile" if first == "none" => self.pidfile = Pidfile::None,
            "pidfile" if first == "text" => self.pidfile = Pidfile::Text(unescape(second)),
            _ => {
                put(2, format!("stand-in: unknown verb {verb}\n").as_bytes());
                quit(BROKEN)
            }
        }
    }

    /// Forks the container's process.
    fn start_payload(&mut self, lines: &[&str]) -> i32 {
        // SAFETY: this process has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) => child.as_raw(),
            Ok(ForkResult::Child) => {
                check(setsid().map_err(Into::into));
                if let Some(terminal) = self.terminal {
                    console::become_terminal(terminal);
                }
                self.play(lines);
                quit(0)
            }
            Err(_) => quit(BROKEN),
        }
    }

    /// Runs `lines` in a child; as an orphan if `daemon`.
    fn branch(&mut self, daemon: bool, lines: &[&str]) {
        // SAFETY: this process has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { child }) if daemon => {
                check(nix::sys::wait::waitpid(child, None).map_err(Into::into).map(drop))
            }
            Ok(ForkResult::Parent { .. }) => {}
            Ok(ForkResult::Child) => {
                if daemon {
                    check(setsid().map_err(Into::into));
                    // SAFETY: this process has one thread.
                    if !matches!(unsafe { fork() }, Ok(ForkResult::Child)) {
                        quit(0)
                    }
                }
                self.play(lines);
                quit(0)
            }
            Err(_) => quit(BROKEN),
        }
    }
}

fn block_end(lines: &[&str]) -> usize {
    lines.iter().position(|line| *line == "end").unwrap_or_else(|| quit(BROKEN))
}

fn number<N: FromStr>(text: &str) -> N {
    text.parse().unwrap_or_else(|_| quit(BROKEN))
}

fn signal(name: &str) -> Signal {
    Signal::from_str(&format!("SIG{name}")).unwrap_or_else(|_| quit(BROKEN))
}

fn check<T>(result: std::io::Result<T>) {
    if result.is_err() {
        quit(BROKEN)
    }
}

fn quit(code: i32) -> ! {
    // SAFETY: ends this process; nothing runs after it.
    unsafe { libc::_exit(code) }
}

fn pause() -> ! {
    loop {
        nix::unistd::pause();
    }
}

fn die(signal: Signal) -> ! {
    dispose(signal, SigHandler::SigDfl);
    let _ = nix::sys::signal::raise(signal);
    quit(BROKEN)
}

fn dispose(signal: Signal, handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    if signal != Signal::SIGKILL {
        // SAFETY: the handlers used here only exit.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

static TRAP_CODE: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_trap(_signal: i32) {
    quit(TRAP_CODE.load(Ordering::Relaxed))
}

fn trap(signal: Signal, code: i32) {
    TRAP_CODE.store(code, Ordering::Relaxed);
    dispose(signal, SigHandler::Handler(on_trap));
}

/// A descriptor as a file that is not closed when it goes out of scope.
fn descriptor(fd: RawFd) -> ManuallyDrop<File> {
    // SAFETY: scripts name descriptors that the process was started with; only `close` takes ownership.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
}

fn put(fd: RawFd, bytes: &[u8]) {
    let _ = descriptor(fd).write_all(bytes);
}

fn repeat(fd: RawFd, count: usize, character: &str) {
    put(fd, &vec![character.bytes().next().unwrap_or(b'x'); count]);
}

fn numbered(fd: RawFd, count: usize, layout: &str) {
    let mut layout = layout.split_whitespace();
    let width: usize = layout.next().map_or(0, number);
    let first: usize = layout.next().map_or(1, number);
    let mut text = String::new();
    for index in first..first + count {
        text.push_str(&format!("{:.<width$}\n", format!("line {index}")));
        if text.len() > 32 * 1024 {
            put(fd, text.as_bytes());
            text.clear();
        }
    }
    put(fd, text.as_bytes());
}

/// Looks when something happens in the directory of `path`, so that whoever waits here does not run meanwhile.
fn wait_for(path: &Path) {
    let watch = Inotify::init(InitFlags::IN_CLOEXEC).and_then(|watch| {
        let appears = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        watch.add_watch(path.parent().unwrap_or(path), appears).map(|_| watch)
    });
    while !path.exists() {
        // The kernel has watches for so many at a time only.
        if watch.as_ref().map_or(Err(Errno::ENOSPC), Inotify::read_events).is_err() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn packets() {
    let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_DIRECT;
    let set = nix::fcntl::fcntl(&*descriptor(1), nix::fcntl::FcntlArg::F_SETFL(flags));
    check(set.map(drop).map_err(Into::into));
}

fn drained() {
    let unread = |fd: RawFd| {
        let mut count: libc::c_int = 0;
        // SAFETY: the kernel stores one int through the pointer, which leads to a local.
        let known = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) } == 0;
        known && count > 0
    };
    while unread(1) || unread(2) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn copy_stdin(target: &mut File) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(count @ 1..) = descriptor(0).read(&mut buffer) {
        check(target.write_all(&buffer[..count]));
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let (out, used) = match (byte, after.first()) {
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'0')) => (0, 2),
            (b'\\', Some(b'\\')) => (b'\\', 2),
            (b'\\', Some(b'x')) => {
                let digits = std::str::from_utf8(after.get(1..3).unwrap_or_default()).unwrap_or_default();
                (u8::from_str_radix(digits, 16).unwrap_or_else(|_| quit(BROKEN)), 4)
            }
            _ => (*byte, 1),
        };
        bytes.push(out);
        rest = &rest[used..];
    }
    bytes
}
