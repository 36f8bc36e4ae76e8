//! Worker: what one thread of the benchmark does between the start and its end.
#![forbid(unsafe_code)]

use std::ops::AddAssign;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use crate::arguments::Touch;
use crate::block::{Block, SizeUnit};
use crate::draw::{Draw, Draws};
use crate::latency::{Call, Probe};
use crate::live::{LiveBytes, Share};
use crate::ring::{Receiver, Sender};
use crate::start_line::StartLine;

/// Yields that a producer spends on one block while its ring is more than half full, before it sends
/// anyway (and frees the block itself if the ring is full).
const PATIENCE: u32 = 64; // chosen: with the default ring, no block was ever freed by its producer

/// Longest sleep of a thread that has nothing to do but to receive. It sleeps, because with more threads
/// than cores a waiting thread that yields takes a share of a core from those that work.
const NAP: Duration = Duration::from_micros(50); // chosen: a thousandth of a ring's length in blocks

/// A thread's part in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Allocates, frees, sends and receives.
    Exchanger,
    /// Allocates, and sends every block to the right neighbour.
    Producer,
    /// Frees what the left neighbour sends.
    Consumer,
}

/// Counts of one thread's work, or of all threads'.
///
/// After a run, `mallocs = frees()`, and over all threads `sent = received`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Successful calls of `malloc`.
    pub mallocs: u64,
    /// Calls of `malloc` that returned null.
    pub failed: u64,
    /// Blocks freed in their slot, in an iteration.
    pub local: u64,
    /// Blocks sent to the right neighbour.
    pub sent: u64,
    /// Blocks freed by their owner because the ring was full.
    pub fallbacks: u64,
    /// Blocks of the left neighbour, freed here.
    pub received: u64,
    /// Blocks that were left in the slots after the last iteration, freed there.
    pub cleared: u64,
}

impl Tally {
    /// Calls of `free`.
    pub fn frees(&self) -> u64 {
        self.local + self.fallbacks + self.received + self.cleared
    }

    /// Completed calls of `malloc` and `free`.
    pub fn ops(&self) -> u64 {
        self.mallocs + self.frees()
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.mallocs += other.mallocs;
        self.failed += other.failed;
        self.local += other.local;
        self.sent += other.sent;
        self.fallbacks += other.fallbacks;
        self.received += other.received;
        self.cleared += other.cleared;
    }
}

/// One thread's possessions. Everything shared is behind the ring handles, the share and `live`.
#[derive(Debug)]
pub struct Worker<'a, P> {
    /// The part it plays.
    pub role: Role,
    /// Iterations to do (a consumer does none).
    pub iters: u64,
    /// Its random choices.
    pub draws: Draws,
    /// Its working set, `ws` slots.
    pub slots: &'a mut [Option<Block>],
    /// To the right neighbour.
    pub outbound: Sender<'a>,
    /// From the left neighbour.
    pub inbound: Receiver<'a>,
    /// All threads' live bytes, to sample.
    pub live: &'a LiveBytes,
    /// Its own share of them, to keep.
    pub share: Share<'a>,
    /// What it writes into fresh blocks.
    pub touch: Touch,
    /// The unit of sizes in blocks' words.
    pub unit: SizeUnit,
    /// What surrounds the calls of the allocator.
    pub probe: P,
    /// What it has done so far.
    pub tally: Tally,
    /// Largest sample of live bytes so far.
    pub peak_live_bytes: i64,
}

/// What is left of a worker after its run.
#[derive(Debug)]
pub struct Outcome<P> {
    /// What it did.
    pub tally: Tally,
    /// Its largest sample of live bytes.
    pub peak_live_bytes: i64,
    /// What was recorded around its calls.
    pub probe: P,
    /// When it was done.
    pub end: Instant,
}

impl<P: Probe> Worker<'_, P> {
    /// Waits at the start line, does the thread's part and returns what came of it; `None` if the run was
    /// cancelled.
    pub fn run(mut self, start_line: &StartLine) -> Option<Outcome<P>> {
        // Makes the pages of the slots resident before the clock starts; all of them are used anyway.
        self.slots.fill_with(|| None);
        if !start_line.wait() {
            return None;
        }
        match self.role {
            Role::Exchanger => self.repeat(Self::exchange),
            Role::Producer => {
                self.repeat(Self::produce);
                self.send_rest();
            }
            Role::Consumer => {}
        }
        Some(self.finish())
    }

    /// Does `iters` iterations, with a sample of live bytes now and then.
    #[inline(always)]
    fn repeat(&mut self, iteration: impl Fn(&mut Self)) {
        let interval = self.live.interval(self.iters);
        let mut left = self.iters;
        while left > 0 {
            let count = interval.min(left);
            for _ in 0..count {
                iteration(self);
            }
            left -= count;
            self.peak_live_bytes = self.peak_live_bytes.max(self.live.sample().unwrap_or(0));
        }
    }

    /// One iteration of the ring pattern.
    #[inline(always)]
    fn exchange(&mut self) {
        self.receive();
        let draw = self.draws.next_draw();
        let slot = &mut self.slots[draw.slot()];
        // An empty slot is not written here, as `Option::take` alone would: it is about to be filled.
        if slot.is_none() {
            self.fill(draw);
        } else if let Some(block) = slot.take() {
            if draw.is_remote() {
                self.send(block);
            } else {
                self.tally.local += 1;
                self.free(block);
            }
        }
    }

    /// One iteration of a producer.
    #[inline(always)]
    fn produce(&mut self) {
        let draw = self.draws.next_draw();
        match self.slots[draw.slot()].take() {
            None => self.fill(draw),
            Some(block) => self.send_paced(block),
        }
    }

    /// Allocates into the slot of `draw`.
    #[inline(always)]
    fn fill(&mut self, draw: Draw) {
        let size_bytes = draw.size_bytes();
        let Some(fresh) = self.probe.around(Call::Malloc, || Block::allocate(size_bytes, self.unit)) else {
            self.tally.failed += 1;
            return;
        };
        let block = fresh.touched(self.touch);
        self.tally.mallocs += 1;
        self.share.add(block.units());
        self.slots[draw.slot()] = Some(block);
    }

    /// Frees a block of this thread's own.
    #[inline(always)]
    fn free(&mut self, block: Block) {
        self.share.add(-block.units());
        self.probe.around(Call::LocalFree, || block.free());
    }

    /// Sends a block, or frees it where the ring is full.
    #[inline(always)]
    fn send(&mut self, block: Block) {
        match self.outbound.send(block) {
            Ok(()) => self.tally.sent += 1,
            Err(block) => {
                self.tally.fallbacks += 1;
                self.free(block);
            }
        }
    }

    /// Sends a block after giving the receiver time to keep up. A producer does nothing else, so it
    /// would outrun its consumer by any ring's length wherever `free` is slower than `malloc` or the
    /// consumer has no core.
    #[inline(always)]
    fn send_paced(&mut self, block: Block) {
        let mut patience = PATIENCE;
        while patience > 0 && self.outbound.is_more_than_half_full() {
            yield_now();
            patience -= 1;
        }
        self.send(block);
    }

    /// Frees everything that has arrived.
    #[inline(always)]
    fn receive(&mut self) -> u64 {
        let received = self.inbound.drain(|block| {
            self.share.add(-block.units());
            self.probe.around(Call::RemoteFree, || block.free());
        });
        self.tally.received += received;
        received
    }

    /// A producer's end: its remaining blocks go the way of all others.
    fn send_rest(&mut self) {
        for index in 0..self.slots.len() {
            if let Some(block) = self.slots[index].take() {
                self.send_paced(block);
            }
        }
    }

    /// Frees the remaining blocks, and the left neighbour's until it has sent its last.
    fn finish(mut self) -> Outcome<P> {
        self.outbound.close();
        for index in 0..self.slots.len() {
            if let Some(block) = self.slots[index].take() {
                self.tally.cleared += 1;
                self.free(block);
            }
        }
        loop {
            let last = self.inbound.is_closed();
            let received = self.receive();
            if last {
                break;
            }
            if received == 0 {
                self.inbound.sleep_until_closed(NAP);
            }
        }
        Outcome { tally: self.tally, peak_live_bytes: self.peak_live_bytes, probe: self.probe, end: Instant::now() }
    }
}
