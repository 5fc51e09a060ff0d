//! Memory for work that leaves nothing behind: what is allocated while it is open lies in one mapping, and the mapping
//! goes when the last of it is freed.
//!
//! Reading the command line takes many small allocations. On the ordinary heap their free blocks would pin a dozen pages
//! for the whole life of an idle monitor.

use std::alloc::Layout;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Address space, of which only touched pages cost memory; a request that does not fit goes to the ordinary heap.
const SIZE: usize = 1 << 20;

/// What a usual command line takes: its pages come at once, which costs half of what they cost one by one.
const EXPECTED: usize = 104 * 1024;

/// Used by one thread while it is open.
#[derive(Debug)]
pub(super) struct Scratch {
    open: AtomicBool,
    /// Where the mapping starts; 0 when there is none.
    base: AtomicUsize,
    /// Bytes handed out from the start of the mapping; only the last block is ever grown, shrunk or taken back.
    used: AtomicUsize,
    /// Allocations in the mapping that are not freed yet.
    live: AtomicUsize,
}

impl Scratch {
    pub(super) const fn new() -> Self {
        Self {
            open: AtomicBool::new(false),
            base: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
        }
    }

    /// Does nothing when there is no memory.
    pub(super) fn open(&self) {
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

    /// No block is handed out any more. What lies in the mapping stays valid.
    pub(super) fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// Gives the mapping back if nothing in it is in use, and says whether it did.
    pub(super) fn release(&self) -> bool {
        let base = self.base.load(Ordering::Acquire);
        if base == 0 || self.open.load(Ordering::Acquire) || self.live.load(Ordering::Acquire) != 0 {
            return false;
        }
        self.base.store(0, Ordering::Release);
        // SAFETY: `open` made the mapping with this size, every allocation in it has been freed (`live` is 0), and
        // with `open` false no more are made.
        unsafe { libc::munmap(base as *mut libc::c_void, SIZE) == 0 }
    }

    pub(super) fn holds(&self, at: *mut u8) -> bool {
        let base = self.base.load(Ordering::Acquire);
        base != 0 && (base..base + SIZE).contains(&(at as usize))
    }

    /// A block for `layout`: aligned, inside of the mapping and nobody else's, until it is freed. `None` when it is not
    /// open or has no room.
    pub(super) fn take(&self, layout: Layout) -> Option<*mut u8> {
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

    /// Takes back the block of `size` bytes at `at`, which it [`Self::holds`].
    pub(super) fn give_back(&self, at: *mut u8, size: usize) {
        self.live.fetch_sub(1, Ordering::AcqRel);
        if self.is_last(at, size) {
            self.move_end(at, 0);
        }
    }

    /// Whether the block could get another size where it is. A growing vector is mostly the last block: moving its end
    /// saves the copy, and the pages of the old block.
    pub(super) fn resize(&self, at: *mut u8, old: usize, new: usize) -> bool {
        self.is_last(at, old) && self.move_end(at, new)
    }

    /// Whether the block of `size` bytes at `at` is the last one handed out, so that its end can be moved.
    fn is_last(&self, at: *mut u8, size: usize) -> bool {
        let end = self.base.load(Ordering::Acquire) + self.used.load(Ordering::Acquire);
        self.open.load(Ordering::Acquire) && at as usize + size == end
    }

    /// Moves the end of the last block, which lies at `at`; says whether there was room.
    fn move_end(&self, at: *mut u8, size: usize) -> bool {
        let start = at as usize - self.base.load(Ordering::Acquire);
        let fits = size <= SIZE - start;
        if fits {
            self.used.store(start + size, Ordering::Release);
        }
        fits
    }
}
