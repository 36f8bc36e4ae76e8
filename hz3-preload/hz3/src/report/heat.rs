//! Heat: the statistics of one process as a picture: which shard's threads free whose slots, and in which sizes.

use super::canvas::{Anchor, Canvas, MARGIN, TOP};
use super::statistics_file::{Bin, StatisticsFile};
use super::text::width;

const CELL: f64 = 15.0;
const LABEL_GAP: f64 = 6.0;
const BAR_HEIGHT: f64 = 15.0;
const BAR_WIDTH: f64 = 360.0;
const PANEL_GAP: f64 = 40.0;
const HEADS_HEIGHT: f64 = 46.0;
const LABEL: &str = "faint small";
const HEADING: &str = "ink heading";
const FREED_BY: &str = "Freed by";
const BYTES: &str = "Bytes";
const SLOTS: &str = "Slots handed on";

/// Draws the heat report of `file`.
pub fn draw(file: &StatisticsFile) -> String {
    let bins: Vec<&Bin> = file.bins.iter().filter(|bin| bin.freed > 0).collect();
    let matrix = Matrix::of(file);
    let sizes = bins.iter().map(|bin| width(LABEL, &bin.slot_bytes.to_string()));
    let matrix_at = MARGIN + width(HEADING, FREED_BY) + LABEL_GAP;
    let matrix_width = (matrix.cell * matrix.columns.len() as f64).max(width(HEADING, "Owner"));
    let bars_at = matrix_at + matrix_width + PANEL_GAP + sizes.fold(width(HEADING, BYTES), f64::max) + LABEL_GAP;
    let labels = bins.iter().map(|bin| width(LABEL, &flow(bin)));
    let end = bars_at + (BAR_WIDTH + LABEL_GAP + labels.fold(0.0, f64::max)).max(width(HEADING, SLOTS));
    let top = TOP + HEADS_HEIGHT;
    let height = top + (matrix.cell * matrix.rows.len() as f64).max(BAR_HEIGHT * bins.len() as f64) + MARGIN;
    let title = format!("Who frees whose slots: lane {}, process {}", file.lane, file.pid);
    let explanation = [
        "Left: slots that threads of a shard (row) handed on, by the shard that owns them (column); a stronger colour is more, on a square-root scale.",
        "Right: by block size, how many were handed on, and in orange those that another shard owns. What nobody used is left out.",
    ];
    let mut canvas = Canvas::new(end + MARGIN, height, &title, explanation);
    matrix.draw(&mut canvas, (matrix_at, top));
    draw_bars(&mut canvas, &bins, (bars_at, top));
    canvas.finish()
}

/// Who freed whose slots: the shards that freed any, and those that own any of these.
struct Matrix<'a> {
    file: &'a StatisticsFile,
    rows: Vec<usize>,
    columns: Vec<usize>,
    cell: f64,
}

impl Matrix<'_> {
    fn of(file: &StatisticsFile) -> Matrix<'_> {
        let flow = |row: usize, column: usize| file.shards[row].freed_by_owner[column];
        let all = || 0..file.shards.len();
        let columns: Vec<usize> = all().filter(|&column| all().any(|row| flow(row, column) > 0)).collect();
        let widest = columns.iter().map(|column| width(LABEL, &column.to_string())).fold(0.0, f64::max);
        Matrix {
            file,
            rows: all().filter(|&row| all().any(|column| flow(row, column) > 0)).collect(),
            columns,
            cell: CELL.max(widest + 2.0),
        }
    }

    fn draw(&self, canvas: &mut Canvas, (left, top): (f64, f64)) {
        let flows = self.file.shards.iter().flat_map(|shard| &shard.freed_by_owner);
        let most = flows.copied().max().unwrap_or(0).max(1) as f64;
        let at = |index: usize| self.cell * index as f64;
        canvas.text(left, top - 18.0, Anchor::Start, HEADING, "Owner");
        canvas.text(left - LABEL_GAP, top - 5.0, Anchor::End, HEADING, FREED_BY);
        for (index, column) in self.columns.iter().enumerate() {
            canvas.text(left + at(index) + self.cell / 2.0, top - 5.0, Anchor::Middle, LABEL, &column.to_string());
        }
        for (index, &row) in self.rows.iter().enumerate() {
            let y = top + at(index);
            let baseline = y + self.cell / 2.0 + 3.5;
            canvas.text(left - LABEL_GAP, baseline, Anchor::End, LABEL, &row.to_string());
            for (across, &column) in self.columns.iter().enumerate() {
                let slots = self.file.shards[row].freed_by_owner[column];
                if slots > 0 {
                    let strength = (slots as f64 / most).sqrt().max(0.08);
                    let class = if row == column { "fill-fast" } else { "fill-scale" };
                    let hint = format!("shard {row} freed {slots} slots of shard {column}");
                    canvas.cell((left + at(across), y), (self.cell - 1.0, self.cell - 1.0), class, strength, &hint);
                }
            }
        }
        let (right, bottom) = (left + at(self.columns.len()), top + at(self.rows.len()));
        let corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)];
        canvas.polyline(&corners, "axis");
    }
}

/// A bin's figures, beside its bar.
fn flow(bin: &Bin) -> String {
    format!("{} ({} % foreign)", bin.freed, bin.foreign * 100 / bin.freed.max(1))
}

fn draw_bars(canvas: &mut Canvas, bins: &[&Bin], (left, top): (f64, f64)) {
    let most = bins.iter().map(|bin| bin.freed).max().unwrap_or(1) as f64;
    canvas.text(left - LABEL_GAP, top - 18.0, Anchor::End, HEADING, BYTES);
    canvas.text(left, top - 18.0, Anchor::Start, HEADING, SLOTS);
    for (row, bin) in bins.iter().enumerate() {
        let y = top + BAR_HEIGHT * row as f64;
        let length = |slots: u64| BAR_WIDTH * slots as f64 / most;
        canvas.text(left - LABEL_GAP, y + 11.0, Anchor::End, LABEL, &bin.slot_bytes.to_string());
        canvas.rectangle(left, y + 2.0, length(bin.freed), BAR_HEIGHT - 4.0, "fill-fast");
        canvas.rectangle(left, y + 2.0, length(bin.foreign), BAR_HEIGHT - 4.0, "fill-scale");
        canvas.text(left + length(bin.freed) + LABEL_GAP, y + 11.0, Anchor::Start, LABEL, &flow(bin));
    }
}
