//! Looking for a byte.
//!
//! With the vector instructions that every processor of the architecture has. To ask the processor for better ones
//! costs more than they bring: in a virtual machine each such question (CPUID) traps to the host.

#[cfg(target_arch = "aarch64")]
use memchr::arch::aarch64::neon::memchr::One;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use memchr::arch::all::memchr::One;
#[cfg(target_arch = "x86_64")]
use memchr::arch::x86_64::sse2::memchr::One;

/// Where `byte` first is in `bytes`.
pub fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    one(byte)?.find(bytes)
}

/// Where `byte` last is in `bytes`.
pub fn find_last(byte: u8, bytes: &[u8]) -> Option<usize> {
    one(byte)?.rfind(bytes)
}

/// How often `byte` is in `bytes`.
pub fn count(byte: u8, bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b == byte).count()
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn one(byte: u8) -> Option<One> {
    // None only where the instructions may be absent, which they never are here.
    One::new(byte)
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
