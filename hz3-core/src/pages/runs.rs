//! Runs: the free page runs of all arenas; spans are cut from them and merge into them.
//!
//! ```text
//! lists[kind][class] → run ⇄ run ⇄ …          kind: dirty (may hold memory) or clean (reads as zero)
//! oldest dirty run ⇄ … ⇄ youngest             by the time at which the larger part of it returned
//! spares → descriptor → …                     for the next cuts
//! ```
//!
//! Runs begin and end with pages of the system: whoever takes, shrinks or extends one asks for [whole ones](crate::platform::system_page).
//!
//! A request takes a run of its own class, of which most fit, or the one inserted last in the next band that has a longer
//! one: its memory is warm. The search takes a bounded number of steps, and in a class of several lengths a logarithm of its
//! runs. A returned run merges with its neighbours of the same kind, found by the page tags of their edges. Dirty runs serve
//! before clean ones, a long one with what adjoins it, and both before fresh pages. One lock protects all this. It is held
//! for so many steps, except in `take_any`, and never across a system call.

use crate::pages::arena::{Arenas, Growing, NotGrown, PageRange, WINDOWS};
use crate::pages::ends::{self, most_pages};
use crate::pages::fresh::Fresh;
use crate::pages::left_out::{self, LeftOut};
use crate::pages::length_tree::{Nodes, Tree};
use crate::pages::limit::Limit;
use crate::pages::page_map::Reach;
use crate::pages::page_tag::{Kind, PageTag};
use crate::pages::run_lists::{CLASSES, Lists, class_of, rest_of_band};
use crate::pages::span::{SharedPages, Span, Spans, at};
use crate::platform::forks::Forks;
use crate::platform::lock::{ForkLock, Guard, Mutex, Ranked};
use crate::platform::options::Options;
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::platform::transit::Transit;
use crate::platform::units::{PAGE_BYTES, SEGMENT_PAGES, SpanId, elapsed_ms};
use core::ptr::NonNull;
use crossbeam_utils::CachePadded;

const SPARE_BATCH: u32 = 32;
/// Most pages of one purge call: bounds a thread's time in the kernel. Chosen: 2 MiB take 0.2 ms, and smaller steps more
/// time in all.
const PURGE_PAGES: usize = 512;
/// The same after calls that took [`QUICK_US`] at most. Chosen: memory that was never touched goes at once; should it be
/// there, a millisecond and a half.
const MOST_PURGE_PAGES: usize = 8 * PURGE_PAGES;
/// Microseconds of a purge call that met little memory. Chosen: a tenth of what [`PURGE_PAGES`] of it take.
const QUICK_US: u64 = 20;
/// Runs of the request's own class examined, warm ones first, before its tree is. Below 128 pages, the first one fits.
const PROBES: usize = 8;
/// Fewest pages of a request that several adjacent runs may serve. Chosen: below, page faults cost little.
const TOGETHER_PAGES: usize = 256;
/// The same where the soft limit is near: each fresh page then means that another one goes back.
const TOGETHER_PAGES_NEAR_LIMIT: usize = 16;
/// Most adjacent runs that are looked at around one.
const NEIGHBOURS: usize = 8;
/// Most free runs that are looked at before an address. Chosen: less than a microsecond.
const MOST_BEFORE: usize = 48;
/// How often free memory goes back for one request at the hard limit. Chosen: others rarely take it twice.
const ROOM_TURNS: usize = 4;
/// How often a refused request waits for runs that are being purged.
const MAX_WAITS: u32 = 500; // chosen: a tenth of a second
/// Most spare descriptors that one operation uses: one per cut.
const SPARES_NEEDED: u32 = 2;

/// A request that no run served. Until other memory than it found free comes free, it fails again.
#[derive(Clone, Copy)]
struct Failure {
    /// What was wanted; 0 before the first failure.
    pages: usize,
    align_pages: usize,
    /// Counts failures. A span taken since lies in what was free then, and bears this number.
    number: u32,
    /// Whether it may succeed now.
    is_past: bool,
}

/// What the run lock protects.
pub(crate) struct Index {
    pub(crate) dirty: Lists,
    pub(crate) clean: Lists,
    pub(crate) oldest: SpanId,
    youngest: SpanId,
    spares: SpanId,
    spare_count: u32,
    /// Runs being purged, which are in no list.
    in_purge: Transit,
    in_purge_pages: usize,
    /// Most pages of the next purge call.
    purge_pages: usize,
    failure: Failure,
    shared: SharedPages,
    /// Counts runs put into lists.
    insertions: u64,
}

impl Ranked for Index {
    const RANK: Rank = Rank::Runs;

    fn transit(&mut self) -> Option<&mut Transit> {
        Some(&mut self.in_purge)
    }
}

impl Index {
    const fn new() -> Self {
        Self {
            dirty: Lists::new(),
            clean: Lists::new(),
            oldest: SpanId::NONE,
            youngest: SpanId::NONE,
            spares: SpanId::NONE,
            spare_count: 0,
            in_purge: Transit::new(),
            in_purge_pages: 0,
            purge_pages: PURGE_PAGES,
            failure: Failure { pages: 0, align_pages: 0, number: 0, is_past: true },
            shared: SharedPages::new(),
            insertions: 0,
        }
    }

    /// The lists of `kind`: dirty or clean.
    pub(crate) fn lists(&mut self, kind: Kind) -> &mut Lists {
        if kind == Kind::Dirty { &mut self.dirty } else { &mut self.clean }
    }
}

/// The hard limit leaves no room for clean pages.
struct OverLimit;

/// The locked index, with the descriptors and tags it refers to.
pub(crate) struct FreeRuns<'a, O: Os> {
    pub(crate) index: Guard<'a, Index, O>,
    spans: &'a Spans,
    arenas: &'a Arenas<O>,
    fresh: &'a Fresh,
    limit: &'a Limit,
}

impl<O: Os> FreeRuns<'_, O> {
    fn has_spares(&self) -> bool {
        self.index.spare_count >= SPARES_NEEDED
    }

    fn add_spares(&mut self, first: SpanId, last: SpanId, count: u32) {
        self.span(last).next = self.index.spares;
        self.index.spares = first;
        self.index.spare_count += count;
    }

    /// Whether there is a run of a class that serves any request of `pages`.
    fn fits(&self, pages: usize) -> bool {
        let class = class_of(pages) + 1;
        self.index.dirty.class_from(class).is_some() || self.index.clean.class_from(class).is_some()
    }

    /// Takes a run: dirty before clean, because its pages are present. `None` if none fits.
    fn take(&mut self, pages: usize, align_pages: usize) -> Result<Option<SpanId>, OverLimit> {
        if let Some((id, start)) = self.find(Kind::Dirty, pages, align_pages) {
            return Ok(self.cut(id, start, pages));
        }
        let together_pages = if self.limit.is_near() { TOGETHER_PAGES_NEAR_LIMIT } else { TOGETHER_PAGES };
        if pages >= together_pages && align_pages == 1 {
            if let Some(id) = self.take_together(pages) {
                return Ok(Some(id));
            }
        }
        match self.find(Kind::Clean, pages, align_pages) {
            Some((id, start)) if self.charge(pages) => Ok(self.cut(id, start, pages)),
            None if self.limit.excess(&self.arenas.options, pages) == 0 => Ok(None),
            _ => Err(OverLimit),
        }
    }

    /// Counts clean pages that are about to be taken; false if the hard limit forbids it.
    fn charge(&self, pages: usize) -> bool {
        self.limit.charge(&self.arenas.options, pages)
    }

    /// Takes a range of adjacent free runs, an eighth of it dirty at least, after a look at the longest dirty ones.
    fn take_together(&mut self, pages: usize) -> Option<SpanId> {
        let (mut looks, mut above) = (PROBES, class_of(pages) + 1);
        while let Some(class) = self.index.dirty.class_down_from(above.checked_sub(1)?) {
            let mut id = self.index.dirty.head(class);
            while !id.is_none() {
                looks = looks.checked_sub(1)?;
                if let Some((first, start, clean)) = self.range_around(id, pages) {
                    return if self.charge(clean) { self.take_range(first, start, pages) } else { None };
                }
                id = self.span(id).next;
            }
            above = class;
        }
        None
    }

    /// The free run that begins at `address`, or of which the last page ends before it if `is_before`.
    fn free_at(&self, address: usize, is_before: bool) -> Option<SpanId> {
        let tag = self.arenas.tag_value(if is_before { address.wrapping_sub(PAGE_BYTES) } else { address });
        (matches!(tag.kind(), Kind::Dirty | Kind::Clean) && !tag.span().is_none()).then(|| tag.span())
    }

    /// Adjacent free runs around `id` that have `pages`, an eighth of them dirty at least: the first run, where in it the
    /// pages begin, and how many of them are clean.
    fn range_around(&self, id: SpanId, pages: usize) -> Option<(SpanId, usize, usize)> {
        let mut first = id;
        let (mut start, mut end) = (self.span(id).start, self.span(id).start + self.span(id).bytes());
        let mut dirty = self.span(id).pages as usize;
        for step in 0..=NEIGHBOURS {
            let missing = pages.saturating_sub((end - start) / PAGE_BYTES);
            if missing == 0 {
                return (dirty >= pages / 8).then_some((first, start, pages.saturating_sub(dirty)));
            }
            let (before, behind) = (self.free_at(start, true), self.free_at(end, false));
            let is_before = if step % 2 == 0 { behind.is_none() } else { before.is_some() };
            let next = if is_before { before } else { behind }?;
            // No more than needed of the last one.
            let taken = (self.span(next).pages as usize).min(missing);
            dirty += if self.span(next).kind == Kind::Dirty { taken } else { 0 };
            if is_before {
                (first, start) = (next, start - taken * PAGE_BYTES);
            } else {
                end += taken * PAGE_BYTES;
            }
        }
        None
    }

    /// Takes `pages` out of adjacent free runs, from `start` in the run `first` on, as one. There are descriptors: two runs
    /// at most are cut.
    fn take_range(&mut self, first: SpanId, start: usize, pages: usize) -> Option<SpanId> {
        let room = |run: &Span, address| (run.start + run.bytes() - address) / PAGE_BYTES;
        let whole = self.cut(first, start, room(self.span(first), start).min(pages))?;
        while (self.span(whole).pages as usize) < pages {
            let (behind, left) = (start + self.span(whole).bytes(), pages - self.span(whole).pages as usize);
            let next = self.free_at(behind, false)?;
            let part = self.cut(next, behind, room(self.span(next), behind).min(left))?;
            self.mark_edges(whole, PageTag::NONE);
            self.mark_edges(part, PageTag::NONE);
            let fresh = self.span(whole).fresh_pages() + self.span(part).fresh_pages();
            self.span(whole).pages += self.span(part).pages;
            self.span(whole).zeroed = false;
            self.span(whole).set_fresh_pages(fresh);
            self.retire(part);
            self.tag_edges(whole);
        }
        Some(whole)
    }

    /// The descriptor `id`, of a free run or of the caller's own.
    #[allow(clippy::mut_from_ref, reason = "the run lock stands in for the exclusive borrow")]
    pub(crate) fn span(&self, id: SpanId) -> &mut Span {
        // SAFETY: the table handed out every id in the index, in tags and of callers. The run lock, which `self` holds,
        // makes the reference exclusive; no caller keeps one across another call.
        unsafe { &mut *at(self.spans, id) }
    }

    fn fit(&self, id: SpanId, pages: usize, align_pages: usize) -> Option<usize> {
        let span = self.span(id);
        let start = span.start.checked_next_multiple_of(align_pages * PAGE_BYTES)?;
        (start + pages * PAGE_BYTES <= span.start + span.bytes()).then_some(start)
    }

    /// A run of `kind` that holds `pages` aligned pages, and their start.
    fn find(&mut self, kind: Kind, pages: usize, align_pages: usize) -> Option<(SpanId, usize)> {
        let own = class_of(pages);
        let mut id = self.index.lists(kind).head(own);
        for _ in 0..PROBES {
            if id.is_none() {
                break;
            }
            if let Some(start) = self.fit(id, pages, align_pages) {
                return Some((id, start));
            }
            id = self.span(id).next;
        }
        if !id.is_none() {
            if let Some(found) = self.in_tree(kind, own, pages, align_pages) {
                return Some(found);
            }
        }
        // A run of a class above the padded size's fits at any alignment.
        let certain = class_of(pages + align_pages - 1) + 1;
        let mut class = self.index.lists(kind).class_from(own + 1)?;
        loop {
            // A long run's memory counts more than its warmth.
            let band = if pages < TOGETHER_PAGES { rest_of_band(class) } else { class..class + 1 };
            if let Some(found) = self.last_inserted(kind, band.clone(), pages, align_pages) {
                return Some(found);
            }
            class = self.index.lists(kind).class_from(band.end)?;
            if band.start >= certain {
                return None;
            }
        }
    }

    /// The shortest run of `class` that holds `pages` aligned pages wherever it begins.
    #[cold]
    fn in_tree(&mut self, kind: Kind, class: usize, pages: usize, align_pages: usize) -> Option<(SpanId, usize)> {
        let root = *self.index.lists(kind).root(class)?;
        let id = Tree { root, nodes: self }.at_least(pages + align_pages - 1)?;
        Some((id, self.fit(id, pages, align_pages)?))
    }

    /// The run of `kind` inserted last, among the first of each of `classes`, that holds `pages` aligned pages.
    fn last_inserted(
        &mut self,
        kind: Kind,
        classes: core::ops::Range<usize>,
        pages: usize,
        align_pages: usize,
    ) -> Option<(SpanId, usize)> {
        let mut class = classes.start;
        let (mut best, mut best_number) = (None, 0);
        while class < classes.end {
            let id = self.index.lists(kind).head(class);
            if !id.is_none() && self.span(id).insertion() > best_number {
                if let Some(start) = self.fit(id, pages, align_pages) {
                    (best, best_number) = (Some((id, start)), self.span(id).insertion());
                }
            }
            class += 1;
        }
        best
    }

    /// Cuts `pages` at `start` out of the free run `id`. The rest keeps its kind and age.
    fn cut(&mut self, id: SpanId, start: usize, pages: usize) -> Option<SpanId> {
        let (run_start, run_pages, kind, stamp) = {
            let run = self.span(id);
            (run.start, run.pages as usize, run.kind, run.stamp)
        };
        let front = (start - run_start) / PAGE_BYTES;
        let back = run_pages - front - pages;
        self.unlink(id);
        if front == 0 && back == 0 {
            self.unlink_age(id);
            self.mark_taken(id, kind);
            return Some(id);
        }
        let taken = self.new_descriptor()?;
        {
            let span = self.span(taken);
            (span.start, span.pages, span.kind) = (start, pages as u32, kind);
        }
        // The old descriptor stays with the back part or, without one, with the front part.
        let (rest_start, rest_pages) = if back > 0 { (start + pages * PAGE_BYTES, back) } else { (run_start, front) };
        {
            let rest = self.span(id);
            (rest.start, rest.pages) = (rest_start, rest_pages as u32);
        }
        self.link(id);
        if front > 0 && back > 0 {
            let gap = self.new_descriptor()?;
            {
                let span = self.span(gap);
                (span.start, span.pages, span.kind, span.stamp) = (run_start, front as u32, kind, stamp);
            }
            self.link(gap);
            if kind == Kind::Dirty {
                self.link_age_before(gap, id);
            }
        }
        self.mark_taken(taken, kind);
        Some(taken)
    }

    /// Puts a run that has left the lists in transit; `was` is its kind before.
    fn mark_taken(&self, id: SpanId, was: Kind) {
        let pages = self.span(id).pages as usize;
        self.span(id).zeroed = was == Kind::Clean;
        self.span(id).set_fresh_pages(if was == Kind::Clean { pages } else { 0 });
        if was == Kind::Clean {
            self.fresh.note(pages);
        }
        self.span(id).taken_after = self.index.failure.number;
        self.span(id).kind = Kind::Transit;
        self.tag_edges(id);
    }

    /// [`FreeRuns::insert`] of pages that were in use.
    fn insert_freed(&mut self, id: SpanId) {
        // What was taken since the failure was free then.
        self.index.failure.is_past |= self.span(id).taken_after != self.index.failure.number;
        self.insert(id);
    }

    /// Adds a free run, merged with its neighbours of the same kind.
    fn insert(&mut self, id: SpanId) {
        let (start, bytes, kind) = {
            let span = self.span(id);
            (span.start, span.bytes(), span.kind)
        };
        let is_alike = |id: &SpanId| self.span(*id).kind == kind;
        let before = self.free_at(start, true).filter(is_alike);
        let after = self.free_at(start + bytes, false).filter(is_alike);
        // The largest part's descriptor and age survive.
        let mut keeper = id;
        for other in [before, after].into_iter().flatten() {
            self.unlink(other);
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
                self.mark_edges(part, PageTag::NONE);
            }
            if part != keeper {
                if part != id {
                    self.unlink_age(part);
                }
                self.retire(part);
            }
        }
        {
            let span = self.span(keeper);
            (span.start, span.pages) = (first, ((end - first) / PAGE_BYTES) as u32);
        }
        if keeper == id && kind == Kind::Dirty {
            self.link_youngest(id);
        }
        self.link(keeper);
    }

    fn link(&mut self, id: SpanId) {
        let (kind, pages) = {
            let span = self.span(id);
            (span.kind, span.pages as usize)
        };
        let class = class_of(pages);
        let head = self.index.lists(kind).head(class);
        self.index.insertions += 1;
        let insertion = self.index.insertions;
        let span = self.span(id);
        (span.next, span.previous) = (head, SpanId::NONE);
        span.set_insertion(insertion);
        if !head.is_none() {
            self.span(head).previous = id;
        }
        let lists = self.index.lists(kind);
        lists.set_head(class, id);
        lists.pages += pages;
        self.tag_edges(id);
        self.change_tree(kind, class, |tree| tree.insert(id));
    }

    /// Changes the tree of `class`, if it has one.
    fn change_tree(&mut self, kind: Kind, class: usize, change: impl FnOnce(&mut Tree<'_, Self>)) {
        if let Some(&mut root) = self.index.lists(kind).root(class) {
            let mut tree = Tree { root, nodes: &*self };
            change(&mut tree);
            let root = tree.root;
            self.index.lists(kind).root(class).into_iter().for_each(|place| *place = root);
        }
    }

    fn unlink(&mut self, id: SpanId) {
        let (kind, pages, next, previous) = {
            let span = self.span(id);
            (span.kind, span.pages as usize, span.next, span.previous)
        };
        let class = class_of(pages);
        self.change_tree(kind, class, |tree| tree.remove(id));
        if previous.is_none() {
            self.index.lists(kind).set_head(class, next);
        } else {
            self.span(previous).next = next;
        }
        if !next.is_none() {
            self.span(next).previous = previous;
        }
        self.index.lists(kind).pages -= pages;
    }

    fn tag_edges(&self, id: SpanId) {
        self.mark_edges(id, PageTag::edge(self.span(id).kind, id));
    }

    /// Tags the first and the last page of the run `id`.
    fn mark_edges(&self, id: SpanId, tag: PageTag) {
        let (start, bytes) = (self.span(id).start, self.span(id).bytes());
        self.arenas.set_tag(start, tag);
        self.arenas.set_tag(start + bytes - PAGE_BYTES, tag);
    }

    /// Notes that this thread purges the run `id`, or unmaps it; it is in no list.
    fn begin_purge(&mut self, id: SpanId) {
        self.index.in_purge.begin(O::this_thread());
        self.index.in_purge_pages += self.span(id).pages as usize;
    }

    /// Ends what [`FreeRuns::begin_purge`] began.
    fn end_purge(&mut self, id: SpanId) {
        self.index.in_purge.end(O::this_thread());
        self.index.in_purge_pages -= self.span(id).pages as usize;
    }

    /// Takes a spare descriptor, which the caller then owns. `None` if there is none.
    fn new_descriptor(&mut self) -> Option<SpanId> {
        let id = self.index.spares;
        if id.is_none() {
            return None;
        }
        self.index.spares = self.span(id).next;
        self.index.spare_count -= 1;
        Some(id)
    }

    fn retire(&mut self, id: SpanId) {
        self.span(id).next = self.index.spares;
        self.span(id).kind = Kind::None;
        self.index.spares = id;
        self.index.spare_count += 1;
    }

    fn link_youngest(&mut self, id: SpanId) {
        let older = self.index.youngest;
        (self.span(id).older, self.span(id).younger) = (older, SpanId::NONE);
        if older.is_none() {
            self.index.oldest = id;
        } else {
            self.span(older).younger = id;
        }
        self.index.youngest = id;
    }

    fn link_age_before(&mut self, id: SpanId, younger: SpanId) {
        let older = self.span(younger).older;
        (self.span(id).older, self.span(id).younger) = (older, younger);
        self.span(younger).older = id;
        if older.is_none() {
            self.index.oldest = id;
        } else {
            self.span(older).younger = id;
        }
    }

    fn unlink_age(&mut self, id: SpanId) {
        let (kind, older, younger) = {
            let span = self.span(id);
            (span.kind, span.older, span.younger)
        };
        if kind != Kind::Dirty {
            return;
        }
        if older.is_none() {
            self.index.oldest = younger;
        } else {
            self.span(older).younger = younger;
        }
        if younger.is_none() {
            self.index.youngest = older;
        } else {
            self.span(younger).older = older;
        }
    }

    /// Takes any free run that holds `pages` aligned pages, after a look at all candidates if they are to be aligned: not
    /// every run of one length fits then. For when the system refuses more.
    #[cold]
    fn take_any(&mut self, pages: usize, align_pages: usize) -> Option<SpanId> {
        if align_pages == 1 {
            return self.take(pages, 1).ok().flatten();
        }
        let (first, last) = (class_of(pages), class_of(pages + align_pages - 1));
        for (kind, class) in
            [Kind::Dirty, Kind::Clean].into_iter().flat_map(|kind| (first..=last).map(move |class| (kind, class)))
        {
            let mut id = self.index.lists(kind).head(class);
            while !id.is_none() {
                if let Some(start) = self.fit(id, pages, align_pages) {
                    let is_granted = kind == Kind::Dirty || self.charge(pages);
                    return if is_granted { self.cut(id, start, pages) } else { None };
                }
                id = self.span(id).next;
            }
        }
        None
    }
}

impl<O: Os> Nodes for FreeRuns<'_, O> {
    fn pages(&self, id: SpanId) -> usize {
        self.span(id).pages as usize
    }

    fn links(&self, id: SpanId) -> [SpanId; 2] {
        self.span(id).links()
    }

    fn set_links(&self, id: SpanId, links: [SpanId; 2]) {
        self.span(id).set_links(links);
    }
}

/// The free runs of all arenas.
pub struct Runs<O: Os> {
    /// The arenas.
    pub arenas: Arenas<O>,
    /// All span descriptors.
    pub spans: Spans,
    index: CachePadded<Mutex<Index, O>>,
    /// Fresh pages taken.
    pub fresh: CachePadded<Fresh>,
    /// Pages that hold memory, those of direct mappings too.
    pub limit: CachePadded<Limit>,
    /// Forks that wait for what is in transit.
    pub forks: Forks,
    left_out: LeftOut<O, WINDOWS>,
}

impl<O: Os> Runs<O> {
    /// Without memory.
    pub const fn new(options: Options) -> Self {
        Self {
            arenas: Arenas::new(options),
            spans: Spans::new(),
            index: CachePadded::new(Mutex::new(Index::new())),
            fresh: CachePadded::new(Fresh::new()),
            limit: CachePadded::new(Limit::new()),
            forks: Forks::new(),
            left_out: LeftOut::new(),
        }
    }

    pub(crate) fn lock(&self) -> FreeRuns<'_, O> {
        let (spans, arenas, fresh, limit) = (&self.spans, &self.arenas, &self.fresh, &self.limit);
        FreeRuns { index: self.index.lock(), spans, arenas, fresh, limit }
    }

    /// The run lock, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &*self.index
    }

    /// Takes the run lock, with enough spare descriptors for one operation. `None` if memory runs out.
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

    /// Adds spare descriptors, chained before the lock is taken, so that no page fault happens under it.
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

    /// Takes `pages` pages at a multiple of `align_pages` pages, a power of two. The caller owns the span, which is in
    /// transit, and sets its kind and tags. `None` if memory runs out.
    pub fn allocate(&self, pages: usize, align_pages: usize) -> Option<SpanId> {
        self.allocate_in(Growing::Any, pages, align_pages)
    }

    /// [`Runs::allocate`], where only the arenas that `which` names grow. `None` at the hard limit too.
    pub fn allocate_in(&self, which: Growing, pages: usize, align_pages: usize) -> Option<SpanId> {
        let span_pages = pages.checked_add(align_pages - 1)?;
        let mut waits = MAX_WAITS;
        let mut turns = ROOM_TURNS;
        loop {
            // The lock's guard ends here, before what purges takes it again.
            let taken = self.lock_with_spares()?.take(pages, align_pages);
            match taken {
                Ok(Some(id)) => {
                    self.dump_again(id);
                    return Some(id);
                }
                Ok(None) => {}
                Err(OverLimit) if turns > 0 && self.make_room(pages) => {
                    turns -= 1;
                    continue;
                }
                Err(OverLimit) => return None,
            }
            // The descriptor first: for want of one, committed pages would be lost.
            let id = self.descriptor()?;
            match self.arenas.grow(which, span_pages, || self.lock().fits(span_pages)) {
                Ok(range) => self.add(range, id),
                Err(NotGrown::Refused) if self.grow_at_ends(span_pages, id) => {}
                Err(reason) => {
                    // SAFETY: this thread owns the descriptor, which is unused.
                    unsafe { self.retire_descriptor(id) };
                    // If pages came free but another thread takes them first, the next turn grows.
                    if reason == NotGrown::Refused && !self.may_come_free(span_pages, &mut waits) {
                        return self.take_any(pages, align_pages);
                    }
                }
            }
        }
    }

    /// Maps what the clean run at some window's end lacks to `pages`, where the system refuses as many as that at once. The
    /// caller owns the descriptor `id`, and hands it over if this is true.
    #[cold]
    #[inline(never)]
    fn grow_at_ends(&self, pages: usize, id: SpanId) -> bool {
        let range = self.arenas.ends().find_map(|end| {
            let free = self.lock();
            let last = free.free_at(end, true).filter(|&last| free.span(last).kind == Kind::Clean)?;
            let missing = pages.saturating_sub(free.span(last).pages as usize);
            drop(free);
            // A run that fits came free meanwhile.
            if missing == 0 { None } else { self.arenas.grow_at(end, missing) }
        });
        range.is_some_and(|range| {
            self.add(range, id);
            true
        })
    }

    /// Whether the hard limit has room for `pages`, now that as many dirty ones have gone back for them as are missing.
    #[cold]
    #[inline(never)]
    pub fn make_room(&self, pages: usize) -> bool {
        let excess = || self.limit.excess(&self.arenas.options, pages);
        let (mut turns, mut waits) = (ROOM_TURNS, MAX_WAITS);
        // Others may take what goes back: few turns.
        while turns > 0 {
            let missing = excess();
            let (dirty, _, purging) = self.free_bytes();
            match missing * PAGE_BYTES {
                0 => return true,
                // What is impossible costs nothing.
                bytes if bytes > dirty + purging => return false,
                bytes => {
                    let purged = self.purge(O::now_ms(), 0, bytes);
                    self.limit.note_purged(purged);
                    if purged > 0 {
                        turns -= 1;
                    } else if waits == 0 || self.lock().index.in_purge.is_only_of(O::this_thread()) {
                        return false;
                    } else {
                        // Another thread is giving some back.
                        waits -= 1;
                        O::nap();
                    }
                }
            }
        }
        excess() == 0
    }

    /// Whether to try again after a refusal: a run that fits came free, or another thread is purging one. `waits` is
    /// counted down: that thread may be stuck in a library in libc's place.
    fn may_come_free(&self, pages: usize, waits: &mut u32) -> bool {
        let free = self.lock();
        let is_waiting = !free.index.in_purge.is_only_of(O::this_thread()) && *waits > 0;
        let fits = free.fits(pages);
        drop(free);
        if is_waiting {
            *waits -= 1;
            O::nap();
        }
        is_waiting || fits
    }

    /// [`FreeRuns::take_any`], under the run lock.
    #[cold]
    pub fn take_any(&self, pages: usize, align_pages: usize) -> Option<SpanId> {
        let id = self.lock_with_spares()?.take_any(pages, align_pages)?;
        self.dump_again(id);
        Some(id)
    }

    fn add(&self, range: PageRange, id: SpanId) {
        let mut free = self.lock();
        let span = free.span(id);
        (span.start, span.pages, span.kind) = (range.start, range.pages as u32, Kind::Clean);
        free.index.failure.is_past = true;
        free.insert(id);
    }

    /// Takes `pages` pages, fewer than a page of the system has, out of a [shared one](SharedPages). `None` if memory runs
    /// out, `Some(None)` if [`Runs::share`] is to add one. The caller owns the span, which is in transit.
    pub fn take_part(&self, pages: usize) -> Option<Option<SpanId>> {
        let mut free = self.lock_with_spares()?;
        let Some(part) = free.index.shared.find(&self.spans, pages) else { return Some(None) };
        let id = free.new_descriptor()?;
        free.index.shared.take(&self.spans, part, id);
        Some(Some(id))
    }

    /// Makes the run `id` a shared page, of which all is free.
    ///
    /// # Safety
    /// The caller owns the span, a page of the system and perhaps a guard, all its pages tagged as shared, and hands it over.
    pub unsafe fn share(&self, id: SpanId) {
        self.lock().index.shared.add(&self.spans, id);
    }

    /// Takes the part `id` of the shared page `page` back. True if that is free as a whole: then the caller owns it.
    ///
    /// # Safety
    /// The caller owns the part, its pages tagged as shared, and hands it over. Nothing uses it.
    pub unsafe fn put_part_back(&self, page: SpanId, id: SpanId) -> bool {
        let mut free = self.lock();
        // What was taken since the failure was free then.
        free.index.failure.is_past |= free.span(id).taken_after != free.index.failure.number;
        let is_whole = free.index.shared.put_back(&self.spans, page, id);
        free.retire(id);
        is_whole
    }

    /// Bytes of shared pages that no span has, guards included.
    pub fn shared_free_bytes(&self) -> usize {
        self.index.lock().shared.free_pages() * PAGE_BYTES
    }

    /// Frees a span's pages, which are dirty as of `now`.
    ///
    /// # Safety
    /// The caller hands the span over, without tags between its first and last page. Nothing uses the pages.
    pub unsafe fn release(&self, id: SpanId, now: u32) {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.release_counted(id, now) };
    }

    /// [`Runs::release`]; returns the pages of dirty and of clean runs.
    ///
    /// # Safety
    /// As for [`Runs::release`].
    pub unsafe fn release_counted(&self, id: SpanId, now: u32) -> (usize, usize) {
        let mut free = self.lock();
        let span = free.span(id);
        (span.kind, span.stamp) = (Kind::Dirty, now);
        free.insert_freed(id);
        (free.index.dirty.pages, free.index.clean.pages)
    }

    /// [`Runs::release`] of pages without memory.
    ///
    /// # Safety
    /// As for [`Runs::release`], and the pages read as zero.
    pub unsafe fn release_clean(&self, id: SpanId) {
        let mut free = self.lock();
        free.span(id).kind = Kind::Clean;
        self.limit.uncharge(free.span(id).pages as usize);
        free.insert_freed(id);
    }

    /// Shrinks span `id` to `pages`; the rest becomes a dirty run. Does nothing without a spare descriptor.
    ///
    /// # Safety
    /// The caller owns the span, and nothing uses the rest.
    pub unsafe fn shrink(&self, id: SpanId, pages: usize, now: u32) {
        let Some(mut free) = self.lock_with_spares() else { return };
        let Some(rest) = free.new_descriptor() else { return };
        let (start, old_pages, taken_after) = {
            let span = free.span(id);
            (span.start, span.pages, span.taken_after)
        };
        free.span(id).pages = pages as u32;
        free.tag_edges(id);
        let span = free.span(rest);
        (span.start, span.pages) = (start + pages * PAGE_BYTES, old_pages - pages as u32);
        (span.kind, span.stamp, span.taken_after) = (Kind::Dirty, now, taken_after);
        free.insert_freed(rest);
    }

    /// Grows the large span `id` in place to `pages`. False if the pages behind it are not free, nor to be had.
    ///
    /// # Safety
    /// The caller owns the span.
    pub unsafe fn extend(&self, id: SpanId, pages: usize) -> bool {
        // SAFETY: the caller's own promise, in all calls.
        unsafe {
            if self.extend_into_free(id, pages) {
                return true;
            }
            let more = pages - (*at(&self.spans, id)).pages as usize;
            if self.limit.excess(&self.arenas.options, more) > 0 {
                return self.make_room(more) && self.extend_into_free(id, pages);
            }
            self.grow_behind(id, pages) && self.extend_into_free(id, pages)
        }
    }

    /// Maps what the large span `id` lacks to `pages`, where it is the last one of a window. False if it isn't, or the
    /// system refuses.
    ///
    /// # Safety
    /// The caller owns the span.
    unsafe fn grow_behind(&self, id: SpanId, pages: usize) -> bool {
        let Some(fresh) = self.descriptor() else { return false };
        let (end, missing) = {
            let free = self.lock();
            let (start, old_pages) = (free.span(id).start, free.span(id).pages as usize);
            let end = start + old_pages * PAGE_BYTES;
            let tag = self.arenas.tag_value(end);
            // A dirty run would not merge with what is mapped.
            let behind = if tag.kind() == Kind::Clean { free.span(tag.span()).pages as usize } else { 0 };
            (end + behind * PAGE_BYTES, (pages - old_pages).saturating_sub(behind))
        };
        let grown = if missing > 0 { self.arenas.grow_at(end, missing) } else { None };
        match grown {
            Some(range) => self.add(range, fresh),
            // SAFETY: this thread owns the descriptor, which is unused.
            None => unsafe { self.retire_descriptor(fresh) },
        }
        grown.is_some()
    }

    /// [`Runs::extend`] into pages that are there.
    ///
    /// # Safety
    /// The caller owns the span.
    unsafe fn extend_into_free(&self, id: SpanId, pages: usize) -> bool {
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
        if tag.kind() == Kind::Clean && !free.charge(pages - old_pages) {
            return false;
        }
        let Some(more) = free.cut(tag.span(), end, pages - old_pages) else { return false };
        self.arenas.set_tag(end - PAGE_BYTES, PageTag::NONE);
        self.arenas.set_tag(end, PageTag::NONE);
        free.retire(more);
        free.span(id).pages = pages as u32;
        free.tag_edges(id);
        drop(free);
        self.dump_again(id);
        true
    }

    /// A descriptor for a direct mapping, which the caller then owns. `None` if memory runs out.
    pub fn descriptor(&self) -> Option<SpanId> {
        let mut free = self.lock_with_spares()?;
        let id = free.new_descriptor()?;
        free.span(id).set_copied_bytes(0);
        Some(id)
    }

    /// Takes back a descriptor of [`Runs::descriptor`].
    ///
    /// # Safety
    /// The caller owns it and hands it over. Nothing refers to it.
    pub unsafe fn retire_descriptor(&self, id: SpanId) {
        self.lock().retire(id);
    }

    /// Purges dirty runs that are at least `delay_ms` old at `now`, oldest first, until it has tried `most_bytes` or as
    /// much as was dirty at the start. Returns the bytes purged. Holds no lock during system calls.
    pub fn purge(&self, now: u32, delay_ms: u32, most_bytes: usize) -> usize {
        let most_bytes = most_bytes.min(self.lock().index.dirty.pages * PAGE_BYTES);
        // Refused bytes, as of locked memory, count as tried: other runs get their turn, and the loop ends.
        let (mut purged, mut tried) = (0, 0);
        while tried < most_bytes {
            let _transit = self.forks.begin_transit::<O>();
            let Some(id) = self.take_out_oldest(now, delay_ms) else { break };
            // SAFETY: the run is in transit and this thread's alone.
            let span = unsafe { &*at(&self.spans, id) };
            let (start, bytes) = (span.start, span.bytes());
            let start_us = O::now_us();
            // SAFETY: the run is this thread's, committed, and nothing uses its contents.
            let gone = NonNull::new(core::ptr::with_exposed_provenance_mut(start))
                .is_some_and(|start| unsafe { O::purge(start, bytes) });
            if gone {
                self.limit.uncharge(bytes / PAGE_BYTES);
            }
            let is_quick = O::now_us() - start_us <= QUICK_US;
            self.put_back(id, if gone { Kind::Clean } else { Kind::Dirty }, now, |index| {
                index.purge_pages =
                    if gone && is_quick { (2 * index.purge_pages).min(MOST_PURGE_PAGES) } else { PURGE_PAGES };
            });
            tried += bytes;
            purged += if gone { bytes } else { 0 };
        }
        purged
    }

    /// Takes the oldest dirty run, or its front part, out of the index if it is at least `delay_ms` old at `now`.
    fn take_out_oldest(&self, now: u32, delay_ms: u32) -> Option<SpanId> {
        let mut free = self.lock_with_spares()?;
        let oldest = free.index.oldest;
        if oldest.is_none() || elapsed_ms(free.span(oldest).stamp, now) < delay_ms {
            return None;
        }
        let (start, pages) = (free.span(oldest).start, free.span(oldest).pages as usize);
        let id = free.cut(oldest, start, pages.min(free.index.purge_pages))?;
        free.begin_purge(id);
        Some(id)
    }

    /// Has core dumps hold the span `id`, just taken by the caller, whose memory they may have left out.
    #[inline]
    fn dump_again(&self, id: SpanId) {
        if self.left_out.is_any() {
            // SAFETY: the caller owns the span.
            let (start, bytes) = unsafe { ((*at(&self.spans, id)).start, (*at(&self.spans, id)).bytes()) };
            if let Some(reach) = self.arenas.reach_of(start) {
                self.left_out.dump_again(reach, start, start + bytes);
            }
        }
    }

    /// Has core dumps leave out a long clean run, if the options say so and one is not; whether it did.
    #[cold]
    pub fn leave_out(&self) -> bool {
        if !self.arenas.options.has_small_cores() {
            return false;
        }
        let _transit = self.forks.begin_transit::<O>();
        let Some((id, reach)) = self.take_out_dumped() else { return false };
        // SAFETY: the run is in transit, this thread's alone, and nothing uses its contents.
        let is_done = unsafe {
            let span = &*at(&self.spans, id);
            self.left_out.leave_out(reach, span.start, span.start + span.bytes())
        };
        self.put_back(id, Kind::Clean, O::now_ms(), |_| {});
        is_done
    }

    /// Takes a long clean run that core dumps hold out of the index.
    fn take_out_dumped(&self) -> Option<(SpanId, Reach)> {
        let mut free = self.lock_with_spares()?;
        let (mut looks, mut above, fewest) = (PROBES, CLASSES, class_of(left_out::FEWEST_PAGES));
        while let Some(class) = free.index.clean.class_down_from(above.checked_sub(1)?).filter(|&class| class >= fewest)
        {
            let mut id = free.index.clean.head(class);
            while !id.is_none() {
                looks = looks.checked_sub(1)?;
                let (start, pages) = (free.span(id).start, free.span(id).pages as usize);
                let reach = self.arenas.reach_of(start)?;
                if pages >= left_out::FEWEST_PAGES && self.left_out.has_more(reach, start, start + pages * PAGE_BYTES) {
                    let id = free.cut(id, start, pages)?;
                    self.fresh.forget(pages);
                    free.begin_purge(id);
                    return Some((id, reach));
                }
                id = free.span(id).next;
            }
            above = class;
        }
        None
    }

    /// Whether the last `pages` before `address` are free, in a few dozen runs, dirty or clean.
    fn is_free_before(&self, address: usize, pages: usize) -> bool {
        let free = self.lock();
        let mut start = address;
        for _ in 0..MOST_BEFORE {
            let Some(id) = free.free_at(start, true) else { return false };
            start = free.span(id).start;
            if (address - start) / PAGE_BYTES >= pages {
                return true;
            }
        }
        false
    }

    /// Whether so much of `free` bytes, once they are clean, is to be unmapped that it is worth a call.
    pub fn has_surplus(&self, free: usize) -> bool {
        most_pages(free, self.arenas.reserved_and_committed().1) > 0
    }

    /// Whether a window ends with so many free pages, dirty or clean. Takes the run lock.
    pub fn has_free_end(&self) -> bool {
        self.arenas.ends().any(|end| self.is_free_before(end, ends::FEWEST_PAGES))
    }

    /// Unmaps pages at the end of one window, if too much is mapped; the bytes. The caller holds no lock. Takes the growth
    /// lock and the run lock.
    #[cold]
    pub fn unmap_end(&self) -> usize {
        match most_pages(self.free_bytes().1, self.arenas.reserved_and_committed().1) {
            0 => 0,
            most => (0..Arenas::<O>::MOST_WINDOWS)
                .map_while(|number| self.unmap_end_of(number, most))
                .find(|&bytes| bytes > 0)
                .unwrap_or(0),
        }
    }

    /// The bytes unmapped at the end of window `number`; `None` if there is no such window.
    fn unmap_end_of(&self, number: usize, most: usize) -> Option<usize> {
        let _transit = self.forks.begin_transit::<O>();
        let Some(end) = self.arenas.claim_end(number)? else { return Some(0) };
        // Windows end with whole segments, and so does what is left.
        let Some((id, pages)) = self.take_end(end.address, ends::FEWEST_PAGES, most.min(end.most_pages)) else {
            self.arenas.give_up_end(end);
            return Some(0);
        };
        let start = NonNull::new(core::ptr::with_exposed_provenance_mut(end.address - pages * PAGE_BYTES));
        // SAFETY: the run, in whole pages, is this thread's, and nothing uses its contents.
        if start.is_some_and(|start| unsafe { O::unmap(start, pages * PAGE_BYTES) }) {
            self.drop_end(id);
            self.arenas.publish_end(end, pages);
            Some(pages * PAGE_BYTES)
        } else {
            self.put_back(id, Kind::Clean, O::now_ms(), |_| {});
            self.arenas.give_up_end(end);
            Some(0)
        }
    }

    /// Takes the last pages of the clean run that ends at `address`, `fewest` to `most` in whole segments, out of the index,
    /// to be unmapped: their run, and how many. `None` without such a run.
    fn take_end(&self, address: usize, fewest: usize, most: usize) -> Option<(SpanId, usize)> {
        let mut free = self.lock_with_spares()?;
        let last = free.free_at(address, true).filter(|&id| free.span(id).kind == Kind::Clean)?;
        let pages = (free.span(last).pages as usize).min(most) / SEGMENT_PAGES as usize * SEGMENT_PAGES as usize;
        if pages < fewest {
            return None;
        }
        let id = free.cut(last, address - pages * PAGE_BYTES, pages)?;
        self.fresh.forget(pages);
        free.begin_purge(id);
        Some((id, pages))
    }

    /// Forgets the run of [`Runs::take_end`], which is unmapped.
    fn drop_end(&self, id: SpanId) {
        let mut free = self.lock();
        let (start, bytes) = (free.span(id).start, free.span(id).bytes());
        // What core dumps left out is no longer there.
        if let Some(reach) = self.arenas.reach_of(start).filter(|_| self.left_out.is_any()) {
            self.left_out.forget(reach, start, start + bytes);
        }
        free.end_purge(id);
        free.mark_edges(id, PageTag::NONE);
        free.retire(id);
    }

    /// Puts back the run of [`Runs::take_out_oldest`], of `kind` as of `now`. Calls `note` under the lock.
    fn put_back(&self, id: SpanId, kind: Kind, now: u32, note: impl FnOnce(&mut Index)) {
        let mut free = self.lock();
        note(&mut free.index);
        free.end_purge(id);
        (free.span(id).kind, free.span(id).stamp) = (kind, now);
        // A request may have failed for want of it.
        free.index.failure.is_past = true;
        free.insert(id);
    }

    /// The number of a failure of which a request for `pages` pages at a multiple of `align_pages` is a repetition, unless
    /// other memory than it found free came free since: of spans with this number. `None`: it may succeed.
    pub fn failure_of(&self, pages: usize, align_pages: usize) -> Option<u32> {
        let failure = self.index.lock().failure;
        let is_repeated = !failure.is_past && pages >= failure.pages && align_pages >= failure.align_pages;
        is_repeated.then_some(failure.number)
    }

    /// Notes that a request for `pages` pages at a multiple of `align_pages` failed, though all that was free within
    /// reach had come together.
    pub fn note_failure(&self, pages: usize, align_pages: usize) {
        let mut free = self.lock();
        // A run that fits may have come free meanwhile. A clean one may be beyond the hard limit.
        let is_limited = self.limit.excess(&self.arenas.options, pages) > 0;
        let fits = |free: &mut FreeRuns<'_, O>, kind| free.find(kind, pages, align_pages).is_some();
        if !fits(&mut free, Kind::Dirty) && (is_limited || !fits(&mut free, Kind::Clean)) {
            let number = free.index.failure.number.wrapping_add(1);
            free.index.failure = Failure { pages, align_pages, number, is_past: false };
        }
    }

    /// Bytes of dirty runs, of clean runs, and of those being purged.
    pub fn free_bytes(&self) -> (usize, usize, usize) {
        let index = self.index.lock();
        (index.dirty.pages * PAGE_BYTES, index.clean.pages * PAGE_BYTES, index.in_purge_pages * PAGE_BYTES)
    }
}
