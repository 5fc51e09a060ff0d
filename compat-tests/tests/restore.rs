//! A container that was checkpointed by runc with CRIU, restored under the monitor; contract 5.18.
//!
//! CRIU works with few kernels, so `make test` builds this file and leaves running it to contrib/test-vm.sh, which boots
//! the kernel that the distribution's CRIU is made for. Run by hand where `criu check` fails, it says so.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use compat_tests::bench::CID;
use compat_tests::fifo::write_fifo;
use compat_tests::image::program;
use compat_tests::runc::Runc;
use compat_tests::session::run;
use compat_tests::{Bench, MonitorCommand, bench_twin, deadline, observe, twin};
use nix::sys::stat::Mode;

const PROGRAMS: &[&str] = &["runc", "conmon", "busybox"];
/// Files of runc, CRIU and the test, and the log, which has sections of its own.
const NOT_THE_MONITORS: &[&str] = &[
    "rootfs",
    "runc",
    "err",
    "out",
    "log",
    "image",
    "work",
    "b/descriptors.json",
    "b/restore.log",
    "b/stats-restore",
];

/// Counts in memory, which only a restored process still has. It waits without starting anything: while a shell starts a
/// program it can't be stopped, and CRIU gives up.
const SCRIPT: &str =
    "read x <>/tmp/first; n=41; echo counted; read x <>/tmp/second; n=$((n + 1)); echo $n; exit 6";

/// With `CI=true` it must.
fn criu_works() -> bool {
    if !twin::installed(&["criu"]) {
        return false;
    }
    let mut check = Command::new(program("criu"));
    check.arg("check");
    let outcome = run(check);
    if outcome.code != 0 {
        let why = format!("CRIU does not work with this kernel: {}", outcome.stderr_text());
        assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{why}");
        eprintln!("left out: {why}");
    }
    outcome.code == 0
}

/// Creates, starts and checkpoints the container: it is gone then, and its monitor as well. Where the image is.
fn checkpointed(bench: &Bench, runc: &Runc<'_>) -> PathBuf {
    for name in ["first", "second"] {
        nix::unistd::mkfifo(&bench.path("rootfs/tmp").join(name), Mode::from_bits_truncate(0o600)).unwrap();
    }
    let mut monitor = runc.with_runc(bench.podman()).run();
    assert!(monitor.report().number("data") > 0);
    runc.start();
    write_fifo(&bench.path("rootfs/tmp/first"), b"\n");
    deadline::until("the count", || (bench.logged_so_far("stdout") == b"counted\n").then_some(()));
    let (image, work) = (bench.path("image"), bench.path("work"));
    let places = ["--image-path", image.to_str().unwrap(), "--work-path", work.to_str().unwrap()];
    let outcome = runc.call(&[&["checkpoint"], &places[..], &[CID]].concat());
    let log = fs::read_to_string(work.join("dump.log")).unwrap_or_default();
    assert_eq!(outcome.code, 0, "{} {log}", outcome.stderr_text());
    // CRIU ends what it has dumped with KILL, as its tracer.
    assert_eq!(bench.wait_exit_file(), "137");
    monitor.wait();
    // A driver removes them before it restores.
    for file in
        [bench.exit_file(), bench.persist_exit_file(), bench.path("conmon.pid"), bench.path("pidfile")]
    {
        fs::remove_file(file).unwrap();
    }
    image
}

/// As podman restores: its line for a container, and where the image is.
fn restoring<'b>(bench: &'b Bench, runc: &Runc<'b>, image: &Path) -> MonitorCommand<'b> {
    runc.with_runc(bench.podman()).option("--restore", image).args(observe::exit_command(bench))
}

#[test]
fn a_restored_container_goes_on_where_it_was() {
    if !criu_works() {
        return;
    }
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", SCRIPT]);
        let image = checkpointed(bench, &runc);
        let mut monitor = restoring(bench, &runc, &image).run();
        let report = monitor.report();
        let log = fs::read_to_string(bench.bundle().join("restore.log")).unwrap_or_default();
        assert!(report.number("data") > 0, "{} {log}", report.text());
        let container = monitor.container();
        assert_eq!(report.number("data"), i64::from(container.0));
        seen.add("child", (container.ppid() == monitor.pid().0).to_string());
        write_fifo(&bench.path("rootfs/tmp/second"), b"\n");
        assert_eq!(bench.wait_exit_file(), "6");
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
        assert_eq!(bench.logged("stdout"), b"counted\n42\n");
    });
}

#[test]
fn an_image_that_is_broken_is_a_failure_with_words() {
    if !criu_works() {
        return;
    }
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", SCRIPT]);
        let image = checkpointed(bench, &runc);
        fs::remove_file(image.join("pstree.img")).unwrap();
        let mut monitor = restoring(bench, &runc, &image).run();
        let report = monitor.report();
        assert_eq!(report.number("data"), -1);
        assert!(!report.message().is_empty(), "{}", report.text());
        observe::end(bench, &monitor, NOT_THE_MONITORS, seen);
        assert!(!bench.exit_file().exists() && !bench.persist_exit_file().exists());
        assert!(bench.path("exit-command.args").exists(), "the exit command runs");
    });
}
