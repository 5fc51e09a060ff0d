//! podman as the driver: the same commands with the original and with ours give the same exit codes, the same output
//! and leave the same files.
//!
//! Each scenario also says what it expects, so that both sides being wrong in the same way is noticed.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use compat_tests::podman::{IMAGE, Podman, WAIT};
use compat_tests::podman_twin;
use compat_tests::session::{Input, run};
use compat_tests::{Process, deadline, image, observe};

/// Ends with 7 when it is told to end; "up" tells that the trap is set.
const TRAP: &str = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done";
/// Process 1 without a handler: TERM does nothing to it.
const STUBBORN: &str = "echo up; while :; do sleep 0.05; done";

#[test]
fn exit_codes_in_the_foreground() {
    podman_twin!(|podman, seen| {
        for code in [0, 1, 3, 125, 255] {
            seen.outcome(&format!("exit {code}"), &podman.run(&[], &format!("exit {code}")).exits(code));
        }
    });
}

#[test]
fn stdout_and_stderr_stay_apart() {
    podman_twin!(|podman, seen| {
        let outcome = podman
            .run(&["--name", "c"], r"echo out; echo err >&2; printf 'a\0\377'; printf part >&2")
            .exits(0);
        assert_eq!(outcome.stdout, b"out\na\0\xff");
        assert_eq!(outcome.stderr, b"err\npart");
        seen.outcome("run", &outcome);
        let logs = podman.call(&["logs", "c"]).exits(0);
        seen.outcome("logs", &logs);
    });
}

#[test]
fn megabytes_arrive_whole() {
    podman_twin!(|podman, _| {
        let outcome = podman.run(&["--name", "c"], "seq 300000; seq 300000 >&2").exits(0);
        let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
        assert!(outcome.stdout_text() == expected, "stdout");
        assert!(outcome.stderr_text() == expected, "stderr");
        let logs = podman.call(&["logs", "c"]).exits(0);
        assert!(logs.stdout_text() == expected, "stdout in the log");
        assert!(logs.stderr_text() == expected, "stderr in the log");
    });
}

#[test]
fn detached_then_logs_wait_rm() {
    podman_twin!(|podman, seen| {
        seen.outcome("run", &podman.run(&["-d", "--name", "c"], "echo out; echo err >&2; exit 5").exits(0));
        seen.outcome("wait", &podman.call(&["wait", "c"]).exits(0).prints("5\n"));
        seen.outcome("logs", &podman.call(&["logs", "c"]).exits(0).prints("out\n"));
        podman.wait_for_end("c");
        seen.outcome("rm", &podman.call(&["rm", "c"]).exits(0));
        seen.outcome("ps", &podman.call(&["ps", "-aq"]).exits(0).prints(""));
        seen.add("files", podman.files().join("\n"));
        assert_eq!(podman.files(), Vec::<String>::new());
    });
}

#[test]
fn rm_leaves_nothing() {
    podman_twin!(|podman, seen| {
        seen.outcome("foreground", &podman.run(&["--rm"], "echo x; exit 2").exits(2).prints("x\n"));
        seen.outcome("detached", &podman.run(&["--rm", "-d", "--name", "c"], "sleep 0.2").exits(0));
        podman.until("the removal", || podman.call(&["container", "exists", "c"]).code.eq(&1).then_some(()));
        podman.until("an empty directory", || podman.files().is_empty().then_some(()));
        podman.until("the end of the monitor", || podman.processes().is_empty().then_some(()));
    });
}

#[test]
fn files_after_the_exit() {
    podman_twin!(|podman, seen| {
        podman.run(&["-d", "--name", "c"], "exit 4").exits(0);
        assert_eq!(podman.wait_for_end("c"), 4);
        seen.add("files", podman.files().join("\n"));
        seen.add(
            "log mode",
            observe::mode(Path::new(&podman.inspect("c", "{{.HostConfig.LogConfig.Path}}"))),
        );
        seen.outcome(
            "ps",
            &podman.call(&["ps", "-a", "--format", "{{.Names}} {{.ExitCode}}"]).prints("c 4\n"),
        );
    });
}

#[test]
fn files_while_running() {
    podman_twin!(|podman, seen| {
        podman.run(&["-d", "--name", "c"], STUBBORN).exits(0);
        seen.add("files", podman.files().join("\n"));
        // Whoever started it may still be on its way out.
        let monitors = podman.until("one monitor", || Some(podman.monitors()).filter(|all| all.len() == 1));
        let pid: u32 = podman.inspect("c", "{{.State.ConmonPid}}").parse().unwrap();
        assert!(monitors[0].starts_with(&format!("{pid} ")), "{monitors:?}");
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(comm, "conmon\n");
    });
}

#[test]
fn timeout() {
    podman_twin!(|podman, seen| {
        seen.outcome(
            "run",
            &podman.run(&["--timeout", "5", "--name", "c"], "echo up; sleep 500").prints("up\n"),
        );
        podman.wait_for_end("c");
        seen.add("exit code", podman.inspect("c", "{{.State.ExitCode}}"));
    });
}

#[test]
fn missing_command() {
    podman_twin!(|podman, seen| {
        seen.outcome("run", &podman.call(&["run", IMAGE, "/nosuch"]).exits(127));
        seen.outcome("run in PATH", &podman.call(&["run", IMAGE, "nosuch"]).exits(127));
        seen.outcome("run -d", &podman.call(&["run", "-d", "--rm", IMAGE, "/nosuch"]).exits(127));
        seen.outcome("ps", &podman.call(&["ps", "-a", "--format", "{{.Status}}"]).exits(0));
        podman.until("the end of the monitors", || podman.processes().is_empty().then_some(()));
        seen.add("files", podman.files().join("\n"));
    });
}

#[test]
fn directory_as_command() {
    podman_twin!(|podman, seen| {
        seen.outcome("run", &podman.call(&["run", IMAGE, "/etc"]).exits(126));
    });
}

#[test]
fn other_failures_of_the_runtime() {
    podman_twin!(|podman, seen| {
        let refused = podman.call(&["run", "--oom-score-adj", "5000", IMAGE, "true"]);
        assert_ne!(refused.code, 0);
        seen.outcome("bad option", &refused);
        let bad_sysctl = podman.call(&["run", "--sysctl", "net.nosuch=1", IMAGE, "true"]);
        assert_ne!(bad_sysctl.code, 0);
        seen.outcome("bad sysctl", &bad_sysctl);
    });
}

#[test]
fn killed() {
    podman_twin!(|podman, seen| {
        let mut session = podman.start(&["--name", "c"], STUBBORN, Input::Null);
        session.wait_for("up\n");
        seen.outcome("kill", &podman.call(&["kill", "c"]).exits(0));
        seen.outcome("run", &session.finish().exits(137).prints("up\n"));
        podman.wait_for_end("c");
        seen.add("state", podman.inspect("c", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}"));
    });
}

#[test]
fn kill_with_term() {
    podman_twin!(|podman, seen| {
        let mut session = podman.start(&["--name", "trap"], TRAP, Input::Null);
        session.wait_for("up\n");
        seen.outcome("kill", &podman.call(&["kill", "-s", "TERM", "trap"]).exits(0));
        seen.outcome("run", &session.finish().exits(7));
        // Without a handler process 1 lives on.
        let mut session = podman.start(&["--name", "stubborn"], STUBBORN, Input::Null);
        session.wait_for("up\n");
        podman.call(&["kill", "-s", "TERM", "stubborn"]).exits(0);
        assert_eq!(podman.inspect("stubborn", "{{.State.Status}}"), "running");
        podman.call(&["kill", "-s", "KILL", "stubborn"]).exits(0);
        seen.outcome("run without a trap", &session.finish().exits(137));
    });
}

#[test]
fn stop_with_a_trap() {
    podman_twin!(|podman, seen| {
        let mut session = podman.start(&["--name", "c"], TRAP, Input::Null);
        session.wait_for("up\n");
        seen.outcome("stop", &podman.call(&["stop", "c"]).exits(0));
        seen.outcome("run", &session.finish().exits(7));
        seen.outcome("wait", &podman.call(&["wait", "c"]).exits(0).prints("7\n"));
        seen.outcome("logs", &podman.call(&["logs", "c"]).prints("up\n"));
    });
}

#[test]
fn stop_after_the_grace() {
    podman_twin!(|podman, seen| {
        podman.run(&["-d", "--name", "c"], STUBBORN).exits(0);
        seen.outcome("stop", &podman.call(&["stop", "-t", "1", "c"]).exits(0));
        assert_eq!(podman.wait_for_end("c"), 137);
        // The exit command and `stop` both clean up; which of them finds something to do is chance.
        let mut events = podman.events("c");
        events.retain(|event| event != "stop");
        events.dedup();
        seen.add("events", events.join(" "));
    });
}

#[test]
fn restart_policy() {
    podman_twin!(|podman, seen| {
        podman.run(&["-d", "--name", "c", "--restart", "on-failure:2"], "echo run; exit 4").exits(0);
        podman.until("the last cleanup", || podman.events("c").contains(&"cleanup".into()).then_some(()));
        assert_eq!(podman.wait_for_end("c"), 4);
        seen.outcome("logs", &podman.call(&["logs", "c"]).exits(0).prints("run\nrun\nrun\n"));
        seen.add("count", podman.inspect("c", "{{.RestartCount}}"));
        seen.add("events", podman.events("c").join(" "));
    });
}

#[test]
fn logs_of_both_streams() {
    podman_twin!(|podman, seen| {
        let script =
            "i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo out $i; echo err $i >&2; done; printf end";
        podman.run(&["-d", "--name", "c"], script).exits(0);
        podman.wait_for_end("c");
        let logs = podman.call(&["logs", "c"]).exits(0);
        assert_eq!(logs.stdout_text().lines().count(), 501);
        assert_eq!(logs.stderr_text().lines().count(), 500);
        seen.outcome("logs", &logs);
        // Which stream's records come last is chance, so the end is looked at with one stream only.
        podman.run(&["--name", "tail"], "seq 100; printf end").exits(0);
        seen.outcome("tail", &podman.call(&["logs", "--tail", "3", "tail"]).exits(0));
        seen.outcome("tail 0", &podman.call(&["logs", "--tail", "0", "c"]).exits(0).prints(""));
    });
}

#[test]
fn logs_since_and_with_times() {
    podman_twin!(|podman, seen| {
        // Two reads, and so two times, because the second line comes when the first one is in the log.
        let script = format!("{WAIT}; echo early; wait_for late; echo late");
        podman.run(&["-d", "--name", "c", &podman.shared()], &script).exits(0);
        let log = podman.inspect("c", "{{.HostConfig.LogConfig.Path}}");
        podman.until("the first line", || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.ends_with("early\n")).then_some(())
        });
        podman.touch("late");
        assert_eq!(podman.wait_for_end("c"), 0);
        let times = podman.call(&["logs", "-t", "c"]).exits(0);
        seen.outcome("times", &times);
        let lines = times.stdout_text();
        let late = lines.lines().last().unwrap().strip_suffix(" late").unwrap().to_owned();
        seen.outcome("since", &podman.call(&["logs", "--since", &late, "c"]).exits(0));
        seen.outcome(
            "since 1h",
            &podman.call(&["logs", "--since", "1h", "c"]).exits(0).prints("early\nlate\n"),
        );
        seen.outcome("until", &podman.call(&["logs", "--until", &late, "c"]).exits(0));
    });
}

#[test]
fn logs_are_followed_to_the_end() {
    podman_twin!(|podman, seen| {
        let script = "echo first; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo second; exit 6";
        podman.run(&["-d", "--name", "c"], script).exits(0);
        let mut follower =
            compat_tests::session::Session::start(podman.command(&["logs", "-f", "c"]), Input::Null);
        follower.wait_for("first\n");
        // It learns of the end from podman's events, and would wait for ever for one that came before it looked.
        podman.until("the follower to watch the events", || {
            watches_events(podman, follower.pid()).then_some(())
        });
        podman.call(&["exec", "c", "touch", "/tmp/go"]).exits(0);
        seen.outcome("follow", &follower.finish().exits(0).prints("first\nsecond\n"));
        seen.outcome("wait", &podman.call(&["wait", "c"]).prints("6\n"));
    });
}

/// Whether `process` has podman's file of events open for reading.
fn watches_events(podman: &Podman, process: nix::unistd::Pid) -> bool {
    let file = podman.dir().join("tmp/events/events.log");
    Process(process.as_raw()).fds().values().any(|target| Path::new(target) == file)
}

#[test]
fn log_driver_none() {
    podman_twin!(|podman, seen| {
        seen.outcome(
            "run",
            &podman.run(&["--name", "c", "--log-driver", "none"], "echo x; exit 3").exits(3).prints("x\n"),
        );
        seen.outcome("logs", &podman.call(&["logs", "c"]));
        podman.wait_for_end("c");
        seen.add("files", podman.files().join("\n"));
    });
}

#[test]
fn log_driver_passthrough() {
    podman_twin!(|podman, seen| {
        let options = ["--name", "c", "--log-driver", "passthrough"];
        seen.outcome("run", &podman.run(&options, "echo out; echo err >&2; exit 3").exits(3).prints("out\n"));
        seen.outcome("logs", &podman.call(&["logs", "c"]));
        podman.wait_for_end("c");
        seen.add("files", podman.files().join("\n"));
        let options = ["-d", "--log-driver", "passthrough"];
        let detached = podman.run(&options, "echo late; exit 1");
        assert!(detached.stdout_text().contains("late\n"), "{detached:?}");
        seen.add("detached.code", detached.code.to_string());
    });
}

#[test]
fn log_limited_in_size() {
    podman_twin!(|podman, seen| {
        let options = ["--name", "c", "--log-opt", "max-size=20kb"];
        podman.run(&options, "seq 5000").exits(0);
        let path = podman.inspect("c", "{{.HostConfig.LogConfig.Path}}");
        let log = std::fs::read_to_string(path).unwrap();
        assert!(log.len() <= 20_480, "{} bytes", log.len());
        assert!(log.ends_with(" stdout F 5000\n"), "{log}");
        seen.add("limit", podman.inspect("c", "{{.HostConfig.LogConfig.Size}}"));
    });
}

#[test]
fn log_path_and_refused_tag() {
    podman_twin!(|podman, seen| {
        let path = podman.dir().join("own.log");
        let option = format!("path={}", path.display());
        podman.run(&["--log-opt", &option], "echo here").exits(0);
        seen.add("log", std::fs::read_to_string(path).unwrap());
        // What podman says besides depends on whether it still reached the monitor with its start byte.
        let tagged = podman.run(&["--log-opt", "tag=x"], "echo never");
        assert_ne!(tagged.code, 0);
        let refusal = tagged.stderr_text().contains("k8s-file doesn't support --log-tag");
        assert!(refusal, "{tagged:?}");
    });
}

#[test]
fn inspected_state() {
    podman_twin!(|podman, seen| {
        // podman notes the start when the runtime has returned, which may be after a short container's end.
        let script = format!("{WAIT}; wait_for end; exit 9");
        podman.run(&["-d", "--name", "c", &podman.shared()], &script).exits(0);
        podman.touch("end");
        assert_eq!(podman.wait_for_end("c"), 9);
        let fields = "{{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Pid}} \
                      {{.State.ConmonPid}} {{.State.Error}} {{.ConmonPidFile}} {{.PidFile}} {{.OCIRuntime}}";
        seen.add("state", podman.inspect("c", fields));
        let order = "{{.State.FinishedAt.After .State.StartedAt}}";
        assert_eq!(podman.inspect("c", order), "true");
    });
}

#[test]
fn pidfiles() {
    podman_twin!(|podman, seen| {
        let container = podman.dir().join("container.pid");
        let monitor = podman.dir().join("monitor.pid");
        let (first, second) = (container.to_string_lossy(), monitor.to_string_lossy());
        podman
            .run(&["-d", "--name", "c", "--pidfile", &first, "--conmon-pidfile", &second], STUBBORN)
            .exits(0);
        assert_eq!(std::fs::read_to_string(&container).unwrap(), podman.inspect("c", "{{.State.Pid}}"));
        assert_eq!(std::fs::read_to_string(&monitor).unwrap(), podman.inspect("c", "{{.State.ConmonPid}}"));
        podman.call(&["rm", "-f", "-t", "0", "c"]).exits(0);
        seen.add("left", format!("{} {}", container.exists(), monitor.exists()));
    });
}

#[test]
fn events_of_a_life() {
    podman_twin!(|podman, seen| {
        podman.run(&["--name", "c"], "exit 3").exits(3);
        podman.wait_for_end("c");
        podman.until("cleanup", || podman.events("c").contains(&"cleanup".into()).then_some(()));
        podman.call(&["start", "c"]).exits(0);
        assert_eq!(podman.wait_for_end("c"), 3);
        podman.until("cleanup", || {
            let count = podman.events("c").iter().filter(|event| *event == "cleanup").count();
            (count == 2).then_some(())
        });
        seen.add("events", podman.events("c").join(" "));
    });
}

#[test]
fn created_then_started() {
    podman_twin!(|podman, seen| {
        podman.call(&["create", "--name", "c", IMAGE, "sh", "-c", "echo hello; exit 3"]).exits(0);
        seen.outcome("init", &podman.call(&["init", "c"]).exits(0));
        seen.add("state", podman.inspect("c", "{{.State.Status}}"));
        seen.add("files", podman.files().join("\n"));
        seen.outcome("start", &podman.call(&["start", "-a", "c"]).exits(3).prints("hello\n"));
        podman.wait_for_end("c");
        // Started again over the files of the dead monitor.
        seen.outcome("again", &podman.call(&["start", "-a", "c"]).exits(3).prints("hello\n"));
    });
}

#[test]
fn monitor_named_in_the_configuration() {
    podman_twin!(|podman, seen| {
        let path =
            run(podman.command_by_configuration(&["info", "--format", "{{.Host.Conmon.Path}}"])).exits(0);
        seen.outcome("info", &path);
        let version = podman.call(&["info", "--format", "{{.Host.Conmon.Version}}"]).exits(0);
        assert!(version.stdout_text().starts_with("conmon version 2."), "{version:?}");
    });
}

#[test]
fn readiness_is_passed_on() {
    podman_twin!(|podman, seen| {
        let path = podman.dir().join("host-notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(deadline::limit())).unwrap();
        // logger sends any text to a datagram socket; only whole lines that systemd knows may pass.
        image::copy_flat("logger", &podman.dir().join("tools"));
        let mount = format!("{}:/tools:ro", podman.dir().join("tools").display());
        let options = ["-d", "--name", "c", "--sdnotify", "container", "-v", &mount];
        let script = "export LD_LIBRARY_PATH=/tools; \
                      /tools/logger -u $NOTIFY_SOCKET 'x\nMAINPID=1\nSTATUS=half'; \
                      /tools/logger -u $NOTIFY_SOCKET 'x\nREADY=1'; sleep 100";
        let mut command = podman.command(&[&["run"], &options[..], &[IMAGE, "sh", "-c", script]].concat());
        command.env("NOTIFY_SOCKET", &path);
        run(command).exits(0);
        let mut received = Vec::new();
        while received.last().is_none_or(|text| text != "READY=1") {
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).unwrap();
            // podman itself tells systemd which process to watch.
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if !text.starts_with("MAINPID=") {
                received.push(text);
            }
        }
        assert!(received.len() <= 2, "{received:?}");
        seen.add("received", received.join("\n"));
    });
}

#[test]
fn a_killed_monitor_is_noticed() {
    podman_twin!(|podman, seen| {
        podman.run(&["-d", "--name", "c"], STUBBORN).exits(0);
        let pid = podman.inspect("c", "{{.State.ConmonPid}}").parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
        podman.until("the monitor's end", || (!Process(pid).alive()).then_some(()));
        seen.outcome("stop", &podman.call(&["stop", "-t", "0", "c"]));
        seen.add("state", podman.inspect("c", "{{.State.Status}} {{.State.ExitCode}}"));
    });
}
