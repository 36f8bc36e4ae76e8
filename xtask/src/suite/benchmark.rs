//! Benchmark: a short run of hz3-bench-mt-remote without hz3 and on each lane, whose report must
//! name the right allocator and show next to no full rings.

use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::{Lane, process};
use regex_lite::Regex;
use std::process::Command;
use std::time::Duration;

/// Threads, iterations, slots, smallest and largest size, percentage of remote frees, ring slots.
const ARGUMENTS: [&str; 7] = ["8", "50000", "400", "16", "2048", "50", "65536"];

/// Sends that find a full ring must stay below this, or the row measures local frees.
const FALLBACK_LIMIT_PERCENT: f64 = 0.10;

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// One step without hz3 and one per lane.
pub fn steps() -> Vec<Step> {
    let lanes = Lane::FOR_SPEED.into_iter().map(Some);
    std::iter::once(None)
        .chain(lanes)
        .map(|lane| {
            let name = lane.map_or("none", Lane::name);
            Step::new(format!("benchmark/{name}"), move |session| run(session, lane))
        })
        .collect()
}

fn run(session: &mut Session, lane: Option<Lane>) -> Result<(), Stop> {
    let package = "hz3-bench-mt-remote";
    let program = session.workspace.build_release(package, package, package, |_| {})?;
    let mut command = Command::new(program);
    command.args(ARGUMENTS).env_remove("LD_PRELOAD");
    if let Some(lane) = lane {
        command.env("LD_PRELOAD", session.library(lane)?);
    }
    let text = process::expect_success(&mut command, TIME_LIMIT)?.text();
    Ok(Report::parse(&text).and_then(|report| report.check(lane)).with_context(|| text)?)
}

/// What the benchmark says of its run.
#[derive(Debug, PartialEq)]
struct Report {
    operations_per_second: f64,
    fallback_percent: f64,
    /// The allocator's name and the library it is from.
    allocator: String,
}

impl Report {
    fn parse(text: &str) -> Result<Report> {
        let find = |pattern: &str| {
            let captures = Regex::new(pattern).expect("valid pattern").captures(text);
            captures.map(|found| found[1].to_owned()).with_context(|| format!("no match of {pattern}"))
        };
        Ok(Report {
            operations_per_second: find(r"(?m)\bops/s=([0-9.]+)")?.parse()?,
            fallback_percent: find(r"(?m)^\[EFFECTIVE_REMOTE\].*\bfallback_rate=([0-9.]+)%")?.parse()?,
            allocator: find(r"(?m)^\[ALLOCATOR\]\s*(.*)$")?,
        })
    }

    fn check(&self, lane: Option<Lane>) -> Result<()> {
        ensure!(self.operations_per_second > 0.0, "no operations");
        let right = match lane {
            Some(lane) => self.allocator.starts_with("name=hz3 ") && self.allocator.contains(&lane.library()),
            None => !self.allocator.starts_with("name=hz3 "),
        };
        ensure!(right, "the allocator is {:?}", self.allocator);
        ensure!(
            lane.is_none() || self.fallback_percent < FALLBACK_LIMIT_PERCENT,
            "fallback_rate is {} %, the limit is {FALLBACK_LIMIT_PERCENT} %",
            self.fallback_percent
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "threads=8 iters=50000\n\
        ops=400000 time=0.01 ops/s=40000000.5\n\
        [EFFECTIVE_REMOTE] target=50.0% actual=49.9% fallback_rate=0.05% sent=1 fallback=0\n\
        [MEM] peak_rss_mb=1.0 peak_live_mb=1.0 rss_over_live=1.0\n\
        [ALLOCATOR] name=hz3 path=/lib/libhakozuna_hz3_scale.so version=1\n";

    #[test]
    fn a_report_is_read_and_checked_against_the_lane() {
        let report = Report::parse(TEXT).unwrap();
        assert_eq!(report.operations_per_second, 40_000_000.5);
        assert!(report.check(Some(Lane::Scale)).is_ok());
        assert!(report.check(Some(Lane::Fast)).is_err());
        assert!(report.check(None).is_err());
    }

    #[test]
    fn full_rings_and_a_foreign_allocator_fail() {
        let full = Report::parse(&TEXT.replace("0.05%", "0.10%")).unwrap();
        assert!(full.check(Some(Lane::Scale)).is_err());
        let foreign = Report::parse(&TEXT.replace("name=hz3", "name=glibc")).unwrap();
        assert!(foreign.check(Some(Lane::Scale)).is_err());
        assert!(foreign.check(None).is_ok());
    }

    #[test]
    fn a_missing_line_is_named() {
        let error = Report::parse("ops/s=1").unwrap_err().to_string();
        assert!(error.contains("EFFECTIVE_REMOTE"), "{error}");
    }
}
