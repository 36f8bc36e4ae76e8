//! One reaper: many threads allocate, and one that never allocates frees everything.
//!
//! ```text
//!   producer 0   live set ──ring 0──▶ ┐
//!   producer 1   live set ──ring 1──▶ ├ reaper: free, free, free …
//!   …                                 ┘
//! ```
//!
//! A producer replaces a random block of its live set and hands the old one over. All free memory thus
//! arises in a thread that has no use for it: where it stays there, the process grows without end.
//! Blocks on their way are few (the rings are short) and count as live.
#![forbid(unsafe_code)]

use crate::outcome::{Bound, Outcome, peak_resident_without};
use hz3_bench_mt_remote::arguments::Touch;
use hz3_bench_mt_remote::block::{Block, SizeUnit};
use hz3_bench_mt_remote::crew::{self, Tally};
use hz3_bench_mt_remote::live::{LiveBytes, Share};
use hz3_bench_mt_remote::mapping::Mapping;
use hz3_bench_mt_remote::ring::{Receiver, Rings, Sender};
use hz3_bench_mt_remote::start_line::StartLine;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;
use std::io;
use std::thread::{Builder, scope, sleep};
use std::time::{Duration, Instant};

/// Size of the blocks.
const BYTES: usize = 592;
/// Most of the peak of live memory that may be resident at its peak.
const LIMIT: f64 = 1.25;
/// Blocks on their way from one producer.
const RING_SLOTS: usize = 512; // chosen: 16 × 512 blocks are 1.3 % of 370 MiB
/// Replacements between two looks at the clock.
const REPLACEMENTS: usize = 256; // chosen
/// Sleep of a side that waits for the other: with more threads than cores, a thread that yields takes
/// a share of a core from those that work.
const NAP: Duration = Duration::from_micros(50); // chosen: the time of some hundred blocks

/// Arguments of the scenario.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Seconds that the producers go on for
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// All live sets together in MiB, 1 to 1048576
    #[arg(long, default_value_t = 370, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    total_mb: u32,
    /// Number of producers, 1 to 1024
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    producers: u32,
}

/// What one thread did: its calls, its largest sample of the live bytes, and its end.
#[derive(Clone, Copy, Debug)]
struct Part {
    tally: Tally,
    peak_live: i64,
    end: Instant,
}

impl Arguments {
    /// The arguments as the first line of the report shows them.
    pub fn shown(&self) -> String {
        let Self { seconds, total_mb, producers } = self;
        format!("name=one-reaper seconds={seconds} total_mb={total_mb} producers={producers}")
    }

    /// Runs the scenario.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run(&self, seed: u64) -> io::Result<Outcome> {
        let producers = self.producers as usize;
        let each = (((self.total_mb as usize) << 20) / BYTES / producers).max(1);
        let mut slots = Mapping::<Option<Block>>::zeroed(each * producers)?;
        let mut rings = Rings::new(producers, RING_SLOTS)?;
        let live = LiveBytes::new(producers + 1, SizeUnit::for_max(BYTES as u32))?;
        let (start, parts) = self.work(seed, &mut slots, &mut rings, &live)?;
        let harness = slots.resident_bytes() + rings.resident_bytes() + live.resident_bytes();
        let peak_resident = peak_resident_without(harness)?;
        let mut tally = Tally::default();
        for part in &parts {
            tally += part.tally;
        }
        let peak_live = parts.iter().map(|part| part.peak_live).max().unwrap_or(0).unsigned_abs();
        Ok(Outcome {
            tally,
            time: parts.iter().map(|part| part.end).max().map_or(Duration::ZERO, |end| end - start),
            peak_resident,
            peak_live,
            harness: harness as u64,
            lines: Vec::new(),
            bounds: vec![Bound::on_ratio("peak-over-live", peak_resident, peak_live, LIMIT)],
        })
    }

    /// Lets the threads do their parts; returns the time of the start and what each did.
    fn work(
        &self,
        seed: u64,
        slots: &mut Mapping<Option<Block>>,
        rings: &mut Rings,
        live: &LiveBytes,
    ) -> io::Result<(Instant, Vec<Part>)> {
        let producers = self.producers as usize;
        let each = slots.len() / producers;
        let time = Duration::from_secs(self.seconds.into());
        let start_line = StartLine::default();
        let mut shares = live.shares();
        let reapers_share = shares.next().expect("one more than the producers");
        let mut receivers = Vec::with_capacity(producers);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut producers_parts = Vec::with_capacity(producers);
        for ((sender, receiver), (share, set)) in rings.handles().zip(shares.zip(slots.chunks_exact_mut(each))) {
            receivers.push(receiver);
            producers_parts.push(Producer { set, outbound: sender, share, live, random: random.clone() });
            // 2^128 numbers apart, so that no two threads draw the same ones.
            random.jump();
        }
        scope(|scope| {
            let mut handles = Vec::with_capacity(producers + 1);
            let line = &start_line;
            let mut spawned =
                Builder::new().spawn_scoped(scope, move || line.wait().then(|| reap(receivers, reapers_share)));
            for producer in producers_parts {
                match spawned {
                    Ok(handle) => handles.push(handle),
                    Err(error) => {
                        line.cancel();
                        return Err(error);
                    }
                }
                spawned = Builder::new().spawn_scoped(scope, move || line.wait().then(|| producer.produce(time)));
            }
            match spawned {
                Ok(handle) => handles.push(handle),
                Err(error) => {
                    line.cancel();
                    return Err(error);
                }
            }
            let start = line.start(handles.len());
            let join = |handle: std::thread::ScopedJoinHandle<'_, Option<Part>>| {
                handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            Ok((start, handles.into_iter().filter_map(join).collect()))
        })
    }
}

/// One producer's possessions.
struct Producer<'a> {
    set: &'a mut [Option<Block>],
    outbound: Sender<'a>,
    share: Share<'a>,
    live: &'a LiveBytes,
    random: Xoshiro256PlusPlus,
}

impl Producer<'_> {
    fn produce(mut self, time: Duration) -> Part {
        let start = Instant::now();
        let mut part = Part { tally: Tally::default(), peak_live: 0, end: start };
        for index in 0..self.set.len() {
            self.replace(index, &mut part.tally);
        }
        while start.elapsed() < time {
            for _ in 0..REPLACEMENTS {
                let index = crew::draw(&mut self.random, 0..self.set.len());
                self.replace(index, &mut part.tally);
            }
            part.peak_live = part.peak_live.max(self.live.sample().unwrap_or(0));
        }
        for index in 0..self.set.len() {
            if let Some(block) = self.set[index].take() {
                self.hand_over(block);
            }
        }
        self.outbound.close();
        part.end = Instant::now();
        part
    }

    /// Puts a fresh block in a place of the live set and hands the old one over.
    fn replace(&mut self, index: usize, tally: &mut Tally) {
        let Some(fresh) = Block::allocate(BYTES, SizeUnit::for_max(BYTES as u32)) else {
            tally.failed += 1;
            return;
        };
        tally.mallocs += 1;
        let block = fresh.touched(Touch::Ends);
        self.share.add(block.units());
        if let Some(old) = self.set[index].replace(block) {
            self.hand_over(old);
        }
    }

    fn hand_over(&mut self, mut block: Block) {
        while let Err(refused) = self.outbound.send(block) {
            block = refused;
            sleep(NAP);
        }
    }
}

/// The reaper's part.
fn reap(mut inbound: Vec<Receiver<'_>>, mut share: Share<'_>) -> Part {
    let mut tally = Tally::default();
    loop {
        let is_last = inbound.iter().all(Receiver::is_closed);
        let mut freed = 0;
        for receiver in &mut inbound {
            freed += receiver.drain(|block| {
                share.add(-block.units());
                block.free();
            });
        }
        tally.frees += freed;
        if is_last {
            return Part { tally, peak_live: 0, end: Instant::now() };
        }
        if freed == 0 {
            sleep(NAP);
        }
    }
}
