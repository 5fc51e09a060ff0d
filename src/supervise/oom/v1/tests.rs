//! The judgement by table, and real OOM kills where a v1 memory cgroup can be made (root, v1 or hybrid layout).

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use nix::unistd::Pid;

use super::*;
use crate::supervise::oom::OomWatch;

const DEADLINE: Duration = Duration::from_secs(20);

fn counted(kills: u64) -> nix::Result<OomControl> {
    Ok(OomControl { kills: Some(kills), killer: Killer::Enabled })
}

fn uncounted() -> nix::Result<OomControl> {
    Ok(OomControl { kills: None, killer: Killer::Enabled })
}

/// A watch with two old kills and nothing behind it.
fn watch_without_cgroup() -> Watch {
    Watch {
        directory: "/nonexistent".into(),
        control: File::open("/dev/null").unwrap(),
        event: None,
        kills: 2,
        limit_hits: 0,
        unexplained: Unexplained::default(),
    }
}

#[test]
fn signals_are_weighed_against_the_counter() {
    type Step = (u64, nix::Result<OomControl>, bool);
    let gone = Err(Errno::ENODEV);
    let cases: &[(&str, &[Step])] = &[
        ("old kills are no news", &[(0, counted(2), false)]),
        ("a kill is told once", &[(1, counted(3), true), (0, counted(3), false), (1, counted(4), true)]),
        ("the event may come before the kill", &[(1, counted(2), false), (0, counted(3), true)]),
        ("removal alone is no kill", &[(0, counted(2), false), (1, gone, false), (0, gone, false)]),
        ("kill and removal in one read", &[(2, gone, true), (0, gone, false)]),
        ("kill and removal in two reads after the files are gone", &[(1, gone, false), (1, gone, true)]),
        ("event while the cgroup was there, then removal", &[(1, counted(2), false), (0, gone, true)]),
        ("a told kill and the removal after it", &[(1, counted(3), true), (1, gone, false)]),
        ("without a counter each event counts", &[(0, uncounted(), false), (1, uncounted(), true)]),
        ("a file that can't be read is nothing", &[(1, Err(Errno::EIO), false)]),
    ];
    for (what, steps) in cases {
        let mut watch = watch_without_cgroup();
        for (signals, control, killed) in *steps {
            assert_eq!(watch.judge(*signals, *control), *killed, "{what}: {signals} {control:?}");
        }
    }
}

#[test]
fn a_cgroup_that_is_gone_is_not_watched() {
    assert!(Watch::open("/nonexistent/cgroup".into()).is_none());
}

/// A memory cgroup with a limit, removed with the value.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(limit: &str) -> Option<Self> {
        let made = nix::unistd::mkdtemp("/sys/fs/cgroup/memory/ferromon-test.XXXXXX").ok();
        let cgroup = made.map(Self).inspect(|cgroup| cgroup.set("memory.limit_in_bytes", limit));
        if cgroup.is_none() {
            eprintln!("skipped: no v1 memory cgroup can be made here");
        }
        cgroup
    }

    fn create_at(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap();
    }

    /// A shell in this cgroup that runs `script`; its input is a pipe.
    fn run(&self, script: &str) -> Running {
        let script = format!("echo $$ > {}/cgroup.procs || exit 99; {script}", self.0.display());
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().unwrap())
    }

    fn wait_until_removed(self) {
        let start = Instant::now();
        while fs::remove_dir(&self.0).is_err() {
            assert!(start.elapsed() < DEADLINE, "cgroup stays busy");
            std::thread::yield_now();
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A child that does not outlive the test.
struct Running(Child);

impl Running {
    fn wait(&mut self) -> std::process::ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for the event that the loop would wait for.
fn next_look(watch: &mut Watch) -> bool {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(4);
    watch.register(poll.registry(), Token(3)).unwrap();
    poll.poll(&mut events, Some(DEADLINE)).unwrap();
    assert_eq!(events.iter().map(|event| event.token()).collect::<Vec<_>>(), [Token(3)]);
    watch.on_readable()
}

/// Reads a line without end into memory.
const EAT: &str = "tail /dev/zero";

#[test]
fn a_killed_container_is_seen_by_event_or_last_look() {
    let Some(cgroup) = Cgroup::create("16M") else { return };
    let mut watch = Watch::open(cgroup.0.clone()).unwrap();
    assert!(!watch.on_readable());
    let mut container = cgroup.run(&format!("exec {EAT}"));
    let early = next_look(&mut watch);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&container.wait()), Some(libc::SIGKILL));
    assert!(early | watch.final_check(), "the kill was not seen");
    assert!(!watch.final_check(), "it was told twice");
}

#[test]
fn a_killed_child_of_a_surviving_container_is_seen_each_time() {
    let Some(cgroup) = Cgroup::create("16M") else { return };
    let mut watch = Watch::open(cgroup.0.clone()).unwrap();
    for _ in 0..2 {
        let mut container = cgroup.run(&format!("{EAT}; exit 5"));
        let early = next_look(&mut watch);
        assert_eq!(container.wait().code(), Some(5));
        assert!(early | watch.final_check(), "the kill was not seen");
    }
}

#[test]
fn an_older_kill_in_a_shared_cgroup_is_not_reported() {
    let Some(cgroup) = Cgroup::create("16M") else { return };
    cgroup.run(&format!("exec {EAT}")).wait();
    let mut watch = Watch::open(cgroup.0.clone()).unwrap();
    assert_eq!(watch.kills, 1);
    assert_eq!(cgroup.run("exit 0").wait().code(), Some(0));
    assert!(!watch.on_readable() && !watch.final_check());
}

#[test]
fn the_removal_of_the_cgroup_is_no_kill() {
    let Some(cgroup) = Cgroup::create("16M") else { return };
    let mut watch = Watch::open(cgroup.0.clone()).unwrap();
    cgroup.wait_until_removed();
    assert!(!next_look(&mut watch), "the removal counted as a kill");
    assert!(!watch.final_check());
}

#[test]
fn a_kill_is_seen_even_when_the_cgroup_went_before_the_first_look() {
    let Some(cgroup) = Cgroup::create("16M") else { return };
    let mut watch = Watch::open(cgroup.0.clone()).unwrap();
    cgroup.run(&format!("exec {EAT}")).wait();
    cgroup.wait_until_removed();
    // The signal of the removal comes some time after that of the kill.
    let start = Instant::now();
    while !watch.on_readable() {
        assert!(start.elapsed() < DEADLINE, "the kill was not seen");
        std::thread::yield_now();
    }
}

#[test]
fn a_victim_in_a_cgroup_below_counts_and_a_siblings_does_not() {
    let Some(pod) = Cgroup::create("16M") else { return };
    let outer = Cgroup::create_at(pod.0.join("outer")).unwrap();
    let inner = Cgroup::create_at(outer.0.join("inner")).unwrap();
    let mut watch = Watch::open(outer.0.clone()).unwrap();
    // The pod's limit is hit: the container is told of the event, and its sibling pays.
    let sibling = Cgroup::create_at(pod.0.join("sibling")).unwrap();
    sibling.run(&format!("exec {EAT}")).wait();
    assert!(!watch.on_readable(), "a sibling's kill counted");
    assert!(watch.unexplained.out_of_memory, "the event of the pod did not come");
    assert!(!watch.final_check(), "a sibling's kill counted at the end");
    outer.set("memory.limit_in_bytes", "8M");
    inner.run(&format!("exec {EAT}")).wait();
    assert!(watch.on_readable() | watch.final_check(), "a kill below was not seen");
    inner.wait_until_removed();
    sibling.wait_until_removed();
    outer.wait_until_removed();
}

#[test]
fn out_of_memory_with_the_killer_disabled_is_no_kill() {
    let Some(cgroup) = Cgroup::create("16M") else { return };
    cgroup.set("memory.oom_control", "1");
    let mut watch = Watch::open(cgroup.0.clone()).unwrap();
    let container = cgroup.run(&format!("exec {EAT}"));
    assert!(!next_look(&mut watch));
    drop(container);
    assert!(!watch.final_check());
}

#[test]
fn the_cgroup_is_found_from_the_process_id() {
    let Some(cgroup) = Cgroup::create("16M") else { return };
    let mut container = cgroup.run(&format!("read go && exec {EAT}"));
    let start = Instant::now();
    while fs::read(cgroup.0.join("cgroup.procs")).unwrap().is_empty() {
        assert!(start.elapsed() < DEADLINE, "the container does not arrive in its cgroup");
        std::thread::yield_now();
    }
    let mut watch = OomWatch::open(Pid::from_raw(container.0.id().cast_signed())).unwrap();
    container.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    container.wait();
    assert!(watch.on_readable() | watch.final_check(), "the kill was not seen");
}
