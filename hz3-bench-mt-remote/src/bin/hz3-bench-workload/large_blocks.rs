//! Large blocks: buffers of 5 to 25 MiB, replaced at random.
//!
//! Source: the "malloc-large" test that D. Leijen's collection of allocator benchmarks describes: a
//! program that holds some twenty buffers of many MiB and replaces them in random order. Each page of a
//! fresh buffer is written once.
#![forbid(unsafe_code)]

use hz3_bench_mt_remote::crew::{self, Outcome};
use hz3_bench_mt_remote::piece::Slots;
use std::io;

const BUFFERS: usize = 20; // of the source
const MIN_BYTES: usize = 5 << 20; // of the source
const MAX_BYTES: usize = 25 << 20; // of the source
const REPLACEMENTS: usize = 150; // chosen: per thread and round

/// Runs `rounds` × 150 replacements; the threads share the buffers out among them.
pub fn run(threads: u32, rounds: u32, seed: u64) -> io::Result<Outcome> {
    let each = (BUFFERS / threads as usize).max(1);
    let sets: io::Result<Vec<Slots>> = (0..threads).map(|_| Slots::new(each)).collect();
    let sets = sets?;
    crew::run(threads, seed, |member| {
        let set = &sets[member.index];
        for _ in 0..rounds as usize * REPLACEMENTS {
            let index = member.draw(0..each);
            if let Some(old) = set.take(index) {
                member.free(old);
            }
            let bytes = member.draw(MIN_BYTES..MAX_BYTES + 1);
            let fresh = member.allocate(bytes);
            if let Some(piece) = &fresh {
                piece.touch_pages();
            }
            set.swap(index, fresh);
            member.sample();
        }
        for index in 0..each {
            if let Some(piece) = set.take(index) {
                member.free(piece);
            }
        }
    })
}
