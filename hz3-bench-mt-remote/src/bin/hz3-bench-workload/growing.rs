//! Growing: buffers that grow by appending.
//!
//! Source: strings and arrays in interpreters, which `realloc` by a constant factor as they grow. Several
//! buffers grow in turn, so that none finds free memory behind it by luck alone.
#![forbid(unsafe_code)]

use hz3_bench_mt_remote::crew::{self, Outcome};
use hz3_bench_mt_remote::piece::{MIN_BYTES, Slots};
use std::io;

const BUFFERS: usize = 64; // chosen
const MAX_BYTES: usize = 1 << 18; // chosen
/// Steps of growth, per thread and round.
const STEPS: usize = 40_000; // chosen

/// Runs `rounds` × 40,000 steps in each thread.
pub fn run(threads: u32, rounds: u32, seed: u64) -> io::Result<Outcome> {
    let sets: io::Result<Vec<Slots>> = (0..threads).map(|_| Slots::new(BUFFERS)).collect();
    let sets = sets?;
    crew::run(threads, seed, |member| {
        let set = &sets[member.index];
        for _ in 0..rounds as usize * STEPS {
            let index = member.draw(0..BUFFERS);
            let grown = match set.take(index) {
                None => member.allocate(MIN_BYTES),
                Some(piece) if piece.bytes() > MAX_BYTES => {
                    member.free(piece);
                    None
                }
                // An eighth more and a little, as CPython's lists do.
                Some(piece) => {
                    let bytes = piece.bytes() + piece.bytes() / 8 + 16;
                    Some(member.resize(piece, bytes))
                }
            };
            set.swap(index, grown);
        }
        for index in 0..BUFFERS {
            if let Some(piece) = set.take(index) {
                member.free(piece);
            }
        }
    })
}
