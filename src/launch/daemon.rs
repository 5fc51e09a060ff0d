//! From a child of the driver to a daemon of its own.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Context, Result};
use crate::report::publish;
use crate::sys::process::{Side, fork};

/// Forks; the parent tells the driver the monitor's pid by file and is done. It does not wait for the runtime.
///
/// The monitor goes on even where the pidfile can't be written; then the parent's status tells (conmon.c:main).
///
/// # Errors
/// As fork(2); in the parent also a pidfile that can't be written.
pub(super) fn daemonise(pidfile: Option<&Path>) -> Result<Side> {
    let side = fork().context(|| "Failed to fork the create command".into())?;
    if let Side::Parent { child } = &side {
        write_pidfile(pidfile, child.as_raw())?;
    }
    Ok(side)
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
