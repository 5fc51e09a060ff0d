//! What happens to the log when its file system fails, on real ones: full, gone, read-only, a size limit on the process.
//!
//! Always the same promise: the container goes on, whole records or nothing, logging resumes by itself, one marker
//! tells exactly how much is missing, and the exit is published whatever the log does. Nothing is synced on the way.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use compat_tests::bench::LOG_CAP;
use compat_tests::log::joined;
use compat_tests::mounts::Mounts;
use compat_tests::process::Process;
use compat_tests::session::run;
use compat_tests::twin::our_program;
use compat_tests::{Bench, LogLine, Monitor, deadline};

/// Bytes of one numbered line of the script, its newline included.
const LINE: usize = 41;
const FLOOD: usize = 30_000;

fn ours() -> Bench {
    Bench::with_program(&our_program())
}

/// Starts a container that writes [`FLOOD`] lines, reports `flooded`, waits for `more`, writes 100 lines and exits 7.
fn start<'b>(bench: &'b Bench, log: &Path) -> Monitor<'b> {
    bench.script(&format!(
        "payload\nwait go\nlines {FLOOD} {}\ntouch flooded\nwait more\nelines 100\nexit 7",
        LINE - 1
    ));
    let path = format!("k8s-file:{}", log.display());
    let mut monitor = bench.podman().replace("-l", path).run();
    assert!(monitor.report().json()["data"].as_i64().unwrap() > 0);
    monitor
}

fn flooded(bench: &Bench) {
    let limit = deadline::scaled(Duration::from_secs(60));
    let done = deadline::try_until(limit, || bench.path("flooded").exists().then_some(()));
    assert!(done.is_some(), "the container is held up by its log");
    // The pipe of a busy stream is large: what is in it is read before the test changes anything.
    let monitor = Process(bench.wait_file(&bench.path("conmon.pid")).parse().unwrap());
    let rests = deadline::try_until(limit, || monitor.rests(Duration::from_millis(150)).then_some(()));
    assert!(rests.is_some(), "the monitor does not come to rest");
}

/// The records of a log, every one of them whole.
fn whole(log: impl AsRef<Path>) -> Vec<LogLine> {
    LogLine::parse_all(&fs::read(log).unwrap())
}

/// Checks a log whose flood is incomplete: in order, nothing twice, and what at most `most` markers
/// tell together is what is missing.
fn check_loss(lines: &[LogLine], reason: &str, most: usize) {
    let (markers, rest): (Vec<LogLine>, Vec<LogLine>) =
        lines.iter().cloned().partition(|line| line.text().starts_with("conmon: "));
    let flood = numbers(&rest, "stdout");
    assert!(flood.windows(2).all(|pair| pair[0] < pair[1]), "out of order");
    // A full pipe cuts lines anywhere, so the loss may begin and end within one.
    let kept = joined(&rest, "stdout");
    let lines_kept = kept.iter().filter(|byte| **byte == b'\n').count();
    let (bytes, lines) = (FLOOD * LINE - kept.len(), FLOOD - lines_kept);
    assert!(lines > 0, "nothing was lost, so this shows nothing");
    let mut told = (0, 0);
    for marker in &markers {
        assert_eq!((marker.stream.as_str(), marker.tag.as_str()), ("stderr", "F"));
        let text = marker.text();
        let text = text.strip_prefix("conmon: log incomplete: ").unwrap();
        let text = text.strip_suffix(&format!(" lines of stdout missing here: {reason}")).unwrap();
        let (bytes, lines) = text.split_once(" bytes in ").unwrap();
        told = (told.0 + bytes.parse::<usize>().unwrap(), told.1 + lines.parse::<usize>().unwrap());
    }
    assert_eq!(told, (bytes, lines));
    assert!(markers.len() <= most, "{} markers", markers.len());
    check_rest(&rest);
}

/// What came after the failure is all there.
fn check_rest(lines: &[LogLine]) {
    assert_eq!(numbers(lines, "stderr"), (1..=100).collect::<Vec<_>>(), "what came after the failure");
}

/// The numbers of the lines of a stream that were not written in pieces.
fn numbers(lines: &[LogLine], stream: &str) -> Vec<usize> {
    let mut torn = false;
    let whole = lines.iter().filter(|line| line.stream == stream).filter(|line| {
        let begun = std::mem::replace(&mut torn, line.tag == "P");
        !begun && !torn
    });
    whole.map(|line| number(&line.text())).collect()
}

fn number(text: &str) -> usize {
    let digits = text.strip_prefix("line ").unwrap_or_default().trim_end_matches('.');
    digits.parse().unwrap_or_else(|_| panic!("{text:?}"))
}

/// The numbers of the lines that the container wrote to stdout.
fn logged(lines: &[LogLine]) -> Vec<usize> {
    String::from_utf8(joined(lines, "stdout")).unwrap().lines().map(number).collect()
}

fn finish(bench: &Bench, monitor: Monitor<'_>) {
    bench.touch("more");
    assert_eq!(monitor.finish_rest(), "7");
}

#[test]
fn a_full_disk_costs_what_one_marker_tells() {
    let bench = ours();
    let Some(mut mounts) = Mounts::private() else { return };
    mounts.tmpfs(&bench.path("small"), "2m");
    fs::write(bench.path("small/ballast"), vec![0; 1 << 20]).unwrap();
    let log = bench.path("small/log");
    let monitor = start(&bench, &log);
    bench.touch("go");
    flooded(&bench);
    whole(&log);
    fs::remove_file(bench.path("small/ballast")).unwrap();
    finish(&bench, monitor);
    check_loss(&whole(&log), "No space left on device", 1);
}

/// ext4 finds room now and then while it is full, so there may be several markers.
#[test]
fn an_ext4_that_is_full_does_the_same() {
    let bench = ours();
    let Some(mut mounts) = Mounts::private() else { return };
    if mounts.ext4(&bench.path("image"), &bench.path("disk"), "4M").is_none() {
        return;
    }
    fs::write(bench.path("disk/ballast"), vec![0; 1 << 20]).unwrap();
    let log = bench.path("disk/log");
    let monitor = start(&bench, &log);
    bench.touch("go");
    flooded(&bench);
    fs::remove_file(bench.path("disk/ballast")).unwrap();
    finish(&bench, monitor);
    check_loss(&whole(&log), "No space left on device", 50);
    mounts.pop();
}

#[test]
fn the_exit_is_published_though_the_disk_stays_full() {
    let bench = ours();
    let Some(mut mounts) = Mounts::private() else { return };
    mounts.tmpfs(&bench.path("small"), "256k");
    let log = bench.path("small/log");
    let monitor = start(&bench, &log);
    bench.touch("go");
    flooded(&bench);
    finish(&bench, monitor);
    let lines = whole(&log);
    let kept = numbers(&lines, "stdout");
    assert!(kept.len() > 1000 && kept.windows(2).all(|pair| pair[0] < pair[1]), "{}", kept.len());
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_rotation_without_room_loses_no_backup() {
    let bench = ours();
    let Some(mut mounts) = Mounts::private() else { return };
    mounts.tmpfs(&bench.path("small"), "1m");
    let log = bench.path("small/log");
    bench.script(&format!("payload\nlines {FLOOD} {}\ntouch flooded\nwait more\nexit 7", LINE - 1));
    let path = format!("k8s-file:{}", log.display());
    let command = bench.podman().replace("-l", path).arg("--log-rotate");
    let monitor = command.args(["--log-size-max", "400000", "--log-max-files", "4"]).run();
    flooded(&bench);
    bench.touch("more");
    assert_eq!(monitor.finish().1, "7");
    // All files together are more than the disk holds; each of them is whole records all the same.
    let mut names = bench.names("small");
    names.retain(|name| name.starts_with("log"));
    assert!(names.len() > 1, "{names:?}");
    for name in names {
        whole(bench.path("small").join(name));
    }
}

#[test]
fn a_file_size_limit_on_the_monitor_is_a_full_disk() {
    if !compat_tests::twin::installed(&["prlimit"]) {
        return;
    }
    let bench = ours();
    let log = bench.log();
    let monitor = start(&bench, &log);
    let limit = |text: &str| {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &monitor.pid().0.to_string(), &format!("--fsize={text}")]);
        run(command).exits(0);
    };
    limit("100000:");
    bench.touch("go");
    flooded(&bench);
    limit(&format!("{LOG_CAP}:"));
    finish(&bench, monitor);
    check_loss(&bench.log_lines(), "File too large", 1);
}

/// An aborted ext4 is what a broken disk leaves: every write fails from then on. (A file system that somebody writes to
/// can't be remounted read-only by hand: EBUSY.)
#[test]
fn a_disk_that_turns_read_only_holds_nothing_up() {
    let bench = ours();
    let Some(mut mounts) = Mounts::private() else { return };
    if mounts.ext4(&bench.path("image"), &bench.path("disk"), "8M").is_none() {
        return;
    }
    let log = bench.path("disk/log");
    let monitor = start(&bench, &log);
    let mut abort = Command::new("mount");
    abort.args(["-o", "remount,abort"]).arg(bench.path("disk"));
    run(abort).exits(0);
    bench.touch("go");
    flooded(&bench);
    finish(&bench, monitor);
    whole(&log);
    mounts.pop();
}

#[test]
fn a_reopen_on_a_read_only_file_system_is_made_up_for() {
    let bench = ours();
    let Some(mut mounts) = Mounts::private() else { return };
    fs::create_dir(bench.path("logs")).unwrap();
    let log = bench.path("logs/log");
    let monitor = start(&bench, &log);
    mounts.tmpfs(&bench.path("logs"), "1m");
    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,ro"]).arg(bench.path("logs"));
    run(remount).exits(0);
    bench.ctl("2 0 0\n");
    bench.touch("go");
    flooded(&bench);
    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,rw"]).arg(bench.path("logs"));
    run(remount).exits(0);
    // Nobody asks again: the request is owed.
    bench.wait_file(&log);
    finish(&bench, monitor);
    let new = whole(&log);
    mounts.pop();
    let all: Vec<LogLine> = whole(&log).into_iter().chain(new).collect();
    assert_eq!(logged(&all), (1..=FLOOD).collect::<Vec<_>>());
    check_rest(&all);
}

#[test]
fn a_removed_directory_is_used_again_when_it_is_back() {
    let bench = ours();
    fs::create_dir(bench.path("logs")).unwrap();
    let log = bench.path("logs/log");
    let monitor = start(&bench, &log);
    fs::remove_dir_all(bench.path("logs")).unwrap();
    bench.ctl("2 0 0\n");
    bench.touch("go");
    flooded(&bench);
    fs::create_dir(bench.path("logs")).unwrap();
    bench.wait_file(&log);
    finish(&bench, monitor);
    check_rest(&whole(&log));
}

/// Calls of fsync and its like: while the container runs, and at the end.
fn syncs(options: &[&str]) -> Option<(usize, usize)> {
    if !compat_tests::twin::installed(&["strace"]) {
        return None;
    }
    let place = ours();
    let trace = place.path("trace");
    let text = format!(
        "#!/bin/sh\nexec strace -D -f -o {} -e trace=fsync,fdatasync,sync_file_range,syncfs,sync,msync {} \"$@\"\n",
        trace.display(),
        our_program().display()
    );
    let bench = Bench::with_program(&place.executable("traced", &text));
    let count = || {
        let text = fs::read_to_string(&trace).unwrap_or_default();
        text.lines().filter(|line| line.contains("sync") && !line.contains("resumed")).count()
    };
    bench.script("payload\nlines 20000\ntouch flooded\nwait more\nexit 7");
    let mut monitor = bench.podman().args(["--log-size-max", "100000", "--log-rotate"]).args(options).run();
    monitor.report();
    flooded(&bench);
    assert_eq!(bench.log_lines().last().map(LogLine::text), Some("line 20000".into()));
    let before = count();
    finish(&bench, monitor);
    // The tracer writes its last lines after its tracee's end.
    deadline::until("the end of the trace", || {
        fs::read_to_string(&trace).unwrap_or_default().contains("exited with 0").then_some(())
    });
    bench.expect_nothing_running();
    Some((before, count()))
}

#[test]
fn the_log_is_synced_once_and_at_the_end() {
    if let Some(counts) = syncs(&[]) {
        assert_eq!(counts, (0, 1));
    }
}

#[test]
fn no_sync_log_means_never() {
    if let Some(counts) = syncs(&["--no-sync-log"]) {
        assert_eq!(counts, (0, 0));
    }
}
