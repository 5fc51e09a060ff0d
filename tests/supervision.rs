//! Contract 5.1 and 5.12: from the running container to its exit status.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use compat_tests::{Bench, Kind, behaviour, deadline};
use nix::sys::signal::Signal;

/// The exit file of a container that follows `payload`, and the monitor's own exit status.
fn exit_of(payload: &str) -> (String, Option<i32>) {
    let bench = Bench::new();
    bench.script(&format!("payload\n{payload}"));
    let mut monitor = bench.podman().run();
    monitor.report();
    let exit = bench.wait_exit_file();
    (exit, monitor.wait().code)
}

#[test]
fn exit_codes_pass() {
    behaviour!(|| {
        for code in [0, 1, 3, 127, 137, 255] {
            assert_eq!(exit_of(&format!("exit {code}")), (code.to_string(), Some(code)));
        }
    });
}

#[test]
fn a_signal_is_128_more() {
    behaviour!(|| {
        for (name, code) in [("KILL", 137), ("SEGV", 139), ("TERM", 143)] {
            assert_eq!(exit_of(&format!("die {name}")), (code.to_string(), Some(code)));
        }
    });
}

#[test]
fn with_sync_the_spawned_process_exits_with_the_containers_code() {
    behaviour!(|| {
        for (payload, code) in [("exit 5", 5), ("die KILL", 137)] {
            let bench = Bench::new();
            bench.script(&format!("payload\n{payload}"));
            let mut monitor = bench.podman().arg("--sync").run();
            assert!(monitor.report().number("data") > 1);
            assert_eq!(monitor.wait_parent().code, Some(code));
            assert_eq!(bench.wait_exit_file(), code.to_string());
        }
    });
}

#[test]
fn with_sync_a_failed_start_exits_1() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("eprint no\nexit 7");
        let mut monitor = bench.podman().arg("--sync").run();
        assert_eq!(monitor.report().number("data"), -1);
        assert_eq!(monitor.wait_parent().code, Some(1));
    });
}

/// A container that is not a child of the monitor: a process of the test itself.
struct Foreign(std::process::Child);

impl Foreign {
    fn new() -> Self {
        Self(std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap())
    }

    fn script(&self) -> String {
        format!("pidfile text {}", self.0.id())
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_container_that_is_not_our_child_is_watched() {
    behaviour!(|| {
        let bench = Bench::new();
        let mut foreign = Foreign::new();
        bench.script(&foreign.script());
        let mut monitor = bench.podman().run();
        assert_eq!(monitor.report().number("data"), i64::from(foreign.0.id()));
        let pid = monitor.pid();
        deadline::holds("the monitor stays", Duration::from_millis(100), || pid.alive());
        foreign.kill();
        assert_eq!(bench.wait_exit_file(), "-1", "nobody can know its status");
        assert_eq!(monitor.wait().code, Some(255));
    });
}

/// A debugger, strace or CRIU.
#[test]
fn a_container_that_dies_under_a_tracer_keeps_its_status() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\npause");
        let mut monitor = bench.podman().run();
        monitor.report();
        let container = monitor.container();
        container.trace();
        container.signal(Signal::SIGKILL);
        deadline::until("the container to be dead", || (container.state() == Some('Z')).then_some(()));
        deadline::holds("its end is the tracer's", Duration::from_millis(200), || {
            !bench.exit_file().exists()
        });
        container.let_go();
        assert_eq!(bench.wait_exit_file(), "137");
        assert_eq!(monitor.wait().code, Some(137));
    });
}

#[test]
fn an_unknown_status_is_minus_one() {
    behaviour!(|| {
        let bench = Bench::new();
        // Above the largest pid there can be.
        bench.script("pidfile text 4999999");
        let mut monitor = bench.podman().run();
        monitor.report();
        assert_eq!(bench.wait_exit_file(), "-1");
        assert_eq!(monitor.wait().code, Some(255));
    });
}

#[test]
fn orphans_of_the_container_are_reaped() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\ndaemon\nwrite orphan 1\nwait die\nexit 9\nend\nwait go\nexit 3");
        let mut monitor = bench.podman().run();
        monitor.report();
        let pid = monitor.pid();
        bench.wait_file(&bench.path("orphan"));
        let children =
            || bench.processes().into_iter().filter(|process| process.ppid() == pid.0).collect::<Vec<_>>();
        let both = deadline::until("the orphan to be the monitor's child", || {
            Some(children()).filter(|children| children.len() == 2)
        });
        bench.touch("die");
        let container = monitor.container();
        let orphan = both.into_iter().find(|process| *process != container).unwrap();
        deadline::until("the orphan to be reaped", || orphan.state().is_none().then_some(()));
        assert!(pid.alive() && container.alive() && !bench.exit_file().exists());
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
    });
}

#[test]
fn the_timeout_kills_the_container() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nignore TERM\nprint hello\\n\npause");
        let start = Instant::now();
        let mut monitor = bench.podman().arg("--timeout=3").run();
        monitor.report();
        let container = monitor.container();
        assert_eq!(bench.wait_exit_file(), "-1");
        // GLib rounds such timers, up to a quarter of a second down.
        let least = if compat_tests::differences::original().is_some() { 2740 } else { 3000 };
        assert!(start.elapsed() >= Duration::from_millis(least), "too early");
        assert_eq!(monitor.wait().code, Some(255));
        deadline::until("the container to be dead", || (!container.alive()).then_some(()));
        assert_eq!(bench.logged("stdout"), b"hello\n");
    });
}

#[test]
fn at_the_timeout_the_container_is_dead_before_its_exit_is_published() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nignore TERM\nmemory 300\npause");
        let mut monitor = bench.podman().args(["-T", "1"]).run();
        monitor.report();
        let container = monitor.container();
        bench.wait_exit_file();
        assert!(container.state().is_none(), "still {:?}", container.state());
        monitor.wait();
    });
}

#[test]
fn a_container_that_is_faster_than_the_timeout_keeps_its_code() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 6");
        assert_eq!(bench.podman().args(["-T", "30"]).run().finish().1, "6");
    });
}

#[test]
fn timeout_0_and_below_is_none() {
    behaviour!(|| {
        for value in ["0", "-1"] {
            let bench = Bench::new();
            bench.script("payload\nwait go\nexit 6");
            let mut monitor = bench.podman().option("-T", value).run();
            monitor.report();
            deadline::holds("it runs", Duration::from_millis(50), || monitor.container().alive());
            bench.touch("go");
            assert_eq!(monitor.finish_rest(), "6");
        }
    });
}

#[test]
fn what_was_written_before_the_exit_is_logged() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nlines 500 100\nelines 500 100\nexit 3");
        assert_eq!(bench.podman().run().finish().1, "3");
        assert_eq!(bench.logged("stdout").len(), 500 * 101);
        assert_eq!(bench.logged("stderr").len(), 500 * 101);
    });
}

#[test]
fn a_silent_survivor_with_the_pipes_does_not_delay_the_exit() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nprint last words\\n\nbackground\nwait never\nend\nexit 3");
        let mut monitor = bench.podman().run();
        monitor.report();
        // The survivor stays for ever.
        assert_eq!(bench.wait_exit_file(), "3");
        assert_eq!(bench.logged("stdout"), b"last words\n");
    });
}

#[test]
fn a_noisy_survivor_with_the_pipes_does_not_hold_the_exit_up() {
    // Whether the original ever finds the pipe empty is chance.
    if compat_tests::differences::original().is_some() {
        return;
    }
    behaviour!(|| {
        let bench = Bench::new();
        // It is never silent. The log has a limit, so that it does not fill the disk.
        bench.script("payload\nbackground\nignore PIPE\nnoise\nend\nlines 600 100\nexit 3");
        let mut monitor = bench.podman().args(["--log-size-max", "1000000"]).run();
        monitor.report();
        assert_eq!(bench.wait_exit_file(), "3");
    });
}

#[test]
fn the_drivers_stdio_is_released() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 0");
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let command = bench.podman().stdio(1, write.try_clone().unwrap()).stdio(2, write);
        let mut monitor = command.run();
        monitor.report();
        assert_eq!(monitor.wait_parent().code, Some(0));
        assert!(deadline::readable(read.as_fd(), deadline::limit()), "somebody holds the driver's pipe");
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "");
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn with_sync_the_drivers_stdio_is_released_too() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 0");
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let command = bench.podman().arg("--sync").stdio(1, write.try_clone().unwrap()).stdio(2, write);
        let mut monitor = command.run();
        monitor.report();
        assert!(deadline::readable(read.as_fd(), deadline::limit()), "somebody holds the driver's pipe");
        bench.touch("go");
        assert_eq!(monitor.wait_parent().code, Some(0));
    });
}

#[test]
fn the_monitor_keeps_name_arguments_environment_and_directory() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 0");
        let command = bench.podman().cwd(bench.path("t")).args(["--exit-command-arg", "--syslog"]);
        let words = command.words().to_vec();
        let mut monitor = command.run();
        monitor.report();
        let pid = monitor.pid();
        let mut expected = bench.program().as_os_str().as_encoded_bytes().to_vec();
        for word in words {
            expected.push(0);
            expected.extend_from_slice(word.as_encoded_bytes());
        }
        expected.push(0);
        assert_eq!(pid.cmdline(), expected);
        assert_eq!(pid.status("Name"), "conmon");
        assert!(pid.environ().starts_with(b"PATH=/usr/sbin:"));
        assert_eq!(pid.cwd(), bench.path("t"));
        let fds = pid.fds();
        assert!((0..3).all(|fd| fds[&fd] == "/dev/null"), "{fds:?}");
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn the_monitor_has_one_thread_and_uses_no_time_while_idle() {
    behaviour!(|| {
        let bench = Bench::new();
        let (monitor, pid) = bench.started("print hello\\n");
        assert_eq!(pid.threads(), 1);
        pid.expect_idle();
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn closed_container_output_does_not_end_the_container() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nprint one\\n\nclose 1\nclose 2\ntouch ready\nwait go\nexit 3");
        let mut monitor = bench.podman().run();
        monitor.report();
        bench.wait_file(&bench.path("ready"));
        let pid = monitor.pid();
        pid.expect_idle();
        assert!(!bench.exit_file().exists());
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(bench.logged("stdout"), b"one\n");
    });
}

#[test]
fn the_runtimes_own_children_do_not_count() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("background\nsleep 20\nexit 77\nend\npayload\nwait go\nexit 3");
        let mut monitor = bench.podman().sync(Kind::Stream, 3).run();
        monitor.report();
        let pid = monitor.pid();
        deadline::holds("no exit", Duration::from_millis(80), || pid.alive() && !bench.exit_file().exists());
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
    });
}
