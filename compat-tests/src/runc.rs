//! Real runc under the monitor: a bundle made from runc's own template in a bench, and runc's commands.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::bench::{Bench, CID};
use crate::command::MonitorCommand;
use crate::image::{self, program};
use crate::session::{Outcome, run};

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
            // All benches use the same id.
            let name = bench.dir().file_name().unwrap().to_string_lossy().into_owned();
            spec["linux"]["cgroupsPath"] = json!(format!("/ferromon-{name}"));
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
        let text = fs::read_to_string(self.bench.bundle().join("config.json")).unwrap();
        let mut spec: Value = serde_json::from_str(&text).unwrap();
        spec["process"]["args"] = json!(args);
        fs::write(self.bench.path("x/spec"), spec["process"].to_string()).unwrap();
    }

    /// Where runc keeps its state.
    fn root(&self) -> PathBuf {
        self.bench.path("runc")
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

impl Drop for Runc<'_> {
    fn drop(&mut self) {
        let mut delete = Command::new(program("runc"));
        delete.arg("--root").arg(self.root()).args(["delete", "--force", CID]);
        let _ = delete.output();
    }
}
