//! Contract 6.4: `--log-rotate`, `--log-max-files` and `--log-allowlist-dir`, which came with conmon 2.2.0.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use compat_tests::{Bench, LogLine, MonitorCommand, behaviour, deadline};

/// Bytes of one record with a content of ten bytes.
const RECORD: u64 = 43 + 2 + 10 + 1;
/// Five records of ten bytes each, written apart so that each is a decision of its own.
const FIVE: &str = "print aaaaaaaaaa\\n\ndrained\nprint bbbbbbbbbb\\n\ndrained\nprint cccccccccc\\n\ndrained\n\
                    print dddddddddd\\n\ndrained\nprint eeeeeeeeee\\n\n";

/// The log takes one record, and `files` older ones stay.
fn rotating<'b>(bench: &'b Bench, log: &Path, files: &str) -> MonitorCommand<'b> {
    bench.script(&format!("payload\nwait go\n{FIVE}wait end\nexit 3"));
    let command = bench.podman().replace("-l", format!("k8s-file:{}", log.display()));
    let command = command.arg("--log-rotate").option("--log-max-files", files);
    command.option("--log-size-max", RECORD.to_string())
}

fn run(bench: &Bench, command: MonitorCommand<'_>) {
    bench.touch("go");
    bench.touch("end");
    assert_eq!(command.run().finish().1, "3");
}

/// The first letter of each record in the file.
fn letters(path: &Path) -> String {
    let lines = LogLine::parse_all(&std::fs::read(path).unwrap_or_default());
    lines.iter().filter_map(|line| line.text().chars().next()).collect()
}

/// The logs in the folder `l`, with their letters.
fn logs(bench: &Bench) -> Vec<String> {
    let named = |name: &String| format!("{name} {}", letters(&bench.path("l").join(name)));
    bench.names("l").iter().map(named).collect()
}

fn folder(bench: &Bench) -> std::path::PathBuf {
    std::fs::create_dir(bench.path("l")).unwrap();
    bench.path("l/log")
}

#[test]
fn old_files_are_numbered_and_the_oldest_go() {
    behaviour!(|| {
        let bench = Bench::new();
        let log = folder(&bench);
        run(&bench, rotating(&bench, &log, "3"));
        assert_eq!(logs(&bench), ["log e", "log.1 d", "log.2 c", "log.3 b"]);
    });
}

#[test]
fn one_old_file_is_one() {
    behaviour!(|| {
        let bench = Bench::new();
        let log = folder(&bench);
        run(&bench, rotating(&bench, &log, "1"));
        assert_eq!(logs(&bench), ["log e", "log.1 d"]);
    });
}

#[test]
fn a_leftover_of_a_dead_monitor_does_not_stop_it() {
    behaviour!(|| {
        let bench = Bench::new();
        let log = folder(&bench);
        std::fs::write(bench.path("l/log.new"), "").unwrap();
        run(&bench, rotating(&bench, &log, "2"));
        assert_eq!(logs(&bench), ["log e", "log.1 d", "log.2 c"]);
    });
}

/// What a link leads to is emptied instead: a limit is a limit.
#[test]
fn a_link_does_not_lift_the_limit() {
    behaviour!(|| {
        let bench = Bench::new();
        let log = folder(&bench);
        std::fs::write(bench.path("real"), "").unwrap();
        std::os::unix::fs::symlink(bench.path("real"), &log).unwrap();
        run(&bench, rotating(&bench, &log, "2"));
        assert_eq!(letters(&bench.path("real")), "e");
        assert!(log.is_symlink());
    });
}

/// As kubelet does it: rename, then ask for a new file.
#[test]
fn a_reopen_after_a_rename_leaves_the_old_file_where_it_is() {
    behaviour!(|| {
        let bench = Bench::new();
        let log = folder(&bench);
        let mut monitor = rotating(&bench, &log, "2").replace("--log-size-max", "100000").run();
        monitor.report();
        std::fs::rename(&log, bench.path("l/old")).unwrap();
        bench.ctl("2 0 0\n");
        deadline::until("the new log", || log.exists().then_some(()));
        bench.touch("go");
        bench.touch("end");
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(logs(&bench), ["log abcde", "old "]);
    });
}

/// Without a limit it is only the request that rotates.
#[test]
fn a_reopen_without_a_rename_rotates() {
    behaviour!(|| {
        let bench = Bench::new();
        let log = folder(&bench);
        bench.script("payload\nprint before\\n\nwait go\nprint after\\n\nexit 3");
        let command = bench.podman().replace("-l", format!("k8s-file:{}", log.display()));
        let mut monitor = command.args(["--log-rotate", "--log-max-files", "2"]).run();
        monitor.report();
        deadline::until("the first record", || (letters(&log) == "b").then_some(()));
        bench.ctl("2 1 1\n");
        deadline::until("the old log", || bench.path("l/log.1").exists().then_some(()));
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(logs(&bench), ["log a", "log.1 b"]);
    });
}

#[test]
fn a_log_outside_the_allowed_directories_is_refused() {
    behaviour!(|| {
        let bench = Bench::new();
        let log = folder(&bench);
        std::fs::create_dir(bench.path("allowed")).unwrap();
        let command = rotating(&bench, &log, "2").option("--log-allowlist-dir", bench.path("allowed"));
        let monitor = command.run();
        assert_eq!(monitor.wait_parent().code, Some(1));
        assert!(monitor.stderr().contains("is outside --log-allowlist-dir"), "{}", monitor.stderr());
        assert!(!log.exists());
    });
}

#[test]
fn a_log_inside_an_allowed_directory_is_rotated() {
    behaviour!(|| {
        let bench = Bench::new();
        let log = folder(&bench);
        run(&bench, rotating(&bench, &log, "2").option("--log-allowlist-dir", bench.path("l")));
        assert_eq!(logs(&bench), ["log e", "log.1 d", "log.2 c"]);
    });
}

#[test]
fn of_several_allowed_directories_one_is_enough() {
    behaviour!(|| {
        let bench = Bench::new();
        let log = folder(&bench);
        std::fs::create_dir(bench.path("other")).unwrap();
        let command = rotating(&bench, &log, "2").option("--log-allowlist-dir", bench.path("other"));
        run(&bench, command.option("--log-allowlist-dir", bench.path("l")));
        assert_eq!(logs(&bench), ["log e", "log.1 d", "log.2 c"]);
    });
}
