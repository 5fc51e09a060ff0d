//! Exec sessions beyond the plain ones of `podman_interactive.rs`: many at once, windows, users, descriptors, sessions
//! that outlive something; and CRI-O's ExecSync with real runc. The same with the original and with ours.

use std::process::Command;

use compat_tests::podman::Podman;
use compat_tests::podman_twin;
use compat_tests::pty::{CTRL_C, DETACH, Pty};
use compat_tests::session::{Input, Outcome, Session, run};

/// A container that does nothing until it is killed.
const IDLE: &str = "echo up; while :; do sleep 0.1; done";

fn idle(podman: &Podman) {
    podman.run(&["-d", "--name", "c"], IDLE).exits(0);
}

/// `podman exec OPTIONS c sh -c SCRIPT`, not yet started.
fn command(podman: &Podman, options: &[&str], script: &str) -> Command {
    podman.command(&[&["exec"], options, &["c", "sh", "-c", script]].concat())
}

fn exec(podman: &Podman, options: &[&str], script: &str) -> Outcome {
    run(command(podman, options, script))
}

/// Waits until only `count` monitors are left: a session's monitor cleans up after its client has seen the end.
fn settle(podman: &Podman, count: usize) {
    podman.until("the sessions' monitors to end", || (podman.monitors().len() == count).then_some(()));
}

#[test]
fn options_of_the_process() {
    podman_twin!(|podman, seen| {
        podman.run(&["-d", "--name", "c", "-e", "A=outer", "-w", "/home"], IDLE).exits(0);
        for (name, options, expected) in [
            ("inherited", &[][..], "outer - /home 0:0\n"),
            ("own", &["-e", "A=inner", "-e", "B=", "-w", "/tmp"][..], "inner - /tmp 0:0\n"),
            ("user", &["--user", "1000:1001"][..], "outer - /home 1000:1001\n"),
            ("privileged", &["--privileged"][..], "outer - /home 0:0\n"),
        ] {
            let outcome = exec(podman, options, "echo $A ${B:--} $(pwd) $(id -u):$(id -g)").exits(0);
            seen.outcome(name, &outcome.prints(expected));
        }
        seen.outcome("no such directory", &exec(podman, &["-w", "/nosuch"], "true"));
        seen.outcome("no such user", &exec(podman, &["--user", "nosuch"], "true"));
        settle(podman, 1);
    });
}

#[test]
fn another_user_can_open_the_standard_streams() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let script = "echo out >/dev/stdout; echo err >/dev/stderr; cat </dev/stdin";
        let mut session = Session::start(command(podman, &["-i", "--user", "1000"], script), Input::Pipe);
        session.send(b"in\n");
        // Old versions keep the pipes to root, and so does a kernel that refuses to change their mode.
        seen.outcome("exec", &session.finish());
    });
}

#[test]
fn inherited_descriptors() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let data = podman.dir().join("data");
        std::fs::write(&data, "from outside\n").unwrap();
        let inner = command(podman, &["--preserve-fds", "1"], "cat <&3");
        let mut outer = Command::new("sh");
        outer.args(["-c", "exec 3<\"$0\"; exec \"$@\""]).arg(&data);
        outer.arg(inner.get_program()).args(inner.get_args()).env_clear();
        outer.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        seen.outcome("exec", &run(outer).exits(0).prints("from outside\n"));
    });
}

#[test]
fn megabytes_both_ways() {
    podman_twin!(|podman, _| {
        idle(podman);
        let data: Vec<u8> =
            (0..2 << 20).flat_map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut session = Session::start(command(podman, &["-i"], "tee /dev/stderr; exit 4"), Input::Pipe);
        session.send(&data);
        let outcome = session.finish().exits(4);
        assert!(outcome.stdout == data, "stdout has {} bytes", outcome.stdout.len());
        assert!(outcome.stderr == data, "stderr has {} bytes", outcome.stderr.len());
    });
}

#[test]
fn a_window_that_is_dragged() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let mut pty = Pty::shell(podman.command(&["exec", "-it", "c", "sh"]));
        pty.command("wanted() { until test \"$(stty size)\" = \"$*\"; do sleep 0.02; done; stty size; }", "");
        pty.command("wanted 24 80", "24 80\r\n");
        for (rows, columns) in [(50, 120), (1, 1), (24, 80)] {
            pty.resize(rows, columns);
            pty.command(&format!("wanted {rows} {columns}"), &format!("{rows} {columns}\r\n"));
        }
        pty.enter("exit 9");
        seen.outcome("exec", &pty.finish().exits(9));
    });
}

#[test]
fn the_interrupt_key() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let script = "trap 'echo caught; exit 5' INT; echo up; while :; do sleep 0.02; done";
        let mut pty = Pty::attached(command(podman, &["-it"], script));
        pty.expect("up\r\n");
        pty.keys(CTRL_C);
        seen.outcome("exec", &pty.finish().exits(5));
        assert_eq!(podman.inspect("c", "{{.State.Status}}"), "running");
    });
}

#[test]
fn a_session_that_is_left() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let script =
            "read a; echo got $a; until test -e /tmp/go; do sleep 0.02; done; echo late; touch /tmp/done";
        let mut pty = Pty::attached(command(podman, &["-it"], script));
        pty.keys("x\r");
        pty.expect("got x\r\n");
        pty.press(DETACH);
        let outcome = pty.finish();
        // This podman takes leaving for a failure, and says after how many seconds.
        assert!(outcome.stdout_text().contains("detached from container"), "{outcome:?}");
        seen.add("code", outcome.code.to_string());
        // It goes on without a client, and what it writes blocks nobody.
        exec(podman, &[], "touch /tmp/go").exits(0);
        podman.until("its end", || exec(podman, &[], "test -e /tmp/done").code.eq(&0).then_some(()));
        settle(podman, 1);
    });
}

#[test]
fn a_client_that_is_killed() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let script = "echo up; until test -e /tmp/go; do sleep 0.02; done; seq 10000; touch /tmp/done";
        let mut session = Session::start(command(podman, &[], script), Input::Null);
        session.wait_for("up\n");
        session.signal(nix::sys::signal::Signal::SIGKILL);
        seen.outcome("exec", &session.finish().exits(137));
        exec(podman, &[], "touch /tmp/go").exits(0);
        podman.until("its end", || exec(podman, &[], "test -e /tmp/done").code.eq(&0).then_some(()));
        settle(podman, 1);
    });
}

#[test]
fn many_at_once() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let one = |number: i32| {
                let script =
                    format!("cat; seq {number}000 | tail -n 1; echo err {number} >&2; exit {number}");
                let mut session = Session::start(command(podman, &["-i"], &script), Input::Pipe);
                session.send(format!("in {number}\n").as_bytes());
                session.finish().exits(number)
            };
            let threads: Vec<_> = (1..=12).map(|number| scope.spawn(move || one(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (number, outcome) in (1..).zip(&outcomes) {
            assert_eq!(outcome.stdout_text(), format!("in {number}\n{number}000\n"));
            assert_eq!(outcome.stderr_text(), format!("err {number}\n"));
            seen.outcome(&format!("exec {number}"), outcome);
        }
        settle(podman, 1);
        seen.add("files", podman.files().join("\n"));
    });
}

#[test]
fn the_container_dies_meanwhile() {
    podman_twin!(|podman, seen| {
        idle(podman);
        let mut sessions: Vec<Session> =
            (0..3).map(|_| Session::start(command(podman, &[], "echo up; sleep 100"), Input::Null)).collect();
        sessions.iter_mut().for_each(|session| session.wait_for("up\n"));
        let mut pty = Pty::attached(command(podman, &["-it"], "echo up; sleep 100"));
        pty.expect("up\r\n");
        podman.call(&["kill", "c"]).exits(0);
        for (number, session) in sessions.into_iter().enumerate() {
            seen.outcome(&format!("exec {number}"), &session.finish().exits(137).prints("up\n"));
        }
        seen.add("on a terminal", pty.finish().exits(137).stdout_text());
        assert_eq!(podman.wait_for_end("c"), 137);
        let late = exec(podman, &[], "true");
        assert_ne!(late.code, 0);
        seen.add("afterwards", late.code.to_string());
        settle(podman, 0);
    });
}

#[test]
fn detached_sessions() {
    podman_twin!(|podman, seen| {
        idle(podman);
        for (number, options) in (0..).zip([&["-d"][..], &["-d", "-t"], &["-d", "-i"], &["-d", "-w", "/tmp"]])
        {
            let script = format!("echo lost; echo lost >&2; test -t 1; echo {number} $? >>/tmp/done");
            let outcome = exec(podman, options, &script).exits(0);
            seen.outcome(&format!("exec {number}"), &outcome);
            settle(podman, 1);
        }
        let done = exec(podman, &[], "cat /tmp/done").exits(0);
        seen.outcome("done", &done.prints("0 1\n1 0\n2 1\n3 1\n"));
    });
}

#[test]
fn failures_on_a_terminal() {
    podman_twin!(|podman, seen| {
        idle(podman);
        for (name, args) in [("directory", &["/etc"][..]), ("killed", &["sh", "-c", "kill -9 $$"][..])] {
            let pty = Pty::start(podman.command(&[&["exec", "-it", "c"], args].concat()));
            seen.outcome(name, &pty.finish());
        }
        let none = podman.call(&["exec", "-t", "c", "tty"]).exits(0);
        seen.outcome("no terminal outside", &none);
        settle(podman, 1);
    });
}
