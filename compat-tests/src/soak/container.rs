//! One container of many: started, troubled, ended and looked at, a step at a time.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::plan::{Ending, Engine, Plan, Trouble};
use super::{Tally, patience};
use crate::attach::AttachClient;
use crate::bench::{Bench, built};
use crate::channel::Kind;
use crate::command::MonitorCommand;
use crate::image;
use crate::log::{LogLine, joined};
use crate::monitor::{Ended, Monitor, wait};
use crate::process::Process;

/// What a turn has come to.
pub(super) enum Step {
    Goes,
    Ended(Ended),
}

enum Phase {
    /// The monitor has not reported yet.
    Creating,
    /// `runc start` is at work.
    Starting(Child),
    Running {
        since: Instant,
    },
    /// Its end has been brought about.
    Ending,
}

pub(super) struct Container<'b> {
    bench: &'b Bench,
    engine: Engine,
    plan: Plan,
    keeps_log: bool,
    id: String,
    dir: PathBuf,
    driver: Monitor<'b>,
    started: Instant,
    phase: Phase,
    /// The monitor's pid, once it has told it.
    monitor: Option<Process>,
    /// The container's.
    process: Process,
    clients: Vec<AttachClient>,
}

impl<'b> Container<'b> {
    pub(super) fn start(bench: &'b Bench, number: usize, plan: Plan, engine: Engine) -> Self {
        let id = format!("{number:064x}");
        let dir = bench.path(format!("c/{number}"));
        for folder in ["", "b", "exits", "persist"] {
            fs::create_dir(dir.join(folder)).expect("mkdir");
        }
        match engine {
            Engine::Standin => {
                fs::write(dir.join("b/script"), plan.script(&format!("c/{number}/ready"))).expect("script");
            }
            Engine::Runc => write_bundle(bench, &dir, &id, &plan),
        }
        let driver = command(bench, &dir, &id, &plan, engine).run();
        Self {
            bench,
            engine,
            keeps_log: plan.keeps_log(),
            plan,
            id,
            dir,
            driver,
            started: Instant::now(),
            phase: Phase::Creating,
            monitor: None,
            process: Process(0),
            clients: Vec::new(),
        }
    }

    pub(super) fn monitor(&self) -> Option<Process> {
        self.monitor.filter(|_| matches!(self.phase, Phase::Running { .. }))
    }

    /// Does what is due.
    pub(super) fn turn(&mut self, tally: &mut Tally) -> Step {
        assert!(self.started.elapsed() < patience(), "{}: not done: {:?}", self.name(), self.plan);
        match &mut self.phase {
            Phase::Creating => self.await_report(),
            Phase::Starting(child) => {
                if let Some(status) = child.try_wait().expect("wait") {
                    assert!(status.success(), "runc start {}", self.id);
                    self.phase = Phase::Running { since: Instant::now() };
                }
            }
            Phase::Running { since } => {
                let age = u64::try_from(since.elapsed().as_millis()).expect("small");
                self.trouble(age, tally);
                self.bring_to_an_end(age);
            }
            Phase::Ending => return self.await_end(),
        }
        for client in &self.clients {
            // A client that doesn't read would be waited for.
            while client.has_news() && client.packet().is_some() {}
        }
        Step::Goes
    }

    fn await_report(&mut self) {
        if !self.driver.sync_pipe().has_news() {
            return;
        }
        let report = self.driver.report();
        let pid = report.number("data");
        assert!(pid > 0, "{}: {}", self.name(), report.text());
        self.process = Process(i32::try_from(pid).expect("pid"));
        assert_eq!(self.driver.wait_parent().code, Some(0));
        let text = fs::read_to_string(self.dir.join("conmon.pid")).expect("conmon pidfile");
        self.monitor = Some(Process(text.parse().expect("pid")));
        self.phase = match self.engine {
            Engine::Standin => Phase::Running { since: Instant::now() },
            Engine::Runc => Phase::Starting(self.runc(&["start", &self.id]).spawn().expect("runc")),
        };
    }

    fn trouble(&mut self, age: u64, tally: &mut Tally) {
        while let Some((_, what)) = self.plan.trouble.pop_if(|(at, _)| *at <= age) {
            match what {
                Trouble::Signal(signal) => {
                    self.signal_monitor(signal);
                    tally.signals += 1;
                }
                Trouble::Attach => {
                    let client = AttachClient::try_connect(&self.dir.join("b/attach"));
                    if let Some(client) = client {
                        let _ = client.try_send(b"typed\n");
                        self.clients.push(client);
                        tally.clients += 1;
                    }
                }
                Trouble::Detach(politely) => {
                    if !self.clients.is_empty() {
                        let client = self.clients.remove(0);
                        if politely {
                            client.half_close();
                        }
                    }
                }
                Trouble::Reopen => {
                    self.control(b"2 0 0\n");
                    tally.reopens += 1;
                }
                Trouble::Resize => self.control(b"1 40 100\nrubbish\n1 2\n"),
            }
        }
    }

    fn signal_monitor(&self, signal: Signal) {
        if let Some(monitor) = self.monitor.filter(|process| process.alive()) {
            monitor.signal(signal);
        }
    }

    fn control(&self, text: &[u8]) {
        let mut options = fs::OpenOptions::new();
        let fifo = options.write(true).custom_flags(libc::O_NONBLOCK).open(self.dir.join("b/ctl"));
        if let Ok(mut fifo) = fifo {
            let _ = fifo.write_all(text);
        }
    }

    fn bring_to_an_end(&mut self, age: u64) {
        let ready = match self.engine {
            Engine::Standin => self.dir.join("ready").exists(),
            Engine::Runc => self.dir.join("shm/ready").exists(),
        };
        let is_due = match self.plan.ending {
            Ending::Exits(_) => self.dir.join("exits").join(&self.id).exists(),
            Ending::Killed(_) | Ending::Asked(_) => ready && age >= self.plan.life,
        };
        if !is_due {
            return;
        }
        match self.plan.ending {
            Ending::Exits(_) => {}
            Ending::Killed(signal) => self.process.signal(signal),
            Ending::Asked(_) => self.signal_monitor(Signal::SIGTERM),
        }
        self.phase = Phase::Ending;
    }

    fn await_end(&mut self) -> Step {
        let Some(ended) = self.monitor.and_then(|monitor| wait(monitor.0)) else {
            self.clients.retain(|client| !client.has_news() || client.packet().is_some());
            return Step::Goes;
        };
        let code = self.plan.code();
        let about = format!("{}: {:?}", self.name(), self.plan);
        assert_eq!(ended.code, Some(code), "the monitor's status, {about}");
        for file in [self.dir.join("exits").join(&self.id), self.dir.join("persist/exit")] {
            let content = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}, {about}"));
            assert_eq!(content, code.to_string(), "{}, {about}", file.display());
        }
        self.check_log(&about);
        self.check_files(&about);
        if self.engine == Engine::Runc {
            let deleted = self.runc(&["delete", "--force", &self.id]).output().expect("runc");
            assert!(deleted.status.success(), "runc delete, {about}");
        }
        fs::remove_dir_all(&self.dir).expect("remove");
        Step::Ended(ended)
    }

    fn check_log(&self, about: &str) {
        let lines = LogLine::parse_all(&fs::read(self.dir.join("log")).expect("log"));
        let text = joined(&lines, "stdout");
        let twice = matches!((self.plan.ending, self.engine), (Ending::Exits(_), Engine::Standin));
        let count = self.plan.lines * if twice { 2 } else { 1 };
        let found = text.iter().filter(|byte| **byte == b'\n').count() as u64;
        if self.keeps_log || found > count {
            assert_eq!(found, count, "lines in the log, {about}");
        }
    }

    fn check_files(&self, about: &str) {
        let names = |folder: &str| {
            let mut names: Vec<String> = fs::read_dir(self.dir.join(folder))
                .expect("folder")
                .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
                .filter(|name| {
                    !matches!(name.as_str(), "script" | "config.json" | "ready" | "cleaned" | "shm")
                })
                .collect();
            names.sort();
            names
        };
        assert_eq!(names("b"), ["ctl", "winsz"], "bundle, {about}");
        assert_eq!(names("exits"), [self.id.as_str()], "exit dir, {about}");
        assert_eq!(names("persist"), ["exit"], "persist dir, {about}");
        assert_eq!(names(""), ["b", "conmon.pid", "exits", "log", "persist", "pidfile"], "files, {about}");
        assert_eq!(self.dir.join("cleaned").exists(), self.plan.exit_command, "exit command, {about}");
    }

    fn runc(&self, args: &[&str]) -> Command {
        let mut command = Command::new(image::program("runc"));
        command.arg("--root").arg(self.bench.path("runc")).args(args).stdin(Stdio::null());
        command
    }

    fn name(&self) -> &str {
        &self.id[48..]
    }
}

/// A command line in podman's style, all in a directory of this container.
fn command<'b>(bench: &'b Bench, dir: &Path, id: &str, plan: &Plan, engine: Engine) -> MonitorCommand<'b> {
    let log = format!("k8s-file:{}", dir.join("log").display());
    let command = MonitorCommand::bare(bench).args(["--api-version", "1", "-c", id, "-u", id, "-n", "soak"]);
    let command = command.option("-b", dir.join("b")).option("-p", dir.join("pidfile"));
    let command =
        command.option("--exit-dir", dir.join("exits")).option("--persist-dir", dir.join("persist"));
    let command = command.option("-l", log).args(["--full-attach", "-i", "--no-sync-log"]);
    let command = command.option("--conmon-pidfile", dir.join("conmon.pid"));
    let command = match engine {
        Engine::Standin => command.option("-r", built("standin-runtime")),
        Engine::Runc => command
            .option("-r", image::program("runc"))
            .args(["--runtime-arg", "--root", "--runtime-arg"])
            .arg(bench.path("runc")),
    };
    let command = if plan.exit_command {
        command.option("--exit-command", "/usr/bin/touch").option("--exit-command-arg", dir.join("cleaned"))
    } else {
        command
    };
    command.sync(Kind::Seqpacket, 3).start(Kind::Seqpacket, 4)
}

/// runc's own template with what this container does.
fn write_bundle(bench: &Bench, dir: &Path, id: &str, plan: &Plan) {
    use serde_json::{Value, json};
    fs::create_dir(dir.join("shm")).expect("mkdir");
    let template = fs::read_to_string(bench.path("shared/config.json")).expect("template");
    let mut spec: Value = serde_json::from_str(&template).expect("JSON");
    spec["process"]["args"] = json!(["sh", "-c", plan.shell()]);
    spec["process"]["terminal"] = json!(false);
    let mark = bench.mark().to_string_lossy().into_owned();
    spec["process"]["env"] = json!([format!("PATH={}", image::PATH), mark]);
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 256, "soft": 256}]);
    spec["root"] = json!({"path": bench.path("rootfs"), "readonly": false});
    spec["linux"]["cgroupsPath"] = json!(format!("/ferromon-soak-{}-{id}", std::process::id()));
    let mounts = spec["mounts"].as_array_mut().expect("mounts");
    for mount in mounts.iter_mut().filter(|mount| mount["destination"] == "/dev/shm") {
        *mount = json!({"destination": "/dev/shm", "type": "bind", "source": dir.join("shm"), "options": ["bind"]});
    }
    fs::write(dir.join("b/config.json"), spec.to_string()).expect("bundle");
}
