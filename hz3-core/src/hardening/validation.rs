//! Checks: what is looked at of a block that comes from the program or goes to it, and what is said where it is wrong.
//!
//! ```text
//! hand_out   is the free slot as it was left?  → unmark, canary
//! require_live → asked                           is it a slot's start? not free? its canary whole?
//! ```
//!
//! Which of this a lane does is its constants' choice.

use crate::hardening::canary;
use crate::hardening::free_mark;
use crate::lane::Lane;
use crate::pages::bins;
use crate::pages::page_tag::PageTag;
use crate::pages::span::Kind;
use crate::platform::abort;
use crate::platform::units::Bin;

/// Stops the process because of a pointer that is no block's.
#[cold]
pub fn refuse<L: Lane>(entry: &str, address: usize) -> ! {
    let fault = match L::allocator().runs.arenas.tag_value(address).kind() {
        Kind::Dirty | Kind::Clean | Kind::Transit | Kind::Held => "double free or invalid pointer",
        _ => "invalid pointer",
    };
    abort::misuse::<L::Os>(entry, fault, address)
}

/// Stops the process because of a small block.
#[cold]
pub fn misuse_of<L: Lane>(entry: &str, fault: &str, bin: Bin, address: usize) -> ! {
    abort::misuse_in_bin::<L::Os>(entry, fault, address, bins::info(bin).slot_bytes as usize)
}

/// Makes a free slot of `bin` the program's, who asked for `bytes`. Where the lane looks, one that was written to since
/// it was freed stops the process.
///
/// # Safety
/// The slot has left the caches and is the caller's alone, and holds `bytes` and what the lane adds to them.
#[inline]
pub unsafe fn hand_out<L: Lane>(slot: *mut u8, bin: Bin, bytes: usize) -> *mut u8 {
    if !L::HARDENED {
        // SAFETY: the caller's promise.
        return if L::MARKS { unsafe { free_mark::clear(slot) } } else { slot };
    }
    let slot_bytes = bins::info(bin).slot_bytes as usize;
    // SAFETY: the caller's promise.
    unsafe {
        if !free_mark::is_wiped(slot, slot_bytes) {
            misuse_of::<L>("malloc()", "write after free to", bin, slot.addr());
        }
        free_mark::clear(slot);
        canary::seal(canary::key::<L::Os>(), slot, slot_bytes, bytes);
    }
    slot
}

/// Stops the process unless a slot that is not free begins at `block`, of a small page tagged `tag`.
///
/// # Safety
/// `tag` is the page's.
#[inline]
pub unsafe fn require_live<L: Lane>(entry: &str, tag: PageTag, block: *const u8) {
    if !L::allocator().is_slot(tag, block.addr()) {
        misuse_of::<L>(entry, "invalid pointer", tag.bin(), block.addr());
    }
    // SAFETY: a slot of 16 bytes or more begins here.
    if L::MARKS && unsafe { free_mark::is_set(block) } {
        let fault = if entry == "free()" { "double free of" } else { "use after free of" };
        misuse_of::<L>(entry, fault, tag.bin(), block.addr());
    }
}

/// Bytes that may be used of the live block of `bin` at `block`. Where the lane looks, one that was written to behind
/// its end stops the process.
///
/// # Safety
/// A slot of `bin` begins at `block` and is not free.
#[inline]
pub unsafe fn usable<L: Lane>(entry: &str, bin: Bin, block: *const u8) -> usize {
    let slot_bytes = bins::info(bin).slot_bytes as usize;
    if !L::HARDENED {
        return slot_bytes;
    }
    // SAFETY: the caller's promise.
    match unsafe { canary::asked(canary::key::<L::Os>(), block, slot_bytes) } {
        Some(bytes) => bytes,
        None => misuse_of::<L>(entry, "overflow past", bin, block.addr()),
    }
}
