//! Every system call of the monitor fails once, over a whole life of a container.
//!
//! The bounded tests take each call with one errno; `make faults` runs the ignored ones, which take all of them.

#![allow(clippy::expect_used, clippy::panic)]

use compat_tests::command::MonitorCommand;
use compat_tests::faults::{Depth, Life, walk};
use compat_tests::{Bench, differences};

const SCRIPT: &str = "payload\nbackground\ncat got\nend\nwait go1\nprint hello\\n\nwait go2\nprint bye\\n\neprint oops\\n\nexit 7";
const TERMINAL: &str = "console\npayload\nraw\nbackground\ncat got\nend\nwait go1\nprint hello\\n\nwait go2\nprint bye\\n\nexit 7";
const FAILING: &str = "eprint no such thing\\n\nexit 3";

const PODMAN: Life = Life {
    name: "podman",
    command: podman,
    script: SCRIPT,
    exec: false,
    sync: false,
    key: "data",
    code: Some(7),
    attach: true,
    control: "2 0 0\n",
};
const WITH_TERMINAL: Life =
    Life { name: "terminal", command: terminal, script: TERMINAL, control: "1 40 100\n", ..PODMAN };
const CRIO: Life = Life { name: "crio", command: crio, key: "pid", ..PODMAN };
const FAILED: Life = Life { name: "failed", script: FAILING, code: None, ..PODMAN };
const EXEC: Life = Life { name: "exec", command: exec, exec: true, control: "", ..PODMAN };
const EXEC_SYNC: Life = Life {
    name: "exec-sync",
    command: exec_sync,
    exec: true,
    sync: true,
    key: "exit_code",
    attach: false,
    control: "",
    ..PODMAN
};

fn podman(bench: &Bench) -> MonitorCommand<'_> {
    let command = bench.podman().arg("-i").option("--sdnotify-socket", bench.notify_host());
    cleaning_up(bench, command)
}

fn terminal(bench: &Bench) -> MonitorCommand<'_> {
    cleaning_up(bench, bench.podman().arg("-t").env("TMPDIR", bench.path("t")))
}

fn crio(bench: &Bench) -> MonitorCommand<'_> {
    cleaning_up(
        bench,
        bench.crio().args(["-i", "--log-size-max", "60", "--log-rotate", "--log-max-files", "9"]),
    )
}

fn exec(bench: &Bench) -> MonitorCommand<'_> {
    bench.podman_exec().arg("-i")
}

fn exec_sync(bench: &Bench) -> MonitorCommand<'_> {
    bench.crio_exec()
}

fn cleaning_up<'b>(bench: &'b Bench, command: MonitorCommand<'b>) -> MonitorCommand<'b> {
    command.option("--exit-command", "/usr/bin/touch").option("--exit-command-arg", bench.path("cleaned"))
}

fn survives(life: &Life, depth: Depth, slices: usize) {
    if differences::original().is_some() {
        return;
    }
    let walks = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..slices).map(|slice| scope.spawn(move || walk(life, depth, (slice, slices)))).collect();
        threads.into_iter().map(|thread| thread.join().expect("walk")).collect::<Vec<_>>()
    });
    let sum = |part: fn(&compat_tests::faults::Summary) -> usize| walks.iter().map(part).sum::<usize>();
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

#[test]
fn a_podman_container_survives_one_failure_of_each_call() {
    survives(&PODMAN, Depth::Sample, 2);
}

#[test]
fn a_failed_runtime_is_told_whatever_else_fails() {
    survives(&FAILED, Depth::Sample, 2);
}

#[test]
#[ignore = "prints the calls that are walked through"]
fn list_of_calls() {
    for life in [&PODMAN, &WITH_TERMINAL, &CRIO, &FAILED, &EXEC, &EXEC_SYNC] {
        let start = std::time::Instant::now();
        let list = compat_tests::faults::list(life);
        println!("== {}: {} calls, {:?}\n{list}", life.name, list.lines().count(), start.elapsed());
    }
}

#[test]
#[ignore = "minutes: make faults"]
fn every_error_podman() {
    survives(&PODMAN, Depth::Every, 3);
}

#[test]
#[ignore = "minutes: make faults"]
fn every_error_terminal() {
    survives(&WITH_TERMINAL, Depth::Every, 3);
}

#[test]
#[ignore = "minutes: make faults"]
fn every_error_crio() {
    survives(&CRIO, Depth::Every, 3);
}

#[test]
#[ignore = "minutes: make faults"]
fn every_error_failed_runtime() {
    survives(&FAILED, Depth::Every, 3);
}

#[test]
#[ignore = "minutes: make faults"]
fn every_error_exec() {
    survives(&EXEC, Depth::Every, 3);
}

#[test]
#[ignore = "minutes: make faults"]
fn every_error_exec_sync() {
    survives(&EXEC_SYNC, Depth::Every, 3);
}

#[test]
#[ignore = "minutes: make faults"]
fn lasting_errors_podman() {
    survives(&PODMAN, Depth::Forever, 3);
}

#[test]
#[ignore = "minutes: make faults"]
fn lasting_errors_terminal() {
    survives(&WITH_TERMINAL, Depth::Forever, 3);
}
