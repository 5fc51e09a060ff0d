//! Without root: podman of an ordinary user, and the monitor started by one without any podman; as in `podman.rs`, the
//! same with the original and with ours.
//!
//! podman puts such a monitor into a user namespace, as uid 0 of that and with all of its capabilities, which are worth
//! nothing outside. On control groups v1 its containers have no cgroups of their own.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use compat_tests::bench::built;
use compat_tests::journal::Journal;
use compat_tests::podman::{IMAGE, Podman};
use compat_tests::runc::{Hierarchy, Runc, hierarchy};
use compat_tests::session::{Input, Outcome, Session, run};
use compat_tests::transcript::Transcript;
use compat_tests::user::{self, UID};
use compat_tests::{
    Bench, Monitor, MonitorCommand, Process, bench_twin, deadline, image, observe, rootless_twin, twin,
};
use nix::sys::signal::Signal;

/// Ends with 7 when it is told to end; "up" tells that the trap is set.
const TRAP: &str = "trap 'exit 7' TERM; echo up; echo err >&2; while :; do sleep 0.05; done";
const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

fn monitor(podman: &Podman) -> Process {
    Process(podman.inspect("c", "{{.State.ConmonPid}}").parse().unwrap())
}

fn logged(podman: &Podman, text: &str) {
    podman.until(text, || podman.call(&["logs", "c"]).stdout_text().contains(text).then_some(()));
}

fn cleanups(podman: &Podman) -> usize {
    podman.events("c").iter().filter(|event| *event == "cleanup").count()
}

#[test]
fn a_life_from_run_to_removal() {
    rootless_twin!(|podman, seen| {
        assert_eq!(podman.call(&["info", "--format", "{{.Host.Security.Rootless}}"]).stdout_text(), "true\n");
        seen.outcome("run", &podman.run(&["-d", "--name", "c"], TRAP).exits(0));
        logged(podman, "up\n");
        seen.outcome("logs", &podman.call(&["logs", "c"]).exits(0).prints("up\n"));
        seen.add("files", podman.files().join("\n"));
        seen.outcome("stop", &podman.call(&["stop", "c"]).exits(0));
        assert_eq!(podman.wait_for_end("c"), 7);
        // Started again over what the first monitor left, and killed.
        seen.outcome("start", &podman.call(&["start", "c"]).exits(0));
        logged(podman, "up\nup\n");
        seen.outcome("kill", &podman.call(&["kill", "c"]).exits(0));
        assert_eq!(podman.wait_for_end("c"), 137);
        seen.add("state", podman.inspect("c", "{{.State.Status}} {{.State.OOMKilled}} {{.State.Error}}"));
        let storage = [podman.dir().join("tmp"), podman.dir().join("root/vfs-containers")];
        assert_eq!(storage.iter().flat_map(|path| user::not_the_users(path)).next(), None);
        seen.outcome("rm", &podman.call(&["rm", "c"]).exits(0));
        assert_eq!(podman.files(), Vec::<String>::new());
    });
}

#[test]
fn exit_codes_and_output() {
    rootless_twin!(|podman, seen| {
        let script = r"id -u; cat /proc/self/uid_map; echo err >&2; printf 'a\0\377'; exit 3";
        let outcome = podman.run(&["--rm"], script).exits(3);
        assert!(
            outcome.stdout_text().contains(&UID.to_string()) && outcome.stderr == b"err\n",
            "{outcome:?}"
        );
        seen.outcome("run", &outcome);
        seen.outcome("as another user", &podman.run(&["--rm", "-u", "1000"], "id -u; exit 1").exits(1));
        seen.outcome("missing", &podman.call(&["run", "--rm", IMAGE, "/nosuch"]).exits(127));
        seen.outcome("directory", &podman.call(&["run", "--rm", IMAGE, "/etc"]).exits(126));
        let late = podman.run(&["--timeout", "1", "--name", "c"], "echo up; sleep 50").prints("up\n");
        seen.outcome("timeout", &late);
        let policy = ["-d", "--name", "again", "--restart", "on-failure:1"];
        podman.run(&policy, "echo run; exit 4").exits(0);
        podman.until("the second end", || podman.events("again").contains(&"cleanup".into()).then_some(()));
        assert_eq!(podman.wait_for_end("again"), 4);
        seen.outcome("restarted", &podman.call(&["logs", "again"]).exits(0).prints("run\nrun\n"));
    });
}

/// The exit command is the user's podman again, which has to get into the namespaces as the first one did.
#[test]
fn the_exit_command_cleans_up() {
    rootless_twin!(|podman, seen| {
        podman.run(&["-d", "--name", "c"], "exit 4").exits(0);
        podman.until("the cleanup", || (cleanups(podman) == 1).then_some(()));
        assert_eq!(podman.wait_for_end("c"), 4);
        seen.add("events", podman.events("c").join(" "));
        podman.run(&["-d", "--rm", "--name", "gone"], "sleep 0.1").exits(0);
        podman
            .until("the removal", || (podman.call(&["container", "exists", "gone"]).code == 1).then_some(()));
    });
}

#[test]
fn the_monitor_in_its_namespace() {
    rootless_twin!(|podman, seen| {
        podman.run(&["-d", "--name", "c"], IDLE).exits(0);
        let monitor = monitor(podman);
        for field in ["Uid", "Gid", "NoNewPrivs"] {
            seen.add(field, monitor.status(field));
        }
        assert!(monitor.status("Uid").starts_with(&UID.to_string()));
        let own = std::fs::read_link("/proc/self/ns/user").unwrap();
        assert_ne!(std::fs::read_link(format!("/proc/{}/ns/user", monitor.0)).unwrap(), own);
        if podman.is_ours() {
            // CAP_DAC_OVERRIDE and CAP_KILL of the namespace.
            for set in ["CapEff", "CapPrm"] {
                assert_eq!(monitor.status(set), format!("{:016x}", 1 << 1 | 1 << 5), "{set}");
            }
            assert_eq!(monitor.status("CapAmb"), format!("{:016x}", 0));
        }
        // To lower it takes a right that the user does not have.
        assert_eq!(monitor.oom_score_adj(), Process(std::process::id().cast_signed()).oom_score_adj());
        readable_by_the_user(podman, monitor, seen);
        // Nobody but podman's next commands needs it: they get into the namespaces through the monitor.
        seen.outcome("top", &podman.call(&["top", "c", "user,comm"]).exits(0));
        seen.outcome("unshare", &podman.call(&["unshare", "cat", "/proc/self/uid_map"]).exits(0));
    });
}

fn readable_by_the_user(podman: &Podman, monitor: Process, seen: &mut Transcript) {
    let read = |what: &str, script: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(user::become_user()).args(["sh", "-c", &format!("cd /proc/{}; {script}", monitor.0)]);
        let text = run(command).exits(0).stdout_text();
        assert!(!text.is_empty(), "{what}");
        text
    };
    for (what, script) in [
        ("exe", "readlink exe"),
        ("comm", "cat comm"),
        ("cmdline", "tr '\\0' ' ' <cmdline"),
        ("environ", "tr '\\0' '\\n' <environ | sort"),
    ] {
        seen.add(what, read(what, script));
    }
    assert_eq!(read("comm", "cat comm"), "conmon\n");
    assert_eq!(read("exe", "readlink exe"), format!("{}/monitor/conmon\n", podman.dir().display()));
}

fn exec(podman: &Podman, options: &[&str], script: &str) -> Outcome {
    podman.call(&[&["exec"], options, &["c", "sh", "-c", script]].concat())
}

#[test]
fn exec_sessions() {
    rootless_twin!(|podman, seen| {
        podman.run(&["-d", "--name", "c"], IDLE).exits(0);
        seen.outcome("exit 9", &exec(podman, &[], "echo out; echo err >&2; exit 9").exits(9).prints("out\n"));
        seen.outcome("killed", &exec(podman, &[], "kill -9 $$").exits(137));
        seen.outcome("missing", &podman.call(&["exec", "c", "/nosuch"]).exits(127));
        let mut session = Session::start(podman.command(&["exec", "-i", "c", "sort"]), Input::Pipe);
        session.send(b"pear\napple\n");
        seen.outcome("stdin", &session.finish().exits(0).prints("apple\npear\n"));
        podman.call(&["exec", "-d", "c", "sh", "-c", "echo done >/tmp/done"]).exits(0);
        podman.until("the file", || exec(podman, &[], "cat /tmp/done").stdout.eq(b"done\n").then_some(()));
        let short = podman.command(&["exec", "-it", "c", "sh", "-c", "stty size; exit 4"]);
        let mut session = Session::start(short, Input::Terminal(31, 97));
        session.resize(31, 97);
        seen.add("terminal", session.finish().exits(4).code.to_string());
        podman.until("the end of the sessions", || (podman.monitors().len() == 1).then_some(()));
        seen.add("files", podman.files().join("\n"));
    });
}

#[test]
fn terminal_detached_and_attached_again() {
    rootless_twin!(|podman, seen| {
        let command = podman.command(&["run", "-it", "--name", "c", IMAGE, "sh"]);
        let mut session = Session::start(command, Input::Terminal(31, 97));
        session.wait_for("# ");
        answered(&mut session, "X=kept; test -t 1 && echo re''ady", "ready\r\n");
        session.wait_for("# ");
        session.leave_with(b"\x10\x11");
        seen.add("detached", session.finish().exits(0).code.to_string());
        let mut again = Session::start(podman.command(&["attach", "c"]), Input::Terminal(20, 50));
        // Nothing is replayed, so the shell is asked for a new prompt.
        again.send(b"\n");
        again.wait_for("# ");
        answered(&mut again, "echo $X", "kept\r\n");
        let size = "until [ \"$(stty size)\" = '20 50' ]; do sleep 0.05; done; echo si''zed";
        answered(&mut again, size, "sized\r\n");
        again.send(b"exit 6\n");
        seen.add("attached", again.finish().code.to_string());
        assert_eq!(podman.wait_for_end("c"), 6);
        assert!(podman.call(&["logs", "c"]).exits(0).stdout_text().contains("kept\r\n"));
    });
}

fn answered(session: &mut Session, line: &str, answer: &str) {
    session.forget_output();
    session.send(format!("{line}\n").as_bytes());
    session.wait_for(answer);
}

#[test]
fn input_of_an_attached_client() {
    rootless_twin!(|podman, seen| {
        podman.run(&["-d", "-i", "--name", "c"], "read -r line; echo got $line; exit 8").exits(0);
        let mut client = Session::start(podman.command(&["attach", "c"]), Input::Pipe);
        client.send(b"hello\n");
        client.wait_for("got hello\n");
        seen.outcome("attach", &client.finish());
        assert_eq!(podman.wait_for_end("c"), 8);
    });
}

#[test]
fn a_pod() {
    rootless_twin!(|podman, seen| {
        // One with an infra container would need an image of its own.
        podman.call(&["pod", "create", "--infra=false", "--name", "p"]).exits(0);
        podman.run(&["-d", "--pod", "p", "--name", "c"], TRAP).exits(0);
        seen.outcome(
            "second",
            &podman.run(&["--pod", "p", "--name", "d"], "echo hi; exit 3").exits(3).prints("hi\n"),
        );
        logged(podman, "up\n");
        seen.outcome("stop", &podman.call(&["pod", "stop", "p"]).exits(0));
        assert_eq!(podman.wait_for_end("c"), 7);
        seen.outcome("ps", &podman.call(&["pod", "ps", "--format", "{{.Name}} {{.Status}}"]).exits(0));
        seen.outcome("rm", &podman.call(&["pod", "rm", "p"]).exits(0));
    });
}

/// podman looks for entries of the user's uid, not of the namespace's.
#[test]
fn the_journal_of_the_user() {
    if !twin::installed(&["podman", "runc", "conmon", "busybox", "setpriv", "newuidmap"]) {
        return;
    }
    twin::compare("rootless::the_journal_of_the_user", |side, seen| {
        // First, so that the user's namespaces are made where it can be seen.
        let Some(_journal) = Journal::start() else { return };
        let Some(podman) = Podman::rootless(side, seen) else { return };
        let journal = ["--events-backend", "journald"];
        let script = "echo one; echo; echo err >&2; printf end; exit 5";
        let options = ["run", "--name", "c", "--log-driver", "journald", IMAGE, "sh", "-c", script];
        podman.call(&[&journal, &options[..]].concat()).exits(5);
        podman.wait_for_end("c");
        // Kept in memory, a journal is root's and of one file; on disk it is split by user.
        let mut open = std::process::Command::new("chmod");
        open.args(["-R", "a+rX", "/run/log/journal"]);
        run(open).exits(0);
        let logs = podman.call(&[&journal, &["logs", "c"][..]].concat()).exits(0);
        assert_eq!((&*logs.stdout, &*logs.stderr), (&b"one\n\nend"[..], &b"err\n"[..]));
        seen.outcome("logs", &logs);
        podman.finish();
    });
}

/// A wrapper has the monitor send all it says to the system log, which podman does not ask for.
#[test]
fn ours_has_nothing_to_complain_of() {
    if !twin::installed(&["podman", "runc", "conmon", "busybox", "setpriv", "newuidmap"]) {
        return;
    }
    twin::compare("rootless::ours_has_nothing_to_complain_of", |side, seen| {
        let Some(mut journal) = Journal::absent() else { return };
        let listener = Listener::new(journal.syslog());
        let Some(podman) = Podman::rootless(side, seen) else { return };
        talkative(&podman.dir().join("monitor"));
        podman.run(&["-d", "--name", "c"], TRAP).exits(0);
        exec(&podman, &[], "exit 3").exits(3);
        podman.call(&["stop", "c"]).exits(0);
        assert_eq!(podman.wait_for_end("c"), 7);
        let said = listener.messages();
        if podman.is_ours() {
            assert!(!said.is_empty());
            let bad = |text: &&String| text.contains("<nwarn>") || text.contains("<error>");
            let complaints: Vec<&String> = said.iter().filter(bad).collect();
            assert!(complaints.is_empty(), "{complaints:#?}");
        }
        podman.finish();
    });
}

fn talkative(directory: &Path) {
    std::fs::create_dir(directory.join("real")).unwrap();
    let (wrapper, real) = (directory.join("conmon"), directory.join("real/conmon"));
    std::fs::rename(&wrapper, &real).unwrap();
    let script = format!("#!/bin/sh\nexec {} \"$@\" --syslog --log-level debug\n", real.display());
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Takes what comes to a datagram socket all the time: whoever writes there would wait for room.
struct Listener {
    stop: Sender<()>,
    thread: JoinHandle<Vec<String>>,
}

impl Listener {
    fn new(socket: UnixDatagram) -> Self {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let (mut said, mut buffer) = (Vec::new(), [0; 65536]);
            loop {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        said.push(String::from_utf8_lossy(buffer.get(..length).unwrap()).into_owned())
                    }
                    // All that was sent before the call to stop has been taken then.
                    Err(_) if stopped.try_recv() != Err(TryRecvError::Empty) => return said,
                    Err(_) => {}
                }
            }
        });
        Self { stop, thread }
    }

    fn messages(self) -> Vec<String> {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

/// A monitor of an ordinary user in `bench`, without podman and namespaces: copies of the programs, because where they
/// were built may be out of reach, and directories that are nobody else's.
fn as_user<'b>(bench: &'b Bench, command: MonitorCommand<'b>) -> MonitorCommand<'b> {
    let (monitor, runtime) = (bench.path("t/conmon"), bench.path("t/runtime"));
    compat_tests::image::copy(bench.program(), &monitor);
    compat_tests::image::copy(&built("standin-runtime"), &runtime);
    for directory in ["b", "exits", "persist", "s", "t", "x", "x/exit", "x/persist"] {
        std::fs::set_permissions(bench.path(directory), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    user::give(bench.dir());
    command.program(monitor).replace("-r", runtime).under(&image::program("setpriv"), user::become_user())
}

/// The copies, and what the test and the stand-in leave.
const NOT_THE_MONITORS: &[&str] = &["err", "out", "log", "t", "b/seen", "b/script", "x/spec"];

fn ended(bench: &Bench, monitor: &Monitor<'_>, seen: &mut Transcript) {
    observe::end(bench, monitor, NOT_THE_MONITORS, seen);
    for directory in ["b", "exits", "persist", "s"] {
        assert_eq!(user::not_the_users(&bench.path(directory)), Vec::<PathBuf>::new());
    }
}

#[test]
fn without_podman_and_namespaces() {
    bench_twin!(&["conmon", "setpriv"], |bench, seen| {
        bench.script("record\npayload\nprint up\\n\necho\nwait go\nexit 5");
        let command = as_user(bench, bench.podman().arg("-i")).args(observe::exit_command(bench));
        let mut monitor = command.run();
        assert_eq!(monitor.report().number("data"), i64::from(monitor.container().0));
        let pid = monitor.pid();
        for field in ["Uid", "CapEff", "NoNewPrivs"] {
            seen.add(field, pid.status(field));
        }
        assert_eq!(pid.oom_score_adj(), Process(std::process::id().cast_signed()).oom_score_adj());
        let client = monitor.attach();
        client.send(b"hello\n");
        assert!(client.read_until(2, "hello\n").ends_with("hello\n"));
        std::fs::rename(bench.log(), bench.path("t/old.log")).unwrap();
        bench.ctl("2 0 0\n");
        deadline::until("the new log", || bench.log().exists().then_some(()));
        client.half_close();
        bench.touch("go");
        assert_eq!(bench.wait_exit_file(), "5");
        seen.add("runtime.oom", bench.recorded_text("oom"));
        ended(bench, &monitor, seen);
    });
}

#[test]
fn without_podman_as_crio_would() {
    bench_twin!(&["conmon", "setpriv"], |bench, seen| {
        bench.script("payload\ntrap TERM 9\ntouch up\npause");
        let mut monitor = as_user(bench, bench.crio()).run();
        assert_eq!(monitor.report().number("pid"), i64::from(monitor.container().0));
        bench.wait_file(&bench.path("up"));
        // Passed on to the container, which has the same uid.
        monitor.pid().signal(Signal::SIGTERM);
        assert_eq!(bench.wait_exit_file(), "9");
        ended(bench, &monitor, seen);
    });
}

#[test]
fn without_podman_killed_after_its_time() {
    bench_twin!(&["conmon", "setpriv"], |bench, seen| {
        bench.script("payload\nprint up\\n\npause");
        let mut monitor = as_user(bench, bench.podman().args(["-T", "1"])).run();
        monitor.report();
        let code = bench.wait_exit_file();
        seen.add("code", &code);
        ended(bench, &monitor, seen);
    });
}

/// On cgroup v1 a user's containers are in a cgroup with whatever else is there. Passes without a word on v2, where
/// the counters tell no more of whose kill it was, and conmon counts them all.
#[test]
fn v1_a_kill_among_others_is_not_the_containers() {
    if hierarchy() == Hierarchy::V2 {
        return;
    }
    bench_twin!(&["conmon", "setpriv"], |bench, seen| {
        let shared = Shared::new(bench);
        bench.script("payload\nwait go\nexit 6");
        let mut monitor = as_user(bench, bench.podman()).spawn();
        shared.take(monitor.parent().0);
        monitor.go();
        monitor.report();
        let before = shared.kills();
        let mut eater = std::process::Command::new("sh");
        let script = "echo $$ >\"$0\" && exec dd if=/dev/zero of=/dev/null bs=192M count=1";
        eater.args(["-c", script]).arg(shared.0.join("cgroup.procs"));
        assert_eq!(run(eater).code, 137);
        assert!(shared.kills() > before);
        bench.touch("go");
        assert_eq!(bench.wait_exit_file(), "6");
        let files = ["persist/oom", "b/oom", "oom"].map(|name| bench.path(name).exists());
        assert_eq!(files, [false; 3]);
        seen.add("oom files", format!("{files:?}"));
        monitor.wait();
        bench.expect_nothing_running();
    });
}

/// A memory cgroup with a limit.
struct Shared(PathBuf);

impl Shared {
    fn new(bench: &Bench) -> Self {
        let path = Runc::memory_cgroup_of(bench);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("memory.limit_in_bytes"), (64 << 20).to_string()).unwrap();
        // Absent where swap is not counted; then there is no swap that could help.
        let _ = std::fs::write(path.join("memory.memsw.limit_in_bytes"), (64 << 20).to_string());
        Self(path)
    }

    fn take(&self, pid: i32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn kills(&self) -> u64 {
        let text = std::fs::read_to_string(self.0.join("memory.oom_control")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What is left of a test that failed goes elsewhere; the bench ends it.
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = std::fs::write("/sys/fs/cgroup/memory/cgroup.procs", pid);
        }
        let removed =
            deadline::try_until(deadline::limit(), || std::fs::remove_dir(&self.0).is_ok().then_some(()));
        assert!(removed.is_some() || std::thread::panicking(), "{} can't be removed", self.0.display());
    }
}
