//! The program's allocator: the parser's memory while that is open ([`scratch`](super::scratch)), otherwise the
//! program's own heap ([`arena`](super::arena)), and the system's allocator for what does not fit there.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

use super::arena::Arena;
use super::scratch::Scratch;

/// An allocator is a static by its nature.
#[global_allocator]
pub static HEAP: Heap = Heap::new();

#[derive(Debug)]
pub struct Heap {
    scratch: Scratch,
    arena: Arena,
}

impl Heap {
    const fn new() -> Self {
        Self { scratch: Scratch::new(), arena: Arena::new() }
    }

    /// Allocations made from here to [`Heap::close`] go when the last of them is freed, and leave nothing behind.
    pub fn open(&self) {
        self.scratch.open();
    }

    /// Allocations go to the ordinary heap again. Those made before stay valid.
    pub fn close(&self) {
        self.scratch.close();
    }

    /// Gives back the memory of what was allocated while it was open, if all of it is freed, and says whether it did.
    pub fn release(&self) -> bool {
        self.scratch.release()
    }

    /// Gives back the pages that nothing is in.
    pub fn trim(&self) {
        self.arena.trim();
    }
}

// SAFETY: each of the three hands out blocks that are aligned, large enough and nobody else's until they are freed; the
// address of a block tells whose it is.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let own = self.scratch.take(layout).or_else(|| self.arena.take(layout));
        // SAFETY: the caller's promises about `layout` are passed on.
        own.unwrap_or_else(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if self.scratch.holds(at) {
            self.scratch.give_back(at, layout.size());
        } else if self.arena.holds(at) {
            // SAFETY: the caller's promises about the block are passed on.
            unsafe { self.arena.give_back(at, layout) }
        } else {
            // SAFETY: a block from elsewhere came from the system's allocator with this layout.
            unsafe { System.dealloc(at, layout) }
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let in_place = if self.scratch.holds(at) {
            self.scratch.resize(at, layout.size(), size)
        } else if self.arena.holds(at) {
            Arena::fits(layout, size)
        } else {
            // SAFETY: as in `dealloc`; the caller's promises about `size` are passed on.
            return unsafe { System.realloc(at, layout, size) };
        };
        if in_place {
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

    /// More than the scratch memory has.
    const LARGE: usize = 1 << 20;

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
            assert!(!heap.scratch.holds(outside) && heap.scratch.holds(first) && heap.scratch.holds(second));
            assert_eq!((first as usize % 64, second as usize % 64), (0, 0));
            first.write_bytes(7, 24);
            heap.close();
            let grown = heap.realloc(first, layout, 100);
            assert!(!heap.scratch.holds(grown));
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
            let too_large = heap.realloc(last, grown, LARGE);
            assert!(!heap.scratch.holds(too_large), "it does not fit behind the first one");
            heap.dealloc(too_large, Layout::from_size_align(LARGE, 8).unwrap());
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
        let layout = Layout::from_size_align(LARGE + 1, 8).unwrap();
        heap.open();
        // SAFETY: the block is freed once with its layout.
        unsafe {
            let block = heap.alloc(layout);
            assert!(!heap.scratch.holds(block));
            heap.dealloc(block, layout);
        }
        heap.close();
        assert!(heap.release());
    }
}
