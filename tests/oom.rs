//! Contract 5.17: kills for want of memory, in a cgroup of the test's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use compat_tests::bench::CID;
use compat_tests::{Bench, Kind, MonitorCommand, Process, Watch, behaviour, deadline, differences};
use nix::sys::signal::Signal;

/// A memory cgroup of 24 MB, removed with the value.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(bench: &Bench) -> Self {
        let name = format!("ferromon-{}", bench.dir().file_name().unwrap().display());
        let v1 = PathBuf::from("/sys/fs/cgroup/memory");
        let (base, limit) =
            if v1.exists() { (v1, "memory.limit_in_bytes") } else { ("/sys/fs/cgroup".into(), "memory.max") };
        let cgroup = Self(base.join(name));
        std::fs::create_dir(&cgroup.0).expect("a memory cgroup");
        std::fs::write(cgroup.0.join(limit), "25165824").expect("the memory controller");
        // Where memory could be swapped out nobody would be killed.
        for (file, bytes) in [("memory.memsw.limit_in_bytes", "25165824"), ("memory.swap.max", "0")] {
            if cgroup.0.join(file).exists() {
                std::fs::write(cgroup.0.join(file), bytes).expect("a limit of swap");
            }
        }
        cgroup
    }

    /// The line for the runtime's script that moves it, and so the container, here.
    fn enter(&self) -> String {
        format!("write {}/cgroup.procs 0", self.0.display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy until the last process is gone for good. After a failure the container is still there.
        let _ = deadline::try_until(deadline::limit(), || {
            let inside = std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
            inside
                .lines()
                .filter_map(|pid| pid.parse().ok())
                .for_each(|pid| Process(pid).signal(Signal::SIGKILL));
            std::fs::remove_dir(&self.0).ok()
        });
    }
}

fn told(bench: &Bench) -> [bool; 2] {
    [bench.bundle().join("oom").exists(), bench.path("persist/oom").exists()]
}

#[test]
fn a_killed_container_is_told_before_its_exit() {
    behaviour!(|| {
        let bench = Bench::new();
        let cgroup = Cgroup::new(&bench);
        bench.script(&format!("{}\npayload\nwait go\nmemory 200\nexit 3", cgroup.enter()));
        // All in one directory, so that the order can be seen.
        let mut monitor = bench.podman().replace("--exit-dir", bench.bundle()).run();
        monitor.report();
        let watch = Watch::new(&bench.bundle());
        bench.touch("go");
        assert_eq!(bench.wait_file(&bench.bundle().join(CID)), "137");
        monitor.wait();
        let events = watch.events();
        let first = |name: &str| events.iter().position(|event| event.name == name);
        let (oom, exit) = (first("oom").expect("oom in the bundle"), first(CID).expect("the exit file"));
        assert!(oom < exit, "{events:?}");
        assert_eq!(told(&bench), [true, true]);
        assert_eq!(std::fs::read(bench.path("persist/oom")).unwrap(), b"");
    });
}

#[test]
fn a_killed_child_is_told_while_the_container_lives() {
    behaviour!(|| {
        let bench = Bench::new();
        let cgroup = Cgroup::new(&bench);
        bench.script(&format!(
            "{}\npayload\nbackground\nwait go\nmemory 200\nend\nwait end\nexit 5",
            cgroup.enter()
        ));
        let mut monitor = bench.podman().run();
        monitor.report();
        bench.touch("go");
        deadline::until("oom in the bundle", || (told(&bench) == [true, true]).then_some(()));
        assert!(monitor.container().alive());
        bench.touch("end");
        assert_eq!(monitor.finish_rest(), "5");
    });
}

#[test]
fn an_older_kill_is_not_told_and_neither_is_the_end_of_the_cgroup() {
    behaviour!(|| {
        let bench = Bench::new();
        let cgroup = Cgroup::new(&bench);
        let script = format!("echo $$ > {}/cgroup.procs && exec tail /dev/zero", cgroup.0.display());
        let status = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().unwrap();
        assert!(!status.success(), "it was killed");
        bench.script(&format!("{}\npayload\nwait go\nexit 5", cgroup.enter()));
        let mut monitor = bench.podman().run();
        monitor.report();
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "5");
        assert_eq!(told(&bench), [false, false]);
    });
}

#[test]
fn where_no_memory_cgroup_can_be_found_nothing_is_missing() {
    behaviour!(|| {
        let bench = Bench::new();
        bench.script("payload\nwait go\nexit 5");
        let command = bench.podman();
        let script = "mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"";
        let wrapped = MonitorCommand::bare(&bench).program("/usr/bin/unshare");
        let wrapped = wrapped.args(["-m", "/bin/sh", "-c", script, "sh"]);
        let wrapped = wrapped.arg(bench.program()).args(command.words());
        let mut monitor = wrapped.sync(Kind::Seqpacket, 3).start(Kind::Seqpacket, 4).run();
        assert!(monitor.report().number("data") > 1);
        bench.touch("go");
        assert_eq!(monitor.finish_rest(), "5");
        assert_eq!(told(&bench), [false, false]);
    });
}

/// On control groups v1 the watch begins with a file that here can't be opened.
#[test]
fn a_v1_watch_that_can_not_be_set_up_costs_no_container() {
    behaviour!(|| {
        let bench = Bench::new();
        let cgroup = Cgroup::new(&bench);
        let file = cgroup.0.join("memory.oom_control");
        assert!(file.exists() || differences::original().is_none(), "v2 has no such file");
        if !file.exists() {
            return;
        }
        bench.script(&format!("{}\npayload\nprint on\\n\nwait go\nexit 3", cgroup.enter()));
        // Nobody, root included, can open a socket.
        let socket = bench.path("no-file");
        let _listener = UnixListener::bind(&socket).unwrap();
        let cover = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
        let words = ["-m", "/bin/sh", "-c", cover, socket.to_str().unwrap(), file.to_str().unwrap()];
        let mut monitor = bench.podman().under("/usr/bin/unshare".as_ref(), words).run();
        monitor.report();
        // What is read from the container is read after the watch was tried: a container that has ended has no cgroup.
        deadline::until("the first line in the log", || {
            (bench.logged_so_far("stdout") == b"on\n").then_some(())
        });
        bench.touch("go");
        monitor.finish_rest();
        assert_eq!(bench.wait_exit_file(), "3");
        assert_eq!(told(&bench), [false; 2]);
    });
}
