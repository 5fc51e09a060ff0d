//! A million numbered lines through every way in which a log changes its file while the container writes: the size
//! limit with and without backups, kubelet's rename and reopen request, logrotate's copytruncate, removal.
//!
//! The logs lie on a file system in memory with an end, so that a failure can't fill a disk.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use compat_tests::mounts::Mounts;
use compat_tests::twin::our_program;
use compat_tests::{Bench, Monitor, MonitorCommand, deadline};

const MILLION: u32 = 1_000_000;

/// A bench with a folder `logs` that holds no more than the lines of a test.
fn room() -> Option<(Bench, Mounts)> {
    let bench = Bench::with_program(&our_program());
    let mut mounts = Mounts::private()?;
    mounts.tmpfs(&bench.path("logs"), "120m");
    Some((bench, mounts))
}

fn log(bench: &Bench) -> PathBuf {
    bench.path("logs/log")
}

/// podman's command line with the log in `logs`.
fn command(bench: &Bench) -> MonitorCommand<'_> {
    bench.podman().replace("-l", format!("k8s-file:{}", log(bench).display()))
}

/// A container that writes lines to `stdout`, makes `flooded` and ends when it sees `end`: nobody hears a request when
/// the monitor is gone.
fn flood(bench: &Bench, lines: u32) {
    bench.script(&format!("payload\nlines {lines}\ntouch flooded\nwait end"));
}

fn end(bench: &Bench, monitor: Monitor<'_>) {
    bench.touch("end");
    assert_eq!(monitor.finish().1, "0");
}

/// Waits for what a million lines may take on a busy machine, doing `meanwhile` again and again.
fn until_flooded(bench: &Bench, mut meanwhile: impl FnMut()) {
    let limit = deadline::scaled(Duration::from_secs(120));
    let done = deadline::try_until(limit, || {
        meanwhile();
        bench.path("flooded").exists().then_some(())
    });
    assert!(done.is_some(), "the container is not done");
}

/// The lines of a piece of log, in order. A full pipe cuts lines anywhere, so `torn` is what the piece before it ended with,
/// and afterwards what this one ends with.
fn numbers(bytes: &[u8], torn: &mut Vec<u8>) -> Vec<u32> {
    const PREFIX: usize = "0000-00-00T00:00:00.000000000+00:00 stdout F ".len();
    let Some(records) = bytes.strip_suffix(b"\n") else {
        assert!(bytes.is_empty(), "ends in the middle of a record");
        return Vec::new();
    };
    let mut found = Vec::with_capacity(bytes.len() / PREFIX);
    for record in records.split(|byte| *byte == b'\n') {
        let (prefix, text) = record.split_at_checked(PREFIX).unwrap_or_else(|| panic!("{}", show(record)));
        let stamped =
            prefix.starts_with(b"20") && prefix[10] == b'T' && prefix[19] == b'.' && prefix[35] == b' ';
        assert!(stamped && prefix[35..].starts_with(b" stdout "), "{}", show(record));
        torn.extend_from_slice(text);
        match &prefix[43..] {
            b"F " => {
                found.push(number(torn));
                torn.clear();
            }
            b"P " => {}
            _ => panic!("{}", show(record)),
        }
    }
    found
}

fn number(text: &[u8]) -> u32 {
    let digits = text.strip_prefix(b"line ").and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{}", show(text)))
}

fn show(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]))
}

/// The lines of several files that follow each other, which must be contiguous; from the first to the last.
fn contiguous(files: &[PathBuf]) -> (u32, u32) {
    let mut torn = Vec::new();
    let mut range: Option<(u32, u32)> = None;
    for file in files {
        let mut bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        if range.is_none() {
            skip_torn(&mut bytes);
        }
        for number in numbers(&bytes, &mut torn) {
            let (first, last) = range.unwrap_or((number, number - 1));
            assert_eq!(number, last + 1, "in {}", file.display());
            range = Some((first, number));
        }
    }
    assert!(torn.is_empty(), "the last line has no end");
    range.unwrap()
}

/// What puts the files of one log in order: the time of the first record, and its number when that is the same. `None`
/// for an empty file.
fn order(path: &Path) -> Option<(Vec<u8>, u32)> {
    let mut bytes = fs::read(path).unwrap();
    let stamp = bytes.get(..35)?.to_vec();
    skip_torn(&mut bytes);
    Some((stamp, numbers(&bytes, &mut Vec::new()).first().copied().unwrap_or_default()))
}

/// The first of the files that remain may begin with the end of a line.
fn skip_torn(bytes: &mut Vec<u8>) {
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if !bytes[..end].windows(5).any(|window| window == b"line ") {
        bytes.drain(..end);
    }
}

fn ends_with(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.ends_with(text.as_bytes()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn backups_are_contiguous_and_as_many_as_asked_for() {
    const LIMIT: u64 = 3_000_000;
    const BACKUPS: usize = 5;
    let Some((bench, _mounts)) = room() else { return };
    flood(&bench, MILLION);
    let limits = ["--log-rotate", "--log-size-max", "3000000", "--log-max-files", "5"];
    let monitor = command(&bench).args(limits).run();
    until_flooded(&bench, || {});
    end(&bench, monitor);
    let mut wanted: Vec<String> = (1..=BACKUPS).map(|number| format!("log.{number}")).collect();
    wanted.insert(0, "log".into());
    assert_eq!(bench.names("logs"), wanted);
    let files: Vec<PathBuf> = wanted.iter().rev().map(|name| bench.path("logs").join(name)).collect();
    for file in &files {
        let size = fs::metadata(file).unwrap().len();
        assert!(size <= LIMIT, "{} has {size} bytes", file.display());
        // The current one is as long as it happens to be.
        assert!(file.ends_with("log") || size > LIMIT - 100, "{} has {size} bytes", file.display());
        assert_eq!(mode(file), 0o640, "{}", file.display());
    }
    let (first, last) = contiguous(&files);
    assert_eq!(last, MILLION);
    assert!(first < MILLION - 200_000, "{first}");
}

#[test]
fn one_backup_means_one() {
    let Some((bench, _mounts)) = room() else { return };
    flood(&bench, 50_000);
    let monitor = command(&bench).args(["--log-rotate", "--log-size-max", "300000"]).run();
    until_flooded(&bench, || {});
    end(&bench, monitor);
    assert_eq!(bench.names("logs"), ["log", "log.1"]);
    assert_eq!(contiguous(&[bench.path("logs/log.1"), log(&bench)]).1, 50_000);
}

#[test]
fn without_rotation_the_last_lines_remain() {
    const LIMIT: u64 = 1_000_000;
    let Some((bench, _mounts)) = room() else { return };
    flood(&bench, 200_000);
    let monitor = command(&bench).args(["--log-size-max", "1000000"]).run();
    until_flooded(&bench, || {});
    end(&bench, monitor);
    assert_eq!(bench.names("logs"), ["log"]);
    assert!(fs::metadata(log(&bench)).unwrap().len() <= LIMIT);
    assert_eq!(mode(&log(&bench)), 0o640);
    assert_eq!(contiguous(&[log(&bench)]).1, 200_000);
}

/// kubelet renames the file, CRI-O asks for a new one and waits for it.
#[test]
fn renames_and_reopens_lose_nothing() {
    const RENAMES: usize = 300;
    const PART: u32 = MILLION / 4;
    let Some((bench, _mounts)) = room() else { return };
    // However fast it writes, there is a rename between two parts.
    let parts: String =
        (0..4).map(|part| format!("wait part{part}\nlines {PART} 0 {}\n", part * PART + 1)).collect();
    bench.script(&format!("payload\n{parts}touch flooded\nwait end"));
    let monitor = bench.crio().replace("-l", log(&bench)).run();
    let _ = monitor.container();
    let mut renamed: Vec<PathBuf> = Vec::new();
    until_flooded(&bench, || {
        if renamed.len() == RENAMES {
            return;
        }
        let target = bench.path(format!("logs/log.{}", renamed.len()));
        fs::rename(log(&bench), &target).unwrap();
        renamed.push(target);
        bench.ctl("2 0 0\n");
        // The file is there as a whole when its name is.
        bench.wait_file(&log(&bench));
        bench.touch(&format!("part{}", renamed.len() - 1));
    });
    end(&bench, monitor);
    renamed.push(log(&bench));
    assert_eq!(contiguous(&renamed), (1, MILLION));
    for file in &renamed {
        assert_eq!(mode(file), 0o640, "{}", file.display());
    }
}

/// The same with a size limit and backups of our own in between.
#[test]
fn renames_and_reopens_get_along_with_backups() {
    let Some((bench, _mounts)) = room() else { return };
    flood(&bench, 300_000);
    let limits = ["--log-rotate", "--log-size-max", "500000", "--log-max-files", "100"];
    let monitor = command(&bench).args(limits).run();
    let _ = monitor.container();
    let mut renamed = 0;
    until_flooded(&bench, || {
        if renamed < 20 && fs::metadata(log(&bench)).is_ok_and(|meta| meta.len() > 0) {
            // Between the look and the rename the file may have become a backup, and an empty one taken its place.
            let _ = fs::rename(log(&bench), bench.path(format!("logs/moved.{renamed}")));
            renamed += 1;
            bench.ctl("2 0 0\n");
            bench.wait_file(&log(&bench));
        }
    });
    end(&bench, monitor);
    let paths = bench.names("logs").into_iter().map(|name| bench.path("logs").join(name));
    let mut files: Vec<_> = paths.filter_map(|path| Some((order(&path)?, path))).collect();
    files.sort();
    // A file that was renamed while it was being made a backup has both names.
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    files.dedup_by_key(|(_, path)| inode(path));
    let files: Vec<PathBuf> = files.into_iter().map(|(_, path)| path).collect();
    assert_eq!(contiguous(&files), (1, 300_000));
}

/// logrotate's copytruncate. What is written between the copy and the truncation is lost to it, and nothing else.
#[test]
fn a_truncated_log_goes_on_from_its_start() {
    let Some((bench, _mounts)) = room() else { return };
    bench.script("payload\nlines 300000\ntouch flooded\nwait mark\nprint mark\\n\nwait more\nlines 300000\ntouch again");
    // The limit is never reached by what is in the file at one time, so it must not be replaced.
    let monitor = command(&bench).args(["--log-size-max", "40000000"]).run();
    let _ = monitor.container();
    let inode = fs::metadata(log(&bench)).unwrap().ino();
    let truncate = || {
        let file = fs::OpenOptions::new().write(true).open(log(&bench)).unwrap();
        if file.metadata().unwrap().len() > 500_000 {
            let copy = fs::read(log(&bench)).unwrap();
            assert!(!copy.contains(&0), "a hole");
            file.set_len(0).unwrap();
        }
    };
    until_flooded(&bench, truncate);
    // However much of it is still on its way.
    bench.touch("mark");
    deadline::until("the mark", || ends_with(&log(&bench), " mark\n").then_some(()));
    fs::OpenOptions::new().write(true).open(log(&bench)).unwrap().set_len(0).unwrap();
    bench.touch("more");
    bench.wait_file(&bench.path("again"));
    monitor.finish();
    assert_eq!(bench.names("logs"), ["log"]);
    assert_eq!(fs::metadata(log(&bench)).unwrap().ino(), inode);
    let (_, last) = contiguous(&[log(&bench)]);
    assert_eq!(last, 300_000);
}

#[test]
fn a_removed_log_is_back_after_a_request() {
    let Some((bench, _mounts)) = room() else { return };
    bench.script("payload\nlines 1000\ntouch flooded\nwait more\nlines 1000");
    for options in [&[][..], &["--log-rotate", "--log-size-max", "1000000"]] {
        let _ = fs::remove_file(log(&bench));
        let monitor = command(&bench).args(options).run();
        until_flooded(&bench, || {});
        deadline::until("the first lines", || ends_with(&log(&bench), "line 1000\n").then_some(()));
        fs::remove_file(log(&bench)).unwrap();
        bench.ctl("2 0 0\n");
        bench.wait_file(&log(&bench));
        bench.touch("more");
        monitor.finish();
        assert_eq!(bench.names("logs"), ["log"]);
        assert_eq!(contiguous(&[log(&bench)]), (1, 1000));
        assert_eq!(mode(&log(&bench)), 0o640);
        for path in [bench.path("more"), bench.path("flooded"), bench.exit_file(), bench.path("conmon.pid")] {
            fs::remove_file(path).unwrap();
        }
    }
}
