//! Clock: the finest and cheapest one at hand, for the time of a single call.
//!
//! On x86-64 it is the time stamp counter, fenced so that the timed call lies wholly between the two
//! readings; elsewhere the system's monotonic clock. Its unit is the tick, its length and the cost of
//! reading it are measured at the start of a run and printed with the results, which contain that cost.

use std::time::{Duration, Instant};

/// Readings from which the cost of one is taken.
const COST_READINGS: usize = 10_001; // chosen
/// Time over which ticks are compared with the system's clock.
const CALIBRATION: Duration = Duration::from_millis(20); // chosen: an error of a few ns in 1 µs at most

/// The clock's measured properties.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Length of a tick in nanoseconds.
    pub ns_per_tick: f64,
    /// Median time between two readings with nothing in between, in nanoseconds.
    pub cost_ns: f64,
}

impl Clock {
    /// What the ticks are counted by.
    pub const SOURCE: &'static str = if cfg!(target_arch = "x86_64") { "tsc" } else { "monotonic" };

    /// Measures the clock; takes some 20 ms.
    pub fn measure() -> Self {
        let (start, first) = (Instant::now(), ticks());
        while start.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let (elapsed, last) = (start.elapsed(), ticks());
        let ns_per_tick = elapsed.as_nanos() as f64 / last.saturating_sub(first).max(1) as f64;
        let mut costs = [0; COST_READINGS];
        for cost in &mut costs {
            let before = ticks();
            *cost = ticks().saturating_sub(before);
        }
        costs.sort_unstable();
        Self { ns_per_tick, cost_ns: costs[COST_READINGS / 2] as f64 * ns_per_tick }
    }
}

/// The time now in ticks, from an arbitrary origin.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn ticks() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: both instructions belong to the x86-64 baseline. The fences keep earlier instructions
    // before the reading and later ones behind it.
    unsafe {
        _mm_lfence();
        let now = _rdtsc();
        _mm_lfence();
        now
    }
}

/// The time now in ticks (nanoseconds), from an arbitrary origin.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub fn ticks() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the one timespec it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_agree_with_the_system_clock() {
        let clock = Clock::measure();
        let (start, first) = (Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(30));
        let measured = (ticks() - first) as f64 * clock.ns_per_tick;
        let elapsed = start.elapsed().as_nanos() as f64;
        assert!((measured / elapsed - 1.0).abs() < 0.05, "{measured} ns against {elapsed} ns");
    }

    #[test]
    fn a_reading_costs_something_and_less_than_a_microsecond() {
        let clock = Clock::measure();
        assert!(clock.cost_ns > 0.0 && clock.cost_ns < 1000.0, "{clock:?}");
    }
}
