//! Left out: long ranges of clean memory that core dumps leave out, so that they hold little more than what is used.
//!
//! ```text
//! window   | chunk, 4 MiB | chunk | …        a bit each: all of it is clean, and core dumps leave it out
//!            whoever takes a part of it      clears the bit, and has the chunk dumped again
//! ```
//!
//! Chunks change only in runs of at least 16 MiB, since each change may split a mapping.
//!
//! Outside rules: madvise(2), `MADV_DONTDUMP` and `MADV_DODUMP`; core(5).

use crate::pages::page_map::Reach;
use crate::platform::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::platform::os::Os;
use crate::platform::system_page;
use crate::platform::units::PAGE_BYTES;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};

/// Fewest pages of a run of which chunks are left out. Chosen: few mappings.
pub const FEWEST_PAGES: usize = (16 << 20) / PAGE_BYTES;
/// Chosen: a run leaves as much at each end at most, and a dump holds it.
const CHUNK_BYTES: usize = 4 << 20;

fn whole_chunks(reach: Reach, start: usize, end: usize) -> Range<usize> {
    (start - reach.base).div_ceil(CHUNK_BYTES)..(end - reach.base) / CHUNK_BYTES
}

/// Which chunks of `WINDOWS` windows are left out. A chunk's bit is set while no thread but its owner's can take a part of
/// it, and the run lock orders that before whoever takes one: so all accesses are Relaxed but that of a table's pointer.
pub struct LeftOut<O: Os, const WINDOWS: usize> {
    tables: [AtomicPtr<AtomicU64>; WINDOWS],
    /// 0 until there is a table.
    is_any: AtomicU32,
    os: PhantomData<fn() -> O>,
}

impl<O: Os, const WINDOWS: usize> LeftOut<O, WINDOWS> {
    /// None.
    #[allow(clippy::new_without_default, reason = "only statics have one")]
    pub const fn new() -> Self {
        Self { tables: [const { AtomicPtr::new(null_mut()) }; WINDOWS], is_any: AtomicU32::new(0), os: PhantomData }
    }

    /// Whether a chunk may be left out.
    #[inline]
    pub fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Relaxed) != 0
    }

    /// The word and bit of a chunk; `None` if its window has no table.
    fn bit(&self, reach: Reach, chunk: usize) -> Option<(&AtomicU64, u64)> {
        // Acquire: sees the table's zeros. Pairs with the Release in `add_table`.
        let table = NonNull::new(self.tables.get(reach.number)?.load(Ordering::Acquire))?;
        // SAFETY: a table has a bit for each chunk of its window, and stays.
        (chunk < reach.bytes.div_ceil(CHUNK_BYTES))
            .then(|| unsafe { (&*table.as_ptr().add(chunk / 64), 1 << (chunk % 64)) })
    }

    /// Gives the window a table; false if memory runs out.
    fn add_table(&self, reach: Reach) -> bool {
        let Some(place) = self.tables.get(reach.number) else { return false };
        // Relaxed: `bit` looks again.
        if !place.load(Ordering::Relaxed).is_null() {
            return true;
        }
        let bytes = system_page::whole(reach.bytes.div_ceil(8 * CHUNK_BYTES * PAGE_BYTES)) * PAGE_BYTES;
        let Some(table) = O::map(bytes) else { return false };
        // SAFETY: this thread's own mapping.
        unsafe { O::name(table, bytes, c"hz3: tables") };
        // Release: as above.
        let put = place.compare_exchange(null_mut(), table.as_ptr().cast(), Ordering::Release, Ordering::Relaxed);
        if put.is_err() {
            // SAFETY: this thread's own mapping, which nothing uses. Another thread was first.
            unsafe {
                let _ = O::unmap(table, bytes);
            }
        }
        self.is_any.store(1, Ordering::Relaxed);
        true
    }

    /// Whether a whole chunk from `start` to `end` is not left out yet.
    pub fn has_more(&self, reach: Reach, start: usize, end: usize) -> bool {
        whole_chunks(reach, start, end)
            .any(|chunk| self.bit(reach, chunk).is_none_or(|(word, bit)| word.load(Ordering::Relaxed) & bit == 0))
    }

    /// Has core dumps leave out the whole chunks from `start` to `end`; false if memory runs out.
    ///
    /// # Safety
    /// The caller owns the range, mapped, and nothing uses it.
    #[must_use]
    pub unsafe fn leave_out(&self, reach: Reach, start: usize, end: usize) -> bool {
        let chunks = whole_chunks(reach, start, end);
        if chunks.is_empty() || !self.add_table(reach) {
            return false;
        }
        // Before the advice: a chunk that is dumped although its bit is set costs one call.
        for (word, bit) in chunks.clone().filter_map(|chunk| self.bit(reach, chunk)) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        let start = NonNull::new(with_exposed_provenance_mut(reach.base + chunks.start * CHUNK_BYTES));
        // SAFETY: whole chunks of the caller's range.
        start.into_iter().for_each(|start| unsafe { O::leave_out_of_dumps(start, chunks.len() * CHUNK_BYTES) });
        true
    }

    /// Calls `change` with each of `chunks` that is left out, which then is no longer.
    fn clear(&self, reach: Reach, chunks: Range<usize>, change: impl Fn(NonNull<u8>)) {
        for chunk in chunks {
            let Some((word, bit)) = self.bit(reach, chunk) else { return };
            if word.load(Ordering::Relaxed) & bit != 0 && word.fetch_and(!bit, Ordering::Relaxed) & bit != 0 {
                NonNull::new(with_exposed_provenance_mut(reach.base + chunk * CHUNK_BYTES))
                    .into_iter()
                    .for_each(&change);
            }
        }
    }

    /// Has the chunks from `start` to `end` dumped again, of which the caller has taken a part.
    #[cold]
    pub fn dump_again(&self, reach: Reach, start: usize, end: usize) {
        let chunks = (start - reach.base) / CHUNK_BYTES..(end - reach.base).div_ceil(CHUNK_BYTES);
        // SAFETY: contents and access stay, whoever owns the rest of the chunk.
        self.clear(reach, chunks, |chunk| unsafe { O::dump_again(chunk, CHUNK_BYTES) });
    }

    /// Forgets the whole chunks from `start` to `end`, which are unmapped. What is left of another one is left out still.
    pub fn forget(&self, reach: Reach, start: usize, end: usize) {
        self.clear(reach, whole_chunks(reach, start, end), |_| {});
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::platform::linux::Linux;

    #[test]
    fn whole_chunks_are_left_out_until_a_part_is_taken_or_all_of_it_unmapped() {
        let all = LeftOut::<Linux, 2>::new();
        let bytes = 16 * CHUNK_BYTES;
        let base = Linux::map(bytes).expect("memory").as_ptr().expose_provenance();
        let reach = Reach { number: 1, base, bytes };
        let at = |chunk: usize| base + chunk * CHUNK_BYTES;
        assert!(all.has_more(reach, base, at(16)) && !all.is_any());
        // SAFETY: the test's own mapping, which nothing uses.
        assert!(unsafe { all.leave_out(reach, at(2) + PAGE_BYTES, at(10) - PAGE_BYTES) });
        assert!(all.is_any() && !all.has_more(reach, at(3), at(9)));
        assert!(all.has_more(reach, at(2), at(9)) && all.has_more(reach, at(3), at(10)));
        // No chunk is whole.
        assert!(!all.has_more(reach, at(12) + PAGE_BYTES, at(13)));
        // SAFETY: as above.
        assert!(!unsafe { all.leave_out(reach, at(12) + PAGE_BYTES, at(13)) });
        all.dump_again(reach, at(5) - PAGE_BYTES, at(5) + PAGE_BYTES);
        assert!(all.has_more(reach, at(4), at(5)) && all.has_more(reach, at(5), at(6)));
        assert!(!all.has_more(reach, at(3), at(4)) && !all.has_more(reach, at(6), at(9)));
        all.forget(reach, at(7) + PAGE_BYTES, at(9));
        assert!(!all.has_more(reach, at(6), at(8)) && all.has_more(reach, at(8), at(9)));
    }
}
