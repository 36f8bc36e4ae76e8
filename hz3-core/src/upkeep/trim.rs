//! Trim: empties caches and purges free memory at thread exit, on request, or when memory has run out.
//!
//! ```text
//! flush       a heap's magazines with enough slots → its shard's depot (if the lane adopts);
//!             all other magazines, stash, quarantine → home
//! purge_all   all depots → spans → holes, runs → operating system
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

/// Empties `heap`. Takes owners' locks.
///
/// # Safety
/// The caller owns `heap` and keeps no reference into it.
pub unsafe fn flush<P: Sharded, S: RemoteStash, Q: Quarantine>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heap: &Heap<S, Q>,
) {
    // SAFETY: the caller owns `heap`. Each magazine is taken out, so not loaded, and given away once.
    unsafe {
        let shard = heap.shard.get();
        heap.begin_change();
        let mut homeward = Homeward::new(pages, exchange, shard);
        for bin in (1..BINS as u8).map(Bin) {
            for magazine in heap.entry(bin).unload_all().into_iter().flatten() {
                let magazine = magazine.as_ptr();
                if !P::ADOPT || !(*magazine).is_worthwhile() || !exchange.put_full(shard, bin, magazine, false) {
                    homeward.send_magazine(bin, magazine, &heap.stash);
                }
            }
        }
        while let Some((bin, slot)) = heap.quarantine.take() {
            homeward.send_slot(bin, slot, &heap.stash);
        }
        heap.stash.flush(&mut homeward);
        heap.end_change();
    }
}

/// Empties all depots and purges all free memory outside of threads' caches; whether any went. Takes shards' locks.
pub fn purge_all<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>) -> bool {
    empty_depots(pages, exchange);
    if P::HARDENED {
        pages.release_waiting(0, 0);
    }
    let now = P::Os::now_ms();
    let returned = pages.retry_unmaps(usize::MAX);
    purge_all_holes(pages, exchange, now) + pages.purge(now, 0, usize::MAX) + returned > 0
}

/// Whether a trim could make room for `bytes`: an upper bound. It counts address space, as the system's limits do; a
/// purge makes no room for a mapping. Takes shards' locks.
#[cold]
pub fn could_serve<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, bytes: usize) -> bool {
    let (dirty, clean, purging) = pages.runs.free_bytes();
    let mut most = dirty + clean + purging + pages.direct.unreturned().1 + pages.guards.waiting_bytes();
    for shard in exchange.shard_ids() {
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
