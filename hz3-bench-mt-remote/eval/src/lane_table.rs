//! Lane table: the scale lane beside the fast one in each row, as docs/choosing-a-lane.md shows it.

use hz3::Lane;
use hz3::record::{Metric, Results, Row, markdown_table, paired_ratio, show_ratio};
use std::fmt::Write;

/// Scale over fast, by speed and by memory, with intervals; `–` where too little was measured.
pub fn lane_table(results: &Results) -> String {
    let header = ["row", "speed, scale ÷ fast", "resident ÷ live, scale ÷ fast"].map(str::to_owned);
    let ratio = |row: &Row, metric| {
        let pairs = results.pairs(&row.id, Lane::Scale.name(), Lane::Fast.name(), metric);
        paired_ratio(&pairs).map_or_else(|| "–".to_owned(), show_ratio)
    };
    let rows = results
        .header
        .rows
        .iter()
        .map(|row| vec![row.label.clone(), ratio(row, Metric::OpsPerSecond), ratio(row, Metric::RssOverLive)]);
    let mut text = markdown_table(&header, rows);
    let header = &results.header;
    let _ = write!(
        text,
        "\nRatios of medians with their 95 % intervals, {} interleaved rounds; above 1, scale is faster, or needs more \
         memory. {}, {} processors, hz3 {}, {}.\n",
        header.rounds,
        header.machine.processor,
        header.machine.processors,
        header.source.line(),
        header.started.split('T').next().unwrap_or_default(),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::Role;
    use hz3::record::results::synthetic::synthetic;

    #[test]
    fn a_row_says_how_the_lanes_stand_to_each_other() {
        let results = synthetic(&[("fast", Role::Lane), ("scale", Role::Lane)], 8, |_, name, round| {
            if name == "fast" { (1e8 + f64::from(round), 1.0) } else { (1.5e8 + f64::from(round), 1.25) }
        });
        let text = lane_table(&results);
        assert!(text.contains("| T=8 R=50 | 1.50 [1.50, 1.50] | 1.25 [1.25, 1.25] |"), "{text}");
    }

    #[test]
    fn a_lane_that_was_not_measured_leaves_a_gap() {
        let results = synthetic(&[("scale", Role::Lane)], 8, |_, _, _| (1e8, 1.0));
        assert!(lane_table(&results).contains("| T=8 R=50 | – | – |"));
    }
}
