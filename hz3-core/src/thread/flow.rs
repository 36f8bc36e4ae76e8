//! Flow: which bins go one way through a thread: slots that it spills less slots that it refills tell the ends of a queue
//! from threads that use again what they free.
//!
//! ```text
//! slots spilled − slots refilled, in magazines      −128 … −64  producer     64 … 128  consumer
//!
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

use crate::pages::bins::BINS;
use crate::pages::slot::Slot;
use crate::platform::units::{Bin, PAGE_BYTES, ShardId};

/// Magazines that a thread spills or refills more than the other before it counts as one end of a queue. Chosen: more than
/// threads that free each other's blocks drift apart in a time slice.
const ONE_WAY: i16 = 64;
/// The balance beyond which nothing is counted: how long an end of a queue stays one.
const MOST: i16 = 128;

/// Bytes that the threads of one heap may ever take of their own spans for the sake of order, over all bins, although others
/// may have slots to spare. Chosen: a queue of some thousand small blocks.
const OWN_BYTES: u32 = 1 << 20;

/// A thread's balances, by bin, in slots. Zeroed memory is one, of which nothing was counted.
#[derive(Clone, Copy)]
pub struct Balances {
    slots: [i16; BINS],
    own_bytes: u32,
}

impl Balances {
    /// Counts slots of `bin`, whose magazines hold `capacity` of them: `slots` that the thread handed on, or, below 0, got.
    fn add(&mut self, bin: Bin, capacity: u16, slots: i16) {
        if let Some(balance) = self.slots.get_mut(usize::from(bin.0)) {
            let most = MOST * capacity as i16;
            *balance = balance.saturating_add(slots).clamp(-most, most);
        }
    }

    fn of(&self, bin: Bin) -> i16 {
        self.slots.get(usize::from(bin.0)).copied().unwrap_or(0)
    }

    /// Counts `slots` of `bin` that the thread got.
    pub fn note_refill(&mut self, bin: Bin, capacity: u16, slots: usize) {
        self.add(bin, capacity, -(slots as i16));
    }

    /// Counts `slots` of `bin` that the thread handed on.
    pub fn note_spill(&mut self, bin: Bin, capacity: u16, slots: usize) {
        self.add(bin, capacity, slots as i16);
    }

    /// Whether a producer may take more slots of its own spans.
    pub fn may_take_own(&self) -> bool {
        self.own_bytes < OWN_BYTES
    }

    /// Counts `bytes` of slots that a producer took of its own spans.
    pub fn note_own(&mut self, bytes: usize) {
        self.own_bytes = self.own_bytes.saturating_add(bytes as u32);
    }

    /// Forgets what was counted of `bin`.
    pub fn forget(&mut self, bin: Bin) {
        if let Some(balance) = self.slots.get_mut(usize::from(bin.0)) {
            *balance = 0;
        }
    }

    /// Forgets what was counted of every bin, but not what producers took of their own: threads that come and go shall not
    /// take it again and again.
    pub fn begin_anew(&mut self) {
        self.slots = [0; BINS];
    }

    /// Whether the thread allocates blocks of `bin` that others free.
    pub fn is_producer(&self, bin: Bin, capacity: u16) -> bool {
        self.of(bin) <= -(ONE_WAY * capacity as i16)
    }

    /// Whether the thread frees blocks of `bin` that others allocate.
    pub fn is_consumer(&self, bin: Bin, capacity: u16) -> bool {
        self.of(bin) >= ONE_WAY * capacity as i16
    }
}

/// The owner of `slots`, as `owner` says of the first, the middle and the last of them; `None` where those differ, or there
/// is none. A guess that is good enough: any shard may have any slot.
pub fn owner_of_all(slots: &[Slot], owner: impl Fn(&Slot) -> ShardId) -> Option<ShardId> {
    let first = owner(slots.first()?);
    let others = [slots.get(slots.len() / 2)?, slots.last()?];
    others.into_iter().all(|slot| owner(slot) == first).then_some(first)
}

/// Pairs of a magazine's slots that [`has_order`] looks at, if it has as many. Chosen: looking at all of them costs a producer
/// 4 % of its time.
const PAIRS: usize = 8;

/// Whether `slots`, of `slot_bytes` each, have kept some order: of the pairs of successive ones looked at, one lies side by
/// side or on one page.
pub fn has_order(slots: &[Slot], slot_bytes: usize) -> bool {
    let is_near = |some: &[Slot]| match some {
        [first, second, ..] => first.address().abs_diff(second.address()) <= slot_bytes.max(PAGE_BYTES),
        _ => false,
    };
    slots.chunks((slots.len() / PAIRS).max(2)).any(is_near)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::without_provenance_mut;
    use std::vec::Vec;

    #[test]
    fn a_thread_becomes_an_end_of_a_queue_late_and_stays_one_for_a_while() {
        const CAPACITY: u16 = 62;
        let (mut balances, bin) = (Balances { slots: [0; BINS], own_bytes: 0 }, Bin(4));
        let magazines = |count: i16| (0..count * 2).map(|_| usize::from(CAPACITY / 2));
        for slots in magazines(ONE_WAY).skip(1) {
            balances.note_spill(bin, CAPACITY, slots);
        }
        assert!(!balances.is_consumer(bin, CAPACITY));
        for slots in magazines(1000) {
            balances.note_spill(bin, CAPACITY, slots);
        }
        assert!(balances.is_consumer(bin, CAPACITY) && !balances.is_producer(bin, CAPACITY));
        assert!(!balances.is_consumer(Bin(5), CAPACITY));
        for slots in magazines(MOST - ONE_WAY) {
            assert!(balances.is_consumer(bin, CAPACITY));
            balances.note_refill(bin, CAPACITY, slots);
        }
        assert!(balances.is_consumer(bin, CAPACITY));
        balances.note_refill(bin, CAPACITY, 1);
        assert!(!balances.is_consumer(bin, CAPACITY));
        for slots in magazines(1000) {
            balances.note_refill(bin, CAPACITY, slots);
        }
        assert!(balances.is_producer(bin, CAPACITY));
        balances.note_own(OWN_BYTES as usize);
        balances.forget(bin);
        assert!(!balances.is_producer(bin, CAPACITY));
        balances.begin_anew();
        assert!(!balances.may_take_own());
    }

    #[test]
    fn a_stretch_of_neighbours_is_order_and_scattered_slots_are_none() {
        // SAFETY: addresses that stand for slots, whose memory nobody looks at.
        let slot = |address| unsafe { Slot::new(without_provenance_mut(address)) };
        let slots = |stride: usize| (0..62).map(move |index| slot(0x10_0000 + index * stride));
        assert!(has_order(&slots(64).collect::<Vec<_>>(), 64));
        assert!(has_order(&slots(32 << 10).collect::<Vec<_>>(), 32 << 10));
        assert!(!has_order(&slots(3 * PAGE_BYTES).collect::<Vec<_>>(), 64));
        let mixed: Vec<_> =
            slots(3 * PAGE_BYTES).take(31).chain(slots(64).take(31).rev().collect::<Vec<_>>()).collect();
        assert!(has_order(&mixed, 64));
        assert!(!has_order(&mixed[..1], 64) && !has_order(&[], 64));
    }
}
