//! Sequential: when a measurement that looks at its data as they come may stop, and what it may then say.
//!
//! ```text
//!   rounds   1 … n₁ ……… n₂ ……………… n₃ ………            n₁ fixed before the first run, then half as many again
//!   error         α/2     α/6           α/12         α/(k(k+1)): all looks together spend at most α
//!                 └── divided by the number of comparisons, so that all of them hold together
//! ```
//!
//! Who looks often enough at pure noise sees a difference some day. Each look therefore has an error of its
//! own, and they add up to α however many there are. A look that was not planned, at the time limit, takes the
//! next one's share: when the time runs out depends on how long runs take, not on who was faster.

use crate::record::statistics::{Interval, Ratio};

/// Differences below this share are none: they are smaller than what linking in another order may cost.
pub const MARGIN: f64 = 0.02;

/// Each look has at least this many times the rounds of the one before.
const GROWTH: f64 = 1.5;

/// The looks of one measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Looks {
    /// What all looks and comparisons together may err.
    error: f64,
    comparisons: u32,
    /// Looks taken so far.
    taken: u32,
    /// The rounds after which the first one is due.
    first: u32,
    /// The rounds after which the next one is due.
    due: u32,
}

/// What the interval of a ratio says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The first is less than the second, by more than [`MARGIN`] as far as can be seen.
    Less,
    /// They differ by less than [`MARGIN`].
    Same,
    /// The first is more than the second, by more than [`MARGIN`] as far as can be seen.
    More,
    /// Nothing yet: the interval covers 1 or is wider than the margin, or there is none.
    Open,
}

impl Looks {
    /// Looks for a number of comparisons that shall all hold with `confidence`.
    pub fn new(confidence: f64, comparisons: u32) -> Looks {
        let looks = Looks { error: 1.0 - confidence, comparisons: comparisons.max(1), taken: 0, first: 0, due: 0 };
        // Fewer rounds can't give an interval: the most they can say is that all ratios lie on one side.
        let first = (1 - looks.error_of(1).log2().floor() as i32).max(1) as u32;
        Looks { first, due: first, ..looks }
    }

    fn error_of(&self, look: u32) -> f64 {
        self.error / f64::from(self.comparisons) / (f64::from(look) * f64::from(look + 1))
    }

    /// The rounds without which nothing can be said.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// The rounds after which the next look is due.
    pub fn due(&self) -> u32 {
        self.due
    }

    /// Takes a look after `rounds`; the error that each of its intervals may have.
    pub fn take(&mut self, rounds: u32) -> f64 {
        self.taken += 1;
        self.due = (f64::from(rounds.max(self.due)) * GROWTH).ceil() as u32;
        self.error_of(self.taken)
    }
}

impl Standing {
    /// What a ratio's interval says.
    pub fn of(ratio: Option<Ratio>) -> Standing {
        let Some(Ratio { estimate, interval: Some(Interval { low, high }) }) = ratio else { return Standing::Open };
        match estimate {
            _ if low >= 1.0 / (1.0 + MARGIN) && high <= 1.0 + MARGIN => Standing::Same,
            _ if high < 1.0 && estimate < 1.0 / (1.0 + MARGIN) => Standing::Less,
            _ if low > 1.0 && estimate > 1.0 + MARGIN => Standing::More,
            _ => Standing::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::statistics::median_of_ratios;
    use rand::{Rng, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    /// Measures until the difference is settled, at most `limit` rounds, with times from `round`.
    fn measure(limit: u32, mut round: impl FnMut() -> (f64, f64)) -> (Standing, u32) {
        let mut looks = Looks::new(0.95, 1);
        let mut rounds = Vec::new();
        loop {
            rounds.push(round());
            let count = rounds.len() as u32;
            if count == looks.due() || count == limit {
                let standing = Standing::of(median_of_ratios(&rounds, looks.take(count)));
                if standing != Standing::Open || count == limit {
                    return (standing, count);
                }
            }
        }
    }

    /// A run's time on a noisy machine: a spread of some percent, and one run in ten is disturbed.
    fn noisy(random: &mut Xoshiro256PlusPlus, time: f64) -> f64 {
        let disturbed = if random.random_range(0..10) == 0 { random.random_range(1.0..2.0) } else { 1.0 };
        time * disturbed * (1.0 + 0.1 * (random.random::<f64>() + random.random::<f64>() - 1.0))
    }

    #[test]
    fn pure_noise_is_taken_for_a_difference_no_more_often_than_promised() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let runs = 1_000;
        let wrong = (0..runs)
            .filter(|_| {
                let (standing, _) = measure(150, || (noisy(&mut random, 1.0), noisy(&mut random, 1.0)));
                matches!(standing, Standing::Less | Standing::More)
            })
            .count();
        // 5 % of 1,000 is 50.
        assert!(wrong <= 50, "{wrong} of {runs}");
    }

    #[test]
    fn a_look_after_every_round_at_one_level_would_not_keep_that_promise() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let wrong = (0..200).filter(|_| {
            let mut rounds = Vec::new();
            (0..100).any(|_| {
                rounds.push((noisy(&mut random, 1.0), noisy(&mut random, 1.0)));
                matches!(Standing::of(median_of_ratios(&rounds, 0.05)), Standing::Less | Standing::More)
            })
        });
        assert!(wrong.count() > 20, "this is why the looks are few and corrected");
    }

    #[test]
    fn a_machine_that_slows_down_midway_disturbs_nothing() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
        let mut round = 0;
        let (standing, _) = measure(500, || {
            round += 1;
            let state = if round % 37 < 15 { 3.0 } else { 1.0 };
            (noisy(&mut random, 0.8 * state), noisy(&mut random, state))
        });
        assert_eq!(standing, Standing::Less);
    }

    #[test]
    fn large_differences_settle_early_small_ones_later_and_none_at_all_as_none() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let mut settle = |time: f64, noise: f64| {
            measure(20_000, || (time * (1.0 + noise * random.random::<f64>()), 1.0 + noise * random.random::<f64>()))
        };
        let (standing, early) = settle(2.0, 0.1);
        assert_eq!((standing, early), (Standing::More, Looks::new(0.95, 1).due()));
        let (standing, later) = settle(0.95, 0.6);
        assert_eq!(standing, Standing::Less);
        assert!(later > early);
        assert_eq!(settle(1.0, 0.02).0, Standing::Same);
    }

    #[test]
    fn more_comparisons_ask_for_more_rounds_and_each_look_comes_later_with_less_to_spend() {
        assert_eq!(Looks::new(0.95, 1).due(), 7);
        assert!(Looks::new(0.95, 110).due() > 12);
        let mut looks = Looks::new(0.95, 1);
        let mut spent = 0.0;
        for _ in 0..50 {
            let due = looks.due();
            let error = looks.take(due);
            assert!(looks.due() > due && error > 0.0);
            spent += error;
        }
        assert!(spent < 0.05 && spent > 0.04, "{spent}");
    }

    #[test]
    fn the_first_look_can_settle_a_difference() {
        for comparisons in [1, 2, 6, 12, 110] {
            let mut looks = Looks::new(0.99, comparisons);
            let rounds = vec![(2.0, 1.0); looks.due() as usize];
            let error = looks.take(looks.due());
            assert_eq!(Standing::of(median_of_ratios(&rounds, error)), Standing::More);
            assert_eq!(Standing::of(median_of_ratios(&rounds[1..], error)), Standing::Open, "one round fewer");
        }
    }
}
