//! Contract 1.7, 5.0: the conmon pid file is whole when it appears, holds the monitor's pid and nothing else, and the
//! parent does not wait for the runtime.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt;

use compat_tests::bench::CID;
use compat_tests::{Bench, Watch, behaviour, deadline};

#[test]
fn the_conmon_pid_file_appears_whole() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 0");
        let watch = Watch::new(bench.dir());
        let monitor = bench.podman().run();
        let process = monitor.pid();
        assert_ne!(process, monitor.parent(), "the parent has forked");
        let path = bench.path("conmon.pid");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), process.0.to_string(), "decimal, no newline");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        monitor.finish();
        watch.expect_atomic("conmon.pid");
    });
}

#[test]
fn an_old_pid_file_is_replaced() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 0");
        let path = bench.path("conmon.pid");
        std::fs::write(&path, "99999999 leftover").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        let monitor = bench.podman().run();
        assert_eq!(monitor.wait_parent().code, Some(0));
        monitor.finish();
    });
}

#[test]
fn the_pid_file_is_there_before_the_parent_exits_and_the_parent_does_not_wait_for_the_runtime() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("wait go\npayload\nexit 0");
        let mut monitor = bench.podman().run();
        assert_eq!(monitor.wait_parent().code, Some(0));
        assert!(bench.path("conmon.pid").exists());
        assert!(!monitor.sync_pipe().has_news());
        assert!(monitor.pid().alive());
        bench.touch("go");
        monitor.finish();
    });
}

#[test]
fn an_unwritable_pid_file_fails_the_parent_only() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 6");
        let mut monitor = bench.podman().replace("--conmon-pidfile", bench.path("missing/conmon.pid")).run();
        assert_eq!(monitor.wait_parent().code, Some(1));
        let container = monitor.container();
        assert_eq!(monitor.report().number("data"), i64::from(container.0));
        assert_eq!(bench.wait_exit_file(), "6");
        assert!(monitor.stderr().contains("Failed to write conmon pidfile"), "{}", monitor.stderr());
        bench.expect_nothing_running();
    });
}

#[test]
fn with_sync_the_pid_file_names_the_spawned_process() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 7");
        let monitor = bench.podman().arg("--sync").run();
        assert_eq!(monitor.pid(), monitor.parent());
        bench.touch("go");
        assert_eq!(monitor.wait_parent().code, Some(7));
    });
}

/// conmon writes none there, so it can't fail to.
#[test]
fn with_sync_an_unwritable_pid_file_costs_nothing_else() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 7");
        let missing = bench.path("missing/conmon.pid");
        let mut monitor = bench.podman().arg("--sync").replace("--conmon-pidfile", missing).run();
        assert_eq!(monitor.report().number("data"), i64::from(monitor.container().0));
        assert_eq!(bench.wait_exit_file(), "7");
        assert_eq!(monitor.wait_parent().code, Some(7));
    });
}

#[test]
fn with_sync_nothing_is_forked_but_the_runtime() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("record\npayload\nwait go\nexit 7");
        let mut monitor = bench.podman().arg("--sync").run();
        monitor.report();
        let ids = bench.recorded_text("ids");
        assert_eq!(ids.split(' ').nth(1), Some(monitor.parent().0.to_string().as_str()));
        bench.touch("go");
        assert_eq!(monitor.wait_parent().code, Some(7));
    });
}

#[test]
fn without_an_option_the_container_pid_file_is_in_the_working_directory() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("record\npayload\nexit 0");
        let monitor = bench.podman().without("-p").run();
        monitor.finish();
        let argv = bench.recorded_list("argv");
        let at = argv.iter().position(|word| word == "--pid-file").unwrap();
        assert_eq!(argv[at + 1], bench.path(format!("pidfile-{CID}")).to_str().unwrap());
    });
}

#[test]
fn no_pid_file_unless_asked() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 0");
        let mut monitor = bench.podman().without("--conmon-pidfile").run();
        assert_eq!(monitor.wait_parent().code, Some(0));
        monitor.report();
        assert_eq!(bench.wait_exit_file(), "0");
        deadline::until("the end", || bench.processes().is_empty().then_some(()));
        assert!(!bench.path("conmon.pid").exists());
    });
}
