//! A heap for work that leaves nothing behind: what is allocated while it is open lies in one mapping, and the
//! mapping goes when the last of it is freed.
//!
//! Reading the command line takes many small allocations. On the ordinary heap their free chunks would pin a dozen
//! pages (malloc_trim can't return a page that holds a cached chunk) for the whole life of an idle monitor.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Address space, of which only touched pages cost memory; a request that does not fit goes to the ordinary heap.
const SIZE: usize = 1 << 20;

/// The program's allocator, which needs a static by its nature.
#[global_allocator]
pub static HEAP: Heap = Heap::new();

/// An allocator over the system's. Until [`Heap::open`] is called it is the system's.
#[derive(Debug)]
pub struct Heap {
    open: AtomicBool,
    /// Where the mapping starts; 0 when there is none.
    base: AtomicUsize,
    /// Bytes handed out from the start of the mapping, never reused.
    used: AtomicUsize,
    /// Allocations in the mapping that are not freed yet.
    live: AtomicUsize,
}

impl Heap {
    const fn new() -> Self {
        Self {
            open: AtomicBool::new(false),
            base: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
        }
    }

    /// Allocations made from here to [`Heap::close`] go into the mapping. Does nothing when there is no memory.
    pub fn open(&self) {
        if self.base.load(Ordering::Acquire) != 0 {
            return;
        }
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base != libc::MAP_FAILED {
            self.used.store(0, Ordering::Relaxed);
            self.base.store(base as usize, Ordering::Release);
            self.open.store(true, Ordering::Release);
        }
    }

    /// Allocations go to the ordinary heap again. What lies in the mapping stays valid.
    pub fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// Gives the mapping back if nothing in it is in use, and says whether it did.
    pub fn release(&self) -> bool {
        let base = self.base.load(Ordering::Acquire);
        if base == 0 || self.open.load(Ordering::Acquire) || self.live.load(Ordering::Acquire) != 0 {
            return false;
        }
        self.base.store(0, Ordering::Release);
        // SAFETY: `open` made the mapping with this size, every allocation in it has been freed (`live` is 0), and
        // with `open` false no more are made.
        unsafe { libc::munmap(base as *mut libc::c_void, SIZE) == 0 }
    }

    fn holds(&self, at: *mut u8) -> bool {
        let base = self.base.load(Ordering::Acquire);
        base != 0 && (base..base + SIZE).contains(&(at as usize))
    }

    fn take(&self, layout: Layout) -> Option<*mut u8> {
        if !self.open.load(Ordering::Acquire) {
            return None;
        }
        let base = self.base.load(Ordering::Acquire);
        let mut at = 0;
        let fits = |used: usize| {
            at = (base + used).next_multiple_of(layout.align()) - base;
            at.checked_add(layout.size()).filter(|end| *end <= SIZE)
        };
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        self.live.fetch_add(1, Ordering::AcqRel);
        Some((base + at) as *mut u8)
    }
}

// SAFETY: a block from the mapping is aligned, inside it and handed out once, since `used` only grows; it stays
// mapped until `live` says that all blocks are freed. Every other block is the system allocator's, start to end.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises about `layout` are passed on.
        self.take(layout).unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if self.holds(at) {
            self.live.fetch_sub(1, Ordering::AcqRel);
        } else {
            // SAFETY: a block outside the mapping came from the system allocator with this layout.
            unsafe { System.dealloc(at, layout) }
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.holds(at) {
            // SAFETY: as in `dealloc`; the caller's promises about `size` are passed on.
            return unsafe { System.realloc(at, layout, size) };
        }
        // SAFETY: the caller promises that `size`, rounded up to the alignment, does not overflow; the two blocks are
        // distinct and both hold the bytes copied; the old one is freed once, with its layout.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(at, new, layout.size().min(size));
                self.dealloc(at, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_goes_with_its_last_block() {
        let heap = Heap::new();
        let layout = Layout::from_size_align(24, 64).unwrap();
        // SAFETY: blocks are written within their size and freed once with the layout they have.
        unsafe {
            let outside = heap.alloc(layout);
            heap.open();
            let first = heap.alloc(layout);
            let second = heap.alloc(layout);
            assert!(!heap.holds(outside) && heap.holds(first) && heap.holds(second));
            assert_eq!((first as usize % 64, second as usize % 64), (0, 0));
            first.write_bytes(7, 24);
            heap.close();
            let grown = heap.realloc(first, layout, 100);
            assert!(!heap.holds(grown));
            assert_eq!(std::slice::from_raw_parts(grown, 24), [7; 24]);
            heap.dealloc(grown, Layout::from_size_align(100, 64).unwrap());
            assert!(!heap.release(), "a block is in use");
            heap.dealloc(second, layout);
            assert!(heap.release());
            assert!(!heap.release(), "it has gone already");
            heap.dealloc(outside, layout);
        }
    }

    #[test]
    fn what_does_not_fit_comes_from_the_ordinary_heap() {
        let heap = Heap::new();
        let layout = Layout::from_size_align(SIZE + 1, 8).unwrap();
        heap.open();
        // SAFETY: the block is freed once with its layout.
        unsafe {
            let block = heap.alloc(layout);
            assert!(!heap.holds(block));
            heap.dealloc(block, layout);
        }
        heap.close();
        assert!(heap.release());
    }
}
