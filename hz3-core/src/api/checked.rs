//! Checked: the hit paths of `malloc` and `free` in the hardened lane.
//!
//! ```text
//! malloc   size + trailer → entry of its bin → draw a slot of the loaded magazine → still wiped? → clear mark, canary
//! free     address → page tag → a slot? not free? canary intact? → wipe, mark → quarantine
//!                                                           slots that leave it → entry of their bin → push
//! ```
//!
//! A thread without a heap, or a sampled one, has null entries and takes the miss.

use crate::allocator::{HeapOf, Lane};
use crate::hardening::free_mark;
use crate::hardening::quarantine::Quarantine;
use crate::hardening::validation::{hand_out, require_live, usable};
use crate::pages::bins::{self, FOREIGN, bin_for};
use crate::pages::slot::Slot;
use crate::platform::units::Bin;
use crate::thread::heap::{Entry, entry_at};

/// A block of `bytes` bytes, or a tail call to `miss` if this thread has no cached slot.
#[inline(always)]
pub fn malloc_or<L: Lane>(bytes: usize, miss: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    if let Some(bin) = bin_for(bytes.saturating_add(L::TRAILER_BYTES)) {
        // SAFETY: `entries` is this thread's pointer. Only its heap has entries with slots, without another reference;
        // slots of `bin` fit `bytes` and the trailer.
        unsafe {
            let entries = L::heap();
            let entry = entry_at(entries, bin);
            if !(*entry).is_empty() {
                let heap = entries.cast::<HeapOf<L>>();
                // A change: any of several slots may be drawn, so that none could be taken beside a hit.
                (*heap).begin_change::<L>();
                let slot = Entry::draw(entry, |limit| (*heap).random_below::<L::Os>(limit));
                (*heap).end_change();
                if let Some(slot) = slot {
                    return hand_out::<L>(slot, bin, bytes);
                }
            }
        }
    }
    miss(bytes)
}

/// Frees `block`, or tail-calls `miss`. `spill` takes slots that the heap has no room for.
///
/// # Safety
/// `block` is null or a block of this lane that is no longer used.
#[inline(always)]
pub unsafe fn free_or<L: Lane>(block: *mut u8, miss: impl FnOnce(*mut u8), spill: impl Fn(&HeapOf<L>, Bin, Slot)) {
    let pages = &L::allocator().pages;
    let tag = pages.tag(block.addr());
    let bin = tag.bin();
    // SAFETY: `entries` is this thread's pointer. Only its heap has loaded entries, without another reference. `tag` is
    // the page's; after `require_live` the caller gives up a live slot of `bin`.
    unsafe {
        let entries = L::heap();
        if bin == FOREIGN || !(*entry_at(entries, bin)).is_loaded() {
            return miss(block);
        }
        require_live(pages, "free()", tag, block);
        usable::<L>("free()", bin, block);
        free_mark::wipe(block, bins::info(bin).slot_bytes as usize);
        quarantine::<L>(&*entries.cast(), bin, Slot::new(block), spill);
    }
}

/// Puts the wiped `slot` into quarantine. Slots that must leave it go to a magazine or, if that is full or their span is being
/// vacated, to `spill`.
#[inline]
pub fn quarantine<L: Lane>(heap: &HeapOf<L>, bin: Bin, slot: Slot, spill: impl Fn(&HeapOf<L>, Bin, Slot)) {
    let bytes = bins::info(bin).slot_bytes as usize;
    let mut random = heap.random::<L::Os>();
    loop {
        heap.begin_change::<L>();
        let Some((leaving, slot)) = heap.quarantine.make_room(bytes, random) else { break };
        let entry = heap.entry(leaving);
        if entry.is_full() || L::allocator().pages.is_vacating(slot.address()) {
            heap.end_change();
            spill(heap, leaving, slot);
        } else {
            // SAFETY: the entry is one of this thread's heap and not full.
            unsafe { Entry::push(core::ptr::from_ref(entry).cast_mut(), slot) }
            heap.end_change();
        }
        // Only a large slot displaces several.
        random = random.wrapping_mul(0x915f_77f5);
    }
    heap.quarantine.put(bin, slot);
    heap.end_change();
}
