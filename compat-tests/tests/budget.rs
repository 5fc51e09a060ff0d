//! What a monitor may cost, checked without timing anything: system calls, instructions, memory, descriptors, size.
//!
//! The limits are slightly above what was measured when they were set, so that a change that makes the monitor dearer
//! fails here; whoever has a reason to raise one says it in the commit. All counts are upper bounds that also hold on
//! a busy machine, where the monitor finds more in its pipes at once and needs fewer calls.
//!
//! The program is the release build: `OURS_UNDER_TEST`, or `target/release/conmon`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use compat_tests::image::find_program;
use compat_tests::{Bench, Monitor, Process, deadline, twin};

struct Limits {
    /// A stripped static binary.
    binary_bytes: u64,
    /// Pages that this monitor alone needs, idle, whatever it did before.
    private_kib: u64,
    /// All pages mapped in an idle monitor; how many of the binary's neighbouring pages come along with each that is
    /// needed is the kernel's choice.
    resident_kib: u64,
    /// System calls for 4 MB of output in lines of 200 bytes, written 32 KiB at a time, and for the end of the container.
    /// A read gets 28 KiB at least, so three calls for each make 470.
    calls_for_4_mb: usize,
    /// System calls for 500 lines that come one by one, and for the end of the container: four for each line (wait, read,
    /// write, and a read that finds no more) and 34 more.
    calls_for_500_lines: usize,
    /// System calls of both processes for a container that exits at once; it depends a little on how many events the
    /// monitor finds at once.
    calls_for_a_life: usize,
    /// Instructions for a container that writes 4 MB in lines of 200 bytes.
    instructions_for_4_mb: u64,
}

/// Measured: 835,656 bytes; 40 to 52 and 308 to 312 KiB; 266 to 405, 2,036 to 2,054 and 211 calls; 4.27 million.
const WITH_MUSL: Limits = Limits {
    binary_bytes: 900_000,
    private_kib: 64,
    resident_kib: 400,
    calls_for_4_mb: 500,
    calls_for_500_lines: 2080,
    calls_for_a_life: 230,
    instructions_for_4_mb: 4_700_000,
};

/// Measured: 1,419,704 bytes; 72 to 84 and 408 to 420 KiB; 275 to 405, 2,051 and 198 calls; 4.31 million.
const WITH_GLIBC: Limits = Limits {
    binary_bytes: 1_600_000,
    private_kib: 96,
    resident_kib: 512,
    calls_for_a_life: 210,
    ..WITH_MUSL
};

/// Open descriptors of the monitor of a container without stdin and terminal. Measured: 15.
const DESCRIPTORS: usize = 16;

/// What holds for the C library in `program`; only glibc knows of this variable.
fn limits(program: &Path) -> Limits {
    let bytes = fs::read(program).unwrap();
    let mark = b"GLIBC_TUNABLES";
    let has_glibc = bytes.windows(mark.len()).any(|window| window == mark);
    if has_glibc { WITH_GLIBC } else { WITH_MUSL }
}

/// A bench for the release build; `None` where there is none, which is a failure with `CI=true`.
fn bench() -> Option<Bench> {
    let named = std::env::var_os("OURS_UNDER_TEST").filter(|path| !path.is_empty()).map(PathBuf::from);
    let program = named.unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
        target.join("release/conmon")
    });
    match program.canonicalize() {
        Ok(program) => Some(Bench::with_program(&program)),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{program:?}: {error}");
            eprintln!("left out: no release build ({})", program.display());
            None
        }
    }
}

/// Fails when `found` is above `limit`, and shows it in any case (`--nocapture`).
fn within<N: PartialOrd + std::fmt::Display>(what: &str, found: N, limit: N) {
    eprintln!("{what}: {found} (limit {limit})");
    assert!(found <= limit, "{what}: {found} is above the limit of {limit}");
}

/// Waits until `process` has slept for a second.
fn settle(process: Process) {
    wait_long("the monitor to fall quiet", || process.rests(Duration::from_secs(1)));
}

/// How often the process has been switched away from. As long as it stays the same for a sleeping process, the
/// process has not run, and so has made no system call.
fn runs(process: Process) -> (String, String) {
    assert!(process.alive(), "the monitor is gone");
    (process.status("voluntary_ctxt_switches"), process.status("nonvoluntary_ctxt_switches"))
}

/// Checks memory and threads of a monitor that has nothing to do.
fn expect_small(what: &str, monitor: Process, limits: &Limits) {
    settle(monitor);
    assert_eq!(monitor.threads(), 1, "threads {what}");
    // Clean pages of the binary count as private too while no other monitor runs, so only written ones tell something.
    let private = monitor.memory_of("Private_Dirty") + monitor.memory_of("Swap");
    assert!(private > 0, "no smaps_rollup");
    within(&format!("private KiB {what}"), private, limits.private_kib);
    within(&format!("resident KiB {what}"), monitor.memory_of("Rss"), limits.resident_kib);
}

/// Starts the container and waits for its report.
fn started(mut monitor: Monitor<'_>) -> Monitor<'_> {
    assert!(monitor.report().number("data") > 0);
    monitor.wait_parent();
    monitor
}

/// Whether the tool is there; missing it is a failure with `CI=true`.
fn tool(name: &str) -> Option<PathBuf> {
    if twin::installed(&[name]) { find_program(name) } else { None }
}

#[test]
fn the_binary_is_small() {
    let Some(bench) = bench() else { return };
    within(
        "bytes of the binary",
        fs::metadata(bench.program()).unwrap().len(),
        limits(bench.program()).binary_bytes,
    );
}

#[test]
fn an_idle_monitor_is_small_and_does_not_run() {
    let Some(bench) = bench() else { return };
    bench.script("payload\npause\n");
    let monitor = started(bench.podman().run());
    let process = monitor.pid();
    expect_small("when idle", process, &limits(bench.program()));
    let before = runs(process);
    deadline::holds("the monitor sleeps", Duration::from_secs(2), || runs(process) == before);
    let descriptors = process.fds();
    eprintln!("{descriptors:#?}");
    within("descriptors", descriptors.len(), DESCRIPTORS);
}

#[test]
fn a_burst_of_output_leaves_nothing_in_memory() {
    let Some(bench) = bench() else { return };
    bench.script("payload\nlines 200000 199\ntouch done\npause\n");
    let monitor = started(bench.podman().run());
    wait_long("the burst", || bench.path("done").exists());
    expect_small("after 40 MB of output", monitor.pid(), &limits(bench.program()));
}

#[test]
fn an_attach_session_leaves_nothing_in_memory() {
    let Some(bench) = bench() else { return };
    bench.script("payload\nwait go\nlines 50000 199\npause\n");
    let monitor = started(bench.podman().args(["-i", "--leave-stdin-open"]).run());
    let client = monitor.attach();
    client.send(b"hello\n");
    bench.touch("go");
    let mut received = 0;
    while received < 50_000 * 200 {
        received += client.packet().expect("the session goes on").1.len();
    }
    drop(client);
    expect_small("after an attach session", monitor.pid(), &limits(bench.program()));
}

/// As `podman attach` goes: first its input ends, later itself.
#[test]
fn a_client_that_leaves_in_two_steps_leaves_nothing_in_memory() {
    let Some(bench) = bench() else { return };
    bench.script("payload\necho\npause\n");
    let monitor = started(bench.podman().args(["-i", "--leave-stdin-open"]).run());
    let client = monitor.attach();
    client.send(&[b'x'; 32 * 1024]);
    let mut received = 0;
    while received < 32 * 1024 {
        received += client.packet().expect("the session goes on").1.len();
    }
    client.half_close();
    settle(monitor.pid());
    drop(client);
    expect_small("after a client has left", monitor.pid(), &limits(bench.program()));
}

#[test]
fn output_in_blocks_costs_few_system_calls() {
    let Some((bench, strace)) = bench().zip(tool("strace")) else { return };
    bench.script("payload\nwait go\nlines 20000 199\n");
    within("system calls for 4 MB", calls(&bench, &strace), limits(bench.program()).calls_for_4_mb);
}

#[test]
fn single_lines_cost_few_system_calls() {
    let Some((bench, strace)) = bench().zip(tool("strace")) else { return };
    bench.script(&format!("payload\nwait go\n{}", "print a line that comes alone\\n\nsleep 2\n".repeat(500)));
    within("system calls for 500 lines", calls(&bench, &strace), limits(bench.program()).calls_for_500_lines);
}

/// System calls of the monitor from the moment that the script goes on to the end of the container.
fn calls(bench: &Bench, strace: &Path) -> usize {
    let monitor = started(bench.podman().run());
    let process = monitor.pid();
    settle(process);
    let output = bench.path("calls");
    let tracer = Tracer::attach(strace, process, &output);
    bench.touch("go");
    wait_long("the exit file", || bench.exit_file().exists());
    tracer.wait();
    assert_eq!(monitor.finish_rest(), "0");
    let text = fs::read_to_string(output).unwrap();
    text.lines().filter(|line| !line.starts_with("---") && !line.starts_with("+++")).count()
}

/// A strace that watches one process until that ends.
struct Tracer(Child);

impl Tracer {
    fn attach(strace: &Path, process: Process, output: &Path) -> Self {
        let mut command = Command::new(strace);
        command.args(["-q", "-s", "0", "-p", &process.0.to_string(), "-o"]).arg(output);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let tracer = Self(child);
        deadline::until("strace to attach", || {
            let by = process.status("TracerPid");
            (by == tracer.0.id().to_string()).then_some(())
        });
        tracer
    }

    fn wait(mut self) {
        wait_long("the end of strace", || self.0.try_wait().unwrap().is_some());
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_whole_life_costs_few_system_calls() {
    let Some((bench, strace)) = bench().zip(tool("strace")) else { return };
    bench.script("payload\nexit 0\n");
    let output = bench.path("calls");
    let words = ["-f", "-q", "-s", "64", "-o", output.to_str().unwrap()];
    let monitor = bench.podman().under(&strace, words).run();
    wait_long("the exit file", || bench.exit_file().exists());
    wait_long("the end of strace", || !monitor.parent().alive());
    let found = monitor_calls(&fs::read_to_string(output).unwrap(), monitor.container());
    within("system calls of a whole life", found, limits(bench.program()).calls_for_a_life);
}

/// Counts the calls in the output of `strace -f` that the monitor's own processes made: all but those of the container
/// and, from its execve on, those of the runtime.
fn monitor_calls(text: &str, container: Process) -> usize {
    let container = container.0.to_string();
    let mut others = vec![container.as_str()];
    let mut count = 0;
    for line in text.lines() {
        let (pid, call) = line.split_once(' ').unwrap_or((line, ""));
        let call = call.trim_start();
        if others.contains(&pid) || call.starts_with("---") || call.starts_with("+++") {
            continue;
        }
        // The runtime's name is among the monitor's arguments as well, so only the path itself tells who it is.
        let path = call.strip_prefix("execve(\"").and_then(|rest| rest.split('"').next());
        if path.is_some_and(|path| path.ends_with("/standin-runtime")) {
            others.push(pid);
        }
        // A call that was interrupted by another process's has two lines.
        if !call.starts_with("<...") {
            count += 1;
        }
    }
    count
}

#[test]
fn a_log_stream_costs_few_instructions() {
    let Some((bench, valgrind)) = bench().zip(tool("valgrind")) else { return };
    bench.script("payload\nlines 20000 199\n");
    let output = format!("--callgrind-out-file={}/callgrind.%p", bench.dir().display());
    let words = ["-q", "--tool=callgrind", &output];
    let monitor = started(bench.podman().under(&valgrind, words).run());
    let process = monitor.pid();
    wait_long("the exit file", || bench.exit_file().exists());
    wait_long("the end of valgrind", || !process.alive());
    let text = fs::read_to_string(bench.path(format!("callgrind.{}", process.0))).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
    within(
        "instructions for 4 MB",
        total.trim().parse().unwrap(),
        limits(bench.program()).instructions_for_4_mb,
    );
}

/// Waits longer than [`deadline::until`] does, for what takes its time when the machine is busy.
fn wait_long(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = deadline::scaled(Duration::from_secs(60));
    assert!(deadline::try_until(limit, || condition().then_some(())).is_some(), "gave up waiting for {what}");
}
