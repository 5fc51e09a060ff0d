//! Contract 4.3: messages in the system log, which is their only place once stdio is let go of.
//!
//! The monitor runs in a mount namespace with a `/dev` of the bench's own, so that these tests see nobody else's
//! messages and nobody sees theirs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use compat_tests::{Bench, Kind, MonitorCommand, behaviour};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// The bench's own system log.
fn system_log(bench: &Bench) -> UnixDatagram {
    let dev = bench.path("dev");
    std::fs::create_dir(&dev).unwrap();
    for (name, minor) in [("null", 3), ("full", 7)] {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&dev.join(name), SFlag::S_IFCHR, mode, makedev(1, minor)).expect("a device node");
    }
    let socket = UnixDatagram::bind(dev.join("log")).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// `command`, started with that `/dev`.
fn with_system_log<'b>(bench: &'b Bench, command: &MonitorCommand<'b>) -> MonitorCommand<'b> {
    let script = "mount --bind \"$0\" /dev && exec \"$@\"";
    let wrapped =
        MonitorCommand::bare(bench).program("/usr/bin/unshare").args(["-m", "/bin/sh", "-c", script]);
    let wrapped = wrapped.arg(bench.path("dev")).arg(bench.program()).args(command.words());
    wrapped.sync(Kind::Seqpacket, 3).start(Kind::Seqpacket, 4)
}

/// All messages so far.
fn messages(socket: &UnixDatagram) -> Vec<String> {
    let mut all = Vec::new();
    let mut buffer = [0; 65536];
    while let Ok(count) = socket.recv(&mut buffer) {
        all.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
    }
    all
}

#[test]
fn an_error_goes_there() {
    behaviour!(|| {
        let bench = Bench::new();
        let socket = system_log(&bench);
        bench.script("eprint no\nexit 3");
        let mut monitor = with_system_log(&bench, &bench.podman().arg("--syslog")).run();
        assert_eq!(monitor.report().number("data"), -1);
        monitor.wait();
        let messages = messages(&socket);
        let text = "conmon c0ffee0123456789c0ff <error>: Failed to create container: exit status 3";
        let found = messages.iter().find(|message| message.contains(text));
        // Facility user, severity error.
        assert!(found.is_some_and(|message| message.starts_with("<11>")), "{messages:?}");
    });
}

#[test]
fn without_the_option_nothing_goes_there() {
    behaviour!(|| {
        let bench = Bench::new();
        let socket = system_log(&bench);
        bench.script("eprint no\nexit 3");
        let mut monitor = with_system_log(&bench, &bench.podman()).run();
        monitor.report();
        monitor.wait();
        assert_eq!(messages(&socket), Vec::<String>::new());
    });
}

#[test]
fn the_level_decides() {
    behaviour!(|| {
        for (level, expected) in [("error", false), ("debug", true)] {
            let bench = Bench::new();
            let socket = system_log(&bench);
            bench.script("payload\nexit 3");
            let command = bench.podman().arg("--syslog").replace("--log-level", level);
            let mut monitor = with_system_log(&bench, &command).run();
            monitor.report();
            monitor.wait();
            assert_eq!(!messages(&socket).is_empty(), expected, "{level}");
        }
    });
}

#[test]
fn a_message_names_program_and_process() {
    behaviour!(|| {
        let bench = Bench::new();
        let socket = system_log(&bench);
        bench.script("eprint no\nexit 3");
        let mut monitor = with_system_log(&bench, &bench.podman().arg("--syslog")).run();
        monitor.report();
        monitor.wait();
        let messages = messages(&socket);
        let error = messages.iter().find(|message| message.contains("<error>")).unwrap();
        assert!(error.contains(" conmon[") || error.contains(" conmon: "), "{error}");
    });
}

/// One that was told before the monitor was forked is the parent's; later ones are not.
#[test]
fn after_the_fork_messages_name_the_monitor() {
    behaviour!(|| {
        let bench = Bench::new();
        let socket = system_log(&bench);
        bench.script("eprint no\nexit 3");
        let command = with_system_log(&bench, &bench.podman().arg("--syslog"));
        let mut monitor = command.env("CONMON_ATTACH_STALL_TIMEOUT", "never").run();
        monitor.report();
        let own = format!(" conmon[{}]: ", monitor.pid().0);
        monitor.wait();
        let messages = messages(&socket);
        let error = messages.iter().find(|message| message.contains("<error>")).unwrap();
        assert!(error.contains(&own) || error.contains(" conmon: "), "{own} {messages:?}");
    });
}

#[test]
fn an_exit_command_that_can_not_be_executed_is_named_with_the_reason() {
    behaviour!(|| {
        let bench = Bench::new();
        let socket = system_log(&bench);
        bench.script("payload\nexit 3");
        let command = bench.podman().arg("--syslog").option("--exit-command", "/no/such/command");
        let mut monitor = with_system_log(&bench, &command).run();
        monitor.report();
        assert_eq!(monitor.wait().code, Some(3));
        let text = "Failed to run the exit command /no/such/command: No such file or directory";
        let messages = messages(&socket);
        assert!(messages.iter().any(|message| message.trim_end().ends_with(text)), "{messages:?}");
    });
}

#[test]
fn no_system_log_is_no_problem() {
    behaviour!(|| {
        let bench = Bench::new();
        drop(system_log(&bench));
        bench.script("payload\nexit 3");
        let command = bench.podman().arg("--syslog").replace("--log-level", "debug");
        let mut monitor = with_system_log(&bench, &command).run();
        monitor.report();
        assert_eq!(monitor.wait().code, Some(3));
    });
}
