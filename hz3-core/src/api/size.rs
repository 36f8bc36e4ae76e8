//! Size: how many bytes of a block may be used, and blocks that grow or shrink.
//!
//! A block stays where it is while it fits there well; else its contents move.

use crate::allocator::Lane;
use crate::api::large;
use crate::api::slack::{keeps_place, with_slack};
use crate::hardening::canary;
use crate::hardening::free_mark;
use crate::hardening::validation::{refuse, require_live, usable};
use crate::observe::sampling;
use crate::pages::bins::{self, FOREIGN, MAX_SMALL_BYTES};
use core::ptr::null_mut;

/// Bytes that may be used of the live block at `block`; `None` where none begins there. Null has 0.
#[allow(clippy::not_unsafe_ptr_arg_deref, reason = "read only where it is the start of a slot")]
pub fn usable_bytes<L: Lane>(block: *const u8) -> Option<usize> {
    usable_bytes_for::<L>("malloc_usable_size()", block)
}

/// [`usable_bytes`] in the name of `entry`.
#[allow(clippy::not_unsafe_ptr_arg_deref, reason = "as above")]
#[inline]
pub fn usable_bytes_for<L: Lane>(entry: &str, block: *const u8) -> Option<usize> {
    if block.is_null() {
        return Some(0);
    }
    let pages = &L::allocator().pages;
    let tag = pages.tag(block.addr());
    match tag.bin() {
        FOREIGN => large_usable::<L>(entry, block.addr()),
        bin => {
            // SAFETY: a slot of 16 bytes or more begins at the block where the first test says so.
            let is_live = pages.is_slot(tag, block.addr()) && !(L::MARKS && unsafe { free_mark::is_set(block) });
            // SAFETY: as above, and it is not free.
            is_live.then(|| unsafe { usable::<L>(entry, bin, block) })
        }
    }
}

/// Bytes that may be used of the large block at `address`; `None` where none begins there.
fn large_usable<L: Lane>(entry: &str, address: usize) -> Option<usize> {
    let bytes = large::usable_bytes(&L::allocator().pages, entry, address)?;
    Some(if L::HARDENED { bytes } else { sampling::usable_bytes::<L>(address, bytes) })
}

/// Resizes the block at `block` to `bytes`, at most `isize::MAX`, by `malloc` and `free` where it must move; contents are kept up
/// to the smaller size. Null, and the block as it was, when memory has run out. A null block is allocated.
///
/// # Safety
/// `block` is null or a live block of this lane's; the caller uses the result in its place. `malloc` and `free` are the
/// lane's.
pub unsafe fn realloc<L: Lane>(
    block: *mut u8,
    bytes: usize,
    malloc: impl Fn(usize) -> *mut u8,
    free: impl FnOnce(*mut u8),
) -> *mut u8 {
    if block.is_null() {
        return malloc(bytes);
    }
    let pages = &L::allocator().pages;
    let tag = pages.tag(block.addr());
    let old = match tag.bin() {
        FOREIGN => match large_usable::<L>("realloc()", block.addr()) {
            Some(bytes) => bytes,
            None => refuse(pages, "realloc()", block.addr()),
        },
        bin => {
            // SAFETY: the tag is the page's, and then a live block's.
            unsafe {
                require_live(pages, "realloc()", tag, block);
                usable::<L>("realloc()", bin, block)
            }
        }
    };
    if L::HARDENED {
        let slot_bytes = bins::info(tag.bin()).slot_bytes as usize;
        let wanted = bytes.saturating_add(L::TRAILER_BYTES);
        if tag.bin() != FOREIGN && wanted <= slot_bytes && keeps_place(wanted, slot_bytes) {
            // SAFETY: the block is the caller's, and its slot holds what is wanted.
            unsafe { canary::seal(canary::process_key::<L::Os>(), block, slot_bytes, bytes) };
            return block;
        }
    } else if bytes <= old && keeps_place(bytes, old) {
        return block;
    }
    const { assert!(L::TRAILER_BYTES < MAX_SMALL_BYTES) }
    let large_from = MAX_SMALL_BYTES - L::TRAILER_BYTES;
    if tag.bin() == FOREIGN && old > large_from && bytes > large_from {
        // Before the block may move: another thread's may come to lie in its place at once.
        let sample = sampling::take::<L>(block.addr());
        // SAFETY: the block is the caller's.
        let here = unsafe { large::resize(pages, block.addr(), bytes) };
        if !here.is_null() {
            sampling::large::<L>(here.addr(), bytes);
            return here;
        }
        sampling::put_back::<L>(sample);
    }
    let mut new = malloc(if L::HARDENED { bytes } else { with_slack(bytes, old) });
    if new.is_null() {
        new = malloc(bytes);
    }
    if new.is_null() {
        if bytes > old {
            return null_mut();
        }
        // A block that shrinks still fits where it is.
        if L::HARDENED && tag.bin() == FOREIGN {
            // SAFETY: the block is the caller's, and holds more than `bytes`.
            unsafe { large::reseal(pages, block.addr(), bytes) };
        } else if L::HARDENED {
            // SAFETY: the block is the caller's, and its slot holds what is wanted.
            unsafe {
                canary::seal(canary::process_key::<L::Os>(), block, bins::info(tag.bin()).slot_bytes as usize, bytes)
            };
        }
        return block;
    }
    // SAFETY: two live blocks, both at least as long as what is copied; the old one ends here.
    unsafe {
        new.copy_from_nonoverlapping(block, old.min(bytes));
        free(block);
    }
    new
}
