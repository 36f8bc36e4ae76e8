//! Synthetic: made-up results, for the tests of everything that reads results.

use super::machine::{Machine, Source};
use super::results::{AllocatorRecord, Header, Kind, Results, Role, SCHEMA};
use super::row;
use super::run::{BenchmarkFigures, Run};

/// Results of the full matrix whose figures `figures(row id, allocator, round)` gives as
/// (ops per second, resident over live).
pub fn synthetic(allocators: &[(&str, Role)], rounds: u32, figures: impl Fn(&str, &str, u32) -> (f64, f64)) -> Results {
    let record = |&(name, role): &(&str, Role)| AllocatorRecord {
        name: name.to_owned(),
        role,
        version: format!("{name} 1.0"),
        library: None,
        fingerprint: None,
        environment: Vec::new(),
    };
    let rows = row::remote_matrix();
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
