//! CRI-O's conversations with a running container, with real runc: attaching through the link in the socket directory,
//! resizing and reopening through ctl. The same with the original and with ours.

#![allow(clippy::unwrap_used)]

use compat_tests::bench::CID;
use compat_tests::runc::Runc;
use compat_tests::watch::EventKind;
use compat_tests::{AttachClient, Bench, Monitor, MonitorCommand, Watch, bench_twin, deadline};
use serde_json::json;

const PROGRAMS: &[&str] = &["runc", "conmon", "busybox"];

/// A created container under CRI-O's command line; `options` are added to it.
fn created<'b>(bench: &'b Bench, runc: &Runc<'b>, options: &[&str]) -> Monitor<'b> {
    let command: MonitorCommand<'b> = runc.with_runc(bench.crio()).args(options);
    let mut monitor = command.run();
    monitor.report();
    monitor
}

/// A client that dials as CRI-O does.
fn attach(bench: &Bench) -> AttachClient {
    AttachClient::connect(&bench.path("s").join(CID).join("attach"))
}

fn wait_for_log(bench: &Bench, text: &str) {
    deadline::until(text, || {
        String::from_utf8_lossy(&bench.logged_so_far("stdout")).contains(text).then_some(())
    });
}

#[test]
fn attached_through_the_link() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let script = "echo up; while read -r line; do echo got $line; echo err $line >&2; done; exit 4";
        let runc = Runc::new(bench, &["sh", "-c", script]);
        let monitor = created(bench, &runc, &["--leave-stdin-open", "-i"]);
        // Before the start nothing can be missed.
        let client = attach(bench);
        runc.start();
        client.send(b"one\n");
        seen.add("stdout", client.read_until(2, "got one\n"));
        seen.add("stderr", client.read_until(3, "err one\n"));
        client.half_close();
        drop(client);
        // With the input left open the next one goes on.
        let client = attach(bench);
        client.send(b"two\n");
        wait_for_log(bench, "got two\n");
        runc.call(&["kill", CID, "KILL"]).exits(0);
        let _ = client.read_to_end();
        seen.add("exit", bench.wait_exit_file());
        monitor.wait();
        seen.add("log", String::from_utf8_lossy(&bench.logged("stdout")));
        seen.add("log of stderr", String::from_utf8_lossy(&bench.logged("stderr")));
    });
}

#[test]
fn input_that_ends_once() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", "cat; echo end; exit 4"]);
        let monitor = created(bench, &runc, &["-i"]);
        let client = attach(bench);
        runc.start();
        client.send(b"all of it\n");
        client.half_close();
        let (stdout, stderr) = client.read_to_end();
        seen.add("stdout", String::from_utf8_lossy(&stdout));
        assert_eq!((&*stdout, &*stderr), (&b"all of it\nend\n"[..], &b""[..]));
        seen.add("exit", monitor.finish_rest());
    });
}

#[test]
fn a_terminal_that_is_resized() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let script = "wanted() { until test \"$(stty size)\" = \"$*\"; do sleep 0.02; done; echo is $*; }; \
                      echo up; wanted 30 90; wanted 50 120; read -r line; echo got $line; exit 5";
        let runc = Runc::new(bench, &["sh", "-c", script]);
        runc.edit(|spec| spec["process"]["terminal"] = json!(true));
        let monitor = created(bench, &runc, &["-t"]);
        let client = attach(bench);
        runc.start();
        let _ = client.read_until(2, "up\r\n");
        bench.ctl("1 30 90\n");
        let _ = client.read_until(2, "is 30 90\r\n");
        bench.ctl("1 50 120\n");
        let _ = client.read_until(2, "is 50 120\r\n");
        client.send(b"typed\r");
        let _ = client.read_until(2, "got typed\r\n");
        seen.add("exit", monitor.finish_rest());
        seen.add("log", String::from_utf8_lossy(&bench.logged("stdout")));
    });
}

#[test]
fn a_log_that_is_reopened() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let script = "i=0; while read -r line; do i=$((i+1)); echo $line $i; done; exit 6";
        let runc = Runc::new(bench, &["sh", "-c", script]);
        let monitor = created(bench, &runc, &["-i"]);
        let client = attach(bench);
        runc.start();
        let mut logs = Vec::new();
        for round in 1..=3 {
            client.send(b"line\n");
            let text = format!("line {round}\n");
            let _ = client.read_until(2, &text);
            wait_for_log(bench, &text);
            // As kubelet and CRI-O do it: rename, ask, and wait for the name to appear.
            let old = bench.path(format!("log.{round}"));
            std::fs::rename(bench.log(), &old).unwrap();
            let watch = Watch::new(bench.dir());
            bench.ctl("2 0 0\n");
            deadline::until("the new log to appear", || {
                let appears = |kind: EventKind| matches!(kind, EventKind::Created | EventKind::MovedHere);
                watch.events().iter().any(|event| event.name == "log" && appears(event.kind)).then_some(())
            });
            assert!(bench.log().is_file());
            logs.push(String::from_utf8_lossy(&bench.log_bytes(&old)).into_owned());
        }
        client.half_close();
        let _ = client.read_to_end();
        seen.add("exit", monitor.finish_rest());
        seen.add("logs", logs.concat());
        seen.add("last log", String::from_utf8_lossy(&bench.log_bytes(&bench.log())));
        let mut names = bench.names(".");
        names.retain(|name| name.starts_with("log"));
        seen.add("files", names.join("\n"));
    });
}

#[test]
fn a_log_that_is_reopened_while_it_grows() {
    bench_twin!(PROGRAMS, |bench, seen| {
        // It ends when it is told to: nobody hears a request when the monitor is gone.
        let script = "seq 100000; touch /tmp/written; until test -e /tmp/go; do sleep 0.02; done; exit 7";
        let runc = Runc::new(bench, &["sh", "-c", script]);
        let monitor = created(bench, &runc, &[]);
        runc.start();
        let mut parts = 0;
        deadline::until("all to be written", || {
            if std::fs::metadata(bench.log()).is_ok_and(|meta| meta.len() > 0) {
                std::fs::rename(bench.log(), bench.path(format!("log.{parts:03}"))).unwrap();
                parts += 1;
                bench.ctl("2 0 0\n");
                bench.wait_file(&bench.log());
            }
            bench.path("rootfs/tmp/written").exists().then_some(())
        });
        bench.touch("rootfs/tmp/go");
        seen.add("exit", monitor.finish_rest());
        let mut whole = Vec::new();
        for part in 0..parts {
            whole.extend(compat_tests::LogLine::parse_all(
                &bench.log_bytes(&bench.path(format!("log.{part:03}"))),
            ));
        }
        whole.extend(bench.log_lines());
        let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
        assert!(compat_tests::log::joined(&whole, "stdout") == expected.as_bytes(), "{parts} parts");
    });
}
