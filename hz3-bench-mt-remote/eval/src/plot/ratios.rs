//! Ratios: each lane against the best peer of every row, with the confidence interval and, for speed,
//! the floor that it has to reach.

use super::scale::{Scale, tick_label};
use crate::verdict::speed_floor;
use hz3::record::{Metric, Ratio, Results, Role, paired_ratio};
use hz3::report::canvas::{Anchor, Canvas, MARGIN, TOP};

const WIDTH: f64 = 860.0;
const NAME_WIDTH: f64 = 194.0;
const PEER_WIDTH: f64 = 130.0;
const LANE_HEIGHT: f64 = 14.0;
const ROW_GAP: f64 = 8.0;

/// Tick marks of a ratio axis.
const TICKS: [f64; 15] = [0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0];

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
    let mut canvas = Canvas::new(
        WIDTH,
        bottom + 44.0,
        &format!("{subject} of hz3's lanes against the best peer of each row"),
        [
            &format!("Ratio of the medians of {}; further to the {better} is better.", metric.label()),
            &format!("Line: 95 % bootstrap interval{floors}. At the right: the best peer."),
        ],
    );
    let start = MARGIN + NAME_WIDTH;
    let scale = Scale::logarithmic(low, high, start, WIDTH - 2.0 * MARGIN - NAME_WIDTH - PEER_WIDTH);
    for tick in TICKS.into_iter().filter(|tick| (low..=high).contains(tick)) {
        let class = if tick == 1.0 { "axis" } else { "grid" };
        canvas.line((scale.at(tick), top - 4.0), (scale.at(tick), bottom), class);
        canvas.text(scale.at(tick), bottom + 14.0, Anchor::Middle, "faint small", &tick_label(tick));
    }
    canvas.text(scale.at(1.0), bottom + 30.0, Anchor::Middle, "faint small", "lane ÷ best peer");
    for (index, line) in lines.iter().enumerate() {
        let y = top + index as f64 * row_height;
        let baseline = y + most as f64 * LANE_HEIGHT / 2.0 + 4.0;
        canvas.text(MARGIN, baseline, Anchor::Start, "ink strong", line.label);
        canvas.text(WIDTH - MARGIN, baseline, Anchor::End, "faint", line.peer);
        for (lane_index, (lane, ratio, floor)) in line.lanes.iter().enumerate() {
            let middle = y + (lane_index as f64 + 0.5) * LANE_HEIGHT;
            canvas.text(start - 8.0, middle + 4.0, Anchor::End, &format!("fill-{lane}"), lane);
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
    let mut right = scale.at(ratio.estimate);
    if let Some(interval) = ratio.interval {
        right = scale.at(interval.high);
        canvas.line((scale.at(interval.low), middle), (right, middle), &format!("{stroke} thick"));
    }
    canvas.dot((scale.at(ratio.estimate), middle), 4.0, &format!("fill-{lane}"));
    let value = format!("{:.2}", ratio.estimate);
    canvas.text(right.max(scale.at(ratio.estimate)) + 8.0, middle + 4.0, Anchor::Start, "ink small halo", &value);
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
