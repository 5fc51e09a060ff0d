//! Contract 1.3, 1.5, 2.3, 5.4-5.6 and 5.8: execs, CRI-O's synchronous ones and podman's attached ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use compat_tests::{AttachClient, Bench, Monitor, behaviour, deadline};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;

/// Runs a CRI-O exec that follows `script`; the only report and the exit status.
fn exec_sync(bench: &Bench, script: &str) -> (compat_tests::Report, Option<i32>) {
    bench.exec_script(script);
    let mut monitor = bench.crio_exec().run();
    let report = monitor.report();
    monitor.sync_pipe().expect_eof("after the only report");
    (report, monitor.wait_parent().code)
}

#[test]
fn sync_reports_the_exit_code_once() {
    behaviour!(|| {
        for (payload, code) in [("exit 0", 0), ("exit 7", 7), ("die KILL", 137)] {
            let bench = Bench::new();
            let (report, status) = exec_sync(&bench, &format!("payload\n{payload}"));
            assert_eq!(report.json(), serde_json::json!({ "exit_code": code }));
            assert_eq!(status, Some(code));
            assert_eq!(bench.names("b"), Vec::<String>::new(), "no socket, no fifo");
            assert!(bench.names("s").is_empty());
        }
    });
}

#[test]
fn sync_output_is_in_the_log_before_the_report() {
    behaviour!(|| {
        for _ in 0..5 {
            let bench = Bench::new();
            bench.exec_script("payload\nlines 500 100\neprint oops\\n\nexit 2");
            let mut monitor = bench.crio_exec().run();
            monitor.report();
            assert_eq!(bench.logged("stdout").len(), 500 * 101);
            assert_eq!(bench.logged("stderr"), b"oops\n");
            assert_eq!(monitor.wait_parent().code, Some(2));
        }
    });
}

#[test]
fn sync_failure_with_an_empty_pid_file_carries_the_words() {
    behaviour!(|| {
        let bench = Bench::new();
        let (report, status) = exec_sync(&bench, "eprint exec failed: no such file\\n\nexit 1");
        assert_eq!(
            report.json(),
            serde_json::json!({ "exit_code": -1, "message": "exec failed: no such file\n" })
        );
        assert_eq!(status, Some(1));
    });
}

#[test]
fn sync_failure_with_a_stale_pid_file_carries_the_words() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("eprint exec failed\nexit 1");
        let command = bench.crio_exec();
        std::fs::write(bench.path("x/pidfile"), "4999999").unwrap();
        let mut monitor = command.run();
        assert_eq!(monitor.report().json(), serde_json::json!({ "exit_code": -1, "message": "exec failed" }));
        assert_eq!(monitor.wait_parent().code, Some(1));
    });
}

#[test]
fn sync_failure_without_a_pid_file_carries_the_words() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("eprint exec failed\nexit 1");
        let command = bench.crio_exec();
        std::fs::remove_file(bench.path("x/pidfile")).unwrap();
        let mut monitor = command.run();
        assert_eq!(monitor.report().json(), serde_json::json!({ "exit_code": -1, "message": "exec failed" }));
        assert_eq!(monitor.wait_parent().code, Some(1));
    });
}

#[test]
fn a_runtime_that_fails_after_the_start_is_no_failure() {
    behaviour!(|| {
        let bench = Bench::new();
        let (report, status) = exec_sync(&bench, "status 1\npayload\nsleep 50\nexit 4");
        assert_eq!(report.json(), serde_json::json!({ "exit_code": 4 }));
        assert_eq!(status, Some(4));
    });
}

#[test]
fn sync_timeout() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("payload\nprint before\\n\nignore TERM\npause");
        let start = Instant::now();
        let mut monitor = bench.crio_exec().args(["-T", "2"]).run();
        let report = monitor.report();
        assert_eq!(report.json(), serde_json::json!({ "exit_code": -1, "message": "command timed out" }));
        // GLib rounds such timers, up to a quarter of a second down.
        assert!(start.elapsed() >= Duration::from_millis(1740), "too early");
        assert_eq!(monitor.wait_parent().code, Some(255));
        bench.expect_nothing_running();
        assert_eq!(bench.logged("stdout"), b"before\n");
    });
}

#[test]
fn sync_int_goes_to_the_process() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("payload\ntrap INT 33\ntouch ready\npause");
        let mut monitor = bench.crio_exec().run();
        bench.wait_file(&bench.path("ready"));
        // While the runtime runs, it would get the signal; afterwards the monitor must have read the pid first.
        deadline::until("the runtime to be gone", || (bench.processes().len() == 2).then_some(()));
        let monitor_process = monitor.parent();
        deadline::until("the signal to arrive", || {
            monitor_process.signal(Signal::SIGINT);
            monitor.sync_pipe().has_news().then_some(())
        });
        assert_eq!(monitor.report().number("exit_code"), 33);
        assert_eq!(monitor.wait_parent().code, Some(33));
    });
}

#[test]
fn sync_respects_the_global_limit() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("payload\nlines 5000 100\nexit 0");
        let mut monitor = bench.crio_exec().args(["--log-global-size-max", "1000"]).run();
        assert_eq!(monitor.report().number("exit_code"), 0);
        assert!(std::fs::metadata(bench.log()).unwrap().len() < 1200);
        assert_eq!(monitor.wait_parent().code, Some(0));
    });
}

#[test]
fn without_sync_the_parent_goes_first() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("payload\nwait go\nexit 5");
        let words: Vec<_> =
            bench.crio_exec().words().iter().filter(|word| *word != "--sync").cloned().collect();
        let command = compat_tests::MonitorCommand::bare(&bench).args(words);
        let mut monitor =
            command.sync(compat_tests::Kind::Pipe, 3).start(compat_tests::Kind::Stream, 4).run();
        assert_eq!(monitor.wait_parent().code, Some(0));
        bench.touch("go");
        assert_eq!(monitor.report().json(), serde_json::json!({ "exit_code": 5 }));
        bench.expect_nothing_running();
    });
}

#[test]
fn exit_files_are_named_by_the_container() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("payload\nexit 5");
        let command = bench.crio_exec().option("--exit-dir", bench.path("exits"));
        let mut monitor = command.option("--persist-dir", bench.path("persist")).run();
        monitor.report();
        assert_eq!(std::fs::read_to_string(bench.exit_file()).unwrap(), "5", "before the report");
        assert_eq!(std::fs::read_to_string(bench.persist_exit_file()).unwrap(), "5");
        assert_eq!(monitor.wait_parent().code, Some(5));
    });
}

/// A podman exec up to the point where the monitor is ready for clients.
fn attached<'b>(bench: &'b Bench, script: &str, args: &[&str]) -> Monitor<'b> {
    bench.exec_script(script);
    let mut monitor = bench.podman_exec().args(args).run();
    let report = monitor.attach_pipe().report("readiness on the attach pipe");
    assert_eq!(report.json(), serde_json::json!({ "data": 0 }));
    monitor
}

fn client(bench: &Bench) -> AttachClient {
    AttachClient::connect(&bench.exec_bundle().join("attach"))
}

#[test]
fn attach_is_ready_before_the_runtime_runs() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut monitor = attached(&bench, "record\npayload\nprint hello\\n\nexit 7", &[]);
        assert_eq!(monitor.wait_parent().code, Some(0));
        let names = bench.names("x");
        assert!(
            ["attach", "ctl", "winsz"].iter().all(|name| names.iter().any(|other| other == name)),
            "{names:?}"
        );
        let client = client(&bench);
        deadline::holds("the runtime waits for the second byte", Duration::from_millis(80), || {
            !bench.path("x/seen").exists() && !monitor.sync_pipe().has_news()
        });
        monitor.go();
        let pid = bench.wait_file(&bench.path("x/exec_pid"));
        assert_eq!(monitor.report().number("data").to_string(), pid);
        assert_eq!(client.read_to_end().0, b"hello\n");
        assert_eq!(monitor.report().json(), serde_json::json!({ "data": 7 }));
        assert_eq!(std::fs::read_to_string(bench.exec_exit_file()).unwrap(), "7", "before the report");
        monitor.sync_pipe().expect_eof("the end");
        bench.expect_nothing_running();
        assert!(!bench.path("x/attach").exists());
    });
}

#[test]
fn the_attach_pipe_says_nothing_more() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut monitor = attached(&bench, "payload\nexit 0", &[]);
        monitor.go();
        monitor.report();
        monitor.report();
        monitor.attach_pipe().expect_eof("after the readiness");
    });
}

#[test]
fn end_of_file_counts_as_the_second_byte() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut monitor = attached(&bench, "payload\nexit 7", &[]);
        monitor.start_pipe().close();
        assert!(monitor.report().number("data") > 1);
        assert_eq!(monitor.report().number("data"), 7);
    });
}

#[test]
fn early_input_is_delivered() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut monitor = attached(&bench, "payload\ncat input\nexit 0", &["-i"]);
        let client = client(&bench);
        client.send(b"early ");
        client.send(b"bird");
        client.half_close();
        monitor.go();
        monitor.report();
        assert_eq!(monitor.report().number("data"), 0);
        assert_eq!(bench.wait_file(&bench.path("input")), "early bird");
    });
}

#[test]
fn output_is_split_by_stream() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut monitor = attached(&bench, "payload\nprint out\neprint err\nexit 0", &[]);
        let client = client(&bench);
        monitor.go();
        assert_eq!(client.read_to_end(), (b"out".to_vec(), b"err".to_vec()));
        monitor.report();
        monitor.report();
    });
}

#[test]
fn a_failed_exec_is_reported_and_ends_the_client() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut monitor = attached(&bench, "eprint exec: \"nosuch\": executable file not found\nexit 1", &[]);
        let client = client(&bench);
        monitor.go();
        let report = monitor.report();
        let expected = "exec: \"nosuch\": executable file not found";
        assert_eq!(report.json(), serde_json::json!({ "data": -1, "message": expected }));
        assert_eq!(client.packet(), None);
        monitor.sync_pipe().expect_eof("after a failure");
        bench.expect_nothing_running();
        assert!(!bench.exec_exit_file().exists());
    });
}

#[test]
fn a_detached_exec_needs_no_client() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut monitor = attached(&bench, "payload\nlines 3000 100\nexit 4", &[]);
        monitor.go();
        assert!(monitor.report().number("data") > 1);
        assert_eq!(bench.wait_file(&bench.exec_exit_file()), "4");
        bench.expect_nothing_running();
    });
}

#[test]
fn where_there_is_no_socket_nobody_is_told_to_attach() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("payload\nexit 4");
        let mut monitor = bench.podman_exec().without("-b").run();
        monitor.go();
        assert!(monitor.report().number("data") > 1);
        assert_eq!(monitor.report().number("data"), 4);
        monitor.attach_pipe().expect_eof("without a bundle");
    });
}

/// One that does not block, as a driver might make it by mistake.
#[test]
fn a_start_pipe_that_gives_no_second_byte_is_named_in_the_report() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("payload\nexit 4");
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        nix::unistd::write(&write, b"\0").unwrap();
        let command = bench.podman_exec().no_start_pipe().inherit(read, 4).env("_OCI_STARTPIPE", "4");
        let report = command.run().report();
        assert_eq!(report.number("data"), -1);
        let text = report.message();
        assert!(text.starts_with("[conmon:e]: start-pipe read failed "), "{text}");
    });
}

#[test]
fn without_exec_attach_one_byte_is_enough() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("payload\nexit 4");
        let words: Vec<_> =
            bench.podman_exec().words().iter().filter(|word| *word != "--exec-attach").cloned().collect();
        let command = compat_tests::MonitorCommand::bare(&bench).args(words);
        let kind = compat_tests::Kind::Seqpacket;
        let mut monitor = command.sync(kind, 3).start(kind, 4).run();
        assert!(monitor.report().number("data") > 1);
        assert_eq!(monitor.report().number("data"), 4);
    });
}

#[test]
fn a_driver_that_does_not_read_the_end_is_no_problem() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exit_script("record");
        bench.exec_script("payload\nwait go\nexit 4");
        let mut monitor = bench.podman_exec().exit_command([""; 0]).run();
        monitor.attach_pipe().report("readiness on the attach pipe");
        monitor.go();
        monitor.report();
        monitor.sync_pipe().close();
        bench.touch("go");
        assert_eq!(bench.wait_file(&bench.exec_exit_file()), "4");
        bench.wait_file(&bench.path("t/seen/done"));
        bench.expect_nothing_running();
    });
}

#[test]
fn attached_timeout() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut monitor = attached(&bench, "payload\npause", &["-T", "1"]);
        monitor.go();
        assert!(monitor.report().number("data") > 1);
        assert_eq!(
            monitor.report().json(),
            serde_json::json!({ "data": -1, "message": "command timed out" })
        );
        assert_eq!(bench.wait_file(&bench.exec_exit_file()), "-1");
        bench.expect_nothing_running();
    });
}

#[test]
fn during_the_exit_delay_one_process_is_left() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exit_script("record");
        bench.exec_script("payload\nexit 4");
        let command = bench.podman_exec().exit_command([""; 0]).args(["--exit-delay", "5"]);
        let mut monitor = command.run();
        monitor.attach_pipe().report("readiness on the attach pipe");
        monitor.go();
        monitor.report();
        assert_eq!(monitor.report().number("data"), 4);
        deadline::until("one process alone", || (bench.processes().len() == 1).then_some(()));
        deadline::holds("one process alone", Duration::from_millis(500), || bench.processes().len() == 1);
        bench.wait_file(&bench.path("t/seen/done"));
        bench.expect_nothing_running();
    });
}
