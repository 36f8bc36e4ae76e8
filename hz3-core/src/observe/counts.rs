//! Counts: named numbers of what an allocator's memory is used for, each declared once, here.
//!
//! ```text
//! mapped     = committed + direct + unreturned + metadata
//! committed  = live small + live large
//!            + in magazines + in stashes + in depots             cached slots
//!            + in quarantine + waiting runs                      freed recently (hardened lane)
//!            + free in spans + waste of spans                    slots at home or never carved; tails of spans
//!            + dirty + clean + purging                           free runs
//! ```

struct Row {
    name: &'static str,
    get: fn(&Stats) -> usize,
    /// No-op for a sum of other counts.
    set: fn(&mut Stats, usize),
}

/// Declares the counts in the order of [`Stats::rows`]: `count` is a field, `sum` a method of [`Stats`].
macro_rules! counts {
    (@ [$($field:tt)*] [$($row:tt)*] $(#[$doc:meta])* count $name:ident as $label:literal; $($rest:tt)*) => {
        counts! {
            @ [$($field)* $(#[$doc])* pub $name: usize,]
            [$($row)* Row { name: $label, get: |stats| stats.$name, set: |stats, value| stats.$name = value },]
            $($rest)*
        }
    };
    (@ [$($field:tt)*] [$($row:tt)*] sum $name:ident as $label:literal; $($rest:tt)*) => {
        counts! { @ [$($field)*] [$($row)* Row { name: $label, get: |stats| stats.$name(), set: |_, _| {} },] $($rest)* }
    };
    (@ [$($field:tt)*] [$($row:tt)*]) => {
        /// Counts of one allocator, in bytes unless the name says otherwise.
        #[derive(Clone, Copy, Default, Debug)]
        #[non_exhaustive]
        pub struct Stats { $($field)* }

        static ROW_LIST: &[Row] = &[$($row)*];
        /// Number of [`Stats::rows`].
        pub const ROWS: usize = [$($row)*].len();
    };
    ($($all:tt)*) => { counts! { @ [] [] $($all)* } };
}

counts! {
    /// Addresses of arenas, and of mappings kept for the next large block.
    count reserved_bytes as "reserved_bytes";
    sum mapped_bytes as "mapped_bytes";
    /// Usable address space of descriptors, magazines, heaps, page tags and the heap profile.
    count metadata_bytes as "metadata_bytes";
    /// What of `reserved_bytes` is mapped.
    count committed_bytes as "committed_bytes";
    sum live_bytes as "live_bytes";
    /// Slots of live blocks.
    count small_live_bytes as "small_live_bytes";
    /// Large blocks in arenas, and regions' spans.
    count large_bytes as "large_bytes";
    /// Direct mappings.
    count direct_bytes as "direct_bytes";
    /// Number of direct mappings.
    count direct_blocks as "direct_blocks";
    /// Slots in the loaded and spare magazines of all heaps.
    count magazine_bytes as "magazine_bytes";
    /// Slots in the remote stashes of all heaps, and those in doubt, which wait for others.
    count stash_bytes as "stash_bytes";
    /// Slots in depots and inboxes.
    count depot_bytes as "depot_bytes";
    /// Free slots in spans: at home or never carved.
    count span_free_bytes as "span_free_bytes";
    /// Tails of spans, too short for a slot.
    count span_waste_bytes as "span_waste_bytes";
    /// Purged pages within `span_free_bytes` and `span_waste_bytes`.
    count span_purged_bytes as "span_purged_bytes";
    /// Dirty runs, free runs that may hold memory, and kept mappings.
    count dirty_bytes as "dirty_bytes";
    /// Clean runs: free runs that hold no memory.
    count clean_bytes as "clean_bytes";
    /// Free runs that are being purged now.
    count purging_bytes as "purging_bytes";
    /// Spans of small blocks.
    count small_span_bytes as "small_span_bytes";
    /// Slots out of their spans: live or cached.
    count small_out_bytes as "small_out_bytes";
    /// Bytes purged so far.
    count purged_bytes as "purged_bytes";
    /// Heaps ever made.
    count heaps as "heaps";
    /// Refills from the thread's own shard's depot or inbox.
    count refills as "refills";
    /// Refills from other shards.
    count steals as "steals";
    /// Refills from spans.
    count carves as "carves";
    /// Magazines put into depots and inboxes by spills.
    count spills as "spills";
    /// Slots sent home.
    count homeward as "homeward_slots";
    /// Unused mappings that the system refused to unmap.
    count unreturned_bytes as "unreturned_bytes";
    /// Slots in quarantine (hardened lane).
    count quarantine_bytes as "quarantine_bytes";
    /// Free runs that wait before reuse (hardened lane).
    count held_bytes as "held_bytes";
    /// Guards that the system refused to install or remove.
    count refused_guards as "refused_guards";
    /// Bytes that count for the limits: spans, large blocks, free runs that hold memory, direct and kept mappings.
    count counted_bytes as "counted_bytes";
    /// The soft limit; 0 if there is none.
    count soft_limit_bytes as "soft_limit_bytes";
    /// The hard limit; 0 if there is none.
    count hard_limit_bytes as "hard_limit_bytes";
    /// Times that growth met the soft limit.
    count soft_limit_met as "soft_limit_met";
    /// Times that the hard limit refused growth.
    count hard_limit_met as "hard_limit_met";
    /// Number of regions.
    count regions as "regions";
    /// Within `large_bytes` and `direct_bytes`: pages of regions, what is free in them included. Guards are left out.
    count region_bytes as "region_bytes";
    /// Within `region_bytes`: slots and pages of live blocks.
    count region_live_bytes as "region_live_bytes";
    /// Number of these blocks.
    count region_live_blocks as "region_live_blocks";
}

impl Stats {
    /// Live blocks in arenas, in bytes of their slots or pages.
    pub fn arena_live_bytes(&self) -> usize {
        self.small_live_bytes + self.large_bytes
    }

    /// All live blocks, in bytes of their slots or pages.
    pub fn live_bytes(&self) -> usize {
        self.arena_live_bytes() + self.direct_bytes
    }

    /// Cached slots: in magazines, stashes, depots and quarantines.
    pub fn cached_bytes(&self) -> usize {
        self.magazine_bytes + self.stash_bytes + self.depot_bytes + self.quarantine_bytes
    }

    /// Bytes free in spans and runs, or lost to tails of spans.
    pub fn uncached_bytes(&self) -> usize {
        let in_runs = self.dirty_bytes + self.clean_bytes + self.purging_bytes + self.held_bytes;
        self.span_free_bytes + self.span_waste_bytes + in_runs
    }

    /// Usable address space, the allocator's own included.
    pub fn mapped_bytes(&self) -> usize {
        self.committed_bytes + self.direct_bytes + self.unreturned_bytes + self.metadata_bytes
    }

    /// All counts with their names.
    #[doc(hidden)]
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (&'static str, usize)> {
        ROW_LIST.iter().map(|row| (row.name, (row.get)(self)))
    }

    /// The inverse of [`Stats::rows`].
    #[doc(hidden)]
    pub fn from_rows(rows: &[u64; ROWS]) -> Stats {
        let mut stats = Stats::default();
        for (row, &value) in ROW_LIST.iter().zip(rows) {
            (row.set)(&mut stats, value as usize);
        }
        stats
    }

    /// The uses of address space; their bytes add up to [`Stats::mapped_bytes`].
    #[doc(hidden)]
    pub fn uses(&self) -> [Use; USES] {
        let held = |name, bytes, held_bytes, knob| Use { name, bytes, held_bytes, knob };
        let all = |name, bytes, knob| held(name, bytes, bytes, knob);
        // Purged pages contain free slots; a tail lies in one only if no slot reaches into its page.
        let free_held = self.span_free_bytes.saturating_sub(self.span_purged_bytes);
        [
            all("live_small", self.small_live_bytes, "the program's own blocks up to 32 KiB"),
            all("live_large", self.large_bytes, "the program's own blocks above"),
            all("live_direct", self.direct_bytes, "the program's own blocks from 128 MiB up, or moved by realloc"),
            all(
                "magazines",
                self.magazine_bytes,
                "threads' caches: idle bins empty themselves; malloc_trim(0); fewer threads",
            ),
            all("stashes", self.stash_bytes, "slots on their way home: as above"),
            all("depots", self.depot_bytes, "shared caches: HZ3_PURGE_DELAY_MS"),
            all("quarantine", self.quarantine_bytes, "freed a short while ago, in the hardened lane: malloc_trim(0)"),
            held("free_in_spans", self.span_free_bytes, free_held, "kept by neighbours that live on"),
            all("rests_of_spans", self.span_waste_bytes, "none: lost to whole slots"),
            all(
                "dirty_runs",
                self.dirty_bytes,
                "free pages: HZ3_PURGE_DELAY_MS, HZ3_BACKGROUND_THREAD=1, malloc_trim(0)",
            ),
            all("purging_runs", self.purging_bytes, "free pages on their way to the system"),
            all("held_runs", self.held_bytes, "as quarantine, of large blocks, some without memory: malloc_trim(0)"),
            held("clean_runs", self.clean_bytes, 0, "free pages without memory: address space only"),
            all("unreturned", self.unreturned_bytes, "refused by the system: malloc_trim(0) asks again"),
            all("metadata", self.metadata_bytes, "hz3's own, resident where used"),
        ]
    }
}

/// Number of [`Stats::uses`].
pub const USES: usize = 15;

/// One use of address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Use {
    /// Name, as in the JSON statistics.
    pub name: &'static str,
    /// Bytes of address space.
    pub bytes: usize,
    /// Part of `bytes` not returned to the system. It may hold memory; pages that the program never touched hold none.
    pub held_bytes: usize,
    /// What changes it, for the user.
    pub knob: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distinct() -> Stats {
        let mut rows = [0; ROWS];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = 1 << index;
        }
        Stats::from_rows(&rows)
    }

    #[test]
    fn rows_lead_back_to_the_counts() {
        let stats = distinct();
        let mut rows = [0; ROWS];
        rows.iter_mut().zip(stats.rows()).for_each(|(row, (_, value))| *row = value as u64);
        assert!(Stats::from_rows(&rows).rows().eq(stats.rows()));
        // All but the two sums are unchanged.
        let changed = rows.iter().enumerate().filter(|&(index, &row)| row != 1 << index).count();
        assert_eq!(changed, 2);
    }

    #[test]
    fn uses_add_up_to_what_is_mapped_where_the_parts_add_up_to_what_is_committed() {
        let mut stats = distinct();
        stats.committed_bytes = stats.arena_live_bytes() + stats.cached_bytes() + stats.uncached_bytes();
        let sum: usize = stats.uses().iter().map(|one| one.bytes).sum();
        assert_eq!(sum, stats.mapped_bytes());
        assert!(stats.uses().iter().all(|one| one.held_bytes <= one.bytes));
    }
}
