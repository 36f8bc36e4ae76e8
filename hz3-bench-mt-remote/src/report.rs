//! Report: the lines a run prints, for people and for programs.
//!
//! ```text
//! bench_random_mixed_mt_remote_malloc threads=… iters=… ws=… min=… max=… remote_pct=… ring_slots=… …
//! ops=… time=… ops/s=… mallocs=… frees=… failed=…
//! [EFFECTIVE_REMOTE] target=… actual=… fallback_rate=…% sent=… fallback=… local=… …
//! [MEM] peak_rss_mb=… peak_live_mb=… rss_over_live=… rss_before_mb=… …
//! [CLOCK] …                                       with --latency
//! [LATENCY] call=… unit=ns count=… p50=… …        with --latency, one line per kind of call
//! [ALLOCATOR] name=… path=… version=…
//! ```
//!
//! Every figure is `key=value` without spaces in between; keys keep their names and meanings, new ones
//! are added at the ends of lines. `time` is in seconds, `mb` is 1,048,576 bytes, and `target`, `actual`
//! and `fallback_rate` are percentages.
#![forbid(unsafe_code)]

use std::fmt;

use crate::allocator::Allocator;
use crate::arguments::{Arguments, NAME};
use crate::bench::RunResult;

/// The first line: what is run.
#[derive(Debug)]
pub struct ArgumentsLine<'a>(pub &'a Arguments);

impl fmt::Display for ArgumentsLine<'_> {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let Arguments { threads, iters, ws, min, max, remote_pct, ring_slots, seed, touch, latency, pattern } = self.0;
        let latency = if *latency { "on" } else { "off" };
        write!(
            out,
            "{} threads={threads} iters={iters} ws={ws} min={min} max={max} remote_pct={remote_pct} \
             ring_slots={ring_slots} seed={seed} touch={touch} pattern={pattern} latency={latency}",
            NAME
        )
    }
}

/// All further lines: what came of it.
#[derive(Debug)]
pub struct Report<'a> {
    /// What was run.
    pub arguments: &'a Arguments,
    /// What served it.
    pub allocator: &'a Allocator,
    /// What came of it.
    pub result: &'a RunResult,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        self.speed(out)?;
        self.effective_remote(out)?;
        self.memory(out)?;
        if let Some(latencies) = &self.result.latencies {
            latencies.fmt(out)?;
        }
        let Allocator { name, path, version } = self.allocator;
        writeln!(out, "[ALLOCATOR] name={name} path={} version={version}", path.display())
    }
}

impl Report<'_> {
    /// Completed calls and their rate. A send is no call.
    fn speed(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let tally = &self.result.tally;
        let time = self.result.time.as_secs_f64();
        let (ops, mallocs, frees, failed) = (tally.ops(), tally.mallocs, tally.frees(), tally.failed);
        let rate = ops as f64 / time;
        writeln!(out, "ops={ops} time={time:.6} ops/s={rate:.0} mallocs={mallocs} frees={frees} failed={failed}")
    }

    /// How many of the releases in iterations (sends, local frees and fallbacks) were remote, and how many
    /// of the attempted sends met a full ring.
    fn effective_remote(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let tally = &self.result.tally;
        let attempts = tally.sent + tally.fallbacks;
        writeln!(
            out,
            "[EFFECTIVE_REMOTE] target={:.2} actual={:.2} fallback_rate={:.4}% sent={} fallback={} local={} \
             received={} cleared={}",
            f64::from(self.arguments.target_pct()),
            percent(tally.sent, attempts + tally.local),
            percent(tally.fallbacks, attempts),
            tally.sent,
            tally.fallbacks,
            tally.local,
            tally.received,
            tally.cleared,
        )
    }

    /// The process's peak resident size over the program's peak live bytes. The first contains the harness,
    /// which therefore is stated too.
    fn memory(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let memory = &self.result.memory;
        writeln!(
            out,
            "[MEM] peak_rss_mb={:.3} peak_live_mb={:.3} rss_over_live={:.4} rss_before_mb={:.3} harness_mb={:.3} \
             harness_mapped_mb={:.3}",
            megabytes(memory.peak_rss),
            megabytes(memory.peak_live),
            memory.peak_rss as f64 / memory.peak_live.max(1) as f64,
            megabytes(memory.rss_before),
            megabytes(memory.harness_resident),
            megabytes(memory.harness_mapped),
        )
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::arguments::{Pattern, Touch};
    use crate::bench::MemoryUse;
    use crate::worker::Tally;

    const ARGUMENTS: Arguments = Arguments {
        threads: 2,
        iters: 100,
        ws: 4,
        min: 16,
        max: 64,
        remote_pct: 50,
        ring_slots: 8,
        seed: 1,
        touch: Touch::Ends,
        latency: false,
        pattern: Pattern::Ring,
    };

    fn lines(tally: Tally, time: Duration) -> Vec<String> {
        let memory = MemoryUse {
            peak_rss: 6 << 20,
            rss_before: 2 << 20,
            peak_live: 4 << 20,
            harness_mapped: 1 << 20,
            harness_resident: 1 << 19,
        };
        let result = RunResult { tally, time, memory, latencies: None };
        let allocator = Allocator { name: "hz3".into(), path: "/x/lib.so".into(), version: "1.0".into() };
        let report = Report { arguments: &ARGUMENTS, allocator: &allocator, result: &result };
        report.to_string().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_first_line_names_every_argument() {
        assert_eq!(
            ArgumentsLine(&ARGUMENTS).to_string(),
            "bench_random_mixed_mt_remote_malloc threads=2 iters=100 ws=4 min=16 max=64 remote_pct=50 \
             ring_slots=8 seed=1 touch=ends pattern=ring latency=off"
        );
    }

    #[test]
    fn the_figures_follow_from_the_counts() {
        let tally =
            Tally { mallocs: 1000, failed: 1, local: 500, sent: 400, fallbacks: 50, received: 400, cleared: 50 };
        assert_eq!(
            lines(tally, Duration::from_millis(2)),
            [
                "ops=2000 time=0.002000 ops/s=1000000 mallocs=1000 frees=1000 failed=1",
                "[EFFECTIVE_REMOTE] target=50.00 actual=42.11 fallback_rate=11.1111% sent=400 fallback=50 \
                 local=500 received=400 cleared=50",
                "[MEM] peak_rss_mb=6.000 peak_live_mb=4.000 rss_over_live=1.5000 rss_before_mb=2.000 \
                 harness_mb=0.500 harness_mapped_mb=1.000",
                "[ALLOCATOR] name=hz3 path=/x/lib.so version=1.0",
            ]
        );
    }

    #[test]
    fn a_run_without_releases_has_rates_of_zero() {
        let tally = Tally { mallocs: 1, cleared: 1, ..Tally::default() };
        assert!(lines(tally, Duration::from_millis(1))[1].contains("actual=0.00 fallback_rate=0.0000%"));
    }
}
