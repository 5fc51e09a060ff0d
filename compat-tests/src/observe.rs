//! What a monitor leaves to be seen, as lines of text for a [`Transcript`].

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use crate::bench::Bench;
use crate::monitor::Monitor;
use crate::transcript::Transcript;

/// Everything below `directory` but the paths in `except`: `PATH TYPE MODE`, sorted; paths start from `base`, types
/// are the letters of ls(1), and a symbolic link is shown with its target.
pub fn files(base: &Path, directory: &Path, except: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    walk(base, directory, except, &mut found);
    found.sort();
    found
}

fn walk(base: &Path, directory: &Path, except: &[&str], found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let name = path.strip_prefix(base).unwrap().to_string_lossy().into_owned();
        if except.contains(&name.as_str()) {
            continue;
        }
        let kind = metadata.file_type();
        let letter = match () {
            () if kind.is_dir() => 'd',
            () if kind.is_socket() => 's',
            () if kind.is_fifo() => 'p',
            () if kind.is_symlink() => {
                found.push(format!("{name} -> {}", fs::read_link(&path).unwrap_or_default().display()));
                continue;
            }
            () => '-',
        };
        found.push(format!("{name} {letter} {:o}", metadata.permissions().mode() & 0o7777));
        if kind.is_dir() {
            walk(base, &path, except, found);
        }
    }
}

/// The mode of `path` in octal.
#[must_use]
pub fn mode(path: &Path) -> String {
    format!("{:o}", fs::metadata(path).unwrap().permissions().mode() & 0o7777)
}

/// Writes a program into the bench that records how it was called in `exit-command.args`, `.env` and `.fds`, and
/// gives the options that make the monitor call it at the end.
#[must_use]
pub fn exit_command(bench: &Bench) -> Vec<String> {
    let program = bench.path("exit-command");
    let text = "#!/bin/sh\nprintf '%s\\n' \"$0\" \"$@\" >\"$0.args\"\nenv | sort >\"$0.env\"\n\
                for fd in 0 1 2 3 4 5 6 7 8 9; do readlink /proc/$$/fd/$fd; done >\"$0.fds\"\n";
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = vec!["--exit-command".to_owned(), program.to_string_lossy().into_owned()];
    for arg in ["container", "cleanup", "", "--rm", "a b"] {
        options.extend(["--exit-command-arg".to_owned(), arg.to_owned()]);
    }
    options
}

/// Records what is to be seen of a container that has run to its end: the monitor's and its parent's exit codes, its
/// stderr, the log, the exit files, what the exit command saw, and every other file that is left but those in `except`.
pub fn end(bench: &Bench, monitor: &Monitor<'_>, except: &[&str], seen: &mut Transcript) {
    let parent = monitor.wait_parent();
    seen.add("parent", format!("{:?} {:?}", parent.code, parent.signal));
    if bench.path("conmon.pid").exists() {
        let ended = monitor.wait();
        seen.add("monitor", format!("{:?} {:?}", ended.code, ended.signal));
    }
    bench.expect_nothing_running();
    seen.add("stderr", monitor.stderr());
    if bench.log().is_file() {
        for stream in ["stdout", "stderr"] {
            seen.add(&format!("log.{stream}"), String::from_utf8_lossy(&bench.logged(stream)));
        }
        let stamped = bench
            .log_lines()
            .iter()
            .all(|line| line.stamp.len() == "0000-00-00T00:00:00.000000000+00:00".len());
        seen.add("log.stamps", stamped.to_string());
    }
    for (name, path) in [("exit file", bench.exit_file()), ("persisted exit", bench.persist_exit_file())] {
        seen.add(name, fs::read_to_string(path).unwrap_or_else(|error| format!("({})", error.kind())));
    }
    for part in ["args", "env", "fds"] {
        if let Ok(text) = fs::read_to_string(bench.path(format!("exit-command.{part}"))) {
            seen.add(&format!("exit command.{part}"), text);
        }
    }
    seen.add("files", files(bench.dir(), bench.dir(), except).join("\n"));
}
