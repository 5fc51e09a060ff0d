//! The program's own heap: a piece of its zeroed data, so that no allocation needs the kernel, and so none can fail, as
//! long as it is not used up.
//!
//! Blocks have sizes of powers of two, and one that is freed serves the next request of its size. A monitor asks for
//! little and for the same again and again: nothing has to be joined or split. The C library's heap would do as well, but
//! musl's asks for memory now and then, and a monitor must not die of an answer.

use std::alloc::Layout;
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// What glibc's heap begins with. Only touched pages cost memory.
const SIZE: usize = 128 * 1024;
const SMALLEST: usize = 16;
/// Sizes of blocks: up to 64 KiB. Whoever asks for more asks the system's allocator.
const CLASSES: usize = 13;
const PAGE: usize = 4096;

#[repr(C, align(16))]
#[derive(Debug)]
pub(super) struct Arena {
    memory: UnsafeCell<[u8; SIZE]>,
    state: UnsafeCell<State>,
    /// Held while the state is used.
    locked: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// Bytes handed out from the start.
    used: usize,
    /// By class the free blocks, each of which begins with the address of the next one.
    free: [*mut u8; CLASSES],
}

// SAFETY: the state, and through it the free blocks, are used only by who holds the lock; other blocks belong to whoever
// asked for them.
unsafe impl Sync for Arena {}

impl Arena {
    pub(super) const fn new() -> Self {
        Self {
            memory: UnsafeCell::new([0; SIZE]),
            state: UnsafeCell::new(State { used: 0, free: [ptr::null_mut(); CLASSES] }),
            locked: AtomicBool::new(false),
        }
    }

    /// A block for `layout`, or `None` when it is too large or nothing is left.
    pub(super) fn take(&self, layout: Layout) -> Option<*mut u8> {
        let class = class(layout)?;
        self.with_state(|state| {
            let free = state.free.get_mut(class)?;
            if free.is_null() {
                return self.cut(&mut state.used, SMALLEST << class);
            }
            let block = *free;
            // SAFETY: a free block is ours, at least 16 bytes long and aligned to that, and begins with what `give_back`
            // has written there.
            *free = unsafe { block.cast::<*mut u8>().read() };
            Some(block)
        })
    }

    /// The next `size` bytes that nobody has had.
    fn cut(&self, used: &mut usize, size: usize) -> Option<*mut u8> {
        let end = used.checked_add(size).filter(|end| *end <= SIZE)?;
        let start = std::mem::replace(used, end);
        // SAFETY: inside of `memory`, as `end` is.
        Some(unsafe { self.start().add(start) })
    }

    /// Takes back a block.
    ///
    /// # Safety
    /// `block` came from [`Self::take`] with `layout` and is not used any more.
    pub(super) unsafe fn give_back(&self, block: *mut u8, layout: Layout) {
        self.with_state(|state| {
            if let Some(free) = class(layout).and_then(|class| state.free.get_mut(class)) {
                // SAFETY: the caller gives us the block, which is at least 16 bytes long and aligned to that.
                unsafe { block.cast::<*mut u8>().write(*free) };
                *free = block;
            }
        });
    }

    /// Whether a block for `old` serves for `size` bytes as well.
    pub(super) fn fits(old: Layout, size: usize) -> bool {
        let new = Layout::from_size_align(size, old.align()).ok();
        class(old).is_some() && class(old) == new.and_then(class)
    }

    pub(super) fn holds(&self, block: *mut u8) -> bool {
        (self.start().addr()..self.start().addr() + SIZE).contains(&block.addr())
    }

    /// Gives the kernel back the pages that lie in free blocks.
    pub(super) fn trim(&self) {
        self.with_state(|state| {
            for (class, first) in state.free.iter().enumerate() {
                let mut block = *first;
                while !block.is_null() && SMALLEST << class > PAGE {
                    discard(block.addr() + size_of::<*mut u8>(), block.addr() + (SMALLEST << class));
                    // SAFETY: as in `take`; `discard` has spared the block's beginning.
                    block = unsafe { block.cast::<*mut u8>().read() };
                }
            }
        });
    }

    fn start(&self) -> *mut u8 {
        self.memory.get().cast()
    }

    fn with_state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // The program has one thread; its tests have more.
        while self.locked.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        // SAFETY: the lock is held, and nobody keeps the reference.
        let result = work(unsafe { &mut *self.state.get() });
        self.locked.store(false, Ordering::Release);
        result
    }
}

/// Which size of block `layout` needs.
fn class(layout: Layout) -> Option<usize> {
    let size = layout.size().max(SMALLEST).checked_next_power_of_two()?;
    let class = (size / SMALLEST).trailing_zeros() as usize;
    (class < CLASSES && layout.align() <= SMALLEST).then_some(class)
}

/// Whole pages between two addresses inside of a free block.
fn discard(from: usize, to: usize) {
    let (from, to) = (from.next_multiple_of(PAGE), to & !(PAGE - 1));
    if from < to {
        // SAFETY: nobody uses these bytes, and as zeros, which they are from now on, they are as good as before.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    fn a_freed_block_serves_the_next_request_of_its_size() {
        let arena = Arena::new();
        let (small, large) = (arena.take(layout(17)).unwrap(), arena.take(layout(5000)).unwrap());
        assert!(arena.holds(small) && arena.holds(large) && small.addr() % 16 == 0);
        // SAFETY: blocks are written within their size and freed once with the layout they have.
        unsafe {
            small.write_bytes(7, 32);
            large.write_bytes(9, 8192);
            arena.give_back(small, layout(17));
            arena.give_back(large, layout(5000));
        }
        arena.trim();
        assert_eq!(arena.take(layout(8192)), Some(large));
        assert_eq!(arena.take(layout(32)), Some(small));
        assert_ne!(arena.take(layout(32)), Some(small));
    }

    #[test]
    fn what_is_too_large_or_too_much_is_refused() {
        let arena = Arena::new();
        assert!(arena.take(layout(65_537)).is_none());
        assert!(arena.take(Layout::from_size_align(8, 32).unwrap()).is_none());
        let blocks: Vec<_> = std::iter::from_fn(|| arena.take(layout(65_536))).collect();
        assert_eq!(blocks.len(), 2);
        assert!(arena.take(layout(1)).is_none());
        // SAFETY: freed once with its layout.
        unsafe { arena.give_back(blocks[0], layout(65_536)) };
        assert_eq!(arena.take(layout(65_536)), Some(blocks[0]));
    }

    #[test]
    fn a_block_fits_what_needs_the_same_size() {
        assert!(Arena::fits(layout(17), 32) && Arena::fits(layout(1), 16));
        assert!(!Arena::fits(layout(16), 17) && !Arena::fits(layout(17), 16));
        assert!(!Arena::fits(layout(70_000), 70_001), "such a block is not ours");
    }
}
