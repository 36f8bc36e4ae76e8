//! Region handle: a region as a Rust value.
//!
//! ```text
//! Region::with_limit(bytes) → GlobalAlloc, and allocator-api2's Allocator with the feature of that name → drop frees all
//! ```

use crate::allocator::Lane;
use crate::api::{block, region};
use crate::lane::Scale;
use crate::regions::region::RegionStats;
use core::alloc::{GlobalAlloc, Layout};
use core::marker::PhantomData;

/// A region of lane `L`: blocks in memory of their own, within a limit, that go all at once when it is dropped.
///
/// Any number of threads may use one. With the feature `allocator-api2` it is an `Allocator`, by value or by reference;
/// without, a [`GlobalAlloc`]. What is not freed when the region is dropped is freed then, without running destructors.
///
/// ```
/// # use hz3_core as hz3;
/// use hz3::Region;
/// use std::alloc::{GlobalAlloc, Layout};
///
/// let region: Region = Region::with_limit(1 << 20).expect("memory");
/// let layout = Layout::new::<[u64; 100]>();
/// // SAFETY: the layout has bytes; the block is used no longer than the region.
/// let block = unsafe { region.alloc(layout) };
/// assert!(!block.is_null());
/// assert_eq!(region.stats().live_blocks, 1);
/// // SAFETY: as above.
/// assert!(unsafe { region.alloc(Layout::new::<[u64; 1 << 20]>()) }.is_null());
/// drop(region); // and the block
/// ```
pub struct Region<L: Lane = Scale> {
    number: u32,
    lane: PhantomData<fn() -> L>,
}

impl<L: Lane> Region<L> {
    /// A region without a limit; `None` if memory has run out.
    pub fn new() -> Option<Self> {
        Some(Self { number: region::begin::<L>(0)?, lane: PhantomData })
    }

    /// A region that never holds more than `bytes`, rounded down to pages of 4 KiB; what lies free between its blocks counts.
    /// `None` if that is no page, or if memory has run out.
    pub fn with_limit(bytes: usize) -> Option<Self> {
        if bytes == 0 {
            return None;
        }
        Some(Self { number: region::begin::<L>(bytes)?, lane: PhantomData })
    }

    /// Counts the region's memory now. Takes its lock.
    pub fn stats(&self) -> RegionStats {
        region::stats::<L>(Some(self.number))
    }

    /// Counts the memory of all regions of the lane. Takes their locks.
    pub fn stats_of_all() -> RegionStats {
        region::stats::<L>(None)
    }
}

impl<L: Lane> Drop for Region<L> {
    fn drop(&mut self) {
        // SAFETY: whoever uses a block or the region borrows it, by the contracts of the two traits.
        unsafe { region::end::<L>(self.number) }
    }
}

// SAFETY: blocks don't overlap, last until freed or the region is dropped, and fit their layout. Nothing unwinds.
unsafe impl<L: Lane> GlobalAlloc for Region<L> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        region::allocate::<L>(self.number, layout.size(), layout.align())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        region::allocate_zeroed::<L>(self.number, layout.size(), layout.align())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        block::check_layout::<L>(block, layout.size(), layout.align());
        // SAFETY: the block is the region's, live, and given up.
        unsafe { region::free::<L>(self.number, block) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        block::check_layout::<L>(block, layout.size(), layout.align());
        // SAFETY: the block is the region's and live.
        unsafe { region::realloc::<L>(self.number, block, bytes, layout.align()) }
    }
}

#[cfg(feature = "allocator-api2")]
mod allocator_api2 {
    use super::{Lane, Region};
    use allocator_api2::alloc::{AllocError, Allocator};
    use core::alloc::{GlobalAlloc, Layout};
    use core::ptr::NonNull;

    /// A block without bytes, which no region knows, or what `make` makes.
    fn made(layout: Layout, make: impl FnOnce() -> *mut u8) -> Result<NonNull<[u8]>, AllocError> {
        let start = if layout.size() == 0 {
            NonNull::new(core::ptr::without_provenance_mut(layout.align()))
        } else {
            NonNull::new(make())
        };
        Ok(NonNull::slice_from_raw_parts(start.ok_or(AllocError)?, layout.size()))
    }

    // SAFETY: blocks last until they are freed or the region is dropped, wherever the value moves meanwhile; it has no
    // clones.
    unsafe impl<L: Lane> Allocator for Region<L> {
        fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
            // SAFETY: called for a layout with bytes only.
            made(layout, || unsafe { self.alloc(layout) })
        }

        fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
            // SAFETY: called for a layout with bytes only.
            made(layout, || unsafe { self.alloc_zeroed(layout) })
        }

        unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
            if layout.size() > 0 {
                // SAFETY: the caller gives up a block of this layout.
                unsafe { self.dealloc(block.as_ptr(), layout) }
            }
        }

        unsafe fn grow(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
            // SAFETY: the caller's own promises.
            unsafe { self.resize(block, old, new) }
        }

        unsafe fn shrink(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
            // SAFETY: the caller's own promises.
            unsafe { self.resize(block, old, new) }
        }
    }

    impl<L: Lane> Region<L> {
        /// # Safety
        /// As for [`Allocator::grow`] and [`Allocator::shrink`].
        unsafe fn resize(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
            // SAFETY: the caller gives up the block, of the layout `old`, unless this fails. The new one has room for both
            // layouts' lesser size.
            unsafe {
                if old.size() > 0 && new.size() > 0 && block.addr().get() % new.align() == 0 {
                    let asked = Layout::from_size_align_unchecked(old.size(), old.align().max(new.align()));
                    return made(new, || self.realloc(block.as_ptr(), asked, new.size()));
                }
                let fresh = self.allocate(new)?;
                fresh.cast::<u8>().copy_from_nonoverlapping(block, old.size().min(new.size()));
                self.deallocate(block, old);
                Ok(fresh)
            }
        }
    }
}
