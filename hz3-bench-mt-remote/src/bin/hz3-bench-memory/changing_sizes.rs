//! Changing sizes: threads that keep as much live all the time, while the sizes change from phase to phase.
//!
//! ```text
//!   phase      words   records   pages   …   tables   words   pages
//!   live set   ▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅▅      no rest
//! ```
//!
//! Each thread's oldest block goes when a new one needs its place, as in a cache with a limit. There is no time in which
//! memory could go back unasked: what counts is how far resident memory runs ahead of live memory.
#![forbid(unsafe_code)]

use crate::outcome::{Bound, Outcome, peak_resident_without};
use hz3_bench_mt_remote::crew::{self, Member};
use hz3_bench_mt_remote::piece::Slots;
use std::io;

/// Most resident memory in live memory, both at their peaks.
const LIMIT: f64 = 2.2;

/// Sizes of each phase, in bytes: from smallest to largest and back. Chosen: each range is some bins or some lengths of
/// runs away from the one before.
const PHASES: [(usize, usize); 8] = [
    (32, 128),
    (500, 1500),
    (3000, 8000),
    (20_000, 32_000),
    (200_000, 900_000),
    (1_000_000, 6_000_000),
    (100, 300),
    (6000, 40_000),
];

/// Blocks of which there are too few for the members' own samples.
const SAMPLED_BYTES: usize = 200_000;

/// Arguments of the scenario.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The live set in MiB, 64 to 1048576
    #[arg(long, default_value_t = 320, value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    total_mb: u32,
    /// How often the live set is renewed in each phase, 1 to 1000
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    turns: u32,
    /// Number of threads, 1 to 256
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
}

impl Arguments {
    /// The arguments as the first line of the report shows them.
    pub fn shown(&self) -> String {
        let Self { total_mb, turns, threads } = self;
        format!("name=changing-sizes total_mb={total_mb} turns={turns} threads={threads}")
    }

    /// Runs the scenario.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run(&self, seed: u64) -> io::Result<Outcome> {
        let most_bytes = ((self.total_mb as usize) << 20) / self.threads as usize;
        let places = most_bytes / PHASES.iter().map(|&(min, _)| min).min().unwrap_or(1) + 1;
        let caches: io::Result<Vec<Slots>> = (0..self.threads).map(|_| Slots::new(places)).collect();
        let caches = caches?;
        let outcome = crew::run(self.threads, seed, |member| {
            let mut cache = Cache { slots: &caches[member.index], oldest: 0, next: 0, bytes: 0, most_bytes };
            for (min, max) in PHASES {
                let mut left = most_bytes * self.turns as usize;
                while left > 0 {
                    let bytes = member.draw(min..max + 1);
                    cache.add(member, bytes);
                    left = left.saturating_sub(bytes);
                }
            }
            while cache.oldest != cache.next {
                cache.drop_oldest(member);
            }
        })?;
        let harness: usize = caches.iter().map(Slots::resident_bytes).sum();
        let peak_resident = peak_resident_without(harness)?;
        Ok(Outcome {
            tally: outcome.tally,
            time: outcome.time,
            peak_resident,
            peak_live: outcome.peak_live_bytes,
            harness: harness as u64,
            lines: Vec::new(),
            bounds: vec![Bound::on_ratio("peak-over-live", peak_resident, outcome.peak_live_bytes, LIMIT)],
        })
    }
}

/// A thread's blocks, the oldest first, in a ring.
struct Cache<'a> {
    slots: &'a Slots,
    oldest: usize,
    next: usize,
    bytes: usize,
    most_bytes: usize,
}

impl Cache<'_> {
    fn add(&mut self, member: &mut Member<'_>, bytes: usize) {
        while self.oldest != self.next
            && (self.bytes + bytes > self.most_bytes || self.next - self.oldest == self.slots.len())
        {
            self.drop_oldest(member);
        }
        let Some(piece) = member.allocate(bytes) else { return };
        piece.touch_pages();
        self.bytes += bytes;
        self.slots.swap(self.next % self.slots.len(), Some(piece));
        self.next += 1;
        if bytes >= SAMPLED_BYTES {
            member.sample();
        }
    }

    fn drop_oldest(&mut self, member: &mut Member<'_>) {
        if let Some(piece) = self.slots.take(self.oldest % self.slots.len()) {
            self.bytes -= piece.bytes();
            member.free(piece);
        }
        self.oldest += 1;
    }
}
