//! Contract 1.10, 2.6, 6.1 and 6.2: the k8s-file log.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use compat_tests::{Bench, LogLine, Monitor, behaviour, deadline};

/// The largest payload of one record.
const RECORD: usize = 8192;

/// Runs a container that follows `payload`, with the extra options `args`, to its end.
fn run(bench: &Bench, args: &[&str], payload: &str) {
    bench.script(&format!("payload\n{payload}"));
    bench.podman().args(args).run().finish();
}

/// (stream, tag, text) of every record.
fn records(bench: &Bench) -> Vec<(String, String, String)> {
    bench.log_lines().into_iter().map(|line| (line.stream.clone(), line.tag.clone(), line.text())).collect()
}

fn texts(bench: &Bench) -> Vec<String> {
    bench.log_lines().iter().map(LogLine::text).collect()
}

fn record(stream: &str, tag: &str, text: &str) -> (String, String, String) {
    (stream.to_owned(), tag.to_owned(), text.to_owned())
}

/// Seconds since the epoch and the UTC offset in minutes of `YYYY-MM-DDThh:mm:ss.nnnnnnnnn±hh:mm`.
fn parse_stamp(stamp: &str) -> (i64, i64) {
    assert_eq!(stamp.len(), 35, "{stamp}");
    let template = "dddd-dd-ddTdd:dd:dd.ddddddddd±dd:dd".replace('±', &stamp[29..30]);
    for (character, expected) in stamp.chars().zip(template.chars()) {
        let fits = if expected == 'd' { character.is_ascii_digit() } else { character == expected };
        assert!(fits, "{stamp}");
    }
    let number = |from: usize, to: usize| stamp[from..to].parse::<i64>().unwrap();
    let sign = match &stamp[29..30] {
        "+" => 1,
        "-" => -1,
        _ => panic!("{stamp}"),
    };
    let offset = sign * (number(30, 32) * 60 + number(33, 35));
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    // Days since 1970-03-01 in a year that begins in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let local = ((days * 24 + number(11, 13)) * 60 + number(14, 16)) * 60 + number(17, 19);
    (local - offset * 60, offset)
}

#[test]
fn a_line_is_stamp_stream_tag_content() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &[], "print hello world\\n\ndrained\neprint oh\\n");
        assert_eq!(records(&bench), [record("stdout", "F", "hello world"), record("stderr", "F", "oh")]);
    });
}

#[test]
fn stamps_are_local_time_with_an_offset() {
    behaviour!(|| {
        let zones = [
            ("UTC0", 0),
            ("IST-5:30", 330),
            ("NFT3:30", -210),
            ("XXX+11", -660),
            ("XXX3YYY2,0/0,J365/25", -120),
            ("Nowhere/Land", 0),
        ];
        for (zone, offset) in zones {
            let bench = Bench::new();
            bench.script("payload\nprint hello\\n");
            bench.podman().env("TZ", zone).run().finish();
            let line = &bench.log_lines()[0];
            let (seconds, found) = parse_stamp(&line.stamp);
            assert_eq!(found, offset, "{zone}: {}", line.stamp);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
            assert!((now - 60..=now).contains(&seconds), "{zone}: {}", line.stamp);
            if offset == 0 {
                assert!(line.stamp.ends_with("+00:00"), "never Z: {}", line.stamp);
            }
        }
    });
}

/// A zone's file is read, not kept: when somebody empties it, nobody stumbles.
#[test]
fn the_zone_may_be_a_file() {
    behaviour!(|| {
        let bench = Bench::new();
        let path = bench.path("zone");
        // No changes, one type of seven minutes, no rule.
        let mut zone = b"TZif".to_vec();
        zone.resize(32, 0);
        zone.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 1, 164, 0, 0]);
        zone.extend(b"ABC\0");
        std::fs::write(&path, zone).unwrap();
        bench.script("payload\nprint hello\\n\nwait go\nexit 0");
        let mut monitor = bench.podman().env("TZ", format!(":{}", path.display())).run();
        monitor.report();
        deadline::until("a record", || (texts(&bench) == ["hello"]).then_some(()));
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", bench.monitor().0)).unwrap();
        bench.touch("go");
        monitor.finish_rest();
        assert_eq!(parse_stamp(&bench.log_lines()[0].stamp).1, 7);
        assert!(!maps.contains(path.to_str().unwrap()), "{maps}");
    });
}

#[test]
fn stamps_do_not_go_back() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &[], &"print x\\n\ndrained\nsleep 3\n".repeat(20));
        let stamps: Vec<String> = bench.log_lines().into_iter().map(|line| line.stamp).collect();
        assert!(stamps.is_sorted(), "{stamps:?}");
        assert_ne!(stamps.first(), stamps.last());
    });
}

#[test]
fn a_prompt_shows_at_once_and_is_continued() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nprint par\nwait go\nprint tial\\n\nexit 0");
        let mut monitor = bench.podman().run();
        monitor.report();
        deadline::until("the partial line", || (texts(&bench) == ["par"]).then_some(()));
        bench.touch("go");
        monitor.finish_rest();
        assert_eq!(records(&bench), [record("stdout", "P", "par"), record("stdout", "F", "tial")]);
    });
}

#[test]
fn an_unterminated_last_line_stays_partial() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &[], "print one\\ntwo");
        assert_eq!(records(&bench), [record("stdout", "F", "one"), record("stdout", "P", "two")]);
    });
}

#[test]
fn empty_lines_are_records() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &[], "print \\n\\na\\n\\n");
        let expected = ["", "", "a", ""].map(|text| record("stdout", "F", text));
        assert_eq!(records(&bench), expected);
        let bytes = std::fs::read(bench.log()).unwrap();
        assert!(bytes.ends_with(b" stdout F \n"));
    });
}

#[test]
fn bytes_pass_raw() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &[], "print \\0\\r\\xff\\xfe\\t\\x1b[0m \\xc3\\n");
        assert_eq!(bench.logged("stdout"), b"\0\r\xff\xfe\t\x1b[0m \xc3\n");
    });
}

#[test]
fn long_output_is_complete_and_no_record_too_long() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &[], "lines 3000 333\nbytes 100000\nprint \\n\nlines 100");
        let mut expected = String::new();
        for index in 1..=3000 {
            expected.push_str(&format!("{:.<333}\n", format!("line {index}")));
        }
        expected.push_str(&"x".repeat(100_000));
        expected.push('\n');
        for index in 1..=100 {
            expected.push_str(&format!("line {index}\n"));
        }
        assert!(bench.logged("stdout") == expected.as_bytes(), "the log does not hold what was written");
        assert!(bench.log_lines().iter().all(|line| line.content.len() <= RECORD));
    });
}

#[test]
fn two_busy_streams_are_both_complete() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &[], "background\nelines 3000 90\ntouch done\nend\nlines 3000 90\nwait done");
        let stdout = bench.logged("stdout");
        assert_eq!(stdout.len(), 3000 * 91);
        assert!(stdout == bench.logged("stderr"));
    });
}

#[test]
fn a_line_that_is_there_is_not_split() {
    behaviour!(|| {
        let bench = Bench::new();
        // Less than a pipe holds, so that every line is complete when it is read.
        bench.script("payload\nwait go\nlines 600 100");
        let mut monitor = bench.podman().run();
        monitor.report();
        bench.touch("go");
        monitor.finish_rest();
        assert!(bench.log_lines().iter().all(|line| line.tag == "F"), "a line was split");
    });
}

/// What is written before the container is reported is held back for a while.
#[test]
fn a_line_from_before_the_report_is_not_split() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("lines 300 60\nlines 3 6000\ndrained\npayload\nexit 3");
        bench.podman().run().finish();
        let lines = bench.log_lines();
        let cut: Vec<usize> =
            lines.iter().filter(|line| line.tag != "F").map(|line| line.content.len()).collect();
        assert_eq!((lines.len(), cut), (303, vec![]));
    });
}

#[test]
fn a_line_of_the_largest_size_is_one_full_record() {
    behaviour!(|| {
        let bench = Bench::new();
        let line = "y".repeat(RECORD);
        run(&bench, &[], &format!("print {line}\\n"));
        assert!(records(&bench) == [record("stdout", "F", &line)], "more than one record");
    });
}

#[test]
fn a_line_beyond_the_largest_size_is_split() {
    behaviour!(|| {
        let bench = Bench::new();
        let line = "y".repeat(RECORD);
        run(&bench, &[], &format!("print {line}zz\\n"));
        assert!(
            records(&bench) == [record("stdout", "P", &line), record("stdout", "F", "zz")],
            "other records"
        );
    });
}

#[test]
fn of_several_paths_the_last_counts() {
    behaviour!(|| {
        let bench = Bench::new();
        let second = format!("k8s-file:{}", bench.path("second").display());
        run(&bench, &["-l", &second], "print hello\\n");
        assert!(!bench.log().exists(), "the first is not even opened");
        assert_eq!(LogLine::parse_all(&std::fs::read(bench.path("second")).unwrap())[0].text(), "hello");
    });
}

#[test]
fn no_log_on_request() {
    behaviour!(|| {
        for driver in ["none", "off", "null", "none:", "off:whatever"] {
            let bench = Bench::new();
            bench.script("payload\nlines 2000 100\nexit 3");
            let (_, exit) = bench.podman().replace("-l", driver).run().finish();
            assert_eq!(exit, "3");
            assert!(!bench.log().exists() && !bench.path(driver).exists());
        }
    });
}

#[test]
fn none_does_not_cancel_a_file() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &["-l", "none"], "print hello\\n");
        assert_eq!(texts(&bench), ["hello"]);
    });
}

#[test]
fn a_bare_path_is_a_file() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nprint hello\\n\nexit 0");
        bench.podman().replace("-l", bench.log()).run().finish();
        assert_eq!(texts(&bench), ["hello"]);
    });
}

#[test]
fn a_relative_path_counts_from_the_working_directory() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nprint hello\\n\nexit 0");
        bench.podman().replace("-l", "k8s-file:log").run().finish();
        assert_eq!(texts(&bench), ["hello"]);
    });
}

#[test]
fn a_path_may_hold_a_colon() {
    behaviour!(|| {
        for prefix in ["k8s-file:", ""] {
            let bench = Bench::new();
            bench.script("payload\nprint hello\\n\nexit 0");
            let path = bench.path("a:b.log");
            bench.podman().replace("-l", format!("{prefix}{}", path.display())).run().finish();
            assert_eq!(LogLine::parse_all(&std::fs::read(path).unwrap())[0].text(), "hello");
        }
    });
}

#[test]
fn a_new_file_is_0640_and_there_before_the_runtime() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("wait go\npayload\nexit 0");
        let monitor = bench.podman().spawn();
        bench.wait_file(&bench.log());
        let mut monitor: Monitor<'_> = monitor;
        monitor.go();
        assert_eq!(std::fs::metadata(bench.log()).unwrap().permissions().mode() & 0o7777, 0o640);
        bench.touch("go");
        monitor.finish();
    });
}

#[test]
fn an_existing_file_is_appended_to_and_keeps_its_mode() {
    behaviour!(|| {
        let bench = Bench::new();
        let old = "2026-01-01T00:00:00.000000000+00:00 stdout F old\n";
        std::fs::write(bench.log(), old).unwrap();
        std::fs::set_permissions(bench.log(), std::fs::Permissions::from_mode(0o604)).unwrap();
        let inode = std::fs::metadata(bench.log()).unwrap().ino();
        run(&bench, &[], "print new\\n");
        assert_eq!(texts(&bench), ["old", "new"]);
        let meta = std::fs::metadata(bench.log()).unwrap();
        assert_eq!((meta.permissions().mode() & 0o7777, meta.ino()), (0o604, inode));
    });
}

#[test]
fn another_writer_is_not_overwritten() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nprint one\\n\nwait go\nprint two\\n\nexit 0");
        let mut monitor = bench.podman().run();
        monitor.report();
        deadline::until("the first line", || (texts(&bench) == ["one"]).then_some(()));
        // As `truncate -s 0` and logrotate's copytruncate do.
        std::fs::File::options().write(true).open(bench.log()).unwrap().set_len(0).unwrap();
        bench.touch("go");
        monitor.finish_rest();
        assert_eq!(texts(&bench), ["two"], "no hole in front");
    });
}

#[test]
fn the_log_is_complete_when_the_exit_file_appears() {
    behaviour!(|| {
        for _ in 0..5 {
            let bench = Bench::new();
            bench.script("payload\nlines 500 100\nexit 0");
            let mut monitor = bench.podman().run();
            monitor.report();
            bench.wait_exit_file();
            assert_eq!(bench.logged("stdout").len(), 500 * 101);
            monitor.wait();
        }
    });
}

#[test]
fn no_sync_log_changes_nothing_that_can_be_seen() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &["--no-sync-log"], "print hello\\n");
        assert_eq!(texts(&bench), ["hello"]);
    });
}

#[test]
fn a_slow_writer_is_logged_as_it_goes() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nprint one\\n\nwait go\neprint two\\n\nwait end\nexit 0");
        let mut monitor = bench.podman().run();
        monitor.report();
        deadline::until("one", || (texts(&bench) == ["one"]).then_some(()));
        deadline::holds("nothing more", Duration::from_millis(20), || texts(&bench) == ["one"]);
        bench.touch("go");
        deadline::until("two", || (texts(&bench) == ["one", "two"]).then_some(()));
        bench.touch("end");
        monitor.finish_rest();
    });
}
