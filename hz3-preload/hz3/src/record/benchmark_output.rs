//! Benchmark output: the lines of `hz3-bench-mt-remote` and of the workloads, read back.
//!
//! ```text
//! ops=… time=… ops/s=… … failed=…
//! [EFFECTIVE_REMOTE] target=…% actual=…% fallback_rate=…% …
//! [MEM] peak_rss_mb=… peak_live_mb=… rss_over_live=… …
//! [BOUND] name=… value=… limit=… ok|EXCEEDED
//! [LATENCY] call=… unit=ns count=… p50=… p99=… p99.9=… p99.99=… max=…
//! [ALLOCATOR] name=… path=… version=…
//! ```
//!
//! Unknown lines and keys are skipped, so that the programs may say more.

use super::run::{BenchmarkFigures, BoundFigures, LatencyFigures};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::str::FromStr;

/// The largest share of sends into a full ring, in percent; a run that reaches it measured local frees and is void.
pub const FALLBACK_LIMIT_PERCENT: f64 = 0.10;

/// What one run said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BenchmarkOutput {
    /// Speed and memory.
    pub figures: BenchmarkFigures,
    /// Allocations that failed.
    pub failed: u64,
    /// Times of single calls, without the kinds that never occurred.
    pub latency: Vec<LatencyFigures>,
    /// The allocator that served the run.
    pub served_by: ServedBy,
}

/// The allocator that served a run, as the run itself found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedBy {
    /// Its name.
    pub name: String,
    /// The file that holds the `malloc` that was called.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
}

impl BenchmarkOutput {
    /// Reads what a run printed.
    ///
    /// # Errors
    /// A line without which the run means nothing is missing, or a figure is no number.
    pub fn read(text: &str) -> Result<BenchmarkOutput> {
        let speed = line(text, "ops=").context("no line begins with 'ops='")?;
        let allocator = line(text, "[ALLOCATOR]").context("no [ALLOCATOR] line")?;
        let remote = line(text, "[EFFECTIVE_REMOTE]");
        let memory = line(text, "[MEM]");
        let percent = |key| remote.map(|line| number(line, key)).transpose();
        let of_memory = |key| memory.map(|line| number(line, key)).transpose();
        let bounds: Result<Vec<_>> = text.lines().filter(|line| line.starts_with("[BOUND]")).map(bound).collect();
        let figures = BenchmarkFigures {
            ops: number(speed, "ops")?,
            seconds: number(speed, "time")?,
            ops_per_second: number(speed, "ops/s")?,
            remote_percent: percent("actual")?,
            fallback_percent: percent("fallback_rate")?,
            peak_rss_mb: of_memory("peak_rss_mb")?,
            peak_live_mb: of_memory("peak_live_mb")?,
            rss_over_live: of_memory("rss_over_live")?,
            bounds: bounds?,
        };
        let latency: Result<Vec<_>> = text.lines().filter(|line| line.starts_with("[LATENCY]")).map(latency).collect();
        let latency = latency?.into_iter().filter(|figures| figures.count > 0).collect();
        Ok(BenchmarkOutput { figures, failed: number(speed, "failed")?, latency, served_by: served_by(allocator)? })
    }
}

fn line<'a>(text: &'a str, beginning: &str) -> Option<&'a str> {
    text.lines().find(|line| line.starts_with(beginning))
}

fn value<'a>(line: &'a str, key: &str) -> Result<&'a str> {
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .find_map(|(name, value)| (name == key).then_some(value))
        .with_context(|| format!("no '{key}=' in '{line}'"))
}

fn number<T: FromStr>(line: &str, key: &str) -> Result<T> {
    let text = value(line, key)?;
    text.trim_end_matches('%').parse().ok().with_context(|| format!("'{key}={text}' is no number"))
}

fn bound(line: &str) -> Result<BoundFigures> {
    Ok(BoundFigures {
        name: value(line, "name")?.to_owned(),
        value: number(line, "value")?,
        limit: number(line, "limit")?,
    })
}

fn latency(line: &str) -> Result<LatencyFigures> {
    Ok(LatencyFigures {
        call: value(line, "call")?.to_owned(),
        count: number(line, "count")?,
        p50: number(line, "p50")?,
        p99: number(line, "p99")?,
        p999: number(line, "p99.9")?,
        p9999: number(line, "p99.99")?,
        max: number(line, "max")?,
    })
}

/// A path may contain spaces: it reaches from its key to the next one.
fn served_by(line: &str) -> Result<ServedBy> {
    let path = line.split_once("path=").and_then(|(_, rest)| rest.rsplit_once(" version="));
    let (path, version) = path.with_context(|| format!("no path and version in '{line}'"))?;
    Ok(ServedBy { name: value(line, "name")?.to_owned(), path: PathBuf::from(path), version: version.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
bench_random_mixed_mt_remote_malloc threads=2 iters=100 ws=4 min=16 max=64 remote_pct=50
ops=2000 time=0.002000 ops/s=1000000 mallocs=1000 frees=1000 failed=1
[EFFECTIVE_REMOTE] target=50.00% actual=42.11% fallback_rate=11.1111% sent=400 fallback=50 local=500
[MEM] peak_rss_mb=6.000 peak_live_mb=4.000 rss_over_live=1.5000 rss_before_mb=2.000
[BOUND] name=after value=0.2500 limit=0.1000 EXCEEDED
[CLOCK] source=tsc ns_per_tick=0.5000 cost_ns=12.3 subtracted=no
[LATENCY] call=malloc unit=ns count=1000 p50=21 p99=340 p99.9=5100 p99.99=61000 max=900100
[LATENCY] call=remote_free unit=ns count=0 p50=0 p99=0 p99.9=0 p99.99=0 max=0
[ALLOCATOR] name=hz3 path=/a folder/libx.so version=0.1.0
";

    #[test]
    fn every_figure_of_a_run_is_read() {
        let output = BenchmarkOutput::read(OUTPUT).unwrap();
        assert_eq!(
            output.figures,
            BenchmarkFigures {
                ops: 2000,
                seconds: 0.002,
                ops_per_second: 1e6,
                remote_percent: Some(42.11),
                fallback_percent: Some(11.1111),
                peak_rss_mb: Some(6.0),
                peak_live_mb: Some(4.0),
                rss_over_live: Some(1.5),
                bounds: vec![BoundFigures { name: "after".to_owned(), value: 0.25, limit: 0.1 }],
            }
        );
        assert_eq!(output.failed, 1);
        assert_eq!(output.served_by.path, PathBuf::from("/a folder/libx.so"));
        assert_eq!((output.served_by.name.as_str(), output.served_by.version.as_str()), ("hz3", "0.1.0"));
    }

    #[test]
    fn a_kind_of_call_that_never_occurred_has_no_latency() {
        let output = BenchmarkOutput::read(OUTPUT).unwrap();
        let [malloc] = &output.latency[..] else { panic!("{:?}", output.latency) };
        assert_eq!((malloc.call.as_str(), malloc.p50, malloc.p9999), ("malloc", 21.0, 61_000.0));
    }

    #[test]
    fn a_line_that_is_missing_is_named() {
        for beginning in ["ops=", "[ALLOCATOR]"] {
            let text: Vec<&str> = OUTPUT.lines().filter(|line| !line.starts_with(beginning)).collect();
            let error = BenchmarkOutput::read(&text.join("\n")).unwrap_err().to_string();
            assert!(error.contains(beginning), "{error}");
        }
    }

    #[test]
    fn a_figure_that_is_no_number_is_named() {
        let error = BenchmarkOutput::read(&OUTPUT.replace("time=0.002000", "time=soon")).unwrap_err();
        assert!(error.to_string().contains("time=soon"), "{error}");
    }

    #[test]
    fn a_workload_without_remote_frees_has_no_remote_figures() {
        let text: Vec<&str> = OUTPUT.lines().filter(|line| !line.starts_with("[EFF")).collect();
        let figures = BenchmarkOutput::read(&text.join("\n")).unwrap().figures;
        assert_eq!((figures.remote_percent, figures.fallback_percent), (None, None));
    }
}
