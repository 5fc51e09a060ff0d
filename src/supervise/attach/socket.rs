//! The files that clients find the monitor by: the `attach` socket in the bundle and, without `--full-attach`, the
//! symlink `<socket dir>/<cuuid>` to the bundle.
//!
//! Each is removed by its own guard, because the exit command runs between the two. A guard removes only what it
//! made: a container that is started again has a new monitor, with new files under the old names.
//! conmon: `conn_sock.c:bind_unix_socket`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};

use crate::diag::warn;
use crate::error::{Context, Result, strerror};
use crate::report::publish::within;
use crate::sys::socket::ADDRESS_MAX;

const SOCKET_NAME: &str = "attach";

/// Clients that wait to be accepted; the runtime may take its time, and 128 may come at once.
const BACKLOG: i32 = 128;

/// A listening socket and the file that names it.
#[derive(Debug)]
pub struct AttachSocket {
    /// SEQPACKET, non-blocking, close-on-exec.
    pub listener: OwnedFd,
    /// To be dropped before the exit command runs.
    pub file: FileGuard,
}

/// Makes `attach` in `bundle` and listens, in place of what an earlier monitor has left there. The path may have any length.
///
/// # Errors
/// The file can't be made, in conmon's words.
pub fn listen_in(bundle: &Path) -> Result<AttachSocket> {
    let path = bundle.join(SOCKET_NAME);
    let directory = open(bundle, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| format!("failed to open socket path parent dir {}", bundle.display()))?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
        .context(|| format!("Failed to create socket {}", path.display()))?;
    remove_stale(&path).context(|| format!("Failed to remove existing socket: {}", path.display()))?;
    // The file takes over the mode of the socket, so that it is nobody else's from the moment it exists.
    fchmod(&listener, Mode::S_IRWXU).context(|| "Failed to change console-socket permissions".into())?;
    let short = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
    UnixAddr::new(short.as_str())
        .and_then(|address| bind(listener.as_raw_fd(), &address))
        .context(|| "Failed to bind to console-socket".into())?;
    let file = FileGuard::new(path);
    Backlog::new(BACKLOG)
        .and_then(|backlog| listen(&listener, backlog))
        .context(|| format!("Failed to listen on attach socket: {}", file.path.display()))?;
    Ok(AttachSocket { listener, file })
}

/// Makes `<socket_dir>/<cuuid>` point to `bundle`, in place of an old link. Clients that can't dial the bundle's path
/// go through it, so it is wanted without `--full-attach`. The guard is to be dropped after the exit command.
///
/// # Errors
/// The link can't be made, in conmon's words.
pub fn link(socket_dir: &Path, cuuid: &OsStr, bundle: &Path) -> Result<FileGuard> {
    let path = link_path(socket_dir, cuuid);
    remove_stale(&path)
        .context(|| format!("Failed to remove existing symlink for socket directory {}", path.display()))?;
    symlink(bundle, &path).context(|| "Failed to create symlink for notify socket".into())?;
    Ok(FileGuard::new(path))
}

fn link_path(socket_dir: &Path, cuuid: &OsStr) -> PathBuf {
    let mut path = within(socket_dir, cuuid).into_os_string().into_vec();
    // conmon: a link that fills the address exactly is one byte shorter, and drivers look for it there.
    if path.len() == ADDRESS_MAX {
        path.pop();
    }
    PathBuf::from(OsString::from_vec(path))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A file that goes away with this value, unless somebody else has put another one in its place.
#[derive(Debug)]
pub struct FileGuard {
    path: PathBuf,
    /// `None` when the file is not to be removed.
    made: Option<Identity>,
}

impl FileGuard {
    fn new(path: PathBuf) -> Self {
        let made = identity(&path);
        Self { path, made }
    }

    /// Leaves the file where it is: conmon does so where its start fails.
    pub fn keep(mut self) {
        self.made = None;
    }
}

impl Drop for FileGuard {
    fn drop(&mut self) {
        if self.made.is_none() || self.made != identity(&self.path) {
            return;
        }
        if let Err(error) = remove_stale(&self.path) {
            warn!("Failed to remove {}: {}", self.path.display(), strerror(&error));
        }
    }
}

/// Device, inode and, as the number of a removed inode is soon used again, its birth where the filesystem knows it.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.created().ok()))
}
