//! Global: a lane as a Rust program's `#[global_allocator]`.
//!
//! ```text
//! Layout { size, align } → size rounded up to a multiple of align → its bin, for alloc and dealloc alike
//! ```
//!
//! Rust passes the layout to `dealloc`, so the bin is known without the page tag. That requires every block to lie in
//! the bin of its *present* layout: `realloc` stays in place only if both layouts share a bin, or are both large.
//!
//! Rounding also aligns: slots are aligned to the largest power of two that divides their size. The smallest bin for a
//! multiple of `align`, up to a page, has a size divisible by `align`: below eight times `align` each multiple is a
//! bin, and above it the steps between bins are multiples.

use crate::allocator::Lane;
use crate::api::block;
use crate::api::limits::{self, Limit};
use crate::lane::Scale;
use crate::observe::counts::Stats;
use crate::observe::stats;
use crate::pages::bins::MAX_SMALL_BYTES;
use crate::platform::units::{MIN_ALIGN, PAGE_BYTES};
use crate::process::background;
use core::alloc::{GlobalAlloc, Layout};
use core::marker::PhantomData;

/// hz3 as a global allocator in lane `L`: [`Scale`] by default, [`Fast`](crate::Fast) or [`Hardened`](crate::Hardened).
///
/// A value has no state: all values of a lane are one allocator. A program may use several lanes, as long as each block
/// returns to its own.
///
/// ```
/// # use hz3_core as hz3;
/// use hz3::{Fast, Hz3};
///
/// #[global_allocator]
/// static GLOBAL: Hz3<Fast> = Hz3::new();
///
/// let tree: std::collections::BTreeMap<_, _> = (0..1000).map(|key| (key, key.to_string())).collect();
/// assert_eq!(tree[&7], "7");
/// drop(tree);
/// GLOBAL.trim();
/// ```
///
/// Returns null when memory has run out, and never panics or unwinds. Only the hardened lane checks for double frees
/// and wrong layouts, which the trait declares undefined.
pub struct Hz3<L: Lane = Scale>(PhantomData<fn() -> L>);

impl<L: Lane> Hz3<L> {
    /// The lane's allocator. Makes no system call.
    pub const fn new() -> Self {
        Self(PhantomData)
    }

    /// Name of the lane.
    pub const fn lane(&self) -> &'static str {
        L::NAME
    }

    /// Returns reachable free memory to the system; true if there was any. Other threads empty their caches at their
    /// next slow path. Takes locks.
    pub fn trim(&self) -> bool {
        block::trim::<L>()
    }

    /// Counts the allocator's memory now; exact while no thread allocates or frees. Takes locks.
    pub fn stats(&self) -> Stats {
        stats::collect::<L>()
    }

    /// Sets a limit on the allocator's memory in bytes; 0: none. What exceeds it already stays.
    ///
    /// ```
    /// # use hz3_core as hz3;
    /// use hz3::{Hz3, Limit};
    ///
    /// #[global_allocator]
    /// static GLOBAL: Hz3 = Hz3::new();
    ///
    /// GLOBAL.set_limit(Limit::Hard, 64 << 20);
    /// assert!(Vec::<u8>::new().try_reserve_exact(100 << 20).is_err());
    /// GLOBAL.set_limit(Limit::Hard, 0);
    /// assert!(Vec::<u8>::new().try_reserve_exact(100 << 20).is_ok());
    /// ```
    pub fn set_limit(&self, limit: Limit, bytes: usize) {
        limits::set::<L>(limit, bytes);
    }

    /// Starts the thread that purges while the program is idle now, if `HZ3_BACKGROUND_THREAD=1`. Call it once, at the
    /// start of `main`. By default it starts by itself, once there are two threads and 32 MiB of memory.
    pub fn start_background_thread(&self) {
        // Miri has no threads of C.
        if !cfg!(miri) {
            background::start_if_wanted::<L>();
        }
    }
}

impl<L: Lane> Default for Hz3<L> {
    fn default() -> Self {
        Self::new()
    }
}

/// `layout` is aligned to at most a page. Can't overflow: `Layout` keeps the rounded size within `isize::MAX`.
#[inline(always)]
const fn served_bytes(layout: Layout) -> usize {
    (layout.size() + (layout.align() - 1)) & layout.align().wrapping_neg()
}

#[inline(always)]
const fn is_small(layout: Layout) -> bool {
    layout.align() <= PAGE_BYTES && served_bytes(layout) <= MAX_SMALL_BYTES
}

#[inline(always)]
fn share_a_bin(first: Layout, second: Layout) -> bool {
    is_small(first)
        && is_small(second)
        && crate::pages::bins::bin_for(served_bytes(first)) == crate::pages::bins::bin_for(served_bytes(second))
}

// SAFETY: blocks don't overlap, last until freed, and fit their layout: small ones by their bin (module comment), large
// ones by `malloc_aligned`. Nothing unwinds.
#[cfg(not(all(miri, not(feature = "internals"))))]
unsafe impl<L: Lane> GlobalAlloc for Hz3<L> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if L::HARDENED || layout.align() > PAGE_BYTES {
            return block::malloc_aligned::<L>(layout.size(), layout.align());
        }
        block::malloc::<L>(served_bytes(layout))
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is live, and `layout` gives its bin; blocks aligned to more than a page are large.
        unsafe {
            if L::HARDENED {
                return block::free_with_layout::<L>(block, layout.size(), layout.align());
            }
            if layout.align() > PAGE_BYTES {
                return block::free_miss::<L>(block);
            }
            block::free_sized::<L>(block, served_bytes(layout));
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if L::HARDENED && layout.align() <= PAGE_BYTES {
            block::malloc_aligned_zeroed::<L>(layout.size(), layout.align())
        } else if is_small(layout) {
            block::malloc_zeroed::<L>(served_bytes(layout))
        } else {
            block::large_zeroed::<L>(layout.size().max(1), layout.align())
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller promises that `bytes`, rounded up to the alignment, does not overflow `isize`.
        let new = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        if L::HARDENED && layout.align() <= MIN_ALIGN {
            // SAFETY: the caller passes a live block and uses the result in its place.
            return unsafe { block::realloc::<L>(block, bytes) };
        }
        if !L::HARDENED && share_a_bin(layout, new) {
            return block;
        }
        // SAFETY: the block is live and of `layout`. `block::realloc` gets large sizes only and keeps page alignment.
        unsafe {
            if !L::HARDENED && layout.align() <= PAGE_BYTES && !is_small(layout) && !is_small(new) {
                block::realloc::<L>(block, served_bytes(new))
            } else {
                move_block(self, block, layout, new)
            }
        }
    }
}

/// # Safety
/// `block` is live and of layout `old`; the caller uses the result, if not null, in its place.
#[inline(never)]
unsafe fn move_block<L: Lane>(lane: &Hz3<L>, block: *mut u8, old: Layout, new: Layout) -> *mut u8 {
    // SAFETY: two live blocks, each at least as long as the copy; the old one has layout `old` and ends here.
    unsafe {
        let to = lane.alloc(new);
        if !to.is_null() {
            to.copy_from_nonoverlapping(block, old.size().min(new.size()));
            lane.dealloc(block, old);
        }
        to
    }
}

// SAFETY: the system's allocator keeps the contract.
#[cfg(all(miri, not(feature = "internals")))]
unsafe impl<L: Lane> GlobalAlloc for Hz3<L> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for this function.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as for this function.
        unsafe { std::alloc::System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for this function.
        unsafe { std::alloc::System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as for this function.
        unsafe { std::alloc::System.realloc(block, layout, bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::bins::{bin_for, bin_for_aligned};

    #[test]
    fn a_layout_is_served_by_the_smallest_bin_whose_slots_are_aligned() {
        for align in (0..=12).map(|shift| 1 << shift) {
            for bytes in 1..=MAX_SMALL_BYTES {
                let layout = Layout::from_size_align(bytes, align).expect("a layout");
                assert!(is_small(layout), "{layout:?}");
                assert_eq!(bin_for(served_bytes(layout)), bin_for_aligned(bytes, align), "{layout:?}");
            }
        }
    }

    #[test]
    fn what_exceeds_the_largest_bin_or_a_page_of_alignment_is_large() {
        for (bytes, align) in [(MAX_SMALL_BYTES + 1, 1), (MAX_SMALL_BYTES + 1, PAGE_BYTES), (1, 2 * PAGE_BYTES)] {
            assert!(!is_small(Layout::from_size_align(bytes, align).expect("a layout")));
        }
    }
}
