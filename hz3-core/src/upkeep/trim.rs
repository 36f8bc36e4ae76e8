//! Trim: all that lies free comes together, because a thread ends, the program asks for it, or memory has run out.
//!
//! ```text
//! flush    a heap's magazines that hold enough → the depot of its shard; the others, stash and quarantine → home
//! gather   the calling thread's heap, all depots → spans → holes, runs → operating system
//! ```

use crate::hardening::quarantine::Quarantine;
use crate::pages::bins::{self, BINS};
use crate::pages::page_heap::PageHeap;
use crate::platform::os::Os;
use crate::platform::units::{Bin, PAGE_BYTES};
use crate::thread::heap::Heap;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::{Homeward, empty_depots};
use crate::transfer::remote_stash::RemoteStash;
use crate::upkeep::holes::purge_all_holes;

/// Empties `heap`.
///
/// # Safety
/// The caller owns the heap.
pub unsafe fn flush<P: Sharded, S: RemoteStash, Q: Quarantine>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heap: *mut Heap<S, Q>,
) {
    // SAFETY: the caller's promise; each magazine is disposed of once.
    unsafe {
        let heap = &mut *heap;
        let shard = heap.shard;
        heap.unsettled();
        let mut homeward = Homeward::new(pages, exchange, shard);
        for bin in (1..BINS as u8).map(Bin) {
            for magazine in heap.entry(bin).unload_all().into_iter().flatten() {
                let magazine = magazine.as_ptr();
                if !P::ADOPT || !(*magazine).is_worthwhile() || !exchange.put_full(shard, bin, magazine, false) {
                    homeward.send_magazine(bin, magazine, &mut heap.stash);
                }
            }
        }
        while let Some((bin, slot)) = heap.quarantine.take() {
            homeward.send_slot(bin, slot, &mut heap.stash);
        }
        heap.stash.flush(&mut homeward);
        heap.settled();
    }
}

/// Gives all free memory that can be reached back to the system; whether any went. Other threads' caches are theirs alone.
pub fn gather<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>) -> bool {
    empty_depots(pages, exchange);
    if P::HARDENED {
        pages.release_waiting(0, 0);
    }
    let now = P::Os::now_ms();
    let returned = pages.unmap_again(usize::MAX);
    purge_all_holes(pages, exchange, now) + pages.purge(now, 0, usize::MAX) + returned > 0
}

/// Whether `bytes` could be served if all caches were empty and all that is free came together: there are at least as
/// many in free runs, in spans of small blocks, and in mappings that the system did not take back. To give pages back
/// makes no further mapping possible: the system's limits count address space.
#[cold]
pub fn may_be_met<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, bytes: usize) -> bool {
    let (dirty, clean, purging) = pages.runs.free_bytes();
    let mut most = dirty + clean + purging + pages.direct.unreturned().1 + pages.guards.waiting_bytes();
    for shard in exchange.used_shards() {
        if most >= bytes {
            break;
        }
        let owned = exchange.shard(shard).owned().lock();
        for bin in (1..BINS as u8).map(Bin) {
            most += owned.counts(bin).1 as usize * usize::from(bins::info(bin).span_pages) * PAGE_BYTES;
        }
    }
    most >= bytes
}
