//! One way: bins that a thread only allocates from, or only frees into, as both ends of a queue do; its
//! [balance](crate::thread::flow) tells.
//!
//! ```text
//! consumer   a full magazine of one owner's slots goes to that owner's inbox as it is; where slots are not adopted, the
//!            stash fills such magazines
//! producer   takes from its own shard's inbox what came first, and of it the slot that came first; then slots of
//!            its own spans, up to a bound; then what everybody takes; what came without any order makes it none
//! ```
//!
//! Slots that come back in the order in which they were handed out lie side by side in memory, and stay so however often they
//! go round: the processor fetches the next ones ahead of both ends. Last in, first out, they would be cut and
//! turned round once per round trip, until each lies on a page of its own. Where a program frees in another order than it
//! allocates in, there is none to keep, and what was freed last is the warmest.

use crate::allocator::Allocator;
use crate::lane::Lane;
use crate::platform::prefetch;
use crate::platform::sync::Ordering;
use crate::platform::units::{Bin, PAGE_BYTES, ShardId};
use crate::transfer::depot::{Links, MAX_COUNT};
use crate::transfer::homeward::Courier;
use crate::transfer::magazine::Magazine;
use crate::transfer::remote_stash::{RemoteStash, Sparse};

/// The shard that owns `slots`, by the first, the middle and the last of them; `None` where those differ, or there
/// is none. A guess that is good enough: any shard may have any slot.
pub fn owner_of_all<L: Lane>(allocator: &Allocator<L>, slots: &[*mut u8]) -> Option<ShardId> {
    let owner = |slot: &*mut u8| allocator.runs.arenas.tag_value(slot.addr()).owner();
    let first = owner(slots.first()?);
    let others = [slots.get(slots.len() / 2)?, slots.last()?];
    others.into_iter().all(|slot| owner(slot) == first).then_some(first)
}

/// Pairs of a magazine's slots that [`has_order`] looks at, if it has as many. Chosen: looking at all of them costs a producer
/// 4 % of its time.
const PAIRS: usize = 8;

/// Whether `slots`, of `slot_bytes` each, have kept some order: of the pairs of successive ones looked at, one lies side by
/// side or on one page.
pub fn has_order(slots: &[*mut u8], slot_bytes: usize) -> bool {
    let is_near = |some: &[*mut u8]| match some {
        [first, second, ..] => first.addr().abs_diff(second.addr()) <= slot_bytes.max(PAGE_BYTES),
        _ => false,
    };
    slots.chunks((slots.len() / PAIRS).max(2)).any(is_near)
}

impl<L: Lane> Allocator<L> {
    /// As [`Allocator::take_full_of`], but of the inbox the magazine that came first, turned round, and its blocks' first
    /// lines on their way to this processor. The inbox is turned over into the depot for that.
    pub fn take_in_order(&'static self, shard: ShardId, bin: Bin) -> Option<*mut Magazine> {
        let depot = self.shard(shard).depot(bin);
        if depot.full.is_empty() && !depot.inbox.is_empty() {
            let mut homeless = 0;
            {
                // No fork may come between: the child would not have what is on its way.
                let _owned = self.shard(shard).owned().lock();
                let mut next = depot.inbox.pop_all().unwrap_or(0);
                while next != 0 {
                    let id = next;
                    // Relaxed, both: this thread's own since the exchange.
                    next = self.magazines.next(id).load(Ordering::Relaxed);
                    if !depot.full.push(&self.magazines, id, MAX_COUNT) {
                        self.magazines.next(id).store(homeless, Ordering::Relaxed);
                        homeless = id;
                    }
                }
            }
            self.stocked(bin).note_pushed(Self::bit(shard));
            if homeless != 0 {
                self.send_chain_home(shard, bin, homeless);
            }
        }
        self.take_full_of(shard, bin).inspect(|&full| {
            // SAFETY: what was taken is this thread's.
            let slots = unsafe { Magazine::held(full) };
            // Slots leave at the end; the first to have come leaves first.
            slots.reverse();
            slots.iter().for_each(|&slot| prefetch::to_write(slot));
        })
    }

    /// Sends the slots of magazines that others of `shard` left no room for home: of `first`, and of those that the links
    /// lead to from there, all this thread's.
    // A function of its own: the stash would be on the stack of every refill, and stacks may have 16 KiB.
    #[cold]
    #[inline(never)]
    fn send_chain_home(&'static self, shard: ShardId, bin: Bin, first: u32) {
        let (mut courier, mut stash) = (Courier { allocator: self, shard, idle: false }, Sparse::<256>::new());
        let mut next = first;
        while next != 0 {
            let id = next;
            // Relaxed: this thread's own.
            next = self.magazines.next(id).load(Ordering::Relaxed);
            // SAFETY: ids in stacks are magazines', and this one is this thread's.
            unsafe { courier.unpack(bin, self.magazines.get(id), &mut stash) };
        }
        stash.flush(&mut courier);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::hot;
    use crate::lane::Fast;
    use crate::pages::bins::bin_for;
    use crate::process::lifecycle;
    use core::ptr::without_provenance_mut;
    use std::vec::Vec;

    const BYTES: usize = 64;

    #[test]
    fn a_stretch_of_neighbours_is_order_and_scattered_slots_are_none() {
        let slots = |stride: usize| (0..62).map(move |index| without_provenance_mut(0x10_0000 + index * stride));
        assert!(has_order(&slots(64).collect::<Vec<_>>(), 64));
        assert!(has_order(&slots(32 << 10).collect::<Vec<_>>(), 32 << 10));
        assert!(!has_order(&slots(3 * PAGE_BYTES).collect::<Vec<_>>(), 64));
        let mixed: Vec<_> =
            slots(3 * PAGE_BYTES).take(31).chain(slots(64).take(31).rev().collect::<Vec<_>>()).collect();
        assert!(has_order(&mixed, 64));
        assert!(!has_order(&mixed[..1], 64) && !has_order(&[], 64));
    }

    /// Whether this thread, a producer, still is one after a refill by a magazine of each `step`-th of the blocks that it got.
    fn is_still_producer(step: usize) -> bool {
        let (allocator, bin) = (Fast::allocator(), bin_for(BYTES).unwrap());
        let heap = lifecycle::heap::<Fast>().unwrap();
        // SAFETY: the heap is this thread's, the magazine too until it is in the inbox, and each block goes into one place.
        unsafe {
            let shard = (*heap).shard;
            let magazine = allocator.empty_magazine(shard, bin);
            let capacity = (*magazine).capacity;
            let blocks: Vec<*mut u8> = (0..usize::from(capacity) * step).map(|_| hot::malloc::<Fast>(BYTES)).collect();
            for (index, &block) in blocks.iter().step_by(step).enumerate() {
                *Magazine::slots(magazine).add(index) = block;
            }
            (*magazine).count = capacity;
            while (*heap).entry(bin).top != (*heap).entry(bin).base {
                hot::malloc::<Fast>(BYTES);
            }
            for _ in 0..1000 {
                (*heap).balances.note_refill(bin, capacity, usize::from(capacity));
            }
            assert!((*heap).balances.is_producer(bin, capacity));
            assert!(allocator.put_full(shard, bin, magazine, true));
            assert_eq!(hot::malloc::<Fast>(BYTES), blocks[0]);
            (*heap).balances.is_producer(bin, capacity)
        }
    }

    #[test]
    fn a_producer_stays_one_while_its_blocks_come_back_in_order() {
        assert!(is_still_producer(1));
        assert!(!is_still_producer(PAGE_BYTES / BYTES + 1));
    }
}
