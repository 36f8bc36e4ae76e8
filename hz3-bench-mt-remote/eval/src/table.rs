//! Table: results as Markdown.

use crate::published::PUBLISHED;
use crate::verdict::{Origin, Verdict, judge, overall, speed_floor};
use hz3::record::{
    Bound, Call, Kind, Metric, Quantile, Results, Role, Row, markdown_table, median, paired_ratio, show_ratio,
    with_spread,
};
use std::fmt::Write;

/// The row of `bench-memory` whose speed means something: the others mostly wait.
pub const ONE_REAPER: &str = "one-reaper";

/// The whole report without its plots.
pub fn report(results: &Results) -> String {
    let mut text = head(results);
    match results.header.kind {
        Kind::Throughput => {
            text += &section(
                "Speed: million ops/s, median ± half the interquartile range",
                &medians(results, Metric::OpsPerSecond),
            );
            text += &section(
                "Speed against the fastest peer of each row",
                &against_best_peer(results, Metric::OpsPerSecond),
            );
            text += &section(
                "Memory: peak resident ÷ peak live, median ± half the interquartile range",
                &medians(results, Metric::RssOverLive),
            );
            text += &section(
                "Memory against the most frugal peer of each row",
                &against_best_peer(results, Metric::RssOverLive),
            );
            text += &section("Verdict", &verdicts(&judge(results)));
            text += &section("The original's published figures, for orientation", &published(results));
        }
        Kind::Latency => {
            for call in Call::ALL {
                for quantile in [Quantile::P50, Quantile::P99, Quantile::P999, Quantile::P9999, Quantile::Max] {
                    let metric = Metric::Latency(call, quantile);
                    text += &section(&format!("{}, median of the runs", metric.label()), &medians(results, metric));
                }
            }
        }
        Kind::Memory => {
            text += &section("Bounds: median of the runs", &bounds(results));
            for metric in Bound::ALL.map(Metric::Bound) {
                let title = format!("{} against the best peer of each row", capital(&metric.label()));
                text += &section(&title, &against_best_peer(results, metric));
            }
            let title = "One reaper: million ops/s, median ± half the interquartile range";
            text += &section(title, &medians_of(results, Metric::OpsPerSecond, |row| row.id == ONE_REAPER));
            let title = "Peak resident size (MB), median ± half the interquartile range";
            text += &section(title, &medians(results, Metric::PeakRss));
        }
        Kind::Programs | Kind::Rust => {
            for metric in [Metric::WallSeconds, Metric::CpuSeconds, Metric::OpsPerSecond, Metric::PeakRss] {
                let title = format!("{}, median ± half the interquartile range", capital(&metric.label()));
                text += &section(&title, &medians(results, metric));
                if metric != Metric::CpuSeconds && metric != Metric::OpsPerSecond {
                    let title = format!("{} against the best peer of each row", capital(&metric.label()));
                    text += &section(&title, &against_best_peer(results, metric));
                }
            }
        }
    }
    text + &section("Allocators", &allocators(results)) + &section("Void and missing", &void_and_missing(results))
}

/// The part of the README that is made from the data.
pub fn readme(results: &Results) -> String {
    let mut text = String::new();
    let lanes: Vec<&str> = results.names(Role::Lane).collect();
    let mut header = vec!["threads, remote frees, sizes".to_owned()];
    header.extend(lanes.iter().map(|lane| format!("hz3 {lane}")));
    header.extend(["best peer".to_owned(), "system malloc".to_owned()]);
    let rows = results.header.rows.iter().map(|row| {
        let metric = Metric::OpsPerSecond;
        let mut cells = vec![described(row)];
        let of =
            |name: &str| median(&results.values(&row.id, name, metric)).map_or_else(absent, |value| metric.show(value));
        cells.extend(lanes.iter().map(|lane| of(lane)));
        let best = results.best_peer(&row.id, metric);
        cells.push(best.map_or_else(absent, |(name, value)| format!("{} ({name})", metric.show(value))));
        cells.push(results.names(Role::System).next().map_or_else(absent, of));
        cells
    });
    text += &markdown_table(&header, rows);
    let peers: Vec<&str> = results.names(Role::Peer).collect();
    let _ = write!(
        text,
        "\nMillion `malloc` and `free` calls per second, medians of {} interleaved runs; R is the share of \
         blocks that another thread frees. The best peer of each row is the fastest of {}. {}, {} processors, {}, \
         hz3 {}, {}.\n",
        results.header.rounds,
        peers.join(", "),
        results.header.machine.processor,
        results.header.machine.processors,
        results.header.machine.c_library,
        results.header.source.line(),
        results.header.started.split('T').next().unwrap_or_default(),
    );
    text
}

/// One line per verdict and one for all, for a terminal or a report.
pub fn verdicts(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return "No rule applies to these rows and allocators.\n".to_owned();
    }
    let header = ["", "rule", "data", "whose"].map(str::to_owned);
    let rows = verdicts.iter().map(|verdict| {
        let origin = match verdict.origin {
            Origin::Original => "the original's",
            Origin::Floor => "this project's",
        };
        vec![format!("**{}**", verdict.decision), verdict.rule.clone(), verdict.evidence.clone(), origin.to_owned()]
    });
    let table = markdown_table(&header, rows);
    format!(
        "{table}\nAll together: **{}**. A rule is GO or NO-GO when the 95 % bootstrap interval of the ratio of \
         medians, given in brackets, lies on one side of the threshold, else UNDECIDED.\n",
        overall(verdicts)
    )
}

/// Each bound of each row, with every allocator's median; what exceeds the bound says so.
pub fn bounds(results: &Results) -> String {
    let names: Vec<&str> = results.header.allocators.iter().map(|record| record.name.as_str()).collect();
    let mut header = ["row", "figure", "bound"].map(str::to_owned).to_vec();
    header.extend(names.iter().map(|name| (*name).to_owned()));
    let mut lines = Vec::new();
    for row in &results.header.rows {
        for bound in Bound::ALL {
            let Some(limit) = limit(results, row, bound) else { continue };
            let metric = Metric::Bound(bound);
            let mut cells = vec![row.label.clone(), metric.label(), metric.show(limit)];
            for name in &names {
                cells.push(match median(&results.values(&row.id, name, metric)) {
                    None if results.void_runs(&row.id, name).next().is_some() => "void".to_owned(),
                    None => absent(),
                    Some(value) if value > limit => format!("{} exceeded", metric.show(value)),
                    Some(value) => metric.show(value),
                });
            }
            lines.push(cells);
        }
    }
    if lines.is_empty() { String::new() } else { markdown_table(&header, lines) }
}

/// The limit of a bound in a row, which every run that has the bound states.
fn limit(results: &Results, row: &Row, bound: Bound) -> Option<f64> {
    let of_row = results.runs.iter().filter(|run| run.row == row.id).filter_map(|run| run.benchmark.as_ref());
    of_row.flat_map(|figures| &figures.bounds).find(|figures| figures.name == bound.name()).map(|it| it.limit)
}

/// Medians of one metric: a line per row, a column per allocator, the best of each row in bold.
pub fn medians(results: &Results, metric: Metric) -> String {
    medians_of(results, metric, |_| true)
}

/// As [`medians`], of some rows.
fn medians_of(results: &Results, metric: Metric, is_wanted: impl Fn(&Row) -> bool) -> String {
    let names: Vec<&str> = results.header.allocators.iter().map(|record| record.name.as_str()).collect();
    let mut header = vec!["row".to_owned()];
    header.extend(names.iter().map(|name| (*name).to_owned()));
    let rows = results.header.rows.iter().filter(|row| is_wanted(row)).filter_map(|row| {
        let values: Vec<Vec<f64>> = names.iter().map(|name| results.values(&row.id, name, metric)).collect();
        let medians: Vec<Option<f64>> = values.iter().map(|values| median(values)).collect();
        let known = medians.iter().flatten().copied();
        let best = if metric.higher_is_better() { known.reduce(f64::max) } else { known.reduce(f64::min) }?;
        let mut cells = vec![row.label.clone()];
        for (name, (values, median)) in names.iter().zip(values.iter().zip(&medians)) {
            cells.push(match *median {
                None if results.void_runs(&row.id, name).next().is_some() => "void".to_owned(),
                None => absent(),
                Some(median) => {
                    let shown = with_spread(metric, median, values);
                    if median == best { format!("**{shown}**") } else { shown }
                }
            });
        }
        Some(cells)
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() { String::new() } else { markdown_table(&header, rows) }
}

/// Each lane's ratio to the best peer, with its interval and, for speed, its floor.
fn against_best_peer(results: &Results, metric: Metric) -> String {
    let lanes: Vec<&str> = results.names(Role::Lane).collect();
    let mut header = vec!["row".to_owned(), "best peer".to_owned()];
    header.extend(lanes.iter().map(|lane| format!("{lane} ÷ best peer")));
    let rows = results.header.rows.iter().filter_map(|row| {
        let (peer, best) = results.best_peer(&row.id, metric)?;
        let mut cells = vec![row.label.clone(), format!("{peer} ({})", metric.show(best))];
        for lane in &lanes {
            let ratio = paired_ratio(&results.pairs(&row.id, lane, peer, metric));
            let floor = (metric == Metric::OpsPerSecond).then(|| speed_floor(&row.id, lane)).flatten();
            let floor = floor.map_or_else(String::new, |floor| format!(", floor {floor:.2}"));
            cells.push(ratio.map_or_else(absent, |ratio| format!("{}{floor}", show_ratio(ratio))));
        }
        Some(cells)
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() || lanes.is_empty() { String::new() } else { markdown_table(&header, rows) }
}

/// Our ratios beside the original's.
fn published(results: &Results) -> String {
    let columns = ["fast", "scale", "tcmalloc", "system"];
    let mut header = vec!["row".to_owned()];
    header.extend(columns.map(|name| format!("{name}, published")));
    header.extend(columns.map(|name| format!("{name}, here")));
    header.extend(["scale ÷ fast, published", "scale ÷ fast, here"].map(str::to_owned));
    let rows = PUBLISHED.iter().filter_map(|figures| {
        let row = results.header.rows.iter().find(|row| row.id == figures.row)?;
        let shown = |value: Option<f64>| value.map_or_else(absent, |value| format!("{value:.1}"));
        let theirs = [Some(figures.fast), Some(figures.scale), figures.tcmalloc, figures.system];
        let ours =
            columns.map(|name| median(&results.values(&row.id, name, Metric::OpsPerSecond)).map(|value| value / 1e6));
        let ratio = |columns: [Option<f64>; 4]| match columns {
            [Some(fast), Some(scale), ..] => format!("{:.2}", scale / fast),
            _ => absent(),
        };
        let mut cells = vec![row.label.clone()];
        cells.extend(theirs.iter().chain(&ours).map(|&value| shown(value)));
        cells.extend([ratio(theirs), ratio(ours)]);
        Some(cells)
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let table = markdown_table(&header, rows);
    format!("{table}\nMillion ops/s. The published ones come from another machine: only ratios compare.\n")
}

fn allocators(results: &Results) -> String {
    let header = ["name", "version", "library", "run with"].map(str::to_owned);
    let rows = results.header.allocators.iter().map(|record| {
        let environment: Vec<String> =
            record.environment.iter().map(|(key, value)| format!("`{key}={value}`")).collect();
        let library = record.library.clone().unwrap_or_default();
        vec![record.name.clone(), record.version.clone(), library, environment.join(" ")]
    });
    markdown_table(&header, rows)
}

fn void_and_missing(results: &Results) -> String {
    let mut text = String::new();
    for run in results.runs.iter().filter(|run| run.void.is_some()) {
        let reason = run.void.as_deref().unwrap_or_default();
        let _ = writeln!(text, "- void: {}, {}, round {}: {reason}", run.row, run.allocator, run.round);
    }
    for missing in &results.header.missing {
        let _ = writeln!(text, "- missing: {}: {}", missing.name, missing.reason);
    }
    if text.is_empty() { "No run is void, nothing is missing.\n".to_owned() } else { text }
}

fn head(results: &Results) -> String {
    let header = &results.header;
    let mut text = format!("# {}, {}\n\n", header.kind.name(), header.started);
    let _ = writeln!(text, "- hz3 {}", header.source.line());
    let _ = writeln!(text, "- {}", header.machine.line());
    let _ = writeln!(text, "- load average before the first run: {:.2}", header.machine.load_at_start);
    let _ = writeln!(
        text,
        "- {} rounds, interleaved, after one that is dropped; arguments: `{}`\n",
        header.rounds,
        header.arguments.join(" ")
    );
    text
}

fn section(title: &str, body: &str) -> String {
    if body.is_empty() { String::new() } else { format!("## {title}\n\n{body}\n") }
}

/// A row of the benchmark in words; another row by its label.
fn described(row: &Row) -> String {
    row.arguments.as_ref().map_or_else(
        || row.label.clone(),
        |arguments| match arguments.pattern {
            hz3::record::row::Pattern::Ring => {
                let (min, max) = (arguments.min_bytes, arguments.max_bytes);
                format!("T={} R={} %, {min}–{max} B", arguments.threads, arguments.remote_percent)
            }
            hz3::record::row::Pattern::Asymmetric => {
                format!("T={}, half allocate, half free", arguments.threads)
            }
        },
    )
}

fn absent() -> String {
    "–".to_owned()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::results::synthetic::synthetic;
    use hz3::record::{BoundFigures, Missing};

    const FIELD: [(&str, Role); 4] =
        [("fast", Role::Lane), ("scale", Role::Lane), ("system", Role::System), ("tcmalloc", Role::Peer)];

    fn results() -> Results {
        synthetic(&FIELD, 8, |_, name, round| {
            let speed = match name {
                "fast" => 150e6,
                "scale" => 120e6,
                "system" => 30e6,
                _ => 100e6,
            };
            (speed * (1.0 + f64::from(round) / 1000.0), 1.25)
        })
    }

    #[test]
    fn the_best_of_a_row_is_bold_and_every_row_is_there() {
        let text = medians(&results(), Metric::OpsPerSecond);
        let row = text.lines().find(|line| line.starts_with("| T=8 R=50 |")).unwrap();
        assert_eq!(row, "| T=8 R=50 | **151 ±0 %** | 121 ±0 % | 30.1 ±0 % | 100 ±0 % |");
        assert_eq!(text.lines().count(), 2 + results().header.rows.len());
    }

    #[test]
    fn a_pair_without_a_valid_run_is_shown_as_void() {
        let mut results = results();
        for run in &mut results.runs {
            if run.row == "t8-r50" && run.allocator == "tcmalloc" {
                run.void = Some("2 allocations failed".to_owned());
            }
        }
        let text = medians(&results, Metric::OpsPerSecond);
        assert!(text.lines().any(|line| line.starts_with("| T=8 R=50 |") && line.ends_with("| void |")), "{text}");
        let report = report(&results);
        assert!(report.contains("- void: t8-r50, tcmalloc, round 0: 2 allocations failed"));
    }

    #[test]
    fn a_report_holds_the_verdict_the_published_figures_and_what_is_missing() {
        let mut results = results();
        results.header.missing =
            vec![Missing { name: "jemalloc".to_owned(), reason: "not installed: apt-get install x".to_owned() }];
        let report = report(&results);
        assert!(
            report.contains("| **GO** | T=32 R=50: scale at least tcmalloc | scale ÷ tcmalloc = 1.20 [1.20, 1.20] |"),
            "{report}"
        );
        assert!(report.contains("All together: **NO-GO**"));
        assert!(report.contains("| T=8 R=50 | 28.2 | 69.4 | – | – |"));
        assert!(report.contains("- missing: jemalloc: not installed: apt-get install x"));
    }

    #[test]
    fn every_bound_of_a_row_is_there_and_what_exceeds_it_says_so() {
        let mut results = results();
        results.header.kind = Kind::Memory;
        results.header.rows.truncate(1);
        let id = results.header.rows[0].id.clone();
        for run in results.runs.iter_mut().filter(|run| run.row == id) {
            let figure = |name: &str, value, limit| BoundFigures { name: name.to_owned(), value, limit };
            let after = if run.allocator == "tcmalloc" { 0.9 } else { 0.03 };
            let bounds = &mut run.benchmark.as_mut().unwrap().bounds;
            bounds.push(figure("after", after, 0.1));
            if run.allocator != "tcmalloc" {
                bounds.push(figure("after-trim", 0.01, 0.05));
            }
        }
        let text = report(&results);
        for line in [
            "| T=1 R=0 | resident after freeing all ÷ peak | 0.100 | 0.030 | 0.030 | 0.030 | 0.900 exceeded |",
            "| T=1 R=0 | resident after malloc_trim ÷ peak | 0.050 | 0.010 | 0.010 | 0.010 | – |",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("million ops/s"), "only one row's speed means something");
    }

    #[test]
    fn the_readme_s_table_names_the_best_peer_of_each_row() {
        let text = readme(&results());
        assert!(text.contains("| T=32 R=90 %, 16–2048 B | 151 | 121 | 100 (tcmalloc) | 30.1 |"), "{text}");
        assert!(text.contains("| T=8, half allocate, half free |"));
    }
}
