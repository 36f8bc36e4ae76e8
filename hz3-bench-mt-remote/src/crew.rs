//! Crew: the threads of a workload, and what they count.
#![forbid(unsafe_code)]

use crate::block::SizeUnit;
use crate::live::{LiveBytes, Share};
use crate::piece::Piece;
use crate::start_line::StartLine;
use crate::trace;
use crossbeam_utils::CachePadded;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};
use std::io;
use std::ops::{AddAssign, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, ScopedJoinHandle, scope};
use std::time::{Duration, Instant};

/// Calls of the allocator between two samples of the live bytes of all threads.
const CALLS_PER_SAMPLE: u64 = 1024; // chosen: a sample costs about as much as a few calls

/// Attempts to add up the live bytes without being interrupted.
const SUM_ATTEMPTS: usize = 1000; // chosen: each takes a microsecond or less

/// A random number in the range, which is not empty.
#[inline]
pub fn draw(random: &mut impl RngCore, range: Range<usize>) -> usize {
    let span = (range.end - range.start) as u128;
    range.start + ((u128::from(random.next_u64()) * span) >> 64) as usize
}

/// Counts of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Successful calls of `malloc`.
    pub mallocs: u64,
    /// Successful calls of `realloc`.
    pub reallocs: u64,
    /// Calls of `free`.
    pub frees: u64,
    /// Calls of `malloc` and `realloc` that returned null.
    pub failed: u64,
}

impl Tally {
    /// The report's line of counts and rate, for calls that took `time`.
    pub fn line(&self, time: Duration) -> String {
        let Self { mallocs, reallocs, frees, failed } = self;
        let (ops, time) = (mallocs + reallocs + frees, time.as_secs_f64());
        format!(
            "ops={ops} time={time:.6} ops/s={:.0} mallocs={mallocs} reallocs={reallocs} frees={frees} failed={failed}",
            ops as f64 / time
        )
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.mallocs += other.mallocs;
        self.reallocs += other.reallocs;
        self.frees += other.frees;
        self.failed += other.failed;
    }
}

/// What came of a workload.
#[derive(Debug)]
pub struct Outcome {
    /// All threads' calls.
    pub tally: Tally,
    /// From the common start to the last thread's end.
    pub time: Duration,
    /// Largest sampled sum of live pieces' sizes.
    pub peak_live_bytes: u64,
}

/// One thread of the crew, with its random numbers and its counts.
#[derive(Debug)]
pub struct Member<'a> {
    /// 0 to the number of threads − 1.
    pub index: usize,
    random: Xoshiro256PlusPlus,
    live: &'a LiveBytes,
    share: Share<'a>,
    tally: Tally,
    calls_to_sample: u64,
    peak_live_bytes: i64,
}

impl Member<'_> {
    /// A random number in the range, which is not empty.
    #[inline]
    pub fn draw(&mut self, range: Range<usize>) -> usize {
        draw(&mut self.random, range)
    }

    /// Allocates a piece; a failure is counted.
    #[inline]
    pub fn allocate(&mut self, bytes: usize) -> Option<Piece> {
        let piece = Piece::allocate(bytes);
        match &piece {
            Some(_) => {
                self.tally.mallocs += 1;
                self.share.add(bytes as i64);
            }
            None => self.tally.failed += 1,
        }
        self.count_call();
        piece
    }

    /// Grows or shrinks a piece; a failure is counted and leaves it as it was.
    #[inline]
    pub fn resize(&mut self, piece: Piece, bytes: usize) -> Piece {
        let before = piece.bytes() as i64;
        let resized = match piece.resize(bytes) {
            Ok(piece) => {
                self.tally.reallocs += 1;
                self.share.add(bytes as i64 - before);
                piece
            }
            Err(piece) => {
                self.tally.failed += 1;
                piece
            }
        };
        self.count_call();
        resized
    }

    /// Frees a piece, whoever allocated it.
    #[inline]
    pub fn free(&mut self, piece: Piece) {
        self.share.add(-(piece.bytes() as i64));
        piece.free();
        self.tally.frees += 1;
        self.count_call();
    }

    #[inline]
    fn count_call(&mut self) {
        self.calls_to_sample -= 1;
        if self.calls_to_sample == 0 {
            self.sample();
        }
    }

    /// The live bytes of all threads now. The others should rest, or allocate about as much as they free.
    pub fn live_bytes(&self) -> u64 {
        // A thread that is descheduled while it adds up has no sum; one that works has it soon.
        let sum = std::iter::repeat_with(|| self.live.sample()).take(SUM_ATTEMPTS).flatten().next();
        sum.map_or(0, i64::unsigned_abs)
    }

    /// Samples the live bytes of all threads. Called by itself now and then; a workload whose peaks are
    /// rare calls it at a peak.
    pub fn sample(&mut self) {
        self.calls_to_sample = CALLS_PER_SAMPLE;
        self.peak_live_bytes = self.peak_live_bytes.max(self.live.sample().unwrap_or(0));
    }
}

/// Lets each of `threads` threads do `work` once, from a common start.
///
/// # Errors
/// The kernel's, when it refuses memory for the counters, or a thread.
pub fn run(threads: u32, seed: u64, work: impl Fn(&mut Member<'_>) + Sync) -> io::Result<Outcome> {
    let live = LiveBytes::new(threads as usize, SizeUnit::for_max(1))?;
    let mut next_random = Xoshiro256PlusPlus::seed_from_u64(seed);
    // Padded: where two threads' counts share a cache line is the allocator's luck, and costs more than its work.
    let mut members: Vec<CachePadded<Member<'_>>> = live
        .shares()
        .enumerate()
        .map(|(index, share)| {
            let random = next_random.clone();
            // 2^128 numbers apart, so that no two threads draw the same ones.
            next_random.jump();
            CachePadded::new(Member {
                index,
                random,
                live: &live,
                share,
                tally: Tally::default(),
                calls_to_sample: CALLS_PER_SAMPLE,
                peak_live_bytes: 0,
            })
        })
        .collect();
    let start_line = StartLine::default();
    let is_over = AtomicBool::new(false);
    let (start, ends) = scope(|scope| {
        let end = EndOfTrace(&is_over);
        let recorder = trace::take().map(|file| {
            let (live, is_over) = (&live, &is_over);
            Builder::new().spawn_scoped(scope, move || trace::record(file, live, is_over))
        });
        let recorder = recorder.transpose()?;
        let mut handles = Vec::with_capacity(members.len());
        for member in &mut members {
            let (start_line, work) = (&start_line, &work);
            let part = move || {
                start_line.wait().then(|| {
                    work(member);
                    member.sample();
                    Instant::now()
                })
            };
            match Builder::new().spawn_scoped(scope, part) {
                Ok(handle) => handles.push(handle),
                Err(error) => {
                    start_line.cancel();
                    return Err(error);
                }
            }
        }
        let start = start_line.start(threads as usize);
        let last = handles.into_iter().filter_map(join).max();
        drop(end);
        recorder.map(join).transpose()?;
        Ok((start, last))
    })?;
    let mut tally = Tally::default();
    for member in &members {
        tally += member.tally;
    }
    let peak_live_bytes = members.iter().map(|member| member.peak_live_bytes.unsigned_abs()).max();
    Ok(Outcome {
        tally,
        time: ends.map_or(Duration::ZERO, |end| end - start),
        peak_live_bytes: peak_live_bytes.unwrap_or(0),
    })
}

/// A thread's result, or its panic.
fn join<T>(handle: ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Ends the trace when the crew has done its work, or can't.
struct EndOfTrace<'a>(&'a AtomicBool);

impl Drop for EndOfTrace<'_> {
    fn drop(&mut self) {
        // Relaxed: the recorder looks again soon, and is waited for.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `work` on a thread of its own, which starts and ends here.
///
/// A thread that can't be created counts as a failed allocation and its work is left out.
pub fn on_new_thread(member: &mut Member<'_>, work: impl FnOnce(&mut Member<'_>) + Send) {
    let refused = scope(|scope| {
        let spawned = Builder::new().spawn_scoped(scope, || work(member));
        spawned.map(join).is_err()
    });
    if refused {
        member.tally.failed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_bytes_are_counted_across_threads() {
        let slots = crate::piece::Slots::new(1).unwrap();
        let outcome = run(2, 1, |member| {
            let piece = member.allocate(1000);
            if let Some(old) = slots.swap(0, piece) {
                member.sample();
                member.free(old);
            }
        })
        .unwrap();
        slots.take(0).unwrap().free();
        assert_eq!(outcome.tally, Tally { mallocs: 2, frees: 1, ..Tally::default() });
        assert_eq!(outcome.peak_live_bytes, 2000);
    }

    #[test]
    fn draws_stay_in_their_range_and_reach_its_ends() {
        let drawn = std::sync::Mutex::new(Vec::new());
        run(1, 3, |member| drawn.lock().unwrap().extend((0..1000).map(|_| member.draw(5..8)))).unwrap();
        let mut drawn = drawn.into_inner().unwrap();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, [5, 6, 7]);
    }

    #[test]
    fn a_new_thread_counts_for_its_member() {
        let outcome = run(1, 1, |member| {
            on_new_thread(member, |member| {
                let piece = member.allocate(64).unwrap();
                member.free(piece);
            });
        })
        .unwrap();
        assert_eq!(outcome.tally, Tally { mallocs: 1, frees: 1, ..Tally::default() });
    }
}
