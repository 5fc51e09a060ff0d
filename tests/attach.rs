//! Contract 1.9 and 5.15: the attach socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::fd::AsFd;
use std::time::Duration;

use compat_tests::{Bench, Monitor, behaviour, deadline};
use nix::sys::signal::Signal;

/// podman's reader takes one byte of stream number and this much.
const PACKET: usize = 8192;

/// A running container that follows `payload`.
fn running<'b>(bench: &'b Bench, args: &[&str], payload: &str) -> Monitor<'b> {
    bench.script(&format!("payload\n{payload}"));
    let mut monitor = bench.podman().args(args).run();
    monitor.report();
    monitor
}

fn numbered(count: usize, width: usize) -> Vec<u8> {
    (1..=count).flat_map(|index| format!("{:.<width$}\n", format!("line {index}")).into_bytes()).collect()
}

#[test]
fn every_packet_is_a_stream_number_and_at_most_8192_bytes() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[], "wait go\nlines 10000 99\neprint oh\\n\nexit 3");
        let client = monitor.attach();
        bench.touch("go");
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some((stream, payload)) = client.packet() {
            assert!(!payload.is_empty() && payload.len() <= PACKET, "{} bytes", payload.len());
            match stream {
                2 => stdout.extend(payload),
                3 => stderr.extend(payload),
                _ => panic!("stream {stream}"),
            }
        }
        assert!(stdout == numbered(10000, 99), "output lost or changed");
        assert_eq!(stderr, b"oh\n");
        assert_eq!(monitor.finish_rest(), "3");
        assert!(bench.logged("stdout") == stdout, "the log has the same");
    });
}

#[test]
fn earlier_output_is_not_replayed() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[], "print early\\n\nwait go\nprint late\\n\nexit 3");
        deadline::until("the early line", || (bench.logged("stdout") == b"early\n").then_some(()));
        let client = monitor.attach();
        bench.touch("go");
        assert_eq!(client.read_to_end().0, b"late\n");
        monitor.finish_rest();
    });
}

#[test]
fn a_client_gets_whatever_is_written_after_it_connected() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(
            &bench,
            &[],
            "wait go\nprint before\ntouch one\nwait connected\nprint after\ntouch two\nwait end",
        );
        // The monitor finds all of it at once, and reads both words together.
        monitor.pid().signal(Signal::SIGSTOP);
        deadline::until("the monitor to stop", || (monitor.pid().state() == Some('T')).then_some(()));
        bench.touch("go");
        bench.wait_file(&bench.path("one"));
        let client = bench.attach();
        bench.touch("connected");
        bench.wait_file(&bench.path("two"));
        monitor.pid().signal(Signal::SIGCONT);
        let _ = client.read_until(2, "after");
        bench.touch("end");
        monitor.finish_rest();
    });
}

#[test]
fn a_client_that_connected_before_the_end_gets_the_output() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[], "wait go\nprint last words\nexit 3");
        let crowd: Vec<_> = (0..40).map(|_| monitor.attach()).collect();
        // More than the monitor asks the kernel for at once comes between the signal and the client, so it looks for
        // dead children before it sees the client.
        monitor.pid().signal(Signal::SIGSTOP);
        deadline::until("the monitor to stop", || (monitor.pid().state() == Some('T')).then_some(()));
        monitor.pid().signal(Signal::SIGCHLD);
        crowd.iter().for_each(|client| client.send(b"x"));
        let late = bench.attach();
        bench.touch("go");
        deadline::until("the container to end", || (!monitor.container().alive()).then_some(()));
        monitor.pid().signal(Signal::SIGCONT);
        assert_eq!(late.read_to_end().0, b"last words");
        monitor.finish_rest();
    });
}

#[test]
fn all_clients_get_all_output() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[], "wait go\nprint hello\\n\nexit 3");
        let clients: Vec<_> = (0..30).map(|_| monitor.attach()).collect();
        bench.touch("go");
        for client in clients {
            assert_eq!(client.read_to_end().0, b"hello\n");
        }
        monitor.finish_rest();
    });
}

#[test]
fn input_reaches_the_container_and_nobody_else() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "cat input\nexit 3");
        let (first, second) = (monitor.attach(), monitor.attach());
        first.send(b"one ");
        deadline::until("the input", || (bench.wait_file(&bench.path("input")) == "one ").then_some(()));
        second.send(b"two");
        deadline::until("the input", || (bench.wait_file(&bench.path("input")) == "one two").then_some(()));
        second.half_close();
        monitor.finish_rest();
        assert_eq!(first.read_to_end(), (Vec::new(), Vec::new()));
        assert_eq!(second.read_to_end(), (Vec::new(), Vec::new()));
    });
}

#[test]
fn a_packet_of_32_kib_arrives_whole() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "cat input\nexit 3");
        let client = monitor.attach();
        let data = numbered(2000, 99);
        for packet in data.chunks(32 * 1024) {
            client.send(packet);
        }
        client.half_close();
        monitor.finish_rest();
        assert!(std::fs::read(bench.path("input")).unwrap() == data, "input lost or changed");
    });
}

#[test]
fn stdin_stays_open_while_nobody_is_attached() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "cat input\nexit 3");
        bench.wait_file(&bench.path("input"));
        deadline::holds("the container waits", Duration::from_millis(80), || monitor.container().alive());
        let client = monitor.attach();
        client.send(b"at last");
        client.half_close();
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(bench.wait_file(&bench.path("input")), "at last");
    });
}

#[test]
fn half_close_ends_the_input_and_not_the_output() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "cat input\nprint after\\n\nexit 3");
        let client = monitor.attach();
        client.send(b"all");
        client.half_close();
        assert_eq!(client.read_to_end().0, b"after\n");
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(bench.wait_file(&bench.path("input")), "all");
    });
}

#[test]
fn an_empty_packet_ends_the_input() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "cat input\nexit 3");
        let client = monitor.attach();
        client.send(b"all");
        client.send(b"");
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(bench.wait_file(&bench.path("input")), "all");
    });
}

#[test]
fn a_client_that_leaves_ends_the_input() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "cat input\nexit 3");
        let client = monitor.attach();
        client.send(b"all");
        drop(client);
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(bench.wait_file(&bench.path("input")), "all");
    });
}

#[test]
fn with_leave_stdin_open_another_client_can_go_on() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i", "--leave-stdin-open"], "trap TERM 9\ncat input\nexit 3");
        let first = monitor.attach();
        first.send(b"one ");
        first.half_close();
        deadline::until("the input", || (bench.wait_file(&bench.path("input")) == "one ").then_some(()));
        drop(first);
        let second = monitor.attach();
        second.send(b"two");
        deadline::until("the input", || (bench.wait_file(&bench.path("input")) == "one two").then_some(()));
        second.half_close();
        deadline::holds("stdin stays open", Duration::from_millis(50), || monitor.container().alive());
        monitor.container().signal(Signal::SIGTERM);
        assert_eq!(monitor.finish_rest(), "9");
    });
}

#[test]
fn pending_input_comes_before_the_end() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "wait go\ncat input\nexit 3");
        let client = monitor.attach();
        // More than the pipe holds, less than pipe and socket hold together.
        let data = numbered(1400, 99);
        for packet in data.chunks(16 * 1024) {
            client.send(packet);
        }
        client.half_close();
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
        assert!(std::fs::read(bench.path("input")).unwrap() == data, "input lost or changed");
    });
}

#[test]
fn without_stdin_input_goes_nowhere() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[], "cat input\nwait go\nprint hello\\n\nwait end\nexit 3");
        let client = monitor.attach();
        client.send(b"lost");
        client.send(b"lost too");
        bench.touch("go");
        assert_eq!(client.read_until(2, "hello\n"), "hello\n");
        bench.touch("end");
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(bench.wait_file(&bench.path("input")), "");
    });
}

#[test]
fn unread_input_does_not_cost_the_client_its_output() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "wait go\nprint bye\\n\nexit 3");
        let client = monitor.attach();
        // A socket that is closed with input left in it makes the other side lose what it has not read yet.
        while client.try_send(&[b'x'; 16 * 1024]) {}
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
        assert_eq!(client.packet(), Some((2, b"bye\n".to_vec())));
        assert_eq!(client.packet(), None);
    });
}

#[test]
fn an_idle_client_costs_nothing() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "wait go\nexit 3");
        let (_client, half_closed) = (monitor.attach(), monitor.attach());
        half_closed.half_close();
        monitor.pid().expect_idle();
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn input_for_a_closed_stdin_costs_nothing() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "close 0\ntouch closed\nwait go\nprint hello\\n\nexit 3");
        bench.wait_file(&bench.path("closed"));
        let client = monitor.attach();
        client.send(b"anybody there?");
        let _ = client.try_send(b"hello?");
        monitor.pid().expect_idle();
        bench.touch("go");
        assert_eq!(client.read_to_end().0, b"hello\n");
        assert_eq!(monitor.finish_rest(), "3");
    });
}

#[test]
fn a_container_that_does_not_read_costs_nothing() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["-i"], "wait go\nexit 3");
        let client = monitor.attach();
        while client.try_send(&[b'x'; 16 * 1024]) {}
        // What the socket held may go on to the pipe.
        while deadline::writable(client.as_fd(), Duration::from_millis(20))
            && client.try_send(&[b'x'; 16 * 1024])
        {}
        monitor.pid().expect_idle();
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
    });
}

#[test]
fn a_client_that_pauses_loses_nothing() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[], "wait go\nlines 20000 99\ntouch written\nexit 3");
        let client = monitor.attach();
        bench.touch("go");
        monitor.wait_for_halt();
        assert!(!bench.path("written").exists(), "the container has to wait");
        assert!(client.read_to_end().0 == numbered(20000, 99), "output lost or changed");
        assert_eq!(monitor.finish_rest(), "3");
        assert!(bench.logged("stdout") == numbered(20000, 99));
    });
}

#[test]
fn a_client_that_leaves_does_not_stop_the_container() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[], "wait go\nlines 20000 99\nexit 3");
        let (stuck, reader) = (monitor.attach(), monitor.attach());
        bench.touch("go");
        let _ = reader.packet();
        drop(stuck);
        drop(reader);
        assert_eq!(monitor.finish_rest(), "3");
        assert!(bench.logged("stdout") == numbered(20000, 99), "output lost or changed");
    });
}

#[test]
fn a_stuck_client_does_not_hold_the_exit_up() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[], "wait go\nlines 20000 99\nexit 3");
        let client = monitor.attach();
        bench.touch("go");
        monitor.wait_for_halt();
        assert!(monitor.container().alive(), "the container has to wait");
        monitor.container().signal(Signal::SIGKILL);
        assert_eq!(bench.wait_exit_file(), "137");
        let (stdout, _) = client.read_to_end();
        assert!(
            numbered(20000, 99).starts_with(&stdout) && stdout.len() > PACKET,
            "queued output is delivered"
        );
        monitor.wait();
    });
}

#[test]
fn a_stuck_client_is_dropped_some_time_after_the_exit() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.exit_script("record");
        bench.script("payload\nwait go\nlines 20000 99\nexit 3");
        let mut monitor = bench.podman().exit_command([""; 0]).run();
        monitor.report();
        let _stuck = monitor.attach();
        bench.touch("go");
        monitor.wait_for_halt();
        monitor.container().signal(Signal::SIGKILL);
        bench.wait_exit_file();
        // It takes nothing, and does not go away either.
        bench.wait_file(&bench.path("t/seen/done"));
        monitor.wait();
    });
}

#[test]
fn a_client_that_takes_nothing_is_dropped_on_request() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nlines 20000 99\nexit 3");
        let mut monitor = bench.podman().env("CONMON_ATTACH_STALL_TIMEOUT", "1").run();
        monitor.report();
        let _stuck = monitor.attach();
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "3");
        assert!(bench.logged("stdout") == numbered(20000, 99), "output lost or changed");
    });
}

/// Whoever means "never" by a large number gets that, too.
#[test]
fn a_time_limit_for_clients_may_be_as_long_as_a_number_can_be() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nlines 20000 99\nexit 3");
        let mut monitor = bench.podman().env("CONMON_ATTACH_STALL_TIMEOUT", u64::MAX.to_string()).run();
        monitor.report();
        let client = monitor.attach();
        bench.touch("go");
        monitor.wait_for_halt();
        assert!(client.read_to_end().0 == numbered(20000, 99), "output lost or changed");
        assert_eq!(monitor.finish_rest(), "3");
    });
}

#[test]
fn a_time_limit_for_clients_that_is_no_number_is_told_at_the_start() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 3");
        let mut monitor = bench.podman().env("CONMON_ATTACH_STALL_TIMEOUT", "1m").run();
        monitor.report();
        let warning = "[conmon:w]: CONMON_ATTACH_STALL_TIMEOUT=1m is not a number of seconds";
        assert!(monitor.stderr().starts_with(warning), "{}", monitor.stderr());
        monitor.finish_rest();
    });
}

#[test]
fn a_stuck_client_does_not_stop_the_other_stream() {
    behaviour!(|| {
        let bench = Bench::new();
        let payload =
            "background\nwait go\nlines 20000 99\nend\nwait second\neprint still here\\n\nwait end\nexit 3";
        let monitor = running(&bench, &[], payload);
        let client = monitor.attach();
        bench.touch("go");
        monitor.wait_for_halt();
        bench.touch("second");
        deadline::until("stderr in the log", || {
            (bench.logged_so_far("stderr") == b"still here\n").then_some(())
        });
        drop(client);
        bench.touch("end");
        monitor.finish_rest();
    });
}

#[test]
fn clients_that_come_and_go_leave_no_descriptor() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[], "wait go\nexit 3");
        let pid = monitor.pid();
        drop(monitor.attach());
        deadline::until("the first to be forgotten", || (pid.fds().len() < 30).then_some(()));
        let before = pid.fds().len();
        for _ in 0..20 {
            drop(monitor.attach());
        }
        deadline::until("all to be forgotten", || (pid.fds().len() <= before).then_some(()));
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn a_client_may_come_before_the_container_runs() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("wait create\npayload\nwait go\nprint hello\\n\nexit 3");
        let mut monitor = bench.podman().run();
        let client = bench.attach();
        bench.touch("create");
        monitor.report();
        // The second one is accepted after the first.
        let _second = monitor.attach();
        bench.touch("go");
        assert_eq!(client.read_to_end().0, b"hello\n");
        monitor.finish_rest();
    });
}

#[test]
fn clients_see_the_end_after_the_exit_file() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &[], "wait go\nexit 3");
        let client = monitor.attach();
        bench.touch("go");
        assert_eq!(client.packet(), None);
        assert_eq!(monitor.finish_rest(), "3");
    });
}

#[test]
fn output_reaches_the_client_though_the_log_is_off() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nlines 100 99\nexit 3");
        let mut monitor = bench.podman().replace("-l", "none").run();
        monitor.report();
        let client = monitor.attach();
        bench.touch("go");
        assert_eq!(client.read_to_end().0, numbered(100, 99));
        monitor.finish_rest();
    });
}

#[test]
fn the_global_log_limit_does_not_touch_the_client() {
    behaviour!(|| {
        let bench = Bench::new();
        let monitor = running(&bench, &["--log-global-size-max", "500"], "wait go\nlines 1000 99\nexit 3");
        let client = monitor.attach();
        bench.touch("go");
        assert!(client.read_to_end().0 == numbered(1000, 99), "output lost or changed");
        monitor.finish_rest();
    });
}
