//! Span: a run of pages with a descriptor out of line.
//!
//! ```text
//! pages      |slot 0|slot 1| … |slot carved-1| fresh …                |
//! descriptor  start, pages, bin, owner, carved, home, bitmap (1 = slot is at home, free)
//! ```
//!
//! A small span has the slots of one bin, a large span is one block, a free span is a run in the index. In a small
//! span, `carved = live + in magazines + in stashes + in quarantine + home`, and `home` is the number of ones in the
//! bitmap. Descriptors never lie in or beside user memory.

use crate::pages::bins::{self, BinInfo};
use crate::pages::page_tag::Kind;
use crate::pages::slot::{Places, Slot};
use crate::platform::system_page;
use crate::platform::table::{Table, typed};
use crate::platform::units::{Bin, PAGE_BYTES, ShardId, SpanId};

/// Bytes of a descriptor.
pub const SPAN_BYTES: usize = 128;
/// Words of the bitmap. Derived: 512 slots.
const BITMAP_WORDS: usize = bins::MAX_SPAN_SLOTS / 64;

/// Pages that share one guard in front of a freed large block. Chosen: what guards cost in page faults at the next use is
/// then little beside the use itself.
const PAGES_PER_GUARD: usize = 1024;
/// How many copies of a block cost as much as the page faults of a mapping. Chosen by measuring:
/// `docs/decisions/moved-pages.md`.
const PAYING_COPIES: usize = 4;

/// Which pages of a run fault at any access: whole ones of the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Guarded {
    /// None.
    None = 0,
    /// The last one.
    End = 1,
    /// All.
    All = 2,
    /// The last two of the system and [so many](Span::front_pages) in front.
    Ends = 3,
}

/// Where a small span is among its shard's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Listing {
    /// In no list: it has no room.
    Unlisted = 0,
    /// In a list.
    Listed = 1,
    /// Out of the lists while its holes are purged.
    Aside = 2,
}

/// A run's descriptor.
#[repr(C, align(64))]
pub struct Span {
    /// Address of the first page. Sync: constant for a small span in use; else its owner's (a large block, a span in transit), or the run lock.
    pub start: usize,
    /// Neighbours in the span's list: a partial list (shard lock), an index list or the list of shared pages (run lock).
    pub next: SpanId,
    /// As `next`.
    pub previous: SpanId,
    /// Neighbours by age, among dirty runs. Sync: run lock. Of a region's span: `younger` is the region's number, `older` and
    /// `previous` its neighbours in the region's list. Sync: the region's lock.
    pub younger: SpanId,
    /// As `younger`.
    pub older: SpanId,
    /// Pages. Sync: as `start`.
    pub pages: u32,
    /// Milliseconds: when a run became dirty (run lock), or a slot of a small span was last needed (shard lock).
    pub stamp: u32,
    /// Slots carved at least once. Sync: shard lock.
    pub carved: u16,
    /// Slots at home. Sync: shard lock.
    pub home: u16,
    /// Use. Sync: as `start`.
    pub kind: Kind,
    /// Bin of a small span. Sync: as `start`.
    pub bin: Bin,
    /// Owner of a small span. Sync: as `start`.
    pub owner: ShardId,
    /// Where a small span is among its shard's. Sync: shard lock.
    pub listing: Listing,
    /// Whether a small span is being vacated: its slots at home stay there, and what is freed in it goes home at once, as its
    /// pages' tags have the foreign bin. Sync: shard lock.
    pub is_vacating: bool,
    /// Whether the pages read as zero when the span was taken. Sync: as `start`.
    pub zeroed: bool,
    /// Guarded pages (hardened lane). Sync: as `start`.
    pub guarded: Guarded,
    /// Whether the span in use is a [region's](crate::regions). Sync: its region's lock.
    pub in_region: bool,
    /// Number of the failure after which a run was taken. Sync: run lock; constant while the span is in use.
    pub taken_after: u32,
    /// A bit for each slot at home. Sync: shard lock. Large span: the first word is the requested size, the second the bytes
    /// copied for it, both its owner's, the third the pages that count in a region (the region's lock). Free run: the first
    /// word is the number of its insertion, the second its links in a tree (run lock). Just taken: its fresh pages, its
    /// owner's. [Shared page](SharedPages): its free pages, and those that were never taken, a bit each (run lock).
    bitmap: [u64; BITMAP_WORDS],
    /// Small spans: a bit for each page without memory, in whole pages of the system. No slot that is out lies in one. Sync: shard lock.
    purged: u128,
}

const _: () = assert!(size_of::<Span>() == SPAN_BYTES);

/// Why a span does not take a pointer back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotReturned {
    /// The slot is at home already.
    AlreadyFree,
    /// No carved slot begins there.
    NotASlot,
}

impl Span {
    /// Makes this run a small span with no slot carved.
    pub fn become_small(&mut self, bin: Bin, owner: ShardId) {
        self.kind = Kind::Small;
        self.bin = bin;
        self.owner = owner;
        self.carved = 0;
        self.home = 0;
        self.listing = Listing::Unlisted;
        self.is_vacating = false;
        self.bitmap = [0; BITMAP_WORDS];
        // What others share a page with may have memory.
        self.purged = if self.zeroed && !self.is_part() { self.all_pages() } else { 0 };
    }

    /// Whether the run is shorter than a page of the system: a part of a [shared one](SharedPages).
    pub fn is_part(&self) -> bool {
        (self.pages as usize) < system_page::pages()
    }

    /// The shared page that this run is a part of.
    pub fn shared_page(&self) -> SpanId {
        if self.kind == Kind::Region { self.next } else { self.older }
    }

    /// Makes the run a part of the shared page `page`. A shard's list leaves one word for it, a region's the other.
    pub const fn set_shared_page(&mut self, page: SpanId) {
        (self.next, self.older) = (page, page);
    }

    /// Of a shared page: its free pages, and those that were never taken, a bit each.
    pub const fn free_parts(&self) -> (u64, u64) {
        let [free, fresh, ..] = self.bitmap;
        (free, fresh)
    }

    /// Stores what [`Span::free_parts`] returns.
    pub const fn set_free_parts(&mut self, parts: (u64, u64)) {
        let [free, fresh, ..] = &mut self.bitmap;
        (*free, *fresh) = parts;
    }

    /// Pages for slots, of a span that has `guard_pages` at its end. Shared pages have their own.
    pub fn slot_pages(&self, guard_pages: usize) -> usize {
        self.pages as usize - if self.is_part() { 0 } else { guard_pages }
    }

    /// Requested size of a large span's block, in bytes.
    pub fn requested_bytes(&self) -> usize {
        let [requested, ..] = self.bitmap;
        requested as usize
    }

    /// Stores the requested size of a large span's block.
    pub fn set_requested_bytes(&mut self, bytes: usize) {
        let [requested, ..] = &mut self.bitmap;
        *requested = bytes as u64;
    }

    /// Bytes that `realloc` has copied so far for a large span's block, or would have, had its mapping not moved.
    pub fn copied_bytes(&self) -> usize {
        let [_, copied, ..] = self.bitmap;
        copied as usize
    }

    /// Stores what [`Span::copied_bytes`] returns.
    pub fn set_copied_bytes(&mut self, bytes: usize) {
        let [_, copied, ..] = &mut self.bitmap;
        *copied = bytes as u64;
    }

    /// Whether copies of a large span's block of `bytes`, made or saved so far, cost as much as a mapping of its own.
    pub fn pays_for_mapping(&self, bytes: usize) -> bool {
        self.copied_bytes() / PAYING_COPIES >= bytes
    }

    /// Pages that count for a large block in a region.
    pub fn counted_pages(&self) -> usize {
        let [_, _, counted, ..] = self.bitmap;
        counted as usize
    }

    /// Stores what [`Span::counted_pages`] returns.
    pub fn set_counted_pages(&mut self, pages: usize) {
        let [_, _, counted, ..] = &mut self.bitmap;
        *counted = pages as u64;
    }

    /// Number of the region that a span [in a region](Span::in_region) belongs to.
    pub const fn region(&self) -> u32 {
        self.younger.0
    }

    /// Makes this span in use the one of region `number`.
    pub const fn enter_region(&mut self, number: u32) {
        (self.in_region, self.younger) = (true, SpanId(number));
    }

    /// Of a run that was just taken: pages that held no memory.
    pub fn fresh_pages(&self) -> usize {
        let [fresh, ..] = self.bitmap;
        fresh as usize
    }

    /// Stores what [`Span::fresh_pages`] returns.
    pub fn set_fresh_pages(&mut self, pages: usize) {
        let [fresh, ..] = &mut self.bitmap;
        *fresh = pages as u64;
    }

    /// Number under which a free run was put into its list.
    pub fn insertion(&self) -> u64 {
        let [insertion, ..] = self.bitmap;
        insertion
    }

    /// Stores what [`Span::insertion`] returns.
    pub fn set_insertion(&mut self, insertion: u64) {
        let [first, ..] = &mut self.bitmap;
        *first = insertion;
    }

    /// What [`Span::set_links`] stored.
    pub fn links(&self) -> [SpanId; 2] {
        let [_, links, ..] = self.bitmap;
        [SpanId(links as u32), SpanId((links >> 32) as u32)]
    }

    /// Stores a free run's links.
    pub fn set_links(&mut self, [first, second]: [SpanId; 2]) {
        let [_, links, ..] = &mut self.bitmap;
        *links = u64::from(first.0) | u64::from(second.0) << 32;
    }

    fn all_pages(&self) -> u128 {
        u128::MAX >> 128_u32.saturating_sub(self.pages).min(127)
    }

    /// The pages that have memory with a slot: whole ones of the system.
    fn pages_of(info: &BinInfo, slot: usize) -> u128 {
        let (bytes, start, others) =
            (info.slot_bytes as usize, slot * info.slot_bytes as usize, system_page::pages() - 1);
        let (first, last) = ((start / PAGE_BYTES) & !others, ((start + bytes - 1) / PAGE_BYTES) | others);
        (u128::MAX >> 127_usize.saturating_sub(last - first)) << first.min(127)
    }

    /// Holes that may hold memory: a bit for each page whose slots are all free, in whole pages of the system. The counts alone
    /// rule out most spans.
    pub fn holes(&self, info: &BinInfo) -> u128 {
        let free = usize::from(info.span_slots() - self.carved + self.home) * info.slot_bytes as usize;
        if free < system_page::bytes() / 2 || self.is_part() {
            return 0;
        }
        let mut holes = self.all_pages() & !self.purged;
        let carved = usize::from(self.carved);
        for (index, word) in self.bitmap.iter().enumerate().take(carved.div_ceil(64)) {
            let below = if carved - index * 64 < 64 { (1 << (carved - index * 64)) - 1 } else { u64::MAX };
            let mut out = !word & below;
            while out != 0 && holes != 0 {
                holes &= !Self::pages_of(info, index * 64 + out.trailing_zeros() as usize);
                out &= out - 1;
            }
        }
        holes
    }

    /// Notes that `pages`, holes from which nothing was carved since, hold no memory.
    pub fn note_purged(&mut self, pages: u128) {
        self.purged |= pages;
    }

    /// Pages that hold no memory.
    pub fn purged_pages(&self) -> u32 {
        self.purged.count_ones()
    }

    /// Notes that slot number `slot` will be written to.
    #[inline]
    fn note_used(&mut self, info: &BinInfo, slot: usize) {
        if self.purged != 0 {
            self.purged &= !Self::pages_of(info, slot);
        }
    }

    /// Guarded pages in front of a freed large block of `pages`.
    pub fn front_pages(pages: usize) -> usize {
        system_page::whole(1 + pages / PAGES_PER_GUARD)
    }

    /// Bytes of the run.
    pub fn bytes(&self) -> usize {
        self.pages as usize * PAGE_BYTES
    }

    /// Whether a slot can be carved.
    pub fn has_room(&self, info: &BinInfo) -> bool {
        self.home > 0 || self.carved < info.span_slots()
    }

    /// Slots that are out: live, or cached.
    pub fn out(&self) -> usize {
        usize::from(self.carved - self.home)
    }

    /// Whether every carved slot is home.
    pub fn is_empty(&self) -> bool {
        self.home == self.carved
    }

    /// Carves slots, home ones first, into `out` from its end: pops yield rising addresses. Returns how many.
    pub fn carve(&mut self, info: &BinInfo, out: &mut Places) -> usize {
        self.carve_up_to(info, info.span_slots(), out)
    }

    /// [`Span::carve`] of a span of `slots`.
    pub fn carve_up_to(&mut self, info: &BinInfo, slots: u16, out: &mut Places) -> usize {
        let mut taken = self.carve_home(info, out);
        for place in out.iter_mut().rev().skip(taken) {
            if self.carved == slots {
                break;
            }
            place.write(self.slot(info, usize::from(self.carved)));
            self.note_used(info, usize::from(self.carved));
            self.carved += 1;
            taken += 1;
        }
        taken
    }

    /// [`Span::carve`] of slots at home alone.
    pub fn carve_home(&mut self, info: &BinInfo, out: &mut Places) -> usize {
        let mut places = out.iter_mut().rev();
        let mut taken = 0;
        for index in 0..BITMAP_WORDS {
            while self.home > 0 {
                let word = self.bitmap.get(index).copied().unwrap_or(0);
                if word == 0 {
                    break;
                }
                let Some(place) = places.next() else { return taken };
                let slot = index * 64 + word.trailing_zeros() as usize;
                place.write(self.slot(info, slot));
                self.note_used(info, slot);
                if let Some(bits) = self.bitmap.get_mut(index) {
                    *bits = word & (word - 1);
                }
                self.home -= 1;
                taken += 1;
            }
        }
        taken
    }

    /// Slot number `number`, which is free and leaves the span.
    fn slot(&self, info: &BinInfo, number: usize) -> Slot {
        let start = core::ptr::with_exposed_provenance_mut(self.start + number * info.slot_bytes as usize);
        // SAFETY: a span does not begin at null; the caller counts the free slot as out.
        unsafe { Slot::new(start) }
    }

    /// Puts the slot at `address` back.
    ///
    /// # Errors
    /// No carved slot begins at `address`, or it is home already; nothing changes.
    pub fn restore(&mut self, info: &BinInfo, address: usize) -> Result<(), NotReturned> {
        let slot = info.slot_at(address.wrapping_sub(self.start)).ok_or(NotReturned::NotASlot)?;
        if slot >= usize::from(self.carved) {
            return Err(NotReturned::NotASlot);
        }
        let word = self.bitmap.get_mut(slot / 64).ok_or(NotReturned::NotASlot)?;
        let bit = 1 << (slot % 64);
        if *word & bit != 0 {
            return Err(NotReturned::AlreadyFree);
        }
        *word |= bit;
        self.home += 1;
        Ok(())
    }

    /// Whether a carved slot begins at `address` and is not home.
    pub fn is_out(&self, info: &BinInfo, address: usize) -> bool {
        info.slot_at(address.wrapping_sub(self.start)).is_some_and(|slot| {
            let word = self.bitmap.get(slot / 64).copied().unwrap_or(u64::MAX);
            slot < usize::from(self.carved) && word >> (slot % 64) & 1 == 0
        })
    }

    /// Whether the counts agree with the bitmaps.
    pub fn is_consistent(&self) -> bool {
        let ones: u32 = self.bitmap.iter().map(|word| word.count_ones()).sum();
        let info = bins::info(self.bin);
        let out = (0..usize::from(self.carved))
            .filter(|slot| self.bitmap.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 0));
        ones == u32::from(self.home)
            && self.home <= self.carved
            && self.carved <= info.span_slots()
            && out.fold(0, |pages, slot| pages | Self::pages_of(info, slot)) & self.purged == 0
            && self.purged & !self.all_pages() == 0
    }
}

/// All span descriptors.
pub type Spans = Table<SPAN_BYTES>;

/// Pointer to descriptor `id`; its fields say who may touch them.
///
/// # Safety
/// `id` came from `spans` and is not [`SpanId::NONE`].
#[inline]
pub unsafe fn at(spans: &Spans, id: SpanId) -> *mut Span {
    // SAFETY: `spans` handed out `id`; its units have the size and alignment of a `Span`.
    unsafe { typed::<Span, SPAN_BYTES>(spans, id.0) }.as_ptr()
}

/// A queue of spans, linked through their descriptors, which the queue owns.
///
/// ```text
/// first (oldest) → span → … → last (youngest)        in at the end; out at the front, or anywhere if one fits
/// ```
pub struct SpanQueue {
    first: SpanId,
    last: SpanId,
    count: usize,
    bytes: usize,
}

impl SpanQueue {
    /// No spans.
    #[allow(clippy::new_without_default, reason = "only statics have one")]
    pub const fn new() -> Self {
        Self { first: SpanId::NONE, last: SpanId::NONE, count: 0, bytes: 0 }
    }

    /// Number of spans.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all spans.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest span.
    pub fn oldest(&self) -> Option<SpanId> {
        (!self.first.is_none()).then_some(self.first)
    }

    /// Appends a span.
    ///
    /// # Safety
    /// The caller owns the descriptor and hands it over. All spans of the queue are of `spans`.
    pub unsafe fn push(&mut self, spans: &Spans, id: SpanId) {
        // SAFETY: the queue owns its spans' descriptors; the caller hands over this one, of `spans`.
        unsafe {
            (*at(spans, id)).next = SpanId::NONE;
            self.bytes += (*at(spans, id)).bytes();
            if self.last.is_none() {
                self.first = id;
            } else {
                (*at(spans, self.last)).next = id;
            }
        }
        self.last = id;
        self.count += 1;
    }

    /// Takes the oldest span; the caller then owns its descriptor.
    pub fn pop(&mut self, spans: &Spans) -> Option<SpanId> {
        self.take(spans, 1, |_, _| true)
    }

    /// Takes the first of the `probes` oldest spans whose start and bytes `fits` accepts; the caller then owns it.
    pub fn take(&mut self, spans: &Spans, probes: usize, fits: impl Fn(usize, usize) -> bool) -> Option<SpanId> {
        let (mut before, mut id) = (SpanId::NONE, self.first);
        for _ in 0..probes {
            if id.is_none() {
                return None;
            }
            // SAFETY: the queue owns its spans' descriptors.
            let (start, bytes, next) = unsafe {
                let span = &*at(spans, id);
                (span.start, span.bytes(), span.next)
            };
            if !fits(start, bytes) {
                (before, id) = (id, next);
                continue;
            }
            if before.is_none() {
                self.first = next;
            } else {
                // SAFETY: the queue owns its spans' descriptors.
                unsafe { (*at(spans, before)).next = next };
            }
            if next.is_none() {
                self.last = before;
            }
            self.count -= 1;
            self.bytes -= bytes;
            return Some(id);
        }
        None
    }

    /// Checks the counts, and that all spans are of `kind`.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check(&self, spans: &Spans, kind: Kind) -> Result<(), &'static str> {
        let (mut count, mut bytes, mut last, mut id) = (0, 0, SpanId::NONE, self.first);
        while !id.is_none() {
            // SAFETY: the queue owns its spans' descriptors.
            let span = unsafe { &*at(spans, id) };
            if span.kind != kind {
                return Err("a span that waits and is in use");
            }
            (count, bytes, last, id) = (count + 1, bytes + span.bytes(), id, span.next);
        }
        if (count, bytes, last) == (self.count, self.bytes, self.last) {
            Ok(())
        } else {
            Err("the count of spans that wait")
        }
    }
}

/// Most pages looked at for a part. Chosen: those that were added or had parts returned last.
const SHARED_LOOKS: usize = 16;

/// Free pages of one that may be taken.
#[derive(Clone, Copy)]
pub struct Part {
    page: SpanId,
    first: u32,
    pages: usize,
}

/// Shared pages: pages of the system that short spans share, where they are longer than hz3's.
///
/// ```text
/// shared page   | span | free | span | span | free | guard |      a bit for each free page of 4 KiB; hardened: a guard
/// first → page with a free part → page → …
/// ```
///
/// A span of small slots is short, as its bitmap is: two pages of 4 KiB for slots of 16 bytes. Alone in a page of 64 KiB, it
/// would take eight times its memory. So such spans lie side by side, whatever their bins. A page that is free again as a whole is
/// a run again. With pages of 4 KiB there are none. The run lock protects all this.
pub struct SharedPages {
    first: SpanId,
    /// Pages of 4 KiB that no span has, in all shared pages, and their guards.
    free_pages: usize,
}

#[allow(clippy::mut_from_ref, reason = "the run lock stands in for the exclusive borrow")]
fn span(spans: &Spans, id: SpanId) -> &mut Span {
    // SAFETY: the table handed out the ids of shared pages and of their parts. The run lock makes the reference exclusive; no
    // caller makes two to one span at a time.
    unsafe { &mut *at(spans, id) }
}

fn bits(first: u32, pages: usize) -> u64 {
    ((1 << pages) - 1) << first
}

impl SharedPages {
    /// None.
    #[allow(clippy::new_without_default, reason = "only statics have one")]
    pub const fn new() -> Self {
        Self { first: SpanId::NONE, free_pages: 0 }
    }

    /// Pages of 4 KiB in shared pages that no span has, guards included.
    pub const fn free_pages(&self) -> usize {
        self.free_pages
    }

    fn push(&mut self, spans: &Spans, id: SpanId) {
        let old = core::mem::replace(&mut self.first, id);
        if !old.is_none() {
            span(spans, old).previous = id;
        }
        let page = span(spans, id);
        (page.next, page.previous) = (old, SpanId::NONE);
    }

    fn remove(&mut self, spans: &Spans, id: SpanId) {
        let (next, previous) = (span(spans, id).next, span(spans, id).previous);
        if previous.is_none() {
            self.first = next;
        } else {
            span(spans, previous).next = next;
        }
        if !next.is_none() {
            span(spans, next).previous = previous;
        }
    }

    /// Adds the run `id`, a page of the system, perhaps with its guard, of which all is free.
    pub fn add(&mut self, spans: &Spans, id: SpanId) {
        let page = span(spans, id);
        let all = bits(0, system_page::pages());
        let fresh = if page.zeroed { all } else { 0 };
        page.set_free_parts((all, fresh));
        self.free_pages += page.pages as usize;
        self.push(spans, id);
    }

    /// A part of `pages`, fewer than a page of the system has. `None`: a further page is needed.
    pub fn find(&self, spans: &Spans, pages: usize) -> Option<Part> {
        let mut page = self.first;
        for _ in 0..SHARED_LOOKS {
            if page.is_none() {
                break;
            }
            let (free, _) = span(spans, page).free_parts();
            let last = (system_page::pages() - pages) as u32;
            if let Some(first) = (0..=last).find(|&first| free & bits(first, pages) == bits(first, pages)) {
                return Some(Part { page, first, pages });
            }
            page = span(spans, page).next;
        }
        None
    }

    /// Takes the `part`, just found, as the run `id`.
    pub fn take(&mut self, spans: &Spans, part: Part, id: SpanId) {
        let page = span(spans, part.page);
        let (free, fresh) = page.free_parts();
        let (taken, start, taken_after) = (bits(part.first, part.pages), page.start, page.taken_after);
        page.set_free_parts((free & !taken, fresh & !taken));
        if free == taken {
            self.remove(spans, part.page);
        }
        self.free_pages -= part.pages;
        let run = span(spans, id);
        (run.start, run.pages) = (start + part.first as usize * PAGE_BYTES, part.pages as u32);
        (run.kind, run.zeroed, run.taken_after) = (Kind::Transit, fresh & taken == taken, taken_after);
        run.set_shared_page(part.page);
    }

    /// Takes the part `id` of the shared page `page` back. True if all of that is free: then it is no shared page any more.
    pub fn put_back(&mut self, spans: &Spans, page: SpanId, id: SpanId) -> bool {
        let (start, pages) = (span(spans, id).start, span(spans, id).pages as usize);
        let whole = span(spans, page);
        let (free, fresh) = whole.free_parts();
        let now_free = free | bits(((start - whole.start) / PAGE_BYTES) as u32, pages);
        whole.set_free_parts((now_free, fresh));
        let (is_whole, all_pages) = (now_free == bits(0, system_page::pages()), whole.pages as usize);
        self.free_pages += pages;
        if free == 0 {
            self.push(spans, page);
        }
        if is_whole {
            self.remove(spans, page);
            self.free_pages -= all_pages;
        }
        is_whole
    }

    /// Whether no span has the page at `address`, in the shared page `id`.
    pub fn is_free(spans: &Spans, id: SpanId, address: usize) -> bool {
        let page = &*span(spans, id);
        let number = address.wrapping_sub(page.start) / PAGE_BYTES;
        let is_part = number < system_page::pages();
        page.kind == Kind::Shared
            && number < page.pages as usize
            && (!is_part || page.free_parts().0 >> number & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::slot::no_slots;
    use core::mem::MaybeUninit;

    fn address_of(place: &MaybeUninit<Slot>) -> usize {
        // SAFETY: callers pass filled places.
        unsafe { place.assume_init_ref() }.address()
    }

    fn span_of(bin: Bin) -> (Span, &'static BinInfo) {
        let info = bins::info(bin);
        let mut span = Span {
            start: 0x10_0000,
            next: SpanId::NONE,
            previous: SpanId::NONE,
            younger: SpanId::NONE,
            older: SpanId::NONE,
            pages: info.span_pages() as u32,
            stamp: 0,
            carved: 0,
            home: 0,
            kind: Kind::Transit,
            bin,
            owner: ShardId(0),
            listing: Listing::Unlisted,
            is_vacating: false,
            zeroed: false,
            guarded: Guarded::None,
            in_region: false,
            taken_after: 0,
            bitmap: [0; BITMAP_WORDS],
            purged: 0,
        };
        span.become_small(bin, ShardId(3));
        (span, info)
    }

    #[test]
    fn every_slot_is_taken_once_and_can_be_given_back_once() {
        for bin in (1..bins::BINS as u8).map(Bin) {
            let (mut span, info) = span_of(bin);
            let mut out = no_slots::<7>();
            let mut all = std::vec::Vec::new();
            loop {
                let taken = span.carve(info, &mut out);
                all.extend(out[7 - taken..].iter().rev().map(address_of));
                if taken == 0 {
                    break;
                }
            }
            assert_eq!(all.len(), usize::from(info.span_slots()));
            assert!(all.windows(2).all(|pair| pair[1] - pair[0] == info.slot_bytes as usize));
            assert!(!span.has_room(info) && !span.is_empty() && span.is_consistent());
            for &address in &all {
                assert_eq!(span.restore(info, address), Ok(()));
                assert_eq!(span.restore(info, address), Err(NotReturned::AlreadyFree));
                assert_eq!(span.restore(info, address + 8), Err(NotReturned::NotASlot));
            }
            assert!(span.is_empty() && span.has_room(info) && span.is_consistent());
        }
    }

    #[test]
    fn holes_are_the_whole_pages_without_a_slot_that_is_out() {
        for bin in (1..bins::BINS as u8).map(Bin) {
            let (mut span, info) = span_of(bin);
            let (size, slots) = (info.slot_bytes as usize, usize::from(info.span_slots()));
            let mut out: std::vec::Vec<_> = (0..slots).map(|_| MaybeUninit::uninit()).collect();
            assert_eq!(span.carve(info, &mut out), slots);
            assert_eq!(span.holes(info) & !(u128::MAX << (slots * size / PAGE_BYTES)), 0);
            // The last three quarters of the slots go home.
            let back = slots / 4..slots;
            for slot in back.clone() {
                assert_eq!(span.restore(info, span.start + slot * size), Ok(()));
            }
            let page_is_free = |page: usize| {
                let (first, last) = (page * PAGE_BYTES / size, (page * PAGE_BYTES + PAGE_BYTES - 1) / size);
                (first..=last).all(|slot| slot >= slots || back.contains(&slot))
            };
            let free = |span: &Span| {
                (0..span.pages as usize).filter(|&page| page_is_free(page)).fold(0, |bits, page| bits | 1_u128 << page)
            };
            let holes = span.holes(info);
            assert_eq!(holes, free(&span), "bin {}", bin.0);
            assert!(holes != 0, "bin {}", bin.0);
            span.note_purged(holes);
            assert_eq!((span.holes(info), span.purged_pages()), (0, holes.count_ones()));
            assert!(span.is_consistent());
            // Carved pages have memory again; those behind the last slot do not.
            let taken = span.carve_home(info, &mut out[..back.len()]);
            assert_eq!(taken, back.len());
            assert!(span.is_consistent() && span.purged_pages() <= 2);
        }
    }

    #[test]
    fn pages_of_a_clean_run_hold_nothing_until_they_are_carved() {
        let (mut span, info) = span_of(Bin(8));
        span.zeroed = true;
        span.become_small(Bin(8), ShardId(0));
        assert_eq!((span.holes(info), span.purged_pages()), (0, span.pages));
        let mut out = no_slots::<33>();
        assert_eq!(span.carve(info, &mut out), 33);
        assert_eq!((span.holes(info), span.purged_pages()), (0, span.pages - 2));
    }

    #[test]
    fn a_slot_that_was_never_carved_is_not_taken_back() {
        let (mut span, info) = span_of(Bin(4));
        let mut out = no_slots::<3>();
        assert_eq!(span.carve(info, &mut out), 3);
        assert_eq!(span.restore(info, span.start + 3 * 64), Err(NotReturned::NotASlot));
        assert_eq!(span.restore(info, span.start.wrapping_sub(64)), Err(NotReturned::NotASlot));
    }
}
