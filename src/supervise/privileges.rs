//! Gives up the capabilities that supervision does not need, once the container runs.
//!
//! A monitor that was taken over through something it reads can't mount, trace, load modules, change uids or touch the
//! network's set-up any more. It is still uid 0, so root's own files stay within reach. The exit command has everything
//! as before: the kernel gives a program run by uid 0 the whole bounding set, which is not touched. Where that would
//! not happen nothing is given up.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl::get_no_new_privs;
use nix::unistd::{Uid, geteuid, getuid};

use crate::diag::{debug, warn};
use crate::sys::securebits::{RootPrivilege, root_privilege};

/// What supervision needs:
/// - `CAP_KILL`: the container's processes have other uids, or none that is known here (user namespaces); signals are
///   forwarded to them, and `--timeout` kills them.
/// - `CAP_DAC_OVERRIDE`: exit files, `oom`, the attach socket, and the log at a rotation are created, renamed and
///   removed in directories that drivers and their users chose, whoever owns these.
const NEEDED: [Capability; 2] = [Capability::CAP_KILL, Capability::CAP_DAC_OVERRIDE];

/// Whether the exit command would get back what is dropped here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Regain {
    OnExec,
    /// For good: not uid 0, or no_new_privs or `SECBIT_NOROOT` is set, or some are ambient, which do not come back.
    Never,
}

/// Reduces the effective, permitted and (with them) ambient sets to what is needed.
///
/// To be called after the runtime was forked and after [`OomWatch::open`](crate::supervise::oom::OomWatch::open),
/// which may need more to look at another user's process. Rootless drivers run the monitor as uid 0 of their user
/// namespace, where all of this holds as well. A failure is warned about and changes nothing.
pub fn drop_unneeded() {
    if regain() == Regain::Never {
        debug!("capabilities kept: the exit command could not get them back");
        return;
    }
    if let Err(error) = reduce_to(&NEEDED) {
        warn!("Failed to drop capabilities: {error}");
    }
}

fn regain() -> Regain {
    let Ok(root) = root_privilege() else { return Regain::Never };
    // Unknown counts as set.
    let no_new_privs = get_no_new_privs().unwrap_or(true);
    if has_ambient() {
        return Regain::Never;
    }
    regain_of(getuid(), geteuid(), no_new_privs, root)
}

fn regain_of(real: Uid, effective: Uid, no_new_privs: bool, root: RootPrivilege) -> Regain {
    match root {
        RootPrivilege::Given if real.is_root() && effective.is_root() && !no_new_privs => Regain::OnExec,
        RootPrivilege::Given | RootPrivilege::Withheld => Regain::Never,
    }
}

/// Ambient capabilities are inheritable ones, which costs one call to ask for; the others have to be asked for one by one.
fn has_ambient() -> bool {
    let has = |set| caps::read(None, set).is_ok_and(|held| !held.is_empty());
    has(CapSet::Inheritable) && has(CapSet::Ambient)
}

fn reduce_to(needed: &[Capability]) -> Result<(), caps::errors::CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = needed.iter().copied().filter(|capability| held.contains(capability)).collect();
    // Effective first: it may never hold more than permitted does.
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use nix::errno::Errno;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::{Gid, Pid, chown};

    use super::*;
    use crate::supervise::attach::tests::TempDir;

    /// Capabilities belong to a thread, so `check` gets one of its own. Skipped where there is nothing to drop.
    fn as_privileged_root(check: impl FnOnce() + Send + 'static) {
        let root = regain() == Regain::OnExec
            && NEEDED.iter().all(|one| has(*one))
            && has(Capability::CAP_SYS_ADMIN);
        if !root {
            eprintln!("skipped: needs root with capabilities");
            return;
        }
        std::thread::spawn(check).join().unwrap();
    }

    fn has(capability: Capability) -> bool {
        caps::has_cap(None, CapSet::Effective, capability).unwrap()
    }

    fn status_line(name: &str) -> String {
        let out = Command::new("grep").args([name, "/proc/self/status"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn nothing_is_dropped_that_would_not_come_back() {
        let (root, user) = (Uid::from_raw(0), Uid::from_raw(1000));
        let cases = [
            (root, root, false, RootPrivilege::Given, Regain::OnExec),
            (root, root, true, RootPrivilege::Given, Regain::Never),
            (root, root, false, RootPrivilege::Withheld, Regain::Never),
            (user, user, false, RootPrivilege::Given, Regain::Never),
            (user, root, false, RootPrivilege::Given, Regain::Never),
            (root, user, false, RootPrivilege::Given, Regain::Never),
        ];
        for (real, effective, no_new_privs, privilege, wanted) in cases {
            assert_eq!(
                regain_of(real, effective, no_new_privs, privilege),
                wanted,
                "{real} {effective} {privilege:?}"
            );
        }
    }

    #[test]
    fn only_what_is_needed_stays_and_a_program_run_gets_all_back() {
        as_privileged_root(|| {
            let before = status_line("CapEff");
            drop_unneeded();
            for set in [CapSet::Effective, CapSet::Permitted] {
                assert_eq!(caps::read(None, set).unwrap(), NEEDED.into_iter().collect::<CapsHashSet>());
            }
            assert!(caps::raise(None, CapSet::Permitted, Capability::CAP_SYS_ADMIN).is_err());
            assert_eq!(status_line("CapEff"), before);
            drop_unneeded();
            assert_eq!(caps::read(None, CapSet::Permitted).unwrap().len(), NEEDED.len());
        });
    }

    #[test]
    fn nothing_is_dropped_where_some_are_ambient() {
        as_privileged_root(|| {
            caps::raise(None, CapSet::Inheritable, Capability::CAP_NET_RAW).unwrap();
            caps::raise(None, CapSet::Ambient, Capability::CAP_NET_RAW).unwrap();
            let before = caps::read(None, CapSet::Permitted).unwrap();
            drop_unneeded();
            assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), before);
            assert_eq!(caps::read(None, CapSet::Ambient).unwrap(), [Capability::CAP_NET_RAW].into());
        });
    }

    /// A process of another uid that is gone with the value.
    struct Stranger(Child);

    impl Stranger {
        fn spawn() -> Self {
            let mut command = Command::new("cat");
            Self(command.uid(65534).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
        }

        fn kill(&self) -> nix::Result<()> {
            kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL)
        }
    }

    impl Drop for Stranger {
        fn drop(&mut self) {
            // The end of its input ends it if nothing else did.
            drop(self.0.stdin.take());
            let _ = self.0.wait();
        }
    }

    #[test]
    fn the_kill_of_another_uid_needs_cap_kill() {
        as_privileged_root(|| {
            let (first, second) = (Stranger::spawn(), Stranger::spawn());
            reduce_to(&NEEDED).unwrap();
            assert_eq!(first.kill(), Ok(()));
            reduce_to(&[Capability::CAP_DAC_OVERRIDE]).unwrap();
            assert_eq!(second.kill(), Err(Errno::EPERM));
        });
    }

    #[test]
    fn files_in_another_users_directory_need_cap_dac_override() {
        as_privileged_root(|| {
            let scratch = TempDir::new();
            let directory = scratch.0.join("others");
            fs::create_dir(&directory).unwrap();
            chown(&directory, Some(Uid::from_raw(65534)), Some(Gid::from_raw(65534))).unwrap();
            let replace = || {
                fs::write(directory.join("new"), "0")?;
                fs::rename(directory.join("new"), directory.join("exit"))
            };
            reduce_to(&NEEDED).unwrap();
            let with = replace();
            let _ = fs::remove_file(directory.join("exit"));
            reduce_to(&[Capability::CAP_KILL]).unwrap();
            let without = replace();
            assert!(with.is_ok(), "{with:?}");
            assert_eq!(without.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        });
    }
}
