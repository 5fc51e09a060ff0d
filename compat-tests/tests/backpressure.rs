//! Clients of the attach socket that read slowly, not at all, in crowds, or come and go for ever: nothing is lost,
//! nothing else waits, and it costs no processor time, no memory and no descriptors.
//!
//! The original blocks, spins or leaks in most of these (contract, appendix B), so only what it can do as well runs
//! beside it; the short forms in `tests/attach.rs` prove the difference.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use compat_tests::log::joined;
use compat_tests::process::Process;
use compat_tests::session::run;
use compat_tests::twin::installed;
use compat_tests::{AttachClient, Bench, LogLine, Monitor, MonitorCommand, bench_twin, deadline};
use nix::fcntl::{OFlag, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

fn start<'b>(command: MonitorCommand<'b>, bench: &'b Bench, payload: &str) -> Monitor<'b> {
    bench.script(&format!("payload\n{payload}"));
    let mut monitor = command.run();
    monitor.report();
    monitor
}

fn numbered(count: usize, width: usize) -> Vec<u8> {
    (1..=count).flat_map(|index| format!("{:.<width$}\n", format!("line {index}")).into_bytes()).collect()
}

#[test]
fn ten_seconds_of_a_client_that_does_not_read() {
    let bench = Bench::new();
    // A process per stream; stderr says little, which fits the client's queue.
    let payload = "background\nwait go\nlines 80000 99\ntouch through\nend\n\
                   background\nwait second\nelines 200\nend\nwait end\nexit 3";
    let monitor = start(bench.podman(), &bench, payload);
    let client = monitor.attach();
    bench.touch("go");
    monitor.wait_for_halt();
    let pid = monitor.pid();
    let (began, cpu) = (Instant::now(), pid.cpu());
    // Meanwhile the other stream is logged and requests are obeyed.
    bench.touch("second");
    deadline::until("stderr", || (bench.logged_so_far("stderr") == numbered(200, 0)).then_some(()));
    let old = bench.path("log.1");
    std::fs::rename(bench.log(), &old).unwrap();
    bench.ctl("2 0 0\n");
    bench.wait_file(&bench.log());
    deadline::holds("the container waits", Duration::from_secs(10).saturating_sub(began.elapsed()), || {
        pid.alive() && !bench.path("through").exists()
    });
    let used = pid.cpu().saturating_sub(cpu);
    assert!(used < began.elapsed() / 50, "{used:?} in {:?}", began.elapsed());
    bench.touch("end");
    // The last process has to write all of it before the rest ends; the exit is that of the first one.
    let expected = numbered(80_000, 99);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while stdout.len() < expected.len() {
        match client.packet() {
            Some((2, payload)) => stdout.extend(payload),
            Some((_, payload)) => stderr.extend(payload),
            None => break,
        }
    }
    monitor.finish_rest();
    // The container's first process has gone long before the other one was through: what that had not written by then
    // is lost to everybody alike.
    let mut log = LogLine::parse_all(&bench.log_bytes(&old));
    log.extend(bench.log_lines());
    assert!(expected.starts_with(&stdout), "other bytes than were written");
    assert!(joined(&log, "stdout") == stdout, "the log has {} bytes", joined(&log, "stdout").len());
    assert_eq!(stderr, numbered(200, 0));
}

#[test]
fn after_a_long_pause_every_byte_is_there() {
    bench_twin!(&["conmon"], |bench, seen| {
        let monitor = start(bench.podman(), bench, "wait go\nlines 80000 99\nexit 3");
        let client = monitor.attach();
        bench.touch("go");
        monitor.wait_for_halt();
        deadline::holds("it waits", Duration::from_millis(700), || monitor.container().alive());
        let (stdout, _) = client.read_to_end();
        assert!(stdout == numbered(80_000, 99), "{} bytes", stdout.len());
        seen.add("exit", monitor.finish_rest());
        assert!(bench.logged("stdout") == stdout);
    });
}

#[test]
fn a_terminal_with_a_client_that_does_not_read() {
    let bench = Bench::new();
    bench.script("console\npayload\nraw\nwait go\nlines 20000 99\nexit 3");
    let mut monitor = bench.podman().arg("-t").run();
    monitor.report();
    let client = monitor.attach();
    bench.touch("go");
    monitor.wait_for_halt();
    monitor.pid().expect_idle();
    let (stdout, _) = client.read_to_end();
    assert!(stdout == numbered(20_000, 99), "{} bytes", stdout.len());
    assert_eq!(monitor.finish_rest(), "3");
}

#[test]
fn the_exit_is_published_while_a_client_is_stuck() {
    let bench = Bench::new();
    bench.exit_script("touch cleaned");
    let command = bench.podman().exit_command(["cleanup"]);
    let monitor = start(command, &bench, "wait go\nlines 20000 99\nexit 3");
    let client = monitor.attach();
    bench.touch("go");
    monitor.wait_for_halt();
    monitor.container().signal(Signal::SIGKILL);
    assert_eq!(bench.wait_exit_file(), "137");
    // The client is given time, and its death is not needed.
    deadline::holds("the client has time", Duration::from_secs(3), || !bench.path("cleaned").exists());
    // But not for ever.
    bench.wait_file(&bench.path("cleaned"));
    monitor.wait();
    let (stdout, _) = client.read_to_end();
    assert!(numbered(20_000, 99).starts_with(&stdout) && !stdout.is_empty());
}

#[test]
fn a_slow_client_gets_its_queue_after_the_exit() {
    let bench = Bench::new();
    let monitor = start(bench.podman(), &bench, "wait go\nlines 20000 99\nexit 3");
    let client = monitor.attach();
    bench.touch("go");
    monitor.wait_for_halt();
    let mut stdout = Vec::new();
    // Slowly at first, so that the container ends in the middle of it.
    while let Some((_, payload)) = client.packet() {
        stdout.extend(payload);
        if !bench.exit_file().exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert!(stdout == numbered(20_000, 99), "{} bytes", stdout.len());
    assert_eq!(monitor.finish_rest(), "3");
}

#[test]
fn a_stall_timeout_disconnects_a_client_that_takes_nothing() {
    let bench = Bench::new();
    let command = bench.podman().env("CONMON_ATTACH_STALL_TIMEOUT", "3");
    let monitor = start(command, &bench, "wait go\nlines 80000 99\nexit 3");
    let (stuck, reading) = (monitor.attach(), monitor.attach());
    let began = Instant::now();
    bench.touch("go");
    // Everybody waits for the stuck one, and then nobody does.
    let (stdout, _) = reading.read_to_end();
    assert!(stdout == numbered(80_000, 99), "{} bytes", stdout.len());
    assert!(began.elapsed() >= Duration::from_secs(3), "after {:?}", began.elapsed());
    assert_eq!(monitor.finish_rest(), "3");
    assert!(bench.logged("stdout") == stdout);
    let (stdout, _) = stuck.read_to_end();
    assert!(numbered(80_000, 99).starts_with(&stdout) && stdout.len() < 8_000_000);
}

#[test]
fn a_stall_timeout_leaves_a_slow_client_alone() {
    let bench = Bench::new();
    let command = bench.podman().env("CONMON_ATTACH_STALL_TIMEOUT", "5");
    let monitor = start(command, &bench, "wait go\nlines 20000 99\nexit 3");
    let client = monitor.attach();
    bench.touch("go");
    monitor.wait_for_halt();
    let mut stdout = Vec::new();
    // A packet now and then, for longer than one may take nothing at all.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(5500) {
        std::thread::sleep(Duration::from_millis(250));
        stdout.extend(client.packet().unwrap().1);
    }
    stdout.extend(client.read_to_end().0);
    assert!(stdout == numbered(20_000, 99), "{} bytes", stdout.len());
    assert_eq!(monitor.finish_rest(), "3");
}

#[test]
fn a_stall_timeout_that_is_no_number_is_none() {
    for value in ["0", "", "-1", "1s"] {
        let bench = Bench::new();
        let command = bench.podman().env("CONMON_ATTACH_STALL_TIMEOUT", value);
        let monitor = start(command, &bench, "wait go\nlines 20000 99\nexit 3");
        let client = monitor.attach();
        bench.touch("go");
        monitor.wait_for_halt();
        deadline::holds("it waits", Duration::from_millis(500), || monitor.container().alive());
        assert_eq!(client.read_to_end().0.len(), 20_000 * 100);
        assert_eq!(monitor.finish_rest(), "3");
    }
}

#[test]
fn a_hundred_and_twenty_eight_clients() {
    bench_twin!(&["conmon"], |bench, seen| {
        const CLIENTS: usize = 128;
        let monitor = start(bench.podman().arg("-i"), bench, "echo\nlines 5000 99\nexit 3");
        let clients: Vec<AttachClient> = (0..CLIENTS).map(|_| bench.attach()).collect();
        for (number, client) in clients.iter().enumerate() {
            client.send(format!("from {number}\n").as_bytes());
        }
        // Those who were accepted last may have missed the echo of the first; so everybody's own is looked for, and
        // from then on all get all.
        for (number, client) in clients.iter().enumerate() {
            let _ = client.read_until(2, &format!("from {number}\n"));
        }
        clients[0].half_close();
        let whole = numbered(5000, 99);
        std::thread::scope(|scope| {
            for client in clients {
                let whole = &whole;
                scope.spawn(move || assert!(client.read_to_end().0.ends_with(whole)));
            }
        });
        seen.add("exit", monitor.finish_rest());
        let logged = String::from_utf8(bench.logged("stdout")).unwrap();
        let mut lines: Vec<&str> = logged.lines().collect();
        lines.sort_unstable();
        seen.add("log", lines.join("\n"));
    });
}

/// A process's descriptors, and its own memory in KiB: heap, stack and buffers, without the program's pages.
fn holdings(pid: Process) -> (usize, u64) {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pid.0)).unwrap();
    let anonymous = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    (pid.fds().len(), anonymous.trim().trim_end_matches(" kB").parse().unwrap())
}

#[test]
fn ten_thousand_clients_that_come_and_go() {
    const CYCLES: usize = 10_000;
    let bench = Bench::new();
    let command = bench.podman().args(["-i", "--leave-stdin-open"]);
    let monitor = start(command, &bench, "trap TERM 9\ncat input");
    let pid = monitor.pid();
    let bytes = || std::fs::metadata(bench.path("input")).map_or(0, |meta| meta.len());
    let cycles = |from: usize, to: usize| {
        for number in from..to {
            let client = bench.attach();
            match number % 4 {
                0 => {}
                1 => client.half_close(),
                2 => client.send(b"12345678"),
                _ => {
                    client.send(b"12345678");
                    client.half_close();
                }
            }
        }
        let expected = 8 * to as u64 / 2;
        deadline::until("all that was sent", || (bytes() >= expected).then_some(()));
        assert_eq!(bytes(), expected);
    };
    // Whatever is allocated once is there after the first few.
    cycles(0, 500);
    pid.expect_idle();
    let (fds, memory) = holdings(pid);
    cycles(500, CYCLES);
    pid.expect_idle();
    let (fds_after, memory_after) = holdings(pid);
    assert_eq!(fds_after, fds, "{:?}", pid.fds());
    assert!(memory_after <= memory + 32, "{memory} KiB before, {memory_after} KiB after");
    monitor.container().signal(Signal::SIGTERM);
    assert_eq!(monitor.finish_rest(), "9");
}

#[test]
fn no_descriptors_left_for_a_client() {
    let bench = Bench::new();
    let monitor = start(bench.podman(), &bench, "wait go\nprint hello\\n\nexit 3");
    let pid = monitor.pid();
    let limit = |count: usize| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={count}:1024")).arg("--pid").arg(pid.0.to_string());
        run(command).exits(0);
    };
    pid.expect_idle();
    limit(pid.fds().len());
    let client = bench.attach();
    pid.expect_idle();
    limit(100);
    // It is found again without anything else happening.
    deadline::until("the client to be accepted", || {
        let fds = pid.fds();
        (fds.values().filter(|target| target.starts_with("socket:")).count() >= 3).then_some(())
    });
    bench.touch("go");
    assert_eq!(client.read_to_end().0, b"hello\n");
    assert_eq!(monitor.finish_rest(), "3");
}

/// Where the kernel has no memory to watch a log that is full, the log is tried now and then, and not all the time.
#[test]
fn a_full_log_that_can_not_be_watched_costs_no_processor_time() {
    const LINES: usize = 5000;
    if !installed(&["strace"]) {
        return;
    }
    let bench = Bench::new();
    nix::unistd::mkfifo(&bench.log(), Mode::S_IRWXU).unwrap();
    let fifo = open(&bench.log(), OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).unwrap();
    let monitor = start(bench.podman(), &bench, &format!("wait go\nlines {LINES} 99\nexit 3"));
    let pid = monitor.pid();
    let calls = bench.path("calls");
    let mut strace = Command::new("strace");
    strace.args(["-q", "-p", &pid.0.to_string(), "-e", "trace=epoll_ctl", "-o"]).arg(&calls);
    let mut strace =
        strace.args(["-e", "inject=epoll_ctl:error=ENOSPC"]).stderr(Stdio::null()).spawn().unwrap();
    deadline::until("strace to attach", || {
        (pid.status("TracerPid") == strace.id().to_string()).then_some(())
    });
    bench.touch("go");
    let tried = || std::fs::read_to_string(&calls).unwrap_or_default().lines().count();
    deadline::until("the log to be full", || (tried() > 0).then_some(()));
    let (began, before) = (Instant::now(), tried());
    deadline::until("some attempts", || (began.elapsed() >= Duration::from_secs(1)).then_some(()));
    // One in 10 ms at most, each of a few calls.
    let (time, count) = (began.elapsed(), tried() - before);
    assert!(count as u128 <= 10 + time.as_millis() / 2, "{count} in {time:?}");
    // A line may have become two records.
    let (mut lines, mut buffer) = (0, vec![0; 1 << 16]);
    deadline::until("all of it", || {
        let count = nix::unistd::read(&fifo, &mut buffer).unwrap_or(0);
        lines += buffer[..count].iter().filter(|&&byte| byte == b'\n').count();
        (lines >= LINES).then_some(())
    });
    assert_eq!(monitor.finish_rest(), "3");
    strace.wait().unwrap();
}
