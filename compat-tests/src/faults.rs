//! Makes the monitor's system calls fail, one run of a whole life of a container for each failure.
//!
//! The monitor under test is the real program, watched through ptrace(2) by [`tracer`]; the stand-in runtime, the
//! container and the exit command are left alone. A run without a fault tells which calls there are, [`walk`] makes
//! a run for each of them, and [`judge`] says what must hold whatever failed.

pub mod calls;
mod judge;
mod life;
pub mod lives;
pub mod tracer;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use life::Life;

use judge::judge;
use life::Run;

use crate::mounts::Mounts;

/// Which process makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The process that the driver starts and that forks the monitor.
    Parent,
    Monitor,
}

impl Who {
    fn word(self) -> &'static str {
        match self {
            Self::Parent => "parent",
            Self::Monitor => "monitor",
        }
    }

    fn from_word(word: &str) -> Self {
        if word == "parent" { Self::Parent } else { Self::Monitor }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// One call fails, the next one works again.
    Once,
    /// From that call on every one of its kind fails.
    Forever,
}

/// The `nth` call of the kind `call` fails with `errno`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub who: Who,
    pub call: String,
    pub nth: usize,
    pub errno: i32,
    pub lasting: Lasting,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, call, nth, .. } = self;
        let plus = if self.lasting == Lasting::Forever { "+" } else { "" };
        write!(f, "{} {call} #{nth}{plus} {:?}", who.word(), nix::errno::Errno::from_raw(self.errno))
    }
}

impl Fault {
    fn words(&self) -> [String; 5] {
        let lasting = if self.lasting == Lasting::Forever { "forever" } else { "once" };
        [
            self.who.word().to_owned(),
            self.call.clone(),
            self.nth.to_string(),
            self.errno.to_string(),
            lasting.to_owned(),
        ]
    }

    fn from_words(words: &[&str]) -> Self {
        let [who, call, nth, errno, lasting] = words else { panic!("not a fault: {words:?}") };
        Self {
            who: Who::from_word(who),
            call: (*call).to_owned(),
            nth: nth.parse().expect("a number"),
            errno: errno.parse().expect("an errno"),
            lasting: if *lasting == "forever" { Lasting::Forever } else { Lasting::Once },
        }
    }
}

/// One system call of the monitor.
#[derive(Clone, Debug)]
pub struct Call {
    pub who: Who,
    pub name: String,
    /// The path, or what the descriptor leads to; `-` for neither.
    pub subject: String,
    pub result: i64,
    pub injected: bool,
}

/// What the tracer saw.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub calls: Vec<Call>,
    pub pids: BTreeMap<Who, i32>,
    pub cpu: BTreeMap<Who, Duration>,
    /// Descriptors open at the end, /dev/null not counted.
    pub open: BTreeMap<Who, Vec<String>>,
    /// `exit N` or `signal NAME`.
    pub ends: BTreeMap<Who, String>,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Call { who, name, subject, result, injected } in &self.calls {
            let mark = if *injected { " injected" } else { "" };
            writeln!(f, "{} {name} {subject} {result}{mark}", who.word())?;
        }
        Ok(())
    }
}

impl Trace {
    fn parse(text: &str) -> Self {
        let mut trace = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, who, rest @ ..] = words.as_slice() else { continue };
            let who = Who::from_word(who);
            match (*what, rest) {
                ("call", [name, subject, result, mark @ ..]) => trace.calls.push(Call {
                    who,
                    name: (*name).to_owned(),
                    subject: (*subject).to_owned(),
                    result: result.parse().expect("a result"),
                    injected: !mark.is_empty(),
                }),
                ("pid", [pid]) => drop(trace.pids.insert(who, pid.parse().expect("a pid"))),
                ("cpu", [time]) => {
                    trace.cpu.insert(who, Duration::from_millis(time.parse().expect("a time")));
                }
                ("open", list) => {
                    let list = list.iter().filter(|item| !item.is_empty());
                    trace.open.insert(who, list.map(|item| (*item).to_owned()).collect());
                }
                ("end", how) => drop(trace.ends.insert(who, how.join(" "))),
                _ => {}
            }
        }
        trace
    }

    /// How often each process made each call.
    fn counts(&self) -> BTreeMap<(Who, &str), usize> {
        let mut counts = BTreeMap::new();
        for call in &self.calls {
            *counts.entry((call.who, call.name.as_str())).or_default() += 1;
        }
        counts
    }

    fn injected(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| call.injected)
    }
}

/// Which faults a walk makes of each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// One errno for each call, the next one in turn.
    Sample,
    /// Every errno once for each call.
    Every,
    /// Every errno for each kind of call, from some call on for ever.
    Forever,
    /// From some moment on there is no memory.
    Memory,
}

/// What a walk has shown.
#[derive(Debug, Default)]
pub struct Summary {
    pub runs: usize,
    /// Runs in which the call was not made again; timing decides how often some are.
    pub not_reached: usize,
    /// Runs that failed after the parent had got a container's pid.
    pub after_report: usize,
    pub findings: Vec<String>,
}

/// The calls of a life without a fault, one a line.
#[must_use]
pub fn list(life: &Life) -> String {
    Run::of(life, None).trace.to_string()
}

/// The calls of a life with the fault that `words` name (`WHO CALL N ERRNO once|forever`), and the verdict.
#[must_use]
pub fn single_run(life: &Life, words: &str) -> String {
    let fault = Fault::from_words(&words.split(' ').collect::<Vec<_>>());
    let baseline = Run::of(life, None);
    let run = Run::of(life, Some(&fault));
    let verdict = judge(life, &run, &baseline, Some(&fault));
    format!("{}{:?}\n{fault}: {verdict:?}", run.trace, run.reports)
}

/// What a single failure came to.
#[derive(Debug)]
pub struct Outcome {
    pub fault: String,
    /// What the failed call was about.
    pub subject: String,
    pub verdict: Result<(), String>,
}

/// Lives through `life` once for each error of each call that `wanted` picks, and calls `check` after each.
pub fn fail_each(life: &Life, wanted: impl Fn(&Call) -> bool, mut check: impl FnMut(&Outcome)) {
    let baseline = Run::of(life, None);
    let mut counts = BTreeMap::<_, usize>::new();
    for call in &baseline.trace.calls {
        let nth = counts.entry((call.who, &call.name)).or_default();
        *nth += 1;
        for errno in calls::by_name(&call.name).errors.iter().filter(|_| wanted(call)) {
            let call_name = call.name.clone();
            let fault =
                Fault { who: call.who, call: call_name, nth: *nth, errno: *errno, lasting: Lasting::Once };
            let run = Run::of(life, Some(&fault));
            check(&Outcome {
                fault: fault.to_string(),
                subject: run.trace.injected().next().map_or_else(String::new, |call| call.subject.clone()),
                verdict: judge(life, &run, &baseline, Some(&fault)),
            });
        }
    }
}

/// Lives through `life` without a fault, and then once for each fault that `depth` asks for. `slice` of `slices`
/// takes every so-many-th of them, so that tests can run side by side.
pub fn walk(life: &Life, depth: Depth, (slice, slices): (usize, usize)) -> Summary {
    let baseline = Run::of(life, None);
    judge(life, &baseline, &baseline, None).unwrap_or_else(|problem| panic!("{}: {problem}", life.name));
    let mut summary = Summary::default();
    for fault in faults(&baseline.trace, depth).into_iter().skip(slice).step_by(slices) {
        let attempt = std::panic::catch_unwind(|| {
            let run = Run::of(life, Some(&fault));
            let verdict = judge(life, &run, &baseline, Some(&fault));
            (run, verdict)
        });
        summary.runs += 1;
        match attempt {
            Ok((run, verdict)) => {
                summary.not_reached += usize::from(run.trace.injected().next().is_none());
                summary.after_report += usize::from(run.started());
                if let Err(problem) = verdict {
                    let about = run.trace.injected().next().map_or("", |call| &call.subject);
                    summary.findings.push(format!("{}: {fault} ({about}): {problem}", life.name));
                }
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                summary.findings.push(format!("{}: {fault}: {}", life.name, text.unwrap_or_default()));
            }
        }
    }
    summary
}

/// Walks through `life` in `slices` threads, and says what it came to.
///
/// # Panics
/// When there are findings.
pub fn survives(life: &Life, depth: Depth, slices: usize) {
    if crate::differences::original().is_some() {
        return;
    }
    if life.journal && Mounts::private().is_none() {
        return;
    }
    let walks = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..slices).map(|slice| scope.spawn(move || walk(life, depth, (slice, slices)))).collect();
        threads.into_iter().map(|thread| thread.join().expect("walk")).collect::<Vec<_>>()
    });
    let sum = |part: fn(&Summary) -> usize| walks.iter().map(part).sum::<usize>();
    println!(
        "{}: {} runs, {} of them with a container; {} faults not reached",
        life.name,
        sum(|w| w.runs),
        sum(|w| w.after_report),
        sum(|w| w.not_reached)
    );
    let findings: Vec<&String> = walks.iter().flat_map(|walk| &walk.findings).collect();
    assert!(findings.is_empty(), "{} findings: {findings:#?}", findings.len());
}

fn faults(trace: &Trace, depth: Depth) -> Vec<Fault> {
    let mut faults = Vec::new();
    if depth == Depth::Memory {
        for who in [Who::Parent, Who::Monitor] {
            let of_memory = |call: &&Call| call.who == who && calls::OF_MEMORY.contains(&call.name.as_str());
            let count = trace.calls.iter().filter(of_memory).count();
            faults.extend((1..=count + 1).map(|nth| Fault {
                who,
                call: calls::MEMORY_GROUP.to_owned(),
                nth,
                errno: libc::ENOMEM,
                lasting: Lasting::Forever,
            }));
        }
        return faults;
    }
    for ((who, call), count) in trace.counts() {
        let errors = calls::by_name(call).errors;
        let fault = |nth, errno, lasting| Fault { who, call: call.to_owned(), nth, errno, lasting };
        match depth {
            Depth::Sample => {
                let turns = errors.iter().cycle();
                faults.extend((1..=count).zip(turns).map(|(nth, errno)| fault(nth, *errno, Lasting::Once)));
            }
            Depth::Every => {
                let each = (1..=count).flat_map(|nth| errors.iter().map(move |errno| (nth, *errno)));
                faults.extend(each.map(|(nth, errno)| fault(nth, errno, Lasting::Once)));
            }
            Depth::Memory => {}
            Depth::Forever => {
                // A call that is interrupted for ever is not something that happens.
                let errors = errors.iter().filter(|errno| **errno != libc::EINTR);
                let each = errors.flat_map(|errno| (1..=count).map(move |nth| (nth, *errno)));
                faults.extend(each.map(|(nth, errno)| fault(nth, errno, Lasting::Forever)));
            }
        }
    }
    faults
}
