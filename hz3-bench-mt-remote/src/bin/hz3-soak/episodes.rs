//! Episodes: what threads beside the storm do, one after another, drawn by the seed.

use crate::counts::Counts;
use crate::plug_ins::PlugIns;
use crate::storm::below;
use crate::{coroutines, small_stacks, streams};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use std::time::Instant;

/// Episodes of every kind until `end`; what is wrong, in one line.
pub fn run(seed: u64, plug_ins: &PlugIns, counts: &Counts, end: Instant) -> Result<(), String> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    while Instant::now() < end {
        match below(&mut random, 4) {
            0 => streams::storm(&mut random, counts)?,
            1 => coroutines::episode(&mut random, counts)?,
            2 => small_stacks::episode(&mut random, counts)?,
            _ if plug_ins.exist() => plug_ins.episode(&mut random, counts)?,
            _ => {}
        }
    }
    Ok(())
}
