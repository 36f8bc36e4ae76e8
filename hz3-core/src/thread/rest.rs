//! Rest: what those who take from a heap that rests saw of it.

use crate::pages::bins::BINS;
use crate::platform::atomic::{AtomicU8, AtomicU32, Ordering};
use crate::platform::units::Bin;

/// What takers noted when they last looked at a heap.
pub struct Rest {
    /// Low bits of each bin's `top`; for the foreign bin a count of the owner's slow paths.
    seen: [AtomicU32; BINS],
    /// Looks since it changed.
    quiet: [AtomicU8; BINS],
    /// A sum of all that changes while the owner runs.
    sum: AtomicU32,
}

impl Rest {
    /// Notes the sum.
    pub fn note_sum(&self, sum: u32) {
        // Relaxed, here and below: a hint.
        self.sum.store(sum, Ordering::Relaxed);
    }

    /// Whether `sum` was noted last.
    pub fn is_sum(&self, sum: u32) -> bool {
        self.sum.load(Ordering::Relaxed) == sum
    }

    /// Notes what a look `sees` of `bin`; returns how many looks saw the same before, at most 255.
    pub fn note(&self, bin: Bin, sees: u32) -> u8 {
        let Some((seen, quiet)) = self.seen.get(usize::from(bin.0)).zip(self.quiet.get(usize::from(bin.0))) else {
            return 0;
        };
        // Relaxed, all: hints. Takers that look at once may lose a look.
        let is_same = seen.load(Ordering::Relaxed) == sees;
        let looks = if is_same { quiet.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        if !is_same {
            seen.store(sees, Ordering::Relaxed);
        }
        quiet.store(looks, Ordering::Relaxed);
        looks
    }
}
