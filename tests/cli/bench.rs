//! Runs one row: an empty directory, the row's environment, a deadline.
//!
//! Nothing is shared between benches, so that tests may run side by side; what a bench made is gone when it is.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use compat_tests::differences::{Version, original, version};
use compat_tests::twin::our_program;

use crate::rows::{Outcome, Row};

/// Far beyond what any row takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Ours,
    /// The original, with its version.
    Conmon {
        version: Version,
    },
}

pub(crate) struct Bench {
    path: PathBuf,
    program: Program,
    /// Whether this user may lower its OOM score, of which conmon tells at level debug if not.
    may_lower_oom_score: bool,
    /// Removed at the end.
    dir: PathBuf,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let path = original().unwrap_or_else(our_program);
        let dir = nix::unistd::mkdtemp(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli.XXXXXX")).unwrap();
        let mut lower = Command::new("sh");
        lower.args(["-c", "echo -1000 > /proc/self/oom_score_adj"]).stderr(Stdio::null());
        let may_lower_oom_score = lower.status().unwrap().success();
        Self { program: program(&path), path, may_lower_oom_score, dir }
    }

    pub(crate) fn program(&self) -> Program {
        self.program
    }

    /// What was recorded for `row`, without what depends on the machine and the build.
    pub(crate) fn expected(&self, row: &Row) -> Outcome {
        let mut outcome = row.outcome.clone();
        if self.may_lower_oom_score {
            let complaint = b"[conmon:d]: failed to write to /proc/self/oom_score_adj: Permission denied\n";
            if let Some(at) = find(&outcome.stderr, complaint) {
                outcome.stderr.drain(at..at + complaint.len());
            }
        }
        self.without_noise(outcome)
    }

    pub(crate) fn run(&self, row: &Row) -> Outcome {
        let (cwd, stdout, stderr) = (self.dir.join("cwd"), self.dir.join("stdout"), self.dir.join("stderr"));
        fs::create_dir(&cwd).unwrap();
        let mut command = Command::new(&self.path);
        command.args(&row.words).current_dir(&cwd);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        for (name, value) in &row.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        // Files, not pipes: nobody who keeps them open can hold up the test. Opened for writing alone, because
        // one row has the program read from its stdout.
        let files = [&stdout, &stderr].map(|path| File::create(path).unwrap());
        let [out, err] = files;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
        let status = wait(child, &row.what);
        let outcome = Outcome {
            exit: status.code().unwrap_or(-1),
            stdout: with_cwd_named(fs::read(&stdout).unwrap(), &cwd),
            stderr: with_cwd_named(fs::read(&stderr).unwrap(), &cwd),
            files: names(&cwd),
        };
        fs::remove_dir_all(&cwd).unwrap();
        self.without_noise(outcome)
    }

    /// Takes out an errno that nobody set, and from the original's output what is another in each version.
    fn without_noise(&self, mut outcome: Outcome) -> Outcome {
        end_after(&mut outcome.stderr, b"_OCI_ATTACHPIPE was not ");
        if self.program != Program::Ours {
            end_after(&mut outcome.stdout, b"conmon version ");
            end_after(&mut outcome.stdout, b"\n\nHelp Options:\n");
        }
        outcome
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn program(path: &Path) -> Program {
    let output = Command::new(path).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    if text.contains("ferromon") {
        return Program::Ours;
    }
    Program::Conmon { version: version(path) }
}

fn wait(mut child: Child, what: &str) -> ExitStatus {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (tell, told) = mpsc::channel();
    let waiter = thread::spawn(move || tell.send(child.wait()));
    let status = told.recv_timeout(DEADLINE);
    if status.is_err() {
        // Not reaped yet, so the pid is still this child's.
        let _ = kill(pid, Signal::SIGKILL);
    }
    let _ = waiter.join();
    status.unwrap_or_else(|_| panic!("{what:?} takes longer than {DEADLINE:?}")).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let text = |name: OsString| name.into_string().unwrap();
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| text(entry.unwrap().file_name())).collect();
    names.sort();
    names
}

fn with_cwd_named(text: Vec<u8>, cwd: &Path) -> Vec<u8> {
    let cwd = cwd.as_os_str().as_bytes();
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_slice();
    while let Some(at) = find(rest, cwd) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(b"$CWD");
        rest = &rest[at + cwd.len()..];
    }
    out.extend_from_slice(rest);
    out
}

fn end_after(text: &mut Vec<u8>, mark: &[u8]) {
    if let Some(at) = find(text, mark) {
        text.truncate(at + mark.len());
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
