//! Contract 1.5, 2.2, 5.1 and 5.3: what the driver reads on the sync pipe after a start that worked or failed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Read;
use std::time::Duration;

use compat_tests::{Bench, Kind, Report, behaviour, deadline};

/// podman reads no further.
const LARGEST: usize = 4096;

/// The report of a runtime that follows `script` and fails.
fn failure(script: &str) -> Report {
    let bench = Bench::new();
    bench.script(script);
    let mut monitor = bench.podman().run();
    let report = monitor.report();
    assert_eq!(monitor.wait_parent().code, Some(0), "the parent has nothing to do with it");
    assert_eq!(monitor.wait_pid(monitor.pid()).code, Some(1));
    monitor.sync_pipe().expect_eof("after a failure");
    assert_eq!(report.number("data"), -1, "{}", report.text());
    assert!(report.bytes.len() <= LARGEST, "{} bytes", report.bytes.len());
    assert!(bench.names("exits").is_empty(), "no exit file for what never started");
    report
}

#[test]
fn success_under_the_key_data() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 0");
        let mut monitor = bench.podman().run();
        let report = monitor.report();
        assert_eq!(report.json(), serde_json::json!({ "data": monitor.container().0 }));
        monitor.finish_rest();
    });
}

#[test]
fn success_under_the_key_pid() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 0");
        let mut monitor = bench.crio().run();
        let report = monitor.report();
        assert_eq!(report.json(), serde_json::json!({ "pid": monitor.container().0 }));
        monitor.finish_rest();
    });
}

#[test]
fn every_kind_of_pipe_gets_the_report_and_nothing_more() {
    behaviour!(|| {
        for kind in [Kind::Seqpacket, Kind::Stream, Kind::Pipe] {
            let bench = Bench::new();
            bench.script("payload\nprint hello\\n\nexit 3");
            let mut monitor = bench.podman().sync(kind, 3).run();
            assert!(monitor.report().number("data") > 1, "{kind:?}");
            monitor.sync_pipe().expect_eof("the container's end");
            monitor.finish_rest();
        }
    });
}

#[test]
fn the_pipe_may_have_any_number() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 0");
        let command = bench.podman().sync(Kind::Seqpacket, 57).start(Kind::Seqpacket, 58);
        assert!(command.run().finish().0.number("data") > 1);
    });
}

/// The first one of the environment leads to a pipe, the second one to the driver's usual place.
#[test]
fn of_two_pipes_with_one_name_the_first_gets_the_report() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 0");
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let command = bench.podman().inherit(writer, 8).env("_OCI_SYNCPIPE", "8");
        assert_eq!(command.run().finish_rest(), "0");
        let mut report = String::new();
        std::fs::File::from(reader).read_to_string(&mut report).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert!(report["data"].as_i64().unwrap() > 1, "{report}");
    });
}

#[test]
fn without_a_pipe_nothing_is_missing() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 3");
        assert_eq!(bench.podman().no_sync_pipe().run().finish_rest(), "3");
    });
}

#[test]
fn no_report_before_the_runtime_is_done() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("touch running\nwait go\npayload\nexit 0");
        let mut monitor = bench.podman().run();
        bench.wait_file(&bench.path("running"));
        deadline::holds("no report yet", Duration::from_millis(50), || !monitor.sync_pipe().has_news());
        bench.touch("go");
        monitor.finish();
    });
}

#[test]
fn a_failure_carries_the_runtimes_words() {
    behaviour!(|| {
        let report = failure(
            "print not this\\n\neprint exec: \"/no/such\": stat: no such file or directory\\n\nexit 1",
        );
        assert_eq!(report.message(), "exec: \"/no/such\": stat: no such file or directory\n");
    });
}

#[test]
fn a_failure_under_the_key_pid() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("eprint boom\nexit 3");
        let mut monitor = bench.crio().run();
        assert_eq!(monitor.report().json(), serde_json::json!({ "pid": -1, "message": "boom" }));
        assert_eq!(monitor.wait_pid(monitor.pid()).code, Some(1));
    });
}

#[test]
fn two_writes_are_one_message() {
    behaviour!(|| {
        let report = failure("eprint first\\n\nsleep 30\neprint second\\n\nexit 1");
        assert_eq!(report.message(), "first\nsecond\n");
    });
}

#[test]
fn control_characters_are_escaped() {
    behaviour!(|| {
        let report = failure("eprint a\\tb\\\\c\"d/e\\x1b[0m\\x7f\\r\\n\nexit 1");
        assert_eq!(report.message(), "a\tb\\c\"d/e\u{1b}[0m\u{7f}\r\n");
    });
}

#[test]
fn utf_8_passes() {
    behaviour!(|| assert_eq!(failure("eprint naïve café ☕\nexit 1").message(), "naïve café ☕"));
}

#[test]
fn invalid_utf_8_is_replaced() {
    behaviour!(|| {
        let message = failure("eprint bad \\xff\\xc3 end\nexit 1").message();
        assert!(message.starts_with("bad \u{fffd}") && message.ends_with(" end"), "{message:?}");
    });
}

#[test]
fn a_nul_does_not_spoil_the_report() {
    behaviour!(|| {
        let message = failure("eprint before\\0after\nexit 1").message();
        assert!(message.starts_with("before"), "{message:?}");
    });
}

#[test]
fn text_after_a_nul_is_kept() {
    behaviour!(|| {
        let message = failure("eprint before\\0after\nexit 1").message();
        assert!(message.ends_with("after"), "{message:?}");
    });
}

#[test]
fn the_end_of_a_long_text_is_kept() {
    behaviour!(|| {
        let report = failure("elines 200 50\neprint the real cause\\n\nexit 1");
        assert!(report.message().ends_with("the real cause\n"), "{}", report.text());
    });
}

#[test]
fn a_report_of_characters_to_escape_stays_within_the_limit() {
    behaviour!(|| {
        for text in ["ebytes 8000 \"", "ebytes 3000 \u{1}"] {
            let report = failure(&format!("{text}\neprint end\nexit 1"));
            assert!(report.message().ends_with("end"), "{}", report.text());
        }
    });
}

#[test]
fn a_megabyte_of_words_and_failure() {
    behaviour!(|| {
        let report = failure("elines 20000 50\neprint the real cause\\n\nexit 1");
        assert!(report.message().ends_with("the real cause\n"), "{}", report.text());
    });
}

#[test]
fn a_megabyte_without_a_line_end() {
    behaviour!(|| {
        let report = failure("ebytes 1000000\neprint the real cause\\n\nexit 1");
        assert!(report.message().ends_with("xxxthe real cause\n"), "{}", report.text());
        let bench = Bench::new();
        bench.script("ebytes 1000000\nbytes 1000000\npayload\nexit 3");
        assert_eq!(bench.podman().run().finish().1, "3");
    });
}

#[test]
fn a_megabyte_of_words_and_success() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("elines 20000 50\nlines 20000 50\npayload\nexit 3");
        let (report, exit) = bench.podman().run().finish();
        assert!(report.number("data") > 1);
        assert_eq!(exit, "3");
    });
}

#[test]
fn a_runtime_that_is_killed() {
    behaviour!(|| {
        failure("die KILL");
        let report = failure("eprint dying\nsleep 20\ndie SEGV");
        assert_eq!(report.message(), "dying");
    });
}

#[test]
fn a_runtime_that_says_nothing() {
    behaviour!(|| {
        failure("exit 1");
        failure("exit 255");
    });
}

#[test]
fn a_runtime_that_can_not_be_executed_is_named() {
    behaviour!(|| {
        let bench = Bench::new();
        let program = bench.executable("notelf", "\u{1}\u{2}nothing that runs");
        let mut monitor = bench.podman().replace("-r", &program).run();
        let report = monitor.report();
        assert_eq!(report.number("data"), -1);
        let message = report.message();
        assert!(message.contains("notelf") && message.contains("Exec format error"), "{message:?}");
    });
}

#[test]
fn a_runtime_that_can_not_be_executed_is_a_failure() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut monitor = bench.podman().replace("-r", "/etc").run();
        assert_eq!(monitor.report().number("data"), -1);
        assert_eq!(monitor.wait_pid(monitor.pid()).code, Some(1));
    });
}

#[test]
fn the_monitors_own_failure_is_reported() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut monitor = bench.podman().replace("-b", bench.path("missing")).run();
        assert_eq!(monitor.wait_parent().code, Some(0), "the failure comes after the fork");
        let report = monitor.report();
        assert_eq!(report.number("data"), -1);
        assert!(!report.message().is_empty(), "{}", report.text());
        monitor.sync_pipe().expect_eof("after a failure");
        assert_eq!(monitor.wait_pid(monitor.pid()).code, Some(1));
    });
}

#[test]
fn a_missing_pid_file_is_a_failure() {
    behaviour!(|| {
        let report = failure("pidfile none");
        assert!(report.message().contains("pidfile"), "{}", report.text());
        let report = failure("eprint only a warning\npidfile none");
        assert!(report.message().contains("only a warning"), "{}", report.text());
    });
}

#[test]
fn a_pid_file_without_a_pid_is_a_failure() {
    behaviour!(|| {
        for text in ["abc", "", "0", "-5"] {
            failure(&format!("pidfile text {text}"));
        }
    });
}

#[test]
fn a_child_that_holds_stderr_does_not_delay_the_report() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("background\nwait never\nend\neprint failed\nexit 1");
        let mut monitor = bench.podman().run();
        let report = monitor.report();
        assert_eq!(report.json(), serde_json::json!({ "data": -1, "message": "failed" }));
        assert_eq!(monitor.wait_pid(monitor.pid()).code, Some(1));
    });
}

#[test]
fn a_silent_child_that_holds_stderr_does_not_delay_the_report() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("background\nwait never\nend\nexit 1");
        assert_eq!(bench.podman().run().report().number("data"), -1);
    });
}

#[test]
fn a_driver_that_is_gone_does_not_end_the_monitor() {
    behaviour!(|| {
        for kind in [Kind::Seqpacket, Kind::Stream, Kind::Pipe] {
            let bench = Bench::new();
            bench.script("wait go\npayload\nprint still here\\n\nexit 4");
            let mut monitor = bench.podman().sync(kind, 3).run();
            monitor.sync_pipe().close();
            monitor.start_pipe().close();
            bench.touch("go");
            assert_eq!(monitor.finish_rest(), "4", "{kind:?}");
            assert_eq!(bench.logged("stdout"), b"still here\n");
        }
    });
}

#[test]
fn a_container_that_is_dead_at_once_is_still_reported() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 9");
        let mut monitor = bench.podman().run();
        assert!(monitor.report().number("data") > 1);
        assert_eq!(monitor.finish_rest(), "9");
    });
}

#[test]
fn a_failed_restore_is_reported_like_a_failed_create() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("eprint criu failed\\n\nexit 1");
        let mut monitor = bench.podman().option("--restore", "/checkpoint").run();
        assert_eq!(monitor.report().json(), serde_json::json!({ "data": -1, "message": "criu failed\n" }));
    });
}
