//! A root file system for real containers, made of programs of this machine.
//!
//! busybox is static and gives the commands. Its shell runs its own applets before files of the same name, so the
//! shell is dash, and stty is the one of coreutils: both act on a terminal as on any other system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::session::run;

const APPLETS: &[&str] = &[
    "cat", "cut", "dd", "echo", "env", "false", "grep", "head", "id", "kill", "ls", "md5sum", "mkdir",
    "mknod", "nc", "printf", "ps", "pwd", "readlink", "rm", "sed", "seq", "sleep", "sort", "tail", "tee",
    "test", "touch", "tr", "true", "tty", "uname", "usleep", "wc", "yes",
];
/// Directories that the container's mounts need, because the file system may be read-only.
const DIRECTORIES: &[&str] = &["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr/bin"];

/// The value of `PATH` inside a container of this image.
pub const PATH: &str = "/bin:/usr/bin";

/// Makes the root file system in `root`, which must not exist.
pub fn make(root: &Path) {
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    copy(&program("busybox"), &root.join("bin/busybox"));
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    add_with_libraries(&program("dash"), &root.join("bin/sh"), root);
    add_with_libraries(&program("stty"), &root.join("usr/bin/stty"), root);
}

/// Where `name` is installed.
pub fn program(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| panic!("{name} is not installed; contrib/setup.sh test installs it"))
}

/// As [`program`], `None` where it is not installed.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let paths = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    paths.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Copies the program `name` and the libraries it needs into `directory`, to be run with `LD_LIBRARY_PATH`.
pub fn copy_flat(name: &str, directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let source = program(name);
    copy(&source, &directory.join(name));
    for library in libraries(&source) {
        copy(&library, &directory.join(library.file_name().unwrap()));
    }
}

/// Copies a program. A process of its own does it: one that is open for writing can't be executed, and what this process
/// has open is inherited by whatever another test happens to be starting.
pub fn copy(source: &Path, target: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("--dereference").arg(source).arg(target);
    run(copy).exits(0);
}

fn add_with_libraries(source: &Path, target: &Path, root: &Path) {
    copy(source, target);
    for library in libraries(source) {
        let place = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        copy(&library, &place);
    }
}

fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}
