//! The kernel's out-of-memory killer must not take the monitor, and must be free to take what it starts.

use std::io::Read;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::diag::debug;
use crate::error::strerror;

const FILE: &std::ffi::CStr = c"/proc/self/oom_score_adj";
const NEVER_KILLED: &[u8] = b"-1000";

/// The `oom_score_adj` that the driver gave us, for the children.
#[derive(Clone, Copy, Debug)]
pub struct OomScore {
    /// The file's text; empty when there is nothing to give back.
    saved: [u8; 16],
    len: usize,
}

impl OomScore {
    /// Remembers the present score, then asks for the lowest. Without CAP_SYS_RESOURCE that is refused, and fine.
    pub fn lower() -> Self {
        let mut saved = [0; 16];
        let path = std::path::Path::new("/proc/self/oom_score_adj");
        let len = std::fs::File::open(path).and_then(|mut file| file.read(&mut saved)).unwrap_or(0);
        if let Err(e) = write(NEVER_KILLED) {
            debug!("failed to write to /proc/self/oom_score_adj: {}", strerror(&e));
            return Self { saved, len: 0 };
        }
        Self { saved, len }
    }

    /// Gives the calling process the driver's score back; async-signal-safe, for a forked child about to exec.
    pub fn restore(&self) {
        if let Some(text) = self.saved.get(..self.len).filter(|text| !text.is_empty()) {
            let _ = write(text);
        }
    }
}

fn write(text: &[u8]) -> std::io::Result<()> {
    let file = nix::fcntl::open(FILE, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::write(&file, text)?;
    Ok(())
}
