//! Checked: the paths of `malloc` and `free` in the hardened lane that nearly every call takes.
//!
//! ```text
//! malloc   size + trailer → entry of its bin → a slot of the loaded magazine, drawn → look, unmark, canary
//! free     address → page tag → span: a slot? free already? canary whole? → wipe, mark → quarantine
//!                                                                  what leaves that → entry of its bin → push
//! ```
//!
//! As on the hit paths of the other lanes, a thread without a heap, or sampled, meets entries that are all null and
//! leaves for the slow path.

use crate::api::hot;
use crate::api::slow;
use crate::hardening::free_mark;
use crate::hardening::quarantine::Quarantine;
use crate::hardening::validation::{hand_out, require_live, usable};
use crate::lane::Lane;
use crate::pages::bins::{self, FOREIGN, bin_for};
use crate::platform::sync::{Ordering, compiler_fence};
use crate::platform::units::Bin;
use crate::thread::heap::{Entries, Entry, Heap};

/// Among how many slots of a magazine one is drawn: the last ones. Chosen: what programs allocate one after another they
/// read one after another, and the more of that order is lost, the longer they wait for memory. Python's objects took
/// 1.5 times the scale lane's time where nothing was drawn, and 1.9 times among 16 here and in quarantine.
const DRAWN: usize = 4;

/// The entry of `bin` at a thread's pointer.
///
/// # Safety
/// `entries` is a heap's, a decoy's or one of the static heaps.
#[inline(always)]
unsafe fn entry_of(entries: *mut Entries, bin: Bin) -> *mut Entry {
    // SAFETY: the caller's promise; every bin has an entry.
    unsafe { entries.byte_add(usize::from(bin.0) * bins::BIN_ENTRY_BYTES).cast() }
}

/// [`hot::malloc_or`] of a hardened lane.
#[inline(always)]
pub fn malloc_or<L: Lane>(bytes: usize, miss: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    if let Some(bin) = bin_for(bytes.saturating_add(L::TRAILER_BYTES)) {
        // SAFETY: an entry that holds a slot is that of this thread's heap, which nothing else refers to; the slot that
        // leaves it is this thread's alone.
        unsafe {
            let entries = L::heap();
            let entry = entry_of(entries, bin);
            if (*entry).top != (*entry).base {
                return hand_out::<L>(draw(&mut *entries.cast::<Heap<L>>(), entry), bin, bytes);
            }
        }
    }
    miss(bytes)
}

/// Takes a slot out of the loaded magazine of `entry`, which holds some: any of them.
///
/// # Safety
/// The entry is the heap's.
#[inline(always)]
pub unsafe fn draw<L: Lane>(heap: &mut Heap<L>, entry: *mut Entry) -> *mut u8 {
    // SAFETY: between `base` and `top` the magazine's slots are initialised.
    unsafe {
        let base = (*entry).base;
        let held = (*entry).top.offset_from_unsigned(base);
        let place = base.add(held - 1 - heap.random_below(held.min(DRAWN)));
        let slot = *place;
        (*entry).top = (*entry).top.sub(1);
        // A forked child that sees this thread stopped here loses one slot, and finds none twice.
        compiler_fence(Ordering::Release);
        *place = *(*entry).top;
        slot
    }
}

/// [`hot::free`] of a hardened lane.
///
/// # Safety
/// As for [`hot::free`].
#[inline(always)]
pub unsafe fn free<L: Lane>(block: *mut u8) {
    let tag = L::allocator().runs.arenas.tag_value(block.addr());
    let bin = tag.bin();
    // SAFETY: where the block is what it should be, it is nobody's any more; an entry with a magazine is that of this
    // thread's heap, which nothing else refers to.
    unsafe {
        let entries = L::heap();
        if bin == FOREIGN || (*entry_of(entries, bin)).limit.is_null() {
            return slow::free::<L>(block);
        }
        require_live::<L>("free()", tag, block);
        usable::<L>("free()", bin, block);
        free_mark::wipe(block, bins::info(bin).slot_bytes as usize);
        quarantine(&mut *entries.cast::<Heap<L>>(), bin, block);
    }
}

/// Puts `block`, a wiped slot, into the heap's quarantine, and what has to leave that into a magazine.
#[inline]
pub(crate) fn quarantine<L: Lane>(heap: &mut Heap<L>, bin: Bin, block: *mut u8) {
    let bytes = bins::info(bin).slot_bytes as usize;
    let mut random = heap.random();
    loop {
        heap.unsettled();
        let Some((leaving, slot)) = heap.quarantine.make_room(bytes, random) else { break };
        heap.settled();
        let entry = heap.entry(leaving);
        if entry.top == entry.limit {
            slow::push_or_spill(heap, leaving, slot);
        } else {
            // SAFETY: there is room below `limit`.
            unsafe { hot::push(entry, entry.top, slot) }
        }
        // Only a large slot makes several leave.
        random = random.wrapping_mul(0x915f_77f5);
    }
    heap.quarantine.put(bin, block);
    heap.settled();
}
