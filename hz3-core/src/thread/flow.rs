//! Flow: detects bins that a thread only allocates from (producer) or only frees to (consumer).
//!
//! ```text
//! slots spilled − slots refilled, in magazines      −128 … −64  producer     64 … 128  consumer
//!
//! consumer   sends a full magazine of one owner's slots to that owner's inbox, unchanged;
//!            in a lane that does not adopt, the stash fills such magazines
//! producer   takes the oldest magazine of its own inbox, its oldest slot first; then slots of its own spans,
//!            up to a bound; then refills as others do. A magazine without order resets its balance
//! ```
//!
//! Slots that return in allocation order stay side by side in memory, and the processor prefetches them. Last in, first
//! out, each round trip would reverse pieces of that order. A program that frees in another order has none to keep.

use crate::pages::bins::BINS;
use crate::pages::slot::Slot;
use crate::platform::units::{Bin, PAGE_BYTES, ShardId};
use core::cell::Cell;

/// Balance, in magazines, from which a thread is a consumer or, negative, a producer. Chosen: more than threads that
/// free each other's blocks drift apart in a time slice.
const ONE_WAY: i16 = 64;
/// Bound of a balance, in magazines: how long a thread stays a producer or consumer.
const MAX_BALANCE: i16 = 128;

/// Balance, in magazines, from which a thread frees what it did not allocate lately. Chosen: few, and beyond a swing.
const DRAINS: i16 = 4;

/// Most bytes, over all bins, that a heap ever takes from its own spans to keep order. Chosen: some thousand blocks.
const MAX_OWN_BYTES: u32 = 1 << 20;

/// A thread's balances, by bin, in slots. All zeros: nothing counted.
pub struct Balances {
    slots: [Cell<i16>; BINS],
    own_bytes: Cell<u32>,
}

impl Balances {
    fn add(&self, bin: Bin, capacity: u16, slots: i16) {
        if let Some(balance) = self.slots.get(usize::from(bin.0)) {
            let most = MAX_BALANCE * capacity as i16;
            balance.set(balance.get().saturating_add(slots).clamp(-most, most));
        }
    }

    fn of(&self, bin: Bin) -> i16 {
        self.slots.get(usize::from(bin.0)).map_or(0, Cell::get)
    }

    /// Counts a refill of `slots` slots.
    pub fn note_refill(&self, bin: Bin, capacity: u16, slots: usize) {
        self.add(bin, capacity, -(slots as i16));
    }

    /// Counts a spill of `slots` slots.
    pub fn note_spill(&self, bin: Bin, capacity: u16, slots: usize) {
        self.add(bin, capacity, slots as i16);
    }

    /// Whether a producer may take more slots from its own spans.
    pub fn may_take_own(&self) -> bool {
        self.own_bytes.get() < MAX_OWN_BYTES
    }

    /// Counts `bytes` of slots that a producer took from its own spans.
    pub fn note_own(&self, bytes: usize) {
        self.own_bytes.set(self.own_bytes.get().saturating_add(bytes as u32));
    }

    /// Whether this thread has spilled several magazines more than it refilled.
    pub fn drains(&self, bin: Bin, capacity: u16) -> bool {
        self.of(bin) >= DRAINS * capacity as i16
    }

    /// Resets the balance of `bin`.
    pub fn forget(&self, bin: Bin) {
        if let Some(balance) = self.slots.get(usize::from(bin.0)) {
            balance.set(0);
        }
    }

    /// Resets every balance, but not the bytes that producers took: a heap's next thread must not take as many again.
    pub fn forget_all(&self) {
        self.slots.iter().for_each(|balance| balance.set(0));
    }

    /// Whether other threads free the blocks of `bin` that this one allocates.
    pub fn is_producer(&self, bin: Bin, capacity: u16) -> bool {
        self.of(bin) <= -(ONE_WAY * capacity as i16)
    }

    /// Whether this thread frees blocks of `bin` that others allocate.
    pub fn is_consumer(&self, bin: Bin, capacity: u16) -> bool {
        self.of(bin) >= ONE_WAY * capacity as i16
    }
}

/// The common `owner` of the first, middle and last of `slots`, if any. A guess: any shard may cache any slot.
pub fn owner_of_all(slots: &[Slot], owner: impl Fn(&Slot) -> ShardId) -> Option<ShardId> {
    let first = owner(slots.first()?);
    let others = [slots.get(slots.len() / 2)?, slots.last()?];
    others.into_iter().all(|slot| owner(slot) == first).then_some(first)
}

/// Most pairs that [`has_order`] compares, roughly. Chosen: to compare all costs a producer 4 % of its time.
const MAX_PAIRS: usize = 8;

/// Whether `slots`, of `slot_bytes` each, kept some order: a compared pair adjoins or lies within a page.
pub fn has_order(slots: &[Slot], slot_bytes: usize) -> bool {
    let is_near = |some: &[Slot]| match some {
        [first, second, ..] => first.address().abs_diff(second.address()) <= slot_bytes.max(PAGE_BYTES),
        _ => false,
    };
    slots.chunks((slots.len() / MAX_PAIRS).max(2)).any(is_near)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::without_provenance_mut;
    use std::vec::Vec;

    #[test]
    fn a_thread_becomes_an_end_of_a_queue_late_and_stays_one_for_a_while() {
        const CAPACITY: u16 = 62;
        let (balances, bin) = (Balances { slots: [const { Cell::new(0) }; BINS], own_bytes: Cell::new(0) }, Bin(4));
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
        for slots in magazines(MAX_BALANCE - ONE_WAY) {
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
        balances.note_own(MAX_OWN_BYTES as usize);
        balances.forget(bin);
        assert!(!balances.is_producer(bin, CAPACITY));
        balances.forget_all();
        assert!(!balances.may_take_own());
    }

    #[test]
    fn a_stretch_of_neighbours_is_order_and_scattered_slots_are_none() {
        // SAFETY: the test compares addresses and never accesses the slots' memory.
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
