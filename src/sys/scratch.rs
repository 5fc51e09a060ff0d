//! A heap for work that leaves nothing behind: what is allocated while it is open lies in one mapping, and the
//! mapping goes when the last of it is freed.
//!
//! Reading the command line takes many small allocations. On the ordinary heap their free chunks would pin a dozen
//! pages (malloc_trim can't return a page that holds a cached chunk) for the whole life of an idle monitor.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::arena::Arena;

/// Address space, of which only touched pages cost memory; a request that does not fit goes to the ordinary heap.
const SIZE: usize = 1 << 20;

/// What a usual command line takes: its pages come at once, which costs half of what they cost one by one.
const EXPECTED: usize = 80 * 1024;

/// The program's allocator, which needs a static by its nature.
#[global_allocator]
pub static HEAP: Heap = Heap::new();

/// An allocator over the program's own heap, and the system's for what does not fit there.
#[derive(Debug)]
pub struct Heap {
    arena: Arena,
    open: AtomicBool,
    /// Where the mapping starts; 0 when there is none.
    base: AtomicUsize,
    /// Bytes handed out from the start of the mapping; only the last block is ever grown, shrunk or taken back.
    used: AtomicUsize,
    /// Allocations in the mapping that are not freed yet.
    live: AtomicUsize,
}

impl Heap {
    const fn new() -> Self {
        Self {
            arena: Arena::new(),
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
            // SAFETY: the start of the new mapping; a kernel before 5.14 refuses, and its pages come one by one.
            unsafe { libc::madvise(base, EXPECTED, libc::MADV_POPULATE_WRITE) };
            self.used.store(0, Ordering::Relaxed);
            self.base.store(base as usize, Ordering::Release);
            self.open.store(true, Ordering::Release);
        }
    }

    /// Allocations go to the ordinary heap again. What lies in the mapping stays valid.
    pub fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// Gives back the pages that nothing is in, apart from the mapping's.
    pub fn trim(&self) {
        self.arena.trim();
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

    /// Whether the block of `size` bytes at `at` is the last one handed out, so that its end can be moved.
    fn is_last(&self, at: *mut u8, size: usize) -> bool {
        let end = self.base.load(Ordering::Acquire) + self.used.load(Ordering::Acquire);
        self.open.load(Ordering::Acquire) && at as usize + size == end
    }

    /// Moves the end of the last block, which lies at `at`; says whether there was room.
    fn resize_last(&self, at: *mut u8, size: usize) -> bool {
        let start = at as usize - self.base.load(Ordering::Acquire);
        let fits = size <= SIZE - start;
        if fits {
            self.used.store(start + size, Ordering::Release);
        }
        fits
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

// SAFETY: a block from the mapping is aligned, inside it and nobody else's: `used` is past its end until it is freed, as
// only the last block's end moves. It stays mapped until `live` says that all blocks are freed. The program has one
// thread while the heap is open. Every other block is the arena's or the system allocator's, start to end; its address
// tells whose.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let own = self.take(layout).or_else(|| self.arena.take(layout));
        // SAFETY: the caller's promises about `layout` are passed on.
        own.unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if self.holds(at) {
            self.live.fetch_sub(1, Ordering::AcqRel);
            if self.is_last(at, layout.size()) {
                self.resize_last(at, 0);
            }
        } else if self.arena.holds(at) {
            // SAFETY: the caller's promises about the block are passed on.
            unsafe { self.arena.give_back(at, layout) }
        } else {
            // SAFETY: a block from elsewhere came from the system's allocator with this layout.
            unsafe { System.dealloc(at, layout) }
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if self.holds(at) {
            // A growing vector is mostly the last block: moving its end saves the copy and the pages of the old block.
            if self.is_last(at, layout.size()) && self.resize_last(at, size) {
                return at;
            }
        } else if !self.arena.holds(at) {
            // SAFETY: as in `dealloc`; the caller's promises about `size` are passed on.
            return unsafe { System.realloc(at, layout, size) };
        } else if Arena::fits(layout, size) {
            return at;
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
    fn the_last_block_grows_and_goes_in_place() {
        let heap = Heap::new();
        let layout = Layout::from_size_align(16, 8).unwrap();
        heap.open();
        // SAFETY: blocks are written within their size and freed once with the layout they have.
        unsafe {
            let first = heap.alloc(layout);
            let last = heap.alloc(layout);
            last.write_bytes(5, 16);
            assert_eq!(heap.realloc(last, layout, 4096), last);
            assert_eq!(std::slice::from_raw_parts(last, 16), [5; 16]);
            let grown = Layout::from_size_align(4096, 8).unwrap();
            let too_large = heap.realloc(last, grown, SIZE);
            assert!(!heap.holds(too_large), "it does not fit behind the first one");
            heap.dealloc(too_large, Layout::from_size_align(SIZE, 8).unwrap());
            let again = heap.alloc(layout);
            assert_ne!(again, first);
            heap.dealloc(again, layout);
            assert_eq!(heap.alloc(layout), again, "the last block's place is free again");
            let moved = heap.realloc(first, layout, 32);
            assert_ne!(moved, first, "a block in the middle can't grow where it is");
            heap.dealloc(moved, Layout::from_size_align(32, 8).unwrap());
            heap.dealloc(again, layout);
        }
        heap.close();
        assert!(heap.release());
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
