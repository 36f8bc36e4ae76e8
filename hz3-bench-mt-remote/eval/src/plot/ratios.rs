//! Ratios: each lane against the best peer of every row, with the confidence interval and, for speed,
//! the floor that it has to reach.

use super::scale::{Scale, TICK_FONT, labelled, tick_label};
use crate::verdict::speed_floor;
use hz3::record::{Metric, Ratio, Results, Role, paired_ratio};
use hz3::report::canvas::{Anchor, Canvas, MARGIN, TOP};
use hz3::report::text::{widest, width};

const WIDTH: f64 = 860.0;
const MIN_PLOT_WIDTH: f64 = 360.0;
const GAP: f64 = 12.0;
const LANE_HEIGHT: f64 = 14.0;
const ROW_GAP: f64 = 8.0;

/// Tick marks of a ratio axis, the most welcome first.
const TICKS: [f64; 18] = [1.0, 0.5, 2.0, 0.1, 10.0, 0.2, 5.0, 0.7, 1.5, 0.3, 3.0, 20.0, 7.0, 1.2, 0.8, 0.9, 1.1, 0.15];

struct Line<'a> {
    label: &'a str,
    peer: &'a str,
    lanes: Vec<(&'a str, Ratio, Option<f64>)>,
}

/// Draws one metric; `None` when there is no lane with a peer to compare.
pub fn draw(results: &Results, metric: Metric, subject: &str) -> Option<String> {
    let lines = lines(results, metric);
    let most = lines.iter().map(|line| line.lanes.len()).max()?;
    let all = || lines.iter().flat_map(|line| &line.lanes);
    let ends = || {
        all().flat_map(|(_, ratio, floor)| {
            let interval = ratio.interval.map_or([ratio.estimate; 2], |interval| [interval.low, interval.high]);
            interval.into_iter().chain(*floor)
        })
    };
    let low = ends().fold(0.7, f64::min) * 0.95;
    let high = ends().fold(1.5, f64::max) * 1.05;
    let row_height = most as f64 * LANE_HEIGHT + ROW_GAP;
    let top = TOP + 20.0;
    let bottom = top + lines.len() as f64 * row_height;
    let better = if metric.higher_is_better() { "right" } else { "left" };
    let floors = if all().any(|(.., floor)| floor.is_some()) { "; upright mark: the lane's floor" } else { "" };
    let value = |ratio: &Ratio| format!("{:.2}", ratio.estimate);
    let [name_width, lane_width, value_width, peer_width] = [
        widest("strong", lines.iter().map(|line| line.label)),
        widest("", all().map(|(lane, ..)| *lane)),
        widest("", ["ratio"]).max(all().map(|(_, ratio, _)| width("", &value(ratio))).fold(0.0, f64::max)),
        widest("", lines.iter().map(|line| line.peer).chain(["best peer"])),
    ];
    let left = MARGIN + name_width + GAP + lane_width + GAP;
    let right_columns = GAP + value_width + GAP + peer_width + MARGIN;
    let right = (WIDTH - right_columns).max(left + MIN_PLOT_WIDTH);
    let canvas_width = right + right_columns;
    let value_end = right + GAP + value_width;
    let mut canvas = Canvas::new(
        canvas_width,
        bottom + 44.0,
        &format!("{subject} of hz3's lanes against the best peer of each row"),
        [
            &format!("Ratio of the medians of {}; further to the {better} is better.", metric.label()),
            &format!("Line: 95 % bootstrap interval{floors}."),
        ],
    );
    let scale = Scale::logarithmic(low, high, left, right - left);
    let ticks = TICKS.into_iter().filter(|tick| (low..=high).contains(tick)).collect();
    for (x, label) in labelled(&scale, ticks, tick_label) {
        canvas.line((x, top - 4.0), (x, bottom), if label == "1" { "axis" } else { "grid" });
        canvas.text(x, bottom + 14.0, Anchor::Middle, TICK_FONT, &label);
    }
    canvas.text(scale.at(1.0), bottom + 30.0, Anchor::Middle, TICK_FONT, "lane ÷ best peer");
    canvas.text(value_end, top - 8.0, Anchor::End, TICK_FONT, "ratio");
    canvas.text(value_end + GAP, top - 8.0, Anchor::Start, TICK_FONT, "best peer");
    for (index, line) in lines.iter().enumerate() {
        let y = top + index as f64 * row_height;
        let baseline = y + most as f64 * LANE_HEIGHT / 2.0 + 4.0;
        canvas.text(MARGIN, baseline, Anchor::Start, "ink strong", line.label);
        canvas.text(value_end + GAP, baseline, Anchor::Start, "faint", line.peer);
        for (lane_index, (lane, ratio, floor)) in line.lanes.iter().enumerate() {
            let middle = y + (lane_index as f64 + 0.5) * LANE_HEIGHT;
            canvas.text(left - GAP, middle + 4.0, Anchor::End, &format!("fill-{lane}"), lane);
            canvas.text(value_end, middle + 4.0, Anchor::End, "ink", &value(ratio));
            draw_ratio(&mut canvas, &scale, middle, lane, *ratio, *floor);
        }
    }
    Some(canvas.finish())
}

fn draw_ratio(canvas: &mut Canvas, scale: &Scale, middle: f64, lane: &str, ratio: Ratio, floor: Option<f64>) {
    let stroke = format!("stroke-{lane}");
    if let Some(floor) = floor {
        let x = scale.at(floor);
        canvas.line((x, middle - 5.0), (x, middle + 5.0), &stroke);
    }
    if let Some(interval) = ratio.interval {
        let ends = [interval.low, interval.high].map(|end| (scale.at(end), middle));
        canvas.line(ends[0], ends[1], &format!("{stroke} thick"));
    }
    canvas.dot((scale.at(ratio.estimate), middle), 4.0, &format!("fill-{lane}"));
}

fn lines(results: &Results, metric: Metric) -> Vec<Line<'_>> {
    let rows = results.header.rows.iter().filter_map(|row| {
        let (peer, _) = results.best_peer(&row.id, metric)?;
        let lanes = results.names(Role::Lane).filter_map(|lane| {
            let ratio = paired_ratio(&results.pairs(&row.id, lane, peer, metric))?;
            let floor = (metric == Metric::OpsPerSecond).then(|| speed_floor(&row.id, lane)).flatten();
            Some((lane, ratio, floor))
        });
        Some(Line { label: &row.label, peer, lanes: lanes.collect() })
    });
    rows.filter(|line| !line.lanes.is_empty()).collect()
}
