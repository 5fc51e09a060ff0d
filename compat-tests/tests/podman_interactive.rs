//! podman as the driver of conversations: terminals, attached input and output, exec sessions. As in `podman.rs`, the
//! same commands with the original and with ours must give the same.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use compat_tests::podman::{IMAGE, Podman, WAIT};
use compat_tests::session::{Input, Session};
use compat_tests::transcript::Transcript;
use compat_tests::{deadline, podman_twin};

/// A container that does nothing until it is told to end.
const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
const DETACH: &[u8] = b"\x10\x11";
const ROWS: u16 = 31;
const COLUMNS: u16 = 97;

fn idle(podman: &Podman) {
    podman.run(&["-d", "--name", "c"], IDLE).exits(0);
}

fn exec(podman: &Podman, options: &[&str], script: &str) -> compat_tests::session::Outcome {
    let mut args = vec!["exec"];
    args.extend(options);
    args.extend(["c", "sh", "-c", script]);
    podman.call(&args)
}

#[test]
fn exec_exit_codes() {
    podman_twin!(|podman, seen| {
        idle(podman);
        for code in [0, 1, 9, 255] {
            seen.outcome(&format!("exit {code}"), &exec(podman, &[], &format!("exit {code}")).exits(code));
        }
        seen.outcome("killed", &exec(podman, &[], "kill -9 $$").exits(137));
        seen.outcome("missing", &podman.call(&["exec", "c", "/nosuch"]).exits(127));
        seen.outcome("missing in PATH", &podman.call(&["exec", "c", "nosuch"]).exits(127));
        seen.outcome("directory", &podman.call(&["exec", "c", "/etc"]).exits(126));
        seen.outcome("no container", &podman.call(&["exec", "nosuch", "true"]).exits(125));
    });
}

#[test]
fn exec_output() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let outcome = exec(podman, &[], r"echo out; echo err >&2; printf 'a\0\377'").exits(0);
        assert_eq!((&*outcome.stdout, &*outcome.stderr), (&b"out\na\0\xff"[..], &b"err\n"[..]));
        seen.outcome("output", &outcome);
        let long = exec(podman, &[], "seq 200000").exits(0);
        let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
        assert!(long.stdout_text() == expected, "{} bytes", long.stdout.len());
        let options = ["-e", "A=b c", "-w", "/tmp"];
        seen.outcome("environment", &exec(podman, &options, "echo $A; pwd").exits(0).prints("b c\n/tmp\n"));
        // Nothing of the sessions goes into the container's log.
        seen.outcome("logs", &podman.call(&["logs", "c"]).exits(0).prints(""));
    });
}

#[test]
fn exec_with_input() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let mut session = Session::start(podman.command(&["exec", "-i", "c", "sort"]), Input::Pipe);
        session.send(b"pear\napple\n");
        seen.outcome("sort", &session.finish().exits(0).prints("apple\npear\n"));
        let mut early = Session::start(podman.command(&["exec", "-i", "c", "head", "-n", "1"]), Input::Pipe);
        early.send(b"first\nsecond\n");
        early.wait_for("first\n");
        seen.outcome("head", &early.finish().exits(0).prints("first\n"));
        let nothing = Session::start(podman.command(&["exec", "-i", "c", "cat"]), Input::Pipe);
        seen.outcome("no input", &nothing.finish().exits(0).prints(""));
        seen.outcome("without -i", &podman.call(&["exec", "c", "cat"]).exits(0).prints(""));
    });
}

#[test]
fn exec_detached() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let detached = podman.call(&["exec", "-d", "c", "sh", "-c", "echo done >/tmp/done"]).exits(0);
        seen.outcome("exec", &detached);
        podman.until("the file", || exec(podman, &[], "cat /tmp/done").stdout.eq(b"done\n").then_some(()));
        // A detached exec has a code of its own for this.
        seen.outcome("missing", &podman.call(&["exec", "-d", "c", "/nosuch"]).exits(125));
    });
}

#[test]
fn exec_leaves_nothing() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let before = podman.files();
        for _ in 0..5 {
            exec(podman, &[], "exit 3").exits(3);
        }
        podman.call(&["exec", "c", "/nosuch"]).exits(127);
        podman.until("the end of the sessions' monitors", || (podman.monitors().len() == 1).then_some(()));
        assert_eq!(podman.files(), before);
        seen.add("files", podman.files().join("\n"));
    });
}

#[test]
fn exec_ends_with_its_container() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let mut session =
            Session::start(podman.command(&["exec", "c", "sh", "-c", "echo up; sleep 100"]), Input::Null);
        session.wait_for("up\n");
        podman.call(&["kill", "c"]).exits(0);
        seen.outcome("exec", &session.finish().exits(137).prints("up\n"));
    });
}

/// A shell on a terminal: waits for its prompt, types, and reads the answer.
fn shell(session: &mut Session, code: i32) {
    session.wait_for("# ");
    type_line(session, "echo $((6*7))", "42\r\n");
    sized(session, ROWS, COLUMNS);
    session.resize(17, 66);
    sized(session, 17, 66);
    type_line(session, "tty; test -t 1 && echo terminal", "terminal\r\n");
    session.send(format!("exit {code}\n").as_bytes());
}

fn type_line(session: &mut Session, line: &str, answer: &str) {
    session.forget_output();
    session.send(format!("{line}\n").as_bytes());
    session.wait_for(answer);
}

/// The size travels beside the input, so it may come later.
fn sized(session: &mut Session, rows: u16, columns: u16) {
    let loops = format!("until [ \"$(stty size)\" = '{rows} {columns}' ]; do sleep 0.05; done; echo si''zed");
    type_line(session, &loops, "sized\r\n");
}

#[test]
fn shell_on_a_terminal() {
    podman_twin!(|podman, seen| {
        let command = podman.command(&["run", "-it", "--name", "c", IMAGE, "sh"]);
        let mut session = Session::start(command, Input::Terminal(ROWS, COLUMNS));
        shell(&mut session, 5);
        seen.add("code", session.finish().exits(5).code.to_string());
        assert_eq!(podman.wait_for_end("c"), 5);
        let log = podman.call(&["logs", "c"]).exits(0).stdout_text();
        assert!(log.contains("42\r\n") && log.contains("terminal\r\n"), "{log:?}");
    });
}

#[test]
fn exec_on_a_terminal() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let command = podman.command(&["exec", "-it", "c", "sh"]);
        let mut session = Session::start(command, Input::Terminal(ROWS, COLUMNS));
        shell(&mut session, 9);
        seen.add("code", session.finish().exits(9).code.to_string());
        let short = podman.command(&["exec", "-it", "c", "sh", "-c", "echo out; echo err >&2; exit 4"]);
        seen.outcome("short", &Session::start(short, Input::Terminal(ROWS, COLUMNS)).finish().exits(4));
        let missing = podman.command(&["exec", "-it", "c", "/nosuch"]);
        seen.outcome("missing", &Session::start(missing, Input::Terminal(ROWS, COLUMNS)).finish().exits(127));
    });
}

#[test]
fn detach_and_attach_again() {
    podman_twin!(|podman, seen| {
        let command = podman.command(&["run", "-it", "--name", "c", IMAGE, "sh"]);
        let mut session = Session::start(command, Input::Terminal(ROWS, COLUMNS));
        session.wait_for("# ");
        type_line(&mut session, "X=kept; echo re''ady", "ready\r\n");
        session.wait_for("# ");
        session.leave_with(DETACH);
        seen.add("detached", session.finish().exits(0).code.to_string());
        assert_eq!(podman.inspect("c", "{{.State.Status}}"), "running");
        let mut again = Session::start(podman.command(&["attach", "c"]), Input::Terminal(20, 50));
        // Nothing is replayed, so the shell is asked for a new prompt until podman passes input on.
        again.send(b"\n");
        again.wait_for("# ");
        type_line(&mut again, "echo $X", "kept\r\n");
        sized(&mut again, 20, 50);
        again.send(b"exit 6\n");
        seen.add("attached", again.finish().code.to_string());
        assert_eq!(podman.wait_for_end("c"), 6);
    });
}

#[test]
fn started_attached() {
    podman_twin!(|podman, seen| {
        podman.call(&["create", "-it", "--name", "c", IMAGE, "sh"]).exits(0);
        for code in [3, 4] {
            let command = podman.command(&["start", "-ai", "c"]);
            let mut session = Session::start(command, Input::Terminal(ROWS, COLUMNS));
            shell(&mut session, code);
            seen.add(&format!("code {code}"), session.finish().exits(code).code.to_string());
            podman.wait_for_end("c");
        }
    });
}

#[test]
fn terminal_without_input() {
    podman_twin!(|podman, seen| {
        let outcome = podman.run(&["-t"], "echo out; echo err >&2; tty; exit 3").exits(3);
        assert_eq!(outcome.stdout_text(), "out\r\nerr\r\n/dev/pts/0\r\n");
        seen.outcome("run", &outcome);
        seen.outcome("missing", &podman.call(&["run", "-t", IMAGE, "/nosuch"]).exits(127));
    });
}

#[test]
fn terminal_flooded() {
    podman_twin!(|podman, seen| {
        let command = podman.command(&["run", "-it", IMAGE, "seq", "100000"]);
        let outcome = Session::start(command, Input::Terminal(ROWS, COLUMNS)).finish().exits(0);
        let expected: String = (1..=100_000).map(|number| format!("{number}\r\n")).collect();
        assert!(outcome.stdout_text() == expected, "{} bytes", outcome.stdout.len());
        seen.add("code", outcome.code.to_string());
    });
}

#[test]
fn piped_input() {
    podman_twin!(|podman, seen| {
        let mut session = podman.start(&["-i"], "cat; echo end; exit 2", Input::Pipe);
        session.send(b"one\n");
        session.wait_for("one\n");
        session.send(b"two\n\0\xff");
        let outcome = session.finish().exits(2);
        assert_eq!(outcome.stdout, b"one\ntwo\n\0\xffend\n");
        seen.outcome("cat", &outcome);
        let empty = podman.start(&["-i"], "cat; echo end", Input::Pipe).finish();
        seen.outcome("empty", &empty.exits(0).prints("end\n"));
        let script = format!("{WAIT}; echo ready; wait_for sent; exit 3");
        let mut unread = podman.start(&["-i", &podman.shared()], &script, Input::Pipe);
        unread.send(&[b'x'; 1 << 12]);
        podman.touch("sent");
        let outcome = unread.finish().exits(3);
        // With the original what nobody has read may cost podman the last output.
        if podman.is_ours() {
            outcome.prints("ready\n");
        }
    });
}

#[test]
fn fifty_megabytes_through_stdin_and_out_again() {
    podman_twin!(|podman, seen| {
        // Not a pattern that a lost or doubled block would leave intact.
        let bytes: Vec<u8> =
            (0..50_u32 << 20).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut session = podman.start(&["-i", "--log-driver", "none"], "cat", Input::Pipe);
        session.send(&bytes);
        let outcome = session.finish().exits(0);
        assert!(outcome.stdout == bytes, "{} bytes came back", outcome.stdout.len());
        seen.add("code", outcome.code.to_string());
    });
}

#[test]
fn a_slow_reader_loses_nothing() {
    podman_twin!(|podman, seen| {
        let session = podman.start(&["--name", "c"], "seq 1000000", Input::Null);
        let path = podman.until("the log", || {
            let outcome = podman.call(&["inspect", "--format", "{{.HostConfig.LogConfig.Path}}", "c"]);
            (outcome.code == 0).then(|| outcome.stdout_text().trim_end().to_owned())
        });
        let size = || std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        podman.until("output", || (size() > 0).then_some(()));
        // Nobody reads, so the container comes to stand; or it is through already.
        let mut last = 0;
        podman.until("a standstill", || {
            let before = std::mem::replace(&mut last, size());
            let growing = deadline::try_until(Duration::from_millis(200), || (size() != last).then_some(()));
            (before == last && growing.is_none()).then_some(())
        });
        let outcome = session.finish().exits(0);
        let expected: String = (1..=1_000_000).map(|number| format!("{number}\n")).collect();
        assert!(outcome.stdout_text() == expected, "{} bytes", outcome.stdout.len());
        seen.add("code", outcome.code.to_string());
    });
}

/// Two clients of a container without a terminal; both get what comes after they came.
fn attached(podman: &Podman, seen: &mut Transcript) {
    let script = "trap 'echo bye; exit 4' TERM; while :; do echo tick; sleep 0.05; done";
    podman.run(&["-d", "--name", "c"], script).exits(0);
    let start = || Session::start(podman.command(&["attach", "--no-stdin", "c"]), Input::Null);
    let (mut first, mut second) = (start(), start());
    first.wait_for("tick\n");
    second.wait_for("tick\n");
    podman.call(&["kill", "-s", "TERM", "c"]).exits(0);
    for (name, session) in [("first", first), ("second", second)] {
        let outcome = session.finish();
        // podman itself ends with a newline of its own.
        let ends = outcome.stdout_text().trim_end().ends_with("tick\nbye");
        assert!(ends, "{}", outcome.stdout_text());
        seen.add(name, outcome.code.to_string());
    }
    assert_eq!(podman.wait_for_end("c"), 4);
}

#[test]
fn two_clients_attached() {
    podman_twin!(attached);
}

#[test]
fn input_of_an_attached_client() {
    podman_twin!(|podman, seen| {
        podman
            .run(&["-d", "-i", "--name", "c"], "while read -r line; do echo got $line; done; exit 8")
            .exits(0);
        let mut client = Session::start(podman.command(&["attach", "c"]), Input::Pipe);
        client.send(b"hello\n");
        client.wait_for("got hello\n");
        // The end of a client's input is the end of the container's.
        seen.outcome("attach", &client.finish());
        assert_eq!(podman.wait_for_end("c"), 8);
        seen.outcome("logs", &podman.call(&["logs", "c"]).exits(0).prints("got hello\n"));
    });
}

#[test]
fn top_and_stop_with_sessions() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let mut session =
            Session::start(podman.command(&["exec", "-i", "c", "sh", "-c", "echo up; cat"]), Input::Pipe);
        session.wait_for("up\n");
        seen.outcome("stop", &podman.call(&["stop", "c"]).exits(0));
        seen.add("exec", session.finish().code.to_string());
        podman.until("the end of all monitors", || podman.monitors().is_empty().then_some(()));
    });
}
