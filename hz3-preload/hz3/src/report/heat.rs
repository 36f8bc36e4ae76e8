//! Heat: the statistics of one process as a picture: which shard's threads free whose slots, and in which sizes.

use super::canvas::{Anchor, Canvas, MARGIN, TOP};
use crate::report::statistics_file::{Bin, StatisticsFile};

const CELL: f64 = 15.0;
const LABELS: f64 = 60.0;
const BAR_HEIGHT: f64 = 15.0;
const BAR_WIDTH: f64 = 360.0;

/// Draws the heat report of `file`.
pub fn draw(file: &StatisticsFile) -> String {
    let shards = file.shards.len();
    let bins: Vec<&Bin> = file.bins.iter().filter(|bin| bin.freed > 0).collect();
    let matrix = CELL * shards as f64;
    let bars_at = MARGIN + LABELS + matrix + 60.0;
    let width = bars_at + LABELS + BAR_WIDTH + 90.0 + MARGIN;
    let height = TOP + 40.0 + matrix.max(BAR_HEIGHT * bins.len() as f64) + 40.0;
    let title = format!("Who frees whose slots: lane {}, process {}", file.lane, file.pid);
    let explanation = [
        "Left: slots that threads of a shard (row) handed on, by the shard that owns them (column); darker is more, on a square-root scale.",
        "Right: by block size, how many were handed on, and in orange those that another shard owns.",
    ];
    let mut canvas = Canvas::new(width, height, &title, explanation);
    draw_matrix(&mut canvas, file, (MARGIN + LABELS, TOP + 30.0));
    draw_bars(&mut canvas, &bins, (bars_at + LABELS, TOP + 30.0));
    canvas.finish()
}

fn draw_matrix(canvas: &mut Canvas, file: &StatisticsFile, (left, top): (f64, f64)) {
    let most = file.shards.iter().flat_map(|shard| &shard.freed_by_owner).copied().max().unwrap_or(0).max(1) as f64;
    let side = CELL * file.shards.len() as f64;
    canvas.text(left, top - 18.0, Anchor::Start, "ink heading", "Owner");
    canvas.text(left - 26.0, top - 18.0, Anchor::End, "ink heading", "Freed by");
    for (row, shard) in file.shards.iter().enumerate() {
        let y = top + CELL * row as f64;
        canvas.text(left - 6.0, y + CELL - 4.0, Anchor::End, "faint small", &row.to_string());
        canvas.text(left + CELL * (row as f64 + 0.5), top - 5.0, Anchor::Middle, "faint small", &row.to_string());
        for (column, &slots) in shard.freed_by_owner.iter().enumerate().filter(|(_, slots)| **slots > 0) {
            let corner = (left + CELL * column as f64, y);
            let strength = (slots as f64 / most).sqrt().max(0.08);
            let class = if row == column { "fill-fast" } else { "fill-scale" };
            let hint = format!("shard {row} freed {slots} slots of shard {column}");
            canvas.cell(corner, (CELL - 1.0, CELL - 1.0), class, strength, &hint);
        }
    }
    for (from, to) in
        [((0.0, 0.0), (side, 0.0)), ((0.0, side), (side, side)), ((0.0, 0.0), (0.0, side)), ((side, 0.0), (side, side))]
    {
        canvas.line((left + from.0, top + from.1), (left + to.0, top + to.1), "axis");
    }
}

fn draw_bars(canvas: &mut Canvas, bins: &[&Bin], (left, top): (f64, f64)) {
    let most = bins.iter().map(|bin| bin.freed).max().unwrap_or(1) as f64;
    canvas.text(left - 6.0, top - 18.0, Anchor::End, "ink heading", "Bytes");
    canvas.text(left, top - 18.0, Anchor::Start, "ink heading", "Slots handed on");
    for (row, bin) in bins.iter().enumerate() {
        let y = top + BAR_HEIGHT * row as f64;
        let length = |slots: u64| BAR_WIDTH * slots as f64 / most;
        canvas.text(left - 6.0, y + 11.0, Anchor::End, "faint small", &bin.slot_bytes.to_string());
        canvas.rectangle(left, y + 2.0, length(bin.freed), BAR_HEIGHT - 4.0, "fill-fast");
        canvas.rectangle(left, y + 2.0, length(bin.foreign), BAR_HEIGHT - 4.0, "fill-scale");
        let label = format!("{} ({} % foreign)", bin.freed, bin.foreign * 100 / bin.freed.max(1));
        canvas.text(left + length(bin.freed) + 5.0, y + 11.0, Anchor::Start, "faint small", &label);
    }
}
