//! Interactive containers under podman, on a real terminal: what a user types, sees and drags is the same with the
//! original and with ours, screen by screen; and attached clients of all kinds. `podman_interactive.rs` has the plain
//! conversations.

use std::time::Duration;

use compat_tests::podman::{IMAGE, Podman, WAIT};
use compat_tests::podman_twin;
use compat_tests::pty::{CTRL_C, CTRL_D, DETACH, Pty};
use compat_tests::session::{Input, Outcome, Session, run};
use compat_tests::transcript::Transcript;
use nix::sys::signal::Signal;

/// A shell that waits until its terminal has the size `$1 $2`.
const UNTIL_SIZE: &str = "until test \"$(stty size)\" = \"$1 $2\"; do sleep 0.02; done";

/// The exit code and the screen.
///
/// podman has its container told of a changed terminal when it attaches and when its own terminal changes, with a
/// process that may come too late and then complains on the screen. Whether it does is chance.
///
/// `podman attach` may also leave before it has shown the last of what was typed, the `exit` that ends the shell: seen
/// with either program. So that is no part of the screen; where it matters the log is compared.
fn record(seen: &mut Transcript, name: &str, outcome: &Outcome) {
    let text = outcome.stdout_text();
    let screen = text.split("\x1b[31mERRO").next().unwrap_or_default();
    let screen =
        screen.rsplit_once("exit").filter(|(_, code)| is_code(code)).map_or(screen, |(shown, _)| shown);
    seen.add(&format!("{name}.code"), outcome.code.to_string());
    seen.add(&format!("{name}.screen"), screen.trim_end());
}

fn is_code(text: &str) -> bool {
    text.trim().bytes().all(|byte| byte.is_ascii_digit())
}

fn attach(podman: &Podman) -> Pty {
    Pty::attached(podman.command(&["attach", "c"]))
}

#[test]
fn a_shell_session() {
    podman_twin!(|podman, seen| {
        let mut pty = Pty::shell(podman.command(&["run", "-it", "--name", "c", IMAGE, "sh"]));
        pty.command("echo sum $((40+2))", "sum 42\r\n");
        pty.command("tty", "/dev/pts/0\r\n");
        pty.command("nosuch", "sh: 3: nosuch: not found\r\n");
        pty.enter("exit 7");
        record(seen, "run", &pty.finish().exits(7));
        seen.outcome("logs", &podman.call(&["logs", "c"]).exits(0));
    });
}

#[test]
fn a_window_that_is_dragged() {
    podman_twin!(|podman, seen| {
        let mut pty = Pty::shell(podman.command(&["run", "-it", "--name", "c", IMAGE, "sh"]));
        pty.command(&format!("wanted() {{ {UNTIL_SIZE}; }}"), "");
        pty.command("wanted 24 80; stty size", "24 80\r\n");
        for (rows, columns) in [(40, 132), (1, 1), (999, 1000), (24, 80)] {
            pty.resize(rows, columns);
            pty.command(&format!("wanted {rows} {columns}; stty size"), &format!("{rows} {columns}\r\n"));
        }
        pty.keys(CTRL_D);
        record(seen, "run", &pty.finish().exits(0));
    });
}

#[test]
fn a_program_is_told_that_its_window_changed() {
    podman_twin!(|podman, seen| {
        // Without job control the shell is in the foreground, too. The size comes first, the signal behind it.
        let script = format!(
            "wanted() {{ {UNTIL_SIZE}; }}; wanted 24 80; trap 'told=yes' WINCH; echo up; wanted 30 90; \
             until test $told; do sleep 0.02; done; stty size"
        );
        let mut pty = Pty::attached(podman.command(&["run", "-it", IMAGE, "sh", "-c", &script]));
        pty.expect("up\r\n");
        pty.resize(30, 90);
        pty.expect("30 90\r\n");
        record(seen, "run", &pty.finish().exits(0));
    });
}

#[test]
fn the_interrupt_key() {
    podman_twin!(|podman, seen| {
        let mut pty = Pty::shell(podman.command(&["run", "-it", "--name", "c", IMAGE, "sh"]));
        pty.enter("sh -c 'trap \"exit 130\" INT; echo up $((1+1)); while :; do sleep 0.02; done'");
        pty.expect("up 2\r\n");
        pty.keys(CTRL_C);
        pty.expect("^C");
        pty.expect("# ");
        pty.command("echo code $?", "code 130\r\n");
        // Input that nobody has read is thrown away by the key.
        pty.keys("never run");
        pty.expect("never run");
        pty.keys(CTRL_C);
        pty.expect("# ");
        pty.keys(CTRL_D);
        record(seen, "run", &pty.finish());
    });
}

#[test]
fn detached_and_attached_again() {
    podman_twin!(|podman, seen| {
        let mut pty = Pty::shell(podman.command(&["run", "-it", "--name", "c", IMAGE, "sh"]));
        pty.command("word=kept", "");
        pty.press(DETACH);
        record(seen, "run", &pty.finish().exits(0));
        assert_eq!(podman.inspect("c", "{{.State.Status}}"), "running");
        // Twice, so that the first client's end is seen to have closed nothing.
        for name in ["attach", "attach again"] {
            let mut pty = attach(podman);
            pty.command("echo $word", "kept\r\n");
            pty.press(DETACH);
            record(seen, name, &pty.finish());
        }
        let mut pty = attach(podman);
        pty.enter("exit 3");
        // This podman does not pass the exit code on.
        record(seen, "last", &pty.finish());
        assert_eq!(podman.wait_for_end("c"), 3);
        seen.outcome("logs", &podman.call(&["logs", "c"]).exits(0));
    });
}

#[test]
fn detach_keys_of_ones_own() {
    podman_twin!(|podman, seen| {
        let own = ["run", "-it", "--detach-keys", "ctrl-x,d", "--name", "c", IMAGE, "sh"];
        let mut pty = Pty::shell(podman.command(&own));
        // The usual ones do nothing, and half of a sequence is typed like anything else.
        pty.press(DETACH);
        pty.press("\x18x");
        // Ctrl-q means "go on" to a terminal, which shows it to nobody.
        pty.expect("^P^Xx");
        pty.press(CTRL_C);
        pty.expect("# ");
        pty.press("\x18d");
        record(seen, "run", &pty.finish().exits(0));
        seen.outcome("kill", &podman.call(&["kill", "c"]).exits(0));
        assert_eq!(podman.wait_for_end("c"), 137);
    });
}

#[test]
fn a_terminal_of_another_size_attaches() {
    podman_twin!(|podman, seen| {
        let mut pty = Pty::shell(podman.command(&["run", "-it", "--name", "c", IMAGE, "sh"]));
        pty.command(&format!("wanted() {{ {UNTIL_SIZE}; }}"), "");
        pty.command("wanted 24 80", "");
        pty.resize(50, 100);
        pty.command("wanted 50 100", "");
        pty.press(DETACH);
        pty.finish().exits(0);
        let mut pty = attach(podman);
        pty.command("wanted 24 80; stty size", "24 80\r\n");
        pty.enter("exit");
        record(seen, "attach", &pty.finish().exits(0));
    });
}

#[test]
fn start_attached() {
    podman_twin!(|podman, seen| {
        podman.call(&["create", "-it", "--name", "c", IMAGE, "sh"]).exits(0);
        for (name, code) in [("first", 4), ("again", 5)] {
            let mut pty = Pty::shell(podman.command(&["start", "-ai", "c"]));
            pty.command("echo $((1+2))", "3\r\n");
            pty.enter(&format!("exit {code}"));
            record(seen, name, &pty.finish().exits(code));
            podman.wait_for_end("c");
        }
    });
}

#[test]
fn start_attached_with_a_pipe() {
    podman_twin!(|podman, seen| {
        podman.call(&["create", "-i", "--name", "c", IMAGE, "sh", "-c", "cat; echo end; exit 6"]).exits(0);
        let mut session = Session::start(podman.command(&["start", "-ai", "c"]), Input::Pipe);
        session.send(b"typed early\n");
        session.wait_for("typed early\n");
        seen.outcome("start", &session.finish().exits(6).prints("typed early\nend\n"));
    });
}

#[test]
fn a_terminal_without_stdin() {
    podman_twin!(|podman, seen| {
        let script = "tty; echo out; echo err >&2; stty -a | grep -o 'onlcr'; exit 5";
        let outcome = podman.run(&["-t", "--name", "c"], "tty; echo out; echo err >&2; exit 5").exits(5);
        assert_eq!(
            outcome.stdout_text(),
            "/dev/pts/0\r\nout\r\nerr\r\n",
            "all is stdout, lines end in CR LF"
        );
        seen.outcome("no terminal outside", &outcome);
        let mut pty = Pty::start(podman.command(&["run", "-t", IMAGE, "sh", "-c", script]));
        pty.expect("err\r\n");
        record(seen, "terminal outside", &pty.finish().exits(5));
        seen.outcome("logs", &podman.call(&["logs", "c"]).exits(0));
    });
}

#[test]
fn a_terminal_without_a_terminal_outside() {
    podman_twin!(|podman, _| {
        let mut session = podman.start(&["-it", "--name", "c"], "read a; echo got $a; exit 2", Input::Pipe);
        session.send(b"typed\n");
        session.wait_for("got typed");
        let outcome = session.finish().exits(2);
        assert!(outcome.stdout_text().ends_with("got typed\r\n"), "{outcome:?}");
    });
}

#[test]
fn stdin_without_a_terminal() {
    podman_twin!(|podman, seen| {
        let mut pty = Pty::start(podman.command(&["run", "-i", IMAGE, "sh", "-c", "echo up; cat; exit 3"]));
        pty.expect("up\r\n");
        pty.enter("line");
        pty.expect("line\r\nline\r\n");
        pty.keys(CTRL_D);
        record(seen, "run", &pty.finish().exits(3));
    });
}

#[test]
fn the_end_of_input_ends_cat() {
    podman_twin!(|podman, seen| {
        let cat = ["run", "-i", IMAGE, "sh", "-c", "cat; echo end"];
        seen.outcome("nothing", &run(podman.command(&cat)).exits(0).prints("end\n"));
        let mut session = Session::start(podman.command(&cat), Input::Pipe);
        session.send(b"a\nb");
        session.wait_for("b");
        seen.outcome("something", &session.finish().exits(0).prints("a\nbend\n"));
        // Nobody reads what is sent, and then it is cut off.
        let script = format!("{WAIT}; exec <&-; echo closed; wait_for sent; exit 8");
        let mut session = podman.start(&["-i", &podman.shared()], &script, Input::Pipe);
        session.send(&[b'x'; 1000]);
        session.wait_for("closed\n");
        session.send(&[b'x'; 1000]);
        podman.touch("sent");
        seen.outcome("unread", &session.finish().exits(8).prints("closed\n"));
    });
}

/// Bytes that repeat only after a long time, newlines and NULs among them.
fn pattern(len: usize) -> Vec<u8> {
    (0..).flat_map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
}

#[test]
fn input_that_is_only_counted() {
    podman_twin!(|podman, seen| {
        let data = pattern(20 << 20);
        let mut session = Session::start(podman.command(&["run", "-i", IMAGE, "wc", "-c"]), Input::Pipe);
        session.send(&data);
        seen.outcome("run", &session.finish().exits(0).prints(&format!("{}\n", data.len())));
    });
}

#[test]
fn two_terminals_attached() {
    podman_twin!(|podman, seen| {
        let mut first = Pty::shell(podman.command(&["run", "-it", "--name", "c", IMAGE, "sh"]));
        let mut second = attach(podman);
        // Until something comes back nothing tells that podman has attached; the first sees all of it as well.
        second.command("echo $((1+1))", "2\r\n");
        first.expect("2\r\n# ");
        first.command("echo $((2+2))", "4\r\n");
        second.expect("4\r\n# ");
        first.press(DETACH);
        record(seen, "first", &first.finish().exits(0));
        second.command("echo $((3+3))", "6\r\n");
        second.enter("exit 2");
        record(seen, "second", &second.finish());
        assert_eq!(podman.wait_for_end("c"), 2);
    });
}

#[test]
fn attached_without_stdin() {
    podman_twin!(|podman, seen| {
        podman.run(&["-d", "-i", "--name", "c"], "cat; echo end; exit 4").exits(0);
        let mut session = Session::start(podman.command(&["attach", "--no-stdin", "c"]), Input::Pipe);
        session.send(b"never read\n");
        // podman closes its side of the socket at once, which is the end of the container's input.
        session.wait_for("end\n");
        let outcome = session.finish();
        assert!(!outcome.stdout_text().contains("never"), "{outcome:?}");
        seen.add("code", outcome.code.to_string());
        assert_eq!(podman.wait_for_end("c"), 4);
    });
}

/// A container that says what reaches it, and one client of it.
fn proxied(podman: &Podman, option: &str) -> Session {
    let script = "trap 'echo usr1' USR1; trap 'exit 9' TERM; while :; do echo tick; sleep 0.05; done";
    podman.run(&["-d", "--name", "c"], script).exits(0);
    let mut session = Session::start(podman.command(&["attach", option, "c"]), Input::Null);
    session.wait_for("tick\n");
    session
}

#[test]
fn attached_with_signals_passed_on() {
    podman_twin!(|podman, seen| {
        let mut session = proxied(podman, "--sig-proxy=true");
        session.signal(Signal::SIGUSR1);
        session.wait_for("usr1\n");
        session.signal(Signal::SIGTERM);
        seen.add("code", session.finish().code.to_string());
        assert_eq!(podman.wait_for_end("c"), 9);
    });
}

#[test]
fn attached_without_signals_passed_on() {
    podman_twin!(|podman, seen| {
        let session = proxied(podman, "--sig-proxy=false");
        session.signal(Signal::SIGTERM);
        seen.add("code", session.finish().code.to_string());
        assert_eq!(podman.inspect("c", "{{.State.Status}}"), "running");
        // A new client finds the container as it was.
        let mut again = Session::start(podman.command(&["attach", "c"]), Input::Null);
        again.wait_for("tick\n");
        podman.call(&["kill", "-s", "TERM", "c"]).exits(0);
        seen.add("again", again.finish().code.to_string());
        assert_eq!(podman.wait_for_end("c"), 9);
    });
}

#[test]
fn a_reader_that_pauses_loses_nothing() {
    podman_twin!(|podman, _| {
        let mut session = podman.start(&["--log-driver", "none"], "seq 400000", Input::Null);
        // A pipe's content at a time, and nothing in between.
        let mut before = 0;
        for _ in 0..20 {
            session.wait_until("writing more", |stdout, _| stdout.len() > before);
            before = session.stdout().len();
            std::thread::sleep(Duration::from_millis(20));
        }
        let outcome = session.finish().exits(0);
        let expected: String = (1..=400_000).map(|number| format!("{number}\n")).collect();
        assert!(outcome.stdout_text() == expected, "{} bytes", outcome.stdout.len());
    });
}

#[test]
fn a_reader_that_has_seen_enough() {
    podman_twin!(|podman, seen| {
        let mut session = podman.start(&["--name", "c"], "seq 300000; exit 3", Input::Null);
        session.wait_for("1\n");
        session.leave_output();
        // podman dies of the broken pipe, by its signal or with an error, as it happens; the container does not notice.
        let code = session.finish().code;
        assert!([126, 141].contains(&code), "podman ended with {code}");
        seen.add("broken pipe", "told");
        assert_eq!(podman.wait_for_end("c"), 3);
        let logs = podman.call(&["logs", "c"]).exits(0);
        let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
        assert!(logs.stdout_text() == expected, "{} bytes in the log", logs.stdout.len());
    });
}
