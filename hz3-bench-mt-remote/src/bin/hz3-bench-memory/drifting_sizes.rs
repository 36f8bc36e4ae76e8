//! Drifting sizes: threads that keep as much live all the time, while the sizes grow slowly.
//!
//! ```text
//!   sizes of new blocks     ▁▁▂▂▃▃▄▄▅▅▆▆▇▇       and a third of any size
//!   live set                ▅▅▅▅▅▅▅▅▅▅▅▅▅▅       no rest
//! ```
//!
//! Each size is needed less and less once its time is over. What counts is how much of the memory of smaller blocks
//! serves larger ones.
#![forbid(unsafe_code)]

use crate::cache::{self, Cache};
use crate::outcome::Outcome;
use hz3_bench_mt_remote::crew;
use std::io;

/// Most resident memory in live memory, both at their peaks.
const LIMIT: f64 = 1.35;

/// Arguments of the scenario.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The live set in MiB, 64 to 1048576
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    total_mb: u32,
    /// Smallest block in bytes, 16 to 65536
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(16..=1 << 16))]
    smallest: u32,
    /// Largest block in smallest ones, 2 to 1000
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=1000))]
    times: u32,
    /// How often the live set is renewed, 1 to 10000
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    turns: u32,
    /// Number of threads, 1 to 256
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
}

impl Arguments {
    /// The arguments as the first line of the report shows them.
    pub fn shown(&self) -> String {
        let Self { total_mb, smallest, times, turns, threads } = self;
        format!(
            "name=drifting-sizes total_mb={total_mb} smallest={smallest} times={times} turns={turns} threads={threads}"
        )
    }

    /// Runs the scenario.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run(&self, seed: u64) -> io::Result<Outcome> {
        let most_bytes = ((self.total_mb as usize) << 20) / self.threads as usize;
        let (smallest, range) = (self.smallest as usize, (self.smallest * (self.times - 1)) as usize);
        let caches = cache::slots(self.threads, most_bytes, smallest)?;
        let outcome = crew::run(self.threads, seed, |member| {
            let mut cache = Cache::new(&caches[member.index], most_bytes);
            let goal = most_bytes * self.turns as usize;
            let mut total = 0;
            while total < goal {
                let from = (range / 2) as f64 * (total as f64 / goal as f64);
                let bytes = match member.draw(0..3) {
                    0 => member.draw(smallest..smallest + range),
                    _ => smallest + from as usize + member.draw(0..range / 2 + 1),
                };
                cache.add(member, bytes);
                total += bytes;
            }
            cache.drop_all(member);
        })?;
        cache::outcome(&caches, &outcome, LIMIT)
    }
}
