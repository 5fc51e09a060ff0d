//! An ordinary user for one test: no capability, a home below the test's directory, and ids to make user namespaces of.
//!
//! The machine is not touched: the files of `/etc` that name the user are bind mounts in the mount namespace of the
//! calling thread, so the user is known to what the thread starts from then on, and to nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::image::program;
use crate::mounts::Mounts;

/// Not one of an account that a distribution makes.
pub const UID: u32 = 61_234;
const NAME: &str = "ferromon-user";
/// As many ids as `useradd` gives, from where it gives none.
const IDS: &str = "1610612736:65536";

#[derive(Debug)]
pub struct User {
    home: PathBuf,
    /// Takes the user's name away when dropped.
    _mounts: Mounts,
}

impl User {
    /// Makes the user known to the calling thread, with `dir/home` and `dir/runtime`. `None`, with a word why, where no
    /// mount namespace can be had; with `CI=true` that is a failure.
    #[must_use]
    pub fn new(dir: &Path) -> Option<Self> {
        let mut mounts = Mounts::private()?;
        // As systemd leaves them; podman says something about others.
        mounts.share();
        let (home, etc) = (dir.join("home"), dir.join("etc"));
        for directory in [&home, &etc, &dir.join("runtime")] {
            fs::create_dir_all(directory).expect("mkdir");
        }
        let account = format!("{NAME}:x:{UID}:{UID}::{}:/bin/sh\n", home.display());
        let nobody = "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
        for (name, text) in [
            ("passwd", format!("root:x:0:0::/root:/bin/sh\n{account}{nobody}")),
            ("group", format!("root:x:0:\n{NAME}:x:{UID}:\nnogroup:x:65534:\n")),
            ("subuid", format!("{NAME}:{IDS}\n")),
            ("subgid", format!("{NAME}:{IDS}\n")),
        ] {
            fs::write(etc.join(name), text).expect("account");
            mounts.bind(&etc.join(name), &Path::new("/etc").join(name));
        }
        let user = Self { home, _mounts: mounts };
        fs::set_permissions(user.runtime(), fs::Permissions::from_mode(0o700)).expect("mode");
        Some(user)
    }

    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// What `XDG_RUNTIME_DIR` should be.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.home.with_file_name("runtime")
    }

    /// `name`, to be run as this user.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        self.command_at(&program(name))
    }

    /// The program `path`, to be run as this user.
    #[must_use]
    pub fn command_at(&self, path: &Path) -> Command {
        let mut command = Command::new(program("setpriv"));
        command.args(become_user()).arg(path);
        command
    }
}

/// The words for setpriv(1) that make the program behind them an ordinary user's.
#[must_use]
pub fn become_user() -> Vec<String> {
    vec![format!("--reuid={UID}"), format!("--regid={UID}"), "--clear-groups".into(), "--".into()]
}

/// Gives `path` and all below it to the user.
pub fn give(path: &Path) {
    lchown(path, Some(UID), Some(UID)).expect("chown");
    let entries = fs::symlink_metadata(path).expect("metadata").is_dir().then(|| fs::read_dir(path));
    for entry in entries.into_iter().flatten().flatten() {
        give(&entry.expect("entry").path());
    }
}

/// What is below `directory` and belongs to somebody else than the user.
#[must_use]
pub fn not_the_users(directory: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    for path in fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            found.extend(not_the_users(&path));
        }
        if metadata.uid() != UID || metadata.gid() != UID {
            found.push(path);
        }
    }
    found
}
