//! Region: allocates, frees and resizes blocks of a region.
//!
//! ```text
//! allocate   small → a slot of the region's spans        large → a run or mapping that the region counts
//! free       free() of any thread, or through the region, which checks that the block is its own
//! end        all spans and large blocks at once
//! ```
//!
//! A region has no caches: each call takes its lock. Plain hits never look at regions.

use crate::allocator::{Lane, thread_heap};
use crate::api::large;
use crate::api::miss::{self, MAX_BYTES};
use crate::api::size;
use crate::hardening::validation::refuse;
use crate::observe::sampling;
use crate::pages::guards::Wait;
use crate::platform::abort;
use crate::platform::units::PAGE_BYTES;
use crate::regions::blocks::{Blocks, Member};
use crate::regions::index::Regions;
use crate::regions::region::RegionStats;
use core::ptr::{NonNull, null_mut};

/// Begins a region that holds at most `limit_bytes`, rounded down to pages; 0 for no limit. Its number. `None` if memory
/// runs out, or the limit is below a page.
pub fn begin<L: Lane>(limit_bytes: usize) -> Option<u32> {
    // The fork handlers are there from now on.
    thread_heap::<L>();
    let most_pages = if limit_bytes == 0 { usize::MAX } else { limit_bytes / PAGE_BYTES };
    if most_pages == 0 { None } else { L::allocator().regions.begin(most_pages) }
}

/// Ends a region, and all its blocks.
///
/// # Safety
/// No block of the region is used any more, nor the region itself.
pub unsafe fn end<L: Lane>(region: u32) {
    let allocator = L::allocator();
    Blocks::of(&allocator.pages, &allocator.regions).end(region, |address| {
        sampling::take::<L>(address);
        // SAFETY: the block has left the region, and is not used any more.
        if !unsafe { large::free_or_wait(&allocator.pages, address, |_| Wait::Whole) } {
            refuse(&allocator.pages, "hz3_region_destroy()", address);
        }
    });
    miss::tick_and_pay::<L>();
}

/// Allocates `bytes` bytes, aligned to `align`, a power of two, and at least to 16. Null beyond the limit, or if memory has
/// run out.
#[inline]
pub fn allocate<L: Lane>(region: u32, bytes: usize, align: usize) -> *mut u8 {
    miss::in_region::<L>(region, bytes, align).map_or(null_mut(), |block| block.start)
}

/// [`allocate`], zeroed.
pub fn allocate_zeroed<L: Lane>(region: u32, bytes: usize, align: usize) -> *mut u8 {
    let Some(block) = miss::in_region::<L>(region, bytes, align) else { return null_mut() };
    if !block.zeroed {
        // SAFETY: the fresh block has `bytes` bytes; a large one, part of which may be given back, begins with a page.
        unsafe { L::allocator().pages.clearing.clear::<L::Os>(block.start, bytes) };
    }
    block.start
}

/// The region's live block at `block`. Any other pointer stops the process in the name of `entry`.
fn require_member<L: Lane>(entry: &str, region: u32, block: *mut u8) -> Member {
    match size::region_of::<L>(block.addr()) {
        Some(member) if member.region == region => member,
        _ => abort::misuse::<L::Os>(entry, "not a block of the region:", block.addr()),
    }
}

/// Frees `block`, one of the region's; null does nothing. Any other pointer stops the process.
///
/// # Safety
/// `block` is null or a live block that is no longer used.
pub unsafe fn free<L: Lane>(region: u32, block: *mut u8) {
    if block.is_null() {
        return;
    }
    let member = require_member::<L>("hz3_region_free()", region, block);
    // SAFETY: the caller gives up the block, a large one or one of a region's span.
    unsafe {
        if member.is_large {
            miss::free::<L>(block);
        } else {
            miss::free_in_region::<L>("hz3_region_free()", block);
        }
    }
}

/// Resizes `block`, one of the region's, and keeps its contents and its alignment to `align`. A null block is allocated. On
/// failure, as for [`allocate`], returns null and changes nothing. Any other pointer stops the process.
///
/// # Safety
/// `block` is null or a live block. After success the caller no longer uses it.
pub unsafe fn realloc<L: Lane>(region: u32, block: *mut u8, bytes: usize, align: usize) -> *mut u8 {
    if block.is_null() {
        return allocate::<L>(region, bytes, align);
    }
    if bytes > MAX_BYTES {
        return null_mut();
    }
    let entry = "hz3_region_realloc()";
    let member = require_member::<L>(entry, region, block);
    let allocate = |bytes| allocate::<L>(region, bytes, align);
    // SAFETY: a live block of the region; it is given up when it has moved.
    unsafe { size::realloc_in_region::<L>(entry, member, block, bytes, allocate, |block| miss::free::<L>(block)) }
}

/// Counts of a region, or of all.
pub fn stats<L: Lane>(region: Option<u32>) -> RegionStats {
    let regions = &L::allocator().regions;
    match region {
        Some(number) => regions.stats_of(number),
        None => regions.stats(),
    }
}

/// The address that stands for the region in C.
pub fn address_of<L: Lane>(region: u32) -> NonNull<u8> {
    L::allocator().regions.address_of(region)
}

/// The region for which `address` stands.
///
/// # Safety
/// [`address_of`] returned it.
pub unsafe fn at<L: Lane>(address: NonNull<u8>) -> u32 {
    // SAFETY: the caller's own promise.
    unsafe { Regions::<L::Os>::number_at(address) }
}
