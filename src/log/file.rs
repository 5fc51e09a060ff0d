//! The log file on disk: opening it, and putting a fresh one in its place.
//!
//! At start the path is followed wherever it leads, like conmon does. Later on only a regular file is ever replaced,
//! with `openat` and `renameat` in its directory, so that a symlink put there meanwhile is replaced and not followed.
//! conmon: `ctr_logging.c:reopen_k8s_file`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, ftruncate, unlinkat, write};

use super::rotate::rotate;

/// What Linux file systems take for a name.
const NAME_MAX: usize = 255;

/// Why the log is to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    SizeLimit,
    /// ctl request `2`: somebody has moved the file away, or wants a new one.
    Request,
}

/// How room was made for a log.
#[derive(Debug)]
pub enum Renewed {
    /// A fresh file is at the path.
    Replaced,
    /// The file could not be rotated, for this reason, and was emptied instead.
    Emptied(io::Error),
}

/// What records are written to. The sink's tests put a failing one in the file's place.
pub trait Target {
    /// As write(2), appending.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Cuts the last `count` bytes off again.
    fn take_back(&mut self, count: u64) -> io::Result<()>;
    /// The file's size now; 0 for anything but a regular file.
    fn size(&self) -> u64;
    /// Whether it can be cut and replaced.
    fn is_regular(&self) -> bool;
    /// On failure everything is as before.
    fn renew(&mut self, occasion: Occasion) -> io::Result<Renewed>;
}

#[derive(Debug)]
pub struct LogFile {
    fd: OwnedFd,
    path: PathBuf,
    regular: bool,
    /// How many old files are kept; `None` without `--log-rotate`.
    keep: Option<u32>,
    /// Directories that may hold the log; empty for no restriction.
    allowed: Vec<PathBuf>,
}

impl LogFile {
    /// Opens `path` for appending, mode 0640 when it is created.
    ///
    /// # Errors
    /// As open(2); ENXIO for a FIFO that nobody reads; a path outside the directories of `allowed`.
    pub fn open(path: &Path, keep: Option<u32>, allowed: &[PathBuf]) -> io::Result<Self> {
        // Never waits for a FIFO's reader, nor later for room in it.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | append_flags();
        let fd = if allowed.is_empty() {
            openat(AT_FDCWD, path, flags, mode())?
        } else {
            let real = resolve(path)?;
            let (dir, name) = open_dir(&real, allowed)?;
            openat(dir, name.as_os_str(), flags | OFlag::O_NOFOLLOW, mode())?
        };
        let regular = kind(&fstat(&fd)?) == SFlag::S_IFREG;
        Ok(Self { fd, path: path.to_owned(), regular, keep, allowed: allowed.to_vec() })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn rotated_or_emptied(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        keep: u32,
    ) -> io::Result<(Option<OwnedFd>, Renewed)> {
        let error = match rotate(dir, name, keep) {
            Ok(fd) => return Ok((Some(fd), Renewed::Replaced)),
            Err(error) => error,
        };
        // Somebody may have moved our file away, to keep it: then emptying it would be a loss.
        if !self.is_at(dir, name)? {
            return Err(error);
        }
        ftruncate(&self.fd, 0)?;
        Ok((None, Renewed::Emptied(error)))
    }

    fn is_at(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
        let (ours, there) = (fstat(&self.fd)?, fstatat(dir, name, AtFlags::empty())?);
        Ok((ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino))
    }
}

impl Target for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(write(&self.fd, bytes)?)
    }

    fn take_back(&mut self, count: u64) -> io::Result<()> {
        if !self.regular {
            return Err(Errno::EINVAL.into());
        }
        let size = self.size().saturating_sub(count);
        Ok(ftruncate(&self.fd, i64::try_from(size).map_err(io::Error::other)?)?)
    }

    fn size(&self) -> u64 {
        match fstat(&self.fd) {
            Ok(stat) if self.regular => u64::try_from(stat.st_size).unwrap_or(0),
            _ => 0,
        }
    }

    fn is_regular(&self) -> bool {
        self.regular
    }

    fn renew(&mut self, occasion: Occasion) -> io::Result<Renewed> {
        let (dir, name) = open_dir(&self.path, &self.allowed)?;
        let (fd, renewed) = match (self.keep, occasion) {
            (None, _) => (Some(recreate(dir.as_fd(), &name)?), Renewed::Replaced),
            (Some(keep), Occasion::SizeLimit) => self.rotated_or_emptied(dir.as_fd(), &name, keep)?,
            // Whoever asked waits for a file to appear at the path, so one has to.
            (Some(keep), Occasion::Request) => {
                let fd = rotate(dir.as_fd(), &name, keep).or_else(|_| recreate(dir.as_fd(), &name))?;
                (Some(fd), Renewed::Replaced)
            }
        };
        if let Some(fd) = fd {
            self.fd = fd;
        }
        Ok(renewed)
    }
}

/// Puts an empty file in the place of `name`; its old content is gone unless somebody else holds it.
pub(super) fn recreate(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if !matches!(kind(&stat), SFlag::S_IFREG | SFlag::S_IFLNK) => return Err(not_regular()),
        Ok(_) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let temporary = temporary_name(name);
    let fd = create_new(dir, &temporary)?;
    if let Err(error) = renameat(dir, temporary.as_os_str(), dir, name) {
        let _ = unlinkat(dir, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        return Err(error.into());
    }
    Ok(fd)
}

/// The log's own name may be as long as names can be.
fn temporary_name(name: &OsStr) -> OsString {
    const SUFFIX: &str = ".tmp";
    let start = name.as_bytes().get(..NAME_MAX - SUFFIX.len());
    with_suffix(start.map_or(name, OsStr::from_bytes), SUFFIX)
}

/// A file of our own under a name that may be left over from a monitor that died.
pub(super) fn create_new(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(openat(dir, name, append_flags() | OFlag::O_EXCL | OFlag::O_NOFOLLOW, mode())?)
}

pub(super) fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}

pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

pub(super) fn not_regular() -> io::Error {
    io::Error::other("is not a regular file")
}

fn append_flags() -> OFlag {
    OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_CLOEXEC
}

fn mode() -> Mode {
    Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP
}

/// Where `path` leads. A symlink to nothing has no answer: the file that it would create can't be checked.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            Ok(fs::canonicalize(parent(path))?.join(file_name(path)?))
        }
        resolved => resolved,
    }
}

/// Opens the directory of `path`, and checks the directory that was opened, not the name it was opened by.
fn open_dir(path: &Path, allowed: &[PathBuf]) -> io::Result<(OwnedFd, OsString)> {
    let name = file_name(path)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = openat(AT_FDCWD, parent(path), flags, Mode::empty())?;
    if !allowed.is_empty() {
        let real = fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
        if !is_allowed(&real, allowed) {
            return Err(io::Error::other(format!("{} is outside --log-allowlist-dir", real.display())));
        }
    }
    Ok((dir, name.to_owned()))
}

/// An entry that does not exist allows nothing, and neither does an empty one.
fn is_allowed(dir: &Path, allowed: &[PathBuf]) -> bool {
    allowed.iter().filter_map(|entry| fs::canonicalize(entry).ok()).any(|entry| dir.starts_with(entry))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn file_name(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| Errno::EISDIR.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;
    use crate::log::scratch::Scratch;

    fn open(path: &Path) -> LogFile {
        LogFile::open(path, None, &[]).unwrap()
    }

    fn is_append(file: &LogFile) -> bool {
        OFlag::from_bits_retain(fcntl(&file.fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_APPEND)
    }

    #[test]
    fn the_log_is_created_for_its_owner_and_group_and_never_truncated() {
        let dir = Scratch::new();
        open(&dir.path("log")).write(b"one\n").unwrap();
        let mut again = open(&dir.path("log"));
        assert_eq!(again.size(), 4);
        again.write(b"two\n").unwrap();
        assert_eq!(dir.read("log"), "one\ntwo\n");
        let mode = fs::metadata(dir.path("log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o640, 0);
        again.take_back(4).unwrap();
        assert_eq!(dir.read("log"), "one\n");
    }

    #[test]
    fn a_symlink_is_followed_at_start_and_replaced_later() {
        let dir = Scratch::new();
        symlink("real", dir.path("log")).unwrap();
        let mut file = open(&dir.path("log"));
        file.write(b"one\n").unwrap();
        assert_eq!(dir.read("real"), "one\n");
        file.renew(Occasion::Request).unwrap();
        file.write(b"two\n").unwrap();
        assert_eq!((dir.read("real"), dir.read("log")), ("one\n".into(), "two\n".into()));
        assert!(fs::symlink_metadata(dir.path("log")).unwrap().is_file());
    }

    #[test]
    fn a_new_file_takes_the_place_of_the_old_one_at_once() {
        let dir = Scratch::new();
        let mut file = open(&dir.path("log"));
        file.write(b"old\n").unwrap();
        let before = fs::metadata(dir.path("log")).unwrap().ino();
        // What a monitor that died, or somebody with bad intentions, may have left there.
        fs::write(dir.path("victim"), "precious").unwrap();
        symlink("victim", dir.path("log.tmp")).unwrap();
        file.renew(Occasion::SizeLimit).unwrap();
        file.write(b"new\n").unwrap();
        assert_ne!(fs::metadata(dir.path("log")).unwrap().ino(), before);
        assert_eq!((dir.read("log"), dir.read("victim")), ("new\n".into(), "precious".into()));
        assert_eq!(dir.names(), ["log", "victim"]);
        assert!(is_append(&file));
    }

    #[test]
    fn a_log_whose_name_is_as_long_as_can_be_is_replaced_too() {
        let dir = Scratch::new();
        for len in [NAME_MAX - 4, NAME_MAX - 3, NAME_MAX] {
            let name = "n".repeat(len);
            let mut file = open(&dir.path(&name));
            file.write(b"old\n").unwrap();
            file.renew(Occasion::SizeLimit).unwrap();
            assert_eq!(dir.names().concat(), name);
            assert_eq!(dir.read(&name), "");
            fs::remove_file(dir.path(&name)).unwrap();
        }
    }

    #[test]
    fn a_log_that_was_moved_away_is_created_again() {
        let dir = Scratch::new();
        for keep in [None, Some(2)] {
            let mut file = LogFile::open(&dir.path("log"), keep, &[]).unwrap();
            file.write(b"old\n").unwrap();
            fs::rename(dir.path("log"), dir.path("log.moved")).unwrap();
            file.renew(Occasion::Request).unwrap();
            file.write(b"new\n").unwrap();
            assert_eq!((dir.read("log.moved"), dir.read("log")), ("old\n".into(), "new\n".into()));
            assert_eq!(dir.names(), ["log", "log.moved"]);
            fs::remove_file(dir.path("log")).unwrap();
        }
    }

    #[test]
    fn without_its_directory_the_old_file_is_kept() {
        let dir = Scratch::new();
        fs::create_dir(dir.path("sub")).unwrap();
        let mut file = open(&dir.path("sub/log"));
        fs::rename(dir.path("sub"), dir.path("gone")).unwrap();
        assert!(file.renew(Occasion::Request).is_err());
        file.write(b"still\n").unwrap();
        assert_eq!(dir.read("gone/log"), "still\n");
        fs::create_dir(dir.path("sub")).unwrap();
        file.renew(Occasion::Request).unwrap();
        file.write(b"back\n").unwrap();
        assert_eq!(dir.read("sub/log"), "back\n");
    }

    #[test]
    fn a_fifo_needs_a_reader_and_stays_a_fifo() {
        let dir = Scratch::new();
        let fifo = dir.fifo("log");
        let error = LogFile::open(&fifo, None, &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
        let reader = openat(AT_FDCWD, &fifo, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).unwrap();
        let mut file = open(&fifo);
        assert!(!file.is_regular() && file.size() == 0);
        file.write(b"x").unwrap();
        assert!(file.take_back(1).is_err());
        assert!(file.renew(Occasion::Request).is_err());
        assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&reader, &mut byte).unwrap(), 1);
    }

    #[test]
    fn a_full_pipe_does_not_block() {
        let dir = Scratch::new();
        let fifo = dir.fifo("log");
        let _reader = openat(AT_FDCWD, &fifo, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).unwrap();
        let mut file = open(&fifo);
        let error = (0..100).find_map(|_| file.write(&[b'x'; 65536]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_allow_list_holds_at_start_and_at_every_renewal() {
        let (dir, other) = (Scratch::new(), Scratch::new());
        let allowed = [PathBuf::new(), "/nonexistent".into(), dir.path("in")];
        fs::create_dir(dir.path("in")).unwrap();
        fs::create_dir(dir.path("inner")).unwrap();
        symlink(other.dir(), dir.path("in/out")).unwrap();
        symlink(dir.path("in"), dir.path("in2")).unwrap();
        symlink(other.path("target"), dir.path("in/dangling")).unwrap();
        for outside in ["log", "inner/log", "in/out/log", "in/dangling", "in/../log"] {
            assert!(LogFile::open(&dir.path(outside), None, &allowed).is_err(), "{outside}");
        }
        assert_eq!((dir.names(), other.names().len()), (vec!["in".into(), "in2".into(), "inner".into()], 0));
        for inside in ["in/log", "in2/log2", "inner/../in/log3"] {
            LogFile::open(&dir.path(inside), None, &allowed).unwrap().write(b"x").unwrap();
        }

        let mut file = LogFile::open(&dir.path("in2/log"), Some(1), &allowed).unwrap();
        fs::remove_file(dir.path("in2")).unwrap();
        symlink(other.dir(), dir.path("in2")).unwrap();
        for occasion in [Occasion::Request, Occasion::SizeLimit] {
            assert!(file.renew(occasion).unwrap_err().to_string().contains("--log-allowlist-dir"));
        }
        assert_eq!(other.names().len(), 0);
    }

    #[test]
    fn a_link_out_of_the_allow_list_is_refused() {
        let (dir, other) = (Scratch::new(), Scratch::new());
        fs::write(other.path("target"), "").unwrap();
        symlink(other.path("target"), dir.path("log")).unwrap();
        assert!(LogFile::open(&dir.path("log"), None, &[dir.dir().to_owned()]).is_err());
    }

    #[test]
    fn a_path_without_a_file_name_is_refused() {
        for path in ["/", "..", ""] {
            assert!(LogFile::open(Path::new(path), None, &[]).is_err(), "{path}");
        }
    }
}
