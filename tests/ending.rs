//! Contract 1.4 and 5.1: the order of the last acts, and what is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use compat_tests::bench::CID;
use compat_tests::{Bench, behaviour, deadline};
use nix::fcntl::OFlag;

/// Mode, with the letter of the type.
fn mode(path: &std::path::Path) -> String {
    let meta = path.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let kind = match meta.file_type() {
        kind if kind.is_socket() => 's',
        kind if kind.is_fifo() => 'p',
        kind if kind.is_symlink() => 'l',
        kind if kind.is_dir() => 'd',
        _ => '-',
    };
    format!("{kind}{:o}", meta.permissions().mode() & 0o7777)
}

#[test]
fn what_there_is_while_it_runs_and_afterwards() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 3");
        let mut monitor = bench.podman().run();
        monitor.report();
        let bundle = bench.bundle();
        assert_eq!(bench.names("b"), ["attach", "ctl", "script", "winsz"]);
        assert_eq!(mode(&bundle.join("attach")), "s700");
        assert_eq!(mode(&bundle.join("ctl")), "p640");
        assert_eq!(mode(&bundle.join("winsz")), "p640");
        assert_eq!(mode(&bench.log()), "-640");
        assert!(bench.names("s").is_empty(), "no link with --full-attach");
        bench.touch("go");
        monitor.finish_rest();
        assert_eq!(bench.names("b"), ["ctl", "script", "winsz"]);
        assert!(bench.path("conmon.pid").exists() && bench.path("pidfile").exists() && bench.log().exists());
        bench.expect_nothing_running();
    });
}

#[test]
fn everything_is_there_when_the_runtime_starts() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("touch running\nwait go\npayload\nexit 3");
        let monitor = bench.podman().run();
        bench.wait_file(&bench.path("running"));
        assert_eq!(bench.names("b"), ["attach", "ctl", "script", "winsz"]);
        bench.touch("go");
        monitor.finish();
    });
}

#[test]
fn the_drivers_umask_changes_no_mode() {
    behaviour!(|| {
        for umask in [0, 0o077] {
            let bench = Bench::new();
            bench.script("payload\nwait go\nexit 3");
            let mut monitor = bench.podman().umask(umask).run();
            monitor.report();
            monitor.wait_parent();
            let bundle = bench.bundle();
            assert_eq!(mode(&bundle.join("attach")), "s700");
            assert_eq!(mode(&bundle.join("ctl")), "p640");
            assert_eq!(mode(&bench.log()), "-640");
            assert_eq!(mode(&bench.path("conmon.pid")), "-644");
            bench.touch("go");
            monitor.finish_rest();
            assert_eq!(mode(&bench.exit_file()), "-644");
        }
    });
}

#[test]
fn leftovers_of_a_dead_monitor_are_replaced() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 3");
        for name in ["attach", "ctl", "winsz"] {
            std::fs::write(bench.bundle().join(name), "old").unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", bench.path("s").join(CID)).unwrap();
        let mut monitor = bench.crio().run();
        monitor.report();
        assert_eq!(mode(&bench.bundle().join("attach")), "s700");
        assert_eq!(mode(&bench.bundle().join("ctl")), "p640");
        assert_eq!(std::fs::read_link(bench.path("s").join(CID)).unwrap(), bench.bundle());
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn the_link_leads_to_the_bundle_and_goes_at_the_end() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 3");
        let mut monitor = bench.crio().run();
        monitor.report();
        let link = bench.path("s").join(CID);
        assert_eq!(std::fs::read_link(&link).unwrap(), bench.bundle());
        let client = compat_tests::AttachClient::connect(&link.join("attach"));
        drop(client);
        bench.touch("go");
        monitor.finish_rest();
        assert!(bench.names("s").is_empty());
        assert!(!bench.bundle().join("attach").exists());
    });
}

/// A socket directory in which the link's path has exactly `length` bytes.
fn socket_dir(bench: &Bench, length: usize) -> PathBuf {
    let base = bench.path("s");
    let fill = length - 1 - CID.len() - 1 - base.as_os_str().len();
    let folder = base.join("d".repeat(fill));
    std::fs::create_dir(&folder).unwrap();
    folder
}

#[test]
fn a_link_of_106_bytes_is_removed() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 3");
        let folder = socket_dir(&bench, 106);
        bench.crio().replace("--socket-dir-path", &folder).run().finish();
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    });
}

#[test]
fn a_link_of_107_bytes_is_removed() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 3");
        let folder = socket_dir(&bench, 107);
        bench.crio().replace("--socket-dir-path", &folder).run().finish();
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    });
}

#[test]
fn a_failed_start_removes_the_link() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("eprint no\nexit 1");
        let mut monitor = bench.crio().run();
        assert_eq!(monitor.report().number("pid"), -1);
        monitor.wait();
        assert!(bench.names("s").is_empty());
        bench.expect_nothing_running();
    });
}

#[test]
fn inherited_descriptors_stay_open_while_the_container_runs() {
    behaviour!(|| {
        let bench = Bench::new();
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        bench.script("payload\nclose 7\ntouch closed\nwait go\nexit 3");
        let mut monitor = bench.podman().inherit(write, 7).run();
        monitor.report();
        bench.wait_file(&bench.path("closed"));
        let fds = monitor.pid().fds();
        assert!(fds.contains_key(&7), "{fds:?}");
        deadline::holds("the monitor keeps it", Duration::from_millis(50), || {
            !deadline::readable(read.as_fd(), Duration::ZERO)
        });
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn inherited_descriptors_are_closed_before_the_exit_is_published() {
    behaviour!(|| {
        for _ in 0..5 {
            let bench = Bench::new();
            let (_read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
            bench.script("payload\nclose 7\nwait go\nexit 3");
            bench.exit_script("wait end");
            let mut monitor = bench.podman().inherit(write, 7).exit_command([""; 0]).run();
            monitor.report();
            // Whoever else has it open for a moment is a child that another test is starting.
            let pipe = monitor.pid().fds()[&7].clone();
            bench.touch("go");
            bench.wait_file(&bench.persist_exit_file());
            let holders = bench.processes().into_iter().filter(|process| process.holds(&pipe));
            assert_eq!(holders.collect::<Vec<_>>(), [], "still held when the exit is known");
            bench.touch("end");
            monitor.wait();
        }
    });
}

#[test]
fn the_sync_pipe_ends_after_the_exit_is_published() {
    behaviour!(|| {
        for _ in 0..5 {
            let bench = Bench::new();
            bench.script("payload\nexit 3");
            let mut monitor = bench.podman().run();
            monitor.report();
            monitor.sync_pipe().expect_eof("at the end");
            assert!(bench.exit_file().exists() && bench.persist_exit_file().exists());
            monitor.wait();
        }
    });
}

#[test]
fn attach_clients_see_the_end() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nprint bye\\n\nexit 3");
        let mut monitor = bench.podman().run();
        monitor.report();
        let client = monitor.attach();
        bench.touch("go");
        assert_eq!(client.read_to_end().0, b"bye\n");
        monitor.finish_rest();
    });
}

#[test]
fn without_a_bundle_option_the_working_directory_is_it() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 3");
        let mut monitor = bench.podman().without("-b").cwd(bench.bundle()).run();
        monitor.report();
        assert_eq!(bench.names("b"), ["attach", "ctl", "script", "winsz"]);
        bench.touch("go");
        monitor.finish_rest();
    });
}

#[test]
fn a_long_bundle_path_has_an_attach_socket_too() {
    behaviour!(|| {
        let bench = Bench::new();
        let bundle = bench.path("long".repeat(40));
        std::fs::create_dir(&bundle).unwrap();
        std::fs::write(bundle.join("script"), "payload\nwait go\nexit 3").unwrap();
        let mut monitor = bench.podman().replace("-b", &bundle).run();
        monitor.report();
        assert_eq!(mode(&bundle.join("attach")), "s700");
        drop(compat_tests::AttachClient::connect(&bundle.join("attach")));
        bench.touch("go");
        monitor.finish_rest();
        assert!(!bundle.join("attach").exists());
    });
}

#[test]
fn an_early_term_leaves_nothing() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nexit 3");
        let monitor = bench.crio().spawn();
        let process = monitor.parent();
        deadline::until("the monitor to handle TERM", || {
            process.signal_in("SigCgt", nix::sys::signal::Signal::SIGTERM).then_some(())
        });
        process.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(monitor.wait_parent().code, Some(1));
        assert_eq!(bench.names("b"), ["script"]);
        assert!(bench.names("s").is_empty());
    });
}
