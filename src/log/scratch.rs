//! A directory of its own for each test, gone at the end.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::{mkdtemp, mkfifo};

#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        let dir = fs::canonicalize(std::env::temp_dir()).unwrap();
        Self(mkdtemp(&dir.join("ferromon-log.XXXXXX")).unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0
    }

    pub(super) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        path
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The names in the directory, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
