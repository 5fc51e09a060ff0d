//! journald as log driver, with a real systemd-journald read back by journalctl: beside the original for what both can
//! do, and alone for what the original lacks or loses; and podman's own reader.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::time::Duration;

use compat_tests::journal::{Entry, Journal};
use compat_tests::log::joined;
use compat_tests::podman::IMAGE;
use compat_tests::session::{Input, Session};
use compat_tests::transcript::Transcript;
use compat_tests::twin::our_program;
use compat_tests::{Bench, MonitorCommand, bench_twin, deadline, podman_twin};
use nix::sys::signal::Signal;

const CONMON: &[&str] = &["conmon"];

fn ours() -> Bench {
    Bench::with_program(&our_program())
}

fn to_journal(bench: &Bench) -> MonitorCommand<'_> {
    bench.podman().replace("-l", "journald:")
}

/// Runs a container with `script` and gives its entries.
fn logged(journal: &Journal, bench: &Bench, command: MonitorCommand<'_>, script: &str) -> Vec<Entry> {
    bench.script(&format!("payload\n{script}"));
    assert_eq!(command.run().finish().1, "0");
    journal.entries()
}

/// Waits for a file that a script makes after a flood.
fn wait(bench: &Bench, name: &str) {
    let limit = deadline::scaled(Duration::from_secs(60));
    let there = deadline::try_until(limit, || bench.path(name).exists().then_some(()));
    assert!(there.is_some(), "the container is not done: {name}");
}

/// Records the entries of both streams with the fields that the sender gave.
fn record(entries: &[Entry], seen: &mut Transcript) {
    for (stream, priority) in [("stdout", "6"), ("stderr", "3")] {
        let mut text = String::new();
        for entry in entries.iter().filter(|entry| entry.text("PRIORITY") == priority) {
            for name in entry.names().into_iter().filter(|name| !name.starts_with("CODE_")) {
                let value = entry.bytes(name).unwrap();
                let shown = if value.len() > 100 {
                    format!("{} bytes", value.len())
                } else {
                    value.escape_ascii().to_string()
                };
                text.push_str(&format!("{name}={shown}\n"));
            }
            text.push('\n');
        }
        seen.add(stream, text);
    }
    seen.add("entries", entries.len().to_string());
    seen.add("sender", ["_TRANSPORT", "_UID"].map(|name| entries[0].text(name)).join(" "));
}

/// One scenario: options of the monitor and the container's script.
fn entries_of(bench: &Bench, seen: &mut Transcript, options: &[&str], script: &str) {
    let Some(journal) = Journal::start() else { return };
    record(&logged(&journal, bench, to_journal(bench).args(options), script), seen);
}

#[test]
fn the_fields_of_an_entry() {
    bench_twin!(CONMON, |bench, seen| {
        entries_of(bench, seen, &[], "print one\\ntwo\\n\neprint err\\n");
    });
}

#[test]
fn a_tag_is_a_field_and_the_identifier() {
    bench_twin!(CONMON, |bench, seen| {
        entries_of(bench, seen, &["--log-tag", "the tag"], "print one\\n");
    });
}

#[test]
fn without_a_name_the_short_id_identifies() {
    bench_twin!(CONMON, |bench, seen| {
        let Some(journal) = Journal::start() else { return };
        let command = to_journal(bench).without("-n");
        record(&logged(&journal, bench, command, "print one\\n"), seen);
    });
}

#[test]
fn empty_lines_and_lines_in_pieces() {
    bench_twin!(CONMON, |bench, seen| {
        let script = "print \\n\\nbefore\\n\ndrained\nprint par\ndrained\nprint tial\\n\ndrained\nprint end";
        entries_of(bench, seen, &[], script);
    });
}

#[test]
fn bytes_that_are_no_text() {
    bench_twin!(CONMON, |bench, seen| {
        entries_of(bench, seen, &[], "print a\\xff\\x01b\\0c\\n\\xc3\\xa4\\n\\r\\x1b[0m\\n");
    });
}

#[test]
fn long_lines_are_cut() {
    bench_twin!(CONMON, |bench, seen| {
        entries_of(bench, seen, &[], "bytes 20000 y\nprint \\nshort\\n");
    });
}

#[test]
fn long_lines_are_cut_without_saying_so_on_request() {
    let bench = ours();
    let Some(journal) = Journal::start() else { return };
    let command = to_journal(&bench).arg("--no-container-partial-message");
    let entries = logged(&journal, &bench, command, "bytes 20000 y\nprint \\n");
    assert_eq!(entries.iter().map(|entry| entry.message().len()).collect::<Vec<_>>(), [8192, 8192, 3616]);
    assert!(entries.iter().all(|entry| entry.bytes("CONTAINER_PARTIAL_MESSAGE").is_none()));
}

#[test]
fn only_whole_lines_end_a_message() {
    let bench = ours();
    let Some(journal) = Journal::start() else { return };
    let entries = logged(&journal, &bench, to_journal(&bench), "bytes 20000 y\nprint \\n");
    let partial: Vec<String> = entries.iter().map(|entry| entry.text("CONTAINER_PARTIAL_MESSAGE")).collect();
    assert_eq!(partial, ["true", "true", ""]);
    assert!(entries[2].bytes("MESSAGE").unwrap().ends_with(b"y\n"));
}

#[test]
fn labels_are_fields() {
    let bench = ours();
    let Some(journal) = Journal::start() else { return };
    let command = to_journal(&bench).args(["--log-label", "POD=a b", "--log-label", "EMPTY="]);
    let entries = logged(&journal, &bench, command, "print one\\n");
    assert_eq!((entries[0].text("POD"), entries[0].bytes("EMPTY")), ("a b".into(), Some(&b""[..])));
}

/// Priorities and messages of what a script prints, in order.
fn priorities(environment: Option<(&str, &str)>) -> Option<Vec<(String, String)>> {
    let bench = ours();
    let journal = Journal::start()?;
    let mut command = to_journal(&bench);
    if let Some((name, value)) = environment {
        command = command.env(name, value);
    }
    // The second prefix comes in two reads.
    let script = "print <2>two\\n<\ndrained\nprint 7>seven\\n<8>eight\\n<>none\\nplain <1>\\n";
    let entries = logged(&journal, &bench, command, script);
    Some(
        entries
            .iter()
            .map(|entry| (entry.text("PRIORITY"), String::from_utf8(entry.message().to_vec()).unwrap()))
            .collect(),
    )
}

fn pairs(expected: [(&str, &str); 5]) -> Vec<(String, String)> {
    expected.map(|(priority, text)| (priority.to_owned(), text.to_owned())).to_vec()
}

#[test]
fn a_prefix_sets_the_priority() {
    let Some(found) = priorities(None) else { return };
    let expected = [("2", "two"), ("7", "seven"), ("6", "<8>eight"), ("6", "<>none"), ("6", "plain <1>")];
    assert_eq!(found, pairs(expected));
}

#[test]
fn the_stream_alone_sets_the_priority_on_request() {
    let Some(found) = priorities(Some(("CONMON_JOURNALD_PRIORITY", "stream"))) else { return };
    let expected =
        [("6", "<2>two"), ("6", "<7>seven"), ("6", "<8>eight"), ("6", "<>none"), ("6", "plain <1>")];
    assert_eq!(found, pairs(expected));
}

#[test]
fn a_line_of_300_kilobytes_may_stay_whole() {
    let bench = ours();
    let Some(journal) = Journal::start() else { return };
    let command = to_journal(&bench).env("CONMON_JOURNALD_LINE_MAX", "1000000");
    let entries = logged(&journal, &bench, command, "bytes 300000 z\nprint \\nshort\\n");
    let lengths: Vec<usize> = entries.iter().map(|entry| entry.message().len()).collect();
    assert_eq!(lengths, [300_000, 5]);
    assert!(entries[0].message().iter().all(|byte| *byte == b'z'));
    assert_eq!(entries[0].text("CONTAINER_NAME"), "web");
}

/// CRI-O's `-l FILE --log-path journald:`.
#[test]
fn the_file_and_the_journal_hold_the_same() {
    let bench = ours();
    let Some(journal) = Journal::start() else { return };
    let command = bench.crio().option("--log-path", "journald:");
    let entries = logged(&journal, &bench, command, "lines 5000 30\nelines 100\nbytes 20000\nprint \\nend");
    for (stream, priority) in [("stdout", "6"), ("stderr", "3")] {
        let mut bytes = Vec::new();
        for entry in entries.iter().filter(|entry| entry.text("PRIORITY") == priority) {
            bytes.extend_from_slice(entry.bytes("MESSAGE").unwrap());
        }
        assert!(bytes == bench.logged(stream), "{stream} differs");
        assert!(!bytes.is_empty());
    }
    assert_eq!(joined(&bench.log_lines(), "stdout").len(), 5000 * 31 + 20_001 + 3);
}

#[test]
fn a_hundred_thousand_lines_arrive() {
    const LINES: usize = 100_000;
    let bench = ours();
    let Some(journal) = Journal::start() else { return };
    bench.script(&format!("payload\nlines {LINES}\ntouch done\nwait end"));
    let monitor = to_journal(&bench).run();
    wait(&bench, "done");
    // The end of a container waits for a slow journal, but not as long as a busy machine may need.
    journal.wait_for(LINES);
    bench.touch("end");
    assert_eq!(monitor.finish().1, "0");
    expect_numbers(&journal.messages(), LINES);
}

/// `line 1` to `line COUNT`.
fn expect_numbers(messages: &[String], count: usize) {
    let wrong = (1..).zip(messages).find(|(number, text)| **text != format!("line {number}"));
    assert!(wrong.is_none(), "{wrong:?}");
    assert_eq!(messages.len(), count);
}

#[test]
fn a_journal_that_does_not_keep_up_holds_the_container_and_loses_nothing() {
    const LINES: usize = 20_000;
    let bench = ours();
    let Some(journal) = Journal::start() else { return };
    bench.script(&format!("payload\nprint line 1\\n\nwait go\nlines {LINES}\ntouch done\nwait end"));
    let monitor = to_journal(&bench).run();
    journal.wait_for(1);
    journal.signal(Signal::SIGSTOP);
    bench.touch("go");
    monitor.wait_for_halt();
    assert!(!bench.path("done").exists(), "the container waits");
    journal.signal(Signal::SIGCONT);
    wait(&bench, "done");
    journal.wait_for(LINES + 1);
    bench.touch("end");
    monitor.finish();
    expect_numbers(&journal.messages()[1..], LINES);
}

/// The end of the output waits in the pipe while the journal catches up.
#[test]
fn a_slow_journal_gets_the_end_of_the_output() {
    // More than a socket's queue takes, and little enough for a busy journal to take the rest in the three seconds that the
    // end of a container waits.
    const LINES: usize = 800;
    let bench = ours();
    let Some(journal) = Journal::start() else { return };
    bench.script(&format!("payload\nwait go\nlines {LINES}\ntouch done"));
    let monitor = to_journal(&bench).run();
    let container = monitor.container();
    journal.signal(Signal::SIGSTOP);
    bench.touch("go");
    wait(&bench, "done");
    deadline::until("the container's end", || (!container.alive()).then_some(()));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(200));
        journal.signal(Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(2));
        journal.signal(Signal::SIGSTOP);
    }
    journal.signal(Signal::SIGCONT);
    assert_eq!(monitor.finish().1, "0");
    expect_numbers(&journal.messages(), LINES);
}

/// The marker's text when `lines` lines of `width` characters are missing.
fn told(lines: usize, width: usize, reason: &str) -> String {
    let bytes = lines * (width + 1);
    format!("conmon: log incomplete: {bytes} bytes in {lines} lines of stdout missing here: {reason}")
}

#[test]
fn what_a_stopped_journal_misses_is_told_when_it_is_back() {
    let bench = ours();
    let Some(mut journal) = Journal::start() else { return };
    bench.script(
        "payload\nlines 1000\ntouch one\nwait go\nlines 500 20\ntouch two\nwait on\nlines 1000\ntouch three\nwait end",
    );
    let monitor = to_journal(&bench).run();
    wait(&bench, "one");
    journal.wait_for(1000);
    journal.stop();
    bench.touch("go");
    wait(&bench, "two");
    // What is still in the pipe must meet the stopped journal as well.
    monitor.pid().expect_idle();
    journal.restart();
    bench.touch("on");
    wait(&bench, "three");
    journal.wait_for(2001);
    let entries = journal.entries();
    let messages: Vec<String> =
        entries.iter().map(|entry| String::from_utf8_lossy(entry.message()).into_owned()).collect();
    expect_numbers(&messages[..1000], 1000);
    assert_eq!(messages[1000], told(500, 20, "Connection refused"));
    assert_eq!(
        (entries[1000].text("PRIORITY"), entries[1000].text("CONTAINER_NAME")),
        ("3".into(), "web".into())
    );
    expect_numbers(&messages[1001..], 1000);
    bench.touch("end");
    assert_eq!(monitor.finish().1, "0");
    assert_eq!(journal.count(), 2001);
}

#[test]
fn a_restart_in_a_flood_loses_no_more_than_is_told() {
    const LINES: usize = 50_000;
    const WIDTH: usize = 20;
    let bench = ours();
    let Some(mut journal) = Journal::start() else { return };
    // The restart comes in the middle of it, however fast it is.
    const HALF: usize = LINES / 2;
    let next = HALF + 1;
    bench.script(&format!(
        "payload\nlines {HALF} {WIDTH}\nwait on\nlines {HALF} {WIDTH} {next}\ntouch done\nwait last\nprint last\\n\nwait end"
    ));
    let monitor = to_journal(&bench).run();
    journal.until("some lines", || journal.count() > 1000);
    bench.touch("on");
    journal.stop();
    journal.restart();
    wait(&bench, "done");
    // The journal is there again: from now on nothing gets lost, and the marker comes before this line.
    bench.touch("last");
    journal.until("the last line", || journal.messages().iter().any(|text| text == "last"));
    bench.touch("end");
    monitor.finish();
    let (markers, lines): (Vec<String>, Vec<String>) =
        journal.messages().into_iter().partition(|text| text.starts_with("conmon: "));
    let numbers: Vec<usize> = lines
        .iter()
        .filter_map(|text| text.strip_prefix("line ")?.trim_end_matches('.').parse().ok())
        .collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "out of order, or twice");
    assert_eq!(lines.last().map(String::as_str), Some("last"));
    let lost: usize = markers
        .iter()
        .map(|text| {
            text.split(" bytes in ").nth(1).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap()
        })
        .sum();
    // What was in the daemon's socket when it went is lost with it, and nobody can know: a queue's worth.
    let queue: usize =
        std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap().trim().parse().unwrap();
    let missing = LINES - numbers.len();
    assert!(missing >= lost && missing <= lost + queue + 1, "{missing} missing, {lost} told");
}

#[test]
fn an_absent_journal_is_a_warning_and_a_count() {
    let bench = ours();
    let Some(mut journal) = Journal::absent() else { return };
    bench.script("payload\nlines 300 20\ntouch one\nwait go\nprint back\\n");
    let monitor = to_journal(&bench).run();
    wait(&bench, "one");
    monitor.pid().expect_idle();
    journal.restart();
    bench.touch("go");
    monitor.finish();
    let messages = journal.messages();
    assert_eq!(messages, [told(300, 20, "No such file or directory"), "back".to_owned()]);
}

#[test]
fn without_any_journal_the_container_ends_as_it_would() {
    let bench = ours();
    let Some(mut journal) = Journal::absent() else { return };
    let syslog = journal.syslog();
    bench.script("payload\nlines 300 20\nexit 7");
    let monitor = bench.crio().option("--log-path", "journald:").arg("--syslog").run();
    assert_eq!(monitor.finish().1, "7");
    assert_eq!(bench.logged("stdout").len(), 300 * 21);
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length) = syslog.recv(&mut buffer) {
        said.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    let first = "Failed to write to the journal, entries are being lost: No such file or directory";
    assert_eq!(said.iter().filter(|text| text.contains(first)).count(), 1, "{said:?}");
    assert_eq!(
        said.iter().filter(|text| text.contains("6300 bytes in 300 lines of stdout")).count(),
        1,
        "{said:?}"
    );
}

#[test]
fn the_journal_knows_the_monitor_as_the_sender() {
    bench_twin!(CONMON, |bench, seen| {
        let Some(journal) = Journal::start() else { return };
        bench.script("payload\nprint one\\n\nwait end");
        let monitor = to_journal(bench).run();
        // journald looks the sender up when it takes the entry, so that must still be there.
        journal.wait_for(1);
        let entry = &journal.entries()[0];
        seen.add("command", entry.text("_COMM"));
        seen.add("is the monitor", (entry.text("_PID") == monitor.pid().0.to_string()).to_string());
        bench.touch("end");
        monitor.finish();
    });
}

/// podman with its events in the journal, where `logs --follow` looks for the container's end.
fn with_events<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["--events-backend", "journald"], args].concat()
}

#[test]
fn podman_reads_what_it_logged() {
    podman_twin!(|podman, seen| {
        let Some(_journal) = Journal::start() else { return };
        let script =
            "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; echo; echo err >&2; printf end";
        let run = ["run", "--name", "c", "--log-driver", "journald", IMAGE, "sh", "-c", script];
        podman.call(&with_events(&run)).exits(0);
        podman.wait_for_end("c");
        for (name, options) in [
            ("all", &[][..]),
            ("tail", &["--tail", "3"]),
            ("since", &["--since", "1h"]),
            ("since later", &["--since", "2099-01-01T00:00:00Z"]),
            ("follow", &["--follow"]),
            ("names", &["--names", "--tail", "1"]),
        ] {
            let outcome = podman.call(&with_events(&[&["logs"], options, &["c"]].concat()));
            seen.add(&format!("{name}.code"), outcome.code.to_string());
            seen.add(&format!("{name}.stdout"), outcome.stdout_text());
            seen.add(&format!("{name}.stderr"), outcome.stderr_text());
        }
    });
}

#[test]
fn podman_follows_the_journal_until_the_end() {
    podman_twin!(|podman, seen| {
        let Some(_journal) = Journal::start() else { return };
        let script = "echo begin; while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 100; exit 3";
        let run = ["run", "--detach", "--name", "c", "--log-driver", "journald", IMAGE, "sh", "-c", script];
        podman.call(&with_events(&run)).exits(0);
        let mut logs = Session::start(podman.command(&with_events(&["logs", "--follow", "c"])), Input::Null);
        logs.wait_for("begin\n");
        // The container may end before this does.
        podman.call(&with_events(&["exec", "c", "touch", "/tmp/go"]));
        seen.outcome("logs", &logs.finish());
        seen.add("exit code", podman.wait_for_end("c").to_string());
    });
}

/// The file is started anew at 2 KiB, so readers see the end of the output, and one that follows sees the new file.
#[test]
fn podman_follows_a_file_that_is_replaced() {
    podman_twin!(|podman, seen| {
        let script = "for round in 1 2 3; do i=0; while [ $i -lt 30 ]; do echo round $round line $i; i=$((i+1)); done; \
                      while [ ! -e /tmp/$round ]; do sleep 0.05; done; done; echo the end";
        let options = ["--log-driver", "k8s-file", "--log-opt", "max-size=2kb"];
        let run = [&["run", "--detach", "--name", "c"][..], &options, &[IMAGE, "sh", "-c", script]].concat();
        podman.call(&run).exits(0);
        let mut logs = Session::start(podman.command(&["logs", "--follow", "c"]), Input::Null);
        for round in ["1", "2", "3"] {
            // podman looks for a new file every quarter of a second.
            logs.wait_for(&format!("round {round} line 29\n"));
            podman.call(&["exec", "c", "touch", &format!("/tmp/{round}")]);
        }
        let followed = logs.finish().exits(0);
        let text = followed.stdout_text();
        assert!(text.ends_with("the end\n"), "{text}");
        podman.wait_for_end("c");
        for (name, options) in [("all", &[][..]), ("tail", &["--tail", "5"]), ("since", &["--since", "1h"])] {
            let outcome = podman.call(&[&["logs"], options, &["c"]].concat()).exits(0);
            seen.add(name, outcome.stdout_text());
        }
    });
}
