//! The `oom` files, which tell the driver that the kernel killed a process of the container for its memory.
//!
//! They are empty; podman looks for the one in the persist dir, CRI-O and older podmans for the one in the bundle,
//! both right after they have seen the exit file. So they must be there before it. conmon: `cgroup.c`,
//! `create_oom_files`.

use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::diag::{info, warn};

/// What became of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomFiles {
    Written,
    /// At least one could not be made, which was warned about; worth another try at the end.
    Incomplete,
}

/// Creates `oom` in the persist dir and in the bundle, each whether or not the other one works.
///
/// A file that is there already is left alone. `None` and, as for conmon, an empty path: there is no such directory.
pub fn report_oom(persist_dir: Option<&Path>, bundle: Option<&Path>) -> OomFiles {
    info!("OOM received");
    let mut files = OomFiles::Written;
    for directory in [persist_dir, bundle].into_iter().flatten().filter(|path| !path.as_os_str().is_empty()) {
        if let Err(error) = create(directory) {
            warn!("Failed to write oom file to the {} path: {}", directory.display(), error.desc());
            files = OomFiles::Incomplete;
        }
    }
    files
}

fn create(directory: &Path) -> nix::Result<()> {
    // Without O_NONBLOCK a FIFO of that name would hold the monitor up for ever.
    let flags = OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mode = Mode::from_bits_truncate(0o644);
    loop {
        match open(&directory.join("oom"), flags, mode) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use super::*;
    use crate::supervise::attach::tests::TempDir;

    fn directory(dir: &TempDir, name: &str) -> PathBuf {
        let path = dir.0.join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn both_files_are_empty_and_world_readable() {
        let scratch = TempDir::new();
        let (persist, bundle) = (directory(&scratch, "persist"), directory(&scratch, "bundle"));
        fs::write(bundle.join("oom"), "kept").unwrap();
        assert_eq!(report_oom(Some(&persist), Some(&bundle)), OomFiles::Written);
        let made = fs::metadata(persist.join("oom")).unwrap();
        assert_eq!((made.len(), made.mode()), (0, libc::S_IFREG | 0o644));
        assert_eq!(fs::read(bundle.join("oom")).unwrap(), b"kept");
    }

    #[test]
    fn one_failure_does_not_cost_the_other_file() {
        let scratch = TempDir::new();
        let bundle = directory(&scratch, "bundle");
        let missing = scratch.0.join("missing");
        assert_eq!(report_oom(Some(&missing), Some(&bundle)), OomFiles::Incomplete);
        assert!(bundle.join("oom").exists());
        assert!(!missing.exists());
        fs::create_dir(&missing).unwrap();
        assert_eq!(report_oom(Some(&missing), Some(&bundle)), OomFiles::Written);
    }

    #[test]
    fn directories_that_were_not_given_are_left_out() {
        assert_eq!(report_oom(None, Some(Path::new(""))), OomFiles::Written);
        assert!(!Path::new("oom").exists());
    }

    #[test]
    fn a_fifo_in_the_way_does_not_block() {
        let scratch = TempDir::new();
        nix::unistd::mkfifo(&scratch.0.join("oom"), Mode::S_IRWXU).unwrap();
        assert_eq!(report_oom(None, Some(&scratch.0)), OomFiles::Written);
    }
}
