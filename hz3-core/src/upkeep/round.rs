//! Upkeep: what an allocator does now and then so that free memory comes together and goes back.
//!
//! ```text
//! magazines in depots → slots in spans → holes in spans, empty spans → runs → operating system
//!           unneeded for an eighth of the delay       unneeded for the delay
//! ```
//!
//! It is due eight times per purge delay, on whichever slow path looks at the clock then, or on the background
//! thread. One time does a bounded amount; where that leaves work over, the next one is due much sooner.
//! A *hole* is a whole page of a span in use whose slots are all free. While its memory is given back, its span is
//! out of the shard's lists, so that nobody takes a slot of it, and no lock is held.

use crate::allocator::Allocator;
use crate::lane::Lane;
use crate::pages::bins::BINS;
use crate::platform::options::NEVER;
use crate::platform::os::Os;
use crate::platform::sync::{AtomicU32, Ordering};
use crate::platform::units::{Bin, PAGE_BYTES, ShardId, elapsed_ms};
use crate::record::observer::Event;
use crate::transfer::homeward::Courier;
use crate::transfer::remote_stash::{RemoteStash, Sparse};
use crate::transfer::shard::{BinDepot, Look};
use core::ptr::NonNull;

/// Bytes of dirty runs given back at a time at most: bounds the time that one thread spends on it.
const PURGE_BYTES: usize = 256 << 20;
/// Magazines unpacked at a time at most, for the same reason.
const UNPACKED: u32 = 1024;
/// Spans looked at for holes at a time at most.
const LOOKS: u32 = 4096;
/// Calls to the system for holes at a time at most, but for what the last span adds.
const HOLES: usize = 2048;
/// Spans looked at for holes under one holding of a shard's lock.
const LOOKS_PER_LOCK: u32 = 64;
/// Times per purge delay that upkeep is due.
const PER_DELAY: u32 = 8;
/// How much sooner the next time is due where work was left over.
const SOONER: u32 = 8;

/// Milliseconds between two times that the threads are asked to empty their caches because memory has run out. Chosen:
/// the time between two ticks of the default delay.
const ASK_AGAIN_MS: u32 = 125;
/// Mappings that the system did not take back that it is asked for again at a time.
const RETURNED_AGAIN: usize = 16;

/// When upkeep is due, and how far it has come.
pub struct Upkeep {
    /// When a thread last did some, in milliseconds.
    last: AtomicU32,
    /// When the round that is going on began.
    round: AtomicU32,
    /// Whether the round left work over.
    is_behind: AtomicU32,
    /// Where the next look for holes goes on.
    next_shard: AtomicU32,
    /// When the threads were last asked to empty their caches because memory had run out.
    asked: AtomicU32,
}

impl Upkeep {
    /// Nothing done yet.
    pub const fn new() -> Self {
        Self {
            last: AtomicU32::new(0),
            round: AtomicU32::new(0),
            is_behind: AtomicU32::new(0),
            next_shard: AtomicU32::new(0),
            asked: AtomicU32::new(0),
        }
    }

    /// Whether the threads may be asked at `now` to empty their caches because memory has run out; the caller asks.
    pub fn may_ask(&self, now: u32) -> bool {
        // Relaxed, both: one thread wins the exchange; nothing is published.
        let asked = self.asked.load(Ordering::Relaxed);
        elapsed_ms(asked, now) >= ASK_AGAIN_MS
            && self.asked.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Default for Upkeep {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Lane> Allocator<L> {
    /// Does some upkeep if it is time. Called from slow paths now and then.
    #[cold]
    pub fn tick(&'static self) {
        let now = L::Os::now_ms();
        self.publisher.tell(Event::Tick(now));
        let upkeep = &self.upkeep;
        // Relaxed, all: one thread wins the exchange, and what upkeep does is under locks of its own; a second
        // thread that comes in while the first is at work finds other work, or the same figures.
        let is_behind = upkeep.is_behind.load(Ordering::Relaxed) != 0;
        let pause_ms = if is_behind { self.tick_ms() / SOONER } else { self.tick_ms() };
        let last = upkeep.last.load(Ordering::Relaxed);
        if elapsed_ms(last, now) < pause_ms
            || upkeep.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        let is_new = elapsed_ms(upkeep.round.load(Ordering::Relaxed), now) >= self.tick_ms();
        if is_new {
            upkeep.round.store(now, Ordering::Relaxed);
            self.each_depot(|depot| depot.make_surplus_due());
        }
        let unpacked = self.unpack_depots(UNPACKED, BinDepot::take_due);
        let mut is_behind = unpacked == UNPACKED;
        let delay_ms = self.options().purge_delay_ms();
        if delay_ms != NEVER {
            let now = L::Os::now_ms();
            is_behind |= self.purge_holes(now, delay_ms);
            is_behind |= self.purge(now, delay_ms, PURGE_BYTES) >= PURGE_BYTES;
        }
        self.directs.return_again(&self.runs, RETURNED_AGAIN);
        upkeep.is_behind.store(u32::from(is_behind), Ordering::Relaxed);
    }

    /// Milliseconds between two times that upkeep is due: an eighth of the purge delay.
    pub fn tick_ms(&self) -> u32 {
        match self.options().purge_delay_ms() {
            NEVER => L::PURGE_DELAY_MS / PER_DELAY,
            delay_ms => delay_ms / PER_DELAY,
        }
    }

    fn each_depot(&self, mut look: impl FnMut(&BinDepot)) {
        for shard in self.used_shards() {
            for bin in (1..BINS as u8).map(Bin) {
                look(self.shard(shard).depot(bin));
            }
        }
    }

    /// Unpacks magazines of every depot and inbox into spans: as many as `share` says of each, given how many it
    /// may be, and `most` in all. Returns how many that were to be.
    fn unpack_depots(&'static self, most: u32, share: impl Fn(&BinDepot, u32) -> u32) -> u32 {
        let mut stash = Sparse::<256>::new();
        let mut left = most;
        for shard in self.used_shards() {
            let mut courier = Courier { allocator: self, shard, idle: true };
            for bin in (1..BINS as u8).map(Bin) {
                if left == 0 {
                    break;
                }
                let due = share(self.shard(shard).depot(bin), left);
                left -= due;
                for _ in 0..due {
                    let Some(magazine) = self.take_full_of(shard, bin) else { break };
                    // SAFETY: the magazine is this thread's.
                    unsafe { courier.unpack(bin, magazine, &mut stash) };
                }
            }
        }
        stash.flush(&mut Courier { allocator: self, shard: ShardId(0), idle: true });
        most - left
    }

    /// Unpacks every depot and inbox into spans: of each, as many magazines as it holds when its turn comes, so that
    /// the end comes however fast other threads fill them again.
    pub fn empty_depots(&'static self) {
        self.unpack_depots(u32::MAX, |depot, most| depot.count().min(most));
    }

    // ---- holes ----

    /// Gives the memory of holes back of which no slot was needed for `delay_ms`, going on where the last call
    /// stopped; whether work is left over.
    fn purge_holes(&self, now: u32, delay_ms: u32) -> bool {
        let (mut looks, mut calls) = (LOOKS, 0);
        // Relaxed, both: a place to go on from; any would do.
        let first = self.upkeep.next_shard.load(Ordering::Relaxed) as usize;
        for shard in self.used_shards().skip(first).chain(self.used_shards().take(first)) {
            if !self.purge_holes_of(shard, now, delay_ms, &mut looks, |made| {
                calls += made;
                calls < HOLES
            }) {
                self.upkeep.next_shard.store(u32::from(shard.0), Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// Gives the memory of all holes back; returns how many bytes went.
    pub fn purge_all_holes(&self, now: u32) -> usize {
        // Relaxed, both: a count, and what other threads add to it meanwhile is no matter.
        let before = self.purged_bytes.load(Ordering::Relaxed);
        for shard in self.used_shards() {
            // No more looks than there are spans, so that the end comes although other threads make further holes.
            let spans: u32 = {
                let owned = self.shard(shard).owned().lock();
                (1..BINS as u8).map(|bin| owned.counts(Bin(bin)).1).sum()
            };
            // The first turn may go on from the middle.
            for _ in 0..2 {
                let mut looks = spans;
                self.purge_holes_of(shard, now, 0, &mut looks, |_| true);
            }
        }
        self.purged_bytes.load(Ordering::Relaxed).wrapping_sub(before) as usize
    }

    /// As [`Allocator::purge_holes`], in one shard, until all its spans or `looks` of them were looked at, or
    /// `goes_on`, which is told how many calls to the system were made, says to stop. Whether all were.
    fn purge_holes_of(
        &self,
        shard: ShardId,
        now: u32,
        delay_ms: u32,
        looks: &mut u32,
        mut goes_on: impl FnMut(usize) -> bool,
    ) -> bool {
        if L::HARDENED {
            // What the pages of free slots hold is looked at when the slots are used again.
            return true;
        }
        let owned = self.shard(shard).owned();
        loop {
            let mut allowed = LOOKS_PER_LOCK.min(*looks);
            let (before, found) = (allowed, owned.lock().set_aside(&self.runs.spans, now, delay_ms, &mut allowed));
            *looks -= before - allowed;
            match found {
                Look::End => return true,
                Look::Pause if *looks == 0 => return false,
                Look::Pause => {}
                Look::Holes { id, start, pages } => {
                    let (purged, calls) = self.purge_pages(start, pages);
                    if owned.lock().put_back(&self.runs.spans, id, purged) {
                        self.release_small(id, true);
                    }
                    if purged != pages {
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

    /// Gives the memory of `pages`, holes of a span that begins at `start` and is set aside, back. Returns those that went, and
    /// the number of calls to the system.
    fn purge_pages(&self, start: usize, pages: u128) -> (u128, usize) {
        let (mut left, mut purged, mut calls) = (pages, 0, 0);
        while left != 0 {
            let first = left.trailing_zeros();
            let count = (!(left >> first)).trailing_zeros();
            let run = (u128::MAX >> (128 - count)) << first;
            left &= !run;
            calls += 1;
            // SAFETY: the pages lie in a committed span, and every slot in them is free and stays so: it is at home or
            // was never handed out, and nobody takes one while the span is set aside.
            let gone = NonNull::new(core::ptr::with_exposed_provenance_mut(start + first as usize * PAGE_BYTES))
                .is_some_and(|start| unsafe { L::Os::purge(start, count as usize * PAGE_BYTES) });
            if !gone {
                break;
            }
            purged |= run;
        }
        // Relaxed: a count.
        self.purged_bytes.fetch_add(u64::from(purged.count_ones()) * PAGE_BYTES as u64, Ordering::Relaxed);
        (purged, calls)
    }
}
