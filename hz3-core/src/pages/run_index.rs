//! Run index: the free runs of all arenas, as whoever holds the run lock sees them.
//!
//! ```text
//! lists[kind][class] → run ⇄ run ⇄ …          kind: dirty (may hold memory) or clean (reads as zero)
//! oldest dirty run ⇄ … ⇄ youngest             by the time at which the larger part of it became dirty
//! spares → descriptor → …                     for the next cuts
//! ```
//!
//! Size classes are eight per doubling of the page count. A request takes the smallest of the first few runs of its
//! own class that fit, else the first run of the next class that has any. A run that returns merges at once with its
//! neighbours of the same kind, found by the page tags of their edges.

use crate::pages::arena::{Arenas, Stretch};
use crate::pages::page_tag::{Kind, PageTag};
use crate::pages::run_lists::{CLASSES, Lists, class_of};
use crate::pages::span::{Span, Spans, at};
use crate::platform::os::Os;
use crate::platform::rank::{Rank, Ranked};
use crate::platform::sync::Guard;
use crate::platform::units::{PAGE_BYTES, SpanId};

/// Runs of the request's own class that are looked at before a larger class is taken.
const LOOKS: usize = 8;
/// Spare descriptors that one operation can use up: one for each cut.
const SPARES_NEEDED: u32 = 2;

/// What the run lock protects.
pub struct Index {
    /// Runs that may hold memory.
    pub dirty: Lists,
    /// Runs that read as zero.
    pub clean: Lists,
    /// The dirty run to give back first.
    pub oldest: SpanId,
    youngest: SpanId,
    spares: SpanId,
    spare_count: u32,
    /// Runs whose memory is being given back at this moment. They are in no list meanwhile.
    pub in_purge: u32,
    /// Their pages.
    pub in_purge_pages: usize,
}

impl Ranked for Index {
    const RANK: Rank = Rank::Runs;

    fn is_settled(&self) -> bool {
        self.in_purge == 0
    }
}

impl Index {
    /// No run.
    #[allow(clippy::new_without_default, reason = "only an allocator has one")]
    pub const fn new() -> Self {
        Self {
            dirty: Lists::new(),
            clean: Lists::new(),
            oldest: SpanId::NONE,
            youngest: SpanId::NONE,
            spares: SpanId::NONE,
            spare_count: 0,
            in_purge: 0,
            in_purge_pages: 0,
        }
    }

    /// The lists of `kind`, which is dirty or clean.
    fn lists(&mut self, kind: Kind) -> &mut Lists {
        if kind == Kind::Dirty { &mut self.dirty } else { &mut self.clean }
    }
}

/// The index, locked, with what its ids and addresses lead to.
pub struct FreeRuns<'a, O: Os> {
    /// The index.
    pub index: Guard<'a, Index, O>,
    /// Every descriptor.
    pub spans: &'a Spans,
    /// The page tags.
    pub arenas: &'a Arenas<O>,
}

impl<O: Os> FreeRuns<'_, O> {
    /// Whether the next operation finds descriptors.
    pub fn has_spares(&self) -> bool {
        self.index.spare_count >= SPARES_NEEDED
    }

    /// Adds `count` descriptors, chained from `first` to `last`.
    pub fn add_spares(&mut self, first: SpanId, last: SpanId, count: u32) {
        self.span(last).next = self.index.spares;
        self.index.spares = first;
        self.index.spare_count += count;
    }

    /// Whether a run of a class that serves any request of `pages` is there.
    pub fn fits(&self, pages: usize) -> bool {
        let class = class_of(pages) + 1;
        self.index.dirty.class_from(class).is_some() || self.index.clean.class_from(class).is_some()
    }

    /// Takes a run, dirty before clean: the pages of a dirty one are present. `None` where none fits.
    pub fn take(&mut self, pages: usize, align_pages: usize) -> Option<SpanId> {
        let (id, start) =
            [Kind::Dirty, Kind::Clean].into_iter().find_map(|kind| self.find(kind, pages, align_pages))?;
        self.cut(id, start, pages)
    }

    /// The descriptor `id`, which is that of a free run or the caller's own.
    #[allow(clippy::mut_from_ref, reason = "the run lock stands in for the exclusive borrow")]
    pub fn span(&self, id: SpanId) -> &mut Span {
        // SAFETY: ids in the index and in tags came from the table; the run lock, held by every caller,
        // is what allows the exclusive reference, and no caller keeps one across another call of this.
        unsafe { &mut *at(self.spans, id) }
    }

    /// Where `pages` aligned pages begin in the run `id`, if they fit.
    fn fit(&self, id: SpanId, pages: usize, align_pages: usize) -> Option<usize> {
        let span = self.span(id);
        let start = span.start.checked_next_multiple_of(align_pages * PAGE_BYTES)?;
        (start + pages * PAGE_BYTES <= span.start + span.bytes()).then_some(start)
    }

    /// A run of `kind` that holds `pages` aligned pages, and where in it they begin.
    fn find(&mut self, kind: Kind, pages: usize, align_pages: usize) -> Option<(SpanId, usize)> {
        let class = class_of(pages);
        let (mut best, mut best_pages) = (None, u32::MAX);
        let mut id = self.index.lists(kind).head(class);
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
        while let Some(found) = self.index.lists(kind).class_from(class) {
            let id = self.index.lists(kind).head(found);
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
    pub fn cut(&mut self, id: SpanId, start: usize, pages: usize) -> Option<SpanId> {
        let (run_start, run_pages, kind, stamp) = {
            let run = self.span(id);
            (run.start, run.pages as usize, run.kind, run.stamp)
        };
        let front = (start - run_start) / PAGE_BYTES;
        let back = run_pages - front - pages;
        self.unlink(id);
        if front == 0 && back == 0 {
            self.forget_age(id);
            self.finish(id, kind);
            return Some(id);
        }
        let taken = self.new_descriptor()?;
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
        self.link(id);
        if front > 0 && back > 0 {
            let gap = self.new_descriptor()?;
            {
                let span = self.span(gap);
                (span.start, span.pages, span.kind, span.stamp) = (run_start, front as u32, kind, stamp);
            }
            self.link(gap);
            if kind == Kind::Dirty {
                self.insert_age_before(gap, id);
            }
        }
        self.finish(taken, kind);
        Some(taken)
    }

    /// Marks a run that has left the self.index.
    fn finish(&self, id: SpanId, was: Kind) {
        self.span(id).zeroed = was == Kind::Clean;
        self.span(id).kind = Kind::Transit;
        self.tag_edges(id);
    }

    /// Puts a free run into the index, merged with its neighbours of the same kind.
    pub fn insert(&mut self, id: SpanId) {
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
                self.arenas.set_tag(part_start, PageTag::NONE);
                self.arenas.set_tag(part_start + part_bytes - PAGE_BYTES, PageTag::NONE);
            }
            if part != keeper {
                if part != id {
                    self.forget_age(part);
                }
                self.retire(part);
            }
        }
        {
            let span = self.span(keeper);
            (span.start, span.pages) = (first, ((end - first) / PAGE_BYTES) as u32);
        }
        if keeper == id && kind == Kind::Dirty {
            self.append_youngest(id);
        }
        self.link(keeper);
    }

    /// Puts a run into the list of its class and tags its edges.
    fn link(&mut self, id: SpanId) {
        let (kind, pages) = {
            let span = self.span(id);
            (span.kind, span.pages as usize)
        };
        let class = class_of(pages);
        let head = self.index.lists(kind).head(class);
        (self.span(id).next, self.span(id).previous) = (head, SpanId::NONE);
        if !head.is_none() {
            self.span(head).previous = id;
        }
        let lists = self.index.lists(kind);
        lists.set_head(class, id);
        lists.pages += pages;
        self.tag_edges(id);
    }

    fn unlink(&mut self, id: SpanId) {
        let (kind, pages, next, previous) = {
            let span = self.span(id);
            (span.kind, span.pages as usize, span.next, span.previous)
        };
        if previous.is_none() {
            self.index.lists(kind).set_head(class_of(pages), next);
        } else {
            self.span(previous).next = next;
        }
        if !next.is_none() {
            self.span(next).previous = previous;
        }
        self.index.lists(kind).pages -= pages;
    }

    /// Tags the first and the last page of the span `id`.
    pub fn tag_edges(&self, id: SpanId) {
        let (start, bytes, kind) = {
            let span = self.span(id);
            (span.start, span.bytes(), span.kind)
        };
        let tag = PageTag::edge(kind, id);
        self.arenas.set_tag(start, tag);
        self.arenas.set_tag(start + bytes - PAGE_BYTES, tag);
    }

    /// Takes a spare descriptor; the caller's from here on.
    pub fn new_descriptor(&mut self) -> Option<SpanId> {
        let id = self.index.spares;
        if id.is_none() {
            return None;
        }
        self.index.spares = self.span(id).next;
        self.index.spare_count -= 1;
        Some(id)
    }

    /// Makes the descriptor `id` a spare one.
    pub fn retire(&mut self, id: SpanId) {
        self.span(id).next = self.index.spares;
        self.span(id).kind = Kind::None;
        self.index.spares = id;
        self.index.spare_count += 1;
    }

    fn append_youngest(&mut self, id: SpanId) {
        let older = self.index.youngest;
        (self.span(id).older, self.span(id).younger) = (older, SpanId::NONE);
        if older.is_none() {
            self.index.oldest = id;
        } else {
            self.span(older).younger = id;
        }
        self.index.youngest = id;
    }

    fn insert_age_before(&mut self, id: SpanId, younger: SpanId) {
        let older = self.span(younger).older;
        (self.span(id).older, self.span(id).younger) = (older, younger);
        self.span(younger).older = id;
        if older.is_none() {
            self.index.oldest = id;
        } else {
            self.span(older).younger = id;
        }
    }

    fn forget_age(&mut self, id: SpanId) {
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

    /// A free run of `pages` aligned pages, if there is one. Looks at every run that might do: for when the
    /// system gives no more. A class holds runs of several lengths, and an aligned request fits some runs of a length and
    /// not others.
    #[cold]
    pub fn take_any(&mut self, pages: usize, align_pages: usize) -> Option<SpanId> {
        let (first, last) = (class_of(pages), class_of(pages + align_pages - 1));
        for (kind, class) in
            [Kind::Dirty, Kind::Clean].into_iter().flat_map(|kind| (first..=last).map(move |class| (kind, class)))
        {
            let mut id = self.index.lists(kind).head(class);
            while !id.is_none() {
                if let Some(start) = self.fit(id, pages, align_pages) {
                    return self.cut(id, start, pages);
                }
                id = self.span(id).next;
            }
        }
        None
    }

    /// Calls `look` with each span and free run of every arena, by address, under the run lock; checks on the
    /// way that they cover every committed page once and that the page tags say so. For tests and debug builds,
    /// at a moment when no span is in transit.
    ///
    /// # Errors
    /// Names the broken rule, or hands on the first error of `look`.
    pub fn walk(&self, mut look: impl FnMut(&Span) -> Result<(), &'static str>) -> Result<(), &'static str> {
        self.arenas.each_committed(|Stretch { start, pages }| {
            let (mut address, end) = (start, start + pages * PAGE_BYTES);
            while address < end {
                let tag = self.arenas.tag_value(address);
                if tag.span().is_none() {
                    return Err("a page that belongs to nothing");
                }
                let span = &*self.span(tag.span());
                if span.start != address || span.pages == 0 || span.bytes() > end - address {
                    return Err("a page whose descriptor is another's");
                }
                let last = span.pages as usize - 1;
                for page in 0..=last {
                    let expected = match span.kind {
                        Kind::Small => PageTag::small(span.bin, span.owner, tag.span()),
                        Kind::Large | Kind::Dirty | Kind::Clean | Kind::Waiting if page == 0 || page == last => {
                            PageTag::edge(span.kind, tag.span())
                        }
                        Kind::Large | Kind::Dirty | Kind::Clean | Kind::Waiting => PageTag::NONE,
                        Kind::Transit | Kind::None => return Err("a span that is in use by nobody"),
                    };
                    if self.arenas.tag_value(address + page * PAGE_BYTES) != expected {
                        return Err("a page with a wrong tag");
                    }
                }
                look(span)?;
                address += span.bytes();
            }
            Ok(())
        })
    }

    /// Checks every list against the descriptors and the tags; for tests and debug builds.
    ///
    /// # Errors
    /// Names the broken rule.
    pub fn check(&mut self) -> Result<(), &'static str> {
        for kind in [Kind::Dirty, Kind::Clean] {
            let mut pages = 0;
            for class in 0..CLASSES {
                let mut id = self.index.lists(kind).head(class);
                while !id.is_none() {
                    let span = self.span(id);
                    if span.kind != kind || class_of(span.pages as usize) != class {
                        return Err("run in the wrong list");
                    }
                    for edge in [span.start, span.start + span.bytes() - PAGE_BYTES] {
                        if self.arenas.tag_value(edge) != PageTag::edge(kind, id) {
                            return Err("run without its tag");
                        }
                    }
                    if self.arenas.tag_value(span.start + span.bytes()).kind() == kind {
                        return Err("neighbours that did not merge");
                    }
                    pages += span.pages as usize;
                    id = span.next;
                }
            }
            if pages != self.index.lists(kind).pages {
                return Err("page count of the lists");
            }
        }
        let mut aged = 0;
        let mut id = self.index.oldest;
        while !id.is_none() {
            aged += self.span(id).pages as usize;
            id = self.span(id).younger;
        }
        if aged == self.index.dirty.pages { Ok(()) } else { Err("dirty runs and their ages") }
    }
}
