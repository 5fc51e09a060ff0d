//! Many containers at once, and a day's output through one monitor. `make soak` runs the long ones, which are ignored.

#![allow(clippy::expect_used, clippy::panic)]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use compat_tests::soak::{Engine, run};
use compat_tests::{Bench, differences};

/// One at a time: descriptors are counted, and a machine has only so many processors.
static TURN: Mutex<()> = Mutex::new(());

fn soak(total: usize, width: usize, engine: Engine) {
    // The original leaves an orphan in every tenth of these.
    if differences::original().is_some() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let tally = run(total, width, engine);
    println!("{engine:?}: {tally:#?}");
    assert!(tally.most_at_once >= width.min(total) / 2, "never many at once: {tally:?}");
    // What a monitor needs does not depend on how many came before it.
    assert!(tally.rss_last <= tally.rss_first + 512, "{tally:?}");
    assert!(tally.anonymous_last <= tally.anonymous_first + 256, "{tally:?}");
}

#[test]
fn two_hundred_containers() {
    soak(200, 50, Engine::Standin);
}

#[test]
#[ignore = "minutes: make soak"]
fn two_thousand_containers() {
    soak(2000, 200, Engine::Standin);
}

#[test]
#[ignore = "minutes, and real containers: make soak"]
fn two_hundred_real_containers() {
    soak(200, 20, Engine::Runc);
}

/// Lines of 100 bytes in a log of at most 8 MiB, with an old one kept beside it.
fn flood(lines: u64) {
    if differences::original().is_some() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::new();
    bench.script(&format!("payload\nwait go\nlines {lines} 99\ntouch written\nwait end\nexit 3"));
    let rotated = ["--log-size-max", "8388608", "--log-rotate", "--log-max-files", "1"];
    let mut monitor = bench.podman().args(rotated).run();
    assert!(monitor.report().number("data") > 0);
    let process = monitor.pid();
    let (start, mut early, mut late) = (Instant::now(), 0, 0);
    bench.touch("go");
    // The first tenth of the time is for buffers to be mapped.
    let mut samples = Vec::new();
    while !bench.path("written").exists() {
        assert!(start.elapsed() < compat_tests::deadline::scaled(Duration::from_secs(600)), "too slow");
        samples.push(process.memory().0);
        std::thread::sleep(Duration::from_millis(5));
    }
    let half = samples.len() / 2;
    for (index, sample) in samples.iter().enumerate() {
        let peak = if index < half { &mut early } else { &mut late };
        *peak = (*peak).max(*sample);
    }
    let time = start.elapsed();
    bench.touch("end");
    assert_eq!(monitor.finish_rest(), "3");
    println!("{lines} lines in {time:?}: private memory at most {early} KiB, then {late} KiB");
    assert!(late <= early + 128, "{early} KiB, then {late} KiB");
    let kept = bench.logged("stdout");
    assert!(kept.ends_with(b"\n") && kept.len() > 1000, "the end of the output is in the log");
}

#[test]
fn an_hour_of_output_in_constant_memory() {
    flood(720_000);
}

#[test]
#[ignore = "minutes: make soak"]
fn a_day_of_output_in_constant_memory() {
    flood(17_280_000);
}
