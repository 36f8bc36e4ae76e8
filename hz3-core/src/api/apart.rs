//! Apart: in a bin that is [spread](crate::transfer::spread), what is freed does not serve again at once.
//!
//! ```text
//! malloc ← loaded, closed ← spans, one after the other
//! free   → spare → spans
//! ```

use crate::allocator::{HeapOf, Lane};
use crate::pages::policy::shape;
use crate::pages::slot::Slot;
use crate::platform::atomic::Ordering;
use crate::platform::units::Bin;
use crate::thread::heap::count;
use crate::transfer::depot::Links;
use crate::transfer::homeward::Homeward;
use crate::transfer::magazine::Magazine;
use core::ptr::null_mut;

/// Aborts the process if a magazine holds what is no slot.
pub type Check<L> = unsafe fn(&HeapOf<L>, Bin, *mut Magazine);

/// Whether frees of `bin` are to be kept apart. Opens the entry again if not.
///
/// # Safety
/// The heap is the calling thread's, in a change.
#[inline]
pub unsafe fn is_apart<L: Lane>(heap: &HeapOf<L>, bin: Bin) -> bool {
    let is_spread = L::allocator().exchange.spread.has(bin);
    if !is_spread && heap.entry(bin).is_closed() {
        heap.entry(bin).open(shape::<L>(bin).capacity);
        heap.balances.forget(bin);
    }
    is_spread
}

/// Closes the entry, and puts the freed `slot` into the spare, whose others go home if it is full. Returns the slot when
/// memory has run out. May take shards' locks.
///
/// # Safety
/// The heap is the calling thread's, in a change.
#[cold]
#[inline(never)]
pub unsafe fn put<L: Lane>(heap: &HeapOf<L>, bin: Bin, slot: Slot, check: Check<L>) -> Option<Slot> {
    heap.mark_active(bin);
    let entry = heap.entry(bin);
    entry.close();
    // SAFETY: the heap and its spare are this thread's. A spare that is not full has a place.
    unsafe {
        let spare = entry.spare();
        if !spare.is_null() && (*spare).lacking() == 0 {
            send_spare_home::<L>(heap, bin, check);
        }
        if entry.spare().is_null() {
            let Some(empty) = L::allocator().exchange.empty_magazine(heap.shard.get(), bin) else { return Some(slot) };
            entry.set_spare(empty);
        }
        Magazine::push(entry.spare(), slot);
    }
    None
}

/// Sends the spare's slots, and a full magazine of the depots, home. The refill that follows takes what spans have, and
/// closes the entry.
///
/// # Safety
/// The heap is the calling thread's, in a change.
#[cold]
#[inline(never)]
pub unsafe fn prepare_refill<L: Lane>(heap: &HeapOf<L>, bin: Bin, check: Check<L>) {
    let exchange = &L::allocator().exchange;
    heap.mark_active(bin);
    // SAFETY: the heap is this thread's, and so is a magazine that was taken.
    unsafe {
        if !heap.entry(bin).is_closed() {
            send_spare_home::<L>(heap, bin, check);
        }
        if let Some((full, _)) = exchange.take_full(heap.shard.get(), bin) {
            send_home::<L>(heap, bin, full);
        }
    }
}

/// # Safety
/// The heap is the calling thread's, in a change.
unsafe fn send_spare_home<L: Lane>(heap: &HeapOf<L>, bin: Bin, check: Check<L>) {
    let entry = heap.entry(bin);
    let spare = entry.spare();
    // SAFETY: the heap is this thread's, and the spare is taken out.
    unsafe {
        if !spare.is_null() {
            check(heap, bin, spare);
            entry.set_spare(null_mut());
            send_home::<L>(heap, bin, spare);
        }
    }
}

/// # Safety
/// The caller owns the magazine, which is not loaded, and gives it up.
unsafe fn send_home<L: Lane>(heap: &HeapOf<L>, bin: Bin, magazine: *mut Magazine) {
    let allocator = L::allocator();
    // SAFETY: the caller gives up the one magazine.
    unsafe {
        // Relaxed: the caller's.
        allocator.exchange.magazines.next((*magazine).id).store(0, Ordering::Relaxed);
        count(&heap.counters.homeward, u64::from((*magazine).count()));
        // Idle: their spans are to empty, so their age stays.
        Homeward::idle(&allocator.pages, &allocator.exchange, heap.shard.get()).send_chain(bin, (*magazine).id);
    }
}
