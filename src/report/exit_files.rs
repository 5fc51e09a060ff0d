//! How the container ended, as files: `exit` in the container's own directory, then one named by its id where a
//! daemon watches all containers.
//!
//! In this order, because CRI-O reads the first when it sees the second appear. Each is tried whatever became of the
//! other. conmon: the end of `conmon.c:main`.

use std::path::Path;

use super::publish::{self, publish};
use crate::config::Config;
use crate::diag::error;
use crate::error::strerror;

/// Publishes `number`: decimal, no newline. Returns whether everything that was asked for is on disk.
pub fn write(config: &Config, number: i32) -> bool {
    let own = config.persist_dir.as_ref().map(|dir| dir.join("exit"));
    let shared = config.exit_dir.as_ref().map(|dir| publish::within(dir, &config.cid));
    let own = own.is_none_or(|path| write_one(&path, number, "container exit file"));
    let shared = shared.is_none_or(|path| write_one(&path, number, "exit file"));
    own && shared
}

fn write_one(path: &Path, number: i32, kind: &str) -> bool {
    let written = publish(path, number.to_string().as_bytes());
    if let Err(e) = &written {
        error!("Failed to write {number} to {kind}: {}: {}", path.display(), strerror(e));
    }
    written.is_ok()
}
