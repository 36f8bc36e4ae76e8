//! Cold bins: a thread gives the slots of bins that it hardly uses back to their spans.
//!
//! ```text
//! look      look      look          every 250 ms, on a slow path
//!   | r   s   |  ·  ·   |           r, s: slow paths of the bin, · hits only
//!             kept      sent home, into their spans
//! ```
//!
//! What a magazine holds was freed in any order and lies on as many pages as it has slots. In a bin that lives on hits
//! alone, a few dozen slots circulate for ever, and each keeps a page from going back to the system. Once at home they
//! are handed out by address, so that the bin's next slots lie side by side.

use crate::pages::bins::BINS;
use crate::pages::page_heap::PageHeap;
use crate::platform::units::{Bin, elapsed_ms};
use crate::thread::heap::Heap;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::Homeward;
use crate::transfer::remote_stash::{RemoteStash, Sparse};

/// Milliseconds between two looks. Chosen: long against a time slice, short against the purge delay.
pub const LOOK_MS: u32 = 250;

/// Sends home what the magazines of those bins hold that took no slow path since the last look. Such a bin begins
/// with a small batch when it is used again. Looks at most once per [`LOOK_MS`].
///
/// # Safety
/// The caller owns the heap.
pub unsafe fn drop_cold_bins<P: Sharded, S: RemoteStash, Q>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heap: *mut Heap<S, Q>,
    now: u32,
) {
    // SAFETY: the caller's promise; each magazine is disposed of once.
    unsafe {
        let heap = &mut *heap;
        if elapsed_ms(heap.looked, now) < LOOK_MS {
            return;
        }
        heap.looked = now;
        heap.unsettled();
        // Nobody needed them since the last look, or they were freed since then, which is as good as: they make no span
        // young.
        let mut homeward = Homeward::idle(pages, exchange, heap.shard);
        let mut stash = Sparse::<256>::new();
        for bin in (1..BINS as u8).map(Bin) {
            let Some(active) = heap.active.get_mut(usize::from(bin.0)) else { continue };
            if core::mem::replace(active, false) {
                continue;
            }
            heap.balances.forget(bin);
            let magazines = heap.entry(bin).unload_all();
            if let Some(batch) = heap.batches.get_mut(usize::from(bin.0)) {
                *batch = 0;
            }
            for magazine in magazines.into_iter().flatten() {
                homeward.send_magazine(bin, magazine.as_ptr(), &mut stash);
            }
        }
        stash.flush(&mut homeward);
        heap.stash.flush(&mut homeward);
        heap.settled();
    }
}
