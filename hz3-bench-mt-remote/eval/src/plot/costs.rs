//! Costs: what a call costs over what grows, one picture per kind of call, both axes by ratios.

use super::scale::{Scale, TICK_FONT, decade_ticks};
use super::scaling::spread_out;
use hz3::record::Role;
use hz3::report::canvas::{Anchor, Canvas, MARGIN, TOP};
use hz3::report::text::{widest, width};

const PLOT_WIDTH: f64 = 420.0;
const PLOT_HEIGHT: f64 = 260.0;
const TICK_GAP: f64 = 6.0;
const NAME_GAP: f64 = 9.0;
const FOOT: f64 = 56.0;

/// One allocator's costs.
pub struct Curve {
    /// The allocator's name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its style class.
    pub class: String,
    /// What grows, and nanoseconds.
    pub points: Vec<(f64, f64)>,
}

/// Draws the curves under `title`, with `axis` below; `None` when there is no point.
pub fn draw(title: &str, axis: &str, rounds: u32, curves: &[Curve]) -> Option<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let least = |values: &dyn Fn(&(f64, f64)) -> f64| points().map(values).fold(f64::INFINITY, f64::min);
    let most = |values: &dyn Fn(&(f64, f64)) -> f64| points().map(values).fold(0.0, f64::max);
    points().next()?;
    let (low, high) = (least(&|point| point.1).max(0.1) / 1.5, most(&|point| point.1).max(0.1) * 1.5);
    // At least one power of ten lies on the axis.
    let (low, high) = (low.min(10f64.powf(high.log10().floor())), high);
    let (first, last) = (least(&|point| point.0), most(&|point| point.0).max(least(&|point| point.0) * 1.1));
    let ticks: Vec<(f64, String)> = decade_ticks(low, high).into_iter().map(|tick| (tick, time_label(tick))).collect();
    let axis_width = ticks.iter().map(|(_, label)| width(TICK_FONT, label)).fold(0.0, f64::max) + TICK_GAP;
    let names = widest("strong", curves.iter().map(|curve| curve.name.as_str())) + NAME_GAP;
    let mut canvas = Canvas::new(
        2.0 * MARGIN + axis_width + PLOT_WIDTH + names,
        TOP + PLOT_HEIGHT + FOOT,
        title,
        ["Time of a call; lower is better. Both axes have equal ratios.", &format!("Medians of {rounds} rounds.")],
    );
    let (start, top) = (MARGIN + axis_width, TOP);
    let bottom = top + PLOT_HEIGHT;
    let height = Scale::logarithmic(low, high, 0.0, PLOT_HEIGHT);
    let across = Scale::logarithmic(first, last, start + 12.0, PLOT_WIDTH - 24.0);
    let y_of = |cost: f64| bottom - height.at(cost);
    for (tick, label) in &ticks {
        canvas.line((start, y_of(*tick)), (start + PLOT_WIDTH, y_of(*tick)), "grid");
        canvas.text(start - TICK_GAP, y_of(*tick) + 4.0, Anchor::End, TICK_FONT, label);
    }
    canvas.line((start, bottom), (start + PLOT_WIDTH, bottom), "axis");
    let mut values: Vec<f64> = points().map(|point| point.0).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    for (x, label) in super::scale::labelled(&across, values, |value| value.to_string()) {
        canvas.text(x, bottom + 16.0, Anchor::Middle, TICK_FONT, &label);
    }
    canvas.text(start + PLOT_WIDTH / 2.0, bottom + 34.0, Anchor::Middle, TICK_FONT, axis);
    // Lanes are drawn last, so that they lie on top.
    let mut order: Vec<&Curve> = curves.iter().filter(|curve| !curve.points.is_empty()).collect();
    order.sort_by_key(|curve| curve.role == Role::Lane);
    let mut labels: Vec<((f64, f64), &Curve)> = Vec::new();
    for curve in order {
        let is_lane = curve.role == Role::Lane;
        let points: Vec<_> = curve.points.iter().map(|&(x, cost)| (across.at(x), y_of(cost))).collect();
        canvas.polyline(&points, &format!("stroke-{} {}", curve.class, if is_lane { "thick" } else { "thin" }));
        for &point in &points {
            canvas.dot(point, if is_lane { 3.5 } else { 2.2 }, &format!("fill-{}", curve.class));
        }
        labels.extend(points.last().map(|&end| (end, curve)));
    }
    labels.sort_by(|first, second| first.0.1.total_cmp(&second.0.1));
    let heights: Vec<f64> = labels.iter().map(|label| label.0.1).collect();
    for (y, (from, curve)) in spread_out(&heights, top, bottom).into_iter().zip(&labels) {
        let x = start + PLOT_WIDTH;
        canvas.line((from.0 + 5.0, from.1), (x + 6.0, y), "link");
        let weight = if curve.role == Role::Lane { "strong" } else { "small" };
        canvas.text(x + NAME_GAP, y + 4.0, Anchor::Start, &format!("fill-{} {weight}", curve.class), &curve.name);
    }
    Some(canvas.finish())
}

/// Nanoseconds in the unit that fits.
pub fn time_label(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        small if small < 1e3 => (small, "ns"),
        small if small < 1e6 => (small / 1e3, "µs"),
        large => (large / 1e6, "ms"),
    };
    let digits = if value >= 100.0 || value.fract() == 0.0 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::super::layout::assert_legible;
    use super::*;

    fn curve(name: &str, class: &str, role: Role, points: &[(f64, f64)]) -> Curve {
        Curve { name: name.to_owned(), class: class.to_owned(), role, points: points.to_vec() }
    }

    #[test]
    fn curves_that_meet_and_values_of_any_range_are_legible() {
        for costs in [[2.0, 2.0], [1e2, 1e9], [7e5, 7.1e5], [0.0, 3.0]] {
            let points = [(1.0, costs[0]), (8.0, costs[1]), (10.0, costs[1]), (30_000.0, costs[0])];
            let curves = [
                curve("fast", "fast", Role::Lane, &points),
                curve("scale", "scale", Role::Lane, &points),
                curve("system", "system", Role::System, &points[..2]),
                curve("mimalloc", "peer1", Role::Peer, &[]),
            ];
            let drawn = draw("A call", "blocks", 3, &curves).unwrap();
            assert_legible("costs", &drawn);
            assert!(!drawn.contains("NaN") && !drawn.contains("inf") && !drawn.contains("mimalloc"));
        }
        assert!(draw("A call", "blocks", 3, &[curve("fast", "fast", Role::Lane, &[])]).is_none());
    }

    #[test]
    fn times_are_in_the_unit_that_fits() {
        assert_eq!(
            [2.5, 100.0, 1e3, 15_432.0, 2.4e6].map(time_label),
            ["2.5 ns", "100 ns", "1 µs", "15.4 µs", "2.4 ms"]
        );
    }
}
