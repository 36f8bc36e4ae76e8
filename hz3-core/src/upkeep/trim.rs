//! Trim: empties caches and purges free memory at thread exit, on request, or when memory has run out.
//!
//! ```text
//! flush       a heap's magazines with enough slots → its shard's depot (if the lane adopts);
//!             all other magazines, stash, quarantine → home
//! purge_all   all depots → spans → holes, runs → operating system
//! gather      all depots, waiting runs → spans, runs      for a request that failed; kept mappings are unmapped
//! ```
//!
//! A program that lives at its limit fails often. So a failure costs no more than what was freed since the one before:
//! `gather` moves what is on its way, and a cache is emptied only where that frees a span. It purges nothing: the
//! system's limits count address space.

use crate::hardening::quarantine::Quarantine;
use crate::pages::bins::BINS;
use crate::pages::page_heap::PageHeap;
use crate::pages::span::at;
use crate::platform::os::Os;
use crate::platform::units::{Bin, PAGE_BYTES};
use crate::thread::heap::Heap;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::{Homeward, empty_depots, empty_stocked_depots};
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
        heap.begin_change::<P>();
        let mut homeward = Homeward::new(pages, exchange, shard);
        for bin in (1..BINS as u8).map(Bin) {
            for magazine in heap.entry(bin).unload_all().into_iter().flatten() {
                let magazine = magazine.as_ptr();
                if !P::ADOPT || !(*magazine).is_worthwhile() || !exchange.put_full(shard, bin, magazine, false) {
                    homeward.send_magazine(bin, magazine, &heap.stash);
                }
            }
        }
        heap.mark_unused();
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
    let purged = purge_all_holes(pages, exchange, now) + pages.purge(now, 0, usize::MAX);
    while pages.runs.unmap_end() > 0 {}
    while pages.runs.leave_out() {}
    purged + returned > 0
}

/// Whether [`gather`] and emptied caches could make room for `bytes`: an upper bound. It counts address space, as the
/// system's limits do; a purge makes no room for a mapping, but for clean pages at the hard limit. Takes shards' locks.
#[cold]
pub fn could_serve<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, bytes: usize) -> bool {
    let (dirty, clean, purging) = pages.runs.free_bytes();
    let direct = pages.direct.unreturned().1 + pages.direct.kept_bytes();
    let over = pages.runs.limit.excess(pages.options(), bytes / PAGE_BYTES) * PAGE_BYTES;
    let clean = if over > 0 { bytes.saturating_sub(over) } else { clean };
    let mut most = dirty + clean + purging + direct + pages.guards.waiting_bytes();
    for shard in exchange.shard_ids() {
        if most >= bytes {
            break;
        }
        most += exchange.shard(shard).owned().lock().pages() * PAGE_BYTES;
    }
    most >= bytes
}

/// Sends home what is on its way in `heap`'s stash. Takes owners' locks.
///
/// # Safety
/// The caller owns `heap` and keeps no reference into it.
pub unsafe fn flush_stash<P: Sharded, S: RemoteStash, Q>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heap: &Heap<S, Q>,
) {
    heap.begin_change::<P>();
    heap.stash.flush(&mut Homeward::new(pages, exchange, heap.shard.get()));
    heap.end_change();
}

/// Brings free memory together that is in no thread's cache, and retries up to `most_unmaps` refused ones; whether there
/// was any. Takes shards' locks.
pub fn gather<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, most_unmaps: usize) -> bool {
    let mut is_any = empty_stocked_depots(pages, exchange);
    if P::HARDENED && pages.guards.waiting_runs() > 0 {
        pages.release_waiting(0, 0);
        is_any = true;
    }
    is_any | (pages.unmap_kept() > 0) | (pages.retry_unmaps(most_unmaps) > 0)
}

/// The cached slots of one bin in a heap.
struct Cached<'a, S, Q> {
    heap: &'a Heap<S, Q>,
    bin: Bin,
    /// How many of them are in quarantine.
    held: u16,
}

impl<S, Q: Quarantine> Cached<'_, S, Q> {
    /// Calls `look` with the addresses, in groups. The caller owns the heap.
    fn each(&self, mut look: impl FnMut(&[usize])) {
        self.heap.entry(self.bin).peek(|slots, count| {
            // SAFETY: the owner looks: so many slots, which are addresses, lie there, and nothing changes them meanwhile.
            look(unsafe { core::slice::from_raw_parts(slots.cast(), count) });
        });
        if self.held > 0 {
            self.heap.quarantine.peek(|bin, slot| {
                if bin == self.bin {
                    look(&[slot.addr()]);
                }
            });
        }
    }

    fn count(&self, is_counted: impl Fn(&usize) -> bool) -> usize {
        let mut count = 0;
        self.each(|slots| count += slots.iter().filter(|slot| is_counted(slot)).count());
        count
    }
}

/// Whether a flush of `heap` frees a span, other than those taken after the `failure` of that number: all slots of one that
/// are out are in its magazines and quarantine. Takes owners' locks.
///
/// # Safety
/// The caller owns `heap`.
#[cold]
pub unsafe fn would_free_a_span<P: Sharded, S, Q: Quarantine>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    heap: &Heap<S, Q>,
    failure: Option<u32>,
) -> bool {
    let mut held = [0_u16; BINS];
    heap.quarantine.peek(|bin, _| {
        if let Some(held) = held.get_mut(usize::from(bin.0)) {
            *held += 1;
        }
    });
    held.iter().zip((0..BINS as u8).map(Bin)).skip(1).any(|(&held, bin)| {
        let cached = Cached { heap, bin, held };
        let all = cached.count(|_| true);
        // The span looked at last: neighbours in a cache are mostly neighbours in a span.
        let (mut seen, mut is_found) = (0..0, false);
        cached.each(|slots| {
            for address in slots {
                if is_found || seen.contains(address) {
                    continue;
                }
                let tag = pages.tag(*address);
                let _owned = exchange.shard(tag.owner()).owned().lock();
                // SAFETY: a slot's tag has its span's id, and the span's lock is held.
                let span = unsafe { &*at(pages.spans(), tag.span()) };
                seen = span.start..span.start + span.bytes();
                if span.out() <= all && Some(span.taken_after) != failure {
                    is_found = cached.count(|slot| seen.contains(slot)) >= span.out();
                }
            }
        });
        is_found
    })
}
