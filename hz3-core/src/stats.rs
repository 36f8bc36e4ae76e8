//! Stats: what an allocator's memory is used for, counted when asked.
//!
//! Every count is taken by itself while threads go on, so that sums may be off by what moved meanwhile.

use crate::bins::{self, BINS};
use crate::lane::Lane;
use crate::sync::Ordering;
use crate::units::{Bin, PAGE_BYTES};

/// Counts of one allocator. Bytes unless said otherwise.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// Address space reserved for arenas.
    pub reserved_bytes: usize,
    /// Of it, made usable so far.
    pub committed_bytes: usize,
    /// Free runs that may hold memory.
    pub dirty_bytes: usize,
    /// Free runs that hold none.
    pub clean_bytes: usize,
    /// Small blocks that are live or in a thread's magazines or stash.
    pub small_out_bytes: usize,
    /// Small blocks in depots and inboxes, each magazine counted as full.
    pub depot_bytes: usize,
    /// Pages of small spans.
    pub small_span_bytes: usize,
    /// Pages of large blocks in arenas.
    pub large_bytes: usize,
    /// Blocks that are mappings of their own.
    pub direct_bytes: usize,
    /// Their number.
    pub direct_blocks: usize,
    /// Address space mapped for descriptors, magazines and heaps.
    pub metadata_bytes: usize,
    /// Memory given back to the system so far.
    pub purged_bytes: usize,
    /// Heaps ever made, a number.
    pub heaps: usize,
    /// Refills from the own shard's depots, a number.
    pub refills: usize,
    /// Refills from other shards, a number.
    pub steals: usize,
    /// Refills from spans, a number.
    pub carves: usize,
    /// Magazines handed to depots, a number.
    pub spills: usize,
    /// Slots that went home, a number.
    pub homeward: usize,
}

impl Stats {
    /// Bytes in use, threads' caches included.
    pub fn in_use_bytes(&self) -> usize {
        self.small_out_bytes.saturating_sub(self.depot_bytes) + self.large_bytes
    }

    /// Every count with its name.
    pub fn rows(&self) -> [(&'static str, usize); 19] {
        [
            ("reserved_bytes", self.reserved_bytes),
            ("committed_bytes", self.committed_bytes),
            ("dirty_bytes", self.dirty_bytes),
            ("clean_bytes", self.clean_bytes),
            ("small_span_bytes", self.small_span_bytes),
            ("small_out_bytes", self.small_out_bytes),
            ("depot_bytes", self.depot_bytes),
            ("large_bytes", self.large_bytes),
            ("direct_bytes", self.direct_bytes),
            ("direct_blocks", self.direct_blocks),
            ("metadata_bytes", self.metadata_bytes),
            ("purged_bytes", self.purged_bytes),
            ("in_use_bytes", self.in_use_bytes()),
            ("heaps", self.heaps),
            ("refills", self.refills),
            ("steals", self.steals),
            ("carves", self.carves),
            ("spills", self.spills),
            ("homeward_slots", self.homeward),
        ]
    }
}

/// Counts lane `L`'s allocator. Takes each shard's lock and the run lock, one at a time.
pub fn collect<L: Lane>() -> Stats {
    let allocator = L::allocator();
    let mut stats = Stats::default();
    (stats.reserved_bytes, stats.committed_bytes) = allocator.runs.arenas.reserved_and_committed();
    (stats.dirty_bytes, stats.clean_bytes) = allocator.runs.free_bytes();
    for shard in allocator.shards() {
        for bin in (1..BINS as u8).map(Bin) {
            let info = bins::info(bin);
            let (out, spans) = shard.owned().lock().counts(bin);
            stats.small_out_bytes += out as usize * info.slot_bytes as usize;
            stats.small_span_bytes += spans as usize * usize::from(info.span_pages) * PAGE_BYTES;
            let magazines = shard.depot(bin).count() as usize;
            let capacity = usize::from(crate::magazine::shape(L::shapes(), bin).capacity);
            stats.depot_bytes += magazines * capacity * info.slot_bytes as usize;
        }
    }
    let free = stats.dirty_bytes + stats.clean_bytes + stats.small_span_bytes;
    stats.large_bytes = stats.committed_bytes.saturating_sub(free);
    (stats.direct_blocks, stats.direct_bytes) = allocator.directs.count_and_bytes();
    stats.metadata_bytes =
        allocator.runs.spans.mapped_bytes() + allocator.magazines.bytes().0 + allocator.heaps.mapped_bytes();
    // Relaxed, all: counts.
    stats.purged_bytes = allocator.purged_bytes.load(Ordering::Relaxed) as usize;
    stats.heaps = allocator.heaps.made() as usize;
    allocator.heaps.each_counters(|counters| {
        stats.refills += counters.refills.load(Ordering::Relaxed) as usize;
        stats.steals += counters.steals.load(Ordering::Relaxed) as usize;
        stats.carves += counters.carves.load(Ordering::Relaxed) as usize;
        stats.spills += counters.spills.load(Ordering::Relaxed) as usize;
        stats.homeward += counters.homeward.load(Ordering::Relaxed) as usize;
    });
    stats
}
