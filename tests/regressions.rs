//! Faults that were found by trying to break the monitor, each with what must happen instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use compat_tests::{Bench, Kind, MonitorCommand, behaviour, deadline};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

/// Nobody has this pid, which is above the largest there can be.
const DEAD: &str = "4999999";

fn open_reader(fifo: &Path) -> OwnedFd {
    nix::fcntl::open(fifo, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).unwrap()
}

/// Appendix B: a failed exec is a failure whatever an earlier one left in its pid file. (`exec.rs` has CRI-O's case.)
#[test]
fn a_stale_pid_does_not_make_a_failed_api_exec_a_success() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("eprint boom\\n\npidfile none\nexit 1");
        std::fs::write(bench.path("x/exec_pid"), DEAD).unwrap();
        let mut monitor = bench.podman_exec().run();
        assert_eq!(monitor.attach_pipe().report("attach").number("data"), 0);
        monitor.go();
        let report = monitor.report();
        assert_eq!((report.number("data"), report.message().as_str()), (-1, "boom\n"));
    });
}

/// The runtime's status alone can't tell: it can be the command's.
#[test]
fn an_exec_that_ran_is_no_failure_whatever_the_runtimes_status() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("payload\nprint hello\\n\nexit 9");
        let mut command = bench.crio_exec();
        std::fs::write(bench.path("x/pidfile"), DEAD).unwrap();
        command = command.option("--exit-dir", bench.path("exits"));
        let mut monitor = command.run();
        assert_eq!(monitor.report().number("exit_code"), 9);
        assert_eq!(bench.wait_exit_file(), "9");
    });
}

#[test]
fn a_runtime_that_leaves_an_old_pid_in_place_has_not_created_a_container() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("pidfile none\nexit 0");
        std::fs::write(bench.path("pidfile"), DEAD).unwrap();
        let mut monitor = bench.podman().run();
        let report = monitor.report();
        assert_eq!(report.number("data"), -1);
        assert!(report.message().contains("pidfile"), "{}", report.message());
    });
}

#[test]
fn a_link_in_place_of_the_pid_file_leads_to_no_damage() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 3");
        let victim = bench.path("victim");
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, bench.path("pidfile")).unwrap();
        let (_, exit) = bench.podman().run().finish();
        assert_eq!(exit, "3");
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    });
}

/// The list of open descriptors is in /proc, which need not be there.
#[test]
fn without_proc_the_drivers_pipes_are_found() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("payload\nexit 9");
        let script = "mount -t tmpfs none /proc && exec \"$@\"";
        let command = MonitorCommand::bare(&bench).program("/usr/bin/unshare").args(["-m", "/bin/sh", "-c"]);
        let command = command.args([script, "sh"]).arg(bench.program()).args(bench.crio_exec().words());
        let mut monitor = command.sync(Kind::Pipe, 3).start(Kind::Stream, 4).run();
        assert_eq!(monitor.report().number("exit_code"), 9);
        assert_eq!(monitor.wait_parent().code, Some(9));
    });
}

/// The kernel reaps the children of whoever ignores SIGCHLD, and that is inherited.
#[test]
fn a_driver_that_ignores_sigchld_costs_no_exit_status() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 7");
        let (report, exit) = bench.podman().ignoring(Signal::SIGCHLD).run().finish();
        assert!(report.number("data") > 0);
        assert_eq!(exit, "7");
    });
}

/// Whoever reads the log may stop altogether.
#[test]
fn a_log_that_stays_full_does_not_keep_the_exit_back() {
    behaviour!(|| {
        let bench = Bench::new();
        // More than the FIFO takes with the stamps, less than the container's pipe holds without.
        bench.script("payload\nlines 900 60\nexit 4");
        nix::unistd::mkfifo(&bench.log(), Mode::S_IRWXU).unwrap();
        let _reader = open_reader(&bench.log());
        let (_, exit) = bench.podman().run().finish();
        assert_eq!(exit, "4");
    });
}

/// A FIFO as log is read now fast, now slow, while both streams write: everything arrives, and nobody spins.
#[test]
fn a_log_that_is_full_now_and_then_stops_no_stream() {
    const LINES: usize = 10_000;
    behaviour!(|| {
        let bench = Bench::new();
        bench.script(
            "payload\nbackground\nelines 20000 60\ntouch done\nend\nlines 20000 60\nwait done\nexit 0",
        );
        nix::unistd::mkfifo(&bench.log(), Mode::S_IRWXU).unwrap();
        let fifo = open_reader(&bench.log());
        let mut monitor = bench.podman().run();
        assert!(monitor.report().number("data") > 0);
        let (mut lines, mut buffer, mut step) = (0, vec![0; 1 << 16], 0_usize);
        deadline::until("both streams to be logged", || {
            step += 1;
            let size = if step.is_multiple_of(3) { 1 << 16 } else { 4000 };
            let count = nix::unistd::read(&fifo, &mut buffer[..size]).unwrap_or(0);
            lines += buffer[..count].iter().filter(|&&byte| byte == b'\n').count();
            (lines >= 2 * LINES).then_some(())
        });
        drop(fifo);
        let ended = monitor.wait();
        assert!(ended.cpu < deadline::scaled(Duration::from_secs(5)), "{:?}", ended.cpu);
    });
}

/// `dd oflag=direct of=/dev/stdout` does this to the pipe: each read brings one piece, whatever else is there.
#[test]
fn all_that_is_in_a_pipe_in_packet_mode_is_logged_at_once() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script(
            "payload\npackets\nwait go\nprint a\\n\nprint b\\n\nprint c\\n\ntouch said\nwait end\nexit 0",
        );
        let mut monitor = bench.podman().run();
        assert!(monitor.report().number("data") > 0);
        let pid = monitor.pid();
        // So that it is told once of all three.
        pid.signal(Signal::SIGSTOP);
        deadline::until("the monitor to stop", || (pid.state() == Some('T')).then_some(()));
        bench.touch("go");
        bench.wait_file(&bench.path("said"));
        pid.signal(Signal::SIGCONT);
        deadline::until("three records", || (bench.log_lines().len() == 3).then_some(()));
        bench.touch("end");
        assert_eq!(monitor.finish_rest(), "0");
    });
}

/// A talkative runtime, and a log that is full for a while: the log gets the start, the report the end.
#[test]
fn a_log_that_was_full_does_not_get_the_runtimes_last_words() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("elines 1200 99\neprint the real error\\n\ntouch said\nwait go\nexit 1");
        nix::unistd::mkfifo(&bench.log(), Mode::S_IRWXU).unwrap();
        let fifo = open_reader(&bench.log());
        let mut monitor = bench.podman().run();
        bench.wait_file(&bench.path("said"));
        let (mut lines, mut buffer) = (0, vec![0; 1 << 16]);
        // At most a read's tail and a message are held back.
        deadline::until("the log to have most of it", || {
            let count = nix::unistd::read(&fifo, &mut buffer).unwrap_or(0);
            lines += buffer[..count].iter().filter(|&&byte| byte == b'\n').count();
            (lines > 1100).then_some(())
        });
        bench.touch("go");
        let message = monitor.report().message();
        assert!(message.ends_with(".\nthe real error\n"), "{message}");
    });
}

/// The same with a log that stays full: the end is still in the pipe when the runtime has failed.
#[test]
fn a_log_that_stays_full_does_not_keep_the_runtimes_last_words_from_the_report() {
    behaviour!(|| {
        let bench = Bench::new();
        let talk = "elines 300 99\ndrained\n".repeat(3);
        bench.script(&format!("{talk}elines 300 99\neprint the real error\\n\nexit 1"));
        nix::unistd::mkfifo(&bench.log(), Mode::S_IRWXU).unwrap();
        let _reader = open_reader(&bench.log());
        let report = bench.podman().run().report();
        assert_eq!(report.number("data"), -1);
        assert!(report.message().ends_with("\nthe real error\n"), "{}", report.message());
    });
}
