//! Last resort: all that lies free comes together, because the program asks for it or because memory has run out.
//!
//! ```text
//! malloc_trim            this thread's cache, depots, holes, runs; the other threads' caches at their next slow path
//! a failed request       the same, where it could be met by that; the others are asked now and then only
//! ```
//!
//! A program may probe for sizes that can't be had, as often as it likes: that must not cost its other threads their
//! caches, nor itself more than a look at the books.

use crate::allocator::Lane;
use crate::pages::bins::{self, BINS};
use crate::platform::os::Os;
use crate::platform::units::{Bin, PAGE_BYTES};
use crate::thread::flush::flush;
use crate::thread::heap::{behind, is_static};
use crate::transfer::homeward::empty_depots;
use crate::upkeep::holes::purge_all_holes;

/// The attempt's result, or, where the system has no more memory for `bytes`, that of a second one after everything
/// that lies free in caches has come together.
#[inline]
pub fn or_after_trim<L: Lane, T>(bytes: usize, attempt: impl Fn() -> Option<T>) -> Option<T> {
    attempt().or_else(|| {
        if !may_be_met::<L>(bytes) {
            return None;
        }
        L::allocator().ask_for_trim_now_and_then();
        gather::<L>();
        attempt()
    })
}

/// Whether `bytes` could be served if all caches were empty and all that is free came together: there are at least as
/// many in free runs, in spans of small blocks, and in mappings that the system did not take back. To give pages back
/// makes no further mapping possible: the system's limits count address space.
#[cold]
fn may_be_met<L: Lane>(bytes: usize) -> bool {
    let (pages, exchange) = (&L::allocator().pages, &L::allocator().exchange);
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

/// Gives all free memory that can be reached back to the system; whether any went. The calling thread's
/// cache is emptied too; other threads' caches are theirs alone, and each empties its own at its next slow
/// path.
pub fn trim<L: Lane>() -> bool {
    L::allocator().ask_for_trim();
    gather::<L>()
}

/// As [`trim`], without asking the other threads.
fn gather<L: Lane>() -> bool {
    let allocator = L::allocator();
    let (pages, exchange) = (&allocator.pages, &allocator.exchange);
    let entries = L::heap();
    if !is_static(entries) {
        // SAFETY: the heap is this thread's, and stays in use, empty.
        unsafe {
            let heap = behind::<L::Stash, L::Quarantine>(entries);
            (*heap).trims = allocator.trims();
            flush(pages, exchange, heap);
        }
    }
    empty_depots(pages, exchange);
    if L::HARDENED {
        pages.release_waiting(0, 0);
    }
    let now = L::Os::now_ms();
    let returned = pages.unmap_again(usize::MAX);
    purge_all_holes(pages, exchange, now) + pages.purge(now, 0, usize::MAX) + returned > 0
}
