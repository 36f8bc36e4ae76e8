//! Cold bins: a thread sends the cached slots of rarely used bins home to their spans.
//!
//! ```text
//! check     check     check         at most every 250 ms, on a miss
//!   | r   s   |  ·  ·   |           r: refill, s: spill, ·: hit
//!             kept      sent home
//! ```
//!
//! In a bin that only hits, a few dozen slots circulate for ever, and each may keep a page from being purged. Spans
//! carve by address, so the bin's next slots lie side by side.

use crate::pages::bins::BINS;
use crate::pages::page_heap::PageHeap;
use crate::platform::units::{Bin, elapsed_ms};
use crate::thread::heap::Heap;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::Homeward;
use crate::transfer::remote_stash::{ON_STACK, RemoteStash, Sparse};

/// Milliseconds between two checks. Chosen: long against a time slice, short against the purge delay.
pub const LOOK_MS: u32 = 250;

/// Sends the slots of every bin without a miss since the last check home, and the stash with them. Does nothing within
/// [`LOOK_MS`] of the last check. `now` is in milliseconds. Takes owners' locks.
///
/// # Safety
/// The caller owns `heap` and keeps no reference into it.
// Not inlined: what its caller does next would lie below its stash.
#[inline(never)]
pub unsafe fn send_cold_bins_home<P: Sharded, S: RemoteStash, Q>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heap: &Heap<S, Q>,
    now: u32,
) {
    // SAFETY: the caller owns `heap`. Each magazine is taken out, so not loaded, and sent once.
    unsafe {
        if elapsed_ms(heap.last_look_ms.get(), now) < LOOK_MS {
            return;
        }
        heap.last_look_ms.set(now);
        heap.begin_change::<P>();
        // Idle: these slots do not restart their spans' purge delay.
        let mut homeward = Homeward::idle(pages, exchange, heap.shard.get());
        let stash = Sparse::<ON_STACK>::new();
        for bin in (1..BINS as u8).map(Bin) {
            let Some(active) = heap.active.get(usize::from(bin.0)) else { continue };
            if active.replace(false) {
                continue;
            }
            heap.balances.forget(bin);
            let magazines = heap.entry(bin).unload_all();
            if let Some(batch) = heap.batches.get(usize::from(bin.0)) {
                batch.set(0);
            }
            for magazine in magazines.into_iter().flatten() {
                homeward.send_magazine(bin, magazine.as_ptr(), &stash);
            }
        }
        stash.flush(&mut homeward);
        heap.stash.flush(&mut homeward);
        heap.end_change();
    }
}
