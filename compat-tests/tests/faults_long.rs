//! Every system call of the monitor fails with every error it can end in, once or from then on, over whole lives of
//! containers and sessions. Takes minutes: `make faults`.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::expect_used)]

use compat_tests::faults::lives::{
    CRIO, EXEC, EXEC_SYNC, FAILED, JOURNAL, PASSTHROUGH, PODMAN, WITH_TERMINAL,
};
use compat_tests::faults::{Depth, list, single_run, survives};

/// Prints the calls that are walked through.
#[test]
fn calls() {
    for life in [&PODMAN, &WITH_TERMINAL, &CRIO, &JOURNAL, &FAILED, &PASSTHROUGH, &EXEC, &EXEC_SYNC] {
        let list = list(life);
        println!("== {}: {} calls\n{list}", life.name, list.lines().count());
        assert!(list.lines().count() > 50, "the tracer sees the monitor");
    }
}

#[test]
fn every_error_podman() {
    survives(&PODMAN, Depth::Every, 3);
}

#[test]
fn every_error_terminal() {
    survives(&WITH_TERMINAL, Depth::Every, 3);
}

#[test]
fn every_error_crio() {
    survives(&CRIO, Depth::Every, 3);
}

#[test]
fn every_error_failed_runtime() {
    survives(&FAILED, Depth::Every, 3);
}

#[test]
fn every_error_journald() {
    survives(&JOURNAL, Depth::Every, 3);
}

#[test]
fn every_error_passthrough() {
    survives(&PASSTHROUGH, Depth::Every, 3);
}

#[test]
fn every_error_exec() {
    survives(&EXEC, Depth::Every, 3);
}

#[test]
fn every_error_exec_sync() {
    survives(&EXEC_SYNC, Depth::Every, 3);
}

#[test]
fn lasting_errors_podman() {
    survives(&PODMAN, Depth::Forever, 3);
}

#[test]
fn lasting_errors_terminal() {
    survives(&WITH_TERMINAL, Depth::Forever, 3);
}

#[test]
fn lasting_errors_crio() {
    survives(&CRIO, Depth::Forever, 3);
}

#[test]
fn lasting_errors_journald() {
    survives(&JOURNAL, Depth::Forever, 3);
}

#[test]
fn lasting_errors_exec() {
    survives(&EXEC, Depth::Forever, 3);
}

#[test]
fn no_memory_podman() {
    survives(&PODMAN, Depth::Memory, 3);
}

#[test]
fn no_memory_terminal() {
    survives(&WITH_TERMINAL, Depth::Memory, 3);
}

#[test]
fn no_memory_crio() {
    survives(&CRIO, Depth::Memory, 3);
}

#[test]
fn no_memory_journald() {
    survives(&JOURNAL, Depth::Memory, 3);
}

#[test]
fn no_memory_exec() {
    survives(&EXEC, Depth::Memory, 3);
}

/// One fault, for a closer look: `FAULT='exec-sync monitor read 8 5 once'`.
#[test]
fn single() {
    let Ok(text) = std::env::var("FAULT") else { return };
    let (name, words) = text.split_once(' ').expect("a life and a fault");
    let lives = [&PODMAN, &WITH_TERMINAL, &CRIO, &JOURNAL, &FAILED, &EXEC, &EXEC_SYNC];
    let life = lives.into_iter().find(|life| life.name == name).expect("a life");
    println!("{}", single_run(life, words));
}
