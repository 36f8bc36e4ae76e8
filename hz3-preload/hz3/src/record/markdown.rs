//! Markdown: figures in tables.

use super::metric::Metric;
use super::statistics::quantile;

/// A median with half the interquartile range of the values that it is of.
pub fn with_spread(metric: Metric, median: f64, values: &[f64]) -> String {
    let quartile = |share| quantile(values, share).expect("there is a median");
    let spread = (quartile(0.75) - quartile(0.25)) / 2.0 / median * 100.0;
    format!("{} ±{spread:.0} %", metric.show(median))
}

/// A Markdown table; the first column is aligned to the left, the others to the right when their
/// cells are figures.
pub fn markdown_table(header: &[String], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let is_figure =
        |cell: &str| cell == "–" || cell.trim_start_matches('*').starts_with(|first: char| first.is_ascii_digit());
    let line = |cells: &[String]| {
        let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", escaped.join(" | "))
    };
    let rule: Vec<String> = (0..header.len())
        .map(|column| {
            let right = column > 0 && !rows.is_empty() && rows.iter().all(|cells| is_figure(&cells[column]));
            if right { "---:".to_owned() } else { "---".to_owned() }
        })
        .collect();
    let body: String = rows.iter().map(|cells| line(cells)).collect();
    format!("{}{}{body}", line(header), line(&rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_aligns_figures_to_the_right() {
        let header = ["row", "a", "b"].map(str::to_owned);
        let rows = [["x", "1.5", "y|z"], ["y", "**2.5**", "z"]].map(|cells| cells.map(str::to_owned).to_vec());
        assert_eq!(
            markdown_table(&header, rows),
            "| row | a | b |\n| --- | ---: | --- |\n| x | 1.5 | y\\|z |\n| y | **2.5** | z |\n"
        );
    }
}
