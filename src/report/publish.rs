//! A file that is there whole or not at all: written under another name in the same directory, then renamed.
//!
//! Drivers act on the mere existence of exit files and pidfiles, so these must never be seen half-written.
//! conmon uses g_file_set_contents: same kind of name, same mode.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How often a temporary name may turn out to be taken by what an earlier process left behind.
const ATTEMPTS: u32 = 100;

/// Makes `content` appear at `path`, in place of what was there. The mode is 0666 less the umask.
///
/// # Errors
/// The directory can't be written, or the disk is full; the temporary file is gone then.
pub fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    let (temporary, mut file) = create_beside(path)?;
    let written = file.write_all(content).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error to report is the first one; a leftover is replaced by nobody but harms nobody either.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// `name` in `directory`, whatever `name` is: unlike `Path::join`, an absolute one does not lead out of it. An empty
/// directory is the working directory, as for conmon.
pub fn within(directory: &Path, name: &OsStr) -> PathBuf {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let mut path = OsString::from(directory);
    path.push("/");
    path.push(name);
    path.into()
}

fn create_beside(path: &Path) -> io::Result<(PathBuf, fs::File)> {
    let mut last = io::Error::from(ErrorKind::AlreadyExists);
    for attempt in 0..ATTEMPTS {
        let temporary = temporary_name(path, attempt);
        match OpenOptions::new().write(true).create_new(true).mode(0o666).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

/// `<path>.XXXXXX`. The pid keeps living monitors apart; `attempt` steps over leftovers of dead ones.
fn temporary_name(path: &Path, attempt: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{:06X}", std::process::id().wrapping_add(attempt << 23) & 0x7FFF_FFFF));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::attach::tests::TempDir;

    #[test]
    fn replaces_what_was_there_and_leaves_nothing_beside_it() {
        let dir = TempDir::new();
        let path = dir.0.join("exit");
        fs::write(&path, "old and longer").unwrap();
        fs::write(temporary_name(&path, 0), "left over").unwrap();
        publish(&path, b"0").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"0");
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 2, "only the foreign leftover stays");
    }

    #[test]
    fn an_absolute_name_stays_in_its_directory() {
        assert_eq!(within(Path::new("/exits"), OsStr::new("abc")), Path::new("/exits/abc"));
        assert_eq!(within(Path::new("/exits"), OsStr::new("/etc/x")), Path::new("/exits/etc/x"));
        assert_eq!(within(Path::new(""), OsStr::new("/etc/x")), Path::new("./etc/x"));
    }

    #[test]
    fn a_failed_rename_leaves_no_temporary_file() {
        let dir = TempDir::new();
        let path = dir.0.join("taken");
        fs::create_dir(&path).unwrap();
        assert!(publish(&path, b"0").is_err());
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
    }
}
