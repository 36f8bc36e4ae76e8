//! Global: a lane as a Rust program's `#[global_allocator]`.
//!
//! ```text
//! Layout { size, align } → size rounded up to a multiple of align → the bin of that, on the way in and out alike
//! ```
//!
//! Rust hands a block's layout back when it frees it, so the bin is known without a look at the page tag. This
//! holds as long as every block lies in the bin of its *present* layout; `realloc` therefore stays in place only
//! where old and new layout share a bin, or are both large.
//!
//! Slots of a bin lie at multiples of the largest power of two that divides the bin's size, and classes are so
//! spaced that the smallest bin for a multiple of `align`, up to a page, has a size that is one: below eight
//! times `align` every multiple is a class of its own, above it the step between classes is a multiple.

use crate::allocator::Lane;
use crate::api::block;
use crate::lane::Scale;
use crate::observe::counts::Stats;
use crate::observe::stats;
use crate::pages::bins::MAX_SMALL_BYTES;
use crate::platform::units::{MIN_ALIGN, PAGE_BYTES};
use crate::process::background;
use core::alloc::{GlobalAlloc, Layout};
use core::marker::PhantomData;

/// hz3 as a global allocator, in lane `L`: [`Scale`] unless said otherwise, or [`Fast`](crate::Fast).
///
/// A value holds nothing; all values of a lane are the same allocator, of which the program has one. A program
/// may have both lanes, as long as each block goes back to the lane that it came from.
///
/// ```
/// use hz3_core::{Fast, Hz3};
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
/// Memory that has run out gives null, as [`GlobalAlloc`] asks; nothing panics or unwinds. Blocks that are freed
/// twice, or with a layout that is not theirs, are undefined behaviour by the trait's contract, and are not looked
/// for here.
pub struct Hz3<L: Lane = Scale>(PhantomData<fn() -> L>);

impl<L: Lane> Hz3<L> {
    /// The lane's allocator. Asks the system for nothing.
    pub const fn new() -> Self {
        Self(PhantomData)
    }

    /// Name of the lane.
    pub const fn lane(&self) -> &'static str {
        L::NAME
    }

    /// Gives all free memory that can be reached back to the system; whether any went. Other threads' caches are
    /// emptied when those threads next take a slow path.
    pub fn trim(&self) -> bool {
        block::trim::<L>()
    }

    /// What the allocator's memory is used for, counted now; exact while no thread allocates or frees.
    pub fn stats(&self) -> Stats {
        stats::collect::<L>()
    }

    /// Starts the thread that gives memory back while the program rests, where the environment asks for it
    /// (`HZ3_BACKGROUND_THREAD=1`). Call it once, at the start of `main`: a Rust program has no other moment of
    /// its own for it, and most need no such thread.
    pub fn start_background_thread(&self) {
        background::start_if_wanted::<L>();
    }
}

impl<L: Lane> Default for Hz3<L> {
    fn default() -> Self {
        Self::new()
    }
}

/// The size by whose bin a block of `layout` is served, whose alignment is at most a page. Never overflows: a
/// layout's size, rounded up so, is at most `isize::MAX`.
#[inline(always)]
const fn served_bytes(layout: Layout) -> usize {
    (layout.size() + (layout.align() - 1)) & layout.align().wrapping_neg()
}

/// Whether blocks of `layout` lie in a bin, and not in pages of their own.
#[inline(always)]
const fn is_small(layout: Layout) -> bool {
    layout.align() <= PAGE_BYTES && served_bytes(layout) <= MAX_SMALL_BYTES
}

/// Whether a block serves both layouts, of one alignment, where it is: by its bin.
#[inline(always)]
fn share_a_bin(first: Layout, second: Layout) -> bool {
    is_small(first)
        && is_small(second)
        && crate::pages::bins::bin_for(served_bytes(first)) == crate::pages::bins::bin_for(served_bytes(second))
}

// SAFETY: blocks of a lane do not overlap, hold at least their layout's size at its alignment (module comment;
// large blocks begin with a page, or at the alignment asked for), and stay until they are freed. Nothing unwinds.
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
        // SAFETY: the caller gives a live block and its layout, so that its bin is the one that `alloc` and
        // `realloc` chose for it; above a page of alignment every block is large.
        unsafe {
            if L::HARDENED {
                return block::free_of_size::<L>(block, layout.size(), layout.align());
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
        // SAFETY: the caller promises that the size, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        if L::HARDENED && layout.align() <= MIN_ALIGN {
            // SAFETY: the caller's promise.
            return unsafe { block::realloc::<L>(block, bytes) };
        }
        if !L::HARDENED && share_a_bin(layout, new) {
            return block;
        }
        // SAFETY: the caller's promises; the sizes are of one kind where `block::realloc` is called, which keeps a
        // large block large and on a page's start.
        unsafe {
            if !L::HARDENED && layout.align() <= PAGE_BYTES && !is_small(layout) && !is_small(new) {
                block::realloc::<L>(block, served_bytes(new))
            } else {
                move_block(self, block, layout, new)
            }
        }
    }
}

/// [`GlobalAlloc::realloc`] for a block that has to change its bin, or whose alignment is above a page.
///
/// # Safety
/// As for `realloc`.
#[inline(never)]
unsafe fn move_block<L: Lane>(lane: &Hz3<L>, block: *mut u8, old: Layout, new: Layout) -> *mut u8 {
    // SAFETY: the caller's promise: two live blocks, both at least as long as what is copied, and the old one ends
    // here.
    unsafe {
        let to = lane.alloc(new);
        if !to.is_null() {
            to.copy_from_nonoverlapping(block, old.size().min(new.size()));
            lane.dealloc(block, old);
        }
        to
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
