//! Over time: resident memory under each allocator, and what is live of it, one picture per scenario.

use super::scale::{Scale, TICK_FONT, labelled, linear_ticks, tick_label};
use super::scaling::spread_out;
use hz3::record::Role;
use hz3::report::canvas::{Anchor, Canvas, MARGIN, TOP};
use hz3::report::text::{widest, width};

const PLOT_WIDTH: f64 = 460.0;
const PLOT_HEIGHT: f64 = 260.0;
const TICK_GAP: f64 = 6.0;
const NAME_GAP: f64 = 9.0;
const FOOT: f64 = 56.0;
const LIVE: &str = "live";

/// One allocator's memory.
pub struct Curve {
    /// The allocator's name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its style class.
    pub class: String,
    /// Seconds, and resident MiB.
    pub points: Vec<(f64, f64)>,
}

/// Draws the curves above what is `live`, in seconds and MiB, under `title`; `None` when there is no point.
pub fn draw(title: &str, live: &[(f64, f64)], curves: &[Curve]) -> Option<String> {
    let points = || curves.iter().flat_map(|curve| &curve.points).chain(live);
    points().next()?;
    let most = |values: &dyn Fn(&(f64, f64)) -> f64| points().map(values).fold(0.0, f64::max);
    let (last, high) = (most(&|point| point.0).max(0.01), most(&|point| point.1).max(1.0) * 1.05);
    let ticks = linear_ticks(high, 5);
    let axis_width = ticks.iter().map(|&tick| width(TICK_FONT, &tick_label(tick))).fold(0.0, f64::max) + TICK_GAP;
    let names = widest("strong", curves.iter().map(|curve| curve.name.as_str()).chain([LIVE])) + NAME_GAP;
    let mut canvas = Canvas::new(
        2.0 * MARGIN + axis_width + PLOT_WIDTH + names,
        TOP + PLOT_HEIGHT + FOOT,
        title,
        ["Resident memory in MiB; lower is better.", "One run each; grey: live blocks."],
    );
    let (start, top) = (MARGIN + axis_width, TOP);
    let bottom = top + PLOT_HEIGHT;
    let height = Scale::linear(0.0, high, 0.0, PLOT_HEIGHT);
    let across = Scale::linear(0.0, last, start, PLOT_WIDTH - 12.0);
    let place = |&(seconds, mib): &(f64, f64)| (across.at(seconds), bottom - height.at(mib));
    for &tick in &ticks {
        let y = bottom - height.at(tick);
        canvas.line((start, y), (start + PLOT_WIDTH, y), "grid");
        canvas.text(start - TICK_GAP, y + 4.0, Anchor::End, TICK_FONT, &tick_label(tick));
    }
    canvas.line((start, bottom), (start + PLOT_WIDTH, bottom), "axis");
    for (x, label) in labelled(&across, linear_ticks(last, 6), tick_label) {
        canvas.text(x, bottom + 16.0, Anchor::Middle, TICK_FONT, &label);
    }
    canvas.text(start + PLOT_WIDTH / 2.0, bottom + 34.0, Anchor::Middle, TICK_FONT, "seconds");
    // Lanes are drawn last, so that they lie on top.
    let mut order: Vec<&Curve> = curves.iter().filter(|curve| !curve.points.is_empty()).collect();
    order.sort_by_key(|curve| curve.role == Role::Lane);
    let mut labels: Vec<((f64, f64), String, &str)> = Vec::new();
    let grey: Vec<_> = live.iter().map(place).collect();
    canvas.polyline(&grey, "link thick");
    labels.extend(grey.last().map(|&end| (end, "faint small".to_owned(), LIVE)));
    for curve in order {
        let is_lane = curve.role == Role::Lane;
        let points: Vec<_> = curve.points.iter().map(place).collect();
        canvas.polyline(&points, &format!("stroke-{} {}", curve.class, if is_lane { "thick" } else { "thin" }));
        let class = format!("fill-{} {}", curve.class, if is_lane { "strong" } else { "small" });
        labels.extend(points.last().map(|&end| (end, class, curve.name.as_str())));
    }
    labels.sort_by(|first, second| first.0.1.total_cmp(&second.0.1));
    let heights: Vec<f64> = labels.iter().map(|label| label.0.1).collect();
    for (y, (from, class, name)) in spread_out(&heights, top, bottom).into_iter().zip(&labels) {
        let x = start + PLOT_WIDTH;
        canvas.line((from.0 + 2.0, from.1), (x + 6.0, y), "link");
        canvas.text(x + NAME_GAP, y + 4.0, Anchor::Start, class, name);
    }
    Some(canvas.finish())
}

#[cfg(test)]
mod tests {
    use super::super::layout::assert_legible;
    use super::*;

    #[test]
    fn curves_of_any_length_and_height_are_legible() {
        for (seconds, mib) in [(0.5, 3.0), (12.0, 1100.0), (0.0, 0.0)] {
            let points = [(0.0, 0.0), (seconds / 2.0, mib), (seconds, mib / 2.0)];
            let curve = |name: &str, class: &str, role, points: &[(f64, f64)]| Curve {
                name: name.to_owned(),
                class: class.to_owned(),
                role,
                points: points.to_vec(),
            };
            let curves = [
                curve("fast", "fast", Role::Lane, &points),
                curve("scale", "scale", Role::Lane, &points),
                curve("system", "system", Role::System, &points[..2]),
                curve("mimalloc", "peer1", Role::Peer, &[]),
            ];
            let drawn = draw("A scenario", &points, &curves).unwrap();
            assert_legible("over time", &drawn);
            assert!(!drawn.contains("NaN") && !drawn.contains("inf") && !drawn.contains("mimalloc"));
        }
        assert!(draw("A scenario", &[], &[]).is_none());
    }
}
