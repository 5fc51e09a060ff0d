//! The program that watches the monitor's system calls through ptrace(2), and makes one of them fail.
//!
//! `fault-tracer PID fork|sync [WHO CALL N ERRNO once|forever]` attaches to PID, which waits before it execs the
//! monitor, says `ready`, and then writes a line for every call of the monitor (see [`super::Trace`]). The process that
//! PID forks first is the monitor, unless PID is itself (`sync`); what that forks in turn, the runtime and the exit
//! command, is let go at once. A process of its own, because only a tracer of another process leaves the tracee's end
//! for its parent to see.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::FileExt;

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::calls::{self, Kind, Subject};
use super::{Fault, Lasting, Who};
use crate::process::Process;

/// One process that is followed.
struct Tracee {
    who: Who,
    /// It has become the monitor's program; what it did before is not looked at.
    running: bool,
    /// The call it is in.
    call: Option<Call>,
    /// How often it has made each call.
    counts: BTreeMap<&'static str, usize>,
}

struct Call {
    kind: &'static Kind,
    subject: String,
    injected: bool,
}

struct Tracer {
    tracees: BTreeMap<Pid, Tracee>,
    /// Children that stopped before their parents' forks were heard of.
    early: BTreeSet<Pid>,
    fault: Option<Fault>,
    out: std::io::Stdout,
}

/// The program; the result is its exit status.
#[must_use]
pub fn main() -> i32 {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [pid, role, fault @ ..] = words.as_slice() else { return 2 };
    let pid = Pid::from_raw(pid.parse().expect("pid"));
    let who = if *role == "sync" { Who::Monitor } else { Who::Parent };
    let fault = (!fault.is_empty()).then(|| Fault::from_words(fault));
    let tracee = Tracee { who, running: false, call: None, counts: BTreeMap::new() };
    let out = std::io::stdout();
    let mut tracer = Tracer { tracees: BTreeMap::from([(pid, tracee)]), early: BTreeSet::new(), fault, out };
    tracer.attach(pid);
    tracer.follow();
    0
}

impl Tracer {
    fn attach(&mut self, pid: Pid) {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEEXIT
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).expect("seize");
        ptrace::interrupt(pid).expect("interrupt");
        let _ = waitpid(pid, Some(WaitPidFlag::__WALL)).expect("wait");
        ptrace::syscall(pid, None).expect("go on");
        self.say(&format!("pid {} {pid}", self.tracees[&pid].who.word()));
        self.say("ready");
        self.out.flush().expect("stdout");
    }

    fn follow(&mut self) {
        while !self.tracees.is_empty() {
            let Ok(status) = waitpid(None, Some(WaitPidFlag::__WALL)) else { return };
            match status {
                WaitStatus::PtraceSyscall(pid) => {
                    self.on_call(pid);
                    let _ = ptrace::syscall(pid, None);
                }
                WaitStatus::PtraceEvent(pid, ..) | WaitStatus::Stopped(pid, _)
                    if !self.tracees.contains_key(&pid) =>
                {
                    self.early.insert(pid);
                }
                WaitStatus::PtraceEvent(pid, _, event) => self.on_event(pid, event),
                WaitStatus::Stopped(pid, signal) => {
                    let _ = ptrace::syscall(pid, Some(signal));
                }
                WaitStatus::Exited(pid, code) => self.on_end(pid, &format!("exit {code}")),
                WaitStatus::Signaled(pid, signal, _) => self.on_end(pid, &format!("signal {signal}")),
                _ => {}
            }
        }
    }

    fn on_event(&mut self, pid: Pid, event: i32) {
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                let child = Pid::from_raw(ptrace::getevent(pid).expect("event") as i32);
                self.on_fork(pid, child);
            }
            libc::PTRACE_EVENT_EXEC => {
                if let Some(tracee) = self.tracees.get_mut(&pid) {
                    tracee.running = true;
                    tracee.call = None;
                }
            }
            libc::PTRACE_EVENT_EXIT => self.on_exit(pid),
            // A stop of the whole group, or the first one of a new child.
            _ => {}
        }
        let _ = ptrace::syscall(pid, None);
    }

    fn on_fork(&mut self, parent: Pid, child: Pid) {
        let first =
            self.tracees.len() == 1 && self.tracees.get(&parent).is_some_and(|t| t.who == Who::Parent);
        // The child stops before its first instruction.
        if !self.early.remove(&child) {
            let _ = waitpid(child, Some(WaitPidFlag::__WALL));
        }
        if first {
            let tracee = Tracee { who: Who::Monitor, running: true, call: None, counts: BTreeMap::new() };
            self.tracees.insert(child, tracee);
            self.say(&format!("pid {} {child}", Who::Monitor.word()));
            let _ = ptrace::syscall(child, None);
        } else {
            let _ = ptrace::detach(child, None);
        }
    }

    /// What it still has open, and how long it has worked.
    fn on_exit(&mut self, pid: Pid) {
        let Some(tracee) = self.tracees.get(&pid) else { return };
        let who = tracee.who.word();
        let open = Process(pid.as_raw()).fds().into_iter().filter(|(_, target)| target != "/dev/null");
        let open: Vec<String> = open.map(|(number, target)| format!("{number}={target}")).collect();
        let cpu = Process(pid.as_raw()).cpu().as_millis();
        self.say(&format!("cpu {who} {cpu}"));
        self.say(&format!("open {who} {}", open.join(" ")));
    }

    fn on_end(&mut self, pid: Pid, how: &str) {
        if let Some(tracee) = self.tracees.remove(&pid) {
            self.say(&format!("end {} {how}", tracee.who.word()));
            self.out.flush().expect("stdout");
        }
    }

    fn on_call(&mut self, pid: Pid) {
        let Some(info) = syscall_info(pid) else { return };
        let Some(tracee) = self.tracees.get_mut(&pid) else { return };
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY && tracee.running {
            // SAFETY: the union holds `entry` when `op` says so.
            let entry = unsafe { info.u.entry };
            let Some(kind) = calls::by_number(entry.nr) else { return };
            let count = tracee.counts.entry(kind.name).or_default();
            *count += 1;
            let mut injected =
                self.fault.as_ref().is_some_and(|fault| fault.hits(tracee.who, kind.name, *count));
            if calls::OF_MEMORY.contains(&kind.name) {
                let count = tracee.counts.entry(calls::MEMORY_GROUP).or_default();
                *count += 1;
                injected |= self
                    .fault
                    .as_ref()
                    .is_some_and(|fault| fault.hits(tracee.who, calls::MEMORY_GROUP, *count));
            }
            let subject = subject(pid, kind.subject, &entry.args);
            tracee.call = Some(Call { kind, subject, injected });
            if injected {
                registers::suppress(pid, kind);
            }
        } else if info.op == libc::PTRACE_SYSCALL_INFO_EXIT
            && let Some(call) = tracee.call.take()
        {
            let who = tracee.who.word();
            // SAFETY: the union holds `exit` when `op` says so.
            let result = unsafe { info.u.exit.sval };
            let mark = if call.injected { " injected" } else { "" };
            let result = match self.fault.as_ref().filter(|_| call.injected) {
                Some(fault) => registers::fail(pid, call.kind, fault.errno, result),
                None => result,
            };
            self.say(&format!("call {who} {} {} {result}{mark}", call.kind.name, call.subject));
        }
    }

    fn say(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
    }
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use nix::sys::ptrace;
    use nix::unistd::Pid;

    use super::Kind;

    /// Sees to it that the kernel does not carry the call out. `close` lets go of its descriptor whatever it returns, and
    /// `brk` says no by leaving the end where it is.
    pub(super) fn suppress(pid: Pid, kind: &Kind) {
        let mut regs = ptrace::getregs(pid).expect("registers");
        match kind.name {
            "close" => return,
            "brk" => regs.rdi = 0,
            _ => regs.orig_rax = u64::MAX,
        }
        ptrace::setregs(pid, regs).expect("registers");
    }

    /// What the call returns now.
    pub(super) fn fail(pid: Pid, kind: &Kind, errno: i32, result: i64) -> i64 {
        if kind.name == "brk" {
            return result;
        }
        let mut regs = ptrace::getregs(pid).expect("registers");
        regs.rax = i64::from(-errno) as u64;
        ptrace::setregs(pid, regs).expect("registers");
        i64::from(-errno)
    }
}

/// Written for one kind of processor only; the tests are left out elsewhere.
#[cfg(not(target_arch = "x86_64"))]
mod registers {
    use nix::unistd::Pid;

    use super::Kind;

    pub(super) fn suppress(_: Pid, _: &Kind) {
        panic!("not on this processor");
    }

    pub(super) fn fail(_: Pid, _: &Kind, _: i32, _: i64) -> i64 {
        panic!("not on this processor");
    }
}

/// What the stop is about. (nix's function of this name passes no size, so the kernel fills nothing in.)
fn syscall_info(pid: Pid) -> Option<libc::ptrace_syscall_info> {
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: all-zero is a valid value, and the kernel writes at most `size` bytes into it.
    unsafe {
        let mut info: libc::ptrace_syscall_info = std::mem::zeroed();
        let filled = libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid.as_raw(), size, &raw mut info);
        (filled > 0).then_some(info)
    }
}

/// A name for what the call is about, without spaces.
fn subject(pid: Pid, which: Subject, args: &[u64; 6]) -> String {
    let name = match which {
        Subject::Nothing => String::new(),
        Subject::Path(index) => read_text(pid, args[index]),
        Subject::Fd(index) => {
            let link = format!("/proc/{pid}/fd/{}", args[index] as i32);
            std::fs::read_link(link).map(|target| target.to_string_lossy().into_owned()).unwrap_or_default()
        }
    };
    if name.is_empty() { "-".into() } else { name.replace(char::is_whitespace, "_") }
}

/// The C string at `address`.
fn read_text(pid: Pid, address: u64) -> String {
    let mut bytes = [0; 512];
    let Ok(memory) = std::fs::File::open(format!("/proc/{pid}/mem")) else { return String::new() };
    // A short read is one that comes to the end of the mapping.
    let count = memory.read_at(&mut bytes, address).unwrap_or(0);
    let text = bytes[..count].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

impl Fault {
    fn hits(&self, who: Who, call: &str, count: usize) -> bool {
        let counted = match self.lasting {
            Lasting::Once => count == self.nth,
            Lasting::Forever => count >= self.nth,
        };
        self.who == who && self.call == call && counted
    }
}
