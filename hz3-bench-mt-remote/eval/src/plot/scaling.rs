//! Scaling: speed over the number of threads, one panel per share of remote frees.

use super::colour::colour;
use super::scale::{Scale, TICK_FONT, linear_ticks, tick_label};
use hz3::record::row::Arguments;
use hz3::record::{Metric, Pattern, Results, Role, Row, median};
use hz3::report::canvas::{Anchor, Canvas, MARGIN, TOP};
use hz3::report::text::{widest, width};

const PLOT_WIDTH: f64 = 216.0;
const MIN_PLOT_HEIGHT: f64 = 250.0;
/// Above a plot and below it.
const HEADS_HEIGHT: f64 = 84.0;
const PANEL_GAP: f64 = 24.0;
const TICK_GAP: f64 = 6.0;
const NAME_GAP: f64 = 9.0;
const LABEL_HEIGHT: f64 = 12.0;
const COLUMNS: usize = 2;
const TICKS: usize = 5;

struct Curve<'a> {
    name: &'a str,
    role: Role,
    /// Position among the panel's thread counts, and million ops/s.
    points: Vec<(usize, f64)>,
}

struct Panel<'a> {
    title: String,
    threads: Vec<u32>,
    curves: Vec<Curve<'a>>,
}

/// Draws every group of rows that differ in their number of threads alone; `None` when there is none.
pub fn draw(results: &Results) -> Option<String> {
    let panels = panels(results);
    if panels.is_empty() {
        return None;
    }
    let lines = panels.len().div_ceil(COLUMNS) as f64;
    let columns = panels.len().min(COLUMNS) as f64;
    let curves = || panels.iter().flat_map(|panel| &panel.curves);
    let ticks = panels.iter().flat_map(|panel| linear_ticks(highest(panel), TICKS)).map(tick_label);
    let axis_width = ticks.map(|tick| width(TICK_FONT, &tick)).fold(0.0, f64::max) + TICK_GAP;
    let name_width = widest("strong", curves().map(|curve| curve.name)) + NAME_GAP;
    let panel_width = widest("heading", panels.iter().map(|panel| panel.title.as_str())).max(PLOT_WIDTH + name_width)
        + axis_width
        + PANEL_GAP;
    let most = panels.iter().map(|panel| panel.curves.len()).max().unwrap_or(0) as f64;
    let plot_height = MIN_PLOT_HEIGHT.max(most * LABEL_HEIGHT);
    let mut canvas = Canvas::new(
        2.0 * MARGIN + columns * panel_width,
        TOP + lines * (plot_height + HEADS_HEIGHT),
        "Scaling: million ops/s over threads",
        [
            &format!("Medians of {} interleaved runs; higher is better.", results.header.rounds),
            &format!(
                "The machine has {} processors: more threads than that take turns.",
                results.header.machine.processors
            ),
        ],
    );
    for (index, panel) in panels.iter().enumerate() {
        let start = MARGIN + (index % COLUMNS) as f64 * panel_width + axis_width;
        let top = TOP + 34.0 + (index / COLUMNS) as f64 * (plot_height + HEADS_HEIGHT);
        draw_panel(&mut canvas, results, panel, start, (top, plot_height));
    }
    Some(canvas.finish())
}

fn arguments(row: &Row) -> Option<&Arguments> {
    row.arguments.as_ref()
}

fn panels(results: &Results) -> Vec<Panel<'_>> {
    let key = |arguments: &Arguments| {
        (arguments.pattern == Pattern::Ring).then_some((
            arguments.min_bytes,
            arguments.max_bytes,
            arguments.remote_percent,
        ))
    };
    let mut keys: Vec<_> = results.header.rows.iter().filter_map(|row| key(arguments(row)?)).collect();
    keys.sort_unstable();
    keys.dedup();
    let panel = |group: (u32, u32, u32)| {
        let rows: Vec<(&str, u32)> = results
            .header
            .rows
            .iter()
            .filter_map(|row| Some((row.id.as_str(), arguments(row)?)))
            .filter(|(_, arguments)| key(arguments) == Some(group))
            .map(|(id, arguments)| (id, arguments.threads))
            .collect();
        let curves = results.header.allocators.iter().map(|record| {
            let speed = |id| median(&results.values(id, &record.name, Metric::OpsPerSecond));
            let points = rows.iter().enumerate().filter_map(|(index, (id, _))| Some((index, speed(id)? / 1e6)));
            Curve { name: &record.name, role: record.role, points: points.collect() }
        });
        let (min, max, remote) = group;
        Panel {
            title: format!("R={remote} %, {min}–{max} bytes"),
            threads: rows.iter().map(|(_, threads)| *threads).collect(),
            curves: curves.filter(|curve| !curve.points.is_empty()).collect(),
        }
    };
    keys.into_iter().map(panel).filter(|panel| panel.threads.len() > 1 && !panel.curves.is_empty()).collect()
}

/// The end of a panel's axis.
fn highest(panel: &Panel<'_>) -> f64 {
    let speeds = panel.curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    speeds.fold(f64::MIN_POSITIVE, f64::max) * 1.04
}

fn draw_panel(canvas: &mut Canvas, results: &Results, panel: &Panel<'_>, start: f64, (top, plot_height): (f64, f64)) {
    let bottom = top + plot_height;
    let highest = highest(panel);
    let height = Scale::linear(0.0, highest, 0.0, plot_height);
    let y_of = |speed: f64| bottom - height.at(speed);
    let across = Scale::linear(0.0, (panel.threads.len() - 1) as f64, start + 12.0, PLOT_WIDTH - 24.0);
    let x_of = |index: usize| across.at(index as f64);
    canvas.text(start, top - 12.0, Anchor::Start, "ink heading", &panel.title);
    for tick in linear_ticks(highest, TICKS) {
        canvas.line((start, y_of(tick)), (start + PLOT_WIDTH, y_of(tick)), "grid");
        canvas.text(start - TICK_GAP, y_of(tick) + 4.0, Anchor::End, TICK_FONT, &tick_label(tick));
    }
    canvas.line((start, bottom), (start + PLOT_WIDTH, bottom), "axis");
    for (index, threads) in panel.threads.iter().enumerate() {
        canvas.text(x_of(index), bottom + 16.0, Anchor::Middle, "faint", &threads.to_string());
    }
    canvas.text(start + PLOT_WIDTH / 2.0, bottom + 32.0, Anchor::Middle, TICK_FONT, "threads");
    // Lanes are drawn last, so that they lie on top.
    let mut order: Vec<&Curve<'_>> = panel.curves.iter().collect();
    order.sort_by_key(|curve| curve.role == Role::Lane);
    let mut labels = Vec::new();
    for curve in order {
        let class = colour(results, curve.name);
        let weight = if curve.role == Role::Lane { "thick" } else { "thin" };
        let points: Vec<(f64, f64)> = curve.points.iter().map(|&(index, speed)| (x_of(index), y_of(speed))).collect();
        canvas.polyline(&points, &format!("stroke-{class} {weight}"));
        for &point in &points {
            canvas.dot(point, if curve.role == Role::Lane { 3.5 } else { 2.2 }, &format!("fill-{class}"));
        }
        if let Some(&(_, y)) = points.last() {
            labels.push((y, curve, class));
        }
    }
    labels.sort_by(|first, second| first.0.total_cmp(&second.0));
    let heights: Vec<f64> = labels.iter().map(|label| label.0).collect();
    for (y, (from, curve, class)) in spread_out(&heights, top, bottom).into_iter().zip(&labels) {
        let x = start + PLOT_WIDTH;
        canvas.line((x_of(curve.points.last().map_or(0, |point| point.0)) + 5.0, *from), (x + 6.0, y), "link");
        let weight = if curve.role == Role::Lane { "strong" } else { "small" };
        canvas.text(x + NAME_GAP, y + 4.0, Anchor::Start, &format!("fill-{class} {weight}"), curve.name);
    }
}

/// Moves sorted heights apart until each label has its line, and keeps them above `bottom`.
pub fn spread_out(heights: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut moved = Vec::with_capacity(heights.len());
    for &height in heights {
        let free = moved.last().map_or(top, |last: &f64| last + LABEL_HEIGHT);
        moved.push(height.max(free));
    }
    let mut limit = bottom;
    for height in moved.iter_mut().rev() {
        *height = height.min(limit);
        limit = *height - LABEL_HEIGHT;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_equal_curves_do_not_overlap() {
        let moved = spread_out(&[50.0, 50.0, 51.0, 100.0, 100.0], 0.0, 104.0);
        assert!(moved.windows(2).all(|pair| pair[1] - pair[0] >= LABEL_HEIGHT - 1e-9), "{moved:?}");
        assert!(moved.iter().all(|height| *height <= 104.0), "{moved:?}");
        assert_eq!(moved[0], 50.0);
    }
}
