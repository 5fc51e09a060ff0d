//! From a child of the driver to a daemon of its own.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Context, Result};
use crate::report::publish;
use crate::sys::process::{Side, fork};

/// Leaves the monitor behind as a process of its own. The parent side has nothing more to wait for, not even the
/// runtime.
///
/// # Errors
/// As fork(2).
pub(super) fn daemonise() -> Result<Side> {
    fork().context(|| "Failed to fork the create command".into())
}

/// Tells the driver the pid of the monitor.
///
/// # Errors
/// The file can't be created or renamed into place.
pub(super) fn write_pidfile(pidfile: Option<&Path>, pid: i32) -> Result<()> {
    let Some(path) = pidfile else { return Ok(()) };
    publish::publish(path, pid.to_string().as_bytes()).context(|| {
        format!("Failed to write conmon pidfile: {}", String::from_utf8_lossy(path.as_os_str().as_bytes()))
    })
}

/// Leaves the driver's session, and asks for every orphan of the container to become our child.
///
/// # Errors
/// The kernel has no subreapers.
pub(super) fn lead_own_session() -> Result<()> {
    // Fails only for a process group leader, which podman makes of a `--sync` monitor; conmon does not look either.
    let _ = nix::unistd::setsid();
    nix::sys::prctl::set_child_subreaper(true).context(|| "Failed to set as subreaper".into())
}
