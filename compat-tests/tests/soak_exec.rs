//! Thousands of exec sessions, a few at a time, driven as podman and CRI-O do it: every one ends as it should, and
//! nothing is left behind, neither with the driver (descriptors, children, memory) nor in its directories.
//!
//! The only test of its program, because it looks at the whole process. `FERROMON_SOAK` sets the number of sessions;
//! `make soak` runs ten thousand.

#![allow(clippy::unwrap_used)]

use std::sync::mpsc::{Receiver, Sender, channel};

use compat_tests::process::Process;
use compat_tests::{AttachClient, Bench};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Drivers at a time; each has a bench of its own and runs one session after the other.
const DRIVERS: usize = 4;

fn sessions() -> usize {
    std::env::var("FERROMON_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

/// `podman exec`: an attached client, the second start byte, two reports.
fn podmans(bench: &Bench, number: usize) {
    let code = number % 200;
    bench.exec_script(&format!("payload\ncat input\nprint out {number}\\n\neprint err\\n\nexit {code}"));
    let pidfile = bench.path("conmon.pid");
    let mut monitor = bench.podman_exec().arg("-i").option("--conmon-pidfile", &pidfile).run();
    assert_eq!(monitor.attach_pipe().report("the attach socket").number("data"), 0);
    let client = AttachClient::connect(&bench.exec_bundle().join("attach"));
    client.send(b"in");
    client.half_close();
    monitor.go();
    assert!(monitor.report().number("data") > 0);
    let (stdout, stderr) = client.read_to_end();
    assert_eq!((stdout, &*stderr), (format!("out {number}\n").into_bytes(), &b"err\n"[..]));
    assert_eq!(monitor.report().number("data"), i64::try_from(code).unwrap());
    monitor.wait();
    assert_eq!(std::fs::read(bench.path("input")).unwrap(), b"in");
    assert_eq!(std::fs::read_to_string(bench.exec_exit_file()).unwrap(), code.to_string());
    for file in [pidfile, bench.exec_exit_file(), bench.path("input")] {
        std::fs::remove_file(file).unwrap();
    }
}

/// CRI-O's ExecSync: one report, the output in a log.
fn crios(bench: &Bench, number: usize) {
    let code = number % 200;
    bench.exec_script(&format!("payload\nprint out {number}\\n\neprint err\\n\nexit {code}"));
    let mut monitor = bench.crio_exec().run();
    let report = monitor.report();
    assert_eq!(report.number("exit_code"), i64::try_from(code).unwrap(), "{report:?}");
    monitor.sync_pipe().expect_eof("one report only");
    assert_eq!(monitor.wait_parent().code, i32::try_from(code).ok());
    assert_eq!(bench.logged("stdout"), format!("out {number}\n").into_bytes());
    assert_eq!(bench.logged("stderr"), b"err\n");
    std::fs::remove_file(bench.log()).unwrap();
    std::fs::remove_file(bench.path("x/pidfile")).unwrap();
}

/// One that never starts.
fn failing(bench: &Bench) {
    bench.exec_script("eprint no such program\\n\npidfile none\nexit 1");
    let mut monitor = bench.crio_exec().run();
    let report = monitor.report();
    assert_eq!(report.number("exit_code"), -1);
    assert!(report.message().contains("no such program"), "{report:?}");
    monitor.wait_parent();
    std::fs::remove_file(bench.log()).unwrap();
    std::fs::remove_file(bench.path("x/pidfile")).unwrap();
}

fn one(bench: &Bench, number: usize) {
    match number % 8 {
        0..4 => podmans(bench, number),
        7 => failing(bench),
        _ => crios(bench, number),
    }
}

/// All files of a bench.
fn files(bench: &Bench) -> Vec<String> {
    compat_tests::observe::files(bench.dir(), bench.dir(), &[])
}

#[test]
fn exec_sessions() {
    let own = Process(std::process::id().cast_signed());
    // Ends of channels go with their threads, so a driver that fails lets nobody wait for ever.
    let (warm, all_warm) = channel();
    let driver = |warm: Sender<()>, go: &Receiver<()>| {
        let bench = Bench::new();
        // What is made once is there after the first few.
        (0..16).for_each(|number| one(&bench, number));
        let before = files(&bench);
        warm.send(()).unwrap();
        drop(warm);
        go.recv().unwrap();
        (0..sessions() / DRIVERS).for_each(|number| one(&bench, number));
        assert!(bench.processes().is_empty(), "{:?}", bench.processes());
        assert_eq!(files(&bench), before);
    };
    std::thread::scope(|scope| {
        let drivers: Vec<_> = (0..DRIVERS)
            .map(|_| {
                let (warm, (go, wait)) = (warm.clone(), channel());
                (go, scope.spawn(move || driver(warm, &wait)))
            })
            .collect();
        drop(warm);
        assert_eq!(all_warm.iter().count(), DRIVERS);
        let fds = own.fds();
        drivers.iter().for_each(|(go, _)| go.send(()).unwrap());
        drivers.into_iter().for_each(|(_, driver)| driver.join().unwrap());
        assert_eq!(own.fds(), fds);
    });
    assert_eq!(waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)), Err(Errno::ECHILD), "children are left");
}
