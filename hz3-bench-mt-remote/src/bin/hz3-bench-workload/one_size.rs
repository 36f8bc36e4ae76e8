//! One size: producers and consumers of blocks of a single size.
//!
//! Source: C. Lever and D. Boreham, "malloc() Performance in a Multithreaded Linux Environment", USENIX
//! 2000: blocks are allocated in some threads and freed in others, and none ever comes back. With a
//! single size, how an allocator shares that one size is all that counts.
#![forbid(unsafe_code)]

use crossbeam_utils::CachePadded;
use hz3_bench_mt_remote::crew::{self, Member, Outcome};
use hz3_bench_mt_remote::piece::Slots;
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread::yield_now;

const BYTES: usize = 64; // chosen
const BATCHES: usize = 6_250; // chosen: of each producer, per round
/// Blocks after which either side tells the other how far it is: the two shall not fight over the
/// cache lines of the belt instead of those of the allocator.
const BATCH: usize = 64; // chosen
/// Places between a producer and its consumer, used in turn.
const PLACES: usize = 128 * BATCH; // chosen

/// Batches on a full belt.
const BELT: usize = PLACES / BATCH; // derived: 128

/// What a producer and its consumer share.
struct Belt {
    places: Slots,
    /// Batches that the producer has put there.
    put: CachePadded<AtomicUsize>,
    /// Batches that the consumer has taken.
    taken: CachePadded<AtomicUsize>,
}

/// Runs pairs of a producer (even index) and a consumer (odd index).
pub fn run(threads: u32, rounds: u32, seed: u64) -> io::Result<Outcome> {
    let belt = |_| {
        let zero = || CachePadded::new(AtomicUsize::new(0));
        Ok(Belt { places: Slots::new(PLACES)?, put: zero(), taken: zero() })
    };
    let belts: io::Result<Vec<Belt>> = (0..threads / 2).map(belt).collect();
    let belts = belts?;
    let batches = BATCHES * rounds as usize;
    crew::run(threads, seed, |member| {
        let belt = &belts[member.index / 2];
        let is_producer = member.index.is_multiple_of(2);
        for batch in 0..batches {
            if is_producer {
                produce(member, belt, batch);
            } else {
                consume(member, belt, batch, batches);
            }
        }
    })
}

/// The places of one batch.
fn places(batch: usize) -> Range<usize> {
    let first = batch * BATCH % PLACES;
    first..first + BATCH
}

/// Waits, once `ready` fails, until half of the belt is there for this side. Whoever came back for every
/// single batch would measure how often the scheduler switches, and the faster of the two sides most often.
/// Waiting is yielding: with more threads than cores, the other side may have none.
fn wait(ready: impl Fn(usize) -> bool) {
    if !ready(1) {
        while !ready(BELT / 2) {
            yield_now();
        }
    }
}

fn produce(member: &mut Member<'_>, belt: &Belt, batch: usize) {
    // Acquire: the places are empty again. Pairs with the Release in `consume`.
    wait(|batches| batch + batches - belt.taken.load(Acquire) <= BELT);
    for index in places(batch) {
        // Where there is no memory the place stays empty, and the consumer finds nothing in it.
        let piece = member.allocate(BYTES);
        belt.places.swap(index, piece);
    }
    // Release: the pieces are in their places. Pairs with the Acquire in `consume`.
    belt.put.store(batch + 1, Release);
}

fn consume(member: &mut Member<'_>, belt: &Belt, batch: usize, end: usize) {
    // Acquire: pairs with the Release in `produce`.
    wait(|batches| belt.put.load(Acquire) >= (batch + batches).min(end));
    for index in places(batch) {
        if let Some(piece) = belt.places.take(index) {
            member.free(piece);
        }
    }
    // Release: pairs with the Acquire in `produce`.
    belt.taken.store(batch + 1, Release);
}
