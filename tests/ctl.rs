//! Contract 2.4, 5.16 and 6.3: the ctl fifo.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use compat_tests::fifo::unread_in_fifo;
use compat_tests::watch::EventKind;
use compat_tests::{Bench, LogLine, Monitor, Watch, behaviour, deadline};

/// A container that prints `one`, then on `go1` `two`, on `go2` `three`; `one` is in the log.
fn running<'b>(bench: &'b Bench, args: &[&str]) -> Monitor<'b> {
    bench.script("payload\nprint one\\n\nwait go1\nprint two\\n\nwait go2\nprint three\\n\nexit 3");
    let mut monitor = bench.podman().args(args).run();
    monitor.report();
    wait_for_line(bench, "one");
    monitor
}

fn texts(bytes: &[u8]) -> Vec<String> {
    LogLine::parse_all(bytes).iter().map(LogLine::text).collect()
}

fn log(bench: &Bench) -> Vec<String> {
    texts(&bench.log_bytes(&bench.log()))
}

/// Waits until the monitor has read all that was written to its fifo.
fn wait_until_read(bench: &Bench) {
    let ctl = bench.bundle().join("ctl");
    deadline::until("the monitor to read it", || (unread_in_fifo(&ctl) == 0).then_some(()));
}

fn wait_for_line(bench: &Bench, text: &str) {
    deadline::until(&format!("{text} in the log"), || {
        log(bench).iter().any(|line| line == text).then_some(())
    });
}

fn inode(bench: &Bench) -> u64 {
    std::fs::metadata(bench.log()).map_or(0, |meta| meta.ino())
}

fn finish(bench: &Bench, monitor: Monitor<'_>) {
    bench.touch("go1");
    bench.touch("go2");
    assert_eq!(monitor.finish_rest(), "3");
}

#[test]
fn reopen_after_a_rename_starts_a_new_file() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[]);
        let old = bench.path("log.old");
        std::fs::rename(bench.log(), &old).unwrap();
        let watch = Watch::new(bench.dir());
        bench.ctl("2 0 0\n");
        deadline::until("the new log", || bench.log().exists().then_some(()));
        let appeared = |event: &compat_tests::watch::Event| {
            event.name == "log" && matches!(event.kind, EventKind::Created | EventKind::MovedHere)
        };
        assert!(watch.events().iter().any(appeared), "CRI-O waits for such an event");
        assert_eq!(std::fs::metadata(bench.log()).unwrap().permissions().mode() & 0o7777, 0o640);
        bench.touch("go1");
        wait_for_line(&bench, "two");
        assert_eq!(texts(&std::fs::read(&old).unwrap()), ["one"]);
        bench.touch("go2");
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(log(&bench), ["two", "three"]);
    });
}

#[test]
fn reopen_without_a_rename_starts_afresh() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[]);
        let before = inode(&bench);
        bench.ctl("2 0 0\n");
        deadline::until("another file", || (inode(&bench) != before && inode(&bench) != 0).then_some(()));
        finish(&bench, monitor);
        assert_eq!(log(&bench), ["two", "three"]);
    });
}

/// Sends `text` part by part and tells whether the log was reopened in the whole life of the container.
fn reopens(text: &[&str]) -> bool {
    let bench = Bench::new();
    let monitor = running(&bench, &[]);
    let before = inode(&bench);
    for part in text {
        bench.ctl(part);
        wait_until_read(&bench);
    }
    finish(&bench, monitor);
    inode(&bench) != before
}

#[test]
fn what_is_a_reopen_request() {
    behaviour!(|| {
        for text in ["2 0 0\n", "2 1 1\n", "  2 0 0\n", "2 0 0 9 9\n", "2 1000 1000\n", "02 00 0\n"] {
            assert!(reopens(&[text]), "{text:?}");
        }
    });
}

#[test]
fn what_is_none() {
    behaviour!(|| {
        for text in
            ["2\n", "2 0\n", "2 -1 0\n", "2 0 1001\n", "3 0 0\n", "reopen\n", "\n", "0x2 0 0\n", "2 0 0"]
        {
            assert!(!reopens(&[text]), "{text:?}");
        }
    });
}

#[test]
fn a_line_may_come_in_pieces() {
    behaviour!(|| assert!(reopens(&["2 ", "0 ", "0", "\n"])));
}

#[test]
fn several_lines_may_come_at_once() {
    behaviour!(|| assert!(reopens(&["1 25 80\n1 30 90\n2 0 0\n"])));
}

#[test]
fn a_bad_line_is_skipped_alone() {
    behaviour!(|| assert!(reopens(&["bogus\n2 0 0\n"])));
}

#[test]
fn an_over_long_line_is_skipped_to_its_end() {
    behaviour!(|| {
        let long = "9".repeat(5000);
        assert!(reopens(&[&long, "\n2 0 0\n"]));
    });
}

#[test]
fn an_over_long_line_costs_no_time() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[]);
        let pid = monitor.pid();
        // In pieces, because conmon gets by with a line that fills its buffer of 199 bytes in one read.
        for length in [100, 99] {
            bench.ctl(&"9".repeat(length));
            wait_until_read(&bench);
        }
        bench.ctl(&"9".repeat(300));
        pid.expect_idle();
        finish(&bench, monitor);
    });
}

#[test]
fn resizes_without_a_terminal_are_ignored() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[]);
        let before = inode(&bench);
        let lines = "1 100 100\n".repeat(100);
        for _ in 0..120 {
            bench.ctl(&lines);
        }
        bench.ctl("2 0 0\n");
        deadline::until("all to be read", || (inode(&bench) != before && inode(&bench) != 0).then_some(()));
        finish(&bench, monitor);
    });
}

#[test]
fn a_few_resizes_without_a_terminal_are_ignored() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[]);
        bench.ctl("1 24 80\n1 0 0\n1 1000 1000\n");
        finish(&bench, monitor);
    });
}

#[test]
fn after_a_reopen_the_log_is_still_appended_to() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[]);
        let before = inode(&bench);
        bench.ctl("2 0 0\n");
        deadline::until("another file", || (inode(&bench) != before && inode(&bench) != 0).then_some(()));
        bench.touch("go1");
        wait_for_line(&bench, "two");
        std::fs::File::options().write(true).open(bench.log()).unwrap().set_len(0).unwrap();
        bench.touch("go2");
        monitor.finish_rest();
        assert_eq!(log(&bench), ["three"], "no hole in front");
    });
}

/// Asks for the log to be reopened while its directory is away. The container prints `two` on `go`.
fn reopen_in_vain<'b>(bench: &'b Bench, log: &Path) -> Monitor<'b> {
    std::fs::create_dir(bench.path("logs")).unwrap();
    bench.script("payload\nprint one\\n\nwait go\nprint two\\n\nexit 3");
    let mut monitor = bench.podman().replace("-l", format!("k8s-file:{}", log.display())).run();
    monitor.report();
    deadline::until("the line", || (texts(&bench.log_bytes(log)) == ["one"]).then_some(()));
    std::fs::rename(bench.path("logs"), bench.path("elsewhere")).unwrap();
    bench.ctl("2 0 0\n");
    let pid = monitor.pid();
    deadline::holds("the monitor lives", Duration::from_millis(100), || pid.alive());
    monitor
}

#[test]
fn a_reopen_that_fails_does_not_end_the_monitor() {
    behaviour!(|| {
        let bench = Bench::new();
        let path = bench.path("logs/ctr.log");
        let monitor = reopen_in_vain(&bench, &path);
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
        let kept = std::fs::read(bench.path("elsewhere/ctr.log")).unwrap();
        assert_eq!(texts(&kept), ["one", "two"], "the old file is kept on");
    });
}

#[test]
fn a_reopen_with_nothing_to_reopen() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 3");
        let mut monitor = bench.podman().replace("-l", "none").run();
        monitor.report();
        bench.ctl("2 0 0\n");
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
    });
}

#[test]
fn reopen_resets_the_size_limit() {
    behaviour!(|| {
        let bench = Bench::new();
        // Two short records fit.
        let monitor = running(&bench, &["--log-size-max", "110"]);
        std::fs::rename(bench.log(), bench.path("log.old")).unwrap();
        bench.ctl("2 0 0\n");
        deadline::until("the new log", || bench.log().exists().then_some(()));
        let before = inode(&bench);
        finish(&bench, monitor);
        assert_eq!(inode(&bench), before);
        assert_eq!(log(&bench), ["two", "three"]);
    });
}

#[test]
fn a_reopen_that_fails_is_repeated_until_it_works() {
    behaviour!(|| {
        let bench = Bench::new();
        let path = bench.path("logs/ctr.log");
        let monitor = reopen_in_vain(&bench, &path);
        std::fs::create_dir(bench.path("logs")).unwrap();
        // The container is silent meanwhile, and whoever asked waits for the file.
        deadline::until("the new file", || path.exists().then_some(()));
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(texts(&std::fs::read(&path).unwrap()), ["two"]);
    });
}

#[test]
fn a_reopen_at_the_very_end_is_answered() {
    // The original may come to the container's end first, and then nobody reads the request.
    if compat_tests::differences::original().is_some() {
        return;
    }
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nprint one\\n\nwait go\nexit 3");
        let mut monitor = bench.podman().run();
        monitor.report();
        let pid = monitor.pid();
        pid.signal(nix::sys::signal::Signal::SIGSTOP);
        deadline::until("the monitor to stop", || (pid.state() == Some('T')).then_some(()));
        bench.touch("go");
        deadline::until("the container's end", || (!monitor.container().alive()).then_some(()));
        std::fs::rename(bench.log(), bench.path("moved")).unwrap();
        bench.ctl("2 0 0\n");
        pid.signal(nix::sys::signal::Signal::SIGCONT);
        assert_eq!(monitor.finish_rest(), "3");
        assert!(bench.log().exists());
    });
}
