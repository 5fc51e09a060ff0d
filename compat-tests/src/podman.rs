//! podman with storage, configuration and an image of its own, using the monitor of one side.
//!
//! Everything lives in one fresh directory, so fixtures don't see each other and nothing of the machine's podman is
//! read or changed. The configuration works where control groups and limits are restricted: cgroupfs, runc, no
//! network, small limits. [`Podman::finish`] checks that no process is left; dropping removes all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bench;
use crate::deadline;
use crate::image::{self, program};
use crate::observe;
use crate::process::Process;
use crate::session::{Input, Outcome, Session, run};
use crate::transcript::Transcript;
use crate::twin::Side;
use crate::user::{self, User};

/// The name of the image.
pub const IMAGE: &str = "img";

/// A function for scripts: waits for the file of that name in the shared directory.
pub const WAIT: &str = "wait_for() { until test -e /shared/$1; do sleep 0.02; done; }";

#[derive(Debug)]
pub struct Podman {
    dir: PathBuf,
    conmon: PathBuf,
    ours: bool,
    /// `None`: podman runs as root.
    user: Option<User>,
}

impl Podman {
    /// A fresh podman with [`IMAGE`], recording into `transcript` with its own directory masked.
    pub fn new(side: &Side, transcript: &mut Transcript) -> Self {
        Self::prepare(fresh_directory(transcript), side, None)
    }

    /// The same for an ordinary user, who is made for it. `None`, with a word why, where that can't be.
    pub fn rootless(side: &Side, transcript: &mut Transcript) -> Option<Self> {
        let dir = fresh_directory(transcript);
        let user = User::new(&dir);
        if user.is_none() {
            fs::remove_dir(&dir).unwrap();
        }
        Some(Self::prepare(dir, side, Some(user?)))
    }

    fn prepare(dir: PathBuf, side: &Side, user: Option<User>) -> Self {
        let mut podman = Self { dir, conmon: side.program.clone(), ours: side.name == "ours", user };
        podman.configure();
        if podman.user.is_some() {
            // Where it was built may be out of the user's reach.
            podman.conmon = podman.dir.join("monitor/conmon");
            fs::create_dir(podman.dir.join("monitor")).unwrap();
            image::copy(&side.program, &podman.conmon);
            user::give(&podman.dir);
        }
        podman.import_image();
        podman
    }

    fn configure(&self) {
        let home = self.dir.join("home");
        fs::create_dir_all(home.join(".config/containers")).unwrap();
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(home.join(".config/containers/policy.json"), policy).unwrap();
        let configuration = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"#;
        fs::write(self.dir.join("containers.conf"), configuration).unwrap();
    }

    fn import_image(&self) {
        let (rootfs, tar) = (self.dir.join("rootfs"), self.dir.join("image.tar"));
        image::make(&rootfs);
        let mut pack = Command::new("tar");
        run({
            pack.arg("-C").arg(&rootfs).arg("-cf").arg(&tar).arg(".");
            pack
        })
        .exits(0);
        let path = format!("ENV PATH={}", image::PATH);
        self.call(&["import", "--quiet", "-c", &path, &tar.to_string_lossy(), IMAGE]).exits(0);
        fs::remove_dir_all(rootfs).unwrap();
        fs::remove_file(tar).unwrap();
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether this is the side of our program, as opposed to the original's.
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// Waits until the monitor of the container `c` sleeps and goes on sleeping.
    pub fn monitor_at_rest(&self) {
        self.until("the monitor to come to rest", || {
            let pid = self.inspect("c", "{{.State.ConmonPid}}").parse().unwrap();
            Process(pid).rests(Duration::from_millis(500)).then_some(())
        });
    }

    /// The option that gives the directory `shared` here to a container as `/shared`, where it and the test wait for each
    /// other's files; see [`WAIT`].
    pub fn shared(&self) -> String {
        let shared = self.dir.join("shared");
        fs::create_dir_all(&shared).unwrap();
        format!("--volume={}:/shared", shared.display())
    }

    /// Makes a file in the shared directory.
    pub fn touch(&self, name: &str) {
        fs::write(self.dir.join("shared").join(name), "").unwrap();
    }

    /// Waits for a file that the container makes in the shared directory.
    pub fn wait_for_file(&self, name: &str) {
        let path = self.dir.join("shared").join(name);
        self.until(name, || path.exists().then_some(()));
    }

    /// podman with its global options, without `--conmon`.
    fn bare(&self) -> Command {
        let mut command = match &self.user {
            None => Command::new(program("podman")),
            Some(user) => user.command("podman"),
        };
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(self.user.iter().map(|user| ("XDG_RUNTIME_DIR", user.runtime())));
        command.env("HOME", self.dir.join("home")).env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        command.current_dir(&self.dir);
        for (option, directory) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.dir.join(directory));
        }
        command.args(["--storage-driver", "vfs"]);
        command
    }

    /// podman with `args`, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare();
        command.arg("--conmon").arg(&self.conmon).args(args);
        command
    }

    /// As [`Self::command`], with the monitor named by `conmon_path` in containers.conf.
    pub fn command_by_configuration(&self, args: &[&str]) -> Command {
        let path = self.dir.join("containers.conf");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}conmon_path = [{:?}]\n", self.conmon)).unwrap();
        let mut command = self.bare();
        command.args(args);
        command
    }

    /// Runs podman with `args` to its end.
    pub fn call(&self, args: &[&str]) -> Outcome {
        run(self.command(args))
    }

    /// `podman run OPTIONS IMAGE sh -c SCRIPT` to its end.
    pub fn run(&self, options: &[&str], script: &str) -> Outcome {
        self.call(&run_arguments(options, script))
    }

    /// `podman run OPTIONS IMAGE sh -c SCRIPT`, to talk to.
    pub fn start(&self, options: &[&str], script: &str, input: Input) -> Session {
        Session::start(self.command(&run_arguments(options, script)), input)
    }

    /// What `podman inspect` prints for `container` with a Go template.
    pub fn inspect(&self, container: &str, format: &str) -> String {
        let outcome = self.call(&["inspect", "--format", format, container]).exits(0);
        outcome.stdout_text().trim_end().to_owned()
    }

    /// Waits for `container` to have ended and to be cleaned up, and gives its exit code.
    pub fn wait_for_end(&self, container: &str) -> i32 {
        self.until(&format!("the cleanup of {container}"), || {
            let state = self.inspect(container, "{{.State.Status}}");
            (state == "exited" && self.monitors().is_empty()).then_some(())
        });
        self.inspect(container, "{{.State.ExitCode}}").parse().unwrap()
    }

    /// The kinds of events of `container` so far, oldest first.
    pub fn events(&self, container: &str) -> Vec<String> {
        let filter = format!("container={container}");
        let events = ["events", "--stream=false", "--filter", &filter, "--format", "{{.Status}}"];
        self.call(&events).exits(0).stdout_text().lines().map(str::to_owned).collect()
    }

    /// Asks `probe` until it has an answer. podman itself takes its time on a busy machine.
    pub fn until<T>(&self, what: &str, probe: impl FnMut() -> Option<T>) -> T {
        deadline::try_until(deadline::scaled(Duration::from_secs(120)), probe)
            .unwrap_or_else(|| panic!("gave up waiting for {what}"))
    }

    /// The files of containers and the exit files, as [`observe::files`]; storage's own files and the mode of logs, which
    /// changed from one conmon to another, are left out.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for directory in ["root/vfs-containers", "run/vfs-containers", "tmp/exits"] {
            found.extend(observe::files(&self.dir, &self.dir.join(directory), &[]));
        }
        found.retain(|entry| !entry.contains("containers.json") && !entry.contains("containers.lock"));
        let without_mode = |entry: String| match entry.split_once("ctr.log") {
            Some((directory, _)) => format!("{directory}ctr.log"),
            None => entry,
        };
        found.into_iter().map(without_mode).collect()
    }

    /// Processes of the monitor of this fixture.
    pub fn monitors(&self) -> Vec<String> {
        let mut found = self.processes();
        found.retain(|text| text.contains("/conmon"));
        found
    }

    /// Processes that belong to this fixture: those that were started with one of its paths, and those in a mount
    /// namespace made of its files, which is what runs in its containers.
    pub fn processes(&self) -> Vec<String> {
        let dir = self.dir.to_string_lossy().into_owned();
        let host = fs::read_link("/proc/self/ns/mnt").unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let path = entry.path();
            // Neither the links to whoever asks, nor ourselves in a namespace of our own.
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            if pid.is_none_or(|pid| pid == std::process::id()) {
                continue;
            }
            let Ok(command) = fs::read(path.join("cmdline")) else { continue };
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let contained = || {
                let elsewhere = fs::read_link(path.join("ns/mnt")).is_ok_and(|namespace| namespace != host);
                elsewhere && fs::read_to_string(path.join("mountinfo")).is_ok_and(|text| text.contains(&dir))
            };
            if command.contains(&dir) || contained() {
                found.push(format!("{} {command}", entry.file_name().display()));
            }
        }
        found
    }

    /// Ends the process that keeps the user's namespaces, which podman leaves behind without root.
    fn end_namespace(&self) {
        let text = fs::read_to_string(self.dir.join("tmp/pause.pid")).unwrap_or_default();
        if let Some(pid) = text.trim().parse().ok().filter(|pid| *pid > 1) {
            Process(pid).signal(Signal::SIGKILL);
        }
    }

    /// Removes the containers and checks that no process is left.
    pub fn finish(self) {
        self.call(&["rm", "--all", "--force", "--time", "0"]).exits(0);
        self.until(&format!("the end of {:?}", self.processes()), || {
            // The exit commands would make namespaces anew.
            if self.monitors().is_empty() {
                self.end_namespace();
            }
            self.processes().is_empty().then_some(())
        });
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Errors are of no interest any more, and a second panic would hide the first.
            let remove = self.command(&["rm", "--all", "--force", "--time", "0"]);
            let _ = within_a_minute(&remove).output();
        }
        for process in self.processes() {
            let pid = process.split(' ').next().and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
            }
        }
        unmount_below(&self.dir);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Masked in `transcript`.
fn fresh_directory(transcript: &mut Transcript) -> PathBuf {
    let dir = bench::fresh_directory("ferromon-podman");
    // A container's user may be another one.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    transcript.mask(dir.to_string_lossy(), "dir");
    dir
}

fn run_arguments<'a>(options: &[&'a str], script: &'a str) -> Vec<&'a str> {
    let mut args = vec!["run"];
    args.extend(options);
    args.extend([IMAGE, "sh", "-c", script]);
    args
}

/// `command`, killed if it takes longer.
fn within_a_minute(command: &Command) -> Command {
    let mut limited = Command::new(program("timeout"));
    limited.args(["--signal=KILL", "60"]).arg(command.get_program()).args(command.get_args()).env_clear();
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

/// Takes away what a killed podman left mounted.
fn unmount_below(dir: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return };
    for target in mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| Path::new(path).starts_with(dir))
    {
        let _ = Command::new("umount").arg("--lazy").arg(target).output();
    }
}
