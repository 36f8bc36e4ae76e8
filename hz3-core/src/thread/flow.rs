//! Balance: slots that a thread spills of each bin less those that it refills, which tells the ends of a queue from threads
//! that use again what they free.
//!
//! ```text
//! slots spilled − slots refilled, in magazines      −128 … −64  producer     64 … 128  consumer
//! ```

use crate::pages::bins::BINS;
use crate::platform::units::Bin;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
