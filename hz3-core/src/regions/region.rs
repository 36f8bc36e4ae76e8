//! Region: blocks that are freed all at once, in spans that no other blocks share.
//!
//! ```text
//! per bin   spans with room → …           a slot from the first; a new span where there is none
//! full      spans without → …
//! large     large blocks → …
//! ```
//!
//! Spans begin with a page or a few and grow with the region, so that a small region takes little. The limit counts spans'
//! pages, and those of large blocks' requested sizes; guards are left out. What lies free between blocks counts, so that the
//! limit bounds the region's memory. A few pages of empty spans stay for what comes next, until the limit needs them.

use crate::pages::bins::{self, BINS};
use crate::pages::page_tag::Kind;
use crate::pages::slot::{Slot, no_slots};
use crate::pages::span::{NotReturned, Span, Spans, at};
use crate::platform::system_page;
use crate::platform::units::{Bin, PAGE_BYTES, SpanId, pages_for};

/// Most pages of a region's empty spans that it keeps; more where it is large. Chosen: a request's blocks.
const KEPT_PAGES: usize = 8;
/// Part of a region's pages that empty spans may take, and part of its spans' that a new one has. Chosen.
const KEPT_SHARE: usize = 8;
const GROWTH_SHARE: usize = 4;
/// Most pages of a region's first span of a bin, of those that waste an eighth at most.
const FIRST_PAGES: usize = 5;

/// Counts of a region, or of all of them. Bytes are of whole slots and pages, without guards.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionStats {
    /// Regions counted.
    pub regions: usize,
    /// The limit; 0 for none. Of several regions, the sum of the limits.
    pub limit_bytes: usize,
    /// Pages that count against the limit: blocks, and what is free between them.
    pub held_bytes: usize,
    /// Most `held_bytes` so far.
    pub peak_bytes: usize,
    /// Live blocks.
    pub live_bytes: usize,
    /// Number of live blocks.
    pub live_blocks: usize,
    /// How often the limit refused pages; a `realloc` may ask several times.
    pub refused: usize,
}

/// A slot out of a region's span.
pub struct Carved {
    /// The slot.
    pub slot: Slot,
    /// Whether it was never handed out before.
    pub is_fresh: bool,
    /// Whether it reads as zero if it is fresh.
    pub is_zeroed: bool,
}

/// What [`Region::pop`] takes out.
pub enum Popped {
    /// A span of small slots.
    Small(SpanId),
    /// The large block at this address.
    Large(usize),
}

/// A region. Sync: its lock. Zeros are one that is not in use.
pub struct Region {
    /// Whether it is in use.
    pub is_live: bool,
    /// Its number. Sync: constant.
    pub number: u32,
    /// The next one that is not.
    pub next_unused: u32,
    most_pages: usize,
    /// Pages taken, or about to be.
    pages: usize,
    peak_pages: usize,
    /// Those of empty spans.
    empty_pages: usize,
    small_bytes: usize,
    large_pages: usize,
    blocks: usize,
    refused: usize,
    rooms: [SpanId; BINS],
    full: SpanId,
    large: SpanId,
}

/// Slots of a span of `bin` with `pages` pages for them.
fn slots_in(bin: Bin, pages: usize) -> usize {
    let info = bins::info(bin);
    (pages * PAGE_BYTES / info.slot_bytes as usize).min(usize::from(info.span_slots()))
}

/// Pages of the first span of `bin`: the fewest that waste an eighth at most.
fn first_pages(bin: Bin) -> usize {
    let slot_bytes = bins::info(bin).slot_bytes as usize;
    let least = pages_for(slot_bytes);
    (least..least + FIRST_PAGES)
        .map(run_pages)
        .find(|pages| pages * PAGE_BYTES % slot_bytes * 8 <= pages * PAGE_BYTES)
        .unwrap_or(run_pages(least))
}

/// `pages` as a run may have them: a part of a page of the system, or whole ones.
fn run_pages(pages: usize) -> usize {
    if pages < system_page::pages() { pages } else { system_page::whole(pages) }
}

#[allow(clippy::mut_from_ref, reason = "the region's lock stands in for the exclusive borrow")]
fn span(spans: &Spans, id: SpanId) -> &mut Span {
    // SAFETY: ids in a region's lists came from `spans`. The region is reached through its lock alone, which makes the
    // reference exclusive; no caller makes two to one span at a time.
    unsafe { &mut *at(spans, id) }
}

fn push(spans: &Spans, head: &mut SpanId, id: SpanId) {
    let old = core::mem::replace(head, id);
    if !old.is_none() {
        span(spans, old).previous = id;
    }
    let span = span(spans, id);
    (span.older, span.previous) = (old, SpanId::NONE);
}

fn remove(spans: &Spans, head: &mut SpanId, id: SpanId) {
    let (next, previous) = (span(spans, id).older, span(spans, id).previous);
    if previous.is_none() {
        *head = next;
    } else {
        span(spans, previous).older = next;
    }
    if !next.is_none() {
        span(spans, next).previous = previous;
    }
}

impl Region {
    /// Brings region `number`, which is not in use, into use with a limit in pages; `usize::MAX` is none.
    pub const fn begin(&mut self, number: u32, most_pages: usize) {
        *self = Self {
            is_live: true,
            number,
            next_unused: 0,
            most_pages,
            pages: 0,
            peak_pages: 0,
            empty_pages: 0,
            small_bytes: 0,
            large_pages: 0,
            blocks: 0,
            refused: 0,
            rooms: [SpanId::NONE; BINS],
            full: SpanId::NONE,
            large: SpanId::NONE,
        };
    }

    fn room(&mut self, bin: Bin) -> &mut SpanId {
        let index = usize::from(bin.0);
        // A clamp instead of a bounds check, which could panic.
        &mut self.rooms[if index < BINS { index } else { 0 }]
    }

    /// A free slot of `bin`; `None` if no span has one. Spans have `guard_pages` at their ends.
    pub fn take_slot(&mut self, spans: &Spans, bin: Bin, guard_pages: usize) -> Option<Carved> {
        let id = *self.room(bin);
        if id.is_none() {
            return None;
        }
        let was_empty = span(spans, id).is_empty();
        if was_empty {
            self.empty_pages -= span(spans, id).slot_pages(guard_pages);
        }
        self.carve(spans, id, guard_pages)
    }

    /// A slot of the span `id`, which has one.
    fn carve(&mut self, spans: &Spans, id: SpanId, guard_pages: usize) -> Option<Carved> {
        let mut out = no_slots::<1>();
        let one = span(spans, id);
        let bin = one.bin;
        let slots = || slots_in(bin, one.slot_pages(guard_pages)) as u16;
        let is_fresh = one.home == 0;
        if is_fresh {
            let slots = slots();
            if one.carve_up_to(bins::info(bin), slots, &mut out) == 0 {
                return None;
            }
        } else if one.carve_home(bins::info(bin), &mut out) == 0 {
            return None;
        }
        let is_zeroed = one.zeroed;
        if one.home == 0 && one.carved >= slots_in(bin, one.slot_pages(guard_pages)) as u16 {
            remove(spans, self.room(bin), id);
            push(spans, &mut self.full, id);
        }
        self.blocks += 1;
        self.small_bytes += bins::info(bin).slot_bytes as usize;
        let [slot] = out;
        // SAFETY: the one place was filled.
        Some(Carved { slot: unsafe { slot.assume_init() }, is_fresh, is_zeroed })
    }

    /// Claims pages for a span of `bin`, as many as suit the region and fit its limit; `None` if not even one slot's do.
    pub fn claim_span(&mut self, bin: Bin) -> Option<usize> {
        let grown = (self.pages - self.large_pages) / GROWTH_SHARE;
        let wanted = run_pages(first_pages(bin).max(grown)).min(bins::info(bin).span_pages());
        let room = wanted.min(self.most_pages - self.pages);
        let whole = system_page::pages();
        let room = if room < whole { room } else { room / whole * whole };
        // None behind the last slot: others may need them.
        let slots = slots_in(bin, room);
        let pages = run_pages(pages_for(slots * bins::info(bin).slot_bytes as usize));
        (slots > 0 && self.claim(pages)).then_some(pages)
    }

    /// Claims `pages`; false beyond the limit.
    pub fn claim(&mut self, pages: usize) -> bool {
        if pages > self.most_pages - self.pages {
            return false;
        }
        self.pages += pages;
        true
    }

    /// Notes that what was claimed is there.
    fn note_peak(&mut self) {
        self.peak_pages = self.peak_pages.max(self.pages);
    }

    /// Whether `pages` could be claimed without the empty spans.
    pub const fn could_claim(&self, pages: usize) -> bool {
        pages <= self.most_pages - (self.pages - self.empty_pages)
    }

    /// Gives up pages that were claimed.
    pub const fn give_up(&mut self, pages: usize) {
        self.pages -= pages;
    }

    /// Counts a request that the limit refused.
    pub const fn note_refused(&mut self) {
        self.refused += 1;
    }

    /// Adds a fresh span, whose pages are claimed; a slot of it.
    ///
    /// # Safety
    /// The caller owns the span, of [`take_for_region`](crate::pages::page_heap::PageHeap::take_for_region), and gives it up.
    pub unsafe fn add(&mut self, spans: &Spans, id: SpanId, guard_pages: usize) -> Option<Carved> {
        self.note_peak();
        span(spans, id).enter_region(self.number);
        let bin = span(spans, id).bin;
        push(spans, self.room(bin), id);
        self.carve(spans, id, guard_pages)
    }

    /// Whether the span is this region's.
    const fn has(&self, span: &Span) -> bool {
        span.in_region && span.region() == self.number
    }

    /// Puts `slot` back into its span `id`, of this region. Returns the span if it is empty and to be released: then it has
    /// left the region.
    ///
    /// # Errors
    /// Not a slot that is out; nothing changes.
    pub fn restore(
        &mut self,
        spans: &Spans,
        id: SpanId,
        slot: &Slot,
        guard_pages: usize,
    ) -> Result<Option<SpanId>, NotReturned> {
        let one = span(spans, id);
        // Another thread may have freed the same block, and with it the span.
        if !self.is_live || !self.has(one) || one.kind != Kind::Region {
            return Err(NotReturned::NotASlot);
        }
        let bin = one.bin;
        let (pages, info) = (one.slot_pages(guard_pages), bins::info(bin));
        let was_full = one.home == 0 && usize::from(one.carved) >= slots_in(bin, pages);
        one.restore(info, slot.address())?;
        let is_empty = one.is_empty();
        self.blocks -= 1;
        self.small_bytes -= info.slot_bytes as usize;
        if was_full {
            remove(spans, &mut self.full, id);
            push(spans, self.room(bin), id);
        }
        if !is_empty {
            return Ok(None);
        }
        if self.empty_pages + pages <= KEPT_PAGES.max(self.pages / KEPT_SHARE) {
            self.empty_pages += pages;
            return Ok(None);
        }
        self.take_out(spans, id, pages);
        Ok(Some(id))
    }

    /// Takes the span `id`, which has room, out of the region.
    fn take_out(&mut self, spans: &Spans, id: SpanId, pages: usize) {
        let bin = span(spans, id).bin;
        remove(spans, self.room(bin), id);
        span(spans, id).in_region = false;
        self.pages -= pages;
    }

    /// Takes an empty span out, for the caller to release.
    pub fn pop_empty(&mut self, spans: &Spans, guard_pages: usize) -> Option<SpanId> {
        if self.empty_pages == 0 {
            return None;
        }
        for index in 1..BINS {
            let mut id = self.rooms.get(index).copied().unwrap_or(SpanId::NONE);
            while !id.is_none() {
                let (is_empty, pages) = (span(spans, id).is_empty(), span(spans, id).slot_pages(guard_pages));
                if is_empty {
                    self.empty_pages -= pages;
                    self.take_out(spans, id, pages);
                    return Some(id);
                }
                id = span(spans, id).older;
            }
        }
        None
    }

    /// Adds the large block of span `id`, for which `pages` are claimed.
    pub fn add_large(&mut self, spans: &Spans, id: SpanId, pages: usize) {
        self.note_peak();
        span(spans, id).enter_region(self.number);
        span(spans, id).set_counted_pages(pages);
        push(spans, &mut self.large, id);
        self.large_pages += pages;
        self.blocks += 1;
    }

    /// Takes out the large block of span `id`; false if it is out already.
    pub fn remove_large(&mut self, spans: &Spans, id: SpanId) -> bool {
        if !self.has(span(spans, id)) {
            return false;
        }
        span(spans, id).in_region = false;
        remove(spans, &mut self.large, id);
        let pages = span(spans, id).counted_pages();
        self.large_pages -= pages;
        self.pages -= pages;
        self.blocks -= 1;
        true
    }

    /// Notes that the large block of span `id` has `pages` now; what it has more than before is claimed.
    pub fn note_resized(&mut self, spans: &Spans, id: SpanId, pages: usize) {
        self.note_peak();
        let old = span(spans, id).counted_pages();
        span(spans, id).set_counted_pages(pages);
        self.pages -= old.saturating_sub(pages);
        self.large_pages = self.large_pages - old + pages;
    }

    /// Takes out anything that is left, of a region that is not used any more.
    pub fn pop(&mut self, spans: &Spans) -> Option<Popped> {
        let large = self.large;
        if !large.is_none() {
            self.remove_large(spans, large);
            return Some(Popped::Large(span(spans, large).start));
        }
        let heads = core::iter::once(&mut self.full).chain(&mut self.rooms);
        for head in heads {
            let id = *head;
            if !id.is_none() {
                remove(spans, head, id);
                span(spans, id).in_region = false;
                return Some(Popped::Small(id));
            }
        }
        None
    }

    /// Whether a slot of the span `id` is out at `address`.
    pub fn is_out(spans: &Spans, id: SpanId, address: usize) -> bool {
        span(spans, id).is_out(bins::info(span(spans, id).bin), address)
    }

    /// Adds this region's counts to `stats`.
    pub fn add_to(&self, stats: &mut RegionStats) {
        let limit = if self.most_pages == usize::MAX { 0 } else { self.most_pages * PAGE_BYTES };
        stats.regions += 1;
        stats.limit_bytes = stats.limit_bytes.saturating_add(limit);
        stats.held_bytes += self.pages * PAGE_BYTES;
        stats.peak_bytes = stats.peak_bytes.saturating_add(self.peak_pages * PAGE_BYTES);
        stats.live_bytes += self.small_bytes + self.large_pages * PAGE_BYTES;
        stats.live_blocks += self.blocks;
        stats.refused += self.refused;
    }

    /// Checks the counts against the spans. Nothing is in transit.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check(&self, spans: &Spans, guard_pages: usize) -> Result<(), &'static str> {
        let (mut pages, mut empty, mut small, mut blocks, mut large) = (0, 0, 0, 0, 0);
        let lists = self.rooms.iter().map(|&head| (head, true)).chain([(self.full, false), (self.large, false)]);
        for (list, (head, has_room)) in lists.enumerate() {
            let mut id = head;
            while !id.is_none() {
                let one = &*span(spans, id);
                let is_large = list == BINS + 1;
                let own = if is_large { one.counted_pages() } else { one.slot_pages(guard_pages) };
                if !self.has(one) {
                    return Err("a region's span that is another's");
                }
                pages += own;
                if is_large {
                    (large, blocks) = (large + own, blocks + 1);
                } else {
                    let slots = slots_in(one.bin, own);
                    if has_room != (one.home > 0 || usize::from(one.carved) < slots) || !one.is_consistent() {
                        return Err("a region's span in the wrong list");
                    }
                    empty += if one.is_empty() { own } else { 0 };
                    blocks += one.out();
                    small += one.out() * bins::info(one.bin).slot_bytes as usize;
                }
                id = one.older;
            }
        }
        let found = (pages, empty, small, blocks, large);
        let counted = (self.pages, self.empty_pages, self.small_bytes, self.blocks, self.large_pages);
        if found == counted && self.pages <= self.most_pages { Ok(()) } else { Err("the counts of a region") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_span_is_short_and_wastes_an_eighth_at_most() {
        for bin in (1..BINS as u8).map(Bin) {
            let (pages, bytes) = (first_pages(bin), bins::info(bin).slot_bytes as usize);
            let waste = pages * PAGE_BYTES - slots_in(bin, pages) * bytes;
            assert!(slots_in(bin, pages) > 0 && waste * 8 <= pages * PAGE_BYTES, "bin {}: {pages}, {waste}", bin.0);
            assert!(bytes > 512 || pages == 1, "bin {}: {pages}", bin.0);
            assert!(pages <= bins::info(bin).span_pages(), "bin {}: {pages}", bin.0);
        }
    }

    #[test]
    fn a_limit_is_claimed_to_the_page_and_no_further() {
        let mut region = empty();
        region.begin(1, 10);
        let claims: std::vec::Vec<_> = core::iter::from_fn(|| region.claim_span(Bin(1))).collect();
        assert_eq!(claims.iter().sum::<usize>(), 10);
        assert!(region.claim_span(Bin(1)).is_none() && !region.claim(1) && region.claim(0));
        region.give_up(1);
        assert!(region.claim_span(Bin(72)).is_none(), "a page holds no slot of 32 KiB");
        assert_eq!(region.claim_span(Bin(1)), Some(1));
    }

    #[test]
    fn spans_grow_with_the_region() {
        let mut region = empty();
        region.begin(1, usize::MAX);
        assert_eq!(region.claim_span(Bin(8)), Some(1));
        assert!(region.claim(40));
        assert_eq!(region.claim_span(Bin(8)), Some(10));
        assert!(region.claim(49));
        assert_eq!(region.claim_span(Bin(72)), Some(24), "three slots of eight pages, of 25 pages");
        assert!(region.claim(4000));
        assert_eq!(region.claim_span(Bin(8)), Some(bins::info(Bin(8)).span_pages()));
    }

    fn empty() -> Region {
        // SAFETY: zeros are a region that is not in use.
        unsafe { core::mem::zeroed() }
    }
}
