//! Larson: server churn.
//!
//! Source: P. Larson and M. Krishnan, "Memory allocation for long-running server applications", ISMM
//! 1998. Each thread owns a set of blocks of random sizes and replaces random ones by fresh ones, as a
//! server does with its requests' data. After a while it hands its set on to a new thread and ends, so
//! that most blocks are freed by another thread than the one that allocated them.
#![forbid(unsafe_code)]

use hz3_bench_mt_remote::crew::{self, Member, Outcome, on_new_thread};
use hz3_bench_mt_remote::piece::Slots;
use std::io;

const SET: usize = 1000; // chosen, as are the others: the sizes of the paper's server
const MIN_BYTES: usize = 16;
const MAX_BYTES: usize = 1000;
const REPLACEMENTS: usize = 20_000;
const GENERATIONS: u32 = 10;

/// Runs `rounds` × 10 generations of each thread.
pub fn run(threads: u32, rounds: u32, seed: u64) -> io::Result<Outcome> {
    let sets: io::Result<Vec<Slots>> = (0..threads).map(|_| Slots::new(SET)).collect();
    let sets = sets?;
    crew::run(threads, seed, |member| {
        let set = &sets[member.index];
        for _ in 0..rounds * GENERATIONS {
            on_new_thread(member, |member| generation(member, set));
        }
        for index in 0..SET {
            if let Some(piece) = set.take(index) {
                member.free(piece);
            }
        }
    })
}

fn generation(member: &mut Member<'_>, set: &Slots) {
    for _ in 0..REPLACEMENTS {
        let index = member.draw(0..SET);
        if let Some(old) = set.take(index) {
            member.free(old);
        }
        let bytes = member.draw(MIN_BYTES..MAX_BYTES + 1);
        let fresh = member.allocate(bytes);
        set.swap(index, fresh);
    }
}
