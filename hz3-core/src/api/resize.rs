//! Resize: a block that grows or shrinks stays where it is while it fits there well; else its contents move.

use crate::allocator::Lane;
use crate::api::block::{MAX_BYTES, free, large_usable, malloc};
use crate::api::large;
use crate::api::slack::{keeps_place, with_slack};
use crate::hardening::canary;
use crate::hardening::validation::{refuse, require_live, usable};
use crate::observe::sampling;
use crate::pages::bins::{self, FOREIGN, MAX_SMALL_BYTES};
use core::ptr::null_mut;

/// Resizes the block at `block`, which moves where it must; contents are kept up to the smaller size.
/// Null, and the block as it was, when memory has run out or the size is above [`MAX_BYTES`]. A null
/// block is allocated. `bytes` of 0 makes the smallest block.
///
/// # Safety
/// `block` is null or a live block of this lane's; the caller uses the result in its place.
pub unsafe fn realloc<L: Lane>(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() {
        return malloc::<L>(bytes);
    }
    if bytes > MAX_BYTES {
        return null_mut();
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
            unsafe { canary::seal(canary::key::<L::Os>(), block, slot_bytes, bytes) };
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
    let mut new = malloc::<L>(if L::HARDENED { bytes } else { with_slack(bytes, old) });
    if new.is_null() {
        new = malloc::<L>(bytes);
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
            unsafe { canary::seal(canary::key::<L::Os>(), block, bins::info(tag.bin()).slot_bytes as usize, bytes) };
        }
        return block;
    }
    // SAFETY: two live blocks, both at least as long as what is copied; the old one ends here.
    unsafe {
        new.copy_from_nonoverlapping(block, old.min(bytes));
        free::<L>(block);
    }
    new
}
