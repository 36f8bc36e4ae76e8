//! Block: allocates, frees, resizes and measures blocks.
//!
//! Each function tries the lane's hit path ([`hot`], or [`checked`] in the hardened lane), then the miss. Only misses
//! take locks. No call blocks without bound or reports through `errno`.

use crate::allocator::Lane;
use crate::api::size::{self, usable_bytes_for};
use crate::api::{checked, hot, miss};
use crate::pages::bins::{self, MAX_SMALL_BYTES, bin_for_aligned};
use crate::platform::abort;
use crate::platform::units::MIN_ALIGN;
use core::ptr::null_mut;

pub use miss::MAX_BYTES;

/// Allocates `bytes` bytes, aligned to 16. Null if memory has run out or `bytes` exceeds [`MAX_BYTES`].
#[inline(always)]
pub fn malloc<L: Lane>(bytes: usize) -> *mut u8 {
    malloc_or::<L>(bytes, miss::malloc::<L>)
}

/// [`malloc`] with `miss` as a tail call if this thread has no cached slot.
#[inline(always)]
pub fn malloc_or<L: Lane>(bytes: usize, miss: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    if L::HARDENED { checked::malloc_or::<L>(bytes, miss) } else { hot::malloc_or::<L>(bytes, miss) }
}

/// The miss of [`malloc`], for [`malloc_or`].
#[inline(always)]
pub fn malloc_miss<L: Lane>(bytes: usize) -> *mut u8 {
    miss::malloc::<L>(bytes)
}

/// Frees `block`; null does nothing. An invalid pointer aborts the process if the lane detects it.
///
/// # Safety
/// `block` is null or a live block of this lane that is no longer used.
#[inline(always)]
pub unsafe fn free<L: Lane>(block: *mut u8) {
    // SAFETY: the caller gives up `block`, which may be null.
    unsafe {
        if L::HARDENED {
            return checked::free_or::<L>(block, |block| miss::free::<L>(block), miss::push_or_spill::<L>);
        }
        hot::free_or::<L>(block, |block| miss::free::<L>(block), |block| free_beyond::<L>(block));
    }
}

/// [`free`] of what lies outside the near window, reached by a jump.
///
/// # Safety
/// As for [`free`].
#[cold]
#[inline(never)]
unsafe fn free_beyond<L: Lane>(block: *mut u8) {
    // SAFETY: the caller gives up `block`, which may be null.
    unsafe { hot::free_beyond_or::<L>(block, |block| miss::free::<L>(block)) }
}

/// [`free`] of a block that [`malloc`] returned for `bytes`, without reading the page tag.
///
/// # Safety
/// `block` is a live block of this lane, not null, and no longer used. Its bin is that of `bytes`, or both are large.
#[inline(always)]
pub unsafe fn free_sized<L: Lane>(block: *mut u8, bytes: usize) {
    // SAFETY: the caller gives up the block, whose bin is that of `bytes`, or both are large.
    unsafe {
        if L::HARDENED {
            return free::<L>(block);
        }
        hot::free_sized_or::<L>(block, bytes, |block| miss::free::<L>(block), |block| free_beyond::<L>(block));
    }
}

/// [`free`] without the hit path.
///
/// # Safety
/// As for [`free`].
#[inline(always)]
pub unsafe fn free_miss<L: Lane>(block: *mut u8) {
    // SAFETY: the caller gives up `block`, which may be null.
    unsafe { miss::free::<L>(block) }
}

/// [`malloc`], aligned to `align`, a power of two.
pub fn malloc_aligned<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    if align <= MIN_ALIGN {
        return malloc::<L>(bytes);
    }
    match bin_for_aligned(bytes.saturating_add(L::TRAILER_BYTES), align) {
        Some(bin) if L::HARDENED => miss::small::<L>(bin, bytes),
        Some(bin) => malloc::<L>(bins::info(bin).slot_bytes as usize),
        None => miss::large::<L>(bytes, align).map_or(null_mut(), |block| block.start),
    }
}

/// [`malloc`], zeroed.
#[inline]
pub fn malloc_zeroed<L: Lane>(bytes: usize) -> *mut u8 {
    malloc_aligned_zeroed::<L>(bytes, MIN_ALIGN)
}

/// [`malloc_aligned`], zeroed. `align` is at most a page.
#[inline]
pub fn malloc_aligned_zeroed<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    if bytes > MAX_SMALL_BYTES - L::TRAILER_BYTES {
        return large_zeroed::<L>(bytes, align);
    }
    let block = malloc_aligned::<L>(bytes, align);
    // The hardened lane's free slots are wiped already.
    if !L::HARDENED && !block.is_null() {
        // SAFETY: the fresh block has `bytes` bytes.
        unsafe { block.write_bytes(0, bytes) };
    }
    block
}

/// [`malloc_aligned`] of a large block, zeroed. Pages without memory are not written to.
pub fn large_zeroed<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    let Some(block) = miss::large::<L>(bytes, align) else { return null_mut() };
    if !block.zeroed {
        // SAFETY: the fresh block has `bytes` bytes, and begins with a page.
        unsafe { L::allocator().pages.clearing.clear::<L::Os>(block.start, bytes) };
    }
    block.start
}

/// [`free`], given `bytes` and `align` of the allocation. The hardened lane aborts the process if they are wrong.
///
/// # Safety
/// As for [`free`].
#[inline(always)]
pub unsafe fn free_with_layout<L: Lane>(block: *mut u8, bytes: usize, align: usize) {
    check_layout::<L>(block, bytes, align);
    // SAFETY: the caller gives up `block`, which may be null.
    unsafe { free::<L>(block) }
}

/// In the hardened lane, aborts the process if `block` is a block of other than `bytes` requested bytes, or not aligned
/// to `align`. What is no block passes.
#[inline(always)]
pub fn check_layout<L: Lane>(block: *const u8, bytes: usize, align: usize) {
    if !L::HARDENED || block.is_null() {
        return;
    }
    let Some(requested) = usable_bytes_for::<L>("free()", block) else { return };
    if requested != bytes || block.addr() % align.max(1) != 0 {
        abort::misuse::<L::Os>("free()", "wrong size for", block.addr());
    }
}

/// Resizes `block`, in place or by moving it, and keeps its contents. A null block is allocated. A region's block stays in
/// its region. On failure, as for
/// [`malloc`], returns null and changes nothing.
///
/// # Safety
/// `block` is null or a live block of this lane. After success the caller no longer uses it.
pub unsafe fn realloc<L: Lane>(block: *mut u8, bytes: usize) -> *mut u8 {
    if bytes > MAX_BYTES {
        return null_mut();
    }
    if let Some(member) = size::region_of::<L>(block.addr()) {
        let allocate =
            |bytes| miss::in_region::<L>(member.region, bytes, MIN_ALIGN).map_or(null_mut(), |block| block.start);
        // SAFETY: a live block of the region; it is given up when it has moved.
        return unsafe {
            size::realloc_in_region::<L>("realloc()", member, block, bytes, allocate, |block| miss::free::<L>(block))
        };
    }
    // SAFETY: `block` is null or a live block of this lane; the three functions are the lane's.
    unsafe { size::realloc::<L>(block, bytes, malloc::<L>, |block| free::<L>(block), miss::tick_and_pay::<L>) }
}

/// Returns reachable free memory to the system; true if there was any. Other threads empty their caches at their next
/// slow path.
pub fn trim<L: Lane>() -> bool {
    miss::trim::<L>()
}
