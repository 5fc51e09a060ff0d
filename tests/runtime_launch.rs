//! Contract 4.5, 5.0 and 5.9: what the runtime is started with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use compat_tests::bench::{CID, built};
use compat_tests::{Bench, MonitorCommand, Process, behaviour};
use nix::sys::signal::Signal;

/// Runs a container whose runtime records how it was started.
fn record(bench: &Bench, command: MonitorCommand<'_>) {
    bench.script("record\npayload\nexit 0");
    command.run().finish();
}

fn runtime() -> String {
    built("standin-runtime").to_str().unwrap().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn argv_of_create() {
    behaviour!(|| {
        let bench = Bench::new();
        let command = bench.podman().args(["-s", "--no-pivot", "--no-new-keyring"]);
        let command = command.args(["--runtime-arg", "--log-format=json", "--runtime-arg", "--log"]);
        let command = command.args(["--runtime-arg=/run/oci-log", "--runtime-arg", ""]);
        let command =
            command.args(["--runtime-opt", "--preserve-fds", "--runtime-opt", "2", "--runtime-opt="]);
        record(&bench, command);
        let (rt, bundle, pidfile) = (runtime(), bench.bundle(), bench.path("pidfile"));
        let expected = [
            rt.as_str(),
            "--systemd-cgroup",
            "--log-format=json",
            "--log",
            "/run/oci-log",
            "",
            "create",
            "--bundle",
            text(&bundle),
            "--pid-file",
            text(&pidfile),
            "--no-pivot",
            "--no-new-keyring",
            "--preserve-fds",
            "2",
            "",
            CID,
        ];
        assert_eq!(bench.recorded_list("argv"), expected);
    });
}

#[test]
fn argv_of_restore() {
    behaviour!(|| {
        let bench = Bench::new();
        let command = bench.podman().option("--restore", "/var/checkpoint").args(["--no-pivot"]);
        let command = command.args(["--runtime-opt", "--tcp-established", "--restore-arg", "--file-locks"]);
        record(&bench, command.args(["--runtime-opt", "--tcp-close", "--runtime-arg", "--root=/run/r"]));
        let (rt, bundle, pidfile) = (runtime(), bench.bundle(), bench.path("pidfile"));
        let expected = [
            rt.as_str(),
            "--root=/run/r",
            "restore",
            "--bundle",
            text(&bundle),
            "--pid-file",
            text(&pidfile),
            "--no-pivot",
            "--detach",
            "--image-path",
            "/var/checkpoint",
            "--work-path",
            text(&bundle),
            "--tcp-established",
            "--file-locks",
            "--tcp-close",
            CID,
        ];
        assert_eq!(bench.recorded_list("argv"), expected);
    });
}

#[test]
fn argv_of_exec() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("record\npayload\nexit 0");
        let command = bench.crio_exec().args(["-s", "--no-pivot", "--no-new-keyring"]);
        let monitor = command.args(["--runtime-opt", "--preserve-fds", "--runtime-opt", "0"]).run();
        assert_eq!(monitor.wait_parent().code, Some(0));
        let (rt, spec, pidfile) = (runtime(), bench.path("x/spec"), bench.path("x/pidfile"));
        let expected = [
            rt.as_str(),
            "--root=/run/r",
            "exec",
            "--pid-file",
            text(&pidfile),
            "--process",
            text(&spec),
            "--detach",
            "--preserve-fds",
            "0",
            CID,
        ];
        let argv = std::fs::read(bench.path("x/seen/argv")).unwrap();
        let argv = String::from_utf8(argv).unwrap();
        assert_eq!(argv.trim_end_matches('\0').split('\0').collect::<Vec<_>>(), expected);
    });
}

#[test]
fn the_environment_passes_untouched() {
    behaviour!(|| {
        let bench = Bench::new();
        let command = bench.podman().env("PATH", "/second").env("EMPTY", "").env("NOTIFY_SOCKET", "/n");
        record(&bench, command);
        let mark = bench.mark().into_string().unwrap();
        let expected = [
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "PATH=/second",
            "EMPTY=",
            "NOTIFY_SOCKET=/n",
            "_OCI_SYNCPIPE=3",
            "_OCI_STARTPIPE=4",
            &mark,
        ];
        assert_eq!(bench.recorded_list("env"), expected);
    });
}

/// LISTEN_PID as the runtime got it, and the runtime's own pid.
fn listen_pid(bench: &Bench) -> (String, String) {
    let env = bench.recorded_list("env");
    let value = env.iter().find_map(|item| item.strip_prefix("LISTEN_PID=")).unwrap().to_owned();
    let ids = bench.recorded_text("ids");
    (value, ids.split(' ').next().unwrap().to_owned())
}

#[test]
fn listen_pid_of_somebody_else_passes() {
    behaviour!(|| {
        let bench = Bench::new();
        record(&bench, bench.podman().env("LISTEN_PID", "1").env("LISTEN_FDS", "1"));
        assert_eq!(listen_pid(&bench).0, "1");
    });
}

#[test]
fn listen_pid_is_replaced_on_request() {
    behaviour!(|| {
        let bench = Bench::new();
        record(&bench, bench.podman().env("LISTEN_PID", "1").arg("--replace-listen-pid"));
        let (value, pid) = listen_pid(&bench);
        assert_eq!(value, pid);
    });
}

#[test]
fn listen_pid_of_the_monitor_becomes_the_runtimes() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("record\npayload\nexit 0");
        let command = bench.podman().arg("--sync");
        let words = command.words().to_vec();
        let shell = MonitorCommand::bare(&bench).program("/bin/sh").arg("-c");
        let shell = shell.arg("LISTEN_PID=$$; export LISTEN_PID; exec \"$0\" \"$@\"").arg(bench.program());
        let monitor = shell.args(words).sync(compat_tests::Kind::Seqpacket, 3).run();
        assert_eq!(monitor.wait_parent().code, Some(0));
        let (value, pid) = listen_pid(&bench);
        assert_eq!(value, pid);
    });
}

#[test]
fn a_nonsense_listen_pid_fails_the_start() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 0");
        let mut monitor = bench.podman().env("LISTEN_PID", "soon").run();
        let report = monitor.report();
        assert_eq!(report.number("data"), -1);
        assert!(report.message().contains("LISTEN_PID"), "{}", report.text());
    });
}

#[test]
fn the_runtime_dies_with_the_monitor() {
    behaviour!(|| {
        let bench = Bench::new();
        record(&bench, bench.podman());
        assert_eq!(bench.recorded_text("pdeathsig"), (Signal::SIGKILL as i32).to_string());
    });
}

#[test]
fn signals_are_as_at_start_but_sigpipe_is_ignored() {
    behaviour!(|| {
        let bench = Bench::new();
        record(&bench, bench.podman());
        assert_eq!(signals(&bench, "SigBlk:"), 0, "mask");
        // The C library keeps 32 and 33 to itself, so this test can't make sure of them.
        let ordinary = (1 << 31) - 1;
        assert_eq!(signals(&bench, "SigIgn:") & ordinary, 1 << (Signal::SIGPIPE as u64 - 1), "ignored");
    });
}

#[test]
fn what_the_driver_blocks_the_runtime_does_too() {
    behaviour!(|| {
        let bench = Bench::new();
        record(&bench, bench.podman().blocking(Signal::SIGUSR1));
        assert_eq!(signals(&bench, "SigBlk:"), 1 << (Signal::SIGUSR1 as u64 - 1));
    });
}

/// The set of signals that the runtime's `/proc/self/status` has in the line `name`.
fn signals(bench: &Bench, name: &str) -> u64 {
    let status = bench.recorded_text("status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    u64::from_str_radix(line, 16).unwrap()
}

/// `MODE TARGET` of descriptor `fd` in the runtime.
fn fd_of(bench: &Bench, fd: i32) -> Option<String> {
    let text = bench.recorded_text("fds");
    text.lines().find_map(|line| line.strip_prefix(&format!("{fd} "))).map(str::to_owned)
}

#[test]
fn stdio_is_null_in_and_open_pipes_out() {
    behaviour!(|| {
        let bench = Bench::new();
        record(&bench, bench.podman());
        assert!(fd_of(&bench, 0).unwrap().ends_with("/dev/null"));
        // A container user other than root opens /dev/stdout, hence the mode.
        assert!(fd_of(&bench, 1).unwrap().starts_with("10777 pipe:"), "{}", bench.recorded_text("fds"));
        assert!(fd_of(&bench, 2).unwrap().starts_with("10777 pipe:"), "{}", bench.recorded_text("fds"));
        assert_ne!(fd_of(&bench, 1), fd_of(&bench, 2));
    });
}

#[test]
fn with_stdin_all_three_are_pipes() {
    behaviour!(|| {
        let bench = Bench::new();
        record(&bench, bench.podman().arg("-i"));
        assert!(fd_of(&bench, 0).unwrap().starts_with("10777 pipe:"), "{}", bench.recorded_text("fds"));
    });
}

#[test]
fn only_the_drivers_extra_descriptors_are_inherited() {
    behaviour!(|| {
        let bench = Bench::new();
        let file = |name: &str| OwnedFd::from(File::create(bench.path(name)).unwrap());
        let command = bench.podman().inherit(file("seven"), 7).inherit(file("forty"), 40);
        record(&bench, command);
        let text = bench.recorded_text("fds");
        let numbers: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(numbers, ["0", "1", "2", "7", "40"], "{text}");
        assert!(fd_of(&bench, 7).unwrap().ends_with("/seven"));
    });
}

#[test]
fn preserved_descriptors_keep_their_numbers_below_the_pipes() {
    behaviour!(|| {
        let bench = Bench::new();
        let file = OwnedFd::from(File::create(bench.path("three")).unwrap());
        let command = bench.podman().inherit(file, 3);
        record(
            &bench,
            command.sync(compat_tests::Kind::Seqpacket, 4).start(compat_tests::Kind::Seqpacket, 5),
        );
        assert!(fd_of(&bench, 3).unwrap().ends_with("/three"));
        assert_eq!(fd_of(&bench, 4), None);
        assert_eq!(fd_of(&bench, 5), None);
    });
}

#[test]
fn oom_score_adj_is_the_drivers() {
    behaviour!(|| {
        let bench = Bench::new();
        record(&bench, bench.podman());
        let own = Process(std::process::id().cast_signed()).oom_score_adj();
        assert_eq!(bench.recorded_text("oom").trim(), own.to_string());
    });
}

#[test]
fn umask_and_working_directory() {
    behaviour!(|| {
        let bench = Bench::new();
        record(&bench, bench.podman().cwd(bench.path("t")).umask(0o077));
        let status = bench.recorded_text("status");
        assert!(status.contains("Umask:\t0022\n"), "{status}");
        assert_eq!(bench.recorded_text("cwd"), text(&bench.path("t")));
    });
}

#[test]
fn the_runtime_is_in_the_monitors_session_and_group() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("record\npayload\nwait go\nexit 0");
        let mut monitor = bench.podman().run();
        monitor.report();
        let pid = monitor.pid();
        let ids = bench.recorded_text("ids");
        let ids: Vec<i32> = ids.split(' ').map(|id| id.parse().unwrap()).collect();
        assert_eq!(ids[1..], [pid.0, pid.0, pid.0], "parent, group, session");
        assert_eq!((pid.group(), pid.session()), (pid.0, pid.0));
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn the_runtime_is_not_searched_in_path() {
    behaviour!(|| {
        let bench = Bench::new();
        let folder = built("standin-runtime").parent().unwrap().to_owned();
        let command = bench.podman().replace("-r", "standin-runtime").env("PATH", folder);
        let monitor = command.run();
        assert_eq!(monitor.wait_parent().code, Some(1));
        let expected = "Runtime path standin-runtime is not valid No such file or directory";
        assert!(monitor.stderr().contains(expected), "{}", monitor.stderr());
    });
}

#[test]
fn a_relative_runtime_keeps_its_name() {
    behaviour!(|| {
        let bench = Bench::new();
        std::os::unix::fs::symlink(built("standin-runtime"), bench.path("rt")).unwrap();
        record(&bench, bench.podman().replace("-r", "./rt"));
        assert_eq!(bench.recorded_list("argv")[0], "./rt");
    });
}

#[test]
fn closed_standard_descriptors_are_not_taken_for_others() {
    behaviour!(|| {
        let plain = Bench::new();
        let wrapper = plain.path("conmon");
        // A shell writes it: a descriptor of ours, open for writing in a child forked meanwhile, would make it busy.
        let script = format!("#!/bin/sh\nexec {} \"$@\" 0<&- 1>&- 2>&-\n", plain.program().display());
        let write = ["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"", text(&wrapper), &script];
        assert!(Command::new("sh").args(write).status().unwrap().success());
        let bench = Bench::with_program(&wrapper);
        bench.script("payload\nprint out\\n\neprint err\\n\nexit 3");
        bench.podman().run().finish();
        assert_eq!(bench.wait_exit_file(), "3");
        assert_eq!((bench.logged("stdout"), bench.logged("stderr")), (b"out\n".to_vec(), b"err\n".to_vec()));
    });
}
