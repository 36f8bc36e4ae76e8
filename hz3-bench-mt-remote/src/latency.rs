//! Latency: the distribution of the time that single calls of `malloc` and `free` take.
//!
//! Each thread records into histograms of its own (high dynamic range, three significant digits), which
//! are added up after the run. A [`Probe`] is the place where the hot loop could be timed: a run without
//! `--latency` uses [`Untimed`], which compiles to nothing.
//!
//! The histograms are allocated before the clock starts, and by the allocator under test: the resident
//! size of a run with `--latency` includes them, so memory is to be compared without it.
#![forbid(unsafe_code)]

use std::fmt;

use hdrhistogram::Histogram;

use crate::clock::{Clock, ticks};

/// Longest time that is told apart from longer ones, in ticks: some seconds.
const TICKS_MAX: u64 = 1 << 34; // chosen
const SIGNIFICANT_DIGITS: u8 = 3; // chosen

/// The percentiles that are printed, besides the maximum.
const PERCENTILES: [f64; 4] = [50.0, 99.0, 99.9, 99.99];

/// The kinds of calls whose times are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `malloc`.
    Malloc,
    /// `free` by the thread that allocated the block.
    LocalFree,
    /// `free` by another thread.
    RemoteFree,
}

impl Call {
    /// All kinds, in the order of their numbers.
    const ALL: [Self; 3] = [Self::Malloc, Self::LocalFree, Self::RemoteFree];

    fn name(self) -> &'static str {
        match self {
            Self::Malloc => "malloc",
            Self::LocalFree => "local_free",
            Self::RemoteFree => "remote_free",
        }
    }
}

/// What surrounds each call of the allocator under test.
pub trait Probe: Send {
    /// A thread's own probe, before the run.
    fn new() -> Self;
    /// Makes the call.
    fn around<R>(&mut self, call: Call, make: impl FnOnce() -> R) -> R;
    /// Adds what another thread's probe has recorded.
    fn merge(&mut self, other: Self);
    /// What was recorded, if anything is.
    fn into_latencies(self, clock: impl FnOnce() -> Clock) -> Option<Latencies>;
}

/// Makes the calls and records nothing.
#[derive(Debug)]
pub struct Untimed;

impl Probe for Untimed {
    fn new() -> Self {
        Self
    }

    #[inline(always)]
    fn around<R>(&mut self, _: Call, make: impl FnOnce() -> R) -> R {
        make()
    }

    fn merge(&mut self, _: Self) {}

    fn into_latencies(self, _: impl FnOnce() -> Clock) -> Option<Latencies> {
        None
    }
}

/// Times each call.
#[derive(Debug)]
pub struct Timed {
    ticks: [Histogram<u64>; 3],
}

impl Probe for Timed {
    fn new() -> Self {
        let empty =
            || Histogram::new_with_bounds(1, TICKS_MAX, SIGNIFICANT_DIGITS).expect("the bounds are constants that fit");
        Self { ticks: [empty(), empty(), empty()] }
    }

    #[inline(always)]
    fn around<R>(&mut self, call: Call, make: impl FnOnce() -> R) -> R {
        let start = ticks();
        let result = make();
        // Counters of different cores can differ by a few ticks; a thread that moved must not wrap.
        let elapsed = ticks().saturating_sub(start);
        self.ticks[call as usize].saturating_record(elapsed);
        result
    }

    fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.ticks.iter_mut().zip(other.ticks) {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
    }

    fn into_latencies(self, clock: impl FnOnce() -> Clock) -> Option<Latencies> {
        Some(Latencies { ticks: self.ticks, clock: clock() })
    }
}

/// The merged histograms of a run. Displayed as one line for the clock and one for each kind of call.
#[derive(Debug)]
pub struct Latencies {
    ticks: [Histogram<u64>; 3],
    clock: Clock,
}

impl fmt::Display for Latencies {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let Clock { ns_per_tick, cost_ns } = self.clock;
        let source = Clock::SOURCE;
        writeln!(out, "[CLOCK] source={source} ns_per_tick={ns_per_tick:.4} cost_ns={cost_ns:.1} subtracted=no")?;
        for (call, ticks) in Call::ALL.into_iter().zip(&self.ticks) {
            write!(out, "[LATENCY] call={} unit=ns count={}", call.name(), ticks.len())?;
            for percentile in PERCENTILES {
                let ns = ticks.value_at_percentile(percentile) as f64 * ns_per_tick;
                write!(out, " p{percentile}={ns:.0}")?;
            }
            writeln!(out, " max={:.0}", ticks.max() as f64 * ns_per_tick)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(call: Call, ticks: impl IntoIterator<Item = u64>) -> Timed {
        let mut probe = Timed::new();
        for value in ticks {
            probe.ticks[call as usize].saturating_record(value);
        }
        probe
    }

    fn lines(probe: Timed) -> Vec<String> {
        let clock = Clock { ns_per_tick: 0.5, cost_ns: 12.34 };
        probe.into_latencies(|| clock).unwrap().to_string().lines().map(str::to_owned).collect()
    }

    #[test]
    fn merged_histograms_give_the_percentiles_of_all_calls() {
        let mut probe = timed(Call::Malloc, std::iter::repeat_n(20, 9_900));
        probe.merge(timed(Call::Malloc, std::iter::repeat_n(200, 99)));
        probe.merge(timed(Call::Malloc, [2_000]));
        probe.merge(timed(Call::RemoteFree, [40]));
        let lines = lines(probe);
        assert!(lines[0].starts_with("[CLOCK] source="), "{}", lines[0]);
        assert!(lines[0].ends_with(" ns_per_tick=0.5000 cost_ns=12.3 subtracted=no"), "{}", lines[0]);
        assert_eq!(lines[1], "[LATENCY] call=malloc unit=ns count=10000 p50=10 p99=10 p99.9=100 p99.99=100 max=1000");
        assert_eq!(lines[2], "[LATENCY] call=local_free unit=ns count=0 p50=0 p99=0 p99.9=0 p99.99=0 max=0");
        assert_eq!(lines[3], "[LATENCY] call=remote_free unit=ns count=1 p50=20 p99=20 p99.9=20 p99.99=20 max=20");
    }

    #[test]
    fn a_time_beyond_the_range_counts_as_the_largest() {
        let probe = timed(Call::Malloc, [u64::MAX]);
        assert_eq!(probe.ticks[Call::Malloc as usize].len(), 1);
        assert!(probe.ticks[Call::Malloc as usize].max() >= TICKS_MAX);
    }

    #[test]
    fn a_timed_call_returns_its_result_and_is_recorded_once_under_its_kind() {
        let mut probe = Timed::new();
        assert_eq!(probe.around(Call::LocalFree, || 42), 42);
        assert_eq!(probe.ticks.each_ref().map(Histogram::len), [0, 1, 0]);
    }
}
