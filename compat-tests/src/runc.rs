//! Real runc under the monitor: a bundle made from runc's own template in a bench, and runc's commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::bench::{Bench, CID};
use crate::command::MonitorCommand;
use crate::image::{self, program};
use crate::session::{Outcome, run};

/// Where limits of memory are on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// A hierarchy for each controller, also when there is a unified one without controllers beside them.
    V1,
    V2,
}

/// What is mounted on `/sys/fs/cgroup`.
#[must_use]
pub fn hierarchy() -> Hierarchy {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { Hierarchy::V2 } else { Hierarchy::V1 }
}

/// A container of a bench. Dropping it deletes the container.
#[derive(Debug)]
pub struct Runc<'b> {
    bench: &'b Bench,
}

impl<'b> Runc<'b> {
    /// Makes the bundle of a container that runs `args`.
    pub fn new(bench: &'b Bench, args: &[&str]) -> Self {
        image::make(&bench.path("rootfs"));
        run({
            let mut spec = Command::new(program("runc"));
            spec.arg("spec").current_dir(bench.bundle());
            spec
        })
        .exits(0);
        let this = Self { bench };
        this.edit(|spec| {
            spec["process"]["args"] = json!(args);
            spec["process"]["terminal"] = json!(false);
            let mark = bench.mark().to_string_lossy().into_owned();
            spec["process"]["env"] = json!([format!("PATH={}", image::PATH), mark]);
            // A restricted machine doesn't grant more than it has itself.
            spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 256, "soft": 256}]);
            spec["root"] = json!({"path": bench.path("rootfs"), "readonly": false});
            spec["linux"]["cgroupsPath"] = json!(format!("/{}", cgroup_name(bench)));
        });
        this
    }

    /// Changes the container's config.json.
    pub fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.bench.bundle().join("config.json");
        let mut spec = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut spec);
        fs::write(path, spec.to_string()).unwrap();
    }

    /// Writes the specification of an exec session that runs `args` where the drivers' command lines name it.
    pub fn write_process(&self, args: &[&str]) {
        self.process(&self.bench.path("x/spec"), args);
    }

    /// Lets the kernel kill what goes beyond `bytes` of memory, swapped or not.
    pub fn limit_memory(&self, bytes: u64) {
        let swap = fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1);
        self.edit(|spec| {
            let memory = &mut spec["linux"]["resources"]["memory"];
            memory["limit"] = json!(bytes);
            // Refused by kernels that don't count swap.
            if swap {
                memory["swap"] = json!(bytes);
            }
        });
    }

    /// The directory of the container's memory cgroup, whether or not it is there yet.
    #[must_use]
    pub fn memory_cgroup(&self) -> PathBuf {
        Self::memory_cgroup_of(self.bench)
    }

    /// The same for the container of `bench`.
    #[must_use]
    pub fn memory_cgroup_of(bench: &Bench) -> PathBuf {
        memory_root().join(cgroup_name(bench))
    }

    /// Where CRI-O would put the monitor: beside the container.
    #[must_use]
    pub fn monitors_cgroup(&self) -> PathBuf {
        memory_root().join(format!("{}-monitor", cgroup_name(self.bench)))
    }

    /// Lets cgroups be made that limit memory, which runc does by itself.
    pub fn enable_memory_controller(&self) {
        if hierarchy() == Hierarchy::V2 {
            fs::write(memory_root().join("cgroup.subtree_control"), "+memory").unwrap();
        }
    }

    /// Writes the process that a session runs: that of the container with other `args`.
    pub fn process(&self, path: &Path, args: &[&str]) {
        let config = fs::read_to_string(self.bench.bundle().join("config.json")).unwrap();
        let mut process = serde_json::from_str::<Value>(&config).unwrap()["process"].take();
        process["args"] = json!(args);
        fs::write(path, process.to_string()).unwrap();
    }

    /// Where runc keeps its state.
    fn root(&self) -> PathBuf {
        self.bench.path("runc")
    }

    /// The same as an argument of runc, in CRI-O's words.
    #[must_use]
    pub fn root_argument(&self) -> String {
        format!("--root={}", self.root().display())
    }

    /// `command`, a driver's standard command line, with runc as its runtime.
    #[must_use]
    pub fn with_runc(&self, command: MonitorCommand<'b>) -> MonitorCommand<'b> {
        let command = command.replace("-r", program("runc")).umask(0o022);
        command.args(["--runtime-arg", "--root", "--runtime-arg"]).arg(self.root())
    }

    /// `runc COMMAND ARGS`.
    pub fn call(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new(program("runc"));
        command.arg("--root").arg(self.root()).args(args);
        run(command)
    }

    /// Lets the created container run.
    pub fn start(&self) {
        self.call(&["start", CID]).exits(0);
    }
}

/// All benches use the same id, so the cgroup is named after the directory.
fn cgroup_name(bench: &Bench) -> String {
    format!("ferromon-{}", bench.dir().file_name().unwrap().display())
}

fn memory_root() -> &'static Path {
    Path::new(match hierarchy() {
        Hierarchy::V1 => "/sys/fs/cgroup/memory",
        Hierarchy::V2 => "/sys/fs/cgroup",
    })
}

impl Drop for Runc<'_> {
    fn drop(&mut self) {
        let mut delete = Command::new(program("runc"));
        delete.arg("--root").arg(self.root()).args(["delete", "--force", CID]);
        let _ = delete.output();
    }
}
