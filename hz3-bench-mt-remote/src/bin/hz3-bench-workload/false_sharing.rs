//! False sharing: small objects of different threads on one cache line.
//!
//! Source: E. Berger, K. McKinley, R. Blumofe and P. Wilson, "Hoard: A Scalable Memory Allocator for
//! Multithreaded Applications", ASPLOS 2000. *Active* false sharing is an allocator's own: it gives
//! parts of one line to several threads. *Passive* false sharing is the program's, who passes
//! neighbouring objects to several threads; the allocator makes it last if it serves the next
//! allocations of those threads from the same line.
#![forbid(unsafe_code)]

use hz3_bench_mt_remote::crew::{self, Member, Outcome};
use hz3_bench_mt_remote::piece::{MIN_BYTES, Slots};
use std::io;

const OBJECTS: u32 = 100_000; // chosen: per thread and round
const WRITES: u64 = 500; // chosen: enough that a shared line shows, few enough that malloc does too

/// Each thread starts with objects of its own.
pub fn active(threads: u32, rounds: u32, seed: u64) -> io::Result<Outcome> {
    crew::run(threads, seed, |member| churn(member, rounds))
}

/// Each thread starts with an object that thread 0 allocated beside the others' and gave away.
pub fn passive(threads: u32, rounds: u32, seed: u64) -> io::Result<Outcome> {
    let gifts = Slots::new(threads as usize)?;
    crew::run(threads, seed, |member| {
        if member.index == 0 {
            for index in 0..gifts.len() {
                let piece = member.allocate(MIN_BYTES);
                gifts.swap(index, piece);
            }
        }
        let mut patience = 0;
        let gift = loop {
            match gifts.take(member.index) {
                Some(piece) => break Some(piece),
                // Thread 0 got no memory: it has long passed by.
                None if patience == 1_000_000 => break None,
                None => {
                    patience += 1;
                    std::thread::yield_now();
                }
            }
        };
        if let Some(gift) = gift {
            member.free(gift);
        }
        churn(member, rounds);
    })
}

fn churn(member: &mut Member<'_>, rounds: u32) {
    for _ in 0..rounds * OBJECTS {
        if let Some(mut piece) = member.allocate(MIN_BYTES) {
            (0..WRITES).for_each(|value| piece.write(value));
            member.free(piece);
        }
    }
}
