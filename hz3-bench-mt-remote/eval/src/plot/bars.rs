//! Bars: one panel per row, one bar per allocator, the best on top.

use super::scale::{Scale, TICK_FONT, labelled, linear_ticks, tick_label};
use hz3::record::{Metric, Results, Role, median, quantile};
use hz3::report::canvas::{Anchor, Canvas, MARGIN, TOP};
use hz3::report::text::{widest, width};

const COLUMNS: usize = 3;
const BAR_WIDTH: f64 = 176.0;
const PANEL_GAP: f64 = 16.0;
const NAME_GAP: f64 = 6.0;
const VALUE_GAP: f64 = 5.0;
const LINE_HEIGHT: f64 = 15.0;
const HEADING_HEIGHT: f64 = 20.0;
const AXIS_HEIGHT: f64 = 34.0;

struct Bar<'a> {
    name: &'a str,
    role: Role,
    median: f64,
    low: f64,
    high: f64,
}

struct Panel<'a> {
    label: &'a str,
    bars: Vec<Bar<'a>>,
}

/// Draws one metric of every row that has it; `None` when no row does.
pub fn draw(results: &Results, metric: Metric, subject: &str) -> Option<String> {
    let panels = panels(results, metric);
    let tallest = panels.iter().map(|panel| panel.bars.len()).max()?;
    let height = HEADING_HEIGHT + tallest as f64 * LINE_HEIGHT + AXIS_HEIGHT;
    let lines = panels.len().div_ceil(COLUMNS);
    let columns = panels.len().min(COLUMNS) as f64;
    let bars = || panels.iter().flat_map(|panel| &panel.bars);
    let name_width = widest("strong", bars().map(|bar| bar.name)) + NAME_GAP;
    let value_width = bars().map(|bar| width("strong", &shown(metric, bar.median))).fold(0.0, f64::max);
    let heading_width = widest("heading", panels.iter().map(|panel| panel.label));
    let panel_width = heading_width.max(name_width + BAR_WIDTH + VALUE_GAP + value_width);
    let direction = if metric.higher_is_better() { "longer is better" } else { "shorter is better" };
    let mut canvas = Canvas::new(
        2.0 * MARGIN + columns * panel_width + (columns - 1.0) * PANEL_GAP,
        TOP + 12.0 + lines as f64 * height,
        &format!("{subject}: {}", metric.label()),
        [
            &format!("Bar: median of {} interleaved runs; {direction}.", results.header.rounds),
            "Thin line: 10th to 90th percentile. Coloured: hz3's lanes.",
        ],
    );
    for (index, panel) in panels.iter().enumerate() {
        let x = MARGIN + (index % COLUMNS) as f64 * (panel_width + PANEL_GAP);
        let y = TOP + 12.0 + (index / COLUMNS) as f64 * height;
        draw_panel(&mut canvas, panel, metric, (x, x + name_width), y);
    }
    Some(canvas.finish())
}

fn panels(results: &Results, metric: Metric) -> Vec<Panel<'_>> {
    let rows = results.header.rows.iter().map(|row| {
        let bars = results.header.allocators.iter().filter_map(|record| {
            let values: Vec<f64> =
                results.values(&row.id, &record.name, metric).into_iter().map(|value| metric.scaled(value)).collect();
            Some(Bar {
                name: &record.name,
                role: record.role,
                median: median(&values)?,
                low: quantile(&values, 0.1)?,
                high: quantile(&values, 0.9)?,
            })
        });
        let mut bars: Vec<Bar<'_>> = bars.collect();
        bars.sort_by(|first, second| {
            let order = first.median.total_cmp(&second.median);
            if metric.higher_is_better() { order.reverse() } else { order }
        });
        Panel { label: &row.label, bars }
    });
    rows.filter(|panel| !panel.bars.is_empty()).collect()
}

/// A panel whose names begin at `left` and whose bars begin at `start`.
fn draw_panel(canvas: &mut Canvas, panel: &Panel<'_>, metric: Metric, (left, start): (f64, f64), y: f64) {
    let highest = panel.bars.iter().map(|bar| bar.high).fold(f64::MIN_POSITIVE, f64::max);
    let scale = Scale::linear(0.0, highest, start, BAR_WIDTH);
    let top = y + HEADING_HEIGHT;
    let bottom = top + panel.bars.len() as f64 * LINE_HEIGHT;
    canvas.text(left, y + 12.0, Anchor::Start, "ink heading", panel.label);
    for (x, label) in labelled(&scale, linear_ticks(highest, 3), tick_label) {
        canvas.line((x, top), (x, bottom + 3.0), "grid");
        canvas.text(x, bottom + 14.0, Anchor::Middle, TICK_FONT, &label);
    }
    for (index, bar) in panel.bars.iter().enumerate() {
        let line = top + index as f64 * LINE_HEIGHT;
        let (fill, ink) = match bar.role {
            Role::Lane => (format!("fill-{}", bar.name), "ink strong"),
            Role::System | Role::Peer => ("neutral".to_owned(), "ink"),
        };
        let baseline = line + LINE_HEIGHT - 4.0;
        canvas.text(start - NAME_GAP, baseline, Anchor::End, ink, bar.name);
        canvas.rectangle(start, line + 2.0, scale.at(bar.median) - start, LINE_HEIGHT - 4.0, &fill);
        let middle = line + LINE_HEIGHT / 2.0;
        canvas.line((scale.at(bar.low), middle), (scale.at(bar.high), middle), "whisker");
        let value = shown(metric, bar.median);
        canvas.text(scale.at(bar.high.max(bar.median)) + VALUE_GAP, baseline, Anchor::Start, ink, &value);
    }
    canvas.line((start, top), (start, bottom + 3.0), "axis");
}

/// The value again in the metric's own unit, for `show` scales it itself.
fn shown(metric: Metric, scaled: f64) -> String {
    metric.show(scaled / metric.scaled(1.0))
}
