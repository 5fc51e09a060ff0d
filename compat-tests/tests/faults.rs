//! Every system call of the monitor fails once, over a whole life of a container.
//!
//! Each call with one errno here; `make faults` runs `faults_long`, which takes all of them.

#![cfg(target_arch = "x86_64")]

use compat_tests::faults::lives::{FAILED, JOURNAL, PODMAN};
use compat_tests::faults::{Depth, survives};

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
