//! Small file systems for one test, in a mount namespace of its own: nothing else on the machine sees them, and they
//! vanish with the last process that was started in it, however the test ends.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::session::run;

/// What was mounted, newest last; unmounted when dropped.
#[derive(Debug, Default)]
pub struct Mounts {
    targets: Vec<PathBuf>,
}

impl Mounts {
    /// Gives the calling thread, and what it starts from now on, a mount namespace of its own. `None`, with a word why,
    /// without the right to; with `CI=true` that is a failure.
    #[must_use]
    pub fn private() -> Option<Self> {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            assert!(
                std::env::var_os("CI").is_none_or(|value| value != "true"),
                "no mount namespace: {error}"
            );
            eprintln!("left out: a mount namespace can't be made: {error}");
            return None;
        }
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("private mounts");
        Some(Self::default())
    }

    /// Lets mounts spread between the namespaces that are made from this one, as a system that has booted does.
    pub fn share(&self) {
        let nothing = None::<&str>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SHARED, nothing).expect("shared mounts");
    }

    /// An empty file system in memory, of at most `size` (as `1m`), at `target`, which is made if need be.
    pub fn tmpfs(&mut self, target: &Path, size: &str) {
        fs::create_dir_all(target).expect("mount point");
        let options = format!("size={size},mode=0755");
        mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("tmpfs");
        self.targets.push(target.to_owned());
    }

    /// Hides /dev behind one that has `null` and a system log, whose messages come out of the socket.
    pub fn system_log(&mut self) -> UnixDatagram {
        self.tmpfs(Path::new("/dev"), "1m");
        let device = nix::sys::stat::makedev(1, 3);
        let mode = Mode::from_bits_truncate(0o666);
        mknod("/dev/null", SFlag::S_IFCHR, mode, device).expect("mknod");
        let socket = UnixDatagram::bind("/dev/log").expect("system log");
        socket.set_nonblocking(true).expect("nonblocking");
        socket
    }

    /// Lets the file `target` be the file `source`.
    pub fn bind(&mut self, source: &Path, target: &Path) {
        let nothing = None::<&str>;
        mount(Some(source), target, nothing, MsFlags::MS_BIND, nothing).expect("bind mount");
        self.targets.push(target.to_owned());
    }

    /// An empty ext4 of `size` (as `8M`) at `target`, in the file `image`. `None`, with a word why, where loop devices or
    /// mkfs.ext4 are not to be had.
    pub fn ext4(&mut self, image: &Path, target: &Path, size: &str) -> Option<()> {
        let call = |name: &str, args: &[&str]| {
            let mut command = Command::new(name);
            command.args(args);
            let outcome = run(command);
            if outcome.code != 0 {
                eprintln!("left out: {}: {}", outcome.title, outcome.stderr_text());
            }
            (outcome.code == 0).then_some(())
        };
        if !crate::twin::installed(&["mkfs.ext4", "mount"]) {
            return None;
        }
        let (file, point) = (image.to_string_lossy(), target.to_string_lossy());
        call("truncate", &["--size", size, &file])?;
        call("mkfs.ext4", &["-q", &file])?;
        fs::create_dir_all(target).expect("mount point");
        call("mount", &["-o", "loop", &file, &point])?;
        self.targets.push(target.to_owned());
        Some(())
    }

    /// Takes the newest mount away, busy or not.
    pub fn pop(&mut self) {
        let target = self.targets.pop().expect("a mount");
        umount2(&target, MntFlags::MNT_DETACH).expect("umount");
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for target in self.targets.drain(..).rev() {
            let _ = umount2(&target, MntFlags::MNT_DETACH);
        }
    }
}
