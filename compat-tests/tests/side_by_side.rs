//! The monitor beside the original with the stand-in runtime: what the runtime is started with, what the driver is
//! told, and what is left, for the command lines of podman and CRI-O.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::os::fd::OwnedFd;

use compat_tests::bench::CID;
use compat_tests::transcript::Transcript;
use compat_tests::{Bench, Kind, Monitor, MonitorCommand, bench_twin, observe};

/// The test's own files, and the log, which has sections of its own.
const NOT_THE_MONITORS: &[&str] = &["b/seen", "x/seen", "err", "out", "log", "second"];
const CONMON: &[&str] = &["conmon"];

/// Records what the stand-in saw: argv, environment, descriptors, relations, signals, umask.
fn runtime(bench: &Bench, seen: &mut Transcript) {
    seen.add("runtime.argv", bench.recorded_list("argv").join("\n"));
    let mut env = bench.recorded_list("env");
    env.sort();
    seen.add("runtime.env", env.join("\n"));
    seen.add("runtime.fds", without_numbers(&bench.recorded_text("fds")));
    seen.add("runtime.cwd", bench.recorded_text("cwd"));
    seen.add("runtime.oom_score_adj", bench.recorded_text("oom"));
    seen.add("runtime.pdeathsig", bench.recorded_text("pdeathsig"));
    let status = bench.recorded_text("status");
    for field in ["Umask", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "CapEff"] {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        seen.add(&format!("runtime.{field}"), line);
    }
    let ids: Vec<i32> = bench.recorded_text("ids").split(' ').map(|id| id.parse().unwrap()).collect();
    let [pid, parent, group, session] = ids[..] else { panic!("{ids:?}") };
    let relation = format!(
        "own group {}, own session {}, of the parent {}",
        group == pid,
        session == pid,
        group == parent
    );
    seen.add("runtime.relations", relation);
}

/// Descriptors and what they lead to, without inode numbers and modes.
fn without_numbers(fds: &str) -> String {
    let lines = fds.lines().map(|line| {
        let line = line.split_once('[').map_or(line, |(kind, _)| kind);
        let fields: Vec<&str> = line.split(' ').collect();
        format!("{} {}", fields[0], fields[2])
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Runs `command` through and records everything.
fn whole(bench: &Bench, command: MonitorCommand<'_>, seen: &mut Transcript) {
    let mut monitor = command.run();
    report(&mut monitor, seen);
    observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
    if bench.bundle().join("seen/done").exists() {
        runtime(bench, seen);
    }
}

fn report(monitor: &mut Monitor<'_>, seen: &mut Transcript) {
    let Some(report) = monitor.sync_pipe().next_report("a report") else {
        seen.add("report", "(none)");
        return;
    };
    let number = report.json().as_object().unwrap().values().find_map(serde_json::Value::as_i64).unwrap();
    let text = report.text();
    seen.add("report", if number > 0 { text.replace(&number.to_string(), "<pid>") } else { text });
}

#[test]
fn podmans_create() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("record\npayload\nprint out\\nend\neprint err\\n\nexit 3");
        whole(bench, bench.podman().umask(0o022).args(observe::exit_command(bench)), seen);
        let fds = bench.recorded_text("fds");
        seen.add(
            "pipe modes",
            fds.lines().map(|line| line.split(' ').nth(1).unwrap()).collect::<Vec<_>>().join(" "),
        );
    });
}

#[test]
fn crios_create() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("record\npayload\nprint out\\nend\neprint err\\n\nexit 3");
        whole(bench, bench.crio().umask(0o022), seen);
    });
}

#[test]
fn stdin_stays_open() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("record\npayload\nexit 0");
        whole(bench, bench.podman().umask(0o022).args(["-i", "--leave-stdin-open"]), seen);
    });
}

#[test]
fn every_option_for_the_runtime() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("record\npayload\nexit 0");
        let command = bench.podman().umask(0o022).args(["-s", "--no-pivot", "--no-new-keyring"]);
        let command =
            command.args(["--runtime-arg", "--log", "--runtime-arg=", "--runtime-opt", "--preserve-fds"]);
        whole(bench, command.args(["--runtime-opt", "1", "--restore-arg", "--tcp", "--", "--nope"]), seen);
    });
}

#[test]
fn restore() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("record\npayload\nexit 4");
        whole(
            bench,
            bench.podman().umask(0o022).args(["--restore", "/image", "--runtime-opt", "--file-locks"]),
            seen,
        );
    });
}

#[test]
fn descriptors_of_the_driver_reach_the_runtime() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("record\npayload\nexit 0");
        let file: OwnedFd = std::fs::File::open("/dev/zero").unwrap().into();
        whole(bench, bench.podman().umask(0o022).inherit(file, 7), seen);
    });
}

#[test]
fn a_listen_pid_of_somebody_else() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("record\npayload\nexit 0");
        whole(bench, bench.podman().umask(0o022).env("LISTEN_PID", "1").env("LISTEN_FDS", "1"), seen);
    });
}

#[test]
fn runtime_that_fails_with_a_text() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("record\nprint to stdout\neprint it \"failed\"\\n\\tbadly\\n\nexit 1");
        whole(bench, bench.podman().umask(0o022).args(observe::exit_command(bench)), seen);
    });
}

#[test]
fn runtime_that_makes_no_pid_file() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("eprint odd\npidfile none\nexit 0");
        whole(bench, bench.podman().umask(0o022), seen);
    });
}

#[test]
fn container_killed_by_a_signal() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("payload\nprint last words\ndie SEGV");
        whole(bench, bench.podman().umask(0o022), seen);
    });
}

#[test]
fn container_that_dies_before_the_runtime_returns() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("sleep 100\npayload\nexit 9");
        whole(bench, bench.podman().umask(0o022), seen);
    });
}

#[test]
fn no_log_at_all() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("payload\nprint unseen\nexit 1");
        whole(bench, bench.podman().replace("-l", "none").umask(0o022), seen);
    });
}

#[test]
fn two_log_files() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("payload\nprint seen\\n\nexit 1");
        let command = bench.podman().umask(0o022);
        let second = format!("k8s-file:{}", bench.path("second").display());
        whole(bench, command.args(["-l", &second]), seen);
        seen.add("second", std::fs::read_to_string(bench.path("second")).unwrap());
    });
}

#[test]
fn size_limits() {
    bench_twin!(CONMON, |bench, seen| {
        // One write, and so one read, so that both see the same pieces.
        bench.script("payload\nlines 60 40\nexit 0");
        whole(bench, bench.podman().umask(0o022).args(["--log-size-max", "1000"]), seen);
        seen.add("size", std::fs::metadata(bench.log()).unwrap().len().to_string());
    });
}

#[test]
fn global_size_limit() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("payload\nlines 60 40\nexit 0");
        whole(bench, bench.podman().umask(0o022).args(["--log-global-size-max", "1000"]), seen);
    });
}

#[test]
fn legacy_exec() {
    bench_twin!(CONMON, |bench, seen| {
        bench.exec_script("record\npayload\nprint out\\n\neprint err\\n\nexit 7");
        let mut monitor = bench.crio_exec().umask(0o022).run();
        report(&mut monitor, seen);
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
        seen.add("argv", std::fs::read_to_string(bench.path("x/seen/argv")).unwrap().replace('\0', "\n"));
    });
}

#[test]
fn exec_with_attach() {
    bench_twin!(CONMON, |bench, seen| {
        bench.exec_script("record\npayload\nprint out\\n\nexit 7");
        let mut monitor = bench.podman_exec().umask(0o022).run();
        seen.add("ready", monitor.attach_pipe().report("the attach socket").text());
        let client = compat_tests::AttachClient::connect(&bench.path("x/attach"));
        monitor.start_pipe().write(b"\0").unwrap();
        report(&mut monitor, seen);
        let (stdout, stderr) = client.read_to_end();
        seen.add(
            "attached",
            format!("{:?} {:?}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)),
        );
        let exit = bench.wait_file(&bench.path("x/exit").join(CID));
        seen.add("exit", exit);
        seen.add("last report", monitor.report().text());
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
        seen.add("argv", std::fs::read_to_string(bench.path("x/seen/argv")).unwrap().replace('\0', "\n"));
    });
}

#[test]
fn sync_pipes_of_all_kinds() {
    bench_twin!(CONMON, |bench, seen| {
        bench.script("payload\nexit 2");
        for kind in [Kind::Seqpacket, Kind::Stream, Kind::Pipe] {
            let mut monitor = bench.podman().umask(0o022).sync(kind, 5).run();
            let pid = monitor.report().number("data");
            assert_eq!(pid, i64::from(monitor.container().0));
            let ended = monitor.wait();
            monitor.sync_pipe().expect_eof("after the monitor's end");
            seen.add(&format!("{kind:?}"), format!("{:?}", ended.code));
            std::fs::remove_file(bench.path("conmon.pid")).unwrap();
            std::fs::remove_file(bench.path("pidfile")).unwrap();
        }
    });
}
