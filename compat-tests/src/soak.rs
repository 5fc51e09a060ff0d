//! Many containers at once, each with an end of its own and with trouble on the way there.
//!
//! One thread looks after all of them in turns. What happens to a container is drawn from a seeded sequence, so a run
//! can be repeated, but for the timing.

mod container;
mod plan;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::deadline::scaled;
use crate::process::Process;

use container::{Container, Step};
pub use plan::Engine;
use plan::{Dice, Plan};

/// What the whole run amounts to.
#[derive(Debug, Default)]
pub struct Tally {
    pub containers: usize,
    pub most_at_once: usize,
    pub clients: usize,
    pub signals: usize,
    pub reopens: usize,
    /// Memory of its own (not of the program's file) of a monitor at work, in KiB: the largest seen in the first and in
    /// the last quarter of the run.
    pub anonymous_first: u64,
    pub anonymous_last: u64,
    /// The most descriptors that a monitor had open.
    pub descriptors: usize,
    /// Processor time of all monitors and of the children that they reaped.
    pub cpu: Duration,
    pub time: Duration,
}

/// Runs `total` containers, `width` at once, and checks every one of them.
///
/// # Panics
/// At the first container whose end is not told right, or that leaves something behind.
pub fn run(total: usize, width: usize, engine: Engine) -> Tally {
    let bench = Bench::new();
    plan::prepare(&bench, engine);
    let own = own_descriptors();
    let (start, mut tally) = (Instant::now(), Tally::default());
    let mut dice = Dice::new(7);
    let mut running: Vec<Container<'_>> = Vec::new();
    let mut next = 0;
    while tally.containers < total {
        // A few a turn, so that those that run get their turns.
        for _ in 0..4 {
            if next < total && running.len() < width {
                running.push(Container::start(&bench, next, Plan::draw(&mut dice, engine, width), engine));
                next += 1;
            }
        }
        tally.most_at_once = tally.most_at_once.max(running.len());
        running.retain_mut(|container| match container.turn(&mut tally) {
            Step::Goes => true,
            Step::Ended(ended) => {
                tally.end(&ended);
                false
            }
        });
        if let Some(container) = running.get(dice.below(width)) {
            tally.look(container.monitor(), total);
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    tally.time = start.elapsed();
    bench.expect_nothing_running();
    assert_eq!(own_descriptors(), own, "the test's own descriptors");
    assert_eq!(bench.names("c"), Vec::<String>::new(), "directories of containers");
    tally
}

/// The longest that one container may take, from its start to its last trace.
fn patience() -> Duration {
    scaled(Duration::from_secs(60))
}

fn own_descriptors() -> usize {
    Process(i32::try_from(std::process::id()).expect("pid")).fds().len()
}

impl Tally {
    fn end(&mut self, ended: &crate::Ended) {
        self.containers += 1;
        self.cpu += ended.cpu;
    }

    fn look(&mut self, monitor: Option<Process>, total: usize) {
        let Some(monitor) = monitor else { return };
        self.descriptors = self.descriptors.max(monitor.fds().len());
        let anonymous = monitor.anonymous();
        if self.containers <= total / 4 {
            self.anonymous_first = self.anonymous_first.max(anonymous);
        } else if self.containers > total - total / 4 {
            self.anonymous_last = self.anonymous_last.max(anonymous);
        }
    }
}

/// One at a time: descriptors are counted, and a machine has only so many processors.
static TURN: Mutex<()> = Mutex::new(());

/// Soaks, and says what it came to.
///
/// # Panics
/// When anything is not as it should be.
pub fn soak(total: usize, width: usize, engine: Engine) {
    // The original leaves an orphan in every tenth of these.
    if crate::differences::original().is_some() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let tally = run(total, width, engine);
    println!("{engine:?}: {tally:#?}");
    assert!(tally.most_at_once >= width.min(total) / 2, "never many at once: {tally:?}");
    // What a monitor needs does not depend on how many came before it.
    assert!(tally.anonymous_last <= tally.anonymous_first + 256, "{tally:?}");
}

/// Memory of its own that a monitor in a flood may have, however long that lasts. Measured: 292.
const FLOOD_KIB: u64 = 448;

/// Lines of 100 bytes in a log of at most 8 MiB, with an old one kept beside it.
///
/// # Panics
/// When the memory of the monitor grows.
pub fn flood(lines: u64) {
    if crate::differences::original().is_some() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new();
    // A tenth of it first, in which buffers are mapped.
    let (first, rest) = (lines / 10, lines - lines / 10);
    bench.script(&format!(
        "payload\nwait go\nlines {first} 99\ntouch begun\nlines {rest} 99\ntouch written\nwait end\nexit 3"
    ));
    let rotated = ["--log-size-max", "8388608", "--log-rotate", "--log-max-files", "1"];
    let mut monitor = bench.podman().args(rotated).run();
    assert!(monitor.report().number("data") > 0);
    let process = monitor.pid();
    let (start, mut early, mut late) = (Instant::now(), 0, 0);
    bench.touch("go");
    while !bench.path("written").exists() {
        assert!(start.elapsed() < scaled(Duration::from_secs(600)), "too slow");
        let peak = if bench.path("begun").exists() { &mut late } else { &mut early };
        *peak = (*peak).max(process.anonymous());
        std::thread::sleep(Duration::from_millis(5));
    }
    let time = start.elapsed();
    bench.touch("end");
    assert_eq!(monitor.finish_rest(), "3");
    println!("{lines} lines in {time:?}: memory of its own at most {early} KiB, then {late} KiB");
    assert!(late <= FLOOD_KIB, "{early} KiB, then {late} KiB");
    let kept = bench.logged("stdout");
    assert!(kept.ends_with(b"\n") && kept.len() > 1000, "the end of the output is in the log");
}
