//! Page heap: all pages of an allocator, as small spans, large blocks and free runs.
//!
//! ```text
//! small span      a run of the arenas, every page tagged
//! large block     below 128 MiB a run of the arenas, first and last page tagged; from 128 MiB up a direct mapping; from
//!                 128 KiB up as well, where `realloc` moved it
//! free            a dirty run → purged → a clean run
//! ```
//!
//! A request that the arenas can't serve becomes a direct mapping, so fragmentation alone fails none. If the system
//! refuses a direct mapping, for example at the limit of mappings (`vm.max_map_count`), the arenas that there are serve
//! it. They get no further one for it: what is refused for its size then costs nothing.

use crate::pages::arena::Growing;
use crate::pages::bins;
use crate::pages::clearing::Clearing;
use crate::pages::direct::{DIRECT_BYTES, DirectMappings, LIMITED_DIRECT_BYTES};
use crate::pages::early::{Early, LEAST_BYTES, is_resting};
use crate::pages::fresh::Fresh;
use crate::pages::guards::{Guards, Wait};
use crate::pages::kept::{Keeping, Mapping};
use crate::pages::page_tag::{Kind, PageTag, TagCell};
use crate::pages::policy::Policy;
use crate::pages::runs::Runs;
use crate::pages::span::{Guarded, Span, Spans, at};
use crate::platform::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::platform::budget::Budget;
use crate::platform::helper::Helper;
use crate::platform::options::{NEVER, Options};
use crate::platform::os::Os;
use crate::platform::system_page;
use crate::platform::units::{Bin, PAGE_BYTES, ShardId, SpanId, elapsed_ms};
use core::ptr::NonNull;
use crossbeam_utils::CachePadded;

/// How often moved blocks are all freed before those that follow count as short-lived too. Chosen: less costs programs
/// that do so a few times only; more, those that go on.
const TURNS: usize = 2;
/// Most direct mappings below [`DIRECT_BYTES`] that `realloc` makes. Chosen: an eighth of the mappings that Linux lets a
/// process have.
const SMALL_MAPPINGS: usize = 8192;
/// Most waiting runs, and most bytes of them. Chosen: some time before reuse, in less than an arena's largest step.
const WAITING_RUNS: usize = 64;
const WAITING_BYTES: usize = 32 << 20;
/// Bytes of dirty runs from which whoever frees one wakes a helper that rests.
const POST_BYTES: usize = 8 << 20;
/// Least bytes that go back early at a time: many at once cost less. Chosen: a purge's step.
const EARLY_STEP_BYTES: usize = 2 << 20;
/// Longest time of one call that gives memory back, in microseconds; a step of the kernel's more. Chosen: 10 MiB.
pub const TURN_US: u32 = 1000;
/// Pages of a kept mapping that one call unmaps: bounds a thread's time in the kernel.
const UNMAPPED_PAGES: usize = 4096;
/// Most bytes of kept mappings that no request missed, where a helper gives them back. Chosen.
const HELPED_BYTES: usize = 256 << 20;
/// Part of a limited address space that kept mappings may take, and that free runs may. Chosen.
const LIMIT_SHARE: usize = 8;

/// The pages of an allocator.
pub struct PageHeap<P: Policy> {
    /// Runs of the arenas.
    pub runs: Runs<P::Os>,
    /// Large blocks with a mapping of their own.
    pub direct: DirectMappings<P::Os>,
    /// Guards, and runs that wait.
    pub guards: Guards<P::Os>,
    /// The thread that gives memory back.
    pub helper: CachePadded<Helper>,
    early: Early,
    /// How used memory is cleared.
    pub clearing: Clearing,
    purged_bytes: AtomicU64,
    /// Pages of small spans taken since the last look for [spans to vacate](crate::upkeep::vacate).
    pub taken: Fresh,
    /// Direct mappings below [`DIRECT_BYTES`] that were freed before they had [paid](Span::pays_for_mapping), less those
    /// that were freed after.
    unpaid_mappings: AtomicUsize,
    /// Bytes of the longest of the former.
    unpaid_bytes: AtomicUsize,
}

impl<P: Policy> PageHeap<P> {
    /// Without memory.
    #[allow(clippy::new_without_default, reason = "only an allocator has one")]
    pub const fn new() -> Self {
        Self {
            runs: Runs::new(Options::new(P::PURGE_DELAY_MS, P::FIRST_ARENA_BYTES)),
            direct: DirectMappings::new(),
            guards: Guards::new(),
            helper: CachePadded::new(Helper::new()),
            early: Early::new(),
            clearing: Clearing::new(),
            purged_bytes: AtomicU64::new(0),
            taken: Fresh::new(),
            unpaid_mappings: AtomicUsize::new(0),
            unpaid_bytes: AtomicUsize::new(0),
        }
    }

    /// The options of the environment.
    #[inline]
    pub fn options(&self) -> &Options {
        &self.runs.arenas.options
    }

    /// All span descriptors.
    #[inline]
    pub fn spans(&self) -> &Spans {
        &self.runs.spans
    }

    /// The tag of the page that holds `address`; [`PageTag::NONE`] outside every arena.
    #[inline]
    pub fn tag(&self, address: usize) -> PageTag {
        let tag = self.runs.arenas.tag_value(address);
        if tag.is_vacating() { self.tag_of_vacated(tag) } else { tag }
    }

    #[cold]
    fn tag_of_vacated(&self, tag: PageTag) -> PageTag {
        // SAFETY: a small tag has a span's id. While a block of the page is live, the bin is constant. If none is, the value
        // only selects the message that ends the process.
        tag.with_bin(unsafe { (*at(self.spans(), tag.span())).bin })
    }

    /// Whether the slot at `address` is one of a span that is being vacated.
    #[inline]
    pub fn is_vacating(&self, address: usize) -> bool {
        self.runs.arenas.tag_value(address).is_vacating()
    }

    /// Makes frees in the pages of the small `span` use the entry of `bin`: its own, or the foreign one, where they miss.
    pub fn set_bin(&self, span: &Span, bin: Bin) {
        for page in 0..span.pages as usize {
            if let Some(tag) = self.runs.arenas.tag(span.start + page * PAGE_BYTES) {
                tag.set_bin(bin);
            }
        }
    }

    /// The shard that owns the slot at `address`.
    #[inline]
    pub fn owner(&self, address: usize) -> ShardId {
        self.tag(address).owner()
    }

    /// Whether a slot, free or not, begins at `address`, in a page with the tag `tag`.
    #[inline]
    pub fn is_slot(&self, tag: PageTag, address: usize) -> bool {
        // SAFETY: a small tag has a span's id. While a block of the page is live, the descriptor is constant. If none
        // is, the value only selects the message that ends the process.
        tag.kind() == Kind::Small
            && bins::info(tag.bin())
                .slot_at(address.wrapping_sub(unsafe { (*at(self.spans(), tag.span())).start }))
                .is_some()
    }

    /// A new span of `bin` for `owner`, tagged and guarded. `None` if memory runs out.
    pub fn take_small(&self, bin: Bin, owner: ShardId) -> Option<SpanId> {
        let pages = bins::info(bin).span_pages();
        self.take_slots(pages, |id| PageTag::small(bin, owner, id), |span| span.become_small(bin, owner))
    }

    /// A new span of `pages` for slots of `bin` in a region, tagged and guarded. `None` if memory runs out.
    pub fn take_for_region(&self, bin: Bin, pages: usize) -> Option<SpanId> {
        let become_regional = |span: &mut Span| {
            span.become_small(bin, ShardId(0));
            span.kind = Kind::Region;
        };
        self.take_slots(pages, |id| PageTag::edge(Kind::Region, id), become_regional)
    }

    /// A new span with `pages` for slots, its pages tagged as `tag` says, and guarded. `None` if memory runs out.
    #[inline(always)]
    fn take_slots(
        &self,
        pages: usize,
        tag: impl FnOnce(SpanId) -> PageTag,
        prepare: impl FnOnce(&mut Span),
    ) -> Option<SpanId> {
        let is_part = pages < system_page::pages();
        let id = if is_part { self.take_part(pages) } else { self.runs.allocate(pages + P::guard_pages(), 1) }?;
        self.taken.note(pages);
        // SAFETY: this thread owns the span, just taken; nothing uses its pages. A part's guard is its shared page's.
        unsafe {
            if !is_part {
                self.note_taken(id);
            }
            self.tag_all(id, tag(id), prepare);
            if P::HARDENED && !is_part {
                self.guard_end(id);
            }
        }
        Some(id)
    }

    /// A run of `pages`, fewer than a page of the system has, out of one that spans share. `None` if memory runs out.
    #[cold]
    #[inline(never)]
    fn take_part(&self, pages: usize) -> Option<SpanId> {
        loop {
            if let Some(id) = self.runs.take_part(pages)? {
                return Some(id);
            }
            let page = self.runs.allocate(system_page::pages() + P::guard_pages(), 1)?;
            // SAFETY: this thread owns the span, just taken; nothing uses its pages. It hands the span over, tagged.
            unsafe {
                self.note_taken(page);
                self.tag_all(page, PageTag::edge(Kind::Shared, page), |span| span.kind = Kind::Shared);
                if P::HARDENED {
                    self.guard_end(page);
                }
                self.runs.share(page);
            }
        }
    }

    /// Frees the span `id` of small slots, a shard's or a region's. With `keeps_age` its pages are as old as the last use of
    /// its slots, else new.
    ///
    /// # Safety
    /// The caller owns the span, which is in no list, and hands it over. All its slots are home.
    pub unsafe fn release_small(&self, id: SpanId, keeps_age: bool) {
        let mut stamp = P::Os::now_ms();
        // SAFETY: the caller owns the span, and no block of it is live.
        unsafe {
            if (*at(self.spans(), id)).is_part() {
                return self.release_part(id, keeps_age);
            }
            self.tag_all(id, PageTag::NONE, |span| {
                span.kind = Kind::Transit;
                if keeps_age {
                    stamp = stamp.wrapping_sub(elapsed_ms(span.stamp, stamp));
                }
            });
            if P::HARDENED && !self.unguard(id) {
                self.guards.begin_transit();
                return self.push_waiting(id);
            }
            let bytes = (*at(self.spans(), id)).bytes();
            let free = self.runs.release_counted(id, stamp);
            self.settle(free, bytes);
        }
    }

    /// Frees a part of a shared page; that too, if it is free as a whole.
    ///
    /// # Safety
    /// As for [`PageHeap::release_small`].
    #[cold]
    #[inline(never)]
    unsafe fn release_part(&self, id: SpanId, keeps_age: bool) {
        // SAFETY: the caller owns the span, of which no block is live, and hands it over; then this thread owns the whole page.
        unsafe {
            let (page, stamp) = ((*at(self.spans(), id)).shared_page(), (*at(self.spans(), id)).stamp);
            self.tag_all(id, PageTag::edge(Kind::Shared, page), |span| span.kind = Kind::Transit);
            if self.runs.put_part_back(page, id) {
                (*at(self.spans(), page)).stamp = stamp;
                self.release_small(page, keeps_age);
            }
        }
    }

    /// Applies `change` to span `id` and tags all its pages.
    ///
    /// # Safety
    /// The caller owns the span, and no block of it is live.
    unsafe fn tag_all(&self, id: SpanId, tag: PageTag, change: impl FnOnce(&mut Span)) {
        // SAFETY: the caller owns the span.
        let span = unsafe { &mut *at(self.spans(), id) };
        change(span);
        for page in 0..span.pages as usize {
            self.runs.arenas.set_tag(span.start + page * PAGE_BYTES, tag);
        }
    }

    /// Changes the kind of span `id` and tags its first and last page.
    ///
    /// # Safety
    /// The caller owns the span, and no block of it is live.
    unsafe fn tag_ends(&self, id: SpanId, kind: Kind) {
        // SAFETY: the caller owns the span.
        let span = unsafe { &mut *at(self.spans(), id) };
        span.kind = kind;
        self.runs.arenas.set_tag(span.start, PageTag::edge(kind, id));
        self.runs.arenas.set_tag(span.start + span.bytes() - PAGE_BYTES, PageTag::edge(kind, id));
    }

    /// A large block's span at a multiple of `align_pages`, a power of two, for the caller. `None` if memory runs out.
    pub fn take_large(&self, pages: usize, align_pages: usize) -> Option<SpanId> {
        debug_assert!(pages == system_page::whole(pages));
        if !self.is_direct(pages.max(align_pages)) {
            self.take_run(Growing::Any, pages, align_pages).or_else(|| self.map_direct(pages, align_pages * PAGE_BYTES))
        } else {
            self.map_direct(pages, align_pages * PAGE_BYTES)
                .or_else(|| self.take_run(Growing::Present, pages, align_pages))
        }
    }

    /// Whether a large block of `pages` gets a mapping of its own.
    pub fn is_direct(&self, pages: usize) -> bool {
        let bytes = pages * PAGE_BYTES;
        bytes >= DIRECT_BYTES || bytes >= LIMITED_DIRECT_BYTES && P::Os::address_space_limit() != usize::MAX
    }

    fn take_run(&self, which: Growing, pages: usize, align_pages: usize) -> Option<SpanId> {
        if P::HARDENED {
            if let Some(id) = self.take_ready(pages, align_pages) {
                return Some(id);
            }
        }
        let id = self.runs.allocate_in(which, pages, align_pages)?;
        // SAFETY: this thread owns the span, just taken; no block of it is live.
        unsafe {
            self.note_taken(id);
            (*at(self.spans(), id)).set_copied_bytes(0);
            self.tag_ends(id, Kind::Large);
        }
        Some(id)
    }

    /// Whether the hard limit, if there is one, has room for `pages`, now that other free memory has gone back for them.
    #[cold]
    fn make_room(&self, pages: usize) -> bool {
        if self.options().hard_limit_bytes() == 0 {
            return false;
        }
        let missing = self.runs.limit.excess(self.options(), pages);
        if self.direct.kept_bytes() > 0 && missing > 0 {
            let (now, most_bytes) = (P::Os::now_ms(), missing * PAGE_BYTES);
            let take = |bytes| if bytes < most_bytes { self.direct.take_idle(now, 0, UNMAPPED_PAGES) } else { None };
            self.note_purged(self.unmap_each(take));
        }
        self.runs.make_room(pages)
    }

    /// Counts `pages` of a mapping; at the hard limit, after free memory has gone back for them. False if it stays so.
    fn charge(&self, pages: usize) -> bool {
        let charge = || self.runs.limit.charge(self.options(), pages);
        charge() || self.make_room(pages) && charge()
    }

    /// A ready run, with its guard.
    fn take_ready(&self, pages: usize, align_pages: usize) -> Option<SpanId> {
        let id = self.guards.take_ready(self.spans(), pages * PAGE_BYTES, align_pages * PAGE_BYTES)?;
        // SAFETY: this thread owns the span, just taken; no block of it is live. Its guards at the ends lie in it.
        unsafe {
            if matches!((*at(self.spans(), id)).guarded, Guarded::Ends | Guarded::All) && !self.unguard(id) {
                self.push_waiting(id);
                return None;
            }
            let span = &mut *at(self.spans(), id);
            span.zeroed = false;
            span.set_copied_bytes(0);
            self.tag_ends(id, Kind::Large);
        }
        self.guards.end_transit();
        Some(id)
    }

    /// Whether `realloc` may make or leave another direct mapping below [`DIRECT_BYTES`].
    pub fn may_map_small(&self) -> bool {
        self.direct.small_blocks() < SMALL_MAPPINGS
    }

    /// Whether moved blocks of `bytes` are freed too soon to pay: all that ever lived at once were, several times over.
    pub fn frees_too_soon(&self, bytes: usize) -> bool {
        // Relaxed, both: hints.
        bytes <= self.unpaid_bytes.load(Ordering::Relaxed)
            && self.unpaid_mappings.load(Ordering::Relaxed) >= TURNS * self.direct.most_small_blocks()
    }

    /// A direct mapping of any size, in the table. `None` if memory runs out.
    pub fn take_direct(&self, pages: usize) -> Option<SpanId> {
        self.map_direct(pages, PAGE_BYTES)
    }

    /// Moves the first `bytes` of a large block's run `id`, whole pages, to a new direct mapping of `pages`, which is in
    /// the table. The run then reads as zero. `None` if the system refuses; nothing has changed.
    ///
    /// # Safety
    /// The caller owns the span; the range holds no guard and fits into the mapping.
    pub unsafe fn move_out(&self, id: SpanId, bytes: usize, pages: usize) -> Option<SpanId> {
        // What moves counts twice until the run is free.
        let more = pages.saturating_sub(bytes / PAGE_BYTES);
        if !self.charge(more) {
            return None;
        }
        let Some(fresh) = self.runs.descriptor() else {
            self.runs.limit.uncharge(more);
            return None;
        };
        // SAFETY: the caller owns the run's span, this thread the fresh descriptor and then the new mapping.
        unsafe {
            let start = NonNull::new(core::ptr::with_exposed_provenance_mut((*at(self.spans(), id)).start));
            let moved = start.and_then(|start| P::Os::move_out(start, bytes));
            if moved.is_some() {
                self.runs.limit.force(bytes / PAGE_BYTES);
            }
            let grown = moved.and_then(|moved| P::Os::remap(moved, bytes, pages * PAGE_BYTES));
            let Some(grown) = grown else {
                self.runs.retire_descriptor(fresh);
                self.runs.limit.uncharge(more);
                if let (Some(start), Some(moved)) = (start, moved) {
                    start.copy_from_nonoverlapping(moved, bytes);
                    self.unmap_unused(moved, bytes, false);
                }
                return None;
            };
            let span = &mut *at(self.spans(), fresh);
            (span.start, span.pages, span.kind) = (grown.as_ptr().expose_provenance(), pages as u32, Kind::Large);
            (span.zeroed, span.guarded) = (false, Guarded::None);
            span.set_copied_bytes(bytes);
            self.direct.insert(self.spans(), fresh);
        }
        Some(fresh)
    }

    fn map_direct(&self, pages: usize, align: usize) -> Option<SpanId> {
        // Reuse first if it wastes little; in the end, at any waste.
        self.reuse_direct(pages, false, align)
            .or_else(|| self.reuse_kept(pages, align))
            .or_else(|| self.map_fresh(pages, align))
            .or_else(|| if self.unmap_kept() > 0 { self.map_fresh(pages, align) } else { None })
            .or_else(|| self.reuse_direct(pages, true, align))
    }

    fn reuse_direct(&self, pages: usize, at_any_waste: bool, align: usize) -> Option<SpanId> {
        let id = self.direct.reuse(self.spans(), pages, at_any_waste, align)?;
        // SAFETY: this thread owns the descriptor, just taken, and its mapping, and hands the descriptor over.
        unsafe {
            let span = &mut *at(self.spans(), id);
            if span.zeroed && !self.charge(span.pages as usize) {
                self.direct.push_unreturned(self.spans(), id);
                return None;
            }
            let span = &mut *at(self.spans(), id);
            span.kind = Kind::Large;
            let start = NonNull::new(core::ptr::with_exposed_provenance_mut(span.start))?;
            self.options().advise::<P::Os>(start, span.bytes());
            self.direct.insert(self.spans(), id);
        }
        Some(id)
    }

    fn map_fresh(&self, pages: usize, align: usize) -> Option<SpanId> {
        let bytes = pages * PAGE_BYTES;
        let mapped = if align > system_page::bytes() { bytes.checked_add(align)? } else { bytes };
        if !self.charge(pages) {
            return None;
        }
        let Some(id) = self.runs.descriptor() else {
            self.runs.limit.uncharge(pages);
            return None;
        };
        let Some(raw) = P::Os::map(mapped) else {
            self.runs.limit.uncharge(pages);
            // SAFETY: this thread owns the descriptor, which is unused.
            unsafe { self.runs.retire_descriptor(id) };
            return None;
        };
        let first = raw.as_ptr().expose_provenance();
        let start = first.next_multiple_of(align);
        let tail = first + mapped - (start + bytes);
        // SAFETY: both ends lie in the new mapping and are unused; this thread owns the descriptor and hands it over.
        unsafe {
            self.unmap_unused(raw, start - first, true);
            self.unmap_unused(raw.add(start - first + bytes), tail, true);
            let span = &mut *at(self.spans(), id);
            (span.start, span.pages, span.kind) = (start, pages as u32, Kind::Large);
            (span.zeroed, span.guarded) = (true, Guarded::None);
            P::Os::name(raw.add(start - first), bytes, c"hz3: block");
            self.options().advise::<P::Os>(raw.add(start - first), bytes);
            self.direct.insert(self.spans(), id);
        }
        self.runs.fresh.note(pages);
        self.unmap_excess();
        Some(id)
    }

    fn reuse_kept(&self, pages: usize, align: usize) -> Option<SpanId> {
        let mapping = self.direct.take_kept(self.keeping(usize::MAX), pages, align)?;
        // SAFETY: this thread owns the mapping that it took, which nothing uses, and the descriptor, and hands both over.
        unsafe {
            let is_open =
                mapping.guarded == 0 || self.guards.unguard(mapping.start, mapping.guarded as usize * PAGE_BYTES);
            let Some(id) = is_open.then(|| self.runs.descriptor()).flatten() else {
                self.unmap_mapping(Mapping { guarded: if is_open { 0 } else { mapping.guarded }, ..mapping });
                return None;
            };
            let span = &mut *at(self.spans(), id);
            (span.start, span.pages, span.kind) = (mapping.start, mapping.pages as u32, Kind::Large);
            (span.zeroed, span.guarded) = (false, Guarded::None);
            self.direct.insert(self.spans(), id);
            Some(id)
        }
    }

    /// What decides how much is kept now.
    fn keeping(&self, most_bytes: usize) -> Keeping {
        let lately_ms = match self.options().purge_delay_ms() {
            NEVER => P::PURGE_DELAY_MS,
            delay_ms => delay_ms.max(1),
        };
        let goes_back_later = self.helper.is_there() || self.options().purge_delay_ms() > P::PURGE_DELAY_MS;
        let idle_bytes = if goes_back_later { HELPED_BYTES } else { LEAST_BYTES };
        Keeping { now: P::Os::now_ms(), lately_ms, most_bytes, idle_bytes }
    }

    /// [`PageHeap::keeping`], where memory may have become too much. In a limited address space little is kept, which
    /// others' mappings may need.
    fn keeping_little(&self) -> Keeping {
        self.keeping(match P::Os::address_space_limit() {
            usize::MAX => usize::MAX,
            limit => limit / LIMIT_SHARE,
        })
    }

    /// Keeps the mapping `id` of a block that was freed; false if it is to be unmapped.
    ///
    /// # Safety
    /// The caller owns the descriptor, which is in no list, and the mapping, which nothing uses. It hands over both with
    /// true.
    unsafe fn keep(&self, id: SpanId) -> bool {
        if self.options().purge_delay_ms() == 0 {
            return false;
        }
        // SAFETY: the caller owns the descriptor and the mapping, which nothing uses.
        unsafe {
            let (start, pages) = ((*at(self.spans(), id)).start, (*at(self.spans(), id)).pages as usize);
            let keeping = self.keeping_little();
            if !self.is_direct(pages) || !self.direct.may_keep(keeping, pages * PAGE_BYTES) {
                return false;
            }
            let guarded = if P::HARDENED { Span::front_pages(pages) as u32 } else { 0 };
            if P::HARDENED && !(self.unguard(id) && self.guards.guard(start, guarded as usize * PAGE_BYTES)) {
                return false;
            }
            self.runs.retire_descriptor(id);
            if let Some(displaced) = self.direct.keep(Mapping { start, pages, guarded, stamp: keeping.now }) {
                self.unmap_mapping(displaced);
            }
            self.unmap_excess_for(keeping);
            self.helper.post::<P::Os>();
        }
        true
    }

    /// Unmaps a mapping that was kept; false if its guards can neither be removed nor go with it: then it is kept on.
    ///
    /// # Safety
    /// The caller owns it, and nothing uses it.
    unsafe fn unmap_mapping(&self, mapping: Mapping) -> bool {
        let Some(start) = NonNull::new(core::ptr::with_exposed_provenance_mut(mapping.start)) else { return true };
        // SAFETY: the caller owns the mapping, and nothing uses it.
        unsafe {
            // A guard may count against a limit.
            if mapping.guarded == 0 || self.guards.unguard(mapping.start, mapping.guarded as usize * PAGE_BYTES) {
                self.unmap_unused(start, mapping.bytes(), false);
                return true;
            }
            if P::Os::unmap(start, mapping.bytes()) {
                self.runs.limit.uncharge(mapping.pages);
                return true;
            }
        }
        // It left a place, unless others took that meanwhile: then memory is lost.
        if let Some(lost) = self.direct.keep(mapping) {
            self.runs.limit.uncharge(lost.pages);
        }
        false
    }

    /// Unmaps the kept mappings that `take` yields; returns their bytes. A fork meanwhile loses the child one.
    fn unmap_each(&self, mut take: impl FnMut(usize) -> Option<Mapping>) -> usize {
        let mut bytes = 0;
        while let Some(mapping) = take(bytes) {
            // SAFETY: this thread owns the mapping, just taken, and nothing uses it.
            if !unsafe { self.unmap_mapping(mapping) } {
                break;
            }
            bytes += mapping.bytes();
        }
        bytes
    }

    fn unmap_excess_for(&self, keeping: Keeping) {
        self.unmap_each(|_| self.direct.take_excess(keeping));
    }

    /// Unmaps kept mappings, oldest first, of which there are too many now that others are live.
    pub fn unmap_excess(&self) {
        if self.direct.kept_bytes() > 0 {
            self.unmap_excess_for(self.keeping_little());
        }
    }

    /// Unmaps all kept mappings; returns their bytes. Other threads may keep more meanwhile.
    pub fn unmap_kept(&self) -> usize {
        if self.direct.kept_bytes() == 0 {
            return 0;
        }
        let now = P::Os::now_ms();
        self.unmap_each(|_| self.direct.take_idle(now, 0, usize::MAX))
    }

    /// Frees the run at `address`, in a page tagged large. False if none begins there or another thread was first. In a
    /// hardened lane it waits, as `wait` answers for its pages.
    ///
    /// # Safety
    /// Nothing uses the block any more.
    pub unsafe fn release_run(&self, tag: PageTag, address: usize, wait: impl FnOnce(usize) -> Wait) -> bool {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.release_run_as(tag, address, wait, false) }
    }

    /// [`PageHeap::release_run`] of a run that [`PageHeap::move_out`] has emptied.
    ///
    /// # Safety
    /// As for [`PageHeap::release_run`], and the pages read as zero.
    pub unsafe fn release_empty_run(&self, tag: PageTag, address: usize) -> bool {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.release_run_as(tag, address, |_| Wait::Whole, true) }
    }

    /// # Safety
    /// Nothing uses the block any more. If `is_empty`, the pages read as zero.
    unsafe fn release_run_as(
        &self,
        tag: PageTag,
        address: usize,
        wait: impl FnOnce(usize) -> Wait,
        is_empty: bool,
    ) -> bool {
        // SAFETY: a large tag has a span's id. While the block is live, the descriptor is constant. If it is not, the
        // value only selects the message that ends the process.
        let is_start = unsafe { (*at(self.spans(), tag.span())).start } == address;
        if !is_start || !self.runs.arenas.tag(address).is_some_and(TagCell::claim_large) {
            return false;
        }
        // SAFETY: only this thread claimed the span, and nothing uses the block.
        unsafe {
            if P::HARDENED {
                self.release_later(tag.span(), wait);
            } else if is_empty {
                self.runs.release_clean(tag.span());
            } else {
                let bytes = (*at(self.spans(), tag.span())).bytes();
                let free = self.runs.release_counted(tag.span(), P::Os::now_ms());
                self.settle(free, bytes);
            }
        }
        true
    }

    /// Frees the direct mapping at `address`; false if there is none.
    ///
    /// # Safety
    /// Nothing uses the block any more.
    pub unsafe fn release_direct(&self, address: usize) -> bool {
        let Some(id) = self.direct.remove(self.spans(), address) else { return false };
        // SAFETY: this thread owns the descriptor, just removed; nothing uses the block; it may not read as zero.
        unsafe {
            let span = &mut *at(self.spans(), id);
            span.zeroed = false;
            if span.bytes() < DIRECT_BYTES {
                self.note_freed_mapping(span);
            }
            if !self.keep(id) {
                self.unmap(id);
            }
        }
        true
    }

    /// Learns from a direct mapping whether moves pay.
    fn note_freed_mapping(&self, span: &Span) {
        // Relaxed, all: hints.
        let before = self.unpaid_mappings.load(Ordering::Relaxed);
        if !span.pays_for_mapping(span.bytes()) {
            self.unpaid_mappings.fetch_add(1, Ordering::Relaxed);
            self.unpaid_bytes.fetch_max(span.bytes(), Ordering::Relaxed);
        } else if before > 0 {
            self.unpaid_mappings.store(before - 1, Ordering::Relaxed);
        }
    }

    /// Resizes the run `id` of a large block in place, to `pages` with its guard. False if that is impossible.
    ///
    /// # Safety
    /// The caller owns the span, and uses neither the pages cut off nor the new guard.
    pub unsafe fn resize_run(&self, id: SpanId, pages: usize) -> bool {
        // SAFETY: the caller owns the span; nothing uses the pages cut off, nor the last page.
        unsafe {
            let old_pages = (*at(self.spans(), id)).pages as usize;
            // A shrink by less than an eighth leaves the guard in place.
            if pages == old_pages || P::HARDENED && pages < old_pages && pages > old_pages - old_pages / 8 {
                return true;
            }
            if P::HARDENED && !self.unguard(id) {
                return false;
            }
            let is_done = if pages < old_pages {
                self.runs.shrink(id, pages, P::Os::now_ms());
                self.purge_if_at_once();
                true
            } else {
                self.runs.extend(id, pages)
            };
            if P::HARDENED {
                self.guard_end(id);
            }
            is_done
        }
    }

    /// Resizes mapping `id`, not in the table, to `pages` with its guard. Returns its address; `None` if impossible.
    ///
    /// # Safety
    /// The caller owns the descriptor and the whole mapping, and uses neither the pages cut off nor the new guard.
    pub unsafe fn resize_direct(&self, id: SpanId, pages: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller owns the descriptor and the whole mapping; nothing uses the last page.
        unsafe {
            let span = &mut *at(self.spans(), id);
            let (old_pages, old_bytes) = (span.pages as usize, span.bytes());
            let here = NonNull::new(core::ptr::with_exposed_provenance_mut(span.start));
            let (more, fewer) = (pages.saturating_sub(old_pages), old_pages.saturating_sub(pages));
            if !self.charge(more) {
                return None;
            }
            let moved = match here {
                here if old_bytes == pages * PAGE_BYTES => here,
                Some(_) if P::HARDENED && !self.unguard(id) => None,
                here => here.and_then(|start| P::Os::remap(start, old_bytes, pages * PAGE_BYTES)),
            };
            self.runs.limit.uncharge(if moved.is_some() { fewer } else { more });
            if let Some(moved) = moved {
                let span = &mut *at(self.spans(), id);
                (span.start, span.pages) = (moved.as_ptr().expose_provenance(), pages as u32);
                if more > 0 {
                    span.set_copied_bytes(span.copied_bytes().saturating_add(old_bytes));
                }
            }
            if P::HARDENED && (*at(self.spans(), id)).guarded == Guarded::None {
                self.guard_end(id);
            }
            moved
        }
    }

    /// Unmaps `id`, or keeps it as unreturned if the system refuses. Returns whether it is unmapped.
    ///
    /// # Safety
    /// The caller hands over the descriptor, which is in no list. Nothing uses the mapping; `zeroed` is right about it.
    unsafe fn unmap(&self, id: SpanId) -> bool {
        // SAFETY: the caller owns the descriptor and the mapping; nothing uses them.
        unsafe {
            let span = &mut *at(self.spans(), id);
            let Some(start) = NonNull::new(core::ptr::with_exposed_provenance_mut(span.start)) else { return false };
            // A guard may count against a limit.
            if P::HARDENED {
                self.unguard(id);
            }
            let span = &mut *at(self.spans(), id);
            let counted = if span.zeroed { 0 } else { span.pages as usize };
            if P::Os::unmap(start, span.bytes()) {
                self.runs.limit.uncharge(counted);
                self.runs.retire_descriptor(id);
                return true;
            }
            if counted > 0 && P::Os::purge(start, span.bytes()) {
                self.runs.limit.uncharge(counted);
                span.zeroed = true;
            }
            span.kind = Kind::Transit;
            self.direct.push_unreturned(self.spans(), id);
            false
        }
    }

    /// Unmaps a part of a new mapping, or keeps it as unreturned; `zeroed` tells whether it reads as zero, and so does not
    /// count. Without a descriptor for that, address space is lost.
    ///
    /// # Safety
    /// Nothing will use the range.
    unsafe fn unmap_unused(&self, start: NonNull<u8>, bytes: usize, zeroed: bool) {
        // SAFETY: nothing uses the range; this thread owns the descriptor that it was handed, and hands it over.
        unsafe {
            let counted = if zeroed { 0 } else { bytes / PAGE_BYTES };
            if bytes == 0 || P::Os::unmap(start, bytes) {
                self.runs.limit.uncharge(counted);
                return;
            }
            let zeroed = zeroed || P::Os::purge(start, bytes);
            let descriptor = self.runs.descriptor();
            if zeroed || descriptor.is_none() {
                self.runs.limit.uncharge(counted);
            }
            if let Some(id) = descriptor {
                let span = &mut *at(self.spans(), id);
                (span.start, span.pages) = (start.as_ptr().expose_provenance(), (bytes / PAGE_BYTES) as u32);
                (span.kind, span.zeroed, span.guarded) = (Kind::Transit, zeroed, Guarded::None);
                self.direct.push_unreturned(self.spans(), id);
            }
        }
    }

    /// Retries up to `most` unreturned mappings; returns the bytes unmapped. A fork meanwhile may lose the child one.
    pub fn retry_unmaps(&self, most: usize) -> usize {
        let mut returned = 0;
        for _ in 0..most.min(self.direct.unreturned().0) {
            let Some(id) = self.direct.pop_unreturned(self.spans()) else { break };
            // SAFETY: this thread owns the descriptor, just taken; nothing uses the mapping.
            unsafe {
                let bytes = (*at(self.spans(), id)).bytes();
                returned += if self.unmap(id) { bytes } else { 0 };
            }
        }
        returned
    }

    /// Guards the last page of span `id`, one of the system's, unless the system refuses.
    ///
    /// # Safety
    /// The caller owns the span, and nothing uses its last page.
    pub unsafe fn guard_end(&self, id: SpanId) {
        // SAFETY: the caller owns the span, and nothing uses its last page.
        unsafe {
            let span = &mut *at(self.spans(), id);
            if span.guarded == Guarded::End {
                // A reused mapping, which the system refused to unmap, keeps its guard.
                return;
            }
            let guard_bytes = system_page::bytes();
            let is_guarded = self.guards.guard(span.start + span.bytes() - guard_bytes, guard_bytes);
            span.guarded = if is_guarded { Guarded::End } else { Guarded::None };
        }
    }

    /// Removes the guards of span `id`. False if the system refuses.
    ///
    /// # Safety
    /// The caller owns the span.
    unsafe fn unguard(&self, id: SpanId) -> bool {
        // SAFETY: the caller owns the span, and the guarded pages lie in it.
        unsafe {
            let span = &mut *at(self.spans(), id);
            let (start, end, one) = (span.start, span.start + span.bytes(), system_page::bytes());
            let is_open = match span.guarded {
                Guarded::None => true,
                Guarded::End => self.guards.unguard(end - one, one),
                Guarded::Ends => {
                    let front = Span::front_pages(span.pages as usize) * PAGE_BYTES;
                    // Both again if one is refused.
                    self.guards.unguard(start, front) && self.guards.unguard(end - 2 * one, 2 * one)
                }
                Guarded::All => self.guards.unguard(start, end - start),
            };
            if is_open {
                span.guarded = Guarded::None;
            }
            is_open
        }
    }

    /// Frees the run of a large block after a wait. Guards all of it, which gives its memory back, if that is due at once;
    /// else as `wait` answers for its pages.
    ///
    /// # Safety
    /// The caller owns the span and hands it over. Nothing uses its contents.
    unsafe fn release_later(&self, id: SpanId, wait: impl FnOnce(usize) -> Wait) {
        let transit = self.runs.forks.begin_transit::<P::Os>();
        self.guards.begin_transit();
        let mut freed = 0;
        // SAFETY: the caller owns the span, and nothing uses its contents.
        unsafe {
            let span = &mut *at(self.spans(), id);
            span.stamp = P::Os::now_ms();
            let is_at_once = self.options().purge_delay_ms() == 0 || span.guarded != Guarded::End;
            let wait = if is_at_once { Wait::Whole } else { wait(span.pages as usize) };
            // Of a short one, the ends are all.
            let has_middle = span.pages as usize > Span::front_pages(span.pages as usize) + 2 * system_page::pages();
            let wait = if wait == Wait::Ends && !has_middle { Wait::Whole } else { wait };
            match wait {
                Wait::Whole if self.guards.guard(span.start, span.bytes()) => span.guarded = Guarded::All,
                Wait::Ends => self.guard_ends(id),
                _ => {}
            }
            // Of long ones not even two may wait.
            if wait == Wait::Whole || wait == Wait::Ends && span.bytes() <= WAITING_BYTES / 2 {
                self.push_waiting(id);
            } else {
                self.tag_ends(id, Kind::Waiting);
                if let Some(other) = self.guards.push_ready(self.spans(), id) {
                    freed = (*at(self.spans(), other)).bytes();
                    self.release_waited(other);
                }
            }
        }
        drop(transit);
        self.release_more_waiting(freed, WAITING_RUNS, WAITING_BYTES);
    }

    /// Guards the ends of the run of a freed large block, whose last page is guarded.
    ///
    /// # Safety
    /// The caller owns the span, and nothing uses its contents.
    unsafe fn guard_ends(&self, id: SpanId) {
        // SAFETY: the caller owns the span, and nothing uses its contents. It has more pages than are guarded.
        unsafe {
            let span = &mut *at(self.spans(), id);
            let front = Span::front_pages(span.pages as usize) * PAGE_BYTES;
            let back_bytes = 2 * system_page::bytes();
            let back = span.start + span.bytes() - back_bytes;
            if self.guards.guard(span.start, front) {
                // Where the second is refused, the last page may have lost its guard.
                self.guards.guard(back, back_bytes);
                span.guarded = Guarded::Ends;
            }
        }
    }

    /// Lets a run that is in transit wait.
    ///
    /// # Safety
    /// The caller owns the span and hands it over. No block of it is live.
    unsafe fn push_waiting(&self, id: SpanId) {
        // SAFETY: the caller owns the span, and no block of it is live.
        unsafe {
            self.tag_ends(id, Kind::Waiting);
            self.guards.push(self.spans(), id);
        }
    }

    /// Frees waiting runs, oldest first, until at most `most_runs` and `most_bytes` are left, but no more runs than wait
    /// now: where calls to the system free blocks, others come. A run whose guard the system refuses to remove goes
    /// back, since its pages fault, and ends this.
    pub fn release_waiting(&self, most_runs: usize, most_bytes: usize) {
        self.release_more_waiting(0, most_runs, most_bytes);
    }

    /// [`PageHeap::release_waiting`] after `freed` bytes of waiting runs were freed.
    fn release_more_waiting(&self, freed: usize, most_runs: usize, most_bytes: usize) {
        let before = self.guards.waiting_bytes();
        self.release_waiting_if(most_runs, most_bytes, |_| false);
        // What waits may hold memory too.
        let ((dirty, clean, _), waiting) = (self.runs.free_bytes(), self.guards.waiting_bytes());
        let freed = freed + before.saturating_sub(waiting);
        self.settle(((dirty + waiting) / PAGE_BYTES, clean / PAGE_BYTES), freed);
    }

    /// [`PageHeap::release_waiting`], also of those of which `is_due` says so.
    fn release_waiting_if(&self, most_runs: usize, most_bytes: usize, is_due: impl Fn(SpanId) -> bool) {
        for _ in 0..self.guards.waiting_runs() {
            let _transit = self.runs.forks.begin_transit::<P::Os>();
            let Some(id) = self.guards.pop_if(self.spans(), most_runs, most_bytes, &is_due) else { return };
            // SAFETY: this thread owns the span, just taken, and nothing uses its contents.
            if !unsafe { self.release_waited(id) } {
                return;
            }
        }
    }

    /// Frees a run that is in transit from a wait; false if it must wait on.
    ///
    /// # Safety
    /// The caller owns the span and hands it over. Nothing uses its contents.
    unsafe fn release_waited(&self, id: SpanId) -> bool {
        // SAFETY: the caller owns the span, and nothing uses its contents. What is guarded reads as zero.
        unsafe {
            let is_empty = (*at(self.spans(), id)).guarded == Guarded::All;
            if !self.unguard(id) {
                self.push_waiting(id);
                return false;
            }
            let span = &mut *at(self.spans(), id);
            span.kind = Kind::Transit;
            if is_empty {
                self.runs.release_clean(id);
            } else {
                self.runs.release(id, span.stamp);
            }
        }
        self.guards.end_transit();
        true
    }

    /// Frees the runs that have waited for `delay_ms` at `now`: nothing else pushes them out.
    fn release_idle(&self, now: u32, delay_ms: u32) {
        let spans = self.spans();
        // SAFETY: the queue's lock is held, which protects its spans' descriptors.
        let stamp = |id| unsafe { (*at(spans, id)).stamp };
        self.release_waiting_if(usize::MAX, usize::MAX, |id| elapsed_ms(stamp(id), now) >= delay_ms);
    }

    /// Bytes of free memory that goes back with age, dirty runs and kept mappings, and whether the program rests.
    pub fn aging(&self) -> (usize, bool) {
        let (dirty, used) = self.dirty_and_used();
        (dirty + self.direct.kept_bytes(), is_resting(used, dirty))
    }

    /// Bytes of dirty runs, and of what runs and spans use.
    fn dirty_and_used(&self) -> (usize, usize) {
        let ((dirty, clean, purging), (_, committed)) =
            (self.runs.free_bytes(), self.runs.arenas.reserved_and_committed());
        (dirty, committed.saturating_sub(dirty + clean + purging))
    }

    /// Purges dirty runs, and unmaps kept mappings, that are at least `delay_ms` old at `now`, about `most_bytes`; returns the
    /// bytes given back.
    pub fn purge(&self, now: u32, delay_ms: u32, most_bytes: usize) -> usize {
        if P::HARDENED {
            self.release_idle(now, delay_ms);
        }
        let unmapped = if self.direct.kept_bytes() > 0 {
            self.unmap_each(|bytes| {
                if bytes < most_bytes { self.direct.take_idle(now, delay_ms, UNMAPPED_PAGES) } else { None }
            })
        } else {
            0
        };
        let purged = unmapped + self.runs.purge(now, delay_ms, most_bytes.saturating_sub(unmapped));
        self.note_purged(purged);
        purged
    }

    /// Purges dirty runs of at least `delay_ms` at `now`, in steps while `budget` lasts; the bytes purged, and whether more are
    /// due.
    pub fn purge_runs(&self, now: u32, delay_ms: u32, most_bytes: usize, budget: &Budget) -> (usize, bool) {
        let result = Self::in_steps(most_bytes, budget, |bytes| self.runs.purge(now, delay_ms, bytes));
        self.note_purged(result.0);
        result
    }

    /// Purges the oldest dirty runs and unmaps kept mappings at `now`, `most_bytes` while `budget` lasts; the bytes given back,
    /// and whether the budget was spent.
    pub fn purge_now(&self, now: u32, most_bytes: usize, budget: &Budget) -> (usize, bool) {
        Self::in_steps(most_bytes, budget, |bytes| self.purge(now, 0, bytes))
    }

    /// Calls `purge` with the bytes of a step until it returns 0, `most_bytes` are reached or the `budget` is spent. Returns
    /// the sum, and whether it was spent.
    fn in_steps(most_bytes: usize, budget: &Budget, purge: impl Fn(usize) -> usize) -> (usize, bool) {
        let mut purged = 0;
        while purged < most_bytes {
            let step = purge(EARLY_STEP_BYTES.min(most_bytes - purged));
            purged += step;
            // Refused pages are young again.
            if step == 0 {
                return (purged, false);
            }
            if !budget.is_left::<P::Os>() {
                return (purged, true);
            }
        }
        (purged, false)
    }

    /// Purges what is as old as the delay, `most_bytes` while `budget` lasts; the bytes, and whether it was spent.
    pub fn purge_aged(&self, now: u32, delay_ms: u32, most_bytes: usize, budget: &Budget) -> (usize, bool) {
        let (purged, is_behind) = Self::in_steps(most_bytes, budget, |bytes| self.purge(now, delay_ms, bytes));
        let (dirty, used) = self.dirty_and_used();
        self.early.note_aged(purged, purged + dirty, used, now, self.options().purge_delay_ms());
        (purged, is_behind)
    }

    /// Milliseconds that free memory is kept at `now`: as the options say, or longer where it was taken again soon.
    pub fn delay_ms(&self, now: u32) -> u32 {
        self.early.delay_ms(now, self.options().purge_delay_ms())
    }

    /// Whether what exceeds the bound is going back at `now`, for want of a helper.
    pub fn is_giving_early(&self, now: u32) -> bool {
        self.early.is_giving(now)
    }

    /// Whether limited address space was going back just before `now`.
    pub fn is_short_of_space(&self, now: u32) -> bool {
        self.early.is_short(now)
    }

    /// After a release of `freed` bytes that left so many pages in dirty and in clean runs. The caller holds no lock.
    #[inline]
    fn settle(&self, (dirty, clean): (usize, usize), freed: usize) {
        if dirty * PAGE_BYTES >= POST_BYTES {
            self.settle_much(dirty * PAGE_BYTES, clean * PAGE_BYTES, freed);
        }
        self.purge_if_at_once();
    }

    /// Gives address space back where it is limited. Leaves the memory to the helper; without one, gives back what exceeds the
    /// bound, as much as was `freed` at least: it may have been the last.
    #[cold]
    #[inline(never)]
    fn settle_much(&self, dirty: usize, clean: usize, freed: usize) {
        if self.gives_space_back(dirty + clean) {
            return;
        }
        if self.helper.post::<P::Os>() || dirty < LEAST_BYTES {
            return;
        }
        let excess = self.excess_of(clean, dirty);
        if excess >= EARLY_STEP_BYTES {
            let now = P::Os::now_ms();
            let budget = Budget::of_us::<P::Os>(TURN_US);
            let (mut purged, is_behind) = self.purge_runs(now, 0, excess, &budget);
            let missing = freed.min(excess).saturating_sub(purged);
            if is_behind && missing > 0 {
                purged += self.purge_runs(now, 0, missing, &Budget::unbounded()).0;
            }
            self.early.note_given(purged, excess, now);
            self.runs.leave_out();
        }
    }

    /// Where mappings are limited, and `free` bytes of runs are too large a part of that, unmaps what is free at windows' ends,
    /// as others may need the room. False if there is nothing to do so with.
    fn gives_space_back(&self, free: usize) -> bool {
        if !self.runs.has_surplus(free)
            || free <= P::Os::address_space_limit() / LIMIT_SHARE
            || self.options().purge_delay_ms() > P::PURGE_DELAY_MS
        {
            return false;
        }
        let now = P::Os::now_ms();
        self.early.note_shortage(now);
        // What waits may lie there, and nothing that comes later pushes it out.
        let are_many =
            || self.guards.waiting_runs() >= WAITING_RUNS / 2 || self.guards.waiting_bytes() >= WAITING_BYTES / 2;
        if P::HARDENED && are_many() && !self.runs.has_free_end() {
            self.release_waiting_if(0, 0, |_| false);
        }
        if !self.runs.has_free_end() {
            return false;
        }
        let budget = Budget::of_us::<P::Os>(TURN_US);
        let (_, is_behind) = self.purge_runs(now, 0, usize::MAX, &budget);
        while !is_behind && self.runs.unmap_end() > 0 && budget.is_left::<P::Os>() {}
        true
    }

    /// Bytes by which dirty runs and `free` bytes of slots exceed what may be kept, where no helper gives them back.
    pub fn excess_with(&self, free: usize) -> usize {
        let (dirty, clean, _) = self.runs.free_bytes();
        self.excess_of(clean, dirty + free)
    }

    /// Bytes by which `dirty` ones exceed what may be kept beside `clean` ones, where no helper gives them back.
    fn excess_of(&self, clean: usize, dirty: usize) -> usize {
        // A longer delay is a wish to keep memory.
        if self.options().purge_delay_ms() > P::PURGE_DELAY_MS {
            return 0;
        }
        let committed = self.runs.arenas.reserved_and_committed().1;
        self.early.excess(committed.saturating_sub(clean), dirty)
    }

    /// Notes that span `id` was taken. For its fresh memory, kept mappings go: the sum stays about the same.
    ///
    /// # Safety
    /// The caller owns the span.
    #[inline]
    unsafe fn note_taken(&self, id: SpanId) {
        // SAFETY: the caller owns the span.
        let bytes = unsafe { (*at(self.spans(), id)).fresh_pages() } * PAGE_BYTES;
        if bytes == 0 {
            return;
        }
        if self.direct.kept_bytes() > 0 {
            if let Some(piece) = self.direct.take_for_fresh(P::Os::now_ms(), bytes, UNMAPPED_PAGES) {
                // SAFETY: this thread owns the piece, just taken, and nothing uses it.
                unsafe { self.unmap_mapping(piece) };
            }
        }
        if self.early.has_given() {
            self.early.note_taken(bytes, P::Os::now_ms(), self.options().purge_delay_ms());
        }
    }

    fn purge_if_at_once(&self) {
        if self.options().purge_delay_ms() == 0 {
            self.purge_at_once();
        }
    }

    // Not inlined: it would add to the stack that callers take.
    #[cold]
    #[inline(never)]
    fn purge_at_once(&self) {
        self.purge(P::Os::now_ms(), 0, usize::MAX);
    }

    /// Counts `bytes` as purged.
    pub fn note_purged(&self, bytes: usize) {
        // Relaxed: a count.
        self.purged_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes purged so far.
    pub fn purged_bytes(&self) -> u64 {
        // Relaxed: a count.
        self.purged_bytes.load(Ordering::Relaxed) + self.runs.limit.purged_bytes()
    }
}
