//! Holes: purges pages whose slots are all free in spans that are still in use.
//!
//! Meanwhile a span is set aside: out of its shard's lists, so that no thread takes its slots, and with no lock held.

use crate::pages::bins::BINS;
use crate::pages::page_heap::PageHeap;
use crate::pages::policy::Policy;
use crate::platform::budget::Budget;
use crate::platform::os::{Os, Waiter};
use crate::platform::units::{Bin, PAGE_BYTES, ShardId};
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::shard::HoleScan;
use crate::upkeep::schedule::Schedule;
use core::ptr::NonNull;

/// Milliseconds for which a hole must have been free where memory goes back before its time.
pub const HOLE_AGE_MS: u32 = 16;
/// Most spans searched per call.
const MAX_SPANS: u32 = 4096;
/// Microseconds after which a call stops once the current span is done. Chosen: half of a turn.
const HOLES_US: u32 = 500;
const SPANS_PER_LOCK: u32 = 64;

/// Purges holes of spans idle for `delay_ms` at `now`, from the last call's shard on, for a bounded time; whether
/// work is left. Takes shards' locks.
pub fn purge_holes<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    schedule: &Schedule,
    now: u32,
    delay_ms: u32,
) -> bool {
    let (mut looks, budget) = (MAX_SPANS, Budget::of_us::<P::Os>(HOLES_US));
    let first = schedule.next_shard() as usize;
    for shard in exchange.shard_ids().skip(first).chain(exchange.shard_ids().take(first)) {
        if !purge_holes_of(pages, exchange, shard, now, delay_ms, &mut looks, || budget.is_left::<P::Os>()) {
            schedule.set_next_shard(u32::from(shard.0));
            return true;
        }
    }
    false
}

/// Purges all holes; the bytes that went, by other threads too. Takes shards' locks.
pub fn purge_all_holes<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, now: u32) -> usize {
    let before = pages.purged_bytes();
    for shard in exchange.shard_ids() {
        // Bounded, so that it ends although other threads make further holes.
        let spans: u32 = {
            let owned = exchange.shard(shard).owned().lock();
            (1..BINS as u8).map(|bin| owned.counts(Bin(bin)).1).sum()
        };
        // The first pass may start in the middle of the lists.
        for _ in 0..2 {
            let mut looks = spans;
            purge_holes_of(pages, exchange, shard, now, 0, &mut looks, || true);
        }
    }
    pages.purged_bytes().wrapping_sub(before) as usize
}

/// Purges one shard's holes, in at most `looks` spans (counted down). After each span, `keep_going` may stop. False if work
/// is left, except after a refusal.
fn purge_holes_of<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    shard: ShardId,
    now: u32,
    delay_ms: u32,
    looks: &mut u32,
    mut keep_going: impl FnMut() -> bool,
) -> bool {
    if P::HARDENED {
        // Free slots' contents are checked when they are used again.
        return true;
    }
    let owned = exchange.shard(shard).owned();
    let thread = P::Os::this_thread();
    loop {
        let _transit = pages.runs.forks.begin_transit::<P::Os>();
        let mut allowed = SPANS_PER_LOCK.min(*looks);
        let before = allowed;
        let found = owned.lock().take_next_with_holes(pages.spans(), thread, now, delay_ms, &mut allowed);
        *looks -= before - allowed;
        match found {
            HoleScan::End => return true,
            HoleScan::Pause if *looks == 0 || !keep_going() => return false,
            HoleScan::Pause => {}
            HoleScan::Holes { id, start, pages: holes } => {
                let purged = purge_pages(pages, start, holes);
                // SAFETY: set aside above, and put back once. An empty one is in no list and has no slot out.
                unsafe {
                    if owned.lock().put_back(pages.spans(), thread, id, purged) {
                        pages.release_small(id, true);
                    }
                }
                if purged != holes {
                    // A refusal would only repeat.
                    return true;
                }
                if !keep_going() {
                    return false;
                }
            }
        }
    }
}

/// Purges the pages `holes`, a bit each, of the span at address `start`, which is set aside. Returns the purged
/// pages.
fn purge_pages<P: Policy>(pages: &PageHeap<P>, start: usize, holes: u128) -> u128 {
    let (mut left, mut purged) = (holes, 0_u128);
    while left != 0 {
        let first = left.trailing_zeros();
        let count = (!(left >> first)).trailing_zeros();
        let run = (u128::MAX >> (128 - count)) << first;
        left &= !run;
        // SAFETY: whole pages of a committed span. Their slots are free, and stay so while the span is set aside.
        let gone = NonNull::new(core::ptr::with_exposed_provenance_mut(start + first as usize * PAGE_BYTES))
            .is_some_and(|start| unsafe { P::Os::purge(start, count as usize * PAGE_BYTES) });
        if !gone {
            break;
        }
        purged |= run;
    }
    pages.note_purged(purged.count_ones() as usize * PAGE_BYTES);
    purged
}
