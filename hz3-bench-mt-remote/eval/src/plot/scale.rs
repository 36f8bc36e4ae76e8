//! Scale: maps values to positions along an axis and chooses round tick marks.

use hz3::report::text::width;

/// The class of a tick's label.
pub const TICK_FONT: &str = "faint small";

/// An axis from `low` to `high`, drawn from `start` over `length` pixels.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    low: f64,
    high: f64,
    start: f64,
    length: f64,
    logarithmic: bool,
}

impl Scale {
    /// An axis on which equal distances are equal differences.
    pub fn linear(low: f64, high: f64, start: f64, length: f64) -> Scale {
        Scale { low, high, start, length, logarithmic: false }
    }

    /// An axis on which equal distances are equal ratios; both ends are positive.
    pub fn logarithmic(low: f64, high: f64, start: f64, length: f64) -> Scale {
        Scale { low, high, start, length, logarithmic: true }
    }

    /// Where `value` lies; outside the axis, its nearer end.
    pub fn at(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.start + share * self.length
    }
}

/// Of some ticks, earlier ones first, those whose labels stand apart along a horizontal axis, with where they stand.
pub fn labelled(scale: &Scale, ticks: Vec<f64>, label: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    let mut kept: Vec<(f64, String)> = Vec::new();
    for tick in ticks {
        let (x, label) = (scale.at(tick), label(tick));
        let room = |label: &str| width(TICK_FONT, label) / 2.0 + 6.0;
        if kept.iter().all(|(other, text)| (other - x).abs() >= room(text) + room(&label)) {
            kept.push((x, label));
        }
    }
    kept
}

/// Round values from 0 up to at most `high`, at most `count` steps apart.
pub fn linear_ticks(high: f64, count: usize) -> Vec<f64> {
    let rough = high / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    (0..=count).map(|index| index as f64 * step).filter(|tick| *tick <= high * 1.0001).collect()
}

/// The powers of ten within the range.
pub fn decade_ticks(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.log10().ceil() as i32, high.log10().floor() as i32);
    (first..=last).map(|exponent| 10f64.powi(exponent)).collect()
}

/// A tick's value without needless digits.
pub fn tick_label(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_kind_of_axis() {
        let linear = Scale::linear(0.0, 200.0, 10.0, 100.0);
        assert_eq!([0.0, 50.0, 200.0, 900.0].map(|value| linear.at(value)), [10.0, 35.0, 110.0, 110.0]);
        let logarithmic = Scale::logarithmic(0.25, 4.0, 0.0, 100.0);
        assert!((logarithmic.at(1.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(linear_ticks(205.0, 3), [0.0, 100.0, 200.0]);
        assert_eq!(linear_ticks(1.7, 3), [0.0, 1.0]);
        assert_eq!(linear_ticks(0.9, 3), [0.0, 0.5]);
        assert_eq!(decade_ticks(15.0, 2e4), [100.0, 1000.0, 10000.0]);
    }

    #[test]
    fn labels_of_ticks_stand_apart_and_the_first_one_stays() {
        let scale = Scale::linear(0.0, 100.0, 0.0, 100.0);
        let labels = labelled(&scale, vec![50.0, 40.0, 52.0, 95.0], tick_label);
        assert_eq!(labels, [(50.0, "50".to_owned()), (95.0, "95".to_owned())]);
    }

    #[test]
    fn tick_labels_have_no_needless_digits() {
        assert_eq!([0.0, 0.25, 1.5, 200.0].map(tick_label), ["0", "0.25", "1.5", "200"]);
    }
}
