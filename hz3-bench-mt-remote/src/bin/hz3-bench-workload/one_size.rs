//! One size: producers and consumers of blocks of a single size.
//!
//! Source: C. Lever and D. Boreham, "malloc() Performance in a Multithreaded Linux Environment", USENIX
//! 2000: blocks are allocated in some threads and freed in others, and none ever comes back. With a
//! single size, how an allocator shares that one size is all that counts.
#![forbid(unsafe_code)]

use crate::crew::{self, Member, Outcome};
use crate::piece::Slots;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::yield_now;

const BYTES: usize = 64; // chosen
const BLOCKS: usize = 400_000; // chosen: of each producer, per round
/// Places between a producer and its consumer, used in turn.
const PLACES: usize = 8192; // chosen

/// What a producer and its consumer share.
struct Belt {
    places: Slots,
    /// Set when the producer got no block: the consumer must not wait for it.
    is_broken: AtomicBool,
}

/// Runs pairs of a producer (even index) and a consumer (odd index).
pub fn run(threads: u32, rounds: u32, seed: u64) -> io::Result<Outcome> {
    let belt = |_| Ok(Belt { places: Slots::new(PLACES)?, is_broken: AtomicBool::new(false) });
    let belts: io::Result<Vec<Belt>> = (0..threads / 2).map(belt).collect();
    let belts = belts?;
    let blocks = BLOCKS * rounds as usize;
    crew::run(threads, seed, |member| {
        let belt = &belts[member.index / 2];
        if member.index.is_multiple_of(2) {
            produce(member, belt, blocks);
        } else {
            consume(member, belt, blocks);
        }
    })
}

fn produce(member: &mut Member<'_>, belt: &Belt, blocks: usize) {
    for number in 0..blocks {
        let Some(mut piece) = member.allocate(BYTES) else {
            // Relaxed: nothing is read through it.
            belt.is_broken.store(true, Relaxed);
            return;
        };
        // Both sides wait by yielding: with more threads than cores, the other one may have none.
        while let Err(refused) = belt.places.put(number % PLACES, piece) {
            piece = refused;
            yield_now();
        }
    }
}

fn consume(member: &mut Member<'_>, belt: &Belt, blocks: usize) {
    for number in 0..blocks {
        loop {
            if let Some(piece) = belt.places.take(number % PLACES) {
                member.free(piece);
                break;
            }
            // Relaxed: see above. A producer that failed left nothing behind what was taken.
            if belt.is_broken.load(Relaxed) {
                return;
            }
            yield_now();
        }
    }
}
