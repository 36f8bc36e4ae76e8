//! Spread: bins whose live slots lie scattered over many more spans than they need.
//!
//! ```text
//! heap takes fresh pages → looks at a third of the bins → less used than before, much free → spread
//! heap of one thread shrinks to a quarter               → a quarter used at most           → spread
//! a while without either                                                                   → none is
//! ```
//!
//! A thread's magazines hand a freed slot out again where it lies, so a bin of which less and less is used would stay spread
//! for ever. What is freed in such a bin goes home instead, and what is taken fills up one span after the other
//! (`api/apart.rs`).

use crate::pages::bins::BINS;
use crate::platform::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::platform::units::{Bin, elapsed_ms};

/// Bins that one look covers. Chosen: a third of all; each look takes every shard's lock once.
pub const WINDOW: usize = 24;
/// Milliseconds after the last look at which bins are no longer spread.
const LASTING_MS: u32 = 2000;

/// Bytes of slots of [`WINDOW`] bins, summed over shards.
pub struct Window {
    first: u8,
    used: [usize; WINDOW],
    all: [usize; WINDOW],
}

impl Window {
    /// Its bins.
    pub fn bins(&self) -> impl Iterator<Item = Bin> + use<> {
        (self.first..(self.first + WINDOW as u8).min(BINS as u8)).map(Bin)
    }

    /// Adds a shard's bytes of slots in use, and of all in its spans.
    pub fn add(&mut self, bin: Bin, used: usize, all: usize) {
        let index = usize::from(bin.0.saturating_sub(self.first));
        if let Some((sum, sum_of_all)) = self.used.get_mut(index).zip(self.all.get_mut(index)) {
            *sum += used;
            *sum_of_all += all;
        }
    }
}

/// The bins that are spread. Sync: any thread; relaxed, all accesses: hints.
pub struct Spread {
    bins: [AtomicU64; BINS.div_ceil(64)],
    /// Bytes in use at their highest, by bin; falls by 1/256 with each look.
    highest: [AtomicUsize; BINS],
    /// First bin of the next look.
    next: AtomicU32,
    /// Time of the last look that may begin it, in milliseconds.
    last: AtomicU32,
}

impl Spread {
    /// None.
    #[allow(clippy::new_without_default, reason = "only an exchange has one")]
    pub const fn new() -> Self {
        Self {
            bins: [const { AtomicU64::new(0) }; BINS.div_ceil(64)],
            highest: [const { AtomicUsize::new(0) }; BINS],
            next: AtomicU32::new(1),
            last: AtomicU32::new(0),
        }
    }

    /// Whether `bin` is spread.
    #[inline]
    pub fn has(&self, bin: Bin) -> bool {
        self.bins.get(usize::from(bin.0 / 64)).is_some_and(|word| word.load(Ordering::Relaxed) >> (bin.0 % 64) & 1 != 0)
    }

    /// Whether any bin is.
    pub fn is_any(&self) -> bool {
        self.bins.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Begins a look at the next bins.
    pub fn window(&self) -> Window {
        Window { first: self.next.load(Ordering::Relaxed) as u8, used: [0; WINDOW], all: [0; WINDOW] }
    }

    /// Ends a look at `now`. A bin of which at least an eighth less is used than before is spread from a fifth of free
    /// slots on, of `least` bytes or more, until they are less than a tenth. Chosen: `docs/decisions/spread.md`.
    pub fn note(&self, window: &Window, least: usize, now: u32) {
        self.last.store(now, Ordering::Relaxed);
        self.end_look(window, least, |bin, used, all| {
            let Some(highest) = self.highest.get(usize::from(bin.0)) else { return false };
            let before = highest.load(Ordering::Relaxed);
            highest.store(used.max(before - before / 256), Ordering::Relaxed);
            used < before - before / 8 && all.saturating_sub(used) >= all / 5
        });
    }

    /// Ends a look at `now` in a heap that shrinks: a bin with `least` bytes of free slots or more is spread if one of
    /// `used_per` slots at most is used. 0: none becomes so.
    pub fn note_shrunk(&self, window: &Window, least: usize, used_per: usize, now: u32) {
        if self.end_look(window, least, |_, used, all| used_per > 0 && used <= all / used_per) {
            self.last.store(now, Ordering::Relaxed);
        }
    }

    /// Moves on to the next bins. A bin is spread from now on if `is_so` says so of its bytes in use and of all its
    /// slots, and no longer if little is free; whether one has become so.
    fn end_look(&self, window: &Window, least: usize, is_so: impl Fn(Bin, usize, usize) -> bool) -> bool {
        let next = usize::from(window.first) + WINDOW;
        self.next.store(if next < BINS { next as u32 } else { 1 }, Ordering::Relaxed);
        let mut has_begun = false;
        for (bin, (&used, &all)) in window.bins().zip(window.used.iter().zip(&window.all)) {
            let (is_so, free) = (is_so(bin, used, all), all.saturating_sub(used));
            if self.has(bin) {
                if free < least || free < all / 10 {
                    self.set(bin, false);
                }
            } else if is_so && free >= least {
                self.set(bin, true);
                has_begun = true;
            }
        }
        has_begun
    }

    /// Ends it for all bins, if no look followed for a while.
    pub fn end_if_quiet(&self, now: u32) {
        if self.is_any() && elapsed_ms(self.last.load(Ordering::Relaxed), now) >= LASTING_MS {
            self.bins.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    fn set(&self, bin: Bin, is_spread: bool) {
        if let Some(word) = self.bins.get(usize::from(bin.0 / 64)) {
            let bit = 1 << (bin.0 % 64);
            if is_spread {
                word.fetch_or(bit, Ordering::Relaxed);
            } else {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks until one covers the bin.
    fn look(spread: &Spread, bin: Bin, used: usize, all: usize, now: u32) {
        loop {
            let mut window = spread.window();
            let is_covered = window.bins().any(|other| other == bin);
            window.add(bin, used, all);
            spread.note(&window, 100, now);
            if is_covered {
                return;
            }
        }
    }

    #[test]
    fn a_bin_of_which_less_is_used_is_spread_from_a_fifth_free_down_to_a_tenth() {
        let (spread, bin) = (Spread::new(), Bin(BINS as u8 - 1));
        look(&spread, bin, 1000, 1000, 0);
        look(&spread, bin, 810, 1000, 0);
        assert!(!spread.has(bin));
        look(&spread, bin, 790, 1000, 0);
        assert!(spread.has(bin) && !spread.has(Bin(1)));
        look(&spread, bin, 890, 1000, 0);
        assert!(spread.has(bin));
        look(&spread, bin, 910, 1000, 0);
        assert!(!spread.has(bin));
        look(&spread, bin, 1, 100, 0);
        assert!(!spread.has(bin), "99 bytes are too few");
    }

    #[test]
    fn in_a_heap_that_shrinks_a_bin_is_spread_from_three_quarters_free_down_to_a_tenth() {
        let (spread, bin) = (Spread::new(), Bin(20));
        let look = |used, all, used_per| {
            for _ in 0..BINS.div_ceil(WINDOW) {
                let mut window = spread.window();
                window.add(bin, used, all);
                spread.note_shrunk(&window, 100, used_per, 0);
            }
        };
        look(251, 1000, 4);
        look(20, 119, 4);
        look(0, 1000, 0);
        assert!(!spread.is_any());
        look(250, 1000, 4);
        assert!(spread.has(bin));
        look(890, 1000, 0);
        assert!(spread.has(bin));
        look(910, 1000, 0);
        assert!(!spread.has(bin));
    }

    #[test]
    fn a_bin_that_grows_is_not_spread() {
        let (spread, bin) = (Spread::new(), Bin(20));
        for used in 1..100 {
            look(&spread, bin, used * 100, used * 200, 0);
            assert!(!spread.has(bin));
        }
    }

    #[test]
    fn without_growth_no_bin_stays_spread() {
        let (spread, bin) = (Spread::new(), Bin(20));
        look(&spread, bin, 1000, 1000, 5000);
        look(&spread, bin, 100, 1000, 5000);
        spread.end_if_quiet(5000 + LASTING_MS - 1);
        assert!(spread.has(bin));
        spread.end_if_quiet(5000 + LASTING_MS);
        assert!(!spread.has(bin));
    }
}
