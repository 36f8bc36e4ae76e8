//! Runs: the free stretches of pages of all arenas, and how spans come from them and return.
//!
//! Dirty runs serve before clean ones, and both before fresh pages. One lock, held for a bounded number of steps and
//! never across a system call.

use crate::pages::arena::{Arenas, NotGrown, Stretch};
use crate::pages::page_tag::{Kind, PageTag};
use crate::pages::run_index::{FreeRuns, Index};
use crate::pages::span::{Span, Spans, at};
use crate::platform::options::Options;
use crate::platform::os::Os;
use crate::platform::sync::{ForkLock, Mutex};
use crate::platform::units::{PAGE_BYTES, SpanId, elapsed_ms};
use core::ptr::NonNull;

/// Descriptors fetched at a time.
const SPARE_BATCH: u32 = 32;
/// Most pages of one purge call: bounds the time that one thread spends in the kernel.
const PURGE_PAGES: usize = 4096;

/// Free page runs over all arenas.
pub struct Runs<O: Os> {
    /// The address space under the runs.
    pub arenas: Arenas<O>,
    /// Every span descriptor.
    pub spans: Spans,
    index: Mutex<Index, O>,
}

impl<O: Os> Runs<O> {
    /// Nothing yet.
    pub const fn new(options: Options) -> Self {
        Self { arenas: Arenas::new(options), spans: Spans::new(), index: Mutex::new(Index::new()) }
    }

    fn lock(&self) -> FreeRuns<'_, O> {
        FreeRuns { index: self.index.lock(), spans: &self.spans, arenas: &self.arenas }
    }

    /// The run lock, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &self.index
    }

    /// Takes the run lock while descriptors for one operation are at hand. `None` when memory has run out.
    fn lock_with_spares(&self) -> Option<FreeRuns<'_, O>> {
        loop {
            let free = self.lock();
            if free.has_spares() {
                return Some(free);
            }
            drop(free);
            self.add_spares()?;
        }
    }

    /// Adds fresh descriptors. They are chained before the lock is taken: whoever holds it then waits for no
    /// page fault.
    #[cold]
    fn add_spares(&self) -> Option<()> {
        let first = self.spans.allocate::<O>(SPARE_BATCH)?;
        let last = first + SPARE_BATCH - 1;
        for id in first..last {
            // SAFETY: just handed out, to this thread alone.
            unsafe { (*at(&self.spans, SpanId(id))).next = SpanId(id + 1) };
        }
        self.lock().add_spares(SpanId(first), SpanId(last), SPARE_BATCH);
        Some(())
    }

    /// Takes `pages` pages whose address is a multiple of `align_pages` pages (a power of two). The span
    /// is in transit: the caller gives it its kind and tags. `None` when memory has run out.
    pub fn allocate(&self, pages: usize, align_pages: usize) -> Option<SpanId> {
        let span_pages = pages.checked_add(align_pages - 1)?;
        loop {
            if let Some(id) = self.lock_with_spares()?.take(pages, align_pages) {
                return Some(id);
            }
            // The descriptor first: a stretch that was committed must not be lost for want of one.
            let id = self.descriptor()?;
            match self.arenas.grow(span_pages, || self.lock().fits(span_pages)) {
                Ok(stretch) => self.add(stretch, id),
                Err(reason) => {
                    // SAFETY: the descriptor is this thread's, and was not used.
                    unsafe { self.retire_descriptor(id) };
                    // Where it was needless, another thread may take what came free first; then the next turn grows.
                    if reason == NotGrown::Refused && !self.may_come_free(span_pages) {
                        return self.take_any(pages, align_pages);
                    }
                }
            }
        }
    }

    /// Whether it is worth another look although the system has refused: a run that fits has come free, or another
    /// thread is just now giving one back to the system, which may be all there is.
    fn may_come_free(&self, pages: usize) -> bool {
        let free = self.lock();
        let is_waiting = free.index.in_purge > 0;
        let fits = free.fits(pages);
        drop(free);
        if is_waiting {
            O::yield_now();
        }
        is_waiting || fits
    }

    /// A free run of `pages` aligned pages, if there is one, after a look at every run that might do.
    #[cold]
    fn take_any(&self, pages: usize, align_pages: usize) -> Option<SpanId> {
        self.lock_with_spares()?.take_any(pages, align_pages)
    }

    /// Makes a stretch of fresh pages available, under the descriptor `id`.
    fn add(&self, stretch: Stretch, id: SpanId) {
        let mut free = self.lock();
        let span = free.span(id);
        (span.start, span.pages, span.kind) = (stretch.start, stretch.pages as u32, Kind::Clean);
        free.insert(id);
    }

    /// Returns a span's pages; they count as dirty from `now` on.
    ///
    /// # Safety
    /// The caller owns the span, which ends here, has cleared the tags between its first and its last page, and nothing
    /// uses the pages.
    pub unsafe fn release(&self, id: SpanId, now: u32) {
        let mut free = self.lock();
        let span = free.span(id);
        (span.kind, span.stamp) = (Kind::Dirty, now);
        free.insert(id);
    }

    /// As [`Runs::release`], of pages that hold no memory.
    ///
    /// # Safety
    /// As for [`Runs::release`]; the pages read as zero.
    pub unsafe fn release_clean(&self, id: SpanId) {
        let mut free = self.lock();
        free.span(id).kind = Kind::Clean;
        free.insert(id);
    }

    /// Cuts the span `id` down to `pages`; the rest becomes free and dirty. Does nothing where no descriptor can be had.
    ///
    /// # Safety
    /// The caller owns the span, of which nothing uses the rest.
    pub unsafe fn shrink(&self, id: SpanId, pages: usize, now: u32) {
        let Some(mut free) = self.lock_with_spares() else { return };
        let Some(rest) = free.new_descriptor() else { return };
        let (start, old_pages) = {
            let span = free.span(id);
            (span.start, span.pages)
        };
        free.span(id).pages = pages as u32;
        free.tag_edges(id);
        let span = free.span(rest);
        (span.start, span.pages) = (start + pages * PAGE_BYTES, old_pages - pages as u32);
        (span.kind, span.stamp) = (Kind::Dirty, now);
        free.insert(rest);
    }

    /// Grows the large span `id` to `pages` where it lies. False where the pages behind it are not free.
    ///
    /// # Safety
    /// The caller owns the span.
    pub unsafe fn extend(&self, id: SpanId, pages: usize) -> bool {
        let Some(mut free) = self.lock_with_spares() else { return false };
        let (start, old_pages) = {
            let span = free.span(id);
            (span.start, span.pages as usize)
        };
        let end = start + old_pages * PAGE_BYTES;
        let tag = self.arenas.tag_value(end);
        if !matches!(tag.kind(), Kind::Dirty | Kind::Clean)
            || (free.span(tag.span()).pages as usize) < pages - old_pages
        {
            return false;
        }
        let Some(more) = free.cut(tag.span(), end, pages - old_pages) else { return false };
        self.arenas.set_tag(end - PAGE_BYTES, PageTag::NONE);
        self.arenas.set_tag(end, PageTag::NONE);
        free.retire(more);
        free.span(id).pages = pages as u32;
        free.tag_edges(id);
        true
    }

    /// A descriptor for a block outside the arenas. `None` when memory has run out.
    pub fn descriptor(&self) -> Option<SpanId> {
        self.lock_with_spares()?.new_descriptor()
    }

    /// Takes back what [`Runs::descriptor`] gave out.
    ///
    /// # Safety
    /// The caller owns the descriptor, and nothing refers to it.
    pub unsafe fn retire_descriptor(&self, id: SpanId) {
        self.lock().retire(id);
    }

    /// Gives back the memory of dirty runs that are at least `delay_ms` old at `now`, oldest first, until
    /// `most_bytes` have gone, or as many as are dirty now: what other threads add meanwhile is not pursued. Returns how
    /// many bytes went. The lock is not held during the system calls.
    pub fn purge(&self, now: u32, delay_ms: u32, most_bytes: usize) -> usize {
        let most_bytes = most_bytes.min(self.lock().index.dirty.pages * PAGE_BYTES);
        // What is refused, as locked memory is, does not keep the rest, and is not asked for for ever.
        let (mut purged, mut tried) = (0, 0);
        while tried < most_bytes {
            let Some(id) = self.take_out_oldest(now, delay_ms) else { break };
            // SAFETY: the span is in transit and this thread's alone.
            let span = unsafe { &*at(&self.spans, id) };
            let (start, bytes) = (span.start, span.bytes());
            // SAFETY: a free run's contents are nobody's, and its pages are committed.
            let gone = NonNull::new(core::ptr::with_exposed_provenance_mut(start))
                .is_some_and(|start| unsafe { O::purge(start, bytes) });
            self.put_back(id, if gone { Kind::Clean } else { Kind::Dirty }, now);
            tried += bytes;
            purged += if gone { bytes } else { 0 };
        }
        purged
    }

    /// Takes the oldest dirty run out of the index, or a part of it, if it is at least `delay_ms` old at `now`.
    fn take_out_oldest(&self, now: u32, delay_ms: u32) -> Option<SpanId> {
        let mut free = self.lock_with_spares()?;
        let oldest = free.index.oldest;
        if oldest.is_none() || elapsed_ms(free.span(oldest).stamp, now) < delay_ms {
            return None;
        }
        let (start, pages) = (free.span(oldest).start, free.span(oldest).pages as usize);
        let id = free.cut(oldest, start, pages.min(PURGE_PAGES))?;
        free.index.in_purge += 1;
        free.index.in_purge_pages += free.span(id).pages as usize;
        Some(id)
    }

    /// Undoes [`Runs::take_out_oldest`]; the run is of `kind` from `now` on.
    fn put_back(&self, id: SpanId, kind: Kind, now: u32) {
        let mut free = self.lock();
        let pages = free.span(id).pages as usize;
        (free.span(id).kind, free.span(id).stamp) = (kind, now);
        free.insert(id);
        free.index.in_purge -= 1;
        free.index.in_purge_pages -= pages;
    }

    /// Bytes of dirty and of clean free runs, and of those that are being given back at this moment.
    pub fn free_bytes(&self) -> (usize, usize, usize) {
        let index = self.index.lock();
        (index.dirty.pages * PAGE_BYTES, index.clean.pages * PAGE_BYTES, index.in_purge_pages * PAGE_BYTES)
    }

    /// As [`FreeRuns::walk`].
    ///
    /// # Errors
    /// As for that.
    pub fn walk(&self, look: impl FnMut(&Span) -> Result<(), &'static str>) -> Result<(), &'static str> {
        self.lock().walk(look)
    }

    /// As [`FreeRuns::check`].
    ///
    /// # Errors
    /// As for that.
    pub fn check(&self) -> Result<(), &'static str> {
        self.lock().check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::run_lists::class_of;
    use crate::platform::os::Linux;
    use rand::{Rng, SeedableRng};

    /// Where the run `id` begins, and its pages.
    fn place(runs: &Runs<Linux>, id: SpanId) -> (usize, usize) {
        // SAFETY: the test's own run.
        let span = unsafe { &*at(&runs.spans, id) };
        (span.start, span.pages as usize)
    }

    fn release(runs: &Runs<Linux>, id: SpanId, now: u32) {
        // SAFETY: the test's own run, which nothing uses.
        unsafe { runs.release(id, now) }
    }

    #[test]
    fn random_runs_never_overlap_and_all_merge_again() {
        static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 256 << 20));
        let mut rng = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(7);
        let mut live: std::vec::Vec<(SpanId, usize, usize)> = std::vec::Vec::new();
        for round in 0..20_000_u32 {
            if live.is_empty() || rng.random_range(0..100) < 52 {
                let pages = 1 << rng.random_range(0..8);
                let pages = rng.random_range(1..=pages);
                let align = if rng.random_range(0..8) == 0 { 1 << rng.random_range(0..6) } else { 1 };
                let id = RUNS.allocate(pages, align).expect("memory");
                let (start, taken) = place(&RUNS, id);
                assert_eq!(taken, pages);
                assert_eq!(start % (align * PAGE_BYTES), 0);
                assert!(
                    live.iter()
                        .all(|&(_, other, size)| start + pages * PAGE_BYTES <= other
                            || other + size * PAGE_BYTES <= start)
                );
                live.push((id, start, pages));
            } else {
                let (id, ..) = live.swap_remove(rng.random_range(0..live.len()));
                release(&RUNS, id, round);
            }
            if round % 64 == 0 {
                RUNS.purge(round, 500, 1 << 20);
                assert_eq!(RUNS.check(), Ok(()));
            }
        }
        for (id, ..) in live.drain(..) {
            release(&RUNS, id, 20_000);
        }
        RUNS.purge(40_000, 0, usize::MAX);
        assert_eq!(RUNS.check(), Ok(()));
        assert_eq!(RUNS.free_bytes(), (0, RUNS.arenas.reserved_and_committed().1, 0));
    }

    #[test]
    fn a_run_grows_into_the_free_pages_behind_it_and_shrinks_again() {
        static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 64 << 20));
        let id = RUNS.allocate(10, 1).expect("memory");
        // SAFETY: the test's own run, here and below.
        let extend = |pages| unsafe { RUNS.extend(id, pages) };
        assert!(extend(30));
        assert_eq!(place(&RUNS, id).1, 30);
        // SAFETY: as above.
        unsafe { RUNS.shrink(id, 5, 0) };
        assert_eq!(RUNS.check(), Ok(()));
        let wall = RUNS.allocate(25, 1).expect("memory");
        assert!(!extend(6) || place(&RUNS, wall).0 != place(&RUNS, id).0 + 6 * PAGE_BYTES);
        release(&RUNS, id, 0);
        release(&RUNS, wall, 0);
        assert_eq!(RUNS.check(), Ok(()));
    }

    #[test]
    fn one_run_that_fits_is_found_behind_many_that_do_not() {
        const SHORT: usize = 65;
        const LONG: usize = 67;
        assert_eq!(class_of(SHORT), class_of(LONG + 1), "lengths of one class");
        static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 64 << 20));
        let run = |pages| {
            let id = RUNS.allocate(pages, 1).expect("memory");
            // What keeps it from growing together with the next one.
            RUNS.allocate(1, 1).expect("memory");
            id
        };
        let long = run(LONG);
        let short = [(); 40].map(|()| run(SHORT));
        let start = place(&RUNS, long).0;
        release(&RUNS, long, 0);
        short.into_iter().for_each(|id| release(&RUNS, id, 0));
        assert_eq!(RUNS.take_any(LONG + 1, 1), None);
        let found = RUNS.take_any(LONG, 1).expect("the long one");
        assert_eq!(place(&RUNS, found).0, start);
        assert_eq!(RUNS.take_any(LONG, 1), None);
        assert!(RUNS.take_any(SHORT, 1).is_some());
        assert_eq!(RUNS.check(), Ok(()));
    }
}
