//! The sd-notify relay: a socket in the bundle that the container sees, and the host's socket behind it.
//!
//! Each datagram is filtered and sent on as one datagram; see [`filter`]. A datagram that can't be delivered is lost
//! and costs no other one: the host's socket may come later, be full for a while, or be replaced. Descriptors and
//! credentials that a container attaches never get here, as no room for control messages is given. conmon:
//! `conn_sock.c`, where the first failure ends the relay.

pub mod filter;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, recv, socket};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::diag::{debug, warn};
use crate::error::{Context, Result, strerror};
use crate::supervise::event::Turn;
use crate::supervise::notify::filter::{Extent, allowed_lines};

/// The longest message that is looked at; conmon's buffer.
const MESSAGE_MAX: usize = 32768;

/// Datagrams taken in one turn, so that a container that floods its socket leaves time for everything else. Fewer than
/// the ten that a socket queues by default (net.unix.max_dgram_qlen), so one turn alone does not overrun the host.
const TURN_MAX: usize = 8;

/// Below the bundle; podman mounts the directory into the container.
const SOCKET: &str = "notify/notify.sock";

#[derive(Debug)]
pub struct NotifyRelay {
    container: OwnedFd,
    /// Not connected, so that the host's socket need not be there yet.
    host: UnixDatagram,
    target: Target,
    delivery: Delivery,
}

/// The value of `--sdnotify-socket`.
#[derive(Debug)]
enum Target {
    /// An address that can be used as it is.
    Address(SocketAddr),
    /// A path that is too long for an address.
    LongPath(PathBuf),
}

/// What has been warned about: not each datagram is worth a line, above all none that a container can provoke at will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Works,
    /// The host's queue was full once. A container that floods it makes that come and go, so this state stays.
    Overrun,
    /// The last one failed otherwise, as when the host's socket is missing.
    Fails,
}

impl NotifyRelay {
    /// Binds `notify/notify.sock` in `bundle`, mode 0777, in place of whatever is there; `notify` must exist. `host`
    /// is the host's socket as `NOTIFY_SOCKET` has it: a path, or `@` and an abstract name.
    ///
    /// # Errors
    /// The socket can't be made or bound, in conmon's words.
    pub fn bind(bundle: &Path, host: &Path) -> Result<Self> {
        let target = Target::new(host);
        let host = UnixDatagram::unbound().context(|| "Failed to create notify socket".into())?;
        host.set_nonblocking(true).context(|| "Failed to create notify socket".into())?;
        let container = bind_in_bundle(bundle)?;
        Ok(Self { container, host, target, delivery: Delivery::Works })
    }

    /// Has `registry` report `token` when [`Self::on_readable`] should be called.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.container.as_raw_fd()), token, Interest::READABLE)
    }

    /// Passes on what the container has sent; never blocks.
    pub fn on_readable(&mut self) -> Turn {
        for _ in 0..TURN_MAX {
            match self.relay_one() {
                Ok(()) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Turn::Dry,
                Err(error) => {
                    // The socket is still good, and the next datagram wakes us again.
                    warn!("Failed to read from the container's notify socket: {}", error.desc());
                    return Turn::Dry;
                }
            }
        }
        Turn::More
    }

    /// Takes one datagram; an error is one of reading it.
    fn relay_one(&mut self) -> nix::Result<()> {
        // The length first: most messages have 8 bytes, and nothing of 32 KiB should stay behind in an idle monitor.
        let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        let length = recv(self.container.as_raw_fd(), &mut [], peek)?;
        let mut message = vec![0; length.min(MESSAGE_MAX)];
        let received = recv(self.container.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT)?;
        message.truncate(received);
        let extent = if length > MESSAGE_MAX { Extent::Cut } else { Extent::Whole };
        let passed = allowed_lines(&message, extent);
        if !passed.is_empty() {
            let sent = self.target.send(&self.host, &passed);
            self.account(sent);
        }
        Ok(())
    }

    fn account(&mut self, sent: io::Result<usize>) {
        let before = self.delivery;
        self.delivery = match (&sent, before) {
            (Ok(_), Delivery::Works | Delivery::Fails) => Delivery::Works,
            (Ok(_), Delivery::Overrun) => Delivery::Overrun,
            (Err(error), Delivery::Works) if error.kind() == io::ErrorKind::WouldBlock => Delivery::Overrun,
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => before,
            (Err(_), _) => Delivery::Fails,
        };
        let Err(error) = sent else { return };
        if self.delivery == before {
            debug!("Failed to write to socket host notify socket: {}", strerror(&error));
        } else {
            warn!(
                "Failed to write to socket host notify socket, notifications are lost: {}",
                strerror(&error)
            );
        }
    }
}

impl Target {
    fn new(host: &Path) -> Self {
        let bytes = host.as_os_str().as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(host),
        };
        // A name too long to be anybody's address ends up as a path that does not exist.
        address.map(Self::Address).unwrap_or_else(|_| Self::LongPath(host.to_owned()))
    }

    fn send(&self, from: &UnixDatagram, message: &[u8]) -> io::Result<usize> {
        match self {
            Self::Address(address) => from.send_to_addr(message, address),
            Self::LongPath(path) => {
                // Through a descriptor of the socket file itself, so neither the directory's nor the file's name
                // counts. Opened anew each time: the socket may be replaced while the container runs.
                let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
                from.send_to(message, format!("/proc/self/fd/{}", file.as_raw_fd()))
            }
        }
    }
}

/// Every name is relative to a descriptor of the bundle: its path may be longer than an address takes.
fn bind_in_bundle(bundle: &Path) -> Result<OwnedFd> {
    let directory = open(bundle, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| format!("failed to open socket path parent dir {}", bundle.display()))?;
    let full = || bundle.join(SOCKET);
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let container = socket(AddressFamily::Unix, SockType::Datagram, flags, None)
        .context(|| format!("Failed to create socket {}", full().display()))?;
    match unlinkat(&directory, SOCKET, UnlinkatFlags::NoRemoveDir) {
        // A directory that is missing is told by bind, as in conmon.
        Ok(()) | Err(Errno::ENOENT) => {}
        removed => removed.context(|| format!("Failed to remove existing socket: {}", full().display()))?,
    }
    UnixAddr::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()).as_str())
        .and_then(|address| bind(container.as_raw_fd(), &address))
        .context(|| "Failed to bind to console-socket".into())?;
    fchmodat(&directory, SOCKET, Mode::from_bits_truncate(0o777), FchmodatFlags::FollowSymlink)
        .context(|| format!("Failed to change socket permissions {}", full().display()))?;
    Ok(container)
}

#[cfg(test)]
mod tests;
