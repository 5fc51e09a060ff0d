//! Many containers at once, each with an end of its own and with trouble on the way there.
//!
//! One thread looks after all of them in turns. What happens to a container is drawn from a seeded sequence, so a run
//! can be repeated, but for the timing.

mod container;
mod plan;

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
    /// Largest resident set of any monitor over its life, in the same way.
    pub rss_first: i64,
    pub rss_last: i64,
    /// The most descriptors that a monitor had open.
    pub descriptors: usize,
    /// Processor time of all monitors.
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
                running.push(Container::start(&bench, next, Plan::draw(&mut dice, engine), engine));
                next += 1;
            }
        }
        tally.most_at_once = tally.most_at_once.max(running.len());
        running.retain_mut(|container| match container.turn(&mut tally) {
            Step::Goes => true,
            Step::Ended(ended) => {
                tally.end(&ended, total);
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
    fn end(&mut self, ended: &crate::Ended, total: usize) {
        self.containers += 1;
        self.cpu += ended.cpu;
        if self.containers <= total / 4 {
            self.rss_first = self.rss_first.max(ended.max_rss_kib);
        } else if self.containers > total - total / 4 {
            self.rss_last = self.rss_last.max(ended.max_rss_kib);
        }
    }

    fn look(&mut self, monitor: Option<Process>, total: usize) {
        let Some(monitor) = monitor else { return };
        self.descriptors = self.descriptors.max(monitor.fds().len());
        let text = monitor.status("RssAnon");
        let anonymous = text.strip_suffix(" kB").and_then(|number| number.parse().ok()).unwrap_or(0);
        if self.containers <= total / 4 {
            self.anonymous_first = self.anonymous_first.max(anonymous);
        } else if self.containers > total - total / 4 {
            self.anonymous_last = self.anonymous_last.max(anonymous);
        }
    }
}
