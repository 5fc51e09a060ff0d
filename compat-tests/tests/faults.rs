//! Every system call of the monitor fails once, over a whole life of a container.
//!
//! Each call with one errno here; `make faults` runs `faults_long`, which takes all of them.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::indexing_slicing)]

use compat_tests::differences::original;
use compat_tests::faults::lives::{FAILED, JOURNAL, PASSTHROUGH, PODMAN, TOLD};
use compat_tests::faults::{Call, Depth, fail_each, survives};
use compat_tests::mounts::Mounts;
use compat_tests::runc::{Hierarchy, hierarchy};

#[test]
fn a_podman_container_survives_one_failure_of_each_call() {
    survives(&PODMAN, Depth::Sample, 2);
}

#[test]
fn a_container_with_a_journal_survives_one_failure_of_each_call() {
    survives(&JOURNAL, Depth::Sample, 2);
}

#[test]
fn a_failed_runtime_is_told_whatever_else_fails() {
    survives(&FAILED, Depth::Sample, 2);
}

/// Letting go of the driver's stdio comes last there, when there may be a container.
#[test]
fn a_container_with_the_drivers_stdio_survives_one_failure_of_each_call() {
    survives(&PASSTHROUGH, Depth::Sample, 2);
}

/// The container runs and its exit is told (that is the verdict), and there is one warning at most. The calls are those
/// from opening `memory.oom_control` to reading its counter.
#[test]
fn v1_a_watch_for_kills_that_cant_be_set_up_costs_one_warning() {
    if original().is_some() || hierarchy() != Hierarchy::V1 {
        return;
    }
    let Some(mut mounts) = Mounts::private() else { return };
    let log = mounts.system_log();
    let names = ["memory.oom_control", "cgroup.event_control", "memory.failcnt"];
    let (mut seen, mut warned) = (String::new(), 0);
    let wanted =
        |call: &Call| call.name == "eventfd2" || names.iter().any(|name| call.subject.ends_with(name));
    fail_each(&TOLD, wanted, |outcome| {
        let mut bytes = [0; 4096];
        let warnings: Vec<String> =
            std::iter::from_fn(|| log.recv(&mut bytes).ok().map(|count| bytes[..count].to_vec()))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .filter(|text| text.contains("<nwarn>") || text.contains("<error>"))
                .collect();
        assert_eq!(outcome.verdict, Ok(()), "{outcome:?} {warnings:#?}");
        assert!(warnings.len() <= 1, "{outcome:?} {warnings:#?}");
        warned += warnings.len();
        seen.push_str(&format!("{} {}: {warnings:?}\n", outcome.fault, outcome.subject));
    });
    println!("{seen}");
    // One C library calls open, the other openat.
    for call in ["eventfd2", "open", "write"] {
        assert!(seen.contains(&format!("monitor {call}")), "{call} was not made to fail: {seen}");
    }
    assert!(warned > 0, "what can't be watched is told: {seen}");
}
