//! Flush: all slots of a heap leave it, because its thread ends, a trim was asked for, or its thread is gone with a fork.
//!
//! ```text
//! magazines that hold enough → the depot of the heap's shard
//! other magazines, quarantine → stash → home
//! ```

use crate::hardening::quarantine::Quarantine;
use crate::pages::bins::BINS;
use crate::pages::page_heap::PageHeap;
use crate::platform::units::Bin;
use crate::thread::heap::Heap;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::Homeward;
use crate::transfer::remote_stash::RemoteStash;

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
