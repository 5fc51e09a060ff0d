//! Kills by the kernel for want of memory, with real runc and real limits; contract 5.17 and the row of appendix B.
//!
//! Most tests run on whatever hierarchy the machine has; those named `v1_` or `v2_` are about files or faults that only
//! one of them has, and pass without a word on the other one. contrib/test-vm.sh runs this file on cgroup v2.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use compat_tests::bench::CID;
use compat_tests::deadline::{holds, limit, try_until, until};
use compat_tests::observe;
use compat_tests::runc::{Hierarchy, Runc, hierarchy};
use compat_tests::transcript::Transcript;
use compat_tests::twin::original_program;
use compat_tests::watch::{EventKind, Watch};
use compat_tests::{Bench, Kind, Monitor, MonitorCommand, bench_twin};
use nix::sys::signal::Signal;
use serde_json::json;

const PROGRAMS: &[&str] = &["runc", "conmon", "busybox"];
/// Files that are runc's or the test's own, and the log, which has sections of its own.
const NOT_THE_MONITORS: &[&str] = &["rootfs", "runc", "err", "out", "log", "dev", "x/spec"];
const LIMIT: u64 = 64 << 20;

/// Needs three times the limit.
const EAT: &str = "dd if=/dev/zero of=/dev/null bs=192M count=1 2>/dev/null";
/// Lets the container run until the test releases it.
const HOLD: &str = "while [ ! -e /tmp/go ]; do sleep 0.1; done";

/// A container with a limit that runs `script`.
fn limited<'b>(bench: &'b Bench, script: &str) -> Runc<'b> {
    let runc = Runc::new(bench, &["sh", "-c", script]);
    runc.limit_memory(LIMIT);
    runc
}

/// Starts the monitor as podman does and has the container created, but not yet run.
fn create<'b>(bench: &'b Bench, runc: &Runc<'b>) -> Monitor<'b> {
    // Older versions make their `oom` file in the working directory, which podman sets to the bundle.
    let mut monitor = runc.with_runc(bench.podman().cwd(bench.bundle())).run();
    assert_eq!(monitor.report().number("data"), i64::from(monitor.container().0));
    monitor
}

/// Which of the container's two `oom` files are there.
fn oom_files(bench: &Bench) -> Vec<&'static str> {
    ["persist/oom", "b/oom"].into_iter().filter(|name| bench.path(name).exists()).collect()
}

const BOTH: [&str; 2] = ["persist/oom", "b/oom"];
const NONE: [&str; 0] = [];

/// Ours, as opposed to the original of the comparison.
fn is_ours(bench: &Bench) -> bool {
    bench.program() != original_program()
}

/// Waits for the exit, checks its code, and for ours which `oom` files were there when the exit file came.
fn end(bench: &Bench, monitor: &Monitor<'_>, code: &str, files: &[&str], seen: &mut Transcript) {
    assert_eq!(bench.wait_exit_file(), code);
    let found = oom_files(bench);
    observe::end(bench, monitor, NOT_THE_MONITORS, seen);
    if is_ours(bench) {
        assert_eq!(found, files, "oom files at the exit");
        assert_eq!(oom_files(bench), files, "oom files in the end");
    }
}

/// Waits until the kill is told while the container runs. On cgroup v1 the event may come before the kill is counted, and
/// then ours tells it at the end, which is early enough for the drivers; on v2 conmon's watch ends with the first event
/// that is not a kill, so that it is the original that may tell late.
fn told_at_once(bench: &Bench) {
    if is_ours(bench) == (hierarchy() == Hierarchy::V2) {
        until("both oom files", || (oom_files(bench) == BOTH).then_some(()));
    }
}

fn released(bench: &Bench) {
    bench.touch("rootfs/tmp/go");
}

fn logged(bench: &Bench, text: &str) {
    until(text, || String::from_utf8_lossy(&bench.logged_so_far("stdout")).contains(text).then_some(()));
}

/// How often the process has run and gone to sleep again.
fn wakeups(monitor: &Monitor<'_>) -> String {
    monitor.pid().status("voluntary_ctxt_switches")
}

#[test]
fn a_killed_child_is_told_while_the_container_lives() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = limited(bench, &format!("{EAT}; echo survived $?; {HOLD}; exit 5"));
        let monitor = create(bench, &runc);
        assert_eq!(oom_files(bench), NONE);
        runc.start();
        logged(bench, "survived 137\n");
        told_at_once(bench);
        assert!(monitor.container().alive() && !bench.exit_file().exists());
        released(bench);
        end(bench, &monitor, "5", &BOTH, seen);
    });
}

#[test]
fn a_killed_first_process_is_told_before_the_exit() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = limited(bench, &format!("exec {EAT}"));
        let watch = Watch::new(&bench.path("persist"));
        let monitor = create(bench, &runc);
        runc.start();
        end(bench, &monitor, "137", &BOTH, seen);
        let mut made: Vec<String> = watch
            .events()
            .into_iter()
            .filter(|event| matches!(event.kind, EventKind::Created | EventKind::MovedHere))
            .map(|event| event.name)
            .filter(|name| name == "oom" || name == "exit")
            .collect();
        made.dedup();
        assert_eq!(made, ["oom", "exit"]);
    });
}

/// The monitor gets to see the kill, the exit and nothing in between.
#[test]
fn a_kill_at_the_very_end_is_told() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = limited(bench, &format!("{EAT}; exit 6"));
        let monitor = create(bench, &runc);
        if !is_ours(bench) {
            // The original reports the container before it watches it; ours watches by then.
            come_to_rest(&monitor);
        }
        monitor.pid().signal(Signal::SIGSTOP);
        runc.start();
        until("the container to end", || (monitor.container().state() == Some('Z')).then_some(()));
        monitor.pid().signal(Signal::SIGCONT);
        end(bench, &monitor, "6", &BOTH, seen);
    });
}

/// On cgroup v2 nothing tells any more ("Cgroup appears to have been removed"); on v1 the pending event does when the
/// one of the removal is there, too, which comes some time later. Either way the exit is told.
#[test]
fn a_cgroup_that_was_removed_does_no_harm() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = limited(bench, &format!("exec {EAT}"));
        let monitor = create(bench, &runc);
        let cgroup = runc.memory_cgroup();
        assert!(cgroup.exists(), "{}", cgroup.display());
        monitor.pid().signal(Signal::SIGSTOP);
        runc.start();
        until("the container to end", || (monitor.container().state() == Some('Z')).then_some(()));
        runc.call(&["delete", CID]).exits(0);
        assert!(!cgroup.exists());
        monitor.pid().signal(Signal::SIGCONT);
        assert_eq!(bench.wait_exit_file(), "137");
        if is_ours(bench) && hierarchy() == Hierarchy::V2 {
            assert_eq!(oom_files(bench), NONE);
        }
        observe::end(bench, &monitor, &[NOT_THE_MONITORS, &BOTH].concat(), seen);
    });
}

/// Has a process die of the limit in the container's cgroup before there is a container.
fn older_kill(runc: &Runc<'_>) -> Cgroup {
    let cgroup = Cgroup(runc.memory_cgroup());
    runc.enable_memory_controller();
    fs::create_dir(&cgroup.0).unwrap();
    let limit = match hierarchy() {
        Hierarchy::V1 => "memory.limit_in_bytes",
        Hierarchy::V2 => "memory.max",
    };
    fs::write(cgroup.0.join(limit), LIMIT.to_string()).unwrap();
    let script = format!("echo $$ >{}/cgroup.procs && {EAT}; echo $?", cgroup.0.display());
    let mut eat = std::process::Command::new("busybox");
    eat.args(["sh", "-c", &script]);
    let outcome = compat_tests::session::run(eat);
    assert!(outcome.stdout_text().ends_with("137\n"), "{outcome:?}");
    until("the cgroup to be empty", || {
        fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap().is_empty().then_some(())
    });
    cgroup
}

/// A cgroup of the test, removed at the end of the test when runc has not done so.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy until the last process is gone for good.
        let _ = try_until(limit(), || (!self.0.exists() || fs::remove_dir(&self.0).is_ok()).then_some(()));
    }
}

fn after_an_older_kill(bench: &Bench, seen: &mut Transcript) {
    let runc = limited(bench, "echo fine; exit 4");
    let _cgroup = older_kill(&runc);
    let monitor = create(bench, &runc);
    runc.start();
    end(bench, &monitor, "4", &NONE, seen);
}

#[test]
fn v1_an_older_kill_in_a_shared_cgroup_does_not_count() {
    if hierarchy() == Hierarchy::V1 {
        bench_twin!(PROGRAMS, |bench, seen| after_an_older_kill(bench, seen));
    }
}

#[test]
fn v2_an_older_kill_in_a_shared_cgroup_does_not_count() {
    if hierarchy() == Hierarchy::V2 {
        bench_twin!(PROGRAMS, |bench, seen| after_an_older_kill(bench, seen));
    }
}

#[test]
fn a_new_kill_in_a_shared_cgroup_counts() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = limited(bench, &format!("{EAT}; exit 4"));
        let _cgroup = older_kill(&runc);
        let monitor = create(bench, &runc);
        runc.start();
        end(bench, &monitor, "4", &BOTH, seen);
    });
}

/// The monitor of a session watches the container's cgroup, too.
fn exec<'b>(bench: &'b Bench, runc: &Runc<'b>, script: &str) -> String {
    // What happens before the monitor knows the process is older than its base line.
    let wait = "while [ ! -e /tmp/session ]; do sleep 0.02; done";
    runc.process(&bench.path("x/spec"), &["sh", "-c", &format!("{wait}; {script}")]);
    let mut monitor = runc.with_runc(bench.podman_exec()).run();
    assert_eq!(monitor.attach_pipe().report("the start of the session").number("data"), 0);
    monitor.go();
    assert!(monitor.report().number("data") > 0);
    if !is_ours(bench) {
        // The original reports before it watches; ours watches by then.
        std::thread::sleep(Duration::from_millis(500));
    }
    bench.touch("rootfs/tmp/session");
    let code = bench.wait_file(&bench.exec_exit_file());
    assert_eq!(monitor.report().number("data").to_string(), code);
    let session = ["x/persist/oom", "x/oom"].into_iter().filter(|name| bench.path(name).exists());
    format!("{code} {}", session.collect::<Vec<_>>().join(" "))
}

fn exec_after(bench: &Bench, before: &str, script: &str, expected: &str, seen: &mut Transcript) {
    let runc = limited(bench, &format!("{before}; echo up; {HOLD}; exit 3"));
    let monitor = create(bench, &runc);
    runc.start();
    logged(bench, "up\n");
    let found = exec(bench, &runc, script);
    if is_ours(bench) {
        assert_eq!(found, expected);
    }
    seen.add("session", found);
    released(bench);
    end(bench, &monitor, "3", &BOTH, seen);
}

#[test]
fn a_kill_in_a_session_is_told_to_both() {
    bench_twin!(PROGRAMS, |bench, seen| {
        exec_after(bench, "true", &format!("{EAT}; exit 7"), "7 x/persist/oom x/oom", seen);
    });
}

#[test]
fn v1_an_older_kill_does_not_count_in_a_session() {
    if hierarchy() == Hierarchy::V1 {
        bench_twin!(PROGRAMS, |bench, seen| exec_after(bench, EAT, "exit 8", "8 ", seen));
    }
}

#[test]
fn v2_an_older_kill_does_not_count_in_a_session() {
    if hierarchy() == Hierarchy::V2 {
        bench_twin!(PROGRAMS, |bench, seen| exec_after(bench, EAT, "exit 8", "8 ", seen));
    }
}

/// A system log of the bench's own, in a `/dev` that [`in_namespace`] mounts.
fn system_log(bench: &Bench) -> UnixDatagram {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let dev = bench.path("dev");
    fs::create_dir(&dev).unwrap();
    mknod(&dev.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
    let socket = UnixDatagram::bind(dev.join("log")).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// The monitor with that `/dev`, after `mount` has been run in a mount namespace of its own.
fn in_namespace<'b>(bench: &'b Bench, command: &MonitorCommand<'b>, mount: &str) -> MonitorCommand<'b> {
    let script = format!("mount --bind \"$0\" /dev && {mount} && exec \"$@\"");
    let wrapped =
        MonitorCommand::bare(bench).program("/usr/bin/unshare").args(["-m", "/bin/sh", "-c", &script]);
    let wrapped = wrapped.arg(bench.path("dev")).arg(bench.program()).args(command.words());
    wrapped.sync(Kind::Seqpacket, 3).start(Kind::Seqpacket, 4)
}

/// What the monitor says, from warnings upwards, of a container that runs and exits after `mount`.
fn messages(bench: &Bench, mount: &str, seen: &mut Transcript) {
    let socket = system_log(bench);
    bench.script("payload\nexit 9");
    let monitor = in_namespace(bench, &bench.podman().arg("--syslog"), mount).run();
    end(bench, &monitor, "9", &NONE, seen);
    let mut buffer = [0; 4096];
    let received =
        socket.recv(&mut buffer).map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
    if is_ours(bench) {
        assert!(received.is_err(), "{received:?}");
    }
    seen.add("messages", received.unwrap_or_default());
}

#[test]
fn without_a_memory_controller_nothing_is_said() {
    bench_twin!(PROGRAMS, |bench, seen| {
        messages(bench, "mount -t tmpfs none /sys/fs/cgroup", seen);
    });
}

/// The root cgroup, where the tests are in the virtual machine, has no `memory.events`.
#[test]
fn v2_in_the_root_cgroup_nothing_is_said() {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    if hierarchy() == Hierarchy::V2 && own == "0::/\n" {
        bench_twin!(PROGRAMS, |bench, seen| messages(bench, "true", seen));
    }
}

#[test]
fn without_a_limit_nothing_is_told() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = Runc::new(bench, &["sh", "-c", &format!("{EAT}; exit $?")]);
        let monitor = create(bench, &runc);
        runc.start();
        end(bench, &monitor, "0", &NONE, seen);
    });
}

/// Out of memory, but nobody is killed: `limit` is what the test raises once `starving` says that it was reached.
fn starved(bench: &Bench, runc: &Runc<'_>, limit: &str, starving: fn(&Bench) -> bool, seen: &mut Transcript) {
    let monitor = create(bench, runc);
    runc.start();
    until("the container to be out of memory", || starving(bench).then_some(()));
    fs::write(runc.memory_cgroup().join(limit), (1_u64 << 30).to_string()).unwrap();
    end(bench, &monitor, "0", &NONE, seen);
}

fn memory_file(bench: &Bench, name: &str) -> String {
    fs::read_to_string(Runc::memory_cgroup_of(bench).join(name)).unwrap()
}

#[test]
fn v1_out_of_memory_without_a_kill_does_not_count() {
    if hierarchy() == Hierarchy::V1 {
        bench_twin!(PROGRAMS, |bench, seen| {
            // By the shell's own accesses: the kernel fills memory for a system call only if that can be done at once.
            let runc = limited(bench, "s=x; while [ ${#s} -lt 100000000 ]; do s=$s$s; done");
            runc.edit(|spec| spec["linux"]["resources"]["memory"]["disableOOMKiller"] = json!(true));
            let starving = |bench: &Bench| memory_file(bench, "memory.oom_control").contains("under_oom 1");
            starved(bench, &runc, "memory.limit_in_bytes", starving, seen);
        });
    }
}

#[test]
fn v2_out_of_memory_without_a_kill_does_not_count() {
    if hierarchy() == Hierarchy::V2 {
        bench_twin!(PROGRAMS, |bench, seen| {
            let runc = limited(bench, &format!("exec {EAT}"));
            // Nobody may be killed, so the kernel tries again and again.
            runc.edit(|spec| spec["process"]["oomScoreAdj"] = json!(-1000));
            let starving = |bench: &Bench| !memory_file(bench, "memory.events").contains("\noom 0\n");
            starved(bench, &runc, "memory.max", starving, seen);
        });
    }
}

#[test]
fn v2_a_group_kill_is_told() {
    if hierarchy() == Hierarchy::V2 {
        bench_twin!(PROGRAMS, |bench, seen| {
            let runc = limited(bench, &format!("sleep 100 & {EAT}; sleep 100"));
            let monitor = create(bench, &runc);
            fs::write(runc.memory_cgroup().join("memory.oom.group"), "1").unwrap();
            runc.start();
            end(bench, &monitor, "137", &BOTH, seen);
        });
    }
}

/// The counters `high` and `max` change as well; the watch must live on, and be silent while nothing changes.
#[test]
fn v2_other_events_do_not_end_the_watch() {
    if hierarchy() == Hierarchy::V2 {
        bench_twin!(PROGRAMS, |bench, seen| {
            let small = "dd if=/dev/zero of=/dev/null bs=16M count=1 2>/dev/null";
            let hold = "while [ ! -e /tmp/next ]; do sleep 0.1; done";
            let script = format!("{small}; echo first; {hold}; {EAT}; echo second; {HOLD}; exit 2");
            let runc = limited(bench, &script);
            let monitor = create(bench, &runc);
            let high = runc.memory_cgroup().join("memory.high");
            fs::write(&high, (8 << 20).to_string()).unwrap();
            runc.start();
            logged(bench, "first\n");
            assert!(!memory_file(bench, "memory.events").contains("high 0\n"));
            fs::write(&high, "max").unwrap();
            assert_eq!(oom_files(bench), NONE);
            if is_ours(bench) {
                expect_asleep(&monitor);
            }
            bench.touch("rootfs/tmp/next");
            logged(bench, "second\n");
            if is_ours(bench) {
                told_at_once(bench);
                expect_asleep(&monitor);
            }
            // Whether a kill was told before the end, and not by the last look.
            seen.add("told at once", format!("{:?}", oom_files(bench)));
            released(bench);
            end(bench, &monitor, "2", &BOTH, seen);
        });
    }
}

/// Waits for the end of what the monitor is doing. Ours gives its buffers back a quarter of a second after it fell quiet.
fn come_to_rest(monitor: &Monitor<'_>) {
    until("the monitor to come to rest", || monitor.pid().rests(Duration::from_millis(500)).then_some(()));
}

/// Checks that the monitor sleeps all the time: not even one wake-up.
fn expect_asleep(monitor: &Monitor<'_>) {
    come_to_rest(monitor);
    let before = wakeups(monitor);
    holds("the monitor sleeps", Duration::from_secs(1), || wakeups(monitor) == before);
}

/// An idle monitor has nothing to do, whatever the kind of its watch.
#[test]
fn an_idle_watch_is_silent() {
    bench_twin!(PROGRAMS, |bench, seen| {
        let runc = limited(bench, &format!("{EAT}; echo up; {HOLD}; exit 1"));
        let monitor = create(bench, &runc);
        runc.start();
        logged(bench, "up\n");
        told_at_once(bench);
        expect_asleep(&monitor);
        released(bench);
        end(bench, &monitor, "1", &BOTH, seen);
    });
}
