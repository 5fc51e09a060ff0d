//! Contract 1.6 and 5.0: the driver moves the parent into a cgroup while it waits for the start byte, so nothing may be
//! forked, and nothing of the container be touched, before that byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use compat_tests::{Bench, Kind, MonitorCommand, behaviour, deadline};

/// Waits until the monitor is blocked on its start pipe.
fn wait_until_blocked(monitor: &compat_tests::Monitor<'_>) {
    let process = monitor.parent();
    deadline::until("the monitor to wait for the start byte", || {
        let ready = process.state() == Some('S') && process.oom_score_adj() != i32::MIN;
        let executed = process.cmdline().split(|byte| *byte == 0).any(|word| word == b"--runtime-arg=mark");
        (ready && executed).then_some(())
    });
}

fn waits_for_the_byte(command: fn(&Bench) -> MonitorCommand<'_>) {
    let bench = Bench::new();
    bench.script("payload\nexit 3");
    let mut monitor = command(&bench).arg("--runtime-arg=mark").spawn();
    wait_until_blocked(&monitor);
    deadline::holds("nothing happens before the start byte", Duration::from_millis(150), || {
        bench.processes().len() == 1
            && bench.names("b") == ["script"]
            && !bench.path("conmon.pid").exists()
            && !monitor.sync_pipe().has_news()
    });
    monitor.go();
    let (_, exit) = monitor.finish();
    assert_eq!(exit, "3");
}

#[test]
fn nothing_is_forked_before_the_start_byte() {
    behaviour!(|| waits_for_the_byte(Bench::podman));
}

#[test]
fn a_stream_start_pipe_works_as_well() {
    behaviour!(|| waits_for_the_byte(Bench::crio));
}

#[test]
fn end_of_file_counts_as_go() {
    behaviour!(|| {
        for kind in [Kind::Seqpacket, Kind::Stream, Kind::Pipe] {
            let bench = Bench::new();
            bench.script("payload\nexit 4");
            let mut monitor = bench.podman().start(kind, 4).spawn();
            monitor.start_pipe().close();
            assert_eq!(monitor.finish().1, "4", "{kind:?}");
        }
    });
}

#[test]
fn without_a_start_pipe_it_goes_at_once() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 5");
        assert_eq!(bench.podman().no_start_pipe().spawn().finish().1, "5");
    });
}
