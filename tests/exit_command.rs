//! Contract 1.8 and 5.10: the exit command.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use compat_tests::bench::built;
use compat_tests::{Bench, MonitorCommand, Process, behaviour, deadline};

const NO_WORDS: [&str; 0] = [];

/// A file that the exit command recorded.
fn seen(bench: &Bench, name: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(bench.path("t/seen").join(name)).unwrap()).into_owned()
}

/// Runs `command` to its end; the monitor's exit status.
fn end(command: MonitorCommand<'_>) -> Option<i32> {
    let mut monitor = command.run();
    monitor.report();
    monitor.wait().code
}

fn bench(payload: &str, exit_script: &str) -> Bench {
    let bench = Bench::new();
    bench.script(&format!("payload\n{payload}"));
    bench.exit_script(exit_script);
    bench
}

#[test]
fn it_gets_exactly_its_arguments() {
    behaviour!(|| {
        let bench = bench("exit 3", "record");
        let words = ["--root", "/x y", "", "--network-config-dir", "", "container", "cleanup", "-q", "--"];
        end(bench.podman().exit_command(words));
        let argv = seen(&bench, "argv");
        let argv: Vec<&str> = argv.trim_end_matches('\0').split('\0').collect();
        assert_eq!(argv[0], built("standin-runtime").to_str().unwrap());
        assert_eq!(argv[1..=words.len()], words);
    });
}

#[test]
fn it_runs_after_the_exit_files_and_before_the_monitor_ends() {
    behaviour!(|| {
        let bench = bench("exit 3", "record\ntouch running\nwait go");
        let mut monitor = bench.podman().exit_command(NO_WORDS).run();
        monitor.report();
        bench.wait_file(&bench.path("running"));
        assert_eq!(std::fs::read_to_string(bench.exit_file()).unwrap(), "3");
        assert_eq!(std::fs::read_to_string(bench.persist_exit_file()).unwrap(), "3");
        let pid = monitor.pid();
        deadline::holds("the monitor waits for it", Duration::from_millis(80), || pid.alive());
        bench.touch("go");
        assert_eq!(monitor.wait().code, Some(3));
    });
}

#[test]
fn the_file_must_exist_when_it_starts() {
    behaviour!(|| {
        for _ in 0..10 {
            let bench = bench("exit 3", "record");
            let exit = bench.exit_file();
            let text =
                format!("#!/bin/sh\ntest -s {} && touch {}\n", exit.display(), bench.path("seen").display());
            end(bench.podman().option("--exit-command", bench.executable("check", &text)));
            assert!(bench.path("seen").exists());
        }
    });
}

#[test]
fn it_has_no_descriptors_but_null() {
    behaviour!(|| {
        let bench = bench("exit 3", "record");
        let file = OwnedFd::from(File::create(bench.path("extra")).unwrap());
        end(bench.podman().inherit(file, 9).arg("-i").exit_command(NO_WORDS));
        let fds = seen(&bench, "fds");
        let short: Vec<(&str, &str)> = fds
            .lines()
            .map(|line| (line.split(' ').next().unwrap(), line.rsplit(' ').next().unwrap()))
            .collect();
        assert_eq!(short, [("0", "/dev/null"), ("1", "/dev/null"), ("2", "/dev/null")], "{fds}");
    });
}

#[test]
fn it_has_the_drivers_environment_directory_and_score() {
    behaviour!(|| {
        let bench = bench("exit 3", "record");
        end(bench.podman().env("PATH", "/second").cwd(bench.path("s")).exit_command(NO_WORDS));
        let env = seen(&bench, "env");
        let mark = bench.mark().into_string().unwrap();
        let expected = [
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "PATH=/second",
            "_OCI_SYNCPIPE=3",
            "_OCI_STARTPIPE=4",
            &mark,
        ];
        assert_eq!(env.trim_end_matches('\0').split('\0').collect::<Vec<_>>(), expected);
        assert_eq!(seen(&bench, "cwd"), bench.path("s").to_str().unwrap());
        let own = Process(std::process::id().cast_signed()).oom_score_adj();
        assert_eq!(seen(&bench, "oom").trim(), own.to_string());
    });
}

#[test]
fn it_is_in_the_monitors_session() {
    behaviour!(|| {
        let bench = bench("exit 3", "record");
        let mut monitor = bench.podman().exit_command(NO_WORDS).run();
        monitor.report();
        let pid = monitor.pid();
        monitor.wait();
        let ids = seen(&bench, "ids");
        assert_eq!(ids.split(' ').nth(3), Some(pid.0.to_string().as_str()), "{ids}");
    });
}

#[test]
fn the_delay_comes_between() {
    behaviour!(|| {
        let bench = bench("exit 3", "record");
        let mut monitor = bench.podman().exit_command(NO_WORDS).args(["--exit-delay", "1"]).run();
        monitor.report();
        assert_eq!(monitor.wait().code, Some(3));
        // Not when this test came to look, but when they were made; by the kernel's coarse clock.
        let time = |path| std::fs::metadata(path).unwrap().modified().unwrap();
        let delay = time(bench.path("t/seen/done")).duration_since(time(bench.exit_file())).unwrap();
        assert!(delay >= Duration::from_millis(980), "{delay:?}");
    });
}

#[test]
fn during_the_delay_one_process_is_left() {
    behaviour!(|| {
        let bench = bench("exit 3", "record");
        let mut monitor = bench.podman().exit_command(NO_WORDS).args(["--exit-delay", "5"]).run();
        monitor.report();
        bench.wait_exit_file();
        // The last acts before the delay take their time as well.
        deadline::until("one process alone", || (bench.processes().len() == 1).then_some(()));
        deadline::holds("one process alone", Duration::from_millis(500), || bench.processes().len() == 1);
        assert!(!bench.path("t/seen").exists());
        assert_eq!(monitor.wait().code, Some(3));
        assert!(bench.path("t/seen/done").exists());
    });
}

/// The delay is minutes in podman's API.
#[test]
fn during_the_delay_orphans_are_reaped() {
    behaviour!(|| {
        let payload = "daemon\nwait end\nend\ntouch ready\nwait go\nexit 3";
        let bench = bench(payload, "record");
        let mut monitor = bench.podman().exit_command(NO_WORDS).args(["--exit-delay", "60"]).run();
        monitor.report();
        bench.wait_file(&bench.path("ready"));
        let (pid, container) = (monitor.pid(), monitor.container());
        let is_orphan = |process: &Process| process.ppid() == pid.0 && *process != container;
        let orphan = deadline::until("the orphan", || bench.processes().into_iter().find(is_orphan));
        bench.touch("go");
        bench.wait_exit_file();
        bench.touch("end");
        deadline::until("the orphan to be reaped", || orphan.state().is_none().then_some(()));
        assert!(!bench.path("t/seen").exists());
    });
}

#[test]
fn its_status_is_lost() {
    behaviour!(|| {
        for script in ["exit 5", "die KILL"] {
            let bench = bench("exit 3", script);
            assert_eq!(end(bench.podman().exit_command(NO_WORDS)), Some(3), "{script}");
        }
    });
}

#[test]
fn one_that_can_not_be_executed_changes_nothing() {
    behaviour!(|| {
        for program in ["/no/such/program", "true"] {
            let bench = bench("exit 3", "");
            assert_eq!(end(bench.podman().option("--exit-command", program)), Some(3), "{program}");
            assert_eq!(std::fs::read_to_string(bench.exit_file()).unwrap(), "3");
        }
    });
}

#[test]
fn it_runs_after_a_failed_start() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("eprint no\nexit 1");
        bench.exit_script("record");
        assert_eq!(end(bench.podman().exit_command(NO_WORDS)), Some(1));
        assert!(bench.path("t/seen/done").exists());
        assert!(!bench.exit_file().exists());
    });
}

#[test]
fn it_runs_though_the_exit_dir_can_not_be_written() {
    behaviour!(|| {
        let bench = bench("exit 3", "record");
        end(bench.podman().replace("--exit-dir", bench.path("missing")).exit_command(NO_WORDS));
        assert!(bench.path("t/seen/done").exists());
    });
}

#[test]
fn it_does_not_run_before_the_start() {
    behaviour!(|| {
        let bench = bench("exit 3", "record");
        let monitor = bench.podman().replace("-r", "/no/such/runtime").exit_command(NO_WORDS).run();
        assert_eq!(monitor.wait_parent().code, Some(1));
        assert!(!bench.path("t/seen").exists());
    });
}

#[test]
fn arguments_without_a_command_are_nothing() {
    behaviour!(|| {
        let bench = bench("exit 3", "record");
        assert_eq!(end(bench.podman().option("--exit-command-arg", "cleanup")), Some(3));
    });
}

#[test]
fn while_it_runs_the_socket_is_gone_and_the_link_still_there() {
    behaviour!(|| {
        let bench = bench("exit 3", "touch running\nwait go");
        let mut monitor = bench.crio().exit_command(NO_WORDS).run();
        monitor.report();
        let link = bench.path("s").join(monitor.cid());
        assert!(link.symlink_metadata().is_ok());
        bench.wait_file(&bench.path("running"));
        assert!(!bench.bundle().join("attach").exists());
        assert!(link.symlink_metadata().is_ok());
        bench.touch("go");
        monitor.wait();
        assert!(link.symlink_metadata().is_err(), "removed after it");
    });
}

#[test]
fn it_may_remove_the_bundle() {
    behaviour!(|| {
        let bench = bench("exit 3", "");
        let text =
            format!("#!/bin/sh\nrm -r {} {}\n", bench.bundle().display(), bench.path("exits").display());
        let script = bench.executable("rm", &text);
        assert_eq!(end(bench.podman().option("--exit-command", script)), Some(3));
        assert!(!bench.bundle().exists());
    });
}

#[test]
fn with_sync_it_runs_too() {
    behaviour!(|| {
        let bench = bench("exit 3", "record\nexit 9");
        let mut monitor = bench.podman().arg("--sync").exit_command(NO_WORDS).run();
        monitor.report();
        assert_eq!(monitor.wait_parent().code, Some(3));
        assert!(bench.path("t/seen/done").exists());
    });
}

#[test]
fn the_driver_sees_the_end_of_the_sync_pipe_before_it() {
    behaviour!(|| {
        let bench = bench("exit 3", "touch running\nwait go");
        let mut monitor = bench.podman().exit_command(NO_WORDS).run();
        monitor.report();
        bench.wait_file(&bench.path("running"));
        monitor.sync_pipe().expect_eof("while the exit command runs");
        bench.touch("go");
        monitor.wait();
    });
}
