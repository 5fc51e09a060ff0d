//! Looking for a byte, with the C library's own routines.
//!
//! The C library has chosen the best ones for this processor before `main` runs. A crate would ask the processor again,
//! and in a virtual machine each such question (CPUID) traps to the host: more than the rest of a start-up's parsing.

use std::ffi::c_void;

/// Where `byte` first is in `bytes`.
pub fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: memchr reads at most `len` bytes of a live slice.
    let at = unsafe { libc::memchr(bytes.as_ptr().cast(), byte.into(), bytes.len()) };
    offset(at, bytes)
}

/// Where `byte` last is in `bytes`.
pub fn find_last(byte: u8, bytes: &[u8]) -> Option<usize> {
    // SAFETY: memrchr reads at most `len` bytes of a live slice.
    let at = unsafe { libc::memrchr(bytes.as_ptr().cast(), byte.into(), bytes.len()) };
    offset(at, bytes)
}

/// How often `byte` is in `bytes`.
pub fn count(byte: u8, bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b == byte).count()
}

/// `at` is null or points into `bytes`.
fn offset(at: *mut c_void, bytes: &[u8]) -> Option<usize> {
    (!at.is_null()).then(|| at.addr() - bytes.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_the_last_and_how_many() {
        type Row = (&'static [u8], Option<usize>, Option<usize>, usize);
        let table: &[Row] = &[
            (b"", None, None, 0),
            (b"abc", None, None, 0),
            (b"\n", Some(0), Some(0), 1),
            (b"a\nb\n\xff", Some(1), Some(3), 2),
            (b"\n\n\n", Some(0), Some(2), 3),
        ];
        for &(bytes, first, last, times) in table {
            assert_eq!((find(b'\n', bytes), find_last(b'\n', bytes)), (first, last), "{bytes:?}");
            assert_eq!(count(b'\n', bytes), times, "{bytes:?}");
        }
    }

    #[test]
    fn nothing_is_found_beyond_the_slice() {
        let bytes = b"\nabc\n";
        assert_eq!((find(b'\n', &bytes[1..4]), find_last(b'\n', &bytes[1..4])), (None, None));
    }
}
