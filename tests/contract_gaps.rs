//! Statements of the contract that no other file of tests/ holds, by section.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use compat_tests::{AttachClient, Bench, Kind, LogLine, MonitorCommand, behaviour, deadline};
use nix::sys::signal::Signal;

/// podman's command line, run by a shell that does `before` first, in a mount namespace of its own.
fn after<'b>(bench: &'b Bench, before: &str, command: &MonitorCommand<'b>) -> MonitorCommand<'b> {
    let wrapped = MonitorCommand::bare(bench).program("/usr/bin/unshare");
    let wrapped = wrapped.args(["-m", "/bin/sh", "-c", &format!("{before} && exec \"$@\""), "sh"]);
    let wrapped = wrapped.arg(bench.program()).args(command.words());
    wrapped.sync(Kind::Seqpacket, 3).start(Kind::Seqpacket, 4)
}

// 1.11: rootless podman joins the namespaces of a monitor.

#[test]
fn the_monitor_stays_in_the_drivers_namespaces() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 3");
        let mut monitor = bench.podman().run();
        monitor.report();
        let pid = monitor.pid().0;
        for name in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
            let inode =
                |process: &str| std::fs::metadata(format!("/proc/{process}/ns/{name}")).unwrap().ino();
            assert_eq!(inode(&pid.to_string()), inode("self"), "{name}");
        }
        bench.touch("go");
        monitor.finish_rest();
    });
}

// 5.12 and appendix B: the timeout.

/// A runtime whose container stays in the monitor's own process group.
#[test]
fn the_timeout_spares_the_monitors_own_group() {
    behaviour!(|| {
        let bench = Bench::new();
        let pidfile = bench.path("pidfile");
        let text = format!("#!/bin/sh\nsleep 600 &\necho $! > {}\n", pidfile.display());
        let runtime = bench.executable("runtime", &text);
        let mut monitor = bench.podman().replace("-r", &runtime).args(["-T", "1"]).run();
        monitor.report();
        assert_eq!(monitor.finish_rest(), "-1");
    });
}

#[test]
fn what_was_written_before_the_deadline_is_logged() {
    // The original reads nothing after the deadline; whether it has read before is chance.
    if compat_tests::differences::original().is_some() {
        return;
    }
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nlines 300 100\ntouch written\npause");
        let mut monitor = bench.podman().args(["-T", "3"]).run();
        monitor.report();
        // The monitor comes to neither the output nor the deadline before both are there.
        monitor.pid().signal(Signal::SIGSTOP);
        bench.touch("go");
        bench.wait_file(&bench.path("written"));
        std::thread::sleep(Duration::from_millis(3200));
        monitor.pid().signal(Signal::SIGCONT);
        assert_eq!(monitor.finish_rest(), "-1");
        assert_eq!(bench.logged("stdout").len(), 300 * 101);
    });
}

// 5.15 and appendix B: clients that do not read, and too many of them.

#[test]
fn a_stuck_client_does_not_stop_ctl() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nlines 50000 100\npause");
        let mut monitor = bench.podman().run();
        monitor.report();
        let _stuck = monitor.attach();
        bench.touch("go");
        monitor.wait_for_halt();
        let inode = || std::fs::metadata(bench.log()).map_or(0, |meta| meta.ino());
        let before = inode();
        bench.ctl("2 0 0\n");
        deadline::until("a new log", || (inode() != before).then_some(()));
        monitor.container().signal(Signal::SIGKILL);
    });
}

#[test]
fn a_stuck_client_does_not_stop_the_timeout() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nlines 50000 100\npause");
        let mut monitor = bench.podman().args(["-T", "4"]).run();
        monitor.report();
        let _stuck = monitor.attach();
        bench.touch("go");
        assert_eq!(bench.wait_exit_file(), "-1");
    });
}

#[test]
fn more_clients_than_descriptors_cost_no_time() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 3");
        let mut monitor = bench.podman().run();
        monitor.report();
        let pid = monitor.pid();
        pid.expect_idle();
        // Room for four clients; three more wait in the queue, which holds ten.
        let limit = pid.fds().into_keys().max().unwrap() + 5;
        let limited = Command::new("prlimit")
            .args(["--pid", &pid.0.to_string(), &format!("--nofile={limit}:{limit}")])
            .status();
        assert!(limited.unwrap().success());
        let mut clients: Vec<AttachClient> = (0..7).map(|_| bench.attach()).collect();
        pid.expect_idle();
        clients.clear();
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
    });
}

// 6.3 and appendix B: the log's size, and disks that are full.

#[test]
fn a_log_that_somebody_emptied_counts_from_there() {
    behaviour!(|| {
        let bench = Bench::new();
        let record = 43 + 2 + 10 + 1;
        bench.script(
            "payload\nprint aaaaaaaaaa\\nbbbbbbbbbb\\n\nwait go\nprint cccccccccc\\ndddddddddd\\n\nexit 3",
        );
        let mut monitor = bench.podman().option("--log-size-max", (3 * record).to_string()).run();
        monitor.report();
        deadline::until("two records", || (bench.log_lines().len() == 2).then_some(()));
        std::fs::File::options().write(true).open(bench.log()).unwrap().set_len(0).unwrap();
        bench.touch("go");
        monitor.finish_rest();
        let texts: Vec<String> = bench.log_lines().iter().map(LogLine::text).collect();
        assert_eq!(texts, ["cccccccccc", "dddddddddd"]);
    });
}

#[test]
fn a_full_disk_costs_whole_records_and_one_marker_tells_how_many() {
    behaviour!(|| {
        let bench = Bench::new();
        std::fs::create_dir(bench.path("disk")).unwrap();
        // No more at once than a pipe holds, so that none is cut in the middle of a line.
        let flood = "lines 200 100\ndrained\n".repeat(10);
        bench.script(&format!(
            "payload\nwait start\n{flood}touch full\nwait go\nlines 100 100\ntouch over\nwait end\nexit 3"
        ));
        let command = bench.podman().replace("-l", format!("k8s-file:{}", bench.path("disk/log").display()));
        let mount = "mount -t tmpfs -o size=128k none \"$FERROMON_BENCH/disk\" && \
            head -c 65536 /dev/zero > \"$FERROMON_BENCH/disk/ballast\"";
        let mut monitor = after(&bench, mount, &command).run();
        monitor.report();
        bench.touch("start");
        bench.wait_file(&bench.path("full"));
        monitor.wait_for_halt();
        let root = format!("/proc/{}/root{}", monitor.pid().0, bench.path("disk").display());
        std::fs::remove_file(format!("{root}/ballast")).unwrap();
        bench.touch("go");
        bench.wait_file(&bench.path("over"));
        let records = || LogLine::parse_whole(&std::fs::read(format!("{root}/log")).unwrap());
        let last = |lines: &[LogLine]| lines.last().is_some_and(|line| line.text().starts_with("line 100."));
        let lines = deadline::until("the last line", || Some(records()).filter(|lines| last(lines)));
        let (markers, lines): (Vec<_>, Vec<_>) =
            lines.iter().map(LogLine::text).partition(|text| text.starts_with("conmon: "));
        assert_eq!(markers.len(), 1, "{markers:?}");
        assert!(lines.iter().all(|line| line.len() == 100), "whole lines only");
        let lost = (2000 + 100 - lines.len()).to_string();
        assert!(lost != "0" && markers[0].contains(&lost), "{lost} of 2100 are missing: {}", markers[0]);
        bench.touch("end");
        monitor.finish_rest();
    });
}
