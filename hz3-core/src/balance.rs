//! Balance: what a thread spills of each bin less what it refills, which tells the ends of a queue from threads that use
//! again what they free.
//!
//! ```text
//! magazines spilled − magazines refilled      −64 … −32  producer     32 … 64  consumer
//! ```

use crate::bins::BINS;
use crate::units::Bin;

/// Magazines that a thread spills or refills more than the other before it counts as one end of a queue. Chosen: more than
/// threads that free each other's blocks drift apart in a time slice.
const ONE_WAY: i8 = 32;
/// The balance beyond which nothing is counted: how long an end of a queue stays one.
const MOST: i8 = 64;

/// A thread's balances, by bin.
#[derive(Clone, Copy)]
pub struct Balances([i8; BINS]);

impl Balances {
    /// Nothing counted yet.
    pub const NONE: Self = Self([0; BINS]);

    fn add(&mut self, bin: Bin, more: i8) {
        if let Some(balance) = self.0.get_mut(usize::from(bin.0)) {
            *balance = balance.saturating_add(more).clamp(-MOST, MOST);
        }
    }

    fn of(&self, bin: Bin) -> i8 {
        self.0.get(usize::from(bin.0)).copied().unwrap_or(0)
    }

    /// Counts a magazine of `bin` that the thread got.
    pub fn note_refill(&mut self, bin: Bin) {
        self.add(bin, -1);
    }

    /// Counts a magazine of `bin` that the thread handed on.
    pub fn note_spill(&mut self, bin: Bin) {
        self.add(bin, 1);
    }

    /// Forgets what was counted of `bin`.
    pub fn forget(&mut self, bin: Bin) {
        if let Some(balance) = self.0.get_mut(usize::from(bin.0)) {
            *balance = 0;
        }
    }

    /// Whether the thread allocates blocks of `bin` that others free.
    pub fn is_producer(&self, bin: Bin) -> bool {
        self.of(bin) <= -ONE_WAY
    }

    /// Whether the thread frees blocks of `bin` that others allocate.
    pub fn is_consumer(&self, bin: Bin) -> bool {
        self.of(bin) >= ONE_WAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_becomes_an_end_of_a_queue_late_and_stays_one_for_a_while() {
        let (mut balances, bin) = (Balances::NONE, Bin(4));
        for _ in 1..ONE_WAY {
            balances.note_spill(bin);
        }
        assert!(!balances.is_consumer(bin));
        for _ in 0..1000 {
            balances.note_spill(bin);
        }
        assert!(balances.is_consumer(bin) && !balances.is_producer(bin) && !balances.is_consumer(Bin(5)));
        for _ in 0..=MOST - ONE_WAY {
            assert!(balances.is_consumer(bin));
            balances.note_refill(bin);
        }
        assert!(!balances.is_consumer(bin));
        for _ in 0..1000 {
            balances.note_refill(bin);
        }
        assert!(balances.is_producer(bin));
        balances.forget(bin);
        assert!(!balances.is_producer(bin));
    }
}
