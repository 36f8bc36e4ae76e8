//! Cache: what a thread keeps, up to a limit in bytes: the oldest goes when a new one needs its place.
#![forbid(unsafe_code)]

use crate::outcome::{Bound, Outcome, peak_resident_without};
use hz3_bench_mt_remote::crew::{self, Member};
use hz3_bench_mt_remote::piece::Slots;
use std::io;

/// Blocks of which there are too few for the members' own samples.
const SAMPLED_BYTES: usize = 200_000;

/// Places for as many blocks of `smallest` bytes as fit into `most_bytes`, for each thread.
///
/// # Errors
/// The kernel's.
pub fn slots(threads: u32, most_bytes: usize, smallest: usize) -> io::Result<Vec<Slots>> {
    (0..threads).map(|_| Slots::new(most_bytes / smallest + 1)).collect()
}

/// What came of it, with the bound `limit` on peak resident in peak live memory.
///
/// # Errors
/// The kernel's.
pub fn outcome(caches: &[Slots], outcome: &crew::Outcome, limit: f64) -> io::Result<Outcome> {
    let harness: usize = caches.iter().map(Slots::resident_bytes).sum();
    let peak_resident = peak_resident_without(harness)?;
    Ok(Outcome {
        tally: outcome.tally,
        time: outcome.time,
        peak_resident,
        peak_live: outcome.peak_live_bytes,
        harness: harness as u64,
        lines: Vec::new(),
        bounds: vec![Bound::on_ratio("peak-over-live", peak_resident, outcome.peak_live_bytes, limit)],
    })
}

/// A thread's blocks, the oldest first, in a ring.
pub struct Cache<'a> {
    slots: &'a Slots,
    oldest: usize,
    next: usize,
    bytes: usize,
    most_bytes: usize,
}

impl<'a> Cache<'a> {
    /// An empty one of `most_bytes`.
    pub fn new(slots: &'a Slots, most_bytes: usize) -> Self {
        Self { slots, oldest: 0, next: 0, bytes: 0, most_bytes }
    }

    /// Adds a block of `bytes`, in the place of the oldest ones.
    pub fn add(&mut self, member: &mut Member<'_>, bytes: usize) {
        while self.oldest != self.next
            && (self.bytes + bytes > self.most_bytes || self.next - self.oldest == self.slots.len())
        {
            self.drop_oldest(member);
        }
        let Some(piece) = member.allocate(bytes) else { return };
        piece.touch_pages();
        self.bytes += bytes;
        self.slots.swap(self.next % self.slots.len(), Some(piece));
        self.next += 1;
        if bytes >= SAMPLED_BYTES {
            member.sample();
        }
    }

    fn drop_oldest(&mut self, member: &mut Member<'_>) {
        if let Some(piece) = self.slots.take(self.oldest % self.slots.len()) {
            self.bytes -= piece.bytes();
            member.free(piece);
        }
        self.oldest += 1;
    }

    /// Frees all blocks.
    pub fn drop_all(&mut self, member: &mut Member<'_>) {
        while self.oldest != self.next {
            self.drop_oldest(member);
        }
    }
}
