//! `contrib/try-with-podman`: finds nothing to tell between the original and ours, as root and as an ordinary user, tells
//! a difference where there is one, says why when it can't compare, and leaves nothing behind on any way out.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use compat_tests::session::{Input, Outcome, Session, run};
use compat_tests::twin::{installed, original_program, our_program};
use compat_tests::user::{self, User};
use compat_tests::{deadline, image};
use nix::sys::signal::Signal;

const PROGRAMS: &[&str] = &["podman", "runc", "conmon", "busybox", "timeout"];
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/try-with-podman");

/// A directory with copies of the script and both monitors, which any user can reach, and an empty `tmp`.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let place = Self(nix::unistd::mkdtemp(&std::env::temp_dir().join("fm-try.XXXXXX")).unwrap());
        for directory in ["original", "ours", "tmp", "home/.config/containers"] {
            fs::create_dir_all(place.0.join(directory)).unwrap();
        }
        // runc, whatever else is installed, and as on a machine that nobody has configured otherwise.
        let configuration =
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
        fs::write(place.0.join("home/.config/containers/containers.conf"), configuration).unwrap();
        fs::write(place.0.join("host.conf"), configuration).unwrap();
        image::copy(Path::new(SCRIPT), &place.0.join("try-with-podman"));
        image::copy(&original_program(), &place.0.join("original/conmon"));
        image::copy(&our_program(), &place.0.join("ours/conmon"));
        place
    }

    fn arguments(&self, ours: &str) -> Vec<PathBuf> {
        let paths = ["--original".into(), self.0.join("original/conmon"), "--ours".into(), self.0.join(ours)];
        paths.to_vec()
    }

    fn prepared(&self, mut command: Command) -> Command {
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("TMPDIR", self.0.join("tmp")).env("HOME", self.0.join("home")).current_dir(&self.0);
        command.env("CONTAINERS_CONF", self.0.join("host.conf"));
        command
    }

    fn script(&self) -> Command {
        self.prepared(Command::new(self.0.join("try-with-podman")))
    }

    fn compare(&self, ours: &str) -> Outcome {
        let mut script = self.script();
        script.args(self.arguments(ours));
        Session::start(script, Input::Null).patient(5).finish()
    }

    fn nothing_is_left(&self) {
        let left: Vec<_> =
            fs::read_dir(self.0.join("tmp")).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
        deadline::until("no process of it", || processes_of(&self.0).is_empty().then_some(()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn processes_of(directory: &Path) -> Vec<String> {
    let directory = directory.to_string_lossy().into_owned();
    let commands = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        Some(String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).into_owned())
    });
    commands.filter(|command| command.contains(&directory)).collect()
}

#[test]
fn as_root_there_is_no_difference() {
    if !installed(PROGRAMS) {
        return;
    }
    let place = Place::new();
    let outcome = place.compare("ours/conmon").exits(0);
    let text = outcome.stdout_text();
    for part in ["as root", "runtime     runc", " observations, no differences\n"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(outcome.stderr_text(), "");
    place.nothing_is_left();
}

#[test]
fn as_an_ordinary_user_there_is_no_difference() {
    if !installed(PROGRAMS) || !installed(&["setpriv", "newuidmap"]) {
        return;
    }
    let place = Place::new();
    let Some(user) = User::new(&place.0) else { return };
    user::give(&place.0);
    let mut script = place.prepared(user.command_at(&place.0.join("try-with-podman")));
    script.args(place.arguments("ours/conmon"));
    let text = Session::start(script, Input::Null).patient(5).finish().exits(0).stdout_text();
    for part in ["as user ferromon-user", " observations, no differences\n"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    place.nothing_is_left();
}

/// A monitor that drops the log.
#[test]
fn differences_are_shown() {
    if !installed(PROGRAMS) {
        return;
    }
    let place = Place::new();
    let wrapper = place.0.join("ours/wrapper");
    let script = "#!/bin/bash\nargs=()\nfor word; do\n\
        case $word in k8s-file:*) word=none;; esac\nargs+=(\"$word\")\ndone\n\
        exec \"${0%/*}/conmon\" \"${args[@]}\"\n";
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let text = place.compare("ours/wrapper").exits(1).stdout_text();
    let table: Vec<&str> = text.lines().filter(|line| line.contains(" | ")).collect();
    let row = |name: &str| table.iter().find(|line| line.starts_with(name)).copied().unwrap_or_default();
    assert!(row("logs: output").contains("out\\npart"), "{text}");
    assert!(row("attach: logs: output").contains("got hello"), "{text}");
    assert!(row("exec: output").is_empty() && row("run: exit status").is_empty(), "{text}");
    assert!(text.contains(" different\n"), "{text}");
    place.nothing_is_left();
}

#[test]
fn it_says_why_it_can_not_compare() {
    if !installed(PROGRAMS) {
        return;
    }
    let place = Place::new();
    let with = |args: &[&str], part: &str| {
        let mut script = place.script();
        script.args(args);
        let outcome = run(script).exits(2);
        assert!(outcome.stderr_text().contains(part), "{part:?} is not in {outcome:?}");
        place.nothing_is_left();
    };
    let [original, ours] = ["original/conmon", "ours/conmon"].map(|name| place.0.join(name));
    let (original, ours) = (original.to_str().unwrap(), ours.to_str().unwrap());
    with(&["--nope"], "unknown option: --nope");
    with(&["--ours"], "--ours needs a value");
    with(&["--ours", "/nosuch"], "found no ferromon: tried /nosuch");
    with(&["--original", "/bin/true", "--ours", ours], "tried '/bin/true --version'");
    with(
        &["--original", original, "--ours", ours, "--image", "nosuch"],
        "tried 'nosuch' as a file and as an image of this host",
    );
    with(
        &["--original", original, "--ours", ours, "--image", ours],
        "podman could not load the image with original's monitor",
    );
    let mut help = place.script();
    help.arg("--help");
    assert!(run(help).exits(0).stdout_text().starts_with("usage: try-with-podman "));
    place.nothing_is_left();
}

#[test]
fn it_cleans_up_when_it_is_told_to_end() {
    if !installed(PROGRAMS) {
        return;
    }
    let place = Place::new();
    let mut script = place.script();
    script.args(place.arguments("ours/conmon"));
    let mut session = Session::start(script, Input::Null);
    session.wait_for("  original ");
    // With a container running.
    deadline::until("a monitor", || {
        let monitors = processes_of(&place.0.join("tmp"));
        monitors.iter().any(|command| command.contains("/conmon\0--api-version")).then_some(())
    });
    session.signal(Signal::SIGTERM);
    session.finish().exits(2);
    place.nothing_is_left();
}
