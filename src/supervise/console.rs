//! The container's terminal: the console socket that the runtime sends the pty leader through, and what is set on it.
//!
//! The socket lies in a fresh directory that nobody else can look into, and both are gone when this value is, or
//! as soon as the leader has come. Whatever is not a message with exactly one descriptor is turned away.
//! conmon: `conn_sock.c:setup_console_socket`, `ctrl.c:terminal_accept_cb`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::mkdtemp;

use super::control::WindowSize;
use crate::diag;
use crate::error::{Context, Result, strerror};
use crate::sys;
use crate::sys::socket::ADDRESS_MAX;

const DIRECTORY_TEMPLATE: &str = "conmon-term.XXXXXX";
const SOCKET_NAME: &str = "console";

/// Where the directory is made if TMPDIR does not serve.
const FALLBACKS: [&str; 4] = ["/tmp", "/run", "/dev/shm", "/var/tmp"];

/// How long to wait when there are no descriptors left to accept the runtime's connection.
const RETRY: Duration = Duration::from_millis(100);

/// Connections turned away in one turn.
const TURN_BUDGET: usize = 16;

/// A listening console socket that waits for the pty leader.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: OwnedFd,
    /// One that was accepted and has not sent anything yet.
    connection: Option<OwnedFd>,
    token: Token,
    retry_at: Option<Instant>,
    /// Last, so that the file goes when nobody listens any more.
    directory: PrivateDir,
}

/// What one connection has led to.
enum Step {
    Leader(OwnedFd),
    /// Nothing more for now.
    Wait,
    /// Look for the next connection.
    Next,
}

impl ConsoleSocket {
    /// Makes the socket in a fresh directory below `tmpdir`, which is the value of TMPDIR, or elsewhere if its path is
    /// too long or nothing can be made there. Readiness will be reported under `token`.
    ///
    /// # Errors
    /// The socket can't be made, in conmon's words.
    pub fn new(tmpdir: Option<&OsStr>, token: Token) -> Result<Self> {
        let directory =
            PrivateDir::new(tmpdir).context(|| "Failed to generate random path for console-socket".into())?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .context(|| "Failed to create socket".into())?;
        fchmod(&listener, Mode::S_IRWXU).context(|| "Failed to change console-socket permissions".into())?;
        UnixAddr::new(&directory.socket)
            .and_then(|address| bind(listener.as_raw_fd(), &address))
            .context(|| "Failed to bind to console-socket".into())?;
        Backlog::new(128)
            .and_then(|backlog| listen(&listener, backlog))
            .context(|| "Failed to listen on console-socket".into())?;
        Ok(Self { listener, connection: None, token, retry_at: None, directory })
    }

    /// What the runtime is given as `--console-socket`.
    pub fn socket_path(&self) -> &Path {
        &self.directory.socket
    }

    /// Watches the socket.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn register(&self, registry: &Registry) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.listener.as_raw_fd()), self.token, Interest::READABLE)
    }

    /// When to call [`Self::on_ready`] although nothing was reported.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The socket or a connection is ready, or the deadline has come. Returns the pty leader once it has arrived,
    /// close-on-exec, non-blocking and with ONLCR set; this value can be dropped then.
    pub fn on_ready(&mut self, registry: &Registry, now: Instant) -> Option<OwnedFd> {
        self.retry_at = None;
        for _ in 0..TURN_BUDGET {
            let step = match self.connection.take() {
                Some(connection) => self.receive(connection),
                None => self.accept(registry, now),
            };
            match step {
                Step::Leader(leader) => {
                    prepare(leader.as_fd());
                    return Some(leader);
                }
                Step::Wait => return None,
                Step::Next => {}
            }
        }
        self.retry_at = Some(now + RETRY);
        None
    }

    fn accept(&mut self, registry: &Registry, now: Instant) -> Step {
        let accepted = sys::socket::accept(self.listener.as_fd()).and_then(|connection| {
            registry.register(&mut SourceFd(&connection.as_raw_fd()), self.token, Interest::READABLE)?;
            Ok(connection)
        });
        match accepted {
            Ok(connection) => {
                self.connection = Some(connection);
                Step::Next
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Wait,
            Err(error) => {
                diag::warn!("Failed to accept console-socket connection: {}", strerror(&error));
                self.retry_at = Some(now + RETRY);
                Step::Wait
            }
        }
    }

    /// Takes the message of `connection`, which is closed unless there is nothing to take yet.
    #[inline(never)]
    fn receive(&mut self, connection: OwnedFd) -> Step {
        // The payload is the terminal's name, for which nobody has a use.
        let received = match sys::socket::recv_fds(connection.as_fd(), &mut [0; 4096]) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.connection = Some(connection);
                return Step::Wait;
            }
            Err(error) => {
                diag::warn!("Failed to receive console file descriptor: {}", strerror(&error));
                return Step::Next;
            }
        };
        let count = received.fds.len();
        let mut fds = received.fds.into_iter();
        match (fds.next(), count, received.truncated) {
            (Some(leader), 1, false) => Step::Leader(leader),
            _ => {
                diag::warn!("Failed to receive console file descriptor: got {count} instead of one");
                Step::Next
            }
        }
    }
}

/// Makes the terminal what the log expects: lines end with CR LF, and reading it never blocks.
fn prepare(leader: BorrowedFd<'_>) {
    match tcgetattr(leader) {
        Ok(mut settings) => {
            settings.output_flags |= OutputFlags::ONLCR;
            if let Err(error) = tcsetattr(leader, SetArg::TCSANOW, &settings) {
                diag::warn!("Failed to set console terminal settings: {}", error.desc());
            }
        }
        Err(error) => diag::warn!("Failed to get console terminal settings: {}", error.desc()),
    }
    if let Err(error) = sys::fd::set_nonblocking(leader) {
        diag::warn!("Failed to make the console non-blocking: {}", strerror(&error));
    }
}

/// Gives the container's terminal, of which `leader` is the leader, the size `size`.
pub fn resize(leader: BorrowedFd<'_>, size: WindowSize) {
    if let Err(error) = sys::tty::set_window_size(leader, size.rows, size.columns) {
        diag::warn!("Failed to set process pty terminal size: {}", strerror(&error));
    }
}

/// A directory of mode 0700 with a socket in it; both are removed with this value.
#[derive(Debug)]
struct PrivateDir {
    path: PathBuf,
    socket: PathBuf,
}

impl PrivateDir {
    fn new(tmpdir: Option<&OsStr>) -> nix::Result<Self> {
        let mut failure = Errno::ENAMETOOLONG;
        let candidates = tmpdir.into_iter().chain(FALLBACKS.into_iter().map(OsStr::new));
        for parent in candidates.map(Path::new).filter(|parent| fits(parent)) {
            match mkdtemp(&parent.join(DIRECTORY_TEMPLATE)) {
                Ok(path) => return Ok(Self { socket: path.join(SOCKET_NAME), path }),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// Whether the socket's path will do wherever the runtime's working directory is.
fn fits(parent: &Path) -> bool {
    let example: OsString = parent.join(DIRECTORY_TEMPLATE).join(SOCKET_NAME).into();
    parent.is_absolute() && example.as_bytes().len() <= ADDRESS_MAX
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let removed = match fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::remove_dir(&self.path),
        };
        if let Err(error) = removed {
            diag::warn!("failed to unlink {}: {}", self.path.display(), strerror(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::io::{IoSlice, Read, Write};
    use std::os::fd::RawFd;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    use mio::{Events, Poll};
    use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
    use nix::sys::socket::{ControlMessage, MsgFlags, connect, sendmsg};

    use super::*;
    use crate::supervise::attach::tests::TempDir;

    const TOKEN: Token = Token(5);

    struct Bench {
        console: ConsoleSocket,
        poll: Poll,
    }

    impl Bench {
        fn new(tmpdir: &Path) -> Self {
            let console = ConsoleSocket::new(Some(tmpdir.as_os_str()), TOKEN).unwrap();
            let poll = Poll::new().unwrap();
            console.register(poll.registry()).unwrap();
            Self { console, poll }
        }

        fn leader(&mut self) -> Option<OwnedFd> {
            let mut events = Events::with_capacity(8);
            self.poll.poll(&mut events, Some(Duration::from_millis(100))).unwrap();
            self.console.on_ready(self.poll.registry(), Instant::now())
        }

        fn connect(&self) -> OwnedFd {
            let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            connect(fd.as_raw_fd(), &UnixAddr::new(self.console.socket_path()).unwrap()).unwrap();
            fd
        }
    }

    fn send_fds(connection: &OwnedFd, fds: &[RawFd]) {
        let control = [ControlMessage::ScmRights(fds)];
        let control = if fds.is_empty() { &[][..] } else { &control[..] };
        let payload = [IoSlice::new(b"/dev/pts/7")];
        sendmsg::<()>(connection.as_raw_fd(), &payload, control, MsgFlags::MSG_NOSIGNAL, None).unwrap();
    }

    fn open_pty() -> (PtyMaster, fs::File) {
        let leader = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&leader).unwrap();
        unlockpt(&leader).unwrap();
        let name = ptsname_r(&leader).unwrap();
        let follower = fs::File::options().read(true).write(true).open(name).unwrap();
        (leader, follower)
    }

    /// Descriptors of this terminal's leader: other tests of this process open and close others all the time.
    fn open_fds(leader: &PtyMaster) -> usize {
        let index = |info: PathBuf| {
            let text = fs::read_to_string(info).ok()?;
            text.lines().find_map(|line| line.strip_prefix("tty-index:")?.trim().parse::<u32>().ok())
        };
        let own = index(format!("/proc/self/fdinfo/{}", leader.as_raw_fd()).into()).unwrap();
        let all = fs::read_dir("/proc/self/fdinfo").unwrap();
        all.filter(|entry| entry.as_ref().is_ok_and(|entry| index(entry.path()) == Some(own))).count()
    }

    #[test]
    fn the_leader_arrives_ready_for_use() {
        let dir = TempDir::new();
        let mut bench = Bench::new(&dir.0);
        let (leader, mut follower) = open_pty();
        let mut settings = tcgetattr(&follower).unwrap();
        settings.output_flags.remove(OutputFlags::ONLCR);
        tcsetattr(&follower, SetArg::TCSANOW, &settings).unwrap();

        let connection = bench.connect();
        assert!(bench.leader().is_none(), "connected is not sent");
        send_fds(&connection, &[leader.as_raw_fd()]);
        drop(leader);
        let leader = bench.leader().unwrap();

        assert!(fcntl(&leader, FcntlArg::F_GETFD).unwrap() & libc::FD_CLOEXEC != 0);
        let mut leader = fs::File::from(leader);
        let mut buffer = [0; 64];
        assert_eq!(leader.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        follower.write_all(b"line\n").unwrap();
        let len = leader.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"line\r\n");
        resize(leader.as_fd(), WindowSize { rows: 33, columns: 44 });
        assert_eq!(sys::tty::window_size(follower.as_fd()).unwrap(), [33, 44, 0, 0]);
    }

    #[test]
    fn anything_but_one_descriptor_is_turned_away_and_nothing_leaks() {
        let dir = TempDir::new();
        let mut bench = Bench::new(&dir.0);
        let (leader, _follower) = open_pty();
        let before = open_fds(&leader);
        assert!(before > 0);
        for count in [0, 2, 3, 20, 200] {
            send_fds(&bench.connect(), &vec![leader.as_raw_fd(); count]);
            assert!(bench.leader().is_none(), "{count} descriptors");
        }
        drop(bench.connect());
        assert!(bench.leader().is_none());
        assert_eq!(open_fds(&leader), before);
        send_fds(&bench.connect(), &[leader.as_raw_fd()]);
        assert!(bench.leader().is_some());
    }

    #[test]
    fn the_directory_is_private_and_gone_in_the_end() {
        let dir = TempDir::new();
        let bench = Bench::new(&dir.0);
        let path = bench.console.socket_path().to_owned();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        assert!(path.starts_with(&dir.0));
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o700));
        drop(bench);
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }

    #[test]
    fn the_path_fits_whatever_tmpdir_is() {
        let dir = TempDir::new();
        let long = dir.0.join("l".repeat(90));
        fs::create_dir(&long).unwrap();
        let relative = PathBuf::from("relative");
        for tmpdir in [Some(long), Some(dir.0.join("missing")), Some(relative), Some(PathBuf::new()), None] {
            let console = ConsoleSocket::new(tmpdir.as_ref().map(|path| path.as_os_str()), TOKEN).unwrap();
            assert!(
                console.socket_path().is_absolute() && console.socket_path().as_os_str().len() <= ADDRESS_MAX
            );
            let parent = console.socket_path().parent().unwrap().to_owned();
            assert!(parent.exists());
            drop(console);
            assert!(!parent.exists());
        }
    }
}
