//! Block: what a program calls: allocate, free, and ask for the size of a block.
//!
//! Each call chooses the hit paths of the lanes for speed ([`hot`]) or of the hardened one ([`checked`]), and the miss
//! behind them. Locks are taken in misses only; no call blocks without bound. `errno` is the caller's business.

use crate::allocator::Lane;
use crate::api::size::{self, usable_bytes_for};
use crate::api::{checked, hot, miss};
use crate::pages::bins::{self, MAX_SMALL_BYTES, bin_for_aligned};
use crate::platform::abort;
use crate::platform::units::MIN_ALIGN;
use core::ptr::null_mut;

pub use miss::MAX_BYTES;

/// Allocates `bytes` bytes at a multiple of 16; null when memory has run out or the size is above [`MAX_BYTES`]. 0 bytes
/// are a block too.
#[inline(always)]
pub fn malloc<L: Lane>(bytes: usize) -> *mut u8 {
    malloc_or::<L>(bytes, miss::malloc::<L>)
}

/// [`malloc`], with `miss` called, as the last thing, where this thread has no slot at hand.
#[inline(always)]
pub fn malloc_or<L: Lane>(bytes: usize, miss: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    if L::HARDENED { checked::malloc_or::<L>(bytes, miss) } else { hot::malloc_or::<L>(bytes, miss) }
}

/// The miss of [`malloc`], for [`malloc_or`].
#[inline(always)]
pub fn malloc_miss<L: Lane>(bytes: usize) -> *mut u8 {
    miss::malloc::<L>(bytes)
}

/// Frees the block at `block`; null is allowed and does nothing. A pointer that is no block's start stops
/// the process.
///
/// # Safety
/// `block` is null or a block of this lane's that nobody uses any more.
#[inline(always)]
pub unsafe fn free<L: Lane>(block: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        if L::HARDENED {
            return checked::free_or::<L>(block, |block| miss::free::<L>(block), miss::push_or_spill::<L>);
        }
        hot::free_or::<L>(block, |block| miss::free::<L>(block));
    }
}

/// [`free`] of a block that [`malloc`] made for `bytes`, without a look at the page tag.
///
/// # Safety
/// As for [`free`], and the block serves `bytes`: its bin is that of `bytes`, or both are large.
#[inline(always)]
pub unsafe fn free_sized<L: Lane>(block: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if L::HARDENED {
            return free::<L>(block);
        }
        hot::free_sized_or::<L>(block, bytes, |block| miss::free::<L>(block));
    }
}

/// [`free`] of a block that begins no small one of the first arena, or where a hit was tried already.
///
/// # Safety
/// As for [`free`].
#[inline(always)]
pub unsafe fn free_miss<L: Lane>(block: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { miss::free::<L>(block) }
}

/// Allocates `bytes` at a multiple of `align`, a power of two; null when memory has run out or the size is
/// above [`MAX_BYTES`].
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

/// Allocates `bytes` bytes that read as zero; null as for [`malloc`].
#[inline]
pub fn malloc_zeroed<L: Lane>(bytes: usize) -> *mut u8 {
    malloc_aligned_zeroed::<L>(bytes, MIN_ALIGN)
}

/// As [`malloc_aligned`], of bytes that read as zero, at a multiple of at most a page.
#[inline]
pub fn malloc_aligned_zeroed<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    if bytes > MAX_SMALL_BYTES - L::TRAILER_BYTES {
        return large_zeroed::<L>(bytes, align);
    }
    let block = malloc_aligned::<L>(bytes, align);
    // In a hardened lane free slots read as zero, mark and all, once they are handed out.
    if !L::HARDENED && !block.is_null() {
        // SAFETY: the block holds `bytes` bytes.
        unsafe { block.write_bytes(0, bytes) };
    }
    block
}

/// Allocates a large block of `bytes` at a multiple of `align`, a power of two, that reads as zero:
/// pages that come fresh from the system are not cleared again. Null as for [`malloc_aligned`].
pub fn large_zeroed<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    let Some(block) = miss::large::<L>(bytes, align) else { return null_mut() };
    if !block.zeroed {
        // SAFETY: the block holds `bytes` bytes.
        unsafe { block.start.write_bytes(0, bytes) };
    }
    block.start
}

/// Frees the block at `block`, which the program says it requested `bytes` at a multiple of `align` for; a hardened lane
/// stops the process where that can't be.
///
/// # Safety
/// As for [`free`].
#[inline(always)]
pub unsafe fn free_of_size<L: Lane>(block: *mut u8, bytes: usize, align: usize) {
    if L::HARDENED
        && !block.is_null()
        && let Some(requested) = usable_bytes_for::<L>("free()", block)
        && (requested != bytes || !block.addr().is_multiple_of(align.max(1)))
    {
        abort::misuse::<L::Os>("free()", "wrong size for", block.addr());
    }
    // SAFETY: the caller's promise.
    unsafe { free::<L>(block) }
}

/// Resizes the block at `block`, which moves where it must; contents are kept up to the smaller size.
/// Null, and the block as it was, when memory has run out or the size is above [`MAX_BYTES`]. A null
/// block is allocated. `bytes` of 0 makes the smallest block.
///
/// # Safety
/// `block` is null or a live block of this lane's; the caller uses the result in its place.
pub unsafe fn realloc<L: Lane>(block: *mut u8, bytes: usize) -> *mut u8 {
    if bytes > MAX_BYTES {
        return null_mut();
    }
    // SAFETY: the caller's promise.
    unsafe { size::realloc::<L>(block, bytes, malloc::<L>, |block| free::<L>(block)) }
}

/// Gives all free memory that can be reached back to the system; whether any went. Other threads' caches are emptied when
/// those threads next take a slow path.
pub fn trim<L: Lane>() -> bool {
    miss::trim::<L>()
}
