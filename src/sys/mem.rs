//! Anonymous memory that costs nothing until it is used, and can be given back without being unmapped.
//!
//! A monitor is idle for most of its life. Its buffers are mapped once, get their pages when a stream is busy, and
//! lose them again through [`Mapping::discard`] when it falls quiet; the heap would keep them.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::heap::HEAP;
use nix::sys::mman::{self, MapFlags, MmapAdvise, ProtFlags};

/// Private memory of a fixed size, zero wherever it was not written.
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps at least `len` bytes; no page is touched.
    ///
    /// # Errors
    /// As mmap(2): the address space or the number of mappings is used up.
    pub fn new(len: usize) -> io::Result<Self> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new private mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe {
            mman::mmap_anonymous(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?;
        Ok(Self { start: start.cast(), len })
    }

    /// Gives the pages back: the contents are zero afterwards.
    pub fn discard(&mut self) {
        // SAFETY: the range is exactly our mapping, and `&mut self` rules out that anybody looks at it. Anonymous
        // private pages read as zero after MADV_DONTNEED, which is a valid value of every u8.
        let _ = unsafe { mman::madvise(self.start.cast(), self.len, MmapAdvise::MADV_DONTNEED) };
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: start and len are a live, readable mapping that only `self` owns; anonymous memory is initialised.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, still mapped, and no borrow outlives `self`.
        let _ = unsafe { mman::munmap(self.start.cast(), self.len) };
    }
}

/// Gives back what only start-up, or a busy time that is over, has needed: the stack below the caller, the heap's
/// free pages, and our claim on the program's text, which the kernel maps again where it is run.
///
/// The caller's own frames and everything above them stay as they are.
pub fn forget_the_past() {
    HEAP.trim();
    // musl gives back at once what was too large for the program's own heap.
    // SAFETY: malloc_trim only returns free memory of the allocator.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    discard_stack_below();
    discard_text();
}

/// More than start-up ever uses, less than the gap that the kernel keeps free below a stack.
const STACK_REACH: usize = 256 * 1024;

#[inline(never)]
fn discard_stack_below() {
    let marker = 0_u8;
    // Two pages further down, so that neither this frame nor madvise's own is touched.
    let end = ((&raw const marker).addr() & !(PAGE - 1)) - 2 * PAGE;
    // SAFETY: nothing below the current frames is in use, and the stack's gap rules out another mapping there. A part
    // of the range that is not mapped makes madvise fail after it has done the rest.
    unsafe { libc::madvise((end - STACK_REACH) as *mut libc::c_void, STACK_REACH, libc::MADV_DONTNEED) };
}

/// Read-only data and code: pages of the program's file, the same wherever they are mapped again.
fn discard_text() {
    let mut segments = Segments { ranges: [(0, 0); 8], count: 0 };
    // SAFETY: `Segments::collect` is what dl_iterate_phdr(3) wants, does not unwind, and gets the `segments` it expects.
    unsafe { libc::dl_iterate_phdr(Some(Segments::collect), (&raw mut segments).cast()) };
    // Not in the callback: what the C library runs after it would be mapped again.
    for &(start, len) in segments.ranges.iter().take(segments.count) {
        // SAFETY: the range is file-backed and never written, so its pages come back from the file with the same
        // contents.
        unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED) };
    }
}

/// The segments of the program that are never written: start, which is a page's, and length.
struct Segments {
    ranges: [(usize, usize); 8],
    count: usize,
}

impl Segments {
    extern "C" fn collect(info: *mut libc::dl_phdr_info, _: usize, into: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the C library passes a right description of the program, its table of segments included, and the
        // pointer that `discard_text` has given it.
        let (into, base, table) = unsafe {
            let info = &*info;
            let table = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
            (&mut *into.cast::<Self>(), info.dlpi_addr, table)
        };
        let unwritten =
            table.iter().filter(|part| part.p_type == libc::PT_LOAD && part.p_flags & libc::PF_W == 0);
        for (range, part) in into.ranges.iter_mut().zip(unwritten) {
            let start = (base + part.p_vaddr) as usize;
            let end = start + part.p_memsz as usize;
            *range = (start & !(PAGE - 1), end - (start & !(PAGE - 1)));
            into.count += 1;
        }
        // The program comes first; a build with libraries leaves them alone.
        1
    }
}

const PAGE: usize = 4096;

// SAFETY: the memory is plain bytes that this value owns alone, wherever it is used from.
unsafe impl Send for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_gone_after_discard() {
        let mut map = Mapping::new(100_000).unwrap();
        assert!(map.iter().all(|&b| b == 0));
        map.fill(7);
        assert_eq!(map[99_999], 7);
        map.discard();
        assert!(map.iter().all(|&b| b == 0));
    }

    #[test]
    fn an_empty_mapping_is_refused() {
        assert!(Mapping::new(0).is_err());
    }
}
