//! Holes: whole pages of spans in use whose slots are all free. Their memory goes back.
//!
//! While the memory of a hole is given back, its span is out of the shard's lists, so that nobody takes a slot of it, and
//! no lock is held.

use crate::pages::bins::BINS;
use crate::pages::page_heap::PageHeap;
use crate::pages::policy::Policy;
use crate::platform::os::Os;
use crate::platform::units::{Bin, PAGE_BYTES, ShardId};
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::shard::HoleScan;
use crate::upkeep::schedule::Schedule;
use core::ptr::NonNull;

/// Spans looked at for holes at a time at most.
const LOOKS: u32 = 4096;
/// Calls to the system for holes at a time at most, but for what the last span adds.
const HOLES: usize = 2048;
/// Spans looked at for holes under one holding of a shard's lock.
const LOOKS_PER_LOCK: u32 = 64;

/// Gives the memory of holes back of which no slot was needed for `delay_ms`, going on where the last call
/// stopped; whether work is left over.
pub fn purge_holes<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    schedule: &Schedule,
    now: u32,
    delay_ms: u32,
) -> bool {
    let (mut looks, mut calls) = (LOOKS, 0);
    let first = schedule.next_shard() as usize;
    for shard in exchange.used_shards().skip(first).chain(exchange.used_shards().take(first)) {
        if !purge_holes_of(pages, exchange, shard, now, delay_ms, &mut looks, |made| {
            calls += made;
            calls < HOLES
        }) {
            schedule.set_next_shard(u32::from(shard.0));
            return true;
        }
    }
    false
}

/// Gives the memory of all holes back; returns how many bytes went.
pub fn purge_all_holes<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, now: u32) -> usize {
    // What other threads add meanwhile is no matter.
    let before = pages.purged_bytes();
    for shard in exchange.used_shards() {
        // No more looks than there are spans, so that the end comes although other threads make further holes.
        let spans: u32 = {
            let owned = exchange.shard(shard).owned().lock();
            (1..BINS as u8).map(|bin| owned.counts(Bin(bin)).1).sum()
        };
        // The first turn may go on from the middle.
        for _ in 0..2 {
            let mut looks = spans;
            purge_holes_of(pages, exchange, shard, now, 0, &mut looks, |_| true);
        }
    }
    pages.purged_bytes().wrapping_sub(before) as usize
}

/// As [`purge_holes`], in one shard, until all its spans or `looks` of them were looked at, or
/// `goes_on`, which is told how many calls to the system were made, says to stop. Whether all were.
fn purge_holes_of<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    shard: ShardId,
    now: u32,
    delay_ms: u32,
    looks: &mut u32,
    mut goes_on: impl FnMut(usize) -> bool,
) -> bool {
    if P::HARDENED {
        // What the pages of free slots hold is looked at when the slots are used again.
        return true;
    }
    let owned = exchange.shard(shard).owned();
    loop {
        let mut allowed = LOOKS_PER_LOCK.min(*looks);
        let (before, found) = (allowed, owned.lock().set_aside(pages.spans(), now, delay_ms, &mut allowed));
        *looks -= before - allowed;
        match found {
            HoleScan::End => return true,
            HoleScan::Pause if *looks == 0 => return false,
            HoleScan::Pause => {}
            HoleScan::Holes { id, start, pages: holes } => {
                let (purged, calls) = purge_pages(pages, start, holes);
                // SAFETY: the span was set aside above; where it is empty, it is in no list and this thread's.
                unsafe {
                    if owned.lock().put_back(pages.spans(), id, purged) {
                        pages.release_small(id, true);
                    }
                }
                if purged != holes {
                    // The system refuses, and would again.
                    return true;
                }
                if !goes_on(calls) {
                    return false;
                }
            }
        }
    }
}

/// Gives the memory of `holes` of a span that begins at `start` and is set aside, back. Returns those that went, and
/// the number of calls to the system.
fn purge_pages<P: Policy>(pages: &PageHeap<P>, start: usize, holes: u128) -> (u128, usize) {
    let (mut left, mut purged, mut calls) = (holes, 0, 0);
    while left != 0 {
        let first = left.trailing_zeros();
        let count = (!(left >> first)).trailing_zeros();
        let run = (u128::MAX >> (128 - count)) << first;
        left &= !run;
        calls += 1;
        // SAFETY: the pages lie in a committed span, and every slot in them is free and stays so: it is at home or
        // was never handed out, and nobody takes one while the span is set aside.
        let gone = NonNull::new(core::ptr::with_exposed_provenance_mut(start + first as usize * PAGE_BYTES))
            .is_some_and(|start| unsafe { P::Os::purge(start, count as usize * PAGE_BYTES) });
        if !gone {
            break;
        }
        purged |= run;
    }
    pages.note_purged(purged.count_ones() as usize * PAGE_BYTES);
    (purged, calls)
}
