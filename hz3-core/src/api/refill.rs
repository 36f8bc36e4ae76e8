//! Refill: fills a thread's empty entry.
//!
//! ```text
//! spare magazine → own depot → own inbox → other shards' → slots at home, own and others' → fresh slots → new span
//! ```
//!
//! In a bin that is spread: from spans alone.
//!
//! A producer refills in order: [`crate::thread::flow`]. Policy acts here, once per magazine, never on a hit.

use crate::allocator::{HeapOf, Lane};
use crate::pages::bins;
use crate::pages::policy::shape;
use crate::pages::slot::Places;
use crate::platform::atomic::Ordering;
use crate::platform::prefetch;
use crate::platform::units::Bin;
use crate::thread::flow;
use crate::thread::heap::count;
use crate::transfer::carve::{carve, carve_own};
use crate::transfer::homeward::Homeward;
use crate::transfer::magazine::Magazine;
use core::ptr::null_mut;

/// Bytes of a thread's first carve of a bin, unless one slot is larger. Chosen: a page; short-lived threads touch few.
const FIRST_BATCH_BYTES: u32 = 4096;

/// Of so many carves, one may adopt an orphan. Chosen: they hand out a few times what an orphan has cached.
const CARVES_PER_ORPHAN: u64 = 256;

/// Fills the empty entry of `bin`; false when memory has run out. `flush` empties heaps orphaned by a fork. May take
/// locks.
///
/// # Safety
/// The heap is the calling thread's, and the entry is empty.
pub unsafe fn refill<L: Lane>(heap: &HeapOf<L>, bin: Bin, flush: unsafe fn(&HeapOf<L>)) -> bool {
    heap.mark_active(bin);
    // SAFETY: the heap is this thread's and the entry is empty; each step that fails leaves it empty.
    unsafe {
        load_spare::<L>(heap, bin)
            || refill_in_order::<L>(heap, bin)
            || take_full::<L>(heap, bin)
            || refill_from_spans::<L>(heap, bin, flush)
    }
}

/// # Safety
/// As for [`refill`].
unsafe fn load_spare<L: Lane>(heap: &HeapOf<L>, bin: Bin) -> bool {
    let entry = heap.entry(bin);
    let spare = entry.spare();
    // SAFETY: the caller owns the heap and both magazines; `load` runs only if nothing is loaded.
    unsafe {
        if spare.is_null() || (*spare).count() == 0 {
            return false;
        }
        if entry.is_loaded() {
            entry.swap();
        } else {
            // A spill gave its full magazine away and found no empty one.
            entry.set_spare(null_mut());
            entry.load(spare);
        }
    }
    true
}

/// # Safety
/// As for [`refill`].
unsafe fn take_full<L: Lane>(heap: &HeapOf<L>, bin: Bin) -> bool {
    let Some((full, is_stolen)) = L::allocator().exchange.take_full(heap.shard.get(), bin) else { return false };
    // SAFETY: the heap is this thread's, the entry is empty, and the magazine taken is this thread's.
    unsafe { load_full::<L>(heap, bin, full, is_stolen) };
    true
}

/// Loads `full` and gives away the empty magazine in its place, if any.
///
/// # Safety
/// As for [`refill`]; the caller owns `full`.
unsafe fn load_full<L: Lane>(heap: &HeapOf<L>, bin: Bin, full: *mut Magazine, is_stolen: bool) {
    let allocator = L::allocator();
    let entry = heap.entry(bin);
    // SAFETY: the caller owns the heap and `full`; an unloaded magazine is this thread's, and is given up once.
    unsafe {
        let emptied = entry.unload();
        entry.load(full);
        if let Some(emptied) = emptied {
            // The empty magazine goes to the full one's shard, so that empties don't pile up in producers' shards.
            (*emptied).origin = (*full).origin;
            allocator.exchange.return_empty(emptied);
        }
        count(if is_stolen { &heap.counters.steals } else { &heap.counters.refills }, 1);
        note_refill::<L>(heap, bin, usize::from((*full).count()));
    }
}

fn note_refill<L: Lane>(heap: &HeapOf<L>, bin: Bin, slots: usize) {
    heap.balances.note_refill(bin, shape::<L>(bin).capacity, slots);
    let allocator = L::allocator();
    if allocator.options().counts_heat() {
        allocator.exchange.heat.note_refill(bin, slots);
    }
}

/// [`refill`] for a producer ([`flow`]); false if the thread is none or its shard has nothing.
///
/// # Safety
/// As for [`refill`].
unsafe fn refill_in_order<L: Lane>(heap: &HeapOf<L>, bin: Bin) -> bool {
    let capacity = shape::<L>(bin).capacity;
    if !L::KEEPS_ORDER || !heap.balances.is_producer(bin, capacity) {
        return false;
    }
    let allocator = L::allocator();
    let (shard, slot_bytes) = (heap.shard.get(), bins::info(bin).slot_bytes as usize);
    // SAFETY: the entry and what was taken are this thread's; `slots` ends before `full` is loaded; `fill` finds a
    // magazine.
    unsafe {
        let overflow = allocator.exchange.reverse_inbox_into_depot(shard, bin);
        if overflow != 0 {
            Homeward::new(&allocator.pages, &allocator.exchange, shard).send_chain(bin, overflow);
        }
        if let Some(full) = allocator.exchange.take_full_of(shard, bin) {
            // Magazines pop at the end. Reversed, the oldest slot leaves first.
            let slots = Magazine::contents(full);
            slots.reverse();
            slots.iter().for_each(|slot| prefetch::to_write(slot.as_ptr()));
            let has_order = flow::has_order(slots, slot_bytes);
            load_full::<L>(heap, bin, full, false);
            if !has_order {
                heap.balances.forget(bin);
            }
            return true;
        }
        if !heap.entry(bin).is_loaded() || !heap.balances.may_take_own() {
            return false;
        }
        heap.balances.note_own(usize::from(capacity) * slot_bytes);
        fill::<L>(heap, bin, capacity, |places| carve_own(&allocator.pages, &allocator.exchange, shard, bin, places))
    }
}

/// [`refill`] from spans alone.
///
/// # Safety
/// As for [`refill`].
pub unsafe fn refill_from_spans<L: Lane>(heap: &HeapOf<L>, bin: Bin, flush: unsafe fn(&HeapOf<L>)) -> bool {
    let allocator = L::allocator();
    let shard = heap.shard.get();
    // SAFETY: `load` finds nothing loaded; an orphan is this thread's until given; `batch` is within the capacity.
    unsafe {
        if !heap.entry(bin).is_loaded() {
            let Some(magazine) = allocator.exchange.empty_magazine(shard, bin) else { return false };
            heap.entry(bin).load(magazine);
        }
        let batch = next_batch::<L>(heap, bin);
        // Now and then, for a bin that it needs much of: most forked children need little.
        // Relaxed: this thread's own count.
        let is_due =
            batch == shape::<L>(bin).capacity && heap.counters.carves.load(Ordering::Relaxed) % CARVES_PER_ORPHAN == 0;
        if let Some(orphan) = is_due.then(|| allocator.heaps.adopt()).flatten() {
            flush(&*orphan);
            allocator.heaps.give(orphan);
        }
        fill::<L>(heap, bin, batch, |places| carve(&allocator.pages, &allocator.exchange, shard, bin, places))
    }
}

/// False if `carve`, given `batch` places of the loaded, empty magazine, takes no slot.
///
/// # Safety
/// As for [`refill`]; a magazine of at least `batch` places is loaded.
unsafe fn fill<L: Lane>(heap: &HeapOf<L>, bin: Bin, batch: u16, carve: impl FnOnce(&mut Places) -> usize) -> bool {
    let entry = heap.entry(bin);
    // SAFETY: the caller owns the heap; the magazine has `batch` places, and `carve` fills the first `taken` of them.
    let taken = unsafe {
        let taken = carve(entry.places(batch));
        entry.set_count(taken);
        taken
    };
    count(&heap.counters.carves, 1);
    note_refill::<L>(heap, bin, taken);
    taken > 0
}

/// Few slots at first, so that a thread which needs one block touches few pages; then twice as many each time.
fn next_batch<L: Lane>(heap: &HeapOf<L>, bin: Bin) -> u16 {
    let capacity = shape::<L>(bin).capacity;
    let Some(batch) = heap.batches.get(usize::from(bin.0)) else { return 1 };
    let first = (FIRST_BATCH_BYTES / bins::info(bin).slot_bytes.max(1)).clamp(1, u32::from(L::FIRST_BATCH)) as u16;
    let now = u16::from(batch.get()).max(first).min(capacity);
    batch.set((now * 2).min(capacity) as u8);
    now
}
