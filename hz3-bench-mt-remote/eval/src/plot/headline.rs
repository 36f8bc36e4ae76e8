//! Headline: every allocator's speed in every row, as a multiple of the fastest peer's, on one small page.

use super::colour::colour;
use super::scale::{Scale, TICK_FONT, labelled, linear_ticks, tick_label};
use hz3::record::{Metric, Pattern, Results, Role, Row, median, paired_ratio};
use hz3::report::canvas::{Anchor, Canvas, MARGIN, TOP};
use hz3::report::text::{widest, width};

const WIDTH: f64 = 800.0;
const MIN_PLOT_WIDTH: f64 = 290.0;
const ROW_HEIGHT: f64 = 20.0;
const GAP: f64 = 10.0;
const DOT: f64 = 4.5;

struct Line<'a> {
    label: String,
    best: &'a str,
    /// The name of each lane and its speed.
    lanes: Vec<(&'a str, f64)>,
    /// The style class of everything else and its speed.
    others: Vec<(String, f64)>,
}

/// Draws the speed of every row that lanes and peers have; `None` when there is none.
pub fn draw(results: &Results) -> Option<String> {
    let lines: Vec<Line<'_>> = results.header.rows.iter().filter_map(|row| line(results, row)).collect();
    let speeds = lines
        .iter()
        .flat_map(|line| line.lanes.iter().map(|(_, speed)| *speed).chain(line.others.iter().map(|(_, speed)| *speed)));
    let highest = speeds.reduce(f64::max)?.max(1.0) * 1.03;
    let lanes: Vec<&str> = results.names(Role::Lane).collect();
    let heads: Vec<String> = lanes.iter().map(|lane| format!("hz3 {lane}")).collect();
    let name_width = widest("ink", lines.iter().map(|line| line.label.as_str()));
    let value_width = widest("strong", heads.iter().map(String::as_str).chain(["00.00"])) + GAP;
    let best_width = widest("faint", lines.iter().map(|line| line.best).chain([BEST])) + GAP;
    let columns_width = value_width * lanes.len() as f64 + best_width;
    let left = MARGIN + name_width + GAP;
    let right = (WIDTH - MARGIN - columns_width).max(left + MIN_PLOT_WIDTH);
    let (legend, legend_height) = legend(results, right + columns_width - MARGIN);
    let top = TOP + legend_height + 24.0;
    let bottom = top + lines.len() as f64 * ROW_HEIGHT;
    let mut canvas = Canvas::new(
        right + columns_width + MARGIN,
        bottom + 44.0,
        "Speed of malloc and free: hz3's lanes and other allocators",
        [
            &format!(
                "Speed as a multiple of the fastest peer's in the same row; further to the right is better. Medians of {} runs.",
                results.header.rounds
            ),
            &format!(
                "{} processors; remote: frees of blocks that another thread allocated.",
                results.header.machine.processors
            ),
        ],
    );
    for (x, y, class, name) in legend {
        canvas.dot((x + DOT, TOP + y), DOT, &format!("fill-{class}"));
        canvas.text(x + 2.0 * DOT + 5.0, TOP + y + 4.0, Anchor::Start, "ink", &name);
    }
    let scale = Scale::linear(0.0, highest, left, right - left);
    for (x, label) in labelled(&scale, linear_ticks(highest, 4), tick_label) {
        canvas.line((x, top - 4.0), (x, bottom), if label == "1" { "axis" } else { "grid" });
        canvas.text(x, bottom + 14.0, Anchor::Middle, TICK_FONT, &label);
    }
    canvas.text((left + right) / 2.0, bottom + 30.0, Anchor::Middle, TICK_FONT, "speed ÷ fastest peer's");
    let value_end = |lane: usize| right + value_width * (lane + 1) as f64;
    for (index, (lane, head)) in lanes.iter().zip(&heads).enumerate() {
        canvas.text(value_end(index), top - 8.0, Anchor::End, &format!("fill-{lane} strong"), head);
    }
    canvas.text(value_end(lanes.len()) - value_width + GAP, top - 8.0, Anchor::Start, "faint", BEST);
    for (index, line) in lines.iter().enumerate() {
        let middle = top + (index as f64 + 0.5) * ROW_HEIGHT;
        canvas.text(MARGIN, middle + 4.0, Anchor::Start, "ink", &line.label);
        canvas.line((left, middle), (right, middle), "grid");
        for (class, speed) in &line.others {
            canvas.dot((scale.at(*speed), middle), DOT - 1.0, &format!("fill-{class}"));
        }
        for (lane, speed) in &line.lanes {
            let column = lanes.iter().position(|name| name == lane).unwrap_or(0);
            // Lanes are often equally fast: one above the other.
            let down = (column as f64 - (lanes.len() - 1) as f64 / 2.0) * DOT * 1.4;
            canvas.dot((scale.at(*speed), middle + down), DOT, &format!("fill-{lane}"));
            let value = format!("{speed:.2}");
            canvas.text(value_end(column), middle + 4.0, Anchor::End, "ink strong", &value);
        }
        canvas.text(value_end(lanes.len()) - value_width + GAP, middle + 4.0, Anchor::Start, "faint", line.best);
    }
    Some(canvas.finish())
}

const BEST: &str = "fastest peer";

fn line<'a>(results: &'a Results, row: &Row) -> Option<Line<'a>> {
    let metric = Metric::OpsPerSecond;
    let (best, speed) = results.best_peer(&row.id, metric)?;
    let lanes = results
        .names(Role::Lane)
        .filter_map(|lane| Some((lane, paired_ratio(&results.pairs(&row.id, lane, best, metric))?.estimate)));
    let others = results.header.allocators.iter().filter(|record| record.role != Role::Lane).filter_map(|record| {
        Some((colour(results, &record.name), median(&results.values(&row.id, &record.name, metric))? / speed))
    });
    Some(Line { label: described(row), best, lanes: lanes.collect(), others: others.collect() })
}

/// A row in words that need no legend.
fn described(row: &Row) -> String {
    let Some(arguments) = &row.arguments else { return row.label.clone() };
    let threads = match arguments.threads {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    let sizes =
        if arguments.max_bytes > 2048 { format!(", to {} KiB", arguments.max_bytes / 1024) } else { String::new() };
    match arguments.pattern {
        Pattern::Asymmetric => format!("{threads}, half of them only free{sizes}"),
        Pattern::Ring => format!("{threads}, {} % remote{sizes}", arguments.remote_percent),
    }
}

/// Where each allocator stands in the legend, from its left and upper edge, with its class; and the legend's height.
fn legend(results: &Results, width_limit: f64) -> (Vec<(f64, f64, String, String)>, f64) {
    let (mut x, mut y) = (MARGIN, 16.0);
    let mut places = Vec::new();
    for record in &results.header.allocators {
        let name = if record.role == Role::Lane { format!("hz3 {}", record.name) } else { record.name.clone() };
        let room = 2.0 * DOT + 5.0 + width("ink", &name) + GAP;
        if x > MARGIN && x + room > width_limit {
            (x, y) = (MARGIN, y + 18.0);
        }
        places.push((x, y, colour(results, &record.name), name));
        x += room;
    }
    (places, y + 8.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::row::remote_matrix;

    #[test]
    fn every_row_has_words_of_its_own() {
        let mut words: Vec<String> = remote_matrix().iter().map(described).collect();
        for label in ["1 thread, 0 % remote", "8 threads, 50 % remote, to 32 KiB", "2 threads, half of them only free"]
        {
            assert!(words.iter().any(|words| words == label), "{label}: {words:?}");
        }
        let rows = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), rows);
    }
}
