//! `compare`: what changed between two measurements, and whether it is more than noise.
//!
//! Two measurements ran at different times, and a machine is never twice the same. The allocators
//! that both measured unchanged are therefore the control: a change of speed counts only as far as it
//! exceeds theirs in the same row. Memory does not follow the machine's speed and needs no control.

use anyhow::Result;
use hz3::UsageError;
use hz3::record::{
    Bound, Call, Kind, Metric, Quantile, Ratio, Results, Role, change_against_controls, load, markdown_table,
    show_ratio,
};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `compare`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The older results file
    before: PathBuf,
    /// The newer results file
    after: PathBuf,
    /// Show what did not change too
    #[arg(long)]
    all: bool,
}

/// What a change amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Better,
    Worse,
    /// The interval covers "no change".
    Noise,
    /// There are too few rounds for an interval.
    Unknown,
}

/// One figure in both measurements.
#[derive(Debug)]
struct Difference {
    row: String,
    allocator: String,
    metric: Metric,
    before: f64,
    after: f64,
    ratio: Ratio,
    change: Change,
}

/// `cargo xtask compare A.json B.json`.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let before = load(&arguments.before)?.results;
    let after = load(&arguments.after)?.results;
    if before.header.kind != after.header.kind {
        let (one, other) = (before.header.kind.name(), after.header.kind.name());
        return Err(UsageError(format!("can't compare {one} with {other}")).into());
    }
    print!("{}", describe(&before, &after, arguments.all));
    Ok(ExitCode::SUCCESS)
}

fn describe(before: &Results, after: &Results, all: bool) -> String {
    let controls = controls(before, after);
    let mut text = match &controls[..] {
        [] => "No allocator is in both files unchanged, so that nothing tells a change from a different state of \
               the machine: every ratio is a plain one.\n\n"
            .to_owned(),
        controls => format!(
            "The change is measured against that of the allocators that both files hold unchanged: {}.\n\n",
            controls.join(", ")
        ),
    };
    if before.header.machine.processor != after.header.machine.processor {
        text += "The files come from different machines.\n\n";
    }
    let differences = differences(before, after, &controls);
    let shown: Vec<&Difference> =
        differences.iter().filter(|difference| all || difference.change != Change::Noise).collect();
    if !shown.is_empty() {
        let header = ["", "row", "allocator", "figure", "before", "after", "change"].map(str::to_owned);
        text += &markdown_table(&header, shown.iter().map(|difference| difference.cells()));
        text.push('\n');
    }
    let count = |change| differences.iter().filter(|difference| difference.change == change).count();
    text += &format!(
        "{} figures: {} better, {} worse, {} without a difference beyond the noise, {} with too few rounds. Of \
         figures that did not change, the 95 % intervals miss about one in twenty.\n",
        differences.len(),
        count(Change::Better),
        count(Change::Worse),
        count(Change::Noise),
        count(Change::Unknown)
    );
    text
}

/// The allocators that are no lanes and the same in both files.
fn controls<'a>(before: &'a Results, after: &Results) -> Vec<&'a str> {
    let records = before.header.allocators.iter().filter(|record| record.role != Role::Lane);
    records.filter(|record| after.header.allocators.contains(record)).map(|record| record.name.as_str()).collect()
}

fn differences(before: &Results, after: &Results, controls: &[&str]) -> Vec<Difference> {
    let rows = before
        .header
        .rows
        .iter()
        .filter(|row| after.header.rows.iter().any(|other| other.id == row.id && other.command == row.command));
    let mut differences = Vec::new();
    for row in rows {
        let changing = before.header.allocators.iter().filter(|record| !controls.contains(&record.name.as_str()));
        for record in changing {
            for metric in metrics(before.header.kind) {
                let values = |results: &Results, name: &str| results.values(&row.id, name, metric);
                let of_controls: Vec<(Vec<f64>, Vec<f64>)> = controls
                    .iter()
                    .filter(|_| !matches!(metric, Metric::RssOverLive | Metric::PeakRss | Metric::Bound(_)))
                    .map(|name| (values(after, name), values(before, name)))
                    .filter(|(new, old)| !new.is_empty() && !old.is_empty())
                    .collect();
                let (old, new) = (values(before, &record.name), values(after, &record.name));
                if let Some(ratio) = change_against_controls(&new, &old, &of_controls) {
                    let median = |values: &[f64]| hz3::record::statistics::median(values).expect("there is a ratio");
                    differences.push(Difference {
                        row: row.label.clone(),
                        allocator: record.name.clone(),
                        metric,
                        before: median(&old),
                        after: median(&new),
                        ratio,
                        change: judge(ratio, metric),
                    });
                }
            }
        }
    }
    differences
}

/// The figures that count in a measurement of this kind.
fn metrics(kind: Kind) -> Vec<Metric> {
    match kind {
        Kind::Throughput => vec![Metric::OpsPerSecond, Metric::RssOverLive],
        Kind::Programs | Kind::Rust => vec![Metric::WallSeconds, Metric::PeakRss],
        Kind::Memory => Bound::ALL.into_iter().map(Metric::Bound).collect(),
        Kind::Latency => Call::ALL
            .into_iter()
            .flat_map(|call| [Quantile::P50, Quantile::P999].map(|quantile| Metric::Latency(call, quantile)))
            .collect(),
    }
}

fn judge(ratio: Ratio, metric: Metric) -> Change {
    match ratio.interval {
        None => Change::Unknown,
        Some(interval) if interval.low > 1.0 => {
            if metric.higher_is_better() {
                Change::Better
            } else {
                Change::Worse
            }
        }
        Some(interval) if interval.high < 1.0 => {
            if metric.higher_is_better() {
                Change::Worse
            } else {
                Change::Better
            }
        }
        Some(_) => Change::Noise,
    }
}

impl Difference {
    fn cells(&self) -> Vec<String> {
        let change = match self.change {
            Change::Better => "**better**",
            Change::Worse => "**worse**",
            Change::Noise => "no difference",
            Change::Unknown => "too few rounds",
        };
        vec![
            change.to_owned(),
            self.row.clone(),
            self.allocator.clone(),
            self.metric.label(),
            self.metric.show(self.before),
            self.metric.show(self.after),
            show_ratio(self.ratio),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::results::synthetic::synthetic;

    const FIELD: [(&str, Role); 3] = [("scale", Role::Lane), ("tcmalloc", Role::Peer), ("system", Role::System)];

    /// A machine that is `machine` times as fast, a scale lane `lane` times, each round a bit off.
    fn measured(machine: f64, lane: f64) -> Results {
        synthetic(&FIELD, 12, |_, name, round| {
            let noise = 1.0 + f64::from(round * 7 % 13) / 400.0;
            let own = if name == "scale" { lane } else { 1.0 };
            (1e8 * machine * own * noise, 1.2)
        })
    }

    fn changes(before: &Results, after: &Results, allocator: &str) -> Vec<Change> {
        let all = differences(before, after, &controls(before, after));
        all.iter()
            .filter(|difference| difference.allocator == allocator && difference.metric == Metric::OpsPerSecond)
            .map(|difference| difference.change)
            .collect()
    }

    #[test]
    fn a_faster_lane_is_better_even_on_a_slower_machine() {
        let (before, after) = (measured(1.0, 1.0), measured(0.7, 1.2));
        let changes = changes(&before, &after, "scale");
        assert_eq!(changes, vec![Change::Better; before.header.rows.len()]);
    }

    #[test]
    fn a_slower_machine_alone_changes_nothing() {
        let (before, after) = (measured(1.0, 1.0), measured(0.7, 1.0));
        assert!(changes(&before, &after, "scale").iter().all(|change| *change == Change::Noise));
        assert!(describe(&before, &after, false).contains(" 0 better, 0 worse"));
    }

    #[test]
    fn more_memory_is_worse() {
        let before = measured(1.0, 1.0);
        let mut after = measured(1.0, 1.0);
        for run in after.runs.iter_mut().filter(|run| run.allocator == "scale") {
            run.benchmark.as_mut().unwrap().rss_over_live = Some(1.5);
        }
        let all = differences(&before, &after, &controls(&before, &after));
        let memory = all.iter().filter(|it| it.allocator == "scale" && it.metric == Metric::RssOverLive);
        assert!(memory.clone().count() > 0 && memory.clone().all(|it| it.change == Change::Worse));
    }

    #[test]
    fn a_peer_of_another_version_is_no_control() {
        let before = measured(1.0, 1.0);
        let mut after = measured(1.0, 1.0);
        after.header.allocators[1].version = "tcmalloc 2.0".to_owned();
        assert_eq!(controls(&before, &after), ["system"]);
    }

    #[test]
    fn too_few_rounds_are_said_to_be_too_few() {
        let few = synthetic(&FIELD, 2, |_, _, _| (1e8, 1.2));
        assert!(describe(&few, &few, false).contains("too few rounds"));
    }
}
