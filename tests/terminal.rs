//! Contract 5.7: containers and execs with a terminal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use compat_tests::{AttachClient, Bench, Monitor, MonitorCommand, behaviour, deadline};

/// A podman command line with a terminal; temporary files go to `t` of the bench.
fn command(bench: &Bench) -> MonitorCommand<'_> {
    bench.podman().arg("-t").env("TMPDIR", bench.path("t"))
}

/// A running container with a terminal that follows `payload`.
fn running<'b>(bench: &'b Bench, payload: &str) -> Monitor<'b> {
    bench.script(&format!("record\nconsole\npayload\n{payload}"));
    let mut monitor = command(bench).run();
    assert!(monitor.report().number("data") > 1);
    monitor
}

/// The console socket in the runtime's argv.
fn console_socket(bench: &Bench) -> PathBuf {
    let argv = bench.recorded_list("argv");
    let at = argv.iter().position(|word| word == "--console-socket").unwrap();
    PathBuf::from(&argv[at + 1])
}

#[test]
fn exit_code_and_log() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, "print hello\\n\neprint error\\n\nexit 7");
        assert_eq!(monitor.finish_rest(), "7");
        assert_eq!(bench.logged("stdout"), b"hello\r\nerror\r\n");
        assert!(bench.logged("stderr").is_empty(), "all of a terminal is stdout");
    });
}

#[test]
fn a_command_that_is_done_at_once_loses_no_output() {
    behaviour!(|| {
        for _ in 0..10 {
            let bench = Bench::new();
            let monitor = running(&bench, "lines 30\nexit 0");
            assert_eq!(monitor.finish_rest(), "0");
            let text = String::from_utf8(bench.logged("stdout")).unwrap();
            assert_eq!(text.lines().count(), 30);
            assert!(text.ends_with("line 30\r\n"));
        }
    });
}

#[test]
fn much_output_is_complete() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, "lines 5000 99\nexit 0");
        assert_eq!(monitor.finish_rest(), "0");
        assert_eq!(bench.logged("stdout").len(), 5000 * 101);
    });
}

#[test]
fn the_runtime_has_no_stdin_and_no_stdout_but_stderr() {
    behaviour!(|| {
        let bench = Bench::new();
        running(&bench, "exit 0").finish_rest();
        let fds = bench.recorded_text("fds");
        let lines: Vec<&str> = fds.lines().collect();
        assert!(lines[0].starts_with("0 ") && lines[0].ends_with("/dev/null"), "{fds}");
        assert!(lines[1].starts_with("1 ") && lines[1].ends_with("/dev/null"), "{fds}");
        assert!(lines[2].starts_with("2 ") && lines[2].contains("pipe:"), "{fds}");
    });
}

#[test]
fn the_option_comes_before_the_container_id() {
    behaviour!(|| {
        let bench = Bench::new();
        running(&bench, "exit 0").finish_rest();
        let argv = bench.recorded_list("argv");
        assert_eq!(argv[argv.len() - 3], "--console-socket");
    });
}

#[test]
fn the_console_socket_is_gone_once_it_was_used() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, "touch ready\nwait go\nexit 0");
        bench.wait_file(&bench.path("ready"));
        deadline::until("the socket to go", || (!console_socket(&bench).exists()).then_some(()));
        bench.touch("go");
        monitor.finish_rest();
        assert_eq!(bench.names("t"), Vec::<String>::new());
    });
}

#[test]
fn the_console_socket_is_in_a_directory_of_its_own() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("record\nwait go\nconsole\npayload\nexit 0");
        let monitor = command(&bench).run();
        bench.wait_file(&bench.bundle().join("seen/done"));
        let socket = console_socket(&bench);
        let folder = socket.parent().unwrap();
        assert_ne!(folder, bench.path("t"));
        assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o7777, 0o700);
        bench.touch("go");
        monitor.finish();
    });
}

#[test]
fn a_failed_start_leaves_no_socket() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("record\neprint no\nexit 1");
        let mut monitor = command(&bench).run();
        assert_eq!(monitor.report().json(), serde_json::json!({ "data": -1, "message": "no" }));
        monitor.wait();
        assert!(!console_socket(&bench).exists());
        assert_eq!(bench.names("t"), Vec::<String>::new());
    });
}

#[test]
fn a_failed_start_carries_the_runtimes_words() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("eprint no terminal today\\n\nexit 1");
        let mut monitor = command(&bench).run();
        assert_eq!(
            monitor.report().json(),
            serde_json::json!({ "data": -1, "message": "no terminal today\n" })
        );
        assert_eq!(monitor.wait().code, Some(1));
    });
}

#[test]
fn a_runtime_without_a_terminal_has_failed() {
    behaviour!(|| {
        for words in ["", "eprint warning: all is well\\n\n"] {
            let bench = Bench::new();
            bench.script(&format!("{words}payload\nwait go"));
            let mut monitor = command(&bench).run();
            let expected = serde_json::json!({ "data": -1, "message": "Runtime did not set up terminal" });
            assert_eq!(monitor.report().json(), expected);
            assert_eq!(monitor.wait().code, Some(1));
        }
    });
}

#[test]
fn the_path_fits_a_socket_address_whatever_tmpdir_is() {
    behaviour!(|| {
        let bench = Bench::new();
        let long = bench.path("t").join("long".repeat(30));
        std::fs::create_dir(&long).unwrap();
        bench.script("record\nconsole\npayload\nexit 7");
        let mut monitor = bench.podman().arg("-t").env("TMPDIR", &long).run();
        assert!(monitor.report().number("data") > 1);
        assert_eq!(monitor.finish_rest(), "7");
        assert!(console_socket(&bench).as_os_str().len() <= 107);
        assert_eq!(std::fs::read_dir(long).unwrap().count(), 0);
    });
}

#[test]
fn attach_carries_the_terminal() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, "raw\ntouch ready\nwait go\necho");
        bench.wait_file(&bench.path("ready"));
        let client = monitor.attach();
        bench.touch("go");
        client.send(b"typed");
        assert_eq!(client.read_until(2, "typed"), "typed");
        monitor.container().signal(nix::sys::signal::Signal::SIGKILL);
        assert_eq!(client.packet(), None);
        assert_eq!(monitor.finish_rest(), "137");
    });
}

#[test]
fn a_line_typed_ends_with_enter() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, "touch ready\ncat input\nexit 4");
        bench.wait_file(&bench.path("ready"));
        let client = monitor.attach();
        client.send(b"name\r");
        deadline::until("the line", || (bench.wait_file(&bench.path("input")) == "name\n").then_some(()));
        // Control-D at the start of a line.
        client.send(&[4]);
        let (stdout, stderr) = client.read_to_end();
        assert!(stdout.starts_with(b"name\r\n") && stderr.is_empty(), "the echo: {stdout:?}");
        assert_eq!(monitor.finish_rest(), "4");
    });
}

fn wait_size(bench: &Bench, name: &str, expected: &str) {
    deadline::until(&format!("the size {expected}"), || {
        (std::fs::read_to_string(bench.path(name)).ok()? == expected).then_some(())
    });
}

#[test]
fn a_resize_reaches_the_terminal() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, "winsize size");
        wait_size(&bench, "size", "0 0");
        bench.ctl("1 33 101\n");
        wait_size(&bench, "size", "33 101");
        bench.ctl("1 25 81\n");
        wait_size(&bench, "size", "25 81");
        monitor.container().signal(nix::sys::signal::Signal::SIGKILL);
        monitor.finish_rest();
    });
}

/// Each line by itself, because conmon drops the rest of what it has read with a bad one.
#[test]
fn what_is_no_resize_leaves_the_terminal_alone() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &"winsize size\nsleep 10\n".repeat(1000));
        wait_size(&bench, "size", "0 0");
        let too_long = format!("1 2 2 {:#<300}", "");
        for line in [
            "1",
            "1 2",
            "1 -1 -1",
            "1 10.5 20.3",
            "1 0x10 0x20",
            "1 100000 100000",
            "1 1001 1000",
            "1 1000 1001",
            "resize",
            "999",
            "999 2 2",
            &too_long,
        ] {
            bench.ctl(&format!("{line}\n"));
            let unchanged =
                || std::fs::read_to_string(bench.path("size")).is_ok_and(|size| matches!(&*size, "" | "0 0"));
            deadline::holds(line, Duration::from_millis(50), unchanged);
        }
        for (line, expected) in
            [("1 2 2 3\n", "2 2"), ("1 0010 0020\n", "10 20"), ("1 1000 1000\n", "1000 1000")]
        {
            bench.ctl(line);
            wait_size(&bench, "size", expected);
        }
        monitor.container().signal(nix::sys::signal::Signal::SIGKILL);
        monitor.finish_rest();
    });
}

#[test]
fn of_several_resizes_at_once_the_last_counts() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, "winsize size");
        wait_size(&bench, "size", "0 0");
        bench.ctl("1 24 80\n1 25 81\n");
        wait_size(&bench, "size", "25 81");
        monitor.container().signal(nix::sys::signal::Signal::SIGKILL);
        monitor.finish_rest();
    });
}

#[test]
fn a_resize_before_the_terminal_is_there_is_kept() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("touch creating\nwait go\nconsole\npayload\nwinsize size");
        let mut monitor = command(&bench).run();
        bench.wait_file(&bench.path("creating"));
        bench.ctl("1 44 144\n");
        bench.touch("go");
        monitor.report();
        wait_size(&bench, "size", "44 144");
        monitor.container().signal(nix::sys::signal::Signal::SIGKILL);
        monitor.finish_rest();
    });
}

#[test]
fn many_resizes_before_the_terminal_is_there_do_no_harm() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("touch creating\nwait go\nconsole\npayload\nexit 5");
        let monitor = command(&bench).run();
        bench.wait_file(&bench.path("creating"));
        let lines = "1 100 100\n".repeat(100);
        for _ in 0..120 {
            bench.ctl(&lines);
        }
        std::fs::rename(bench.log(), bench.path("old")).unwrap();
        bench.ctl("2 0 0\n");
        bench.wait_file(&bench.log());
        bench.touch("go");
        assert_eq!(monitor.finish().1, "5");
    });
}

#[test]
fn a_terminal_that_nobody_holds_is_not_the_end() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor =
            running(&bench, "print hello\\n\nclose 0\nclose 1\nclose 2\ntouch closed\nwait go\nexit 6");
        bench.wait_file(&bench.path("closed"));
        let pid = monitor.pid();
        pid.expect_idle();
        assert!(!bench.exit_file().exists());
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "6");
        assert_eq!(bench.logged("stdout"), b"hello\r\n");
    });
}

#[test]
fn a_failed_driver_sync_does_not_matter() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("wait go\nconsole\npayload\nprint hello\\n\nexit 4");
        let mut monitor = command(&bench).run();
        monitor.sync_pipe().close();
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "4");
    });
}

#[test]
fn an_exec_with_a_terminal() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("console\npayload\nprint hello\\n\nexit 9");
        let mut monitor = bench.podman_exec().args(["-t", "-i"]).env("TMPDIR", bench.path("t")).run();
        monitor.attach_pipe().report("readiness on the attach pipe");
        let client = AttachClient::connect(&bench.exec_bundle().join("attach"));
        monitor.go();
        assert!(monitor.report().number("data") > 1);
        assert_eq!(client.read_to_end().0, b"hello\r\n");
        assert_eq!(monitor.report().number("data"), 9);
        bench.expect_nothing_running();
    });
}

#[test]
fn an_exec_gets_the_size_written_before_its_start() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("console\npayload\nwinsize size");
        let mut monitor = bench.podman_exec().arg("-t").env("TMPDIR", bench.path("t")).run();
        monitor.attach_pipe().report("readiness on the attach pipe");
        compat_tests::fifo::write_fifo(&bench.exec_bundle().join("ctl"), b"1 44 144\n");
        monitor.go();
        assert!(monitor.report().number("data") > 1);
        wait_size(&bench, "size", "44 144");
    });
}

#[test]
fn a_failed_exec_with_a_terminal() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("eprint no such file or directory\nexit 1");
        let mut monitor = bench.podman_exec().args(["-t", "-i"]).env("TMPDIR", bench.path("t")).run();
        monitor.attach_pipe().report("readiness on the attach pipe");
        monitor.go();
        let expected = serde_json::json!({ "data": -1, "message": "no such file or directory" });
        assert_eq!(monitor.report().json(), expected);
        bench.expect_nothing_running();
    });
}

#[test]
fn a_synchronous_exec_with_a_terminal() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exec_script("console\npayload\nprint hello\\n\nexit 9");
        let mut monitor = bench.crio_exec().arg("-t").env("TMPDIR", bench.path("t")).run();
        assert_eq!(monitor.report().number("exit_code"), 9);
        assert_eq!(monitor.wait_parent().code, Some(9));
        assert_eq!(bench.logged("stdout"), b"hello\r\n");
    });
}

#[test]
fn the_runtimes_warnings_are_logged_as_stderr() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("eprint level=warning\\n\nconsole\npayload\nsleep 50\nprint hello\\n\nexit 0");
        command(&bench).run().finish();
        assert_eq!(bench.logged("stderr"), b"level=warning\n");
        assert_eq!(bench.logged("stdout"), b"hello\r\n");
    });
}

#[test]
fn without_tmpdir_it_is_tmp() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("record\nconsole\npayload\nexit 0");
        bench.podman().arg("-t").run().finish();
        let socket = console_socket(&bench);
        assert!(socket.starts_with(Path::new("/tmp")) || socket.starts_with("/run"), "{}", socket.display());
        assert!(!socket.exists());
    });
}
