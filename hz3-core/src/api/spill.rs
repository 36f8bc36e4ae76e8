//! Spill: what makes room in a thread's full entry.
//!
//! ```text
//! empty magazine, spare magazine → own depot (adopted) → home through the stash (not adopted, or depot full)
//! ```
//!
//! A consumer's magazine goes to its owner's inbox: [`crate::thread::flow`].

use crate::allocator::{HeapOf, Lane};
use crate::hardening::validation::{first_invalid, misuse_of};
use crate::pages::bins;
use crate::pages::slot::Slot;
use crate::platform::units::{Bin, ShardId};
use crate::thread::flow;
use crate::thread::heap::count;
use crate::transfer::homeward::Homeward;
use crate::transfer::magazine::Magazine;
use crate::transfer::remote_stash::RemoteStash;

/// Makes room in the full entry of `bin`; false where it can't.
///
/// # Safety
/// The heap is the calling thread's, and the entry is full.
pub unsafe fn spill<L: Lane>(heap: &mut HeapOf<L>, bin: Bin) -> bool {
    heap.mark_active(bin);
    // SAFETY: the heap is this thread's and its magazines with it.
    unsafe {
        if !heap.entry(bin).is_loaded() {
            return load_empty::<L>(heap, bin);
        }
        let Some(oldest) = swap_with_spare::<L>(heap, bin) else { return false };
        if !heap.entry(bin).is_full() {
            return true;
        }
        stop_at_a_stranger::<L>(heap, bin, oldest);
        // Before it is given away, because from then on it is another thread's.
        heap.entry(bin).unload();
        if L::ADOPT || !keep_own::<L>(heap, bin, oldest) {
            if put_full::<L>(heap, bin, oldest) {
                return load_empty::<L>(heap, bin);
            }
            send_home::<L>(heap, bin, oldest);
        }
        heap.entry(bin).load(oldest);
        true
    }
}

/// Loads an empty magazine; false where there is none.
///
/// # Safety
/// As for [`spill`]; nothing is loaded.
unsafe fn load_empty<L: Lane>(heap: &mut HeapOf<L>, bin: Bin) -> bool {
    let Some(magazine) = L::allocator().exchange.empty_magazine(heap.shard, bin) else { return false };
    // SAFETY: the caller's promise; the magazine is this thread's.
    unsafe { heap.entry(bin).load(magazine) };
    true
}

/// Exchanges the loaded magazine for the spare one, made where there is none. Returns what is loaded then: an empty
/// magazine, or the older of two full ones. `None` when memory has run out.
///
/// # Safety
/// As for [`spill`]; a magazine is loaded.
unsafe fn swap_with_spare<L: Lane>(heap: &mut HeapOf<L>, bin: Bin) -> Option<*mut Magazine> {
    // SAFETY: the caller's promise; a magazine that was just made is this thread's.
    unsafe {
        if heap.entry(bin).spare().is_null() {
            let magazine = L::allocator().exchange.empty_magazine(heap.shard, bin)?;
            heap.entry(bin).set_spare(magazine);
        }
        heap.entry(bin).swap();
        heap.entry(bin).loaded()
    }
}

/// In a lane that marks: stops the process where `magazine` has an address that is no slot of `bin`.
///
/// # Safety
/// As for [`spill`]; the magazine is loaded.
unsafe fn stop_at_a_stranger<L: Lane>(heap: &mut HeapOf<L>, bin: Bin, magazine: *mut Magazine) {
    // SAFETY: the caller's promise.
    unsafe {
        if L::MARKS
            && let Some(address) = first_invalid(&L::allocator().pages, bin, Magazine::contents(magazine))
        {
            // A handler of the program's for SIGABRT may allocate.
            heap.entry(bin).set_count(0);
            heap.end_change();
            misuse_of::<L>("free()", "invalid pointer", bin, address);
        }
    }
}

/// Notes slots of `bin` that the thread hands on, if that is asked for; `adopted` says whether those of others stay with
/// its shard.
#[inline]
fn note_freed<L: Lane>(shard: ShardId, bin: Bin, adopted: bool, slots: &[Slot]) {
    let allocator = L::allocator();
    if allocator.options().counts_heat() {
        let owners = slots.iter().map(|slot| allocator.pages.owner(slot.address()));
        allocator.exchange.heat.note_freed(shard, bin, adopted, owners);
    }
}

/// Puts the full `magazine` into the depot of the thread's shard, or, for a consumer whose slots have one owner, into
/// that owner's inbox; false, and nothing done, where that is full.
///
/// # Safety
/// As for [`spill`]; the caller owns the magazine, which is not loaded, and no longer does after a success.
unsafe fn put_full<L: Lane>(heap: &mut HeapOf<L>, bin: Bin, magazine: *mut Magazine) -> bool {
    let allocator = L::allocator();
    let shard = heap.shard;
    // SAFETY: the caller's promise.
    unsafe {
        let (slots, capacity) = (Magazine::contents(magazine), (*magazine).capacity);
        let slot_count = slots.len();
        heap.balances.note_spill(bin, capacity, slot_count);
        let is_homeward = L::KEEPS_ORDER && heap.balances.is_consumer(bin, capacity);
        let owner = |slot: &Slot| allocator.pages.owner(slot.address());
        let home = is_homeward.then(|| flow::owner_of_all(slots, owner)).flatten().filter(|&owner| owner != shard);
        if allocator.options().counts_heat() {
            allocator.exchange.heat.note_spill(bin);
        }
        note_freed::<L>(shard, bin, L::ADOPT && home.is_none(), slots);
        if !allocator.exchange.put_full(home.unwrap_or(shard), bin, magazine, home.is_some()) {
            return false;
        }
        count(&heap.counters.spills, 1);
        count(&heap.counters.homeward, if home.is_some() { slot_count as u64 } else { 0 });
    }
    true
}

/// Sends the slots of the full `magazine` home; it is empty afterwards.
///
/// # Safety
/// As for [`spill`]; the caller owns the magazine, which is not loaded.
unsafe fn send_home<L: Lane>(heap: &mut HeapOf<L>, bin: Bin, magazine: *mut Magazine) {
    let allocator = L::allocator();
    // SAFETY: the caller's promise.
    unsafe {
        count(&heap.counters.homeward, u64::from((*magazine).count));
        let mut homeward = Homeward::new(&allocator.pages, &allocator.exchange, heap.shard);
        homeward.send_slots(bin, magazine, &mut heap.stash);
    }
}

/// Sends the slots of the full `magazine` that other shards own home; true where that made room.
///
/// # Safety
/// As for [`send_home`].
unsafe fn keep_own<L: Lane>(heap: &mut HeapOf<L>, bin: Bin, magazine: *mut Magazine) -> bool {
    let allocator = L::allocator();
    let shard = heap.shard;
    let mut homeward = Homeward::new(&allocator.pages, &allocator.exchange, shard);
    // SAFETY: the heap is this thread's and the magazine with it; each slot is moved once, to no later place.
    unsafe {
        let (places, all) = (Magazine::slots(magazine), usize::from((*magazine).count));
        let mut kept = 0;
        for slot in Magazine::drain(magazine) {
            let owner = allocator.pages.owner(slot.address());
            if owner == shard {
                places.add(kept).write(slot);
                kept += 1;
            } else {
                note_freed::<L>(shard, bin, false, core::slice::from_ref(&slot));
                heap.stash.put(owner, bin, slot, &mut homeward);
            }
        }
        count(&heap.counters.homeward, (all - kept) as u64);
        heap.balances.note_spill(bin, (*magazine).capacity, all - kept);
        (*magazine).count = kept as u16;
        kept < all
    }
}

/// Bytes of a cache line. Outside rule: x86-64, and AArch64 but for a few.
const LINE_BYTES: u32 = 64;

/// Sends `slot` home where it shares a cache line with slots of another shard; else returns it. For the first slot that a
/// thread frees in a bin: were it kept, it would be the next to be handed out, again and again, and its line would go back
/// and forth between this thread and its neighbours' for as long.
pub fn send_neighbour_home<L: Lane>(heap: &mut HeapOf<L>, bin: Bin, slot: Slot) -> Option<Slot> {
    let (allocator, shard) = (L::allocator(), heap.shard);
    let owner = allocator.pages.owner(slot.address());
    if bins::info(bin).slot_bytes >= LINE_BYTES || owner == shard {
        return Some(slot);
    }
    heap.stash.put(owner, bin, slot, &mut Homeward::new(&allocator.pages, &allocator.exchange, shard));
    None
}
