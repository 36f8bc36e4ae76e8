//! Blocks: those of regions, taken, freed and told from others.
//!
//! ```text
//! small block → page tag → span → number of its region
//! large block → page tag, or table of direct mappings → span, which says whether a region has it, and which
//! ```

use crate::hardening::canary;
use crate::hardening::free_mark;
use crate::hardening::unwritten::require_span_unwritten;
use crate::hardening::validation::usable;
use crate::pages::bins;
use crate::pages::page_heap::PageHeap;
use crate::pages::page_tag::{Kind, PageTag};
use crate::pages::policy::Policy;
use crate::pages::slot::Slot;
use crate::pages::span::{NotReturned, at};
use crate::platform::abort;
use crate::platform::units::{Bin, PAGE_BYTES, SpanId};
use crate::regions::index::Regions;
use crate::regions::region::{Carved, Popped, Region};
use core::ptr::null_mut;

/// A block in a region.
#[derive(Clone, Copy)]
pub struct Member {
    /// The region's number.
    pub region: u32,
    /// Its span.
    pub span: SpanId,
    /// Whether it is a large one.
    pub is_large: bool,
}

/// Blocks of an allocator's regions.
pub struct Blocks<'a, P: Policy> {
    pages: &'a PageHeap<P>,
    regions: &'a Regions<P::Os>,
}

impl<'a, P: Policy> Blocks<'a, P> {
    /// Those of `regions`, in spans of `pages`.
    #[inline]
    pub const fn of(pages: &'a PageHeap<P>, regions: &'a Regions<P::Os>) -> Self {
        Self { pages, regions }
    }

    /// Ends a region: whatever it has goes to `release_large`, or back to the free runs.
    pub fn end(&self, number: u32, release_large: impl Fn(usize)) {
        self.regions.lock_live(number, "hz3_region_destroy()").region().is_live = false;
        loop {
            let popped = self.regions.lock(number).region().pop(self.pages.spans());
            match popped {
                // SAFETY: the span has left the region, whose blocks nothing uses any more: all slots count as home.
                Some(Popped::Small(id)) => unsafe { self.pages.release_small(id, false) },
                Some(Popped::Large(address)) => {
                    self.regions.note_large(false);
                    release_large(address);
                }
                None => break,
            }
        }
        self.regions.retire(number);
    }

    /// A slot of `bin` for region `number`, wiped in a hardened lane; `None` beyond the limit, or if `take`, which takes a
    /// span of so many pages, has none.
    #[inline]
    pub fn take_slot(&self, number: u32, bin: Bin, take: impl Fn(usize) -> Option<SpanId>) -> Option<Slot> {
        let carved = {
            let mut held = self.regions.lock_live(number, "hz3_region_malloc()");
            held.region().take_slot(self.pages.spans(), bin, P::guard_pages())
        };
        let carved = match carved {
            Some(carved) => carved,
            None => self.take_from_new_span(number, bin, take)?,
        };
        if P::HARDENED && carved.is_fresh {
            let (slot, bytes) = (carved.slot.as_ptr(), bins::info(bin).slot_bytes as usize);
            // SAFETY: the slot is this thread's and writable: old contents must not pass for a write after free.
            unsafe { if carved.is_zeroed { free_mark::set(slot) } else { free_mark::wipe(slot, bytes) } };
        }
        Some(carved.slot)
    }

    #[cold]
    fn take_from_new_span(&self, number: u32, bin: Bin, take: impl Fn(usize) -> Option<SpanId>) -> Option<Carved> {
        let spans = self.pages.spans();
        loop {
            let _transit = self.pages.runs.forks.begin_transit::<P::Os>();
            let claimed = {
                let mut held = self.regions.lock(number);
                // Another thread may have added a span meanwhile.
                if let Some(carved) = held.region().take_slot(spans, bin, P::guard_pages()) {
                    return Some(carved);
                }
                let claimed = held.region().claim_span(bin);
                if claimed.is_some() {
                    held.begin_claim();
                }
                claimed
            };
            if let Some(claimed) = claimed {
                let taken = take(claimed);
                let mut held = self.regions.lock(number);
                held.end_claim();
                if let Some(id) = taken {
                    // SAFETY: this thread owns the span, just taken.
                    return unsafe { held.region().add(spans, id, P::guard_pages()) };
                }
                held.region().give_up(claimed);
            }
            if !self.release_empty(number) {
                if claimed.is_none() {
                    self.regions.lock(number).region().note_refused();
                }
                return None;
            }
        }
    }

    /// Releases an empty span of the region; false if it has none.
    fn release_empty(&self, number: u32) -> bool {
        let Some(id) = self.regions.lock(number).region().pop_empty(self.pages.spans(), P::guard_pages()) else {
            return false;
        };
        // SAFETY: the span has left the region; all its slots are home.
        unsafe { self.pages.release_small(id, false) };
        true
    }

    /// Releases every region's empty spans; whether there were any.
    pub fn release_empties(&self) -> bool {
        let mut is_any = false;
        for number in self.regions.numbers() {
            while self.release_empty(number) {
                is_any = true;
            }
        }
        is_any
    }

    /// Claims `count` pages, for what `take` then takes: releases empty spans for them. False beyond the limit.
    fn claim(&self, number: u32, count: usize, entry: &str) -> bool {
        loop {
            {
                let mut held = self.regions.lock_live(number, entry);
                if held.region().claim(count) {
                    held.begin_claim();
                    return true;
                }
                if !held.region().could_claim(count) {
                    held.region().note_refused();
                    return false;
                }
            }
            // What is empty may be taken by another thread meanwhile.
            self.release_empty(number);
        }
    }

    /// A large block of `count` pages, without the guard, for region `number`: the block that `take` makes, at the address
    /// that it returns with it. `None` beyond the limit, or if `take` has none.
    pub fn take_large<T>(&self, number: u32, count: usize, take: impl FnOnce() -> Option<(T, usize)>) -> Option<T> {
        let _transit = self.pages.runs.forks.begin_transit::<P::Os>();
        if !self.claim(number, count, "hz3_region_malloc()") {
            return None;
        }
        let taken = take().and_then(|(block, address)| Some((block, self.large_id(address)?)));
        let mut held = self.regions.lock(number);
        held.end_claim();
        let Some((block, id)) = taken else {
            held.region().give_up(count);
            return None;
        };
        held.region().add_large(self.pages.spans(), id, count);
        self.regions.note_large(true);
        Some(block)
    }

    /// The span of the large block at `address`; `None` if none begins there.
    fn large_id(&self, address: usize) -> Option<SpanId> {
        let tag = self.pages.tag(address);
        if tag.kind() != Kind::Large {
            return self.pages.direct.id_of(self.pages.spans(), address);
        }
        // SAFETY: a large tag has a span's id; while its block is live, the descriptor is constant, else the value is
        // discarded.
        (unsafe { (*at(self.pages.spans(), tag.span())).start } == address).then(|| tag.span())
    }

    /// Who owns the live block at `address`; `None` if no region does.
    pub fn owner_of(&self, address: usize) -> Option<Member> {
        if !self.regions.is_any() {
            return None;
        }
        let tag = self.pages.tag(address);
        // Most blocks, without a lock.
        if tag.kind() == Kind::Small || address == 0 {
            return None;
        }
        let is_large = tag.kind() != Kind::Region;
        let id = match is_large {
            false => tag.span(),
            true if self.regions.has_large() => self.large_id(address)?,
            true => return None,
        };
        // SAFETY: descriptors are never unmapped, and constant while a block of theirs lives.
        let span = unsafe { &*at(self.pages.spans(), id) };
        span.in_region.then(|| Member { region: span.region(), span: id, is_large })
    }

    /// Takes the large block at `address` out of its region, before it is freed. Does nothing if no region has it.
    #[inline]
    pub fn forget_large(&self, address: usize) {
        if !self.regions.has_large() {
            return;
        }
        if let Some(member) = self.owner_of(address).filter(|member| member.is_large) {
            // Another thread may be freeing the same block.
            let is_out = self
                .regions
                .lock_if_any(member.region)
                .is_some_and(|mut held| held.region().remove_large(self.pages.spans(), member.span));
            if is_out {
                self.regions.note_large(false);
            }
        }
    }

    /// Resizes a large block of a region by `resize`, to `count` pages without the guard; null beyond the limit, or as
    /// `resize` says.
    pub fn resize_large(&self, member: Member, count: usize, resize: impl FnOnce() -> *mut u8) -> *mut u8 {
        // SAFETY: the caller owns the block, and so its descriptor.
        let more = count.saturating_sub(unsafe { (*at(self.pages.spans(), member.span)).counted_pages() });
        let _transit = self.pages.runs.forks.begin_transit::<P::Os>();
        if !self.claim(member.region, more, "hz3_region_realloc()") {
            return null_mut();
        }
        let block = resize();
        let mut held = self.regions.lock(member.region);
        held.end_claim();
        if block.is_null() {
            held.region().give_up(more);
        } else {
            held.region().note_resized(self.pages.spans(), member.span, count);
        }
        block
    }

    /// Stops the process, in the name of `entry`, unless a slot of the span `id` begins at `block` and is not free.
    fn require_live(&self, entry: &str, id: SpanId, block: *const u8) -> Bin {
        // SAFETY: a region's tag has a span's id; while a block of the page is live, the descriptor is constant.
        let (start, bin, page_count) = unsafe {
            let span = &*at(self.pages.spans(), id);
            (span.start, span.bin, span.slot_pages(P::guard_pages()))
        };
        let (info, offset) = (bins::info(bin), block.addr().wrapping_sub(start));
        if info.slot_at(offset).is_none() || offset + info.slot_bytes as usize > page_count * PAGE_BYTES {
            abort::misuse_in_bin::<P::Os>(entry, "invalid pointer", block.addr(), info.slot_bytes as usize);
        }
        // SAFETY: a slot of 16 bytes or more begins here.
        if P::MARKS && unsafe { free_mark::is_set(block) } {
            let fault = if entry.contains("free") { "double free of" } else { "use after free of" };
            abort::misuse_in_bin::<P::Os>(entry, fault, block.addr(), info.slot_bytes as usize);
        }
        bin
    }

    /// Bytes of the small block at `block` that the program may use. Stops the process, in the name of `entry`, at a misuse.
    ///
    /// # Safety
    /// `tag` is the tag of its page, a region's.
    pub unsafe fn usable_bytes(&self, entry: &str, tag: PageTag, block: *const u8) -> usize {
        let bin = self.require_live(entry, tag.span(), block);
        // SAFETY: a slot of `bin` begins at `block`; it is not marked free.
        unsafe { usable::<P>(entry, bin, block) }
    }

    /// Bytes of the slot of a small block of span `id`.
    pub fn slot_bytes(&self, id: SpanId) -> usize {
        // SAFETY: descriptors are never unmapped, and constant while a block of theirs lives.
        bins::info(unsafe { (*at(self.pages.spans(), id)).bin }).slot_bytes as usize
    }

    /// Whether the small block at `address`, of span `id` in region `region`, is out.
    pub fn is_out(&self, member: Member, address: usize) -> bool {
        let _held = self.regions.lock(member.region);
        Region::is_out(self.pages.spans(), member.span, address)
    }

    /// In a hardened lane: writes the canary behind the first `bytes` bytes of a small block.
    ///
    /// # Safety
    /// The caller owns the block, of `slot_bytes`, which has room for `bytes` and the trailer.
    pub unsafe fn reseal(&self, block: *mut u8, slot_bytes: usize, bytes: usize) {
        if P::HARDENED {
            // SAFETY: the caller owns the block, which has room.
            unsafe { canary::seal(canary::process_key::<P::Os>(), block, slot_bytes, bytes) };
        }
    }

    /// Frees the small block at `block`, in a page tagged `tag`; whether that freed pages. Stops the process, in the name of
    /// `entry`, at a misuse.
    ///
    /// # Safety
    /// The block is no longer used.
    pub unsafe fn free_small(&self, entry: &str, tag: PageTag, block: *mut u8) -> bool {
        let (id, spans) = (tag.span(), self.pages.spans());
        let bin = self.require_live(entry, id, block);
        let slot_bytes = bins::info(bin).slot_bytes as usize;
        // SAFETY: a slot of `bin` begins at `block`, not marked free, and the caller has given it up. `region` is constant
        // while it is live.
        let (slot, number) = unsafe {
            if P::HARDENED {
                usable::<P>(entry, bin, block);
                free_mark::wipe(block, slot_bytes);
            } else if P::MARKS {
                free_mark::set(block);
            }
            (Slot::new(block), (*at(spans, id)).region())
        };
        let result = match self.regions.lock_if_any(number) {
            Some(mut held) => held.region().restore(spans, id, &slot, P::guard_pages()),
            None => Err(NotReturned::NotASlot),
        };
        match result {
            Ok(None) => false,
            Ok(Some(emptied)) => {
                // SAFETY: the span has left the region; all its slots are home.
                unsafe {
                    require_span_unwritten::<P>(&*at(spans, emptied));
                    self.pages.release_small(emptied, false);
                }
                true
            }
            Err(reason) => {
                let fault = match reason {
                    NotReturned::AlreadyFree => "double free of",
                    NotReturned::NotASlot => "invalid pointer",
                };
                abort::misuse_in_bin::<P::Os>(entry, fault, block.addr(), slot_bytes);
            }
        }
    }
}
