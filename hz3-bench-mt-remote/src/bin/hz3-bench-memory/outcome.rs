//! Outcome: what came of a scenario, and the bounds it is held against.
#![forbid(unsafe_code)]

use hz3_bench_mt_remote::crew::Tally;
use hz3_bench_mt_remote::memory::{self, Figure};
use std::fmt;
use std::io;
use std::time::Duration;

/// What came of a scenario.
#[derive(Debug)]
pub struct Outcome {
    /// All threads' calls.
    pub tally: Tally,
    /// How long it took.
    pub time: Duration,
    /// The most that was resident, without the harness.
    pub peak_resident: u64,
    /// Largest sum of live blocks' sizes.
    pub peak_live: u64,
    /// What the harness held of the resident memory at the peak.
    pub harness: u64,
    /// Lines with the scenario's own figures.
    pub lines: Vec<String>,
    /// What must hold.
    pub bounds: Vec<Bound>,
}

/// A figure and the most that it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// What is bound.
    pub name: &'static str,
    /// The figure.
    pub value: f64,
    /// The most that it may be.
    pub limit: f64,
}

impl Bound {
    /// The bound on `part / whole`.
    pub fn on_ratio(name: &'static str, part: u64, whole: u64, limit: f64) -> Self {
        Self { name, value: ratio(part, whole), limit }
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.value <= self.limit
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, limit } = self;
        let verdict = if self.holds() { "ok" } else { "EXCEEDED" };
        write!(out, "[BOUND] name={name} value={value:.4} limit={limit:.4} {verdict}")
    }
}

/// Resident memory now, without the `harness` bytes that are the program's own.
///
/// # Errors
/// The kernel's.
pub fn resident_without(harness: usize) -> io::Result<u64> {
    Ok(memory::of_this_process(Figure::Resident)?.saturating_sub(harness as u64))
}

/// The most that was resident, without the `harness` bytes that were the program's own at the time.
///
/// # Errors
/// The kernel's.
pub fn peak_resident_without(harness: usize) -> io::Result<u64> {
    Ok(memory::of_this_process(Figure::PeakResident)?.saturating_sub(harness as u64))
}

/// `part / whole`; an empty whole counts as one byte, so that the ratio is absurd and never a pass.
pub fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Bytes in the unit of the report.
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_up_to_its_limit_and_says_so() {
        let bound = Bound::on_ratio("after", 1, 10, 0.1);
        assert_eq!(bound.to_string(), "[BOUND] name=after value=0.1000 limit=0.1000 ok");
        let bound = Bound::on_ratio("after", 11, 100, 0.1);
        assert_eq!(bound.to_string(), "[BOUND] name=after value=0.1100 limit=0.1000 EXCEEDED");
    }

    #[test]
    fn a_run_without_live_memory_passes_no_bound() {
        assert!(!Bound::on_ratio("peak-over-live", 4096, 0, 1.25).holds());
    }
}
