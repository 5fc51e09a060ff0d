//! Whether uid 0 still means something to execve(2) in this process.

use std::io;

/// `SECBIT_NOROOT` of linux/securebits.h, which libc does not have.
const NOROOT: libc::c_int = 1;

/// Whether the kernel gives a program that is run as uid 0 all capabilities of the bounding set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootPrivilege {
    Given,
    /// `SECBIT_NOROOT`: uid 0 is a uid like any other.
    Withheld,
}

/// Reads the calling thread's securebits.
///
/// # Errors
/// As prctl(2), which has none to give on a kernel with capabilities.
pub fn root_privilege() -> io::Result<RootPrivilege> {
    // SAFETY: PR_GET_SECUREBITS takes no further arguments and touches no memory of ours.
    let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
    match bits {
        -1 => Err(io::Error::last_os_error()),
        bits if bits & NOROOT == 0 => Ok(RootPrivilege::Given),
        _ => Ok(RootPrivilege::Withheld),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_privileged_unless_somebody_said_otherwise() {
        std::thread::spawn(|| {
            assert_eq!(root_privilege().unwrap(), RootPrivilege::Given);
            // SAFETY: sets a flag of this thread alone, which ends here; needs CAP_SETPCAP.
            if unsafe { libc::prctl(libc::PR_SET_SECUREBITS, NOROOT) } == 0 {
                assert_eq!(root_privilege().unwrap(), RootPrivilege::Withheld);
            }
        })
        .join()
        .unwrap();
    }
}
