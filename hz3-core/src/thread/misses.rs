//! Misses: which bins of a heap are cold.
//!
//! ```text
//! check for cold bins      pass   pass   pass      check          last miss of a bin: 0, or the pass, from 1
//! ```

use crate::pages::bins::BINS;
use crate::platform::units::Bin;
use core::cell::Cell;

/// When each bin last had a miss, in passes; 0 if it had none since the last check for cold bins. Sync: owner thread.
pub struct Misses {
    last: [Cell<u8>; BINS],
    /// The pass now, less one.
    pass: Cell<u8>,
}

impl Misses {
    /// Notes a miss of `bin`.
    #[inline]
    pub fn note(&self, bin: Bin) {
        if let Some(last) = self.last.get(usize::from(bin.0)) {
            last.set(self.pass.get().saturating_add(1));
        }
    }

    /// Passes since the last miss of `bin`; the most if it had none since the last check.
    pub fn age(&self, bin: Bin) -> u8 {
        match self.last.get(usize::from(bin.0)).map_or(0, Cell::get) {
            0 => u8::MAX,
            last => self.pass.get().saturating_add(1).saturating_sub(last),
        }
    }

    /// Whether `bin` had a miss since the last such call, or since the heap was taken.
    pub fn begin_look(&self, bin: Bin) -> bool {
        self.last.get(usize::from(bin.0)).is_some_and(|last| last.replace(0) != 0)
    }

    /// Begins a pass, and returns its number. After many, older ones are told apart half as well.
    pub fn pass(&self) -> u8 {
        let mut pass = self.pass.get() + 1;
        if pass == u8::MAX {
            self.last.iter().for_each(|last| last.set(last.get().div_ceil(2)));
            pass /= 2;
        }
        self.pass.set(pass);
        pass
    }

    /// Notes a miss of every bin: nothing is cold yet.
    pub fn restart(&self) {
        self.pass.set(0);
        self.last.iter().for_each(|last| last.set(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_bins_last_miss_is_told_apart_for_many_passes() {
        let misses = Misses { last: [const { Cell::new(0) }; BINS], pass: Cell::new(0) };
        let (never, old, late) = (Bin(1), Bin(2), Bin(3));
        misses.note(old);
        for passes in 1..2000 {
            misses.pass();
            misses.note(late);
            assert_eq!((misses.age(never), misses.age(late)), (u8::MAX, 0));
            assert!((1..u8::MAX).contains(&misses.age(old)), "{passes}");
        }
        assert!(misses.begin_look(old) && !misses.begin_look(old) && misses.age(old) == u8::MAX);
        misses.restart();
        assert!(misses.begin_look(never));
    }
}
