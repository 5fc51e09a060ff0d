//! Contract 1.7, 2.5 and 5.1: how the container's exit is published.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use compat_tests::bench::CID;
use compat_tests::{Bench, MonitorCommand, Watch, behaviour, deadline};

/// Runs `command` to its end; the monitor's exit status.
fn end(command: MonitorCommand<'_>) -> Option<i32> {
    let mut monitor = command.run();
    monitor.report();
    monitor.wait().code
}

#[test]
fn both_files_hold_the_code_and_nothing_else() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 42");
        end(bench.podman());
        for path in [bench.exit_file(), bench.persist_exit_file()] {
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "42");
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        }
        assert_eq!(bench.names("exits"), [CID], "no temporary file left");
        assert_eq!(bench.names("persist"), ["exit"], "no temporary file left");
    });
}

#[test]
fn both_appear_whole() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 42");
        let (exits, persist) = (Watch::new(&bench.path("exits")), Watch::new(&bench.path("persist")));
        end(bench.podman());
        exits.expect_atomic(CID);
        persist.expect_atomic("exit");
    });
}

#[test]
fn the_persistent_file_is_there_first() {
    behaviour!(|| {
        for _ in 0..10 {
            let bench = Bench::new();
            bench.script("payload\nexit 7");
            let mut monitor = bench.podman().run();
            monitor.report();
            bench.wait_exit_file();
            assert_eq!(std::fs::read_to_string(bench.persist_exit_file()).unwrap(), "7");
            monitor.wait();
        }
    });
}

#[test]
fn old_files_are_replaced() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 3");
        for path in [bench.exit_file(), bench.persist_exit_file()] {
            std::fs::write(&path, "137 and more").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        }
        end(bench.podman());
        for path in [bench.exit_file(), bench.persist_exit_file()] {
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "3");
        }
    });
}

#[test]
fn the_time_of_the_file_is_the_time_of_the_exit() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 3");
        let before = SystemTime::now() - Duration::from_millis(50);
        end(bench.podman());
        let time = std::fs::metadata(bench.exit_file()).unwrap().modified().unwrap();
        assert!(before <= time && time <= SystemTime::now());
    });
}

#[test]
fn either_may_be_missing() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 3");
        assert_eq!(end(bench.podman().without("--exit-dir")), Some(3));
        assert_eq!(std::fs::read_to_string(bench.persist_exit_file()).unwrap(), "3");
        assert!(bench.names("exits").is_empty());
        let bench = Bench::new();
        bench.script("payload\nexit 4");
        assert_eq!(end(bench.podman().without("--persist-dir")), Some(4));
        assert_eq!(std::fs::read_to_string(bench.exit_file()).unwrap(), "4");
        assert!(bench.names("persist").is_empty());
    });
}

#[test]
fn an_unwritable_persist_dir_does_not_suppress_the_exit_file() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 5");
        let mut monitor = bench.podman().replace("--persist-dir", bench.path("missing")).run();
        monitor.report();
        assert_eq!(bench.wait_exit_file(), "5");
        monitor.wait();
    });
}

#[test]
fn an_unwritable_exit_dir_does_not_suppress_the_persistent_file() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 5");
        let mut monitor = bench.podman().replace("--exit-dir", bench.path("missing")).run();
        monitor.report();
        assert_eq!(bench.wait_file(&bench.persist_exit_file()), "5");
        monitor.wait();
    });
}

#[test]
fn a_relative_exit_dir_counts_from_the_working_directory() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 6");
        end(bench.podman().replace("--exit-dir", "exits").replace("--persist-dir", "./persist"));
        assert_eq!(std::fs::read_to_string(bench.exit_file()).unwrap(), "6");
        assert_eq!(std::fs::read_to_string(bench.persist_exit_file()).unwrap(), "6");
    });
}

#[test]
fn an_empty_exit_dir_is_the_working_directory() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 6");
        end(bench.podman().replace("--exit-dir", "").replace("--persist-dir", ""));
        for name in [CID, "exit"] {
            assert_eq!(std::fs::read_to_string(bench.path(name)).unwrap(), "6", "{name}");
        }
    });
}

#[test]
fn a_failed_start_publishes_nothing() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("eprint no\nexit 1");
        end(bench.podman());
        assert!(bench.names("exits").is_empty() && bench.names("persist").is_empty());
    });
}

/// A slow disk must not delay whoever waits for the exit.
#[test]
fn the_exit_is_published_before_the_log_is_synced() {
    if !compat_tests::twin::installed(&["strace"]) {
        return;
    }
    behaviour!(|| {
        let bench = Bench::new();
        let trace = bench.path("trace");
        bench.script("payload\nprint text\\n\nexit 3");
        let calls = "trace=fsync,fdatasync,rename,renameat,renameat2";
        // -D: the monitor, not strace, is the driver's child.
        let words = ["-D", "-f", "-o", trace.to_str().unwrap(), "-e", calls];
        let (_, exit) = bench.podman().under(Path::new("/usr/bin/strace"), words).run().finish();
        assert_eq!(exit, "3");
        let synced = || {
            let text = std::fs::read_to_string(&trace).ok()?;
            text.contains("exited with 3").then_some(text)
        };
        let text = deadline::until("the end of the trace", synced);
        let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in {text}"));
        assert!(place("/exits/") < place("fsync("), "{text}");
    });
}
