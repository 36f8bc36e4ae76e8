//! Tails: the quantiles of the time of one kind of call, one panel per row, one line per allocator.

use super::scale::{Scale, TICK_FONT, decade_ticks, labelled};
use hz3::record::{Call, Metric, Quantile, Results, Role, median};
use hz3::report::canvas::{Anchor, Canvas, MARGIN, TOP};
use hz3::report::text::widest;

const COLUMNS: usize = 2;
const LINE_WIDTH: f64 = 352.0;
const PANEL_GAP: f64 = 36.0;
const NAME_GAP: f64 = 8.0;
const LINE_HEIGHT: f64 = 17.0;
const HEADING_HEIGHT: f64 = 20.0;
const AXIS_HEIGHT: f64 = 36.0;

struct Tail<'a> {
    name: &'a str,
    role: Role,
    nanoseconds: [f64; 5],
}

/// Draws one kind of call; `None` when no run recorded it.
pub fn draw(results: &Results, call: Call) -> Option<String> {
    let panels: Vec<(&str, Vec<Tail<'_>>)> = results
        .header
        .rows
        .iter()
        .map(|row| (row.label.as_str(), tails(results, &row.id, call)))
        .filter(|(_, tails)| !tails.is_empty())
        .collect();
    let tallest = panels.iter().map(|(_, tails)| tails.len()).max()?;
    let height = HEADING_HEIGHT + tallest as f64 * LINE_HEIGHT + AXIS_HEIGHT;
    let all = || panels.iter().flat_map(|(_, tails)| tails).flat_map(|tail| tail.nanoseconds);
    let low = all().fold(f64::INFINITY, f64::min).max(1.0) * 0.8;
    let high = all().fold(low * 10.0, f64::max) * 1.2;
    let lines = panels.len().div_ceil(COLUMNS);
    let columns = panels.len().min(COLUMNS) as f64;
    let names = panels.iter().flat_map(|(_, tails)| tails).map(|tail| tail.name);
    let name_width = widest("strong", names) + NAME_GAP;
    let panel_width = widest("heading", panels.iter().map(|(label, _)| *label)).max(name_width + LINE_WIDTH);
    let mut canvas = Canvas::new(
        2.0 * MARGIN + columns * (panel_width + PANEL_GAP),
        TOP + 12.0 + lines as f64 * height,
        &format!("Time of {}", call.label()),
        [
            &format!(
                "Nanoseconds per call, clock included; medians of {} runs; shorter is better.",
                results.header.rounds
            ),
            "Dots from left to right: p50, p99, p99.9, p99.99; ring: the longest call. Sorted by p99.9.",
        ],
    );
    for (index, (label, tails)) in panels.iter().enumerate() {
        let x = MARGIN + (index % COLUMNS) as f64 * (panel_width + PANEL_GAP);
        let y = TOP + 12.0 + (index / COLUMNS) as f64 * height;
        let start = x + name_width;
        let scale = Scale::logarithmic(low, high, start, LINE_WIDTH);
        let bottom = y + HEADING_HEIGHT + tails.len() as f64 * LINE_HEIGHT;
        canvas.text(x, y + 12.0, Anchor::Start, "ink heading", label);
        for (x, label) in labelled(&scale, decade_ticks(low, high), duration) {
            canvas.line((x, y + HEADING_HEIGHT), (x, bottom), "grid");
            canvas.text(x, bottom + 13.0, Anchor::Middle, TICK_FONT, &label);
        }
        for (index, tail) in tails.iter().enumerate() {
            draw_tail(
                &mut canvas,
                tail,
                &scale,
                start - NAME_GAP,
                y + HEADING_HEIGHT + (index as f64 + 0.5) * LINE_HEIGHT,
            );
        }
    }
    Some(canvas.finish())
}

fn tails<'a>(results: &'a Results, row: &str, call: Call) -> Vec<Tail<'a>> {
    let tail = |record: &'a hz3::record::results::AllocatorRecord| {
        let of = |quantile| median(&results.values(row, &record.name, Metric::Latency(call, quantile)));
        let [p50, p99, p999, p9999, max] = Quantile::ALL;
        let nanoseconds = [of(p50)?, of(p99)?, of(p999)?, of(p9999)?, of(max)?];
        Some(Tail { name: &record.name, role: record.role, nanoseconds })
    };
    let mut tails: Vec<Tail<'_>> = results.header.allocators.iter().filter_map(tail).collect();
    tails.sort_by(|first, second| first.nanoseconds[2].total_cmp(&second.nanoseconds[2]));
    tails
}

fn draw_tail(canvas: &mut Canvas, tail: &Tail<'_>, scale: &Scale, name_end: f64, y: f64) {
    let (fill, ink) = match tail.role {
        Role::Lane => (format!("fill-{}", tail.name), "ink strong"),
        Role::System | Role::Peer => ("faint".to_owned(), "ink"),
    };
    canvas.text(name_end, y + 4.0, Anchor::End, ink, tail.name);
    let [first, .., last] = tail.nanoseconds;
    canvas.line((scale.at(first), y), (scale.at(last), y), "link");
    canvas.dot((scale.at(last), y), 3.0, "hollow rim");
    for nanoseconds in &tail.nanoseconds[..4] {
        canvas.dot((scale.at(*nanoseconds), y), 3.4, &fill);
    }
}

/// A power of ten of nanoseconds in its own unit.
fn duration(nanoseconds: f64) -> String {
    match nanoseconds {
        value if value < 1e3 => format!("{value:.0} ns"),
        value if value < 1e6 => format!("{:.0} µs", value / 1e3),
        value if value < 1e9 => format!("{:.0} ms", value / 1e6),
        value => format!("{:.0} s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_have_their_unit() {
        assert_eq!([10.0, 1e3, 1e5, 1e6, 1e9].map(duration), ["10 ns", "1 µs", "100 µs", "1 ms", "1 s"]);
    }
}
