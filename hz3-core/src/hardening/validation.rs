//! Checks blocks that the program gives back or gets, and stops the process at a misuse.
//!
//! ```text
//! hand_out   is the free slot as it was left?  → unmark, canary
//! require_live → usable                          is it a slot's start? not free? its canary whole?
//! ```
//!
//! A lane's constants choose the checks.

use crate::hardening::canary;
use crate::hardening::free_mark;
use crate::hardening::unwritten::require_unwritten;
use crate::pages::bins;
use crate::pages::page_heap::PageHeap;
use crate::pages::page_tag::{Kind, PageTag};
use crate::pages::policy::Policy;
use crate::pages::slot::Slot;
use crate::platform::abort;
use crate::platform::units::Bin;

/// Stops the process for a pointer that is not a block.
#[cold]
pub fn refuse<P: Policy>(pages: &PageHeap<P>, entry: &str, address: usize) -> ! {
    let fault = match pages.tag(address).kind() {
        Kind::Dirty | Kind::Clean | Kind::Transit | Kind::Waiting | Kind::Shared => "double free or invalid pointer",
        _ => "invalid pointer",
    };
    abort::misuse::<P::Os>(entry, fault, address)
}

/// Stops the process for a fault at a small block.
#[cold]
pub fn misuse_of<P: Policy>(entry: &str, fault: &str, bin: Bin, address: usize) -> ! {
    abort::misuse_in_bin::<P::Os>(entry, fault, address, bins::info(bin).slot_bytes as usize)
}

/// Turns a free slot of `bin` into a block of `bytes` bytes. The hardened lane stops the process at a write after free.
///
/// # Safety
/// The slot is of `bin`, and has room for `bytes` and the lane's trailer.
#[inline]
pub unsafe fn hand_out<P: Policy>(slot: Slot, bin: Bin, bytes: usize) -> *mut u8 {
    require_unwritten::<P>("malloc()", bin, &slot);
    let slot = slot.into_block();
    if !P::HARDENED {
        // SAFETY: the slot is this thread's: 16 bytes or more, aligned, writable.
        return if P::MARKS { unsafe { free_mark::clear(slot) } } else { slot };
    }
    let slot_bytes = bins::info(bin).slot_bytes as usize;
    // SAFETY: the slot is this thread's: aligned, with room for `bytes` and a trailer.
    unsafe {
        free_mark::clear(slot);
        canary::seal(canary::process_key::<P::Os>(), slot, slot_bytes, bytes);
    }
    slot
}

/// Stops the process unless a slot begins at `block`, in a page tagged `tag`, and is not free.
///
/// # Safety
/// `tag` is the page's.
#[inline]
pub unsafe fn require_live<P: Policy>(pages: &PageHeap<P>, entry: &str, tag: PageTag, block: *const u8) {
    if !pages.is_slot(tag, block.addr()) {
        misuse_of::<P>(entry, "invalid pointer", tag.bin(), block.addr());
    }
    // SAFETY: a slot of 16 bytes or more begins here.
    if P::MARKS && unsafe { free_mark::is_set(block) } {
        let fault = if entry == "free()" { "double free of" } else { "use after free of" };
        misuse_of::<P>(entry, fault, tag.bin(), block.addr());
    }
}

/// Bytes of a live block of `bin` that the program may use. The hardened lane stops the process at an overflow.
///
/// # Safety
/// A slot of `bin` begins at `block` and is not free.
#[inline]
pub unsafe fn usable<P: Policy>(entry: &str, bin: Bin, block: *const u8) -> usize {
    let slot_bytes = bins::info(bin).slot_bytes as usize;
    if !P::HARDENED {
        return slot_bytes;
    }
    // SAFETY: a slot of `slot_bytes` bytes begins here.
    match unsafe { canary::requested_bytes(canary::process_key::<P::Os>(), block, slot_bytes) } {
        Some(bytes) => bytes,
        None => misuse_of::<P>(entry, "overflow past", bin, block.addr()),
    }
}

/// The first address of `slots`, freed as blocks of `bin`, that is no slot of it.
pub fn first_invalid<P: Policy>(pages: &PageHeap<P>, bin: Bin, slots: &[Slot]) -> Option<usize> {
    slots.iter().map(Slot::address).find(|&address| {
        let tag = pages.tag(address);
        tag.bin() != bin || !pages.is_slot(tag, address)
    })
}
