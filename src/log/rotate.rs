//! `--log-rotate`: the log becomes `.1`, `.1` becomes `.2`, and so on; as many old files stay as `--log-max-files` says.
//!
//! The path never goes missing: the log is linked to `.1` and the fresh file renamed over it. A monitor that dies half-way
//! leaves at most a gap in the numbers, one name too many for the same file, or an unused `.new`; each is dealt with here.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::{FileStat, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::file::{create_new, kind, not_regular, recreate, with_suffix};

/// Puts an empty file in the place of `name`, and keeps the old one and at most `keep - 1` before it.
///
/// # Errors
/// `name` is a symlink or device, or a file can't be created or renamed. The log is then still at its path.
pub(super) fn rotate(dir: BorrowedFd<'_>, name: &OsStr, keep: u32) -> io::Result<OwnedFd> {
    let Some(log) = look(dir, name)? else { return recreate(dir, name) };
    if kind(&log) != SFlag::S_IFREG {
        return Err(not_regular());
    }
    // Made by whoever moved the log away: there is nothing in it to keep.
    if log.st_size == 0 {
        return recreate(dir, name);
    }
    let fresh = with_suffix(name, ".new");
    let fd = create_new(dir, &fresh)?;
    let placed =
        keep_old(dir, name, &log, keep).and_then(|()| Ok(renameat(dir, fresh.as_os_str(), dir, name)?));
    if let Err(error) = placed {
        let _ = unlinkat(dir, fresh.as_os_str(), UnlinkatFlags::NoRemoveDir);
        return Err(error);
    }
    Ok(fd)
}

/// Gives the log the additional name `.1`, after making room for it.
fn keep_old(dir: BorrowedFd<'_>, name: &OsStr, log: &FileStat, keep: u32) -> io::Result<()> {
    let first = backup(name, 1);
    if look(dir, &first)?.is_some_and(|stat| (stat.st_dev, stat.st_ino) == (log.st_dev, log.st_ino)) {
        return Ok(());
    }
    shift(dir, name, keep)?;
    match linkat(dir, name, dir, first.as_os_str(), AtFlags::empty()) {
        Ok(()) => Ok(()),
        // A file system without hard links: the path is missing for a moment.
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK | Errno::EACCES) => {
            Ok(renameat(dir, name, dir, first.as_os_str())?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Frees the name `.1`: the numbers up to the first gap go up by one, and the last of `keep` falls off.
fn shift(dir: BorrowedFd<'_>, name: &OsStr, keep: u32) -> io::Result<()> {
    let mut last = 1;
    while last < keep && look(dir, &backup(name, last))?.is_some() {
        last += 1;
    }
    match unlinkat(dir, backup(name, last).as_os_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    for to in (2..=last).rev() {
        match renameat(dir, backup(name, to - 1).as_os_str(), dir, backup(name, to).as_os_str()) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn backup(name: &OsStr, number: u32) -> OsString {
    with_suffix(name, &format!(".{number}"))
}

/// `None` when nothing has that name.
fn look(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<FileStat>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, symlink};

    use crate::log::file::{LogFile, Occasion, Renewed, Target};
    use crate::log::scratch::Scratch;

    fn open(dir: &Scratch, keep: u32) -> LogFile {
        LogFile::open(&dir.path("log"), Some(keep), &[]).unwrap()
    }

    fn fill(file: &mut LogFile, text: &str) {
        file.write(text.as_bytes()).unwrap();
        assert!(matches!(file.renew(Occasion::SizeLimit).unwrap(), Renewed::Replaced));
    }

    /// `NAME=CONTENT` of every file.
    fn content(dir: &Scratch) -> String {
        dir.names().iter().map(|name| format!("{name}={}", dir.read(name))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn as_many_old_files_stay_as_were_asked_for() {
        for (keep, want) in
            [(1, "log= log.1=e"), (2, "log= log.1=e log.2=d"), (4, "log= log.1=e log.2=d log.3=c log.4=b")]
        {
            let dir = Scratch::new();
            let mut file = open(&dir, keep);
            for text in ["a", "b", "c", "d", "e"] {
                fill(&mut file, text);
            }
            assert_eq!(content(&dir), want);
        }
    }

    #[test]
    fn leftovers_of_a_monitor_that_died_half_way_do_not_matter() {
        let cases: [(&[(&str, &str)], &str); 4] = [
            // An unused new file.
            (&[("log", "x"), ("log.new", "junk")], "log= log.1=xy"),
            // The numbers had been moved up, the log had not: nothing falls off.
            (&[("log", "x"), ("log.2", "b"), ("log.3", "c")], "log= log.1=xy log.2=b log.3=c"),
            (&[("log", "x"), ("log.1", "a"), ("log.3", "c")], "log= log.1=xy log.2=a log.3=c"),
            // A gap at the end.
            (
                &[("log", "x"), ("log.1", "a"), ("log.2", "b"), ("log.3", "c")],
                "log= log.1=xy log.2=a log.3=b",
            ),
        ];
        for (files, want) in cases {
            let dir = Scratch::new();
            for (name, text) in files {
                fs::write(dir.path(name), text).unwrap();
            }
            fill(&mut open(&dir, 3), "y");
            assert_eq!(content(&dir), want);
        }
    }

    #[test]
    fn a_log_that_has_its_number_already_is_not_kept_twice() {
        let dir = Scratch::new();
        fs::write(dir.path("log"), "x").unwrap();
        fs::hard_link(dir.path("log"), dir.path("log.1")).unwrap();
        fs::write(dir.path("log.2"), "a").unwrap();
        fill(&mut open(&dir, 2), "y");
        assert_eq!(content(&dir), "log= log.1=xy log.2=a");
    }

    #[test]
    fn a_log_behind_a_symlink_is_emptied() {
        let dir = Scratch::new();
        symlink("real", dir.path("log")).unwrap();
        let mut file = open(&dir, 2);
        file.write(b"x").unwrap();
        assert!(matches!(file.renew(Occasion::SizeLimit).unwrap(), Renewed::Emptied(_)));
        file.write(b"y").unwrap();
        assert_eq!(content(&dir), "log=y real=y");
    }

    #[test]
    fn a_log_that_cant_be_rotated_is_emptied_unless_it_was_moved_away() {
        let dir = Scratch::new();
        fs::create_dir(dir.path("log.1")).unwrap();
        let mut file = open(&dir, 1);
        file.write(b"x").unwrap();
        assert!(matches!(file.renew(Occasion::SizeLimit).unwrap(), Renewed::Emptied(_)));
        assert_eq!((file.size(), dir.names()), (0, vec!["log".into(), "log.1".into()]));

        file.write(b"x").unwrap();
        fs::rename(dir.path("log"), dir.path("kept")).unwrap();
        fs::write(dir.path("log"), "another").unwrap();
        assert!(file.renew(Occasion::SizeLimit).is_err());
        assert_eq!((dir.read("kept"), dir.read("log")), ("x".into(), "another".into()));
    }

    #[test]
    fn a_request_keeps_what_nobody_moved_away() {
        let dir = Scratch::new();
        let mut file = open(&dir, 2);
        file.write(b"x").unwrap();
        file.renew(Occasion::Request).unwrap();
        file.write(b"y").unwrap();
        assert_eq!(content(&dir), "log=y log.1=x");
        // logrotate's `create`: the empty file in our place is not worth a number.
        fs::rename(dir.path("log"), dir.path("moved")).unwrap();
        fs::write(dir.path("log"), "").unwrap();
        file.renew(Occasion::Request).unwrap();
        assert_eq!(content(&dir), "log= log.1=x moved=y");
    }

    #[test]
    fn a_device_in_the_logs_place_is_left_alone() {
        let dir = Scratch::new();
        let mut file = open(&dir, 2);
        file.write(b"x").unwrap();
        fs::remove_file(dir.path("log")).unwrap();
        let fifo = dir.fifo("log");
        for occasion in [Occasion::SizeLimit, Occasion::Request] {
            assert!(file.renew(occasion).is_err());
        }
        assert!(fs::symlink_metadata(fifo).unwrap().file_type().is_fifo());
        assert_eq!(dir.names(), ["log"]);
    }
}
