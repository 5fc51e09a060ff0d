//! CRI-O's whole conversation, call by call as its own code holds it ([`compat_tests::crio`]), with real runc. The same
//! with the original and with ours. `crio.rs` and `runc.rs` have single parts of it; contrib/suites/crio.py runs a real
//! CRI-O where there is one.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use compat_tests::bench::CID;
use compat_tests::crio::{Answer, Crio, Streams};
use compat_tests::runc::Runc;
use compat_tests::{Bench, bench_twin, deadline};
use serde_json::json;

const PROGRAMS: &[&str] = &["runc", "conmon", "busybox"];
const WITH_INPUT: Streams = Streams { terminal: false, stdin: true, stdin_once: false };
/// Says that it is up and lives until it is asked to end.
const IDLE: &str = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done";

fn created<'b>(bench: &'b Bench, script: &str, streams: Streams, options: &[&str]) -> Crio<'b> {
    let runc = Runc::new(bench, &["sh", "-c", script]);
    runc.edit(|spec| spec["process"]["terminal"] = json!(streams.terminal));
    Crio::create(bench, runc, streams, options).unwrap()
}

fn idle(bench: &Bench) -> Crio<'_> {
    let crio = created(bench, IDLE, Streams::default(), &[]);
    crio.start();
    logged(bench, "up\n");
    crio
}

fn logged(bench: &Bench, text: &str) {
    deadline::until(text, || String::from_utf8_lossy(&bench.logged("stdout")).contains(text).then_some(()));
}

/// Ends an idle container.
fn end(crio: Crio<'_>) {
    crio.kill("TERM").exits(0);
    assert_eq!(crio.wait_exit(), ("9".to_owned(), false));
    crio.remove();
}

#[test]
fn from_create_to_remove() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let script = "echo up; while read -r line; do echo got $line; test $line != end || exit 5; done";
        let crio = created(bench, script, WITH_INPUT, &[]);
        seen.add("monitor's cgroup", (crio.monitors_cgroup().ends_with("-monitor")).to_string());
        crio.start();
        logged(bench, "up\n");
        seen.add("probe", crio.exec_sync(&["sh", "-c", "echo out; echo err >&2; exit 3"], 10).to_string());
        let client = crio.attach();
        client.send(b"one\n");
        seen.add("attached", client.read_until(2, "got one\n"));
        client.half_close();
        drop(client);
        crio.rotate(&bench.path("log.1"));
        seen.add(
            "old log",
            String::from_utf8_lossy(&bench.log_bytes(&bench.path("log.1"))).lines().count().to_string(),
        );
        seen.add("probe after the rotation", crio.exec_sync(&["true"], 10).to_string());
        let client = crio.attach();
        client.send(b"end\n");
        seen.add("rest", String::from_utf8_lossy(&client.read_to_end().0));
        let (code, killed) = crio.wait_exit();
        assert_eq!((&*code, killed), ("5", false));
        crio.remove();
        seen.add("log", String::from_utf8_lossy(&bench.logged("stdout")));
        seen.add("exits", bench.names("exits").join("\n"));
    });
}

#[test]
fn every_way_a_probe_ends() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let crio = idle(bench);
        for (name, args, timeout) in [
            ("both streams", &["sh", "-c", "echo out; echo err >&2; exit 3"][..], 0),
            ("in time", &["sh", "-c", "printf 'a\\nb'"][..], 10),
            ("too late", &["sh", "-c", "echo lost; exec sleep 4321"][..], 1),
            ("deaf and too late", &["sh", "-c", "trap '' TERM INT; while :; do sleep 0.1; done"][..], 1),
            ("killed", &["sh", "-c", "kill -9 $$"][..], 0),
            ("a directory", &["/etc"][..], 0),
            ("no such program", &["/nosuch"][..], 0),
            ("leaves one behind", &["sh", "-c", "sleep 0.3 & echo done"][..], 0),
            ("input", &["cat"][..], 0),
            ("long line", &["sh", "-c", "head -c 30000 /dev/zero | tr '\\0' x"][..], 0),
        ] {
            seen.add(name, crio.exec_sync(args, timeout).to_string());
        }
        crio.monitor().pid().expect_idle();
        seen.add("files", bench.names("x").join("\n"));
        let left = crio.exec_sync(&["sh", "-c", "ps | grep -c '[s]leep 4321'"], 0);
        seen.add("left", left.to_string());
        end(crio);
    });
}

#[test]
fn probes_at_once() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let crio = idle(bench);
        let script = |number| format!("seq {number}00; echo err {number} >&2; exit {number}");
        let probes: Vec<_> =
            (1..=8).map(|number| crio.probe(&["sh", "-c", &script(number)], 60, false)).collect();
        for (number, probe) in (1..).zip(probes) {
            let answer = probe.answer();
            let Answer::Ended { code, stdout, .. } = &answer else { panic!("{answer}") };
            assert_eq!((*code, stdout.ends_with(format!("\n{number}00\n").as_bytes())), (number, true));
            seen.add(&format!("probe {number}"), answer.to_string());
        }
        end(crio);
    });
}

#[test]
fn a_probe_that_writes_too_much() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let crio = idle(bench);
        let answer = crio.exec_sync(&["sh", "-c", "head -c 18000000 /dev/zero | tr '\\0' z; exit 3"], 0);
        let Answer::Ended { code, stdout, stderr } = answer else { panic!("{answer}") };
        seen.add("code", code.to_string());
        assert!(stdout.len() > 15 << 20 && stdout.iter().all(|byte| *byte == b'z'), "{} bytes", stdout.len());
        seen.add("stderr", String::from_utf8_lossy(&stderr));
        end(crio);
    });
}

#[test]
fn a_stop_during_probes() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let crio = idle(bench);
        let probes = [(); 3].map(|()| crio.probe(&["sh", "-c", "echo up; exec sleep 4321"], 100, false));
        deadline::until("the probes to run", || {
            let running = crio.exec_sync(&["sh", "-c", "ps | grep -c '[s]leep 4321'"], 0);
            (running.to_string().contains("\"3\\n\"")).then_some(())
        });
        crio.kill("TERM").exits(0);
        let (code, killed) = crio.wait_exit();
        seen.add("exit", format!("{code} {killed}"));
        probes.iter().for_each(compat_tests::crio::Probe::interrupt);
        for (number, probe) in probes.into_iter().enumerate() {
            seen.add(&format!("probe {number}"), probe.answer().to_string());
        }
        crio.remove();
    });
}

#[test]
fn a_probe_in_the_containers_cgroup() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let crio = idle(bench);
        let probe = crio.probe(&["sh", "-c", "echo in; until test -e /tmp/go; do sleep 0.05; done"], 0, true);
        assert_ne!(probe.cgroup(), crio.monitors_cgroup());
        bench.touch("rootfs/tmp/go");
        seen.add("answer", probe.answer().to_string());
        end(crio);
    });
}

#[test]
fn on_a_terminal() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let script = "wanted() { until test \"$(stty size)\" = \"$*\"; do sleep 0.02; done; echo is $*; }; \
                      echo up; wanted 30 90; read -r line; echo got $line; exit 5";
        let crio = created(bench, script, Streams { terminal: true, ..WITH_INPUT }, &[]);
        let client = crio.attach();
        crio.start();
        let _ = client.read_until(2, "up\r\n");
        crio.resize(30, 90);
        let _ = client.read_until(2, "is 30 90\r\n");
        let probe = crio.exec_sync(&["sh", "-c", "test -t 1 && echo terminal; exit 4"], 10);
        seen.add("probe", probe.to_string());
        client.send(b"typed\r");
        let _ = client.read_until(2, "got typed\r\n");
        seen.add("exit", crio.wait_exit().0);
        drop(client);
        crio.remove();
        seen.add("log", String::from_utf8_lossy(&bench.logged("stdout")));
    });
}

#[test]
fn a_container_that_can_not_be_created() {
    bench_twin!(PROGRAMS, |bench, seen| {
        for args in [&["/nosuch"][..], &["/etc"]] {
            let bench = Bench::with_program(bench.program());
            let refused = Crio::create(&bench, Runc::new(&bench, args), Streams::default(), &[]).unwrap_err();
            assert!(refused.contains("unable to start container process"), "{refused}");
            seen.add(args[0], refused);
            bench.expect_nothing_running();
            assert_eq!(bench.names("exits"), Vec::<String>::new());
        }
    });
}

/// CRI-O reads the exit code the moment that the file in the exit directory appears.
#[test]
fn the_exit_is_there_when_its_event_comes() {
    bench_twin!(PROGRAMS, |bench, seen| {
        for code in 1..=5 {
            let bench = Bench::with_program(bench.program());
            let crio = created(&bench, &format!("seq 1000; exit {code}"), Streams::default(), &[]);
            crio.start();
            assert_eq!(crio.wait_exit(), (code.to_string(), false));
            crio.remove();
            seen.add(&format!("log of {code}"), String::from_utf8_lossy(&bench.logged("stdout")));
        }
    });
}

#[test]
fn out_of_memory_is_there_when_the_exits_event_comes() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=192M count=1"]);
        runc.limit_memory(64 << 20);
        let crio = Crio::create(bench, runc, Streams::default(), &[]).unwrap();
        crio.start();
        let (code, killed) = crio.wait_exit();
        assert_eq!((&*code, killed), ("137", true));
        seen.add("exit", code);
        crio.remove();
    });
}

/// A stop that the container does not obey.
#[test]
fn killed_after_the_grace() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
        let crio = created(bench, script, Streams::default(), &["--log-size-max", "100000"]);
        crio.start();
        logged(bench, "up\n");
        crio.kill("TERM").exits(0);
        let alive = || crio.monitor().container().alive();
        deadline::holds("the container goes on", std::time::Duration::from_millis(300), alive);
        crio.kill("KILL").exits(0);
        seen.add("exit", crio.wait_exit().0);
        assert_eq!(crio.runc().call(&["state", CID]).code, 0);
        crio.remove();
    });
}
