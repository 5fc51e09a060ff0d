//! The monitor driven as podman and CRI-O drive it, with real runc and real containers; the original and ours must
//! leave the same transcript.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::Path;

use compat_tests::bench::CID;
use compat_tests::runc::Runc;
use compat_tests::transcript::Transcript;
use compat_tests::{Bench, Monitor, MonitorCommand, bench_twin, deadline, observe};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Files that are runc's or the test's own, and the log, which has sections of its own.
const NOT_THE_MONITORS: &[&str] = &["rootfs", "runc", "err", "out", "log"];

/// Records the report and the number that both sides of a working container agree on.
fn created(monitor: &mut Monitor<'_>, key: &str, seen: &mut Transcript) {
    let report = monitor.report();
    assert_eq!(report.number(key), i64::from(monitor.container().0), "{report:?}");
    // A mask of the whole transcript would find the pid's digits elsewhere, too.
    seen.add("report", report.text().replace(&monitor.container().0.to_string(), "<container>"));
}

/// A whole life: create, start, exit.
fn life(bench: &Bench, command: MonitorCommand<'_>, runc: &Runc<'_>, key: &str, seen: &mut Transcript) {
    let mut monitor = command.run();
    created(&mut monitor, key, seen);
    // The parent may still be about to write the monitor's pid file.
    monitor.wait_parent();
    seen.add("files while running", observe::files(bench.dir(), bench.dir(), NOT_THE_MONITORS).join("\n"));
    let container = monitor.container();
    seen.add("child", (container.ppid() == monitor.pid().0).to_string());
    seen.add("oom_score_adj", container.oom_score_adj().to_string());
    runc.start();
    observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
    seen.add("log.mode", observe::mode(&bench.log()));
}

const PROGRAMS: &[&str] = &["runc", "conmon", "busybox"];
const SCRIPT: &str = "echo out; echo err >&2; printf 'a\\0b\\nend'; seq 2000; exit 3";

#[test]
fn podmans_create() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", SCRIPT]);
        let command = runc.with_runc(bench.podman()).args(observe::exit_command(bench));
        life(bench, command, &runc, "data", seen);
        assert_eq!(bench.wait_exit_file(), "3");
    });
}

#[test]
fn crios_create() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", SCRIPT]);
        life(bench, runc.with_runc(bench.crio()), &runc, "pid", seen);
        assert_eq!(bench.wait_exit_file(), "3");
    });
}

#[test]
fn killed_by_a_signal() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", "echo up; sleep 100"]);
        let mut monitor = runc.with_runc(bench.podman()).run();
        created(&mut monitor, "data", seen);
        runc.start();
        deadline::until("output", || (bench.logged_so_far("stdout") == b"up\n").then_some(()));
        runc.call(&["kill", CID, "KILL"]).exits(0);
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
        assert_eq!(bench.wait_exit_file(), "137");
    });
}

#[test]
fn a_signal_to_the_monitor_reaches_the_container() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc =
            Runc::new(bench, &["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"]);
        let mut monitor = runc.with_runc(bench.podman()).run();
        created(&mut monitor, "data", seen);
        runc.start();
        deadline::until("output", || (bench.logged_so_far("stdout") == b"up\n").then_some(()));
        monitor.pid().signal(nix::sys::signal::SIGTERM);
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
        assert_eq!(bench.wait_exit_file(), "7");
    });
}

/// A command that can't be run, through both drivers' command lines.
fn refused(bench: &Bench, args: &[&str], command: fn(&Bench) -> MonitorCommand<'_>, seen: &mut Transcript) {
    let runc = Runc::new(bench, args);
    let command = runc.with_runc(command(bench)).args(observe::exit_command(bench));
    let mut monitor = command.run();
    let report = monitor.report();
    assert!(report.message().contains("unable to start container process"), "{report:?}");
    seen.add("report", report.text());
    seen.add("report's content", report.json().to_string());
    observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
    assert!(!bench.exit_file().exists());
}

#[test]
fn missing_command() {
    bench_twin!(PROGRAMS, |bench, seen| refused(bench, &["/nosuch"], Bench::podman, seen));
}

#[test]
fn directory_as_command() {
    bench_twin!(PROGRAMS, |bench, seen| refused(bench, &["/etc"], Bench::podman, seen));
}

#[test]
fn missing_command_under_crio() {
    bench_twin!(PROGRAMS, |bench, seen| refused(bench, &["nosuch"], Bench::crio, seen));
}

#[test]
fn broken_bundle() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["true"]);
        std::fs::write(bench.bundle().join("config.json"), "{").unwrap();
        let mut monitor = runc.with_runc(bench.podman()).run();
        let report = monitor.report();
        assert_eq!(report.number("data"), -1);
        seen.add("report's content", report.json().to_string());
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
    });
}

#[test]
fn in_the_foreground_with_sync() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", "echo out; exit 5"]);
        // No pid file: who writes one with --sync is a matter of tests/.
        let command = runc.with_runc(bench.podman().without("--conmon-pidfile")).arg("--sync");
        let mut monitor = command.run();
        let report = monitor.report();
        seen.add("report", report.text().replace(&monitor.container().0.to_string(), "<container>"));
        runc.start();
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
        assert_eq!(monitor.wait_parent().code, Some(5));
    });
}

#[test]
fn timeout() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", "echo up; sleep 100"]);
        let mut monitor = runc.with_runc(bench.podman()).args(["-T", "4"]).run();
        created(&mut monitor, "data", seen);
        runc.start();
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
        assert_eq!(bench.wait_exit_file(), "-1");
    });
}

#[test]
fn passthrough() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", "echo out; echo err >&2; exit 3"]);
        let mut monitor = runc.with_runc(bench.podman().replace("-l", "passthrough")).run();
        created(&mut monitor, "data", seen);
        runc.start();
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
        seen.add("passed", std::fs::read_to_string(bench.path("out")).unwrap());
        assert_eq!(std::fs::read_to_string(bench.path("out")).unwrap(), "out\n");
    });
}

#[test]
fn a_background_writer_outlives_process_1() {
    bench_twin!(PROGRAMS, |bench, seen| {
        // Without a pid namespace of its own the container's second process lives on after the first.
        let late = "until test -e /tmp/late; do sleep 0.05; done; echo late";
        let runc = Runc::new(bench, &["sh", "-c", &format!("({late}) & echo early; exit 2")]);
        runc.edit(|spec| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
        });
        let mut monitor = runc.with_runc(bench.podman()).run();
        created(&mut monitor, "data", seen);
        runc.start();
        seen.add("exit", bench.wait_exit_file());
        bench.touch("rootfs/tmp/late");
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
    });
}

/// A running container to exec in, and its monitor.
fn running<'b>(bench: &'b Bench) -> (Runc<'b>, Monitor<'b>) {
    let script = "trap 'exit 0' TERM; touch /tmp/up; while :; do sleep 0.05; done";
    let runc = Runc::new(bench, &["sh", "-c", script]);
    let mut monitor = runc.with_runc(bench.crio().replace("-l", "none")).run();
    assert_eq!(monitor.report().number("pid"), i64::from(monitor.container().0));
    runc.start();
    deadline::until("the container's trap", || bench.path("rootfs/tmp/up").exists().then_some(()));
    (runc, monitor)
}

/// CRI-O's ExecSync in a running container, and the end of both.
fn exec_sync(bench: &Bench, args: &[&str], options: &[&str], seen: &mut Transcript) {
    let (runc, container) = running(bench);
    runc.write_process(args);
    let mut session = runc.with_runc(bench.crio_exec()).args(options).run();
    let report = session.report();
    seen.add("report", report.json().to_string());
    seen.add("code", format!("{:?}", session.wait_parent().code));
    seen.add("stdout", String::from_utf8_lossy(&bench.logged("stdout")));
    seen.add("stderr", String::from_utf8_lossy(&bench.logged("stderr")));
    reap(&bench.path("x/pidfile"));
    container.pid().signal(nix::sys::signal::SIGTERM);
    container.wait();
    bench.expect_nothing_running();
}

/// Reaps the session's process where its monitor killed it and left: a container ends only when no dead process of it
/// waits for that.
fn reap(pidfile: &Path) {
    let pid = std::fs::read_to_string(pidfile).ok().and_then(|text| text.parse().ok());
    let Some(pid) = pid.map(Pid::from_raw) else { return };
    deadline::until("the session's process to be reaped", || {
        let status = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        (!matches!(status, Ok(WaitStatus::StillAlive))).then_some(())
    });
}

#[test]
fn crios_exec() {
    bench_twin!(PROGRAMS, |bench, seen| {
        exec_sync(bench, &["sh", "-c", "seq 3000; echo err >&2; printf end; exit 7"], &[], seen);
        assert!(bench.logged("stdout").ends_with(b"\n3000\nend"));
    });
}

#[test]
fn crios_exec_of_a_missing_command() {
    bench_twin!(PROGRAMS, |bench, seen| exec_sync(bench, &["/nosuch"], &[], seen));
}

#[test]
fn crios_exec_that_takes_too_long() {
    bench_twin!(PROGRAMS, |bench, seen| {
        exec_sync(bench, &["sh", "-c", "echo up; exec sleep 100"], &["-T", "3"], seen);
    });
}

#[test]
fn crios_exec_killed_by_a_signal() {
    bench_twin!(PROGRAMS, |bench, seen| exec_sync(bench, &["sh", "-c", "kill -9 $$"], &[], seen));
}
