//! Doubts: pairs of slots of which one circulates and the other is free, and nobody knows which is which.
//!
//! ```text
//! an exchange ── enter(former, other) ──→ | former, other | ── settle: it is known ──→ free
//!                                                         └── resolve: one of them comes home; so does its other
//! ```
//!
//! Who exchanges a slot that a hit may be reading ([`crate::upkeep::rest`]) may not learn which of the two was read. The
//! one that circulates comes home some day; then the other is free for certain. Until then it is out, in no other cache.

use crate::pages::slot::Slot;
use crate::platform::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Most pairs. Without a place for one, nothing is exchanged.
const PAIRS: usize = 64;

/// A pair that is being written or read.
const RESERVED: usize = 1;

/// The pairs.
pub struct Doubts {
    /// Addresses of the former slot, which says whether there is a pair, and of the other.
    pairs: [(AtomicUsize, AtomicUsize); PAIRS],
    open: AtomicU32,
}

impl Doubts {
    /// None.
    pub const fn new() -> Self {
        Self { pairs: [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; PAIRS], open: AtomicU32::new(0) }
    }

    /// Whether there is any pair.
    #[inline]
    pub fn is_any(&self) -> bool {
        // Relaxed: who brings a slot of a pair home got it after the pair was entered.
        self.open.load(Ordering::Relaxed) != 0
    }

    /// Calls `look` with one address of each pair, which stands for the slot that is free.
    pub fn each(&self, mut look: impl FnMut(usize)) {
        if !self.is_any() {
            return;
        }
        for (first, second) in &self.pairs {
            // Acquire: pairs with the Release in `enter`.
            if first.load(Ordering::Acquire) > RESERVED {
                look(second.load(Ordering::Relaxed));
            }
        }
    }

    /// Enters a pair; its place. `None` if there is none left.
    pub fn enter(&self, former: usize, other: usize) -> Option<usize> {
        let place = self.pairs.iter().position(|(first, _)| {
            // Acquire: whoever had the place is done with it. Pairs with the Release in `claim`.
            first.load(Ordering::Relaxed) == 0
                && first.compare_exchange(0, RESERVED, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })?;
        let (first, second) = self.pairs.get(place)?;
        self.open.fetch_add(1, Ordering::Relaxed);
        second.store(other, Ordering::Relaxed);
        // Release: publishes the other. Pairs with the Acquire in `claim`.
        first.store(former, Ordering::Release);
        Some(place)
    }

    /// The pair's addresses, which is no more, if its first is `former`.
    fn claim(&self, place: usize, former: usize) -> Option<(usize, usize)> {
        let (first, second) = self.pairs.get(place)?;
        first.compare_exchange(former, RESERVED, Ordering::Acquire, Ordering::Relaxed).ok()?;
        let other = second.load(Ordering::Relaxed);
        // Release: pairs with the Acquire in `enter`.
        first.store(0, Ordering::Release);
        self.open.fetch_sub(1, Ordering::Relaxed);
        Some((former, other))
    }

    /// Removes a pair of which it is known now; false if one of the two came home meanwhile, and the other with it.
    pub fn settle(&self, place: usize, former: usize) -> bool {
        self.claim(place, former).is_some()
    }

    /// The slot that is free because the one at `address` is about to be home; the caller owns it. `None` if it is in no pair.
    #[cold]
    pub fn resolve(&self, address: usize) -> Option<Slot> {
        self.pairs.iter().enumerate().find_map(|(place, (first, second))| {
            // Acquire: pairs with the Release in `enter`.
            let former = first.load(Ordering::Acquire);
            if former <= RESERVED || former != address && second.load(Ordering::Relaxed) != address {
                return None;
            }
            let (former, other) = self.claim(place, former)?;
            let free = if former == address { other } else { former };
            // SAFETY: one of the two circulated and is home, or about to be; the other is free, and this pair's alone.
            Some(unsafe { Slot::new(core::ptr::with_exposed_provenance_mut(free)) })
        })
    }
}

impl Default for Doubts {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_home_brings_its_other() {
        let doubts = Doubts::new();
        assert!(!doubts.is_any() && doubts.resolve(16).is_none());
        let [first, second] = [(16, 32), (48, 64)].map(|(former, other)| doubts.enter(former, other).unwrap());
        assert!(doubts.is_any() && doubts.resolve(80).is_none());
        let mut addresses = std::vec::Vec::new();
        doubts.each(|address| addresses.push(address));
        assert_eq!(addresses, [32, 64]);
        assert_eq!(doubts.resolve(32).map(|slot| slot.address()), Some(16));
        assert!(doubts.resolve(16).is_none() && !doubts.settle(first, 16));
        assert!(doubts.settle(second, 48) && doubts.resolve(64).is_none() && !doubts.is_any());
        let places: std::vec::Vec<_> = (1..).map_while(|number| doubts.enter(number * 100, 1 << 20)).collect();
        assert_eq!(places.len(), PAIRS);
    }
}
