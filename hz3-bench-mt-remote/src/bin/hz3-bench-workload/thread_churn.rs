//! Thread churn: threads that live for a few hundred allocations.
//!
//! Source: the thread-per-request server, and the thread test of E. Berger et al. (ASPLOS 2000) taken to
//! short lives: what counts is the price of a thread's first and last allocation, and whether the memory
//! of threads that have ended is used again.
#![forbid(unsafe_code)]

use hz3_bench_mt_remote::crew::{self, Member, Outcome, on_new_thread};
use hz3_bench_mt_remote::piece::Slots;
use std::io;

const THREADS: u32 = 400; // chosen: short-lived ones, one after the other, per thread and round
const BLOCKS: usize = 300; // chosen: of each
const MIN_BYTES: usize = 16;
const MAX_BYTES: usize = 4096;

/// Runs `rounds` × 400 short lives on each thread.
pub fn run(threads: u32, rounds: u32, seed: u64) -> io::Result<Outcome> {
    let legacies: io::Result<Vec<Slots>> = (0..threads).map(|_| Slots::new(BLOCKS)).collect();
    let legacies = legacies?;
    crew::run(threads, seed, |member| {
        let legacy = &legacies[member.index];
        for _ in 0..rounds * THREADS {
            on_new_thread(member, |member| life(member, legacy));
        }
        for index in 0..BLOCKS {
            if let Some(piece) = legacy.take(index) {
                member.free(piece);
            }
        }
    })
}

/// Frees what the predecessor left, allocates, and leaves every other block to the successor.
fn life(member: &mut Member<'_>, legacy: &Slots) {
    for index in 0..BLOCKS {
        if let Some(piece) = legacy.take(index) {
            member.free(piece);
        }
        let bytes = member.draw(MIN_BYTES..MAX_BYTES + 1);
        let fresh = member.allocate(bytes);
        legacy.swap(index, fresh);
    }
    for index in (0..BLOCKS).step_by(2) {
        if let Some(piece) = legacy.take(index) {
            member.free(piece);
        }
    }
}
