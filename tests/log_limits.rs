//! Contract 6.2, 6.3 and appendix B: the log's limits, and what can't be written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use compat_tests::{Bench, LogLine, behaviour};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Runs a container that follows `payload`, with the extra options `args`, to its end.
fn run(bench: &Bench, args: &[&str], payload: &str) {
    bench.script(&format!("payload\n{payload}"));
    bench.podman().args(args).run().finish();
}

fn texts(bench: &Bench) -> Vec<String> {
    bench.log_lines().iter().map(LogLine::text).collect()
}

/// A record's size in the file: 43 bytes up to the tag, tag, space, content, newline.
fn size(content: usize) -> usize {
    43 + 2 + content + 1
}

#[test]
fn the_size_limit_starts_a_new_file() {
    behaviour!(|| {
        let bench = Bench::new();
        // Two records of ten bytes fit.
        let limit = (2 * size(10)).to_string();
        run(
            &bench,
            &["--log-size-max", &limit],
            "print aaaaaaaaaa\\nbbbbbbbbbb\\ncccccccccc\\ndddddddddd\\neeeeeeeeee\\n",
        );
        assert_eq!(texts(&bench), ["eeeeeeeeee"]);
    });
}

#[test]
fn a_record_that_fits_exactly_stays() {
    behaviour!(|| {
        for (less, expected) in [(0, vec!["aaaaaaaaaa", "bbbbbbbbbb"]), (1, vec!["bbbbbbbbbb"])] {
            let bench = Bench::new();
            let limit = (2 * size(10) - less).to_string();
            run(&bench, &["--log-size-max", &limit], "print aaaaaaaaaa\\nbbbbbbbbbb\\n");
            assert_eq!(texts(&bench), expected);
        }
    });
}

#[test]
fn the_new_file_is_another_inode_of_mode_0640() {
    behaviour!(|| {
        let bench = Bench::new();
        std::fs::write(bench.log(), "x".repeat(200)).unwrap();
        let inode = std::fs::metadata(bench.log()).unwrap().ino();
        run(&bench, &["--log-size-max", "100"], "print hello\\n");
        let meta = std::fs::metadata(bench.log()).unwrap();
        assert_ne!(meta.ino(), inode);
        assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
        assert_eq!(texts(&bench), ["hello"], "what was there before counts, and goes");
        assert!(bench.names("").iter().all(|name| !name.starts_with("log.")), "{:?}", bench.names(""));
    });
}

#[test]
fn a_record_larger_than_the_limit_goes_in_alone() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &["--log-size-max", "60"], "print short\\nlonger than the whole limit\\nshort again\\n");
        assert_eq!(texts(&bench), ["short again"]);
        let bench = Bench::new();
        run(&bench, &["--log-size-max", "60"], "print short\\nlonger than the whole limit\\n");
        assert_eq!(texts(&bench), ["longer than the whole limit"]);
    });
}

#[test]
fn no_limit_at_0_and_below() {
    behaviour!(|| {
        for value in ["0", "-1"] {
            let bench = Bench::new();
            run(&bench, &["--log-size-max", value, "--log-global-size-max", value], "lines 300 100");
            assert_eq!(bench.logged("stdout").len(), 300 * 101);
        }
    });
}

/// Records of the container's own.
fn stdout_records(bench: &Bench) -> usize {
    bench.log_lines().iter().filter(|line| line.stream == "stdout").count()
}

#[test]
fn the_global_limit_ends_the_log_after_the_record_that_crosses_it() {
    behaviour!(|| {
        for (limit, expected) in [(2 * size(3), 2), (2 * size(3) + 1, 3), (1, 1)] {
            let bench = Bench::new();
            run(&bench, &["--log-global-size-max", &limit.to_string()], "print aaa\\nbbb\\nccc\\nddd\\n");
            assert_eq!(stdout_records(&bench), expected, "limit {limit}");
        }
    });
}

#[test]
fn the_global_limit_counts_what_was_there() {
    behaviour!(|| {
        let bench = Bench::new();
        let old = "2026-01-01T00:00:00.000000000+00:00 stdout F old\n";
        std::fs::write(bench.log(), old).unwrap();
        run(&bench, &["--log-global-size-max", &old.len().to_string()], "print new\\n");
        assert_eq!(stdout_records(&bench), 1);
    });
}

#[test]
fn the_global_limit_leaves_a_note() {
    behaviour!(|| {
        let bench = Bench::new();
        run(&bench, &["--log-global-size-max", "1"], "print aaa\\nbbb\\nccc\\n");
        let notes = bench.log_lines().into_iter().filter(|line| line.stream == "stderr").collect::<Vec<_>>();
        assert_eq!(notes.len(), 1);
        assert!(notes[0].tag == "F" && notes[0].text().starts_with("conmon: "), "{notes:?}");
    });
}

#[test]
fn the_global_limit_does_not_stop_the_container() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nlines 5000 100\nelines 5000 100\nexit 3");
        let (_, exit) = bench.podman().option("--log-global-size-max", "1000").run().finish();
        assert_eq!(exit, "3");
        assert!(std::fs::metadata(bench.log()).unwrap().len() < 1200);
    });
}

#[test]
fn a_full_disk_does_not_stop_the_container() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nlines 5000 100\nelines 100\nexit 3");
        let (report, exit) = bench.podman().replace("-l", "k8s-file:/dev/full").run().finish();
        assert!(report.number("data") > 1);
        assert_eq!(exit, "3");
    });
}

#[test]
fn a_device_node_is_not_replaced() {
    behaviour!(|| {
        let bench = Bench::new();
        let node = bench.path("null");
        mknod(&node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).expect("a device node");
        bench.script("payload\nlines 100 100\nexit 3");
        let command = bench.podman().replace("-l", format!("k8s-file:{}", node.display()));
        assert_eq!(command.option("--log-size-max", "100").run().finish().1, "3");
        assert!(std::fs::metadata(&node).unwrap().file_type().is_char_device());
    });
}

#[test]
fn a_fifo_without_a_reader_is_an_error() {
    behaviour!(|| {
        let bench = Bench::new();
        nix::unistd::mkfifo(&bench.path("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        bench.script("payload\nexit 3");
        let command = bench.podman().replace("-l", format!("k8s-file:{}", bench.path("fifo").display()));
        let monitor = command.run();
        assert_eq!(monitor.wait_parent().code, Some(1));
        let path = bench.path("fifo");
        assert!(monitor.stderr().contains(path.to_str().unwrap()), "{}", monitor.stderr());
    });
}

#[test]
fn a_socket_is_no_log_and_no_fifo_either() {
    behaviour!(|| {
        let bench = Bench::new();
        let _socket = std::os::unix::net::UnixListener::bind(bench.path("socket")).unwrap();
        bench.script("payload\nexit 3");
        let command = bench.podman().replace("-l", format!("k8s-file:{}", bench.path("socket").display()));
        let monitor = command.run();
        assert_eq!(monitor.wait_parent().code, Some(1));
        let said = monitor.stderr();
        assert!(said.ends_with("Failed to open log file No such device or address\n"), "{said}");
    });
}

#[test]
fn a_log_that_can_not_be_opened_is_an_error() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 3");
        let command =
            bench.podman().replace("-l", format!("k8s-file:{}", bench.path("missing/log").display()));
        let monitor = command.run();
        assert_eq!(monitor.wait_parent().code, Some(1));
        assert!(monitor.stderr().contains("Failed to open log file"), "{}", monitor.stderr());
        assert!(bench.names("b") == ["script"]);
    });
}
