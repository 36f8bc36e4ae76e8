//! Draw: the random choices of one iteration, cut from one 64-bit random number.
//!
//! ```text
//!   63            32 31             0
//!   +---------------+---------------+
//!   |     slot      |  size or fate |      an empty slot needs a size, an occupied one a fate, never both
//!   +---------------+---------------+
//! ```
//!
//! A field becomes a number below `n` by a multiplication and a shift; the bias is below `n` parts in 2^32.
#![forbid(unsafe_code)]

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

/// The choices that a run allows: ranges and probability, as multipliers.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    slots: u64,
    min_bytes: u64,
    sizes: u64,
    remote_below: u64,
}

impl Choices {
    /// Slots 0 to `ws - 1`, sizes `min_bytes` to `max_bytes` (both included), remote in `remote_pct` of
    /// 100 cases.
    pub fn new(ws: u32, min_bytes: u32, max_bytes: u32, remote_pct: u32) -> Self {
        Self {
            slots: ws.into(),
            min_bytes: min_bytes.into(),
            sizes: u64::from(max_bytes) - u64::from(min_bytes) + 1,
            remote_below: (u64::from(remote_pct) << 32).div_ceil(100),
        }
    }
}

/// A thread's sequence of draws.
#[derive(Debug)]
pub struct Draws {
    generator: Xoshiro256PlusPlus,
    choices: Choices,
}

impl Draws {
    /// The sequence of each thread in turn. All are parts of the one stream of `seed`, 2^128 numbers
    /// apart, so that no two threads draw the same numbers.
    pub fn of_threads(seed: u64, choices: Choices) -> impl Iterator<Item = Self> {
        let mut next = Xoshiro256PlusPlus::seed_from_u64(seed);
        std::iter::repeat_with(move || {
            let generator = next.clone();
            next.jump();
            Self { generator, choices }
        })
    }

    /// The next iteration's draw.
    #[inline(always)]
    pub fn next_draw(&mut self) -> Draw {
        Draw { number: self.generator.next_u64(), choices: self.choices }
    }
}

/// One iteration's random number.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    number: u64,
    choices: Choices,
}

impl Draw {
    /// The slot to act on, below `ws`.
    #[inline(always)]
    pub fn slot(self) -> usize {
        (((self.number >> 32) * self.choices.slots) >> 32) as usize
    }

    /// The size of a fresh block in bytes.
    #[inline(always)]
    pub fn size_bytes(self) -> usize {
        (self.choices.min_bytes + ((self.low() * self.choices.sizes) >> 32)) as usize
    }

    /// Whether the block in the slot goes to the neighbour.
    #[inline(always)]
    pub fn is_remote(self) -> bool {
        self.low() < self.choices.remote_below
    }

    #[inline(always)]
    fn low(self) -> u64 {
        self.number & 0xffff_ffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(number: u64, choices: Choices) -> Draw {
        Draw { number, choices }
    }

    #[test]
    fn the_extreme_numbers_give_the_ends_of_each_range() {
        let choices = Choices::new(400, 16, 2048, 50);
        let (low, high) = (draw(0, choices), draw(u64::MAX, choices));
        assert_eq!((low.slot(), low.size_bytes(), low.is_remote()), (0, 16, true));
        assert_eq!((high.slot(), high.size_bytes(), high.is_remote()), (399, 2048, false));
        let widest = draw(u64::MAX, Choices::new(u32::MAX, 1, u32::MAX, 100));
        assert_eq!(widest.slot(), u32::MAX as usize - 1);
        assert_eq!(widest.size_bytes(), u32::MAX as usize);
    }

    #[test]
    fn no_block_is_remote_at_0_percent_and_every_block_at_100() {
        for number in [0, 1, u64::MAX] {
            assert!(!draw(number, Choices::new(1, 1, 1, 0)).is_remote());
            assert!(draw(number, Choices::new(1, 1, 1, 100)).is_remote());
        }
    }

    #[test]
    fn draws_cover_slots_sizes_and_fates_evenly() {
        let mut draws = Draws::of_threads(7, Choices::new(10, 1, 10, 30)).next().unwrap();
        let (mut slots, mut sizes, mut remote) = ([0_u32; 10], [0_u32; 11], 0);
        for _ in 0..100_000 {
            let draw = draws.next_draw();
            slots[draw.slot()] += 1;
            sizes[draw.size_bytes()] += 1;
            remote += u32::from(draw.is_remote());
        }
        assert!(slots.iter().chain(&sizes[1..]).all(|count| (9_500..10_500).contains(count)));
        assert!((29_500..30_500).contains(&remote), "{remote}");
    }

    #[test]
    fn threads_draw_apart_and_equal_seeds_draw_alike() {
        let choices = Choices::new(400, 16, 2048, 50);
        let numbers = |seed| {
            Draws::of_threads(seed, choices).take(3).map(|mut draws| draws.next_draw().number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
        let first = numbers(1);
        assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
    }
}
