//! The file in which the runtime leaves the pid of the container.
//!
//! For an exec it is all that tells whether anything was started, because the runtime's status can be the command's.
//! So what an earlier run left in it must be gone before the runtime starts; CRI-O makes the file itself, empty.
//! conmon: `conmon.c:main` believes whatever is there.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::unistd::Pid;

/// No pid is longer; what else may be in the file does not matter.
const READ_MAX: usize = 64;

/// Empties what an earlier run left at `path`. Only a regular file is touched, whoever put something else there: a
/// FIFO or a device holds no old pid, and a symlink may lead anywhere.
///
/// # Errors
/// There is something in the file and it can't be emptied.
pub fn forget(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && found.len() > 0 => {}
        // If it can't be looked at, the runtime has that problem, too.
        Ok(_) | Err(_) => return Ok(()),
    }
    // It may have been replaced since.
    let file =
        fs::OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}

/// The pid at the start of the file; `Ok(None)` when there is none. Never waits for the writer of a FIFO.
///
/// # Errors
/// The file can't be opened or read.
pub(super) fn read(path: &Path) -> io::Result<Option<Pid>> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut text = Vec::with_capacity(READ_MAX);
    file.take(READ_MAX as u64).read_to_end(&mut text)?;
    Ok(leading_pid(&text))
}

/// What atoi finds, if it is a pid.
fn leading_pid(text: &[u8]) -> Option<Pid> {
    let text = text.trim_ascii_start();
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let number = std::str::from_utf8(text.get(..digits)?).ok()?.parse::<i32>().ok()?;
    (number > 0).then(|| Pid::from_raw(number))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, symlink};

    use nix::sys::stat::Mode;

    use super::*;
    use crate::supervise::attach::tests::TempDir;

    #[test]
    fn only_a_positive_number_is_a_pid() {
        let table: [(&[u8], Option<i32>); 7] = [
            (b"42", Some(42)),
            (b" 42\n", Some(42)),
            (b"", None),
            (b"0", None),
            (b"-7", None),
            (b"abc", None),
            (b"99999999999", None),
        ];
        table.into_iter().for_each(|(text, pid)| assert_eq!(leading_pid(text).map(Pid::as_raw), pid));
    }

    #[test]
    fn an_old_pid_is_forgotten() {
        let dir = TempDir::new();
        let path = dir.0.join("pidfile");
        forget(&path).unwrap();
        assert!(!path.exists());
        assert!(read(&path).is_err());
        fs::write(&path, "4711").unwrap();
        assert_eq!(read(&path).unwrap(), Some(Pid::from_raw(4711)));
        forget(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn what_is_no_file_of_ours_stays_and_does_not_block() {
        let dir = TempDir::new();
        let (victim, link, fifo) = (dir.0.join("victim"), dir.0.join("link"), dir.0.join("fifo"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for path in [link.as_path(), &fifo, Path::new("/dev/zero"), &dir.0] {
            forget(path).unwrap();
        }
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
        assert_eq!(read(&fifo).unwrap(), None, "nobody writes");
        assert_eq!(read(Path::new("/dev/zero")).unwrap(), None, "no end");
    }
}
