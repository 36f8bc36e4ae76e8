//! Thread batches: threads come and go by the thousand, and what they leave is freed by later ones.
//!
//! All threads of a batch live at the same time: each has allocated its blocks before the first one frees
//! any. A tenth of a thread's blocks outlives it and is freed by a thread of a later batch. What an
//! allocator keeps for a thread, and does not get back when that thread ends, makes the process grow.
#![forbid(unsafe_code)]

use crate::outcome::{Bound, Outcome, megabytes, peak_resident_without, resident_without};
use hz3_bench_mt_remote::crew::{self, Tally};
use hz3_bench_mt_remote::piece::{Piece, Slots};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use std::io;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Condvar, Mutex};
use std::thread::{Builder, scope};
use std::time::Instant;

/// Blocks of one thread.
const BLOCKS: usize = 50; // chosen: some dozens
/// One block in so many outlives its thread.
const KEPT_ONE_IN: usize = 10;
/// Blocks of one thread that outlive it.
const KEPT: usize = BLOCKS / KEPT_ONE_IN; // derived
/// Batches that a kept block lives for.
const BATCHES_KEPT: usize = 4; // chosen
/// Sizes: each doubling from 16 to 4096 bytes is as likely as the next.
const SMALLEST_EXPONENT: usize = 4; // chosen
const LARGEST_EXPONENT: usize = 11; // chosen
/// Stack of a thread. Small, so that the stacks that the C library keeps are not what is measured.
const STACK_BYTES: usize = 128 << 10; // chosen
/// The most by which resident memory may grow after the first tenth, beside [`SLACK_BYTES`].
const LIMIT: f64 = 1.1;
const SLACK_BYTES: u64 = 4 << 20;

/// Arguments of the scenario.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Threads in all, at least twenty batches
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(20..=100_000_000))]
    threads: u32,
    /// Threads that live at the same time, 1 to 10000
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
}

/// What all threads share.
struct Common {
    seed: u64,
    /// Kept blocks: those of batch b lie in the part b modulo [`BATCHES_KEPT`].
    kept: Slots,
    tally: Mutex<Tally>,
    /// Bytes of live blocks.
    live: AtomicI64,
    peak_live: AtomicI64,
}

impl Arguments {
    /// The arguments as the first line of the report shows them.
    pub fn shown(&self) -> String {
        format!("name=thread-batches threads={} batch={}", self.threads, self.batch)
    }

    /// Rules between arguments, which the parser cannot know.
    ///
    /// # Errors
    /// The rule that is broken, in one line.
    pub fn check(&self) -> Result<(), String> {
        if u64::from(self.threads) < 20 * u64::from(self.batch) {
            return Err(format!("--threads ({}) is below twenty times --batch ({})", self.threads, self.batch));
        }
        Ok(())
    }

    /// Runs the scenario.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run(&self, seed: u64) -> io::Result<Outcome> {
        let batch = self.batch as usize;
        let batches = self.threads as usize / batch;
        let common = Common {
            seed,
            kept: Slots::new(BATCHES_KEPT * batch * KEPT)?,
            tally: Mutex::default(),
            live: AtomicI64::new(0),
            peak_live: AtomicI64::new(0),
        };
        let start = Instant::now();
        let (mut first_tenth, mut most) = (0, 0);
        for number in 0..batches {
            common.live_and_die(number, batch)?;
            if number + 1 >= batches / 10 {
                let resident = resident_without(common.kept.resident_bytes())?;
                most = most.max(resident);
                if number + 1 == batches / 10 {
                    first_tenth = resident;
                }
            }
        }
        let end = resident_without(common.kept.resident_bytes())?;
        let time = start.elapsed();
        let harness = common.kept.resident_bytes();
        let mut tally = *common.tally.lock().expect("the threads have ended");
        for index in 0..common.kept.len() {
            if let Some(piece) = common.kept.take(index) {
                piece.free();
                tally.frees += 1;
            }
        }
        let lines = vec![format!(
            "[BATCHES] count={batches} first_tenth_mb={:.3} end_mb={:.3} most_mb={:.3}",
            megabytes(first_tenth),
            megabytes(end),
            megabytes(most)
        )];
        Ok(Outcome {
            tally,
            time,
            peak_resident: peak_resident_without(harness)?,
            // Relaxed: the threads have ended.
            peak_live: common.peak_live.load(Relaxed).unsigned_abs(),
            harness: harness as u64,
            lines,
            bounds: vec![Bound::on_ratio("growth", end.saturating_sub(SLACK_BYTES), first_tenth, LIMIT)],
        })
    }
}

impl Common {
    /// One batch, from its first thread's start to its last one's end.
    fn live_and_die(&self, number: usize, batch: usize) -> io::Result<()> {
        let meeting = Meeting::default();
        scope(|scope| {
            for index in 0..batch {
                let meeting = &meeting;
                let life = move || self.life(number, batch, index, meeting);
                if let Err(error) = Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, life) {
                    meeting.expect(index);
                    return Err(error);
                }
            }
            meeting.expect(batch);
            Ok(())
        })
    }

    /// One thread's life.
    fn life(&self, number: usize, batch: usize, index: usize, meeting: &Meeting) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.seed ^ (number * batch + index) as u64);
        let mut tally = Tally::default();
        let mut freed = 0;
        let places = (number % BATCHES_KEPT * batch + index) * KEPT..;
        for place in places.clone().take(KEPT) {
            if let Some(old) = self.kept.take(place) {
                freed += old.bytes() as i64;
                tally.frees += 1;
                old.free();
            }
        }
        let mut allocated = 0;
        let mut blocks: [Option<Piece>; BLOCKS] = std::array::from_fn(|_| {
            let exponent = crew::draw(&mut random, SMALLEST_EXPONENT..LARGEST_EXPONENT + 1);
            let bytes = (1 << exponent) + crew::draw(&mut random, 0..1 << exponent);
            let piece = Piece::allocate(bytes);
            if piece.is_some() {
                allocated += bytes as i64;
                tally.mallocs += 1;
            } else {
                tally.failed += 1;
            }
            piece
        });
        // Relaxed, here and below: figures.
        let live = self.live.fetch_add(allocated - freed, Relaxed) + allocated - freed;
        self.peak_live.fetch_max(live, Relaxed);
        meeting.attend();
        freed = 0;
        for (block, place) in blocks.iter_mut().step_by(KEPT_ONE_IN).zip(places) {
            self.kept.swap(place, block.take());
        }
        for piece in blocks.into_iter().flatten() {
            freed += piece.bytes() as i64;
            tally.frees += 1;
            piece.free();
        }
        self.live.fetch_sub(freed, Relaxed);
        *self.tally.lock().expect("no thread panics") += tally;
    }
}

/// Where all threads of a batch wait for the last one. They sleep: so many would get no core by yielding.
#[derive(Default)]
struct Meeting {
    state: Mutex<Attendance>,
    is_complete: Condvar,
}

#[derive(Default)]
struct Attendance {
    arrived: usize,
    /// Unknown until all threads have been made.
    expected: Option<usize>,
}

impl Attendance {
    fn is_complete(&self) -> bool {
        self.expected.is_some_and(|expected| self.arrived >= expected)
    }
}

impl Meeting {
    /// Says how many threads come.
    fn expect(&self, threads: usize) {
        self.state.lock().expect("no thread panics").expected = Some(threads);
        self.is_complete.notify_all();
    }

    /// Comes, and waits for the others.
    fn attend(&self) {
        let mut state = self.state.lock().expect("no thread panics");
        state.arrived += 1;
        if state.is_complete() {
            self.is_complete.notify_all();
        }
        while !state.is_complete() {
            state = self.is_complete.wait(state).expect("no thread panics");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_leaves_a_meeting_before_all_have_come() {
        let meeting = Meeting::default();
        let come = AtomicI64::new(0);
        scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    come.fetch_add(1, Relaxed);
                    meeting.attend();
                    assert_eq!(come.load(Relaxed), 8);
                });
            }
            meeting.expect(8);
        });
    }
}
