//! Contract 5.13: signals to the monitor.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use compat_tests::{Bench, Process, behaviour, deadline};
use nix::sys::signal::Signal;

#[test]
fn term_int_and_quit_go_to_the_container() {
    behaviour!(|| {
        for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGINT, "INT"), (Signal::SIGQUIT, "QUIT")]
        {
            let bench = Bench::new();
            let (monitor, pid) = bench.started(&format!("trap {name} 42"));
            pid.signal(signal);
            assert_eq!(monitor.finish_rest(), "42", "{name}");
        }
    });
}

#[test]
fn a_container_that_ignores_term_goes_on() {
    behaviour!(|| {
        let bench = Bench::new();
        let (monitor, pid) = bench.started("ignore TERM");
        for _ in 0..3 {
            pid.signal(Signal::SIGTERM);
        }
        deadline::holds("both live", Duration::from_millis(100), || {
            pid.alive() && monitor.container().alive()
        });
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
    });
}

/// The parent has ended well, so the driver waits for a report.
#[test]
fn a_term_right_after_the_fork_does_not_cost_the_report() {
    if !compat_tests::twin::installed(&["strace"]) {
        return;
    }
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("sleep 50\npayload\nexit 3");
        let trace = bench.path("trace");
        let words = ["-D", "-f", "-o", trace.to_str().unwrap(), "-e", "trace=rt_sigprocmask,setsid"];
        // The mask is what protects the monitor: one that sets it only now, or later, is seen without it first.
        let delays =
            ["-e", "inject=rt_sigprocmask:delay_enter=400000", "-e", "inject=setsid:delay_enter=1000000"];
        let words = words.into_iter().chain(delays);
        let mut monitor = bench.podman().under(Path::new("/usr/bin/strace"), words).run();
        let parent = monitor.parent();
        let program = bench.program().as_os_str().as_bytes();
        let own = std::process::id().cast_signed();
        let is_child = |process: &Process| {
            *process != parent
                && [parent.0, own].contains(&process.ppid())
                && process.cmdline().split(|byte| *byte == 0).next() == Some(program)
        };
        let child = deadline::until("the fork", || bench.processes().into_iter().find(is_child));
        assert!(child.signal_in("SigBlk", Signal::SIGTERM), "open to TERM");
        child.signal(Signal::SIGTERM);
        assert_eq!(monitor.wait_parent().code, Some(0));
        monitor.report();
    });
}

#[test]
fn while_creating_term_goes_to_the_runtime() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("touch ready\nwait never");
        let mut monitor = bench.podman().run();
        bench.wait_file(&bench.path("ready"));
        let pid = monitor.pid();
        pid.signal(Signal::SIGTERM);
        assert_eq!(monitor.report().number("data"), -1);
        assert_eq!(monitor.wait_pid(pid).code, Some(1));
    });
}

#[test]
fn while_creating_a_trap_of_the_runtime_decides() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("ignore TERM\ntouch ready\nwait go\npayload\nexit 8");
        let mut monitor = bench.podman().run();
        bench.wait_file(&bench.path("ready"));
        monitor.pid().signal(Signal::SIGTERM);
        bench.touch("go");
        assert!(monitor.report().number("data") > 1);
        assert_eq!(monitor.finish_rest(), "8");
    });
}

#[test]
fn usr1_and_pipe_and_chld_change_nothing() {
    behaviour!(|| survives(&[Signal::SIGUSR1, Signal::SIGPIPE, Signal::SIGCHLD]));
}

#[test]
fn hup_usr2_and_alrm_change_nothing() {
    behaviour!(|| survives(&[Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGALRM]));
}

fn survives(signals: &[Signal]) {
    let bench = Bench::new();
    let (monitor, pid) = bench.started("");
    for signal in signals {
        pid.signal(*signal);
        deadline::holds("the monitor lives", Duration::from_millis(30), || pid.alive());
    }
    bench.touch("go");
    assert_eq!(monitor.finish_rest(), "3");
}

#[test]
fn a_killed_monitor_takes_the_runtime_along() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("record\nwait never");
        let monitor = bench.podman().run();
        bench.wait_file(&bench.bundle().join("seen/done"));
        let ids = bench.recorded_text("ids");
        let runtime = Process(ids.split(' ').next().unwrap().parse().unwrap());
        monitor.pid().signal(Signal::SIGKILL);
        deadline::until("the runtime to die", || (!runtime.alive()).then_some(()));
    });
}

#[test]
fn a_stopped_container_is_not_an_ended_one() {
    behaviour!(|| {
        let bench = Bench::new();
        let (monitor, pid) = bench.started("");
        let container = monitor.container();
        container.signal(Signal::SIGSTOP);
        deadline::until("the container to stop", || (container.state() == Some('T')).then_some(()));
        deadline::holds("no exit", Duration::from_millis(60), || pid.alive() && !bench.exit_file().exists());
        container.signal(Signal::SIGCONT);
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
    });
}
