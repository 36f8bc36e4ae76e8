//! Results: everything one measurement recorded, from the machine to each single run.
//!
//! The JSON form is described in docs/results-schema.md. While a measurement runs, its file is a
//! journal (see `journal`); when it is complete the file becomes one JSON document.

use super::machine::{Machine, Source};
use super::metric::Metric;
use super::row::Row;
use super::run::Run;
use super::statistics::median;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The version of the JSON form; a reader refuses any other.
pub const SCHEMA: u32 = 1;

/// Everything one measurement recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// What was measured, on what.
    #[serde(flatten)]
    pub header: Header,
    /// Every run, void ones and warm-up rounds included, in the order in which they ran.
    pub runs: Vec<Run>,
}

/// What is known before the first run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Which command measured.
    pub kind: Kind,
    /// Start of the measurement, RFC 3339, UTC.
    pub started: String,
    /// The machine.
    pub machine: Machine,
    /// The version of hz3.
    pub source: Source,
    /// The command's arguments, with paths reduced to file names.
    pub arguments: Vec<String>,
    /// Counted rounds per row. One more, round 0, runs first and is dropped.
    pub rounds: u32,
    /// The allocators, in the order in which each round runs them.
    pub allocators: Vec<AllocatorRecord>,
    /// The allocators that could not be measured.
    pub missing: Vec<Missing>,
    /// The rows, in the order in which they run.
    pub rows: Vec<Row>,
}

/// Which command measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// `bench-mt`: throughput and memory.
    #[serde(rename = "bench-mt")]
    Throughput,
    /// `bench-mt --latency`: single calls; its throughput includes the clock's cost.
    #[serde(rename = "bench-mt-latency")]
    Latency,
    /// `bench-programs`.
    #[serde(rename = "bench-programs")]
    Programs,
    /// `bench-rust`: Rust programs, one for each global allocator.
    #[serde(rename = "bench-rust")]
    Rust,
    /// `bench-memory`: resident memory against its bounds.
    #[serde(rename = "bench-memory")]
    Memory,
}

impl Kind {
    /// The start of the names of its files.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Throughput => "bench-mt",
            Kind::Latency => "bench-mt-latency",
            Kind::Programs => "bench-programs",
            Kind::Rust => "bench-rust",
            Kind::Memory => "bench-memory",
        }
    }
}

/// Whose allocator it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// One of hz3's lanes.
    Lane,
    /// The C library's own malloc: shown, but no peer of a rule.
    System,
    /// An allocator to stand beside.
    Peer,
}

/// An allocator as it was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocatorRecord {
    /// Unique among the allocators of one measurement.
    pub name: String,
    /// Whose it is.
    pub role: Role,
    /// Version and origin.
    pub version: String,
    /// The preloaded library's file name; absent for the system's malloc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// XXH3 of the library's bytes, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Environment variables that the allocator is run with beside `LD_PRELOAD`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<(String, String)>,
}

/// An allocator or a row that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// Why, and what to do about it.
    pub reason: String,
}

impl Results {
    /// The figures of one metric in the counted, valid rounds of one row under one allocator.
    pub fn values(&self, row: &str, allocator: &str, metric: Metric) -> Vec<f64> {
        self.rounds_of(row, allocator, metric).map(|(_, value)| value).collect()
    }

    /// The figures of two allocators in the rounds in which both have a valid run.
    pub fn pairs(&self, row: &str, first: &str, second: &str, metric: Metric) -> Vec<(f64, f64)> {
        let of_second: std::collections::HashMap<u32, f64> = self.rounds_of(row, second, metric).collect();
        self.rounds_of(row, first, metric).filter_map(|(round, value)| Some((value, *of_second.get(&round)?))).collect()
    }

    fn rounds_of(&self, row: &str, allocator: &str, metric: Metric) -> impl Iterator<Item = (u32, f64)> {
        self.runs
            .iter()
            .filter(move |run| run.row == row && run.allocator == allocator)
            .filter(|run| run.round > 0 && run.void.is_none())
            .filter_map(move |run| Some((run.round, metric.of(run)?)))
    }

    /// The void runs of one row under one allocator, warm-up included.
    pub fn void_runs(&self, row: &str, allocator: &str) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.row == row && run.allocator == allocator && run.void.is_some())
    }

    /// The names of the allocators in one role.
    pub fn names(&self, role: Role) -> impl Iterator<Item = &str> {
        let allocators = self.header.allocators.iter();
        allocators.filter(move |record| record.role == role).map(|record| record.name.as_str())
    }

    /// The peer with the best median of the metric in one row, and that median.
    pub fn best_peer(&self, row: &str, metric: Metric) -> Option<(&str, f64)> {
        self.names(Role::Peer).filter_map(|name| Some((name, median(&self.values(row, name, metric))?))).max_by(
            |(_, first), (_, second)| {
                let order = first.total_cmp(second);
                if metric.higher_is_better() { order } else { order.reverse() }
            },
        )
    }
}

/// The command line for the record: of a path only the file name, for results travel.
pub fn shown_arguments(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let shown = |text: &str| Path::new(text).file_name().map(|name| name.to_string_lossy().into_owned());
    arguments
        .map(|argument| match argument.rsplit_once('=') {
            Some((name, path)) if path.contains('/') => {
                format!("{name}={}", shown(path).unwrap_or_default())
            }
            None if argument.contains('/') => shown(&argument).unwrap_or_default(),
            _ => argument,
        })
        .collect()
}

/// Made-up results, for the tests of everything that reads results.
#[cfg(any(test, feature = "synthetic"))]
pub mod synthetic {
    use super::*;
    use crate::record::row::remote_matrix;
    use crate::record::run::BenchmarkFigures;

    /// Results of the full matrix whose figures `figures(row id, allocator, round)` gives as
    /// (ops per second, resident over live).
    pub fn synthetic(
        allocators: &[(&str, Role)],
        rounds: u32,
        figures: impl Fn(&str, &str, u32) -> (f64, f64),
    ) -> Results {
        let record = |&(name, role): &(&str, Role)| AllocatorRecord {
            name: name.to_owned(),
            role,
            version: format!("{name} 1.0"),
            library: None,
            fingerprint: None,
            environment: Vec::new(),
        };
        let rows = remote_matrix();
        let mut runs = Vec::new();
        for row in &rows {
            for round in 0..=rounds {
                for (name, _) in allocators {
                    let (ops_per_second, rss_over_live) = figures(&row.id, name, round);
                    let benchmark = BenchmarkFigures {
                        ops: 1_000_000,
                        seconds: 1e6 / ops_per_second,
                        ops_per_second,
                        remote_percent: Some(0.0),
                        fallback_percent: Some(0.0),
                        peak_rss_mb: Some(10.0 * rss_over_live),
                        peak_live_mb: Some(10.0),
                        rss_over_live: Some(rss_over_live),
                        bounds: Vec::new(),
                    };
                    runs.push(Run {
                        row: row.id.clone(),
                        allocator: (*name).to_owned(),
                        round,
                        benchmark: Some(benchmark),
                        ..Run::default()
                    });
                }
            }
        }
        let header = Header {
            schema: SCHEMA,
            kind: Kind::Throughput,
            started: "2026-01-01T00:00:00Z".to_owned(),
            machine: Machine::default(),
            source: Source::default(),
            arguments: Vec::new(),
            rounds,
            allocators: allocators.iter().map(record).collect(),
            missing: Vec::new(),
            rows,
        };
        Results { header, runs }
    }
}

#[cfg(test)]
mod tests {
    use super::synthetic::synthetic;
    use super::*;

    const TWO: [(&str, Role); 2] = [("scale", Role::Lane), ("peer", Role::Peer)];

    #[test]
    fn the_warm_up_round_and_void_runs_never_enter_the_values() {
        let mut results = synthetic(&TWO, 8, |_, _, round| (100.0 + f64::from(round), 1.0));
        for run in &mut results.runs {
            if run.allocator == "scale" && run.round == 3 {
                run.void = Some("fallback rate 2 %".to_owned());
            }
        }
        let values = results.values("t1-r0", "scale", Metric::OpsPerSecond);
        assert_eq!(values, [101.0, 102.0, 104.0, 105.0, 106.0, 107.0, 108.0]);
        let pairs = results.pairs("t1-r0", "scale", "peer", Metric::OpsPerSecond);
        assert!(pairs.iter().all(|(first, second)| first == second));
        assert_eq!(pairs.len(), 7);
        assert_eq!(results.void_runs("t1-r0", "scale").count(), 1);
    }

    #[test]
    fn the_best_peer_is_the_fastest_or_the_smallest_and_never_the_system_s_malloc() {
        let allocators = [("a", Role::Peer), ("b", Role::Peer), ("system", Role::System)];
        let results = synthetic(&allocators, 3, |_, name, _| match name {
            "a" => (10.0, 1.2),
            "b" => (20.0, 1.5),
            _ => (30.0, 1.1),
        });
        assert_eq!(results.best_peer("t1-r0", Metric::OpsPerSecond), Some(("b", 20.0)));
        assert_eq!(results.best_peer("t1-r0", Metric::RssOverLive), Some(("a", 1.2)));
    }

    #[test]
    fn results_survive_the_way_through_json() {
        let results = synthetic(&TWO, 2, |_, _, _| (1e6, 1.25));
        let text = serde_json::to_string(&results).unwrap();
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
    }

    #[test]
    fn recorded_arguments_hold_no_folders() {
        let arguments = ["--peer", "x=/home/me/libx.so", "--output", "a/b.json", "--runs=5", "--rows", "t1-r0"];
        let shown = shown_arguments(arguments.iter().map(ToString::to_string));
        assert_eq!(shown, ["--peer", "x=libx.so", "--output", "b.json", "--runs=5", "--rows", "t1-r0"]);
    }
}
