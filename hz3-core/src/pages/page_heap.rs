//! Page heap: all pages of an allocator: spans, large blocks and free runs, and what keeps them apart.
//!
//! ```text
//! small span      a run of the arenas, every page tagged
//! large block     below 32 MiB a run of the arenas, tagged at its first and last page; from 32 MiB up a mapping
//! free            a dirty run → purged → a clean run
//! ```
//!
//! A request that the arenas can't serve becomes a mapping too, so that fragmentation alone never makes one fail. A
//! request that should become a mapping is served by the arenas where the system refuses it, as it does for a process
//! with as many mappings as it may have (`vm.max_map_count`).

use crate::pages::bins;
use crate::pages::direct::DirectMappings;
use crate::pages::guards::Guards;
use crate::pages::page_tag::{Kind, PageTag, TagCell};
use crate::pages::policy::Policy;
use crate::pages::runs::Runs;
use crate::pages::span::{Guarded, Span, Spans, at};
use crate::platform::atomic::{AtomicU64, Ordering};
use crate::platform::options::Options;
use crate::platform::os::Os;
use crate::platform::units::{Bin, PAGE_BYTES, ShardId, SpanId, elapsed_ms};
use core::ptr::NonNull;

/// Smallest block that is mapped on its own. Chosen: glibc's largest threshold for the same step.
pub const DIRECT_BYTES: usize = 32 << 20;
/// Most waiting runs of the hardened lane, and most bytes of them. Chosen: as much as a program goes through in a short
/// while, and no more than the arenas grow by at once.
const WAITING_RUNS: usize = 64;
const WAITING_BYTES: usize = 32 << 20;

/// The pages of an allocator.
pub struct PageHeap<P: Policy> {
    /// Runs of the arenas.
    pub runs: Runs<P::Os>,
    /// Large blocks that are mappings of their own.
    pub direct: DirectMappings<P::Os>,
    /// Guards, and runs that may not be used yet.
    pub guards: Guards<P::Os>,
    purged_bytes: AtomicU64,
}

impl<P: Policy> PageHeap<P> {
    /// Nothing yet.
    #[allow(clippy::new_without_default, reason = "only an allocator has one")]
    pub const fn new() -> Self {
        Self {
            runs: Runs::new(Options::new(P::PURGE_DELAY_MS, P::FIRST_ARENA_BYTES)),
            direct: DirectMappings::new(),
            guards: Guards::new(),
            purged_bytes: AtomicU64::new(0),
        }
    }

    /// What the environment says.
    #[inline]
    pub fn options(&self) -> &Options {
        &self.runs.arenas.options
    }

    /// Every span descriptor.
    #[inline]
    pub fn spans(&self) -> &Spans {
        &self.runs.spans
    }

    /// The tag of the page that holds `address`; [`PageTag::NONE`] outside every arena.
    #[inline]
    pub fn tag(&self, address: usize) -> PageTag {
        self.runs.arenas.tag_value(address)
    }

    /// The shard that owns the slot at `address`.
    #[inline]
    pub fn owner(&self, address: usize) -> ShardId {
        self.tag(address).owner()
    }

    /// Whether `address`, of a page tagged `tag`, is the first byte of a slot, free or not.
    #[inline]
    pub fn is_slot(&self, tag: PageTag, address: usize) -> bool {
        // SAFETY: where a block of the page is live its span's descriptor is fixed; where not, the number read
        // decides at most between two ways to stop the process.
        tag.kind() == Kind::Small
            && bins::info(tag.bin())
                .slot_at(address.wrapping_sub(unsafe { (*at(self.spans(), tag.span())).start }))
                .is_some()
    }

    // ---- small spans ----

    /// A fresh span of `bin` for `owner`, tagged and guarded. `None` when memory has run out.
    pub fn take_small(&self, bin: Bin, owner: ShardId) -> Option<SpanId> {
        let id = self.runs.allocate(usize::from(bins::info(bin).span_pages) + P::GUARD_PAGES, 1)?;
        // SAFETY: the span is this thread's: just taken.
        unsafe {
            self.tag_all(id, PageTag::small(bin, owner, id), |span| span.become_small(bin, owner));
            if P::HARDENED {
                self.guard_end(id);
            }
        }
        Some(id)
    }

    /// Gives up the small span `id`. Where its last slots were `idle`, its pages are as old as the last need of one of
    /// them.
    ///
    /// # Safety
    /// The caller owns the span, which is in no list and no slot of which is out, and no longer does afterwards.
    pub unsafe fn release_small(&self, id: SpanId, idle: bool) {
        let mut stamp = P::Os::now_ms();
        // SAFETY: the caller's promise.
        unsafe {
            self.tag_all(id, PageTag::NONE, |span| {
                span.kind = Kind::Transit;
                if idle {
                    stamp = stamp.wrapping_sub(elapsed_ms(span.stamp, stamp));
                }
            });
            if P::HARDENED && !self.unguard(id) {
                self.guards.note_coming();
                return self.wait(id);
            }
            self.runs.release(id, stamp);
        }
        self.purge_if_at_once();
    }

    /// Changes the span `id` and tags all its pages.
    ///
    /// # Safety
    /// The caller owns the span, of which no block is live.
    unsafe fn tag_all(&self, id: SpanId, tag: PageTag, change: impl FnOnce(&mut Span)) {
        // SAFETY: the caller's promise.
        let span = unsafe { &mut *at(self.spans(), id) };
        change(span);
        for page in 0..span.pages as usize {
            self.runs.arenas.set_tag(span.start + page * PAGE_BYTES, tag);
        }
    }

    // ---- large blocks ----

    /// A span of `kind`, tagged at both ends.
    ///
    /// # Safety
    /// The caller owns the span `id`, of which no block is live.
    unsafe fn tag_ends(&self, id: SpanId, kind: Kind) {
        // SAFETY: the caller's promise.
        let span = unsafe { &mut *at(self.spans(), id) };
        span.kind = kind;
        self.runs.arenas.set_tag(span.start, PageTag::edge(kind, id));
        self.runs.arenas.set_tag(span.start + span.bytes() - PAGE_BYTES, PageTag::edge(kind, id));
    }

    /// A span for a large block of `pages` pages at a multiple of `align_pages` pages, a power of two; the caller owns it.
    /// `None` when memory has run out.
    pub fn take_large(&self, pages: usize, align_pages: usize) -> Option<SpanId> {
        if pages.max(align_pages) * PAGE_BYTES < DIRECT_BYTES {
            self.take_run(pages, align_pages).or_else(|| self.map_direct(pages, align_pages * PAGE_BYTES))
        } else {
            self.map_direct(pages, align_pages * PAGE_BYTES).or_else(|| self.take_run(pages, align_pages))
        }
    }

    fn take_run(&self, pages: usize, align_pages: usize) -> Option<SpanId> {
        let id = self.runs.allocate(pages, align_pages)?;
        // SAFETY: the span is this thread's: just taken.
        unsafe { self.tag_ends(id, Kind::Large) };
        Some(id)
    }

    fn map_direct(&self, pages: usize, align: usize) -> Option<SpanId> {
        // What the system did not take back, where that wastes little, or where there is nothing else.
        self.reuse_direct(pages, pages + pages / 8, align)
            .or_else(|| self.map_fresh(pages, align))
            .or_else(|| self.reuse_direct(pages, usize::MAX, align))
    }

    fn reuse_direct(&self, pages: usize, most_pages: usize, align: usize) -> Option<SpanId> {
        let id = self.direct.reuse(self.spans(), pages, most_pages, align)?;
        // SAFETY: the descriptor is this thread's, and the mapping behind it.
        unsafe {
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
        let mapped = if align > PAGE_BYTES { bytes.checked_add(align)? } else { bytes };
        let id = self.runs.descriptor()?;
        let Some(raw) = P::Os::map(mapped) else {
            // SAFETY: the descriptor is this thread's, and was not used.
            unsafe { self.runs.retire_descriptor(id) };
            return None;
        };
        let first = raw.as_ptr().expose_provenance();
        let start = first.next_multiple_of(align);
        let tail = first + mapped - (start + bytes);
        // SAFETY: both ends lie in the mapping just made, outside the block; the descriptor is this thread's.
        unsafe {
            self.unmap_untouched(raw, start - first);
            self.unmap_untouched(raw.add(start - first + bytes), tail);
            let span = &mut *at(self.spans(), id);
            (span.start, span.pages, span.kind) = (start, pages as u32, Kind::Large);
            (span.zeroed, span.guarded) = (true, Guarded::None);
            self.options().advise::<P::Os>(raw.add(start - first), bytes);
            self.direct.insert(self.spans(), id);
        }
        Some(id)
    }

    /// Frees the run of the large block at `address`, whose page is tagged `tag`; false where it does not begin there, or
    /// another thread was first.
    ///
    /// # Safety
    /// Nothing uses the block any more.
    pub unsafe fn release_run(&self, tag: PageTag, address: usize) -> bool {
        // SAFETY: where a large block is live its descriptor is fixed; where not, the number read decides at most between
        // two ways to stop the process.
        let is_start = unsafe { (*at(self.spans(), tag.span())).start } == address;
        if !is_start || !self.runs.arenas.tag(address).is_some_and(TagCell::claim_large) {
            return false;
        }
        // SAFETY: claimed; the caller's promise.
        unsafe {
            if P::HARDENED {
                self.let_wait(tag.span());
            } else {
                self.runs.release(tag.span(), P::Os::now_ms());
                self.purge_if_at_once();
            }
        }
        true
    }

    /// Frees the direct mapping at `address`; false where there is none.
    ///
    /// # Safety
    /// Nothing uses the block any more.
    pub unsafe fn release_direct(&self, address: usize) -> bool {
        let Some(id) = self.direct.remove(self.spans(), address) else { return false };
        // SAFETY: the descriptor is this thread's now, and the block's contents are nobody's.
        unsafe {
            (*at(self.spans(), id)).zeroed = false;
            self.unmap(id);
        }
        true
    }

    /// Resizes the run `id` of a large block to `pages`, its guard included, where it lies; false where that can't be done.
    ///
    /// # Safety
    /// The caller owns the span.
    pub unsafe fn resize_run(&self, id: SpanId, pages: usize) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            let old_pages = (*at(self.spans(), id)).pages as usize;
            // A guard is not moved for less than an eighth.
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

    /// Resizes the direct mapping `id`, which is in no table, to `pages`, its guard included. Returns where it lies then;
    /// `None` where that can't be done.
    ///
    /// # Safety
    /// The caller owns the descriptor, and the mapping is whole.
    pub unsafe fn resize_direct(&self, id: SpanId, pages: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe {
            let span = &mut *at(self.spans(), id);
            let old_bytes = span.bytes();
            let here = NonNull::new(core::ptr::with_exposed_provenance_mut(span.start));
            let moved = match here {
                here if old_bytes == pages * PAGE_BYTES => here,
                Some(_) if P::HARDENED && !self.unguard(id) => None,
                here => here.and_then(|start| P::Os::remap(start, old_bytes, pages * PAGE_BYTES)),
            };
            if let Some(moved) = moved {
                let span = &mut *at(self.spans(), id);
                (span.start, span.pages) = (moved.as_ptr().expose_provenance(), pages as u32);
            }
            if P::HARDENED && (*at(self.spans(), id)).guarded == Guarded::None {
                self.guard_end(id);
            }
            moved
        }
    }

    // ---- mappings that end ----

    /// Ends the mapping `id`, or lets it wait where the system does not take it back; whether it ended.
    ///
    /// # Safety
    /// The caller owns the descriptor, which is in no table, and no longer does afterwards; nothing uses the mapping.
    /// It reads as zero where the descriptor says so.
    unsafe fn unmap(&self, id: SpanId) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            let span = &mut *at(self.spans(), id);
            let Some(start) = NonNull::new(core::ptr::with_exposed_provenance_mut(span.start)) else { return false };
            if P::Os::unmap(start, span.bytes()) {
                self.runs.retire_descriptor(id);
                return true;
            }
            span.zeroed = span.zeroed || P::Os::purge(start, span.bytes());
            span.kind = Kind::Transit;
            self.direct.push_unreturned(self.spans(), id);
            false
        }
    }

    /// Ends an end of a fresh mapping, `bytes` in whole pages, as [`PageHeap::unmap`]. Where there is no memory for a
    /// descriptor either, address space is lost, and no memory.
    ///
    /// # Safety
    /// Nothing has used the range, nor will.
    unsafe fn unmap_untouched(&self, start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise; a descriptor that was just handed out is this thread's.
        unsafe {
            if bytes == 0 || P::Os::unmap(start, bytes) {
                return;
            }
            if let Some(id) = self.runs.descriptor() {
                let span = &mut *at(self.spans(), id);
                (span.start, span.pages) = (start.as_ptr().expose_provenance(), (bytes / PAGE_BYTES) as u32);
                (span.kind, span.zeroed, span.guarded) = (Kind::Transit, true, Guarded::None);
                self.direct.push_unreturned(self.spans(), id);
            }
        }
    }

    /// Asks the system again to take back the first `most` mappings that wait; returns how many bytes went. In a child
    /// that is forked meanwhile, one mapping without memory is nobody's.
    pub fn unmap_again(&self, most: usize) -> usize {
        let mut returned = 0;
        for _ in 0..most.min(self.direct.unreturned().0) {
            let Some(id) = self.direct.pop_unreturned(self.spans()) else { break };
            // SAFETY: the descriptor is this thread's now, and nothing uses the mapping.
            unsafe {
                let bytes = (*at(self.spans(), id)).bytes();
                returned += if self.unmap(id) { bytes } else { 0 };
            }
        }
        returned
    }

    // ---- guards, and runs that wait ----

    /// Guards the last page of the span `id`. Where the system refuses, the span has no guard.
    ///
    /// # Safety
    /// The caller owns the span, and its last page is nobody's.
    pub unsafe fn guard_end(&self, id: SpanId) {
        // SAFETY: the caller's promise.
        unsafe {
            let span = &mut *at(self.spans(), id);
            if span.guarded == Guarded::End {
                // A mapping that the system did not take back kept its guard.
                return;
            }
            let is_guarded = self.guards.guard(span.start + span.bytes() - PAGE_BYTES, PAGE_BYTES);
            span.guarded = if is_guarded { Guarded::End } else { Guarded::None };
        }
    }

    /// Makes all pages of the span `id` usable; false where the system refuses.
    ///
    /// # Safety
    /// The caller owns the span.
    unsafe fn unguard(&self, id: SpanId) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            let span = &mut *at(self.spans(), id);
            let (start, end) = (span.start, span.start + span.bytes());
            let is_open = match span.guarded {
                Guarded::None => true,
                Guarded::End => self.guards.unguard(end - PAGE_BYTES, PAGE_BYTES),
                Guarded::All => self.guards.unguard(start, end - start),
            };
            if is_open {
                span.guarded = Guarded::None;
            }
            is_open
        }
    }

    /// Keeps the pages of a large block that was freed from being used for a while.
    ///
    /// # Safety
    /// The caller owns the span, whose contents are nobody's, and no longer does afterwards.
    unsafe fn let_wait(&self, id: SpanId) {
        self.guards.note_coming();
        // SAFETY: the caller's promise.
        unsafe {
            let span = &mut *at(self.spans(), id);
            if self.guards.guard(span.start, span.bytes()) {
                span.guarded = Guarded::All;
            }
            self.wait(id);
        }
        self.release_waiting(WAITING_RUNS, WAITING_BYTES);
    }

    /// Puts a run that is on its way among those that wait.
    ///
    /// # Safety
    /// As for [`PageHeap::let_wait`].
    unsafe fn wait(&self, id: SpanId) {
        // SAFETY: the caller's promise.
        unsafe {
            self.tag_ends(id, Kind::Waiting);
            self.guards.push(self.spans(), id);
        }
    }

    /// Frees waiting runs, the oldest first, until no more than `most_runs` and `most_bytes` are left or the system
    /// refuses to remove a guard. A run whose guards stay waits on: nobody is given a page that faults.
    pub fn release_waiting(&self, most_runs: usize, most_bytes: usize) {
        while let Some(id) = self.guards.pop_above(self.spans(), most_runs, most_bytes) {
            // SAFETY: the span is this thread's.
            unsafe {
                let is_empty = (*at(self.spans(), id)).guarded == Guarded::All;
                if !self.unguard(id) {
                    return self.wait(id);
                }
                (*at(self.spans(), id)).kind = Kind::Transit;
                if is_empty {
                    self.runs.release_clean(id);
                } else {
                    self.runs.release(id, P::Os::now_ms());
                }
            }
            self.guards.note_gone();
        }
    }

    // ---- memory that goes back ----

    /// Gives dirty runs that are at least `delay_ms` old at `now` back, up to `most_bytes`; returns how many bytes went.
    pub fn purge(&self, now: u32, delay_ms: u32, most_bytes: usize) -> usize {
        let purged = self.runs.purge(now, delay_ms, most_bytes);
        self.note_purged(purged);
        purged
    }

    /// Gives free pages back where they are to be kept for no time.
    fn purge_if_at_once(&self) {
        if self.options().purge_delay_ms() == 0 {
            self.purge(P::Os::now_ms(), 0, usize::MAX);
        }
    }

    /// Notes that `bytes` were given back to the system.
    pub fn note_purged(&self, bytes: usize) {
        // Relaxed: a count.
        self.purged_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes given back to the system so far.
    pub fn purged_bytes(&self) -> u64 {
        // Relaxed: a count.
        self.purged_bytes.load(Ordering::Relaxed)
    }
}
