//! Handover: random working sets of mixed sizes, with blocks that change hands.
//!
//! Source: the stress test that D. Leijen describes with mimalloc ("Mimalloc: Free List Sharding in
//! Action", 2019): threads allocate and free objects of sizes over many orders of magnitude in random
//! order, keep some, and swap others with a common pool, from which any thread may take and free them.
#![forbid(unsafe_code)]

use hz3_bench_mt_remote::crew::{self, Member, Outcome};
use hz3_bench_mt_remote::piece::Slots;
use std::io;

const OWN: usize = 500; // chosen: places of each thread
const COMMON: usize = 1000; // chosen: places of the pool
const STEPS: usize = 600_000; // chosen: per thread and round
/// Steps of which one swaps with the pool.
const STEPS_PER_SWAP: usize = 4; // chosen
const SMALLEST_EXPONENT: usize = 4; // chosen: 16 bytes
const LARGEST_EXPONENT: usize = 19; // chosen: below 2^20 = 1 MiB

/// Runs `rounds` × 600,000 steps in each thread.
pub fn run(threads: u32, rounds: u32, seed: u64) -> io::Result<Outcome> {
    let pool = Slots::new(COMMON)?;
    let sets: io::Result<Vec<Slots>> = (0..threads).map(|_| Slots::new(OWN)).collect();
    let sets = sets?;
    crew::run(threads, seed, |member| {
        let own = &sets[member.index];
        for _ in 0..rounds as usize * STEPS {
            step(member, own, &pool);
        }
        for index in 0..OWN {
            if let Some(piece) = own.take(index) {
                member.free(piece);
            }
        }
        // The threads end at different times; each leaves the pool empty, and the last one for good.
        for index in 0..COMMON {
            if let Some(piece) = pool.take(index) {
                member.free(piece);
            }
        }
    })
}

fn step(member: &mut Member<'_>, own: &Slots, pool: &Slots) {
    let index = member.draw(0..OWN);
    let held = own.take(index);
    if member.draw(0..STEPS_PER_SWAP) == 0 {
        let other = pool.swap(member.draw(0..COMMON), held);
        own.swap(index, other);
        return;
    }
    match held {
        Some(piece) => member.free(piece),
        None => {
            let bytes = size(member);
            let fresh = member.allocate(bytes);
            own.swap(index, fresh);
        }
    }
}

/// Half of the sizes lie in the lowest octave, a quarter in the next, and so on; at the end of the
/// range the odds stay even, so that sizes near 1 MiB do occur.
fn size(member: &mut Member<'_>) -> usize {
    let mut exponent = SMALLEST_EXPONENT;
    if member.draw(0..100) == 0 {
        exponent = member.draw(SMALLEST_EXPONENT..LARGEST_EXPONENT + 1);
    } else {
        while exponent < LARGEST_EXPONENT && member.draw(0..2) == 1 {
            exponent += 1;
        }
    }
    (1 << exponent) + member.draw(0..1 << exponent)
}
