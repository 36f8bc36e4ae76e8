//! Counts local and remote frees, by bin and by pair of shards.
//!
//! ```text
//! freed = own + foreign            slots in magazines that threads spilled
//! foreign = adopted + homeward     kept by the thread's shard, or sent back to the owner in batches
//! flow[freeing shard][owner]       the same slots, by where they came from
//! ```
//!
//! Counted per magazine or batch, if statistics at exit or the statistics page are on. Slots that stay in a thread's
//! two magazines are not counted.

use crate::pages::bins::BINS;
use crate::platform::atomic::{AtomicU64, Ordering};
use crate::platform::units::{Bin, ShardId};

/// Most shards of a lane.
pub const SHARDS: usize = 32;

/// One bin's counts.
pub struct BinHeat {
    refills: AtomicU64,
    refilled: AtomicU64,
    spills: AtomicU64,
    freed: AtomicU64,
    foreign: AtomicU64,
    adopted: AtomicU64,
    batches: AtomicU64,
    batched: AtomicU64,
}

impl BinHeat {
    const fn new() -> Self {
        Self {
            refills: AtomicU64::new(0),
            refilled: AtomicU64::new(0),
            spills: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            adopted: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            batched: AtomicU64::new(0),
        }
    }
}

/// A reading of [`BinHeat`]: counts of slots, except `refills`, `spills` and `batches`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct BinCounts {
    /// Magazines taken by threads, from depots or spans.
    pub refills: u64,
    /// Slots in them.
    pub refilled: u64,
    /// Full magazines spilled by threads.
    pub spills: u64,
    /// Slots in spilled magazines.
    pub freed: u64,
    /// Those owned by other shards than the freeing thread's.
    pub foreign: u64,
    /// Those kept in a depot of the freeing thread's shard.
    pub adopted: u64,
    /// Batches sent home.
    pub batches: u64,
    /// Slots in them.
    pub batched: u64,
}

/// An allocator's counts, for any thread to read and write.
pub struct Heat {
    bins: [BinHeat; BINS],
    flow: [[AtomicU64; SHARDS]; SHARDS],
}

fn add(counter: &AtomicU64, more: u64) {
    if more > 0 {
        // Relaxed: a count.
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

impl Heat {
    /// All counts 0.
    pub const fn new() -> Self {
        Self { bins: [const { BinHeat::new() }; BINS], flow: [const { [const { AtomicU64::new(0) }; SHARDS] }; SHARDS] }
    }

    fn bin(&self, bin: Bin) -> &BinHeat {
        let index = usize::from(bin.0);
        // Clamped instead of a bounds check, which could panic.
        &self.bins[if index < BINS { index } else { 0 }]
    }

    /// Counts slots of `bin` that a thread of `shard` spills; `adopted` tells that its shard keeps other owners' slots.
    pub fn note_freed(&self, shard: ShardId, bin: Bin, adopted: bool, owners: impl Iterator<Item = ShardId>) {
        let (mut freed, mut foreign) = (0, 0);
        for owner in owners {
            freed += 1;
            foreign += u64::from(owner != shard);
            if let Some(flow) = self.flow.get(usize::from(shard.0)).and_then(|row| row.get(usize::from(owner.0))) {
                add(flow, 1);
            }
        }
        let counts = self.bin(bin);
        add(&counts.freed, freed);
        add(&counts.foreign, foreign);
        add(&counts.adopted, if adopted { foreign } else { 0 });
    }

    /// Counts a magazine with `slots` slots of `bin` that a thread takes.
    pub fn note_refill(&self, bin: Bin, slots: usize) {
        add(&self.bin(bin).refills, 1);
        add(&self.bin(bin).refilled, slots as u64);
    }

    /// Counts a full magazine of `bin` that a thread spills; its slots are for [`Heat::note_freed`].
    pub fn note_spill(&self, bin: Bin) {
        add(&self.bin(bin).spills, 1);
    }

    /// Counts a batch of `slots` slots of `bin` that goes home.
    pub fn note_batch(&self, bin: Bin, slots: usize) {
        add(&self.bin(bin).batches, 1);
        add(&self.bin(bin).batched, slots as u64);
    }

    /// The counts of `bin`.
    pub fn counts(&self, bin: Bin) -> BinCounts {
        let BinHeat { refills, refilled, spills, freed, foreign, adopted, batches, batched } = self.bin(bin);
        // Relaxed: counts.
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BinCounts {
            refills: read(refills),
            refilled: read(refilled),
            spills: read(spills),
            freed: read(freed),
            foreign: read(foreign),
            adopted: read(adopted),
            batches: read(batches),
            batched: read(batched),
        }
    }

    /// Slots of `owner` that threads of `shard` freed; 0 for shards out of range.
    pub fn flow(&self, shard: usize, owner: usize) -> u64 {
        // Relaxed: a count.
        self.flow.get(shard).and_then(|row| row.get(owner)).map_or(0, |flow| flow.load(Ordering::Relaxed))
    }
}

impl Default for Heat {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_freed_slot_is_counted_once_by_bin_and_once_by_flow() {
        let heat = Heat::new();
        let owners = [0, 1, 1, 5, 31].map(ShardId);
        heat.note_freed(ShardId(1), Bin(7), true, owners.into_iter());
        heat.note_freed(ShardId(5), Bin(7), false, owners.into_iter());
        heat.note_batch(Bin(7), 4);
        heat.note_refill(Bin(7), 62);
        heat.note_refill(Bin(7), 4);
        heat.note_spill(Bin(7));
        let magazines = BinCounts { refills: 2, refilled: 66, spills: 1, ..BinCounts::default() };
        let expected = BinCounts { freed: 10, foreign: 7, adopted: 3, batches: 1, batched: 4, ..magazines };
        assert_eq!((heat.counts(Bin(7)), heat.counts(Bin(8))), (expected, BinCounts::default()));
        assert_eq!((heat.flow(1, 1), heat.flow(5, 1), heat.flow(5, 31), heat.flow(0, 0)), (2, 2, 1, 0));
        let all: u64 = (0..SHARDS)
            .flat_map(|shard| (0..SHARDS).map(move |owner| (shard, owner)))
            .map(|(a, b)| heat.flow(a, b))
            .sum();
        assert_eq!(all, 10);
    }
}
