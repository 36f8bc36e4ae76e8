//! Cold bins: a thread sends the cached slots of rarely used bins home to their spans.
//!
//! ```text
//! check     check     check         at most every 250 ms, on a miss
//!   | r   s   |  ·  ·   |           r: refill, s: spill, ·: hit
//!             kept      sent home
//!
//! caches of all threads   ≤ 64 MiB: kept    above: who holds more than its share sends its coldest bins home
//! ```
//!
//! In a bin that only hits, a few dozen slots circulate for ever, and each may keep a page from being purged. Spans
//! carve by address, so the bin's next slots lie side by side.

use crate::pages::bins::BINS;
use crate::pages::page_heap::PageHeap;
use crate::platform::units::{Bin, elapsed_ms};
use crate::thread::heap::{Heap, TICKS};
use crate::thread::heaps::Heaps;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::Homeward;
use crate::transfer::remote_stash::{ON_STACK, RemoteStash, Sparse};

/// Milliseconds between two checks. Chosen: long against a time slice, short against the purge delay.
pub const LOOK_MS: u32 = 250;
/// Bytes that all threads may cache. Chosen: more helps no program measured.
const ALL_BYTES: usize = 64 << 20;
/// Bytes that a thread may cache when all have more than that.
const SHARE_BYTES: core::ops::RangeInclusive<usize> = 128 << 10..=2 << 20;
/// Heaps that together can't hold so much. Derived: 72 bins of two magazines of 32 KiB each.
const FEW_HEAPS: u32 = 14;
/// Of up to so many heaps, one pass of so many looks, while all cache little. Chosen: more heaps are soon above.
const SOME_HEAPS: u32 = 3 * FEW_HEAPS;
const PASSES: u8 = 8;
/// Misses between two looks while there is too much, as a part of the ordinary number.
const SOONER: u8 = 4;

/// Sends the slots of every bin without a miss since the last check home, and the stash with them. Does nothing within
/// [`LOOK_MS`] of the last check. `now` is in milliseconds. Takes owners' locks.
///
/// # Safety
/// The caller owns `heap` and keeps no reference into it.
pub unsafe fn send_cold_bins_home<P: Sharded, S: RemoteStash, Q>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heap: &Heap<S, Q>,
    now: u32,
) {
    if elapsed_ms(heap.last_look_ms.get(), now) < LOOK_MS {
        return;
    }
    heap.last_look_ms.set(now);
    let mut next = 1;
    let cold = || {
        while next < BINS as u8 {
            let bin = Bin(next);
            next += 1;
            if !heap.misses.begin_look(bin) {
                return Some(bin);
            }
        }
        None
    };
    // SAFETY: the caller's own promise.
    unsafe { send_bins_home(pages, exchange, heap, cold) };
}

/// Sends the coldest bins home if all threads cache too much, and this one more than its share. Takes owners' locks.
///
/// # Safety
/// As for [`send_cold_bins_home`].
pub unsafe fn keep_to_share<P: Sharded, S: RemoteStash, Q>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heaps: &Heaps<S, Q, P::Os>,
    heap: &Heap<S, Q>,
) {
    let made = heaps.made();
    if made <= FEW_HEAPS {
        return;
    }
    let is_seldom = heap.misses.pass() % PASSES != 0 && made <= SOME_HEAPS;
    if is_seldom && heaps.cached() <= ALL_BYTES {
        return;
    }
    let mut cached = heap.cached_bytes();
    if heaps.note_cached(heap, cached) <= ALL_BYTES {
        return;
    }
    heap.ticks.set(TICKS / SOONER);
    let share = (ALL_BYTES / made as usize).clamp(*SHARE_BYTES.start(), *SHARE_BYTES.end());
    if cached <= share {
        return;
    }
    // Bins without a miss for `age` passes, large slots first; then for half as many, and so on.
    let (mut age, mut bins) = (u8::MAX, BINS as u8);
    let coldest = || {
        // With room to the next look.
        while cached > share / 4 * 3 {
            bins -= 1;
            if bins > 0 {
                let bin = Bin(bins);
                if heap.misses.age(bin) >= age {
                    cached = cached.saturating_sub(heap.cached_bytes_of(bin));
                    return Some(bin);
                }
            } else if age > 0 {
                (age, bins) = (age / 4, BINS as u8);
            } else {
                break;
            }
        }
        None
    };
    // SAFETY: the caller's own promise.
    unsafe { send_bins_home(pages, exchange, heap, coldest) };
    heaps.note_cached(heap, heap.cached_bytes());
}

/// Sends the slots of each bin that `next` returns home, and then the stash.
///
/// # Safety
/// As for [`send_cold_bins_home`].
// Not inlined: what its caller does next would lie below its stash.
#[inline(never)]
unsafe fn send_bins_home<P: Sharded, S: RemoteStash, Q>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heap: &Heap<S, Q>,
    mut next: impl FnMut() -> Option<Bin>,
) {
    heap.begin_change::<P>();
    // Idle: these slots do not restart their spans' purge delay.
    let mut homeward = Homeward::idle(pages, exchange, heap.shard.get());
    let stash = Sparse::<ON_STACK>::new();
    while let Some(bin) = next() {
        heap.balances.forget(bin);
        if let Some(batch) = heap.batches.get(usize::from(bin.0)) {
            batch.set(0);
        }
        // SAFETY: the caller owns `heap`. Each magazine is taken out, so not loaded, and sent once.
        unsafe {
            for magazine in heap.entry(bin).unload_all().into_iter().flatten() {
                homeward.send_magazine(bin, magazine.as_ptr(), &stash);
            }
        }
    }
    stash.flush(&mut homeward);
    heap.stash.flush(&mut homeward);
    heap.end_change();
}
