//! Contract 5.14: `-l passthrough`, the container has the driver's own stdio.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{Read, Write};

use compat_tests::{Bench, MonitorCommand, behaviour};

fn passthrough(bench: &Bench) -> MonitorCommand<'_> {
    bench.podman().replace("-l", "passthrough")
}

fn text(bench: &Bench, name: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(bench.path(name)).unwrap()).into_owned()
}

#[test]
fn the_container_writes_to_the_drivers_stdio() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nprint out\\n\neprint err\\n\nexit 3");
        let (report, exit) = passthrough(&bench).run().finish();
        assert!(report.number("data") > 1);
        assert_eq!(exit, "3");
        assert_eq!((text(&bench, "out"), text(&bench, "err")), ("out\n".to_owned(), "err\n".to_owned()));
        assert!(!bench.log().exists());
    });
}

#[test]
fn the_container_reads_the_drivers_stdin() {
    behaviour!(|| {
        let bench = Bench::new();
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        bench.script("payload\ncat input\nexit 3");
        let monitor = passthrough(&bench).stdio(0, read).run();
        File::from(write).write_all(b"typed").unwrap();
        monitor.finish();
        assert_eq!(text(&bench, "input"), "typed");
    });
}

#[test]
fn there_is_no_attach_socket_and_no_fifo() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 3");
        let mut monitor = bench.crio().replace("-l", "passthrough:").run();
        monitor.report();
        assert_eq!(bench.names("b"), ["script"]);
        assert!(bench.names("s").is_empty());
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn the_monitor_itself_lets_go_of_the_drivers_stdio() {
    behaviour!(|| {
        let bench = Bench::new();
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        bench.script("payload\nprint hello\nclose 1\nclose 2\nwait go\nexit 3");
        let command = passthrough(&bench).stdio(1, write.try_clone().unwrap()).stdio(2, write);
        let mut monitor = command.run();
        monitor.report();
        let mut seen = String::new();
        File::from(read).read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "hello");
        assert!(!bench.exit_file().exists());
        let fds = monitor.pid().fds();
        assert!((0..3).all(|fd| fds[&fd] == "/dev/null"), "{fds:?}");
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn a_file_beside_it_is_made_and_stays_empty() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nprint out\\n\nexit 3");
        bench.podman().option("-l", "passthrough").run().finish();
        assert_eq!(text(&bench, "out"), "out\n");
        assert_eq!(std::fs::metadata(bench.log()).unwrap().len(), 0);
    });
}

#[test]
fn a_failed_start_is_reported() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("eprint boom\\n\nexit 1");
        let mut monitor = passthrough(&bench).run();
        assert_eq!(monitor.report().number("data"), -1);
        assert_eq!(monitor.wait().code, Some(1));
        assert!(text(&bench, "err").starts_with("boom\n"), "the runtime speaks to the driver directly");
    });
}

#[test]
fn stdin_option_is_ignored() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("record\npayload\nexit 3");
        passthrough(&bench).arg("-i").run().finish();
        let fds = bench.recorded_text("fds");
        assert!(fds.starts_with("0 20666 /dev/null\n"), "{fds}");
    });
}

#[test]
fn exit_and_exit_command_are_as_ever() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\ndie KILL");
        bench.exit_script("record");
        let mut monitor = passthrough(&bench).exit_command(["x"]).run();
        monitor.report();
        assert_eq!(monitor.wait().code, Some(137));
        assert_eq!(text(&bench, "persist/exit"), "137");
        assert!(bench.path("t/seen/done").exists());
    });
}
