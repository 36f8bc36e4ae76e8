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

use crate::cache::{self, Cache};
use crate::outcome::Outcome;
use hz3_bench_mt_remote::crew;
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
        let smallest = PHASES.iter().map(|&(min, _)| min).min().unwrap_or(1);
        let caches = cache::slots(self.threads, most_bytes, smallest)?;
        let outcome = crew::run(self.threads, seed, |member| {
            let mut cache = Cache::new(&caches[member.index], most_bytes);
            for (min, max) in PHASES {
                let mut left = most_bytes * self.turns as usize;
                while left > 0 {
                    let bytes = member.draw(min..max + 1);
                    cache.add(member, bytes);
                    left = left.saturating_sub(bytes);
                }
            }
            cache.drop_all(member);
        })?;
        cache::outcome(&caches, &outcome, LIMIT)
    }
}
