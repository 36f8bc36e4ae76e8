//! Checked: the paths of `malloc` and `free` that nearly every call takes in the hardened lane.
//!
//! ```text
//! malloc   size + trailer → entry of its bin → a slot of the loaded magazine, drawn → look, unmark, canary
//! free     address → page tag → span: a slot? free already? canary whole? → wipe, mark → quarantine
//!                                                                  what leaves that → entry of its bin → push
//! ```
//!
//! As on the hit paths of the other lanes, a thread without a heap, or sampled, meets entries that are all null and
//! leaves for the miss.

use crate::allocator::{HeapOf, Lane};
use crate::hardening::free_mark;
use crate::hardening::quarantine::Quarantine;
use crate::hardening::validation::{hand_out, require_live, usable};
use crate::pages::bins::{self, FOREIGN, bin_for};
use crate::pages::slot::Slot;
use crate::platform::units::Bin;
use crate::thread::heap::{Entry, entry_at};

/// A block of `bytes` bytes, or what `miss` returns, called as the last thing, where this thread has no slot at hand.
#[inline(always)]
pub fn malloc_or<L: Lane>(bytes: usize, miss: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    if let Some(bin) = bin_for(bytes.saturating_add(L::TRAILER_BYTES)) {
        // SAFETY: an entry that holds a slot is that of this thread's heap, which nothing else refers to; the slot that
        // leaves it is this thread's alone.
        unsafe {
            let entries = L::heap();
            let entry = entry_at(entries, bin);
            if !(*entry).is_empty() {
                let heap = entries.cast::<HeapOf<L>>();
                let slot = Entry::draw(entry, |limit| (*heap).random_below::<L::Os>(limit));
                return hand_out::<L>(slot, bin, bytes);
            }
        }
    }
    miss(bytes)
}

/// Frees `block`, or calls `miss` as the last thing. `spill` takes a slot for which the heap has no room.
///
/// # Safety
/// `block` is null or a block of this lane's that nobody uses any more.
#[inline(always)]
pub unsafe fn free_or<L: Lane>(block: *mut u8, miss: impl FnOnce(*mut u8), spill: impl Fn(&mut HeapOf<L>, Bin, Slot)) {
    let pages = &L::allocator().pages;
    let tag = pages.tag(block.addr());
    let bin = tag.bin();
    // SAFETY: where the block is what it should be, it is nobody's any more; an entry with a magazine is that of this
    // thread's heap, which nothing else refers to.
    unsafe {
        let entries = L::heap();
        if bin == FOREIGN || !(*entry_at(entries, bin)).is_loaded() {
            return miss(block);
        }
        require_live(pages, "free()", tag, block);
        usable::<L>("free()", bin, block);
        free_mark::wipe(block, bins::info(bin).slot_bytes as usize);
        quarantine::<L>(&mut *entries.cast(), bin, Slot::new(block), spill);
    }
}

/// Puts `slot`, which is wiped, into the heap's quarantine, and what has to leave that into a magazine. `spill` takes a slot
/// for which there is no room.
#[inline]
pub fn quarantine<L: Lane>(heap: &mut HeapOf<L>, bin: Bin, slot: Slot, spill: impl Fn(&mut HeapOf<L>, Bin, Slot)) {
    let bytes = bins::info(bin).slot_bytes as usize;
    let mut random = heap.random::<L::Os>();
    loop {
        heap.begin_change();
        let Some((leaving, slot)) = heap.quarantine.make_room(bytes, random) else { break };
        heap.end_change();
        let entry = heap.entry(leaving);
        if entry.is_full() {
            spill(heap, leaving, slot);
        } else {
            // SAFETY: the heap is this thread's, and there is room.
            unsafe { Entry::push(core::ptr::from_ref(entry).cast_mut(), slot) }
        }
        // Only a large slot makes several leave.
        random = random.wrapping_mul(0x915f_77f5);
    }
    heap.quarantine.put(bin, slot);
    heap.end_change();
}
