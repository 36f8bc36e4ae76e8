//! Uses: what hz3's address space is used for, each with what changes it, adding up to what is mapped.

use super::{ROWS, Stats};

/// Number of [`Stats::uses`].
pub const USES: usize = 15;

/// One use of address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Use {
    /// Its name, as in the statistics' JSON.
    pub name: &'static str,
    /// Bytes of address space.
    pub bytes: usize,
    /// Of them, those that may hold memory, as far as hz3 knows: it has not given them back. What the program never
    /// wrote to holds none, which hz3 can't know.
    pub held_bytes: usize,
    /// What changes it.
    pub knob: &'static str,
}

impl Stats {
    /// What the address space is used for; the bytes add up to [`Stats::mapped_bytes`].
    pub fn uses(&self) -> [Use; USES] {
        let held = |name, bytes, held_bytes, knob| Use { name, bytes, held_bytes, knob };
        let all = |name, bytes, knob| held(name, bytes, bytes, knob);
        // Purged pages are of free slots, and of rests only where no slot reaches into their page.
        let free_held = self.span_free_bytes.saturating_sub(self.span_purged_bytes);
        [
            all("live_small", self.small_live_bytes, "the program's own blocks up to 32 KiB"),
            all("live_large", self.large_bytes, "the program's own blocks above"),
            all("live_direct", self.direct_bytes, "the program's own blocks from 32 MiB up"),
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
            held("held_runs", self.held_bytes, 0, "as quarantine, of large blocks: address space only"),
            held("clean_runs", self.clean_bytes, 0, "free pages without memory: address space only"),
            all("unreturned", self.unreturned_bytes, "refused by the system: malloc_trim(0) asks again"),
            all("metadata", self.metadata_bytes, "hz3's own, resident where used"),
        ]
    }

    /// Counts from their [`Stats::rows`].
    pub fn from_rows(rows: &[u64; ROWS]) -> Stats {
        let mut stats = Stats::default();
        let mut sum = 0;
        // In the order of `rows`; a test goes there and back.
        let places: [&mut usize; ROWS] = [
            &mut stats.reserved_bytes,
            &mut 0,
            &mut stats.metadata_bytes,
            &mut stats.committed_bytes,
            &mut sum,
            &mut stats.small_live_bytes,
            &mut stats.large_bytes,
            &mut stats.direct_bytes,
            &mut stats.direct_blocks,
            &mut stats.magazine_bytes,
            &mut stats.stash_bytes,
            &mut stats.depot_bytes,
            &mut stats.span_free_bytes,
            &mut stats.span_waste_bytes,
            &mut stats.span_purged_bytes,
            &mut stats.dirty_bytes,
            &mut stats.clean_bytes,
            &mut stats.purging_bytes,
            &mut stats.small_span_bytes,
            &mut stats.small_out_bytes,
            &mut stats.purged_bytes,
            &mut stats.heaps,
            &mut stats.refills,
            &mut stats.steals,
            &mut stats.carves,
            &mut stats.spills,
            &mut stats.homeward,
            &mut stats.unreturned_bytes,
            &mut stats.quarantine_bytes,
            &mut stats.held_bytes,
            &mut stats.refused_guards,
        ];
        for (place, &row) in places.into_iter().zip(rows) {
            *place = row as usize;
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of which no two are the same.
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
        let rows = stats.rows().map(|(_, value)| value as u64);
        assert_eq!(Stats::from_rows(&rows).rows(), stats.rows());
        // All but the two sums are as they were given.
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
