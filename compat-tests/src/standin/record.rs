//! What the stand-in was started with, one file a subject.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Writes everything into `folder`; the file `done` comes last.
pub(super) fn all(folder: &Path) {
    let fds = descriptors();
    let _ = std::fs::create_dir_all(folder);
    let write = |name: &str, bytes: &[u8]| super::check(std::fs::write(folder.join(name), bytes));
    for (name, source) in
        [("argv", "cmdline"), ("env", "environ"), ("status", "status"), ("oom", "oom_score_adj")]
    {
        write(name, &std::fs::read(Path::new("/proc/self").join(source)).unwrap_or_default());
    }
    write("fds", fds.as_bytes());
    write("ids", ids().as_bytes());
    write("cwd", std::env::current_dir().unwrap_or_default().as_os_str().as_encoded_bytes());
    write("pdeathsig", death_signal().to_string().as_bytes());
    write("done", b"");
}

/// `NUMBER MODE TARGET` a line.
fn descriptors() -> String {
    let mut text = String::new();
    for fd in 0..1024 {
        let path = format!("/proc/self/fd/{fd}");
        let Ok(target) = std::fs::read_link(&path) else { continue };
        let mode = std::fs::metadata(&path).map_or(0, |meta| meta.mode());
        let _ = writeln!(text, "{fd} {mode:o} {}", target.display());
    }
    text
}

/// `PID PPID GROUP SESSION`.
fn ids() -> String {
    use nix::unistd::{getpgrp, getpid, getppid, getsid};
    let session = getsid(None).map_or(-1, nix::unistd::Pid::as_raw);
    format!("{} {} {} {session}", getpid(), getppid(), getpgrp())
}

fn death_signal() -> i32 {
    let mut signal = 0;
    // SAFETY: the kernel writes one int to the given place.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
    signal
}
