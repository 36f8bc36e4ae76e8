//! Runs: the free stretches of pages of all arenas, and how spans come from them and return.
//!
//! ```text
//! lists[kind][class] → run ⇄ run ⇄ …          kind: dirty (may hold memory) or clean (reads as zero)
//! oldest dirty run ⇄ … ⇄ youngest             by the time the larger part of it became dirty
//! ```
//!
//! Classes are eight per doubling of the page count. A request takes the smallest of the first few runs
//! of its own class that fit, else the first run of the next class that has any; dirty runs before clean
//! ones, because their pages are already there. A run that returns merges at once with its neighbours of
//! the same kind, found through the page tags of their edges.
//!
//! One lock, held for a bounded number of steps and never across a system call.

mod ages;
mod check;
mod last_look;

use crate::pages::arena::{Arenas, NotGrown, Stretch};
use crate::pages::page_tag::PageTag;
use crate::pages::run_lists::{Lists, class_of};
use crate::pages::span::{Kind, Span, Spans, at};
use crate::platform::options::Options;
use crate::platform::os::Os;
use crate::platform::sync::{Guard, Mutex};
use crate::platform::units::{PAGE_BYTES, SpanId, elapsed_ms};
use core::ptr::NonNull;

/// Runs of the request's own class that are looked at before a larger class is taken.
const LOOKS: usize = 8;
/// Descriptors fetched at a time.
const SPARE_BATCH: u32 = 32;
/// Spares that one operation can use up: one for each cut.
const SPARES_NEEDED: u32 = 2;
/// Most pages of one purge call: bounds the time that one thread spends in the kernel.
const PURGE_PAGES: usize = 4096;

/// The index proper; everything in it belongs to the holder of the run lock.
struct Index {
    dirty: Lists,
    clean: Lists,
    oldest: SpanId,
    youngest: SpanId,
    spares: SpanId,
    spare_count: u32,
    /// Runs that are being given back at this moment, and are in no list meanwhile.
    in_purge: u32,
    /// Their pages.
    in_purge_pages: usize,
}

impl Index {
    /// The lists of `kind`, which is dirty or clean.
    fn lists(&mut self, kind: Kind) -> &mut Lists {
        if kind == Kind::Dirty { &mut self.dirty } else { &mut self.clean }
    }
}

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
        Self {
            arenas: Arenas::new(options),
            spans: Spans::new(),
            index: Mutex::new(Index {
                dirty: Lists::new(),
                clean: Lists::new(),
                oldest: SpanId::NONE,
                youngest: SpanId::NONE,
                spares: SpanId::NONE,
                spare_count: 0,
                in_purge: 0,
                in_purge_pages: 0,
            }),
        }
    }

    #[allow(clippy::mut_from_ref, reason = "the run lock stands in for the exclusive borrow")]
    fn span(&self, id: SpanId) -> &mut Span {
        // SAFETY: ids in the index and in tags came from the table; the run lock, held by every caller,
        // is what allows the exclusive reference, and no caller keeps one across another call of this.
        unsafe { &mut *at(&self.spans, id) }
    }

    /// Takes `pages` pages whose address is a multiple of `align_pages` pages (a power of two). The span
    /// is in transit: the caller gives it its kind and tags. `None` when memory has run out.
    pub fn allocate(&self, pages: usize, align_pages: usize) -> Option<SpanId> {
        let span_pages = pages.checked_add(align_pages - 1)?;
        loop {
            if let Some(id) = self.take(pages, align_pages)? {
                return Some(id);
            }
            let fits_now = |index: &Index| {
                let class = class_of(span_pages) + 1;
                index.dirty.class_from(class).is_some() || index.clean.class_from(class).is_some()
            };
            // The descriptor first: a stretch that was committed must not be lost for want of one.
            let id = self.descriptor()?;
            match self.arenas.grow(span_pages, || fits_now(&self.index.lock())) {
                Ok(stretch) => self.add(stretch, id),
                // Another thread may take those first; then the next turn grows.
                Err(NotGrown::Needless) => self.retire_descriptor(id),
                Err(NotGrown::Refused) => {
                    self.retire_descriptor(id);
                    let index = self.index.lock();
                    let is_waiting = index.in_purge > 0;
                    let fits = fits_now(&index);
                    drop(index);
                    if !is_waiting && !fits {
                        return self.take_any(pages, align_pages);
                    }
                    if is_waiting {
                        // What another thread gives back to the system just now may be all there is.
                        O::yield_now();
                    }
                }
            }
        }
    }

    /// Makes a stretch of fresh pages available, under the descriptor `id`.
    fn add(&self, stretch: Stretch, id: SpanId) {
        let mut index = self.index.lock();
        let span = self.span(id);
        (span.start, span.pages, span.kind) = (stretch.start, stretch.pages as u32, Kind::Clean);
        self.insert(&mut index, id);
    }

    /// Looks for a run. The outer `None` says that descriptors can't be had, the inner that no run fits.
    #[allow(clippy::option_option)]
    fn take(&self, pages: usize, align_pages: usize) -> Option<Option<SpanId>> {
        let mut index = self.lock_with_spares()?;
        for kind in [Kind::Dirty, Kind::Clean] {
            if let Some((id, start)) = self.find(&mut index, kind, pages, align_pages) {
                return Some(self.cut(&mut index, id, start, pages));
            }
        }
        Some(None)
    }

    /// Where `pages` aligned pages begin in the run `id`, if they fit.
    fn fit(&self, id: SpanId, pages: usize, align_pages: usize) -> Option<usize> {
        let span = self.span(id);
        let start = span.start.checked_next_multiple_of(align_pages * PAGE_BYTES)?;
        (start + pages * PAGE_BYTES <= span.start + span.bytes()).then_some(start)
    }

    /// A run of `kind` that holds `pages` aligned pages, and where in it they begin.
    fn find(&self, index: &mut Index, kind: Kind, pages: usize, align_pages: usize) -> Option<(SpanId, usize)> {
        let lists = index.lists(kind);
        let class = class_of(pages);
        let (mut best, mut best_pages) = (None, u32::MAX);
        let mut id = lists.head(class);
        for _ in 0..LOOKS {
            if id.is_none() {
                break;
            }
            if let Some(start) = self.fit(id, pages, align_pages)
                && self.span(id).pages < best_pages
            {
                (best, best_pages) = (Some((id, start)), self.span(id).pages);
            }
            id = self.span(id).next;
        }
        if best.is_some() {
            return best;
        }
        // Any run of a class above that of the padded size fits, whatever its alignment.
        let mut class = class + 1;
        let certain = class_of(pages + align_pages - 1) + 1;
        while let Some(found) = lists.class_from(class) {
            let id = lists.head(found);
            if let Some(start) = self.fit(id, pages, align_pages) {
                return Some((id, start));
            }
            if found >= certain {
                return None;
            }
            class = found + 1;
        }
        None
    }

    /// Cuts `pages` at `start` out of the free run `id`. What is left keeps its kind and its age.
    fn cut(&self, index: &mut Index, id: SpanId, start: usize, pages: usize) -> Option<SpanId> {
        let (run_start, run_pages, kind, stamp) = {
            let run = self.span(id);
            (run.start, run.pages as usize, run.kind, run.stamp)
        };
        let front = (start - run_start) / PAGE_BYTES;
        let back = run_pages - front - pages;
        self.unlink(index, id);
        if front == 0 && back == 0 {
            self.forget_age(index, id);
            self.finish(id, kind);
            return Some(id);
        }
        let taken = self.new_descriptor(index)?;
        {
            let span = self.span(taken);
            (span.start, span.pages, span.kind) = (start, pages as u32, kind);
        }
        // The old descriptor stays with the back part, or the front part where there is no back.
        let (rest_start, rest_pages) = if back > 0 { (start + pages * PAGE_BYTES, back) } else { (run_start, front) };
        {
            let rest = self.span(id);
            (rest.start, rest.pages) = (rest_start, rest_pages as u32);
        }
        self.link(index, id);
        if front > 0 && back > 0 {
            let gap = self.new_descriptor(index)?;
            {
                let span = self.span(gap);
                (span.start, span.pages, span.kind, span.stamp) = (run_start, front as u32, kind, stamp);
            }
            self.link(index, gap);
            if kind == Kind::Dirty {
                self.insert_age_before(index, gap, id);
            }
        }
        self.finish(taken, kind);
        Some(taken)
    }

    /// Marks a run that has left the index.
    fn finish(&self, id: SpanId, was: Kind) {
        self.span(id).zeroed = was == Kind::Clean;
        self.span(id).kind = Kind::Transit;
        self.tag_edges(id);
    }

    /// Returns a span's pages; they count as dirty from `now` on. The caller has cleared the tags between
    /// the first and the last page and owns the span, which ends here.
    pub fn release(&self, id: SpanId, now: u32) {
        let mut index = self.index.lock();
        let span = self.span(id);
        (span.kind, span.stamp) = (Kind::Dirty, now);
        self.insert(&mut index, id);
    }

    /// As [`Runs::release`], of pages that hold no memory.
    pub fn release_clean(&self, id: SpanId) {
        let mut index = self.index.lock();
        self.span(id).kind = Kind::Clean;
        self.insert(&mut index, id);
    }

    /// Cuts the span `id`, which the caller owns, down to `pages`; the rest becomes free and dirty.
    /// Does nothing where no descriptor can be had.
    pub fn shrink(&self, id: SpanId, pages: usize, now: u32) {
        let Some(mut index) = self.lock_with_spares() else { return };
        let Some(rest) = self.new_descriptor(&mut index) else { return };
        let (start, old_pages) = {
            let span = self.span(id);
            (span.start, span.pages)
        };
        self.span(id).pages = pages as u32;
        self.tag_edges(id);
        let span = self.span(rest);
        (span.start, span.pages) = (start + pages * PAGE_BYTES, old_pages - pages as u32);
        (span.kind, span.stamp) = (Kind::Dirty, now);
        self.insert(&mut index, rest);
    }

    /// Grows the large span `id`, which the caller owns, to `pages` where it lies. False where the pages
    /// behind it are not free.
    pub fn extend(&self, id: SpanId, pages: usize) -> bool {
        let Some(mut index) = self.lock_with_spares() else { return false };
        let (start, old_pages) = {
            let span = self.span(id);
            (span.start, span.pages as usize)
        };
        let end = start + old_pages * PAGE_BYTES;
        let tag = self.arenas.tag_value(end);
        if !matches!(tag.kind(), Kind::Dirty | Kind::Clean)
            || (self.span(tag.span()).pages as usize) < pages - old_pages
        {
            return false;
        }
        let Some(more) = self.cut(&mut index, tag.span(), end, pages - old_pages) else { return false };
        self.arenas.set_tag(end - PAGE_BYTES, PageTag::NONE);
        self.arenas.set_tag(end, PageTag::NONE);
        self.retire(&mut index, more);
        self.span(id).pages = pages as u32;
        self.tag_edges(id);
        true
    }

    /// Puts a free run into the index, merged with its neighbours of the same kind.
    fn insert(&self, index: &mut Index, id: SpanId) {
        let (start, bytes, kind) = {
            let span = self.span(id);
            (span.start, span.bytes(), span.kind)
        };
        let neighbour = |address: usize| {
            let tag = self.arenas.tag_value(address);
            (tag.kind() == kind && !tag.span().is_none()).then(|| tag.span())
        };
        let before = neighbour(start.wrapping_sub(PAGE_BYTES));
        let after = neighbour(start + bytes);
        // The largest part's descriptor survives, and with it the part's age.
        let mut keeper = id;
        for other in [before, after].into_iter().flatten() {
            self.unlink(index, other);
            if self.span(other).pages > self.span(keeper).pages {
                keeper = other;
            }
        }
        let (mut first, mut end) = (start, start + bytes);
        for part in [Some(id), before, after].into_iter().flatten() {
            let (part_start, part_bytes) = {
                let span = self.span(part);
                (span.start, span.bytes())
            };
            first = first.min(part_start);
            end = end.max(part_start + part_bytes);
            if before.is_some() || after.is_some() {
                self.arenas.set_tag(part_start, PageTag::NONE);
                self.arenas.set_tag(part_start + part_bytes - PAGE_BYTES, PageTag::NONE);
            }
            if part != keeper {
                if part != id {
                    self.forget_age(index, part);
                }
                self.retire(index, part);
            }
        }
        {
            let span = self.span(keeper);
            (span.start, span.pages) = (first, ((end - first) / PAGE_BYTES) as u32);
        }
        if keeper == id && kind == Kind::Dirty {
            self.append_youngest(index, id);
        }
        self.link(index, keeper);
    }

    /// Puts a run into the list of its class and tags its edges.
    fn link(&self, index: &mut Index, id: SpanId) {
        let (kind, pages) = {
            let span = self.span(id);
            (span.kind, span.pages as usize)
        };
        let lists = index.lists(kind);
        let class = class_of(pages);
        let head = lists.head(class);
        (self.span(id).next, self.span(id).previous) = (head, SpanId::NONE);
        if !head.is_none() {
            self.span(head).previous = id;
        }
        lists.set_head(class, id);
        lists.pages += pages;
        self.tag_edges(id);
    }

    fn unlink(&self, index: &mut Index, id: SpanId) {
        let (kind, pages, next, previous) = {
            let span = self.span(id);
            (span.kind, span.pages as usize, span.next, span.previous)
        };
        let lists = index.lists(kind);
        if previous.is_none() {
            lists.set_head(class_of(pages), next);
        } else {
            self.span(previous).next = next;
        }
        if !next.is_none() {
            self.span(next).previous = previous;
        }
        lists.pages -= pages;
    }

    fn tag_edges(&self, id: SpanId) {
        let (start, bytes, kind) = {
            let span = self.span(id);
            (span.start, span.bytes(), span.kind)
        };
        let tag = PageTag::edge(kind, id);
        self.arenas.set_tag(start, tag);
        self.arenas.set_tag(start + bytes - PAGE_BYTES, tag);
    }

    /// Takes the run lock while descriptors for one operation are at hand. `None` when memory has run out.
    fn lock_with_spares(&self) -> Option<Guard<'_, Index, O>> {
        loop {
            let index = self.index.lock();
            if index.spare_count >= SPARES_NEEDED {
                return Some(index);
            }
            drop(index);
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
        let mut index = self.index.lock();
        self.span(SpanId(last)).next = index.spares;
        index.spares = SpanId(first);
        index.spare_count += SPARE_BATCH;
        Some(())
    }

    fn new_descriptor(&self, index: &mut Index) -> Option<SpanId> {
        let id = index.spares;
        if id.is_none() {
            return None;
        }
        index.spares = self.span(id).next;
        index.spare_count -= 1;
        Some(id)
    }

    /// A descriptor for a block outside the arenas. `None` when memory has run out.
    pub fn descriptor(&self) -> Option<SpanId> {
        let mut index = self.lock_with_spares()?;
        self.new_descriptor(&mut index)
    }

    /// Takes back what [`Runs::descriptor`] gave out.
    pub fn retire_descriptor(&self, id: SpanId) {
        self.retire(&mut self.index.lock(), id);
    }

    fn retire(&self, index: &mut Index, id: SpanId) {
        self.span(id).next = index.spares;
        self.span(id).kind = Kind::None;
        index.spares = id;
        index.spare_count += 1;
    }

    /// Gives back the memory of dirty runs that are at least `delay_ms` old at `now`, oldest first, until
    /// `most_bytes` have gone, or as many as are dirty now: what other threads add meanwhile is not pursued. Returns how
    /// many bytes went. The lock is not held during the system calls.
    pub fn purge(&self, now: u32, delay_ms: u32, most_bytes: usize) -> usize {
        let most_bytes = most_bytes.min(self.index.lock().dirty.pages * PAGE_BYTES);
        // What is refused, as locked memory is, does not keep the rest, and is not asked for for ever.
        let (mut purged, mut tried) = (0, 0);
        while tried < most_bytes {
            let id = {
                let Some(mut index) = self.lock_with_spares() else { break };
                let oldest = index.oldest;
                if oldest.is_none() || elapsed_ms(self.span(oldest).stamp, now) < delay_ms {
                    break;
                }
                let (start, pages) = (self.span(oldest).start, self.span(oldest).pages as usize);
                let Some(id) = self.cut(&mut index, oldest, start, pages.min(PURGE_PAGES)) else { break };
                index.in_purge += 1;
                index.in_purge_pages += self.span(id).pages as usize;
                id
            };
            let (start, bytes) = {
                // SAFETY: the span is in transit and this thread's alone.
                let span = unsafe { &*at(&self.spans, id) };
                (span.start, span.bytes())
            };
            // SAFETY: a free run's contents are nobody's, and its pages are committed.
            let gone = NonNull::new(core::ptr::with_exposed_provenance_mut(start))
                .is_some_and(|start| unsafe { O::purge(start, bytes) });
            let mut index = self.index.lock();
            {
                let span = self.span(id);
                (span.kind, span.stamp) = (if gone { Kind::Clean } else { Kind::Dirty }, now);
            }
            self.insert(&mut index, id);
            index.in_purge -= 1;
            index.in_purge_pages -= bytes / PAGE_BYTES;
            drop(index);
            tried += bytes;
            purged += if gone { bytes } else { 0 };
        }
        purged
    }

    /// Bytes of dirty and of clean free runs, and of those that are being given back at this moment.
    pub fn free_bytes(&self) -> (usize, usize, usize) {
        let index = self.index.lock();
        (index.dirty.pages * PAGE_BYTES, index.clean.pages * PAGE_BYTES, index.in_purge_pages * PAGE_BYTES)
    }

    /// Takes the run lock, and the growing lock before it, for fork; at a moment when no run is out of the
    /// lists for its purge, because in the child nobody would put it back.
    pub fn acquire_for_fork(&self) {
        self.arenas.growing().acquire();
        self.index.acquire_when(|index| index.in_purge == 0);
    }

    /// Releases what [`Runs::acquire_for_fork`] took, in the parent.
    ///
    /// # Safety
    /// The calling thread took them.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.index.release();
            self.arenas.growing().release();
        }
    }

    /// As [`Runs::release_after_fork`], in the child.
    ///
    /// # Safety
    /// The calling thread took them before the fork.
    pub unsafe fn reset_after_fork(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.index.reset_after_fork();
            self.arenas.growing().reset_after_fork();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::os::Linux;
    use rand::{Rng, SeedableRng};

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
                let start = RUNS.span(id).start;
                assert_eq!(RUNS.span(id).pages as usize, pages);
                assert_eq!(start % (align * PAGE_BYTES), 0);
                assert!(
                    live.iter()
                        .all(|&(_, other, size)| start + pages * PAGE_BYTES <= other
                            || other + size * PAGE_BYTES <= start)
                );
                live.push((id, start, pages));
            } else {
                let (id, ..) = live.swap_remove(rng.random_range(0..live.len()));
                RUNS.release(id, round);
            }
            if round % 64 == 0 {
                RUNS.purge(round, 500, 1 << 20);
                assert_eq!(RUNS.check(), Ok(()));
            }
        }
        for (id, ..) in live.drain(..) {
            RUNS.release(id, 20_000);
        }
        RUNS.purge(40_000, 0, usize::MAX);
        assert_eq!(RUNS.check(), Ok(()));
        assert_eq!(RUNS.free_bytes(), (0, RUNS.arenas.reserved_and_committed().1, 0));
    }

    #[test]
    fn a_run_grows_into_the_free_pages_behind_it_and_shrinks_again() {
        static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 64 << 20));
        let id = RUNS.allocate(10, 1).expect("memory");
        assert!(RUNS.extend(id, 30));
        assert_eq!(RUNS.span(id).pages, 30);
        RUNS.shrink(id, 5, 0);
        assert_eq!(RUNS.check(), Ok(()));
        let wall = RUNS.allocate(25, 1).expect("memory");
        assert!(!RUNS.extend(id, 6) || RUNS.span(wall).start != RUNS.span(id).start + 6 * PAGE_BYTES);
        RUNS.release(id, 0);
        RUNS.release(wall, 0);
        assert_eq!(RUNS.check(), Ok(()));
    }
}
