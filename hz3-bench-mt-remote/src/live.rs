//! Live bytes: how much the program holds at a time, summed over the threads.
//!
//! ```text
//!   live bytes = sum over threads of (bytes it allocated - bytes it freed)
//! ```
//!
//! A thread that frees what others allocated has a negative share. Each thread keeps its share on cache
//! lines of its own and, every few hundred to thousand iterations, sums all shares up; the largest sum of
//! the run is the peak. Every thread samples because with more threads than cores any one of them is
//! away most of the time, and the rings fill up just then.
#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::block::SizeUnit;
use crate::mapping::Mapping;

/// Iterations between two samples of one thread, at least.
const ITERATIONS_PER_SAMPLE: u64 = 1024; // chosen: 0.5 % of a thread's time or less
/// Iterations that pay for reading one other thread's share.
const ITERATIONS_PER_SHARE: u64 = 512; // chosen: likewise
/// Samples that a short run takes at least (of each thread, if it has as many iterations).
const SAMPLES_PER_RUN: u64 = 16; // chosen

/// All threads' shares.
#[derive(Debug)]
pub struct LiveBytes {
    shares: Mapping<CachePadded<AtomicI64>>,
    unit: SizeUnit,
}

impl LiveBytes {
    /// No live bytes, for `threads` threads that count in `unit`.
    ///
    /// # Errors
    /// The kernel's, when it refuses the memory.
    pub fn new(threads: usize, unit: SizeUnit) -> io::Result<Self> {
        Ok(Self { shares: Mapping::zeroed(threads)?, unit })
    }

    /// The share of each thread, for it alone to change.
    pub fn shares(&self) -> impl Iterator<Item = Share<'_>> {
        self.shares.iter().map(|published| Share { published, units: 0 })
    }

    /// The sum of all shares, in bytes; `None` if summing took so long that the shares are of different
    /// times, as when the thread is descheduled in the middle.
    pub fn sample(&self) -> Option<i64> {
        let limit = Duration::from_micros(2) + Duration::from_nanos(100) * self.shares.len() as u32;
        let start = Instant::now();
        // Relaxed: the shares are figures, nothing is read through them.
        let units = self.shares.iter().map(|share| share.load(Relaxed)).sum();
        (start.elapsed() <= limit).then(|| self.unit.bytes(units))
    }

    /// Iterations from one sample to the next of a thread that does `iters` in all.
    pub fn interval(&self, iters: u64) -> u64 {
        let affordable = ITERATIONS_PER_SAMPLE.max(ITERATIONS_PER_SHARE * self.shares.len() as u64);
        affordable.min((iters / SAMPLES_PER_RUN).max(1))
    }

    /// Bytes of address space that the shares take.
    pub fn mapped_bytes(&self) -> usize {
        self.shares.mapped_bytes()
    }

    /// Bytes of the shares that are resident now.
    pub fn resident_bytes(&self) -> usize {
        self.shares.resident_bytes()
    }
}

/// One thread's share: units allocated minus units freed.
#[derive(Debug)]
pub struct Share<'a> {
    published: &'a AtomicI64,
    units: i64,
}

impl Share<'_> {
    /// Counts a block of `units` (negative: a freed one).
    #[inline(always)]
    pub fn add(&mut self, units: i64) {
        self.units += units;
        // Relaxed: a figure. A plain store, as no other thread writes here.
        self.published.store(self.units, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test may be descheduled at the wrong time; a sample is then refused, which is right.
    fn patient_sample(live: &LiveBytes) -> i64 {
        (0..1000).find_map(|_| live.sample()).expect("one sample in a thousand is quick enough")
    }

    #[test]
    fn a_sample_is_the_sum_over_threads_in_bytes() {
        let live = LiveBytes::new(3, SizeUnit::for_max(1 << 20)).unwrap();
        let unit = SizeUnit::for_max(1 << 20).bytes(1);
        let mut shares: Vec<_> = live.shares().collect();
        assert_eq!(patient_sample(&live), 0);
        shares[0].add(100);
        shares[2].add(-30);
        shares[0].add(5);
        assert_eq!(patient_sample(&live), 75 * unit);
    }

    #[test]
    fn a_block_that_changes_threads_leaves_the_sum_alone() {
        let live = LiveBytes::new(2, SizeUnit::for_max(16)).unwrap();
        let mut shares: Vec<_> = live.shares().collect();
        shares[0].add(16);
        shares[1].add(-16);
        assert_eq!(patient_sample(&live), 0);
    }

    #[test]
    fn samples_are_rare_in_long_runs_and_enough_in_short_ones() {
        let interval = |threads, iters| LiveBytes::new(threads, SizeUnit::for_max(16)).unwrap().interval(iters);
        assert_eq!(interval(1, 250_000), 1024);
        assert_eq!(interval(32, 1_000_000), 32 * 512);
        assert_eq!(interval(1, 1_600), 100);
        assert_eq!(interval(1, 1), 1);
    }
}
