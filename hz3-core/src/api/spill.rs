//! Spill: makes room in a thread's full entry.
//!
//! ```text
//! empty magazine → spare magazine → scale, hardened: own depot, else home through the sparse stash
//!                                   fast: remote slots into the dense stash; only own ones: own depot, else the stash
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

/// Makes room in the full entry of `bin`; false when memory has run out. May take a shard's lock.
///
/// # Safety
/// The heap is the calling thread's, and the entry is full.
pub unsafe fn spill<L: Lane>(heap: &HeapOf<L>, bin: Bin) -> bool {
    heap.mark_active(bin);
    // SAFETY: the heap is this thread's. `oldest` is loaded and full when passed on, and unloaded once given away.
    unsafe {
        if !heap.entry(bin).is_loaded() {
            return load_empty::<L>(heap, bin);
        }
        let Some(oldest) = swap_with_spare::<L>(heap, bin) else { return false };
        if !heap.entry(bin).is_full() {
            return true;
        }
        check_slots::<L>(heap, bin, oldest);
        // Before it is given away, because from then on it is another thread's.
        heap.entry(bin).unload();
        let has_room = !L::ADOPT && send_remote_slots_home::<L>(heap, bin, oldest);
        if !has_room {
            if put_full::<L>(heap, bin, oldest) {
                return load_empty::<L>(heap, bin);
            }
            send_home::<L>(heap, bin, oldest);
        }
        heap.entry(bin).load(oldest);
        true
    }
}

/// False when memory has run out.
///
/// # Safety
/// The heap is the calling thread's, and nothing is loaded for `bin`.
unsafe fn load_empty<L: Lane>(heap: &HeapOf<L>, bin: Bin) -> bool {
    let Some(magazine) = L::allocator().exchange.empty_magazine(heap.shard.get(), bin) else { return false };
    // SAFETY: the heap and the magazine are this thread's, and nothing is loaded.
    unsafe { heap.entry(bin).load(magazine) };
    true
}

/// The newly loaded magazine: empty, or the older of two full ones. `None` when memory has run out.
///
/// # Safety
/// The heap is the calling thread's, and a magazine is loaded for `bin`.
unsafe fn swap_with_spare<L: Lane>(heap: &HeapOf<L>, bin: Bin) -> Option<*mut Magazine> {
    // SAFETY: the caller owns the heap; both magazines are there, and one that was just made is this thread's.
    unsafe {
        if heap.entry(bin).spare().is_null() {
            let magazine = L::allocator().exchange.empty_magazine(heap.shard.get(), bin)?;
            heap.entry(bin).set_spare(magazine);
        }
        heap.entry(bin).swap();
        heap.entry(bin).loaded()
    }
}

/// Aborts the process if `magazine` has an address that is no slot of `bin`, in a lane that marks.
///
/// # Safety
/// The heap is the calling thread's, in a change, and `magazine`, with its slots counted, is one of the entry's two.
pub unsafe fn check_slots<L: Lane>(heap: &HeapOf<L>, bin: Bin, magazine: *mut Magazine) {
    // SAFETY: the caller owns the magazine, and nothing else refers to its slots; 0 places need no slots.
    unsafe {
        if !L::MARKS {
            return;
        }
        if let Some(address) = first_invalid(&L::allocator().pages, bin, Magazine::contents(magazine)) {
            // The program's SIGABRT handler may allocate.
            heap.entry(bin).unload_all();
            heap.end_change();
            misuse_of::<L>("free()", "invalid pointer", bin, address);
        }
    }
}

#[inline]
fn note_freed<L: Lane>(shard: ShardId, bin: Bin, adopted: bool, slots: &[Slot]) {
    let allocator = L::allocator();
    if allocator.options().counts_heat() {
        let owners = slots.iter().map(|slot| allocator.pages.owner(slot.address()));
        allocator.exchange.heat.note_freed(shard, bin, adopted, owners);
    }
}

/// Gives the full `magazine` to the own depot or, from a consumer, to its slots' one owner; false if that is full.
///
/// # Safety
/// As for [`spill`]; the caller owns `magazine`, which is not loaded, and no longer does after a success.
unsafe fn put_full<L: Lane>(heap: &HeapOf<L>, bin: Bin, magazine: *mut Magazine) -> bool {
    let allocator = L::allocator();
    let shard = heap.shard.get();
    // SAFETY: the caller owns `magazine`, its slots are counted, and nothing else refers to them.
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
/// As for [`spill`]; the caller owns `magazine`, which is not loaded.
unsafe fn send_home<L: Lane>(heap: &HeapOf<L>, bin: Bin, magazine: *mut Magazine) {
    let allocator = L::allocator();
    // SAFETY: the caller owns the heap and `magazine`, which is not loaded.
    unsafe {
        count(&heap.counters.homeward, u64::from((*magazine).count()));
        let mut homeward = Homeward::new(&allocator.pages, &allocator.exchange, heap.shard.get());
        homeward.send_slots(bin, magazine, &heap.stash);
    }
}

/// Sends home the slots of the full `magazine` that other shards own; true if that made room.
///
/// # Safety
/// As for [`send_home`].
unsafe fn send_remote_slots_home<L: Lane>(heap: &HeapOf<L>, bin: Bin, magazine: *mut Magazine) -> bool {
    let allocator = L::allocator();
    let shard = heap.shard.get();
    let mut homeward = Homeward::new(&allocator.pages, &allocator.exchange, shard);
    // SAFETY: the caller owns the heap and `magazine`; `kept` never passes the drain.
    unsafe {
        let (places, all) = (Magazine::slots(magazine), usize::from((*magazine).count()));
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
        (*magazine).set_count(kept as u16);
        kept < all
    }
}

/// Bytes of a cache line. Outside rule: x86-64 and nearly all AArch64.
const LINE_BYTES: u32 = 64;

/// Sends `slot`, the first that a thread frees in a bin, home if it shares a cache line with another shard's slots: its
/// reuse would share that line falsely, again and again. Otherwise returns it.
pub fn send_shared_line_home<L: Lane>(heap: &HeapOf<L>, bin: Bin, slot: Slot) -> Option<Slot> {
    let (allocator, shard) = (L::allocator(), heap.shard.get());
    let owner = allocator.pages.owner(slot.address());
    if bins::info(bin).slot_bytes >= LINE_BYTES || owner == shard {
        return Some(slot);
    }
    heap.stash.put(owner, bin, slot, &mut Homeward::new(&allocator.pages, &allocator.exchange, shard));
    None
}
