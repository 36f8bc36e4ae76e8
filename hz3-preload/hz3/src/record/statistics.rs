//! Statistics: medians, quantiles, and bootstrap confidence intervals of ratios of medians.
//!
//! A claim compares two allocators by the ratio of their medians. Its interval comes from the
//! percentile bootstrap (Efron 1979): rounds are drawn with replacement, the ratio is taken again, and
//! the middle 95 % of the ratios are the interval. The draws are seeded, so that a report made twice
//! from the same data is the same.

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

/// Bootstrap draws per interval. The 2.5 % quantile of 2,000 draws is their 50th value.
const DRAWS: usize = 2_000;

/// Share of the draws outside the interval, at each end.
const TAIL: f64 = 0.025;

/// Fewer values than this support no interval: the bootstrap would claim far too much.
pub const FEWEST_VALUES: usize = 6;

const SEED: u64 = 0x6873_335f_626f_6f74;

/// A ratio of two medians.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The ratio in the data itself.
    pub estimate: f64,
    /// Its 95 % confidence interval; absent with fewer than [`FEWEST_VALUES`] values.
    pub interval: Option<Interval>,
}

/// A closed range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A ratio and its interval in words.
pub fn show_ratio(ratio: Ratio) -> String {
    match ratio.interval {
        Some(interval) => {
            format!("{:.2} [{:.2}, {:.2}]", ratio.estimate, interval.low, interval.high)
        }
        None => format!("{:.2} [too few rounds]", ratio.estimate),
    }
}

/// The value at `share` (0 to 1) of the sorted values, interpolated; `None` for no values.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let position = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (position - position.floor()))
}

/// The middle value, or the mean of the two middle ones; `None` for no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut scratch = values.to_vec();
    (!scratch.is_empty()).then(|| median_in_place(&mut scratch))
}

/// The median of at least one value, in linear time; reorders the values.
fn median_in_place(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    let is_odd = values.len() % 2 == 1;
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if is_odd {
        upper
    } else {
        let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        f64::midpoint(lower, upper)
    }
}

/// The geometric mean of positive values; `None` for no values.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp())
}

/// median(first) ÷ median(second) of values measured in the same rounds.
///
/// Whole rounds are drawn: what ran within the same seconds shares the machine's state, and that
/// common noise cancels in the ratio.
pub fn paired_ratio(rounds: &[(f64, f64)]) -> Option<Ratio> {
    let (first, second): (Vec<f64>, Vec<f64>) = rounds.iter().copied().unzip();
    let estimate = median(&first)? / median(&second)?;
    let interval = (rounds.len() >= FEWEST_VALUES).then(|| {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(SEED);
        let (mut above, mut below) = (first.clone(), second.clone());
        interval_of(|| {
            for index in 0..rounds.len() {
                (above[index], below[index]) = rounds[random.random_range(0..rounds.len())];
            }
            median_in_place(&mut above) / median_in_place(&mut below)
        })
    });
    Some(Ratio { estimate, interval })
}

/// The median of first ÷ second over rounds, with an interval that misses the true median with a chance of at
/// most `error`; without one where there are too few rounds for that.
///
/// The interval runs from one ordered ratio to the one as far from the other end (Conover, Practical
/// Nonparametric Statistics, 3.2). Its error is exact, unlike the bootstrap's: each ratio lies above the true
/// median with a chance of one half, whatever the noise is like and however it changes from round to round.
pub fn median_of_ratios(rounds: &[(f64, f64)], error: f64) -> Option<Ratio> {
    let mut ratios: Vec<f64> = rounds.iter().map(|(first, second)| first / second).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let estimate = median(&ratios)?;
    let left_out = heads_at_most(ratios.len(), error / 2.0);
    let interval = left_out.map(|count| Interval { low: ratios[count], high: ratios[ratios.len() - 1 - count] });
    Some(Ratio { estimate, interval })
}

/// The most heads `k` of which `k` or fewer come up in `tosses` of a coin with a chance of at most `chance`.
fn heads_at_most(tosses: usize, chance: f64) -> Option<usize> {
    let mut logarithm = -(tosses as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for heads in 0..=tosses {
        sum += logarithm.exp();
        if sum > chance {
            return heads.checked_sub(1);
        }
        logarithm += ((tosses - heads) as f64 / (heads + 1) as f64).ln();
    }
    None
}

/// How a change between two measurements compares with that of a control:
/// (median(new) ÷ median(old)) ÷ the geometric mean of the same ratio over the `controls`, each given
/// as (new values, old values). Every list is drawn on its own, because nothing pairs two measurements.
/// Without controls this is the plain ratio.
pub fn change_against_controls(new: &[f64], old: &[f64], controls: &[(Vec<f64>, Vec<f64>)]) -> Option<Ratio> {
    let plain = |new: &[f64], old: &[f64]| Some(median(new)? / median(old)?);
    let of_controls: Option<Vec<f64>> = controls.iter().map(|(new, old)| plain(new, old)).collect();
    let estimate = plain(new, old)? / geometric_mean(&of_controls?).unwrap_or(1.0);
    let lists = || std::iter::once((new, old)).chain(controls.iter().map(|(new, old)| (&new[..], &old[..])));
    let enough = lists().all(|(new, old)| new.len().min(old.len()) >= FEWEST_VALUES);
    let interval = enough.then(|| {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(SEED);
        let mut redrawn_median = |values: &[f64]| {
            let mut drawn: Vec<f64> = values.iter().map(|_| values[random.random_range(0..values.len())]).collect();
            median_in_place(&mut drawn)
        };
        interval_of(|| {
            let changes: Vec<f64> = lists().map(|(new, old)| redrawn_median(new) / redrawn_median(old)).collect();
            changes[0] / geometric_mean(&changes[1..]).unwrap_or(1.0)
        })
    });
    Some(Ratio { estimate, interval })
}

fn interval_of(mut draw: impl FnMut() -> f64) -> Interval {
    let ratios: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
    let end = |share| quantile(&ratios, share).expect("there are draws");
    Interval { low: end(TAIL), high: end(1.0 - TAIL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn quantiles_interpolate() {
        let values = [40.0, 10.0, 30.0, 20.0];
        assert_eq!(quantile(&values, 0.0), Some(10.0));
        assert_eq!(quantile(&values, 1.0), Some(40.0));
        assert_eq!(quantile(&values, 0.5), Some(25.0));
    }

    #[test]
    fn an_outlier_moves_neither_the_ratio_nor_the_end_of_its_interval_far() {
        let mut rounds: Vec<(f64, f64)> =
            (0..30).map(|round| (120.0 + f64::from(round % 5), 100.0 + f64::from(round % 3))).collect();
        rounds[7].0 = 1.0;
        let ratio = paired_ratio(&rounds).unwrap();
        let interval = ratio.interval.unwrap();
        assert!((ratio.estimate - 122.0 / 101.0).abs() < 1e-12);
        assert!(interval.low > 1.17 && interval.high < 1.25, "{interval:?}");
        assert!(interval.low <= ratio.estimate && ratio.estimate <= interval.high);
    }

    #[test]
    fn a_wider_spread_gives_a_wider_interval() {
        let rounds =
            |step: f64| -> Vec<(f64, f64)> { (0..20).map(|round| (100.0 + step * f64::from(round), 100.0)).collect() };
        let width = |rounds: &[(f64, f64)]| {
            let interval = paired_ratio(rounds).unwrap().interval.unwrap();
            interval.high - interval.low
        };
        assert!(width(&rounds(5.0)) > 4.0 * width(&rounds(1.0)));
    }

    #[test]
    fn the_same_data_give_the_same_interval() {
        let rounds: Vec<(f64, f64)> = (0..12).map(|round| (f64::from(round * 7 % 12) + 50.0, 40.0)).collect();
        assert_eq!(paired_ratio(&rounds), paired_ratio(&rounds));
    }

    #[test]
    fn few_rounds_give_no_interval() {
        let rounds = vec![(2.0, 1.0); FEWEST_VALUES - 1];
        assert_eq!(paired_ratio(&rounds), Some(Ratio { estimate: 2.0, interval: None }));
        assert_eq!(paired_ratio(&[]), None);
    }

    #[test]
    fn noise_shared_by_a_round_cancels_in_the_paired_ratio() {
        let rounds: Vec<(f64, f64)> = (0..20)
            .map(|round| {
                let slowdown = 1.0 + f64::from(round * 13 % 20) / 10.0;
                (220.0 / slowdown, 200.0 / slowdown)
            })
            .collect();
        let interval = paired_ratio(&rounds).unwrap().interval.unwrap();
        assert!(interval.high - interval.low < 0.01, "{interval:?}");
    }

    #[test]
    fn the_coin_s_chances_are_those_of_the_tables() {
        // Of 10 tosses: none 1/1024, at most one 11/1024, at most two 56/1024.
        assert_eq!(heads_at_most(10, 0.9 / 1024.0), None);
        assert_eq!(heads_at_most(10, 1.1 / 1024.0), Some(0));
        assert_eq!(heads_at_most(10, 11.1 / 1024.0), Some(1));
        assert_eq!(heads_at_most(10, 0.0546), Some(1));
        // 2^-5000 is no number any more; near the middle, half the chance lies below.
        assert!(heads_at_most(5_000, 0.025).is_some_and(|heads| (2_420..2_440).contains(&heads)));
    }

    #[test]
    fn an_exact_interval_leaves_out_as_many_ratios_at_both_ends() {
        let rounds: Vec<(f64, f64)> = (1..=10).map(|round| (f64::from(round * 7 % 11), 1.0)).collect();
        let ratio = median_of_ratios(&rounds, 0.05).unwrap();
        assert_eq!(ratio, Ratio { estimate: 5.5, interval: Some(Interval { low: 2.0, high: 9.0 }) });
        assert_eq!(median_of_ratios(&rounds[..5], 0.05).unwrap().interval, None);
        assert_eq!(median_of_ratios(&[], 0.05), None);
    }

    #[test]
    fn a_slower_machine_is_no_change_when_the_control_slowed_down_too() {
        let values =
            |centre: f64| -> Vec<f64> { (0..15).map(|round| centre * (1.0 + f64::from(round % 5) / 500.0)).collect() };
        let control = [(values(40.0), values(50.0))];
        let ratio = change_against_controls(&values(80.0), &values(100.0), &control).unwrap();
        assert!((ratio.estimate - 1.0).abs() < 1e-9);
        let interval = ratio.interval.unwrap();
        assert!(interval.low <= 1.0 && 1.0 <= interval.high);
        let plain = change_against_controls(&values(80.0), &values(100.0), &[]).unwrap();
        assert!(plain.interval.unwrap().high < 0.82);
    }
}
