//! A shard owns spans and collects free slots. Any number of threads share one; any thread may visit any.
//!
//! ```text
//! per bin    full → magazine → …     free slots for refills
//!            inbox → magazine → …    magazines sent home (dense stash, or a consumer's)
//!            spans with room         those with slots at home first, those with only fresh ones last
//! per class  empty → magazine → …    spent magazines, back where they were filled
//! ```
//!
//! The stacks are lock-free. A lock protects the spans' descriptors and lists, for a bounded number of slots or magazines, and never
//! across a system call or another lock.

use crate::pages::bins::{self, BINS};
use crate::pages::page_tag::Kind;
use crate::pages::shape::CLASSES;
use crate::pages::slot::{Places, Slot};
use crate::pages::span::{Listing, NotReturned, Span, Spans, at};
use crate::platform::lock::{Mutex, Ranked};
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::platform::transit::Transit;
use crate::platform::units::{Bin, SpanId, elapsed_ms};
use crate::transfer::depot::{Depot, Stack};
use crossbeam_utils::CachePadded;

/// A bin needs room for one slot more per so many that are out. Chosen: `docs/decisions/vacate.md`.
const ROOM_PER: u64 = 128;
/// Spans are vacated once more than one is too much, and one per so many that are needed. Chosen: so that the swings of a
/// steady demand vacate none.
const SURPLUS_PER: u64 = 32;
/// At most one of so many slots that are out counts as cached in a depot.
const CACHED_PER: u64 = 4;
const LISTS: usize = 2 * BINS;

/// A shard.
#[repr(C, align(128))]
pub struct Shard<O: Os> {
    depots: [Depot; BINS],
    empty: CachePadded<[Stack; CLASSES]>,
    owned: CachePadded<Mutex<Owned, O>>,
}

/// A shard's spans; those with room are in lists. Sync: the shard's lock.
pub struct Owned {
    /// Lists of spans with room by bin, and from [`BINS`] on of those that are being vacated.
    heads: [SpanId; LISTS],
    tails: [SpanId; LISTS],
    /// Spans that are being vacated, per bin.
    vacating: [u32; BINS],
    /// Slots out, per bin: live, or cached in magazines and stashes.
    out: [u64; BINS],
    /// Spans, per bin.
    spans: [u32; BINS],
    /// Bytes of slots out, of all bins.
    out_bytes: usize,
    /// Bytes of the slots that fit into the spans, of all bins.
    slot_bytes: usize,
    /// The spans' pages.
    pages: usize,
    /// Those of them that hold no memory.
    purged_pages: usize,
    /// Spans set aside.
    aside: Transit,
    /// Time of the last hole scan or fresh span, in milliseconds.
    clock: u32,
    /// Where the hole scan resumes: the bin, and a span or the list's head.
    scan_position: (u8, SpanId),
}

impl Ranked for Owned {
    const RANK: Rank = Rank::Shard;

    fn transit(&mut self) -> Option<&mut Transit> {
        Some(&mut self.aside)
    }
}

/// A result of [`Owned::take_next_with_holes`].
pub enum HoleScan {
    /// A span with holes, now set aside.
    Holes {
        /// The span.
        id: SpanId,
        /// Address of its first page.
        start: usize,
        /// Its holes, a bit for each page.
        pages: u128,
    },
    /// The budget is spent.
    Pause,
    /// All spans are scanned.
    End,
}

impl<O: Os> Shard<O> {
    /// A shard without spans.
    pub const fn new() -> Self {
        Self {
            depots: [const { Depot::new() }; BINS],
            empty: CachePadded::new([const { Stack::new() }; CLASSES]),
            owned: CachePadded::new(Mutex::new(Owned {
                heads: [SpanId::NONE; LISTS],
                tails: [SpanId::NONE; LISTS],
                vacating: [0; BINS],
                out: [0; BINS],
                spans: [0; BINS],
                out_bytes: 0,
                slot_bytes: 0,
                pages: 0,
                purged_pages: 0,
                aside: Transit::new(),
                clock: 0,
                scan_position: (0, SpanId::NONE),
            })),
        }
    }

    /// The full magazines of `bin`.
    #[inline]
    pub fn depot(&self, bin: Bin) -> &Depot {
        let index = usize::from(bin.0);
        // Clamped instead of a bounds check, which could panic.
        &self.depots[if index < BINS { index } else { 0 }]
    }

    /// The empty magazines of `class`.
    #[inline]
    pub fn empty(&self, class: u8) -> &Stack {
        &self.empty[usize::from(class) % CLASSES]
    }

    /// The spans, under their lock.
    #[inline]
    pub fn owned(&self) -> &Mutex<Owned, O> {
        &self.owned
    }
}

impl<O: Os> Default for Shard<O> {
    fn default() -> Self {
        Self::new()
    }
}

impl Owned {
    #[allow(clippy::mut_from_ref, reason = "the shard's lock stands in for the exclusive borrow")]
    fn span(spans: &Spans, id: SpanId) -> &mut Span {
        // SAFETY: ids in lists and small pages' tags came from `spans`. `Owned` is reached through the shard's lock
        // alone, which makes the reference exclusive; no caller makes two to one span at a time.
        unsafe { &mut *at(spans, id) }
    }

    /// The list that span `id` of `bin` belongs to.
    fn list(&mut self, spans: &Spans, bin: Bin, id: SpanId) -> Option<(&mut SpanId, &mut SpanId)> {
        let index = usize::from(bin.0) + if Self::span(spans, id).is_vacating { BINS } else { 0 };
        Some((self.heads.get_mut(index)?, self.tails.get_mut(index)?))
    }

    fn push_front(&mut self, spans: &Spans, bin: Bin, id: SpanId) {
        let Some((head, tail)) = self.list(spans, bin, id) else { return };
        let old = core::mem::replace(head, id);
        if old.is_none() {
            *tail = id;
        } else {
            Self::span(spans, old).previous = id;
        }
        let span = Self::span(spans, id);
        (span.next, span.previous, span.listing) = (old, SpanId::NONE, Listing::Listed);
    }

    fn push_back(&mut self, spans: &Spans, bin: Bin, id: SpanId) {
        let Some((head, tail)) = self.list(spans, bin, id) else { return };
        let old = core::mem::replace(tail, id);
        if old.is_none() {
            *head = id;
        } else {
            Self::span(spans, old).next = id;
        }
        let span = Self::span(spans, id);
        (span.next, span.previous, span.listing) = (SpanId::NONE, old, Listing::Listed);
    }

    /// Adds a span with slots at home: not in front if possible, but before those with only fresh slots.
    fn push_late(&mut self, spans: &Spans, bin: Bin, id: SpanId) {
        let index = usize::from(bin.0);
        let (Some(&head), Some(&tail)) = (self.heads.get(index), self.tails.get(index)) else { return };
        if head.is_none() || Self::span(spans, head).home == 0 {
            return self.push_front(spans, bin, id);
        }
        if Self::span(spans, tail).home > 0 {
            return self.push_back(spans, bin, id);
        }
        // The tail differs from the head, so there is a next span.
        let next = Self::span(spans, head).next;
        Self::span(spans, head).next = id;
        Self::span(spans, next).previous = id;
        let span = Self::span(spans, id);
        (span.next, span.previous, span.listing) = (next, head, Listing::Listed);
    }

    fn remove(&mut self, spans: &Spans, bin: Bin, id: SpanId) {
        let (next, previous) = {
            let span = Self::span(spans, id);
            span.listing = Listing::Unlisted;
            (span.next, span.previous)
        };
        if self.scan_position.1 == id {
            self.scan_position.1 = next;
            if next.is_none() {
                self.scan_position.0 = self.scan_position.0.saturating_add(1);
            }
        }
        let Some((head, tail)) = self.list(spans, bin, id) else { return };
        if previous.is_none() {
            *head = next;
        } else {
            Self::span(spans, previous).next = next;
        }
        if next.is_none() {
            *tail = previous;
        } else {
            Self::span(spans, next).previous = previous;
        }
    }

    /// Adds a fresh span of `bin` and carves slots into the front of `out`, lowest address last; returns how many. A
    /// listed span always has a slot out, whose return can release it.
    ///
    /// # Safety
    /// The caller owns the span, after `become_small`, and gives it up.
    pub unsafe fn add(&mut self, spans: &Spans, bin: Bin, id: SpanId, now: u32, out: &mut Places) -> usize {
        if let Some(count) = self.spans.get_mut(usize::from(bin.0)) {
            *count += 1;
        }
        self.clock = now;
        let span = Self::span(spans, id);
        span.stamp = now;
        self.pages += span.pages as usize;
        self.slot_bytes += Self::room_of(bin);
        let free = out.len() - span.carve(bins::info(bin), out);
        self.purged_pages += span.purged_pages() as usize;
        let span = Self::span(spans, id);
        if span.has_room(bins::info(bin)) {
            self.push_back(spans, bin, id);
        }
        self.finish_take(bin, out, free)
    }

    /// Carves slots of `bin` into the front of `out`, each span's lowest address last; returns how many. In the end,
    /// those that are being vacated are kept: `mark` changes their tags.
    pub fn carve(&mut self, spans: &Spans, bin: Bin, out: &mut Places, mark: impl Fn(&Span)) -> usize {
        let info = bins::info(bin);
        let mut free = out.len();
        while free > 0 {
            let Some(&id) = self.heads.get(usize::from(bin.0)) else { break };
            if id.is_none() {
                if self.keep(spans, bin, &mark) {
                    continue;
                }
                break;
            }
            if let Some(places) = out.get_mut(..free) {
                free -= self.take(spans, id, |span| span.carve(info, places));
            }
            let span = Self::span(spans, id);
            if span.has_room(info) {
                let (home, next) = (span.home, span.next);
                if home == 0 && !next.is_none() && Self::span(spans, next).home > 0 {
                    // Those with slots at home come first.
                    self.remove(spans, bin, id);
                    self.push_back(spans, bin, id);
                }
                break;
            }
            self.remove(spans, bin, id);
        }
        self.finish_take(bin, out, free)
    }

    /// Whether spans of `bin` are being vacated.
    pub fn is_vacating(&self, bin: Bin) -> bool {
        self.heads.get(usize::from(bin.0) + BINS).is_some_and(|id| !id.is_none())
    }

    /// Spans of `bin` that are too many for so many slots `out`, but for those that are being vacated.
    fn surplus(&self, bin: Bin, out: u64) -> u64 {
        let (index, slots) = (usize::from(bin.0), u64::from(bins::info(bin).span_slots()).max(1));
        let needed = (out + out / ROOM_PER).div_ceil(slots);
        let vacating = u64::from(self.vacating.get(index).copied().unwrap_or(0));
        let count = u64::from(self.counts(bin).1);
        if count > needed + 1 + needed / SURPLUS_PER { count.saturating_sub(needed + vacating) } else { 0 }
    }

    /// Begins to vacate spans of `bin` if there are too many for its slots that are out: of the last `most` of its list, those
    /// with the most slots at home. `mark` changes their tags. Returns whether there would be too many if `cached` slots, which
    /// are out in depots, were at home.
    pub fn vacate(&mut self, spans: &Spans, bin: Bin, cached: u64, most: usize, mark: impl Fn(&Span)) -> bool {
        let out = self.counts(bin).0;
        let surplus = self.surplus(bin, out);
        if surplus > 0 {
            self.vacate_last(spans, bin, surplus, most, mark);
        }
        // A depot may have other shards' slots.
        surplus > 0 || self.surplus(bin, out - cached.min(out / CACHED_PER)) > 0
    }

    fn vacate_last(&mut self, spans: &Spans, bin: Bin, surplus: u64, most: usize, mark: impl Fn(&Span)) {
        let index = usize::from(bin.0);
        // Those from which nothing was taken for long come last.
        let last = self.tails.get(index).copied().unwrap_or(SpanId::NONE);
        let (mut looks, mut home) = (0_u64, 0);
        for id in Self::backwards(spans, last).take(most) {
            (looks, home) = (looks + 1, home + u64::from(Self::span(spans, id).home));
        }
        let mut left = surplus;
        for id in Self::backwards(spans, last).take(most) {
            let span = Self::span(spans, id);
            if left > 0 && span.home > 0 && u64::from(span.home) * looks >= home {
                self.set_vacating(spans, bin, id, true);
                mark(Self::span(spans, id));
                left -= 1;
            }
        }
    }

    /// The spans of a list from `last` on, backwards; one that was returned may leave the list.
    fn backwards(spans: &Spans, last: SpanId) -> impl Iterator<Item = SpanId> {
        let mut next = last;
        core::iter::from_fn(move || {
            let id = next;
            if id.is_none() {
                return None;
            }
            next = Self::span(spans, id).previous;
            Some(id)
        })
    }

    /// Keeps the span of `bin` that was the last to be vacated; false if there is none. `mark` changes its tags.
    fn keep(&mut self, spans: &Spans, bin: Bin, mark: impl Fn(&Span)) -> bool {
        let id = self.heads.get(usize::from(bin.0) + BINS).copied().unwrap_or(SpanId::NONE);
        if id.is_none() {
            return false;
        }
        self.set_vacating(spans, bin, id, false);
        mark(Self::span(spans, id));
        true
    }

    /// Moves the listed span `id` of `bin`, with slots at home, to the list of those that are being vacated, or back.
    fn set_vacating(&mut self, spans: &Spans, bin: Bin, id: SpanId, is_vacating: bool) {
        self.remove(spans, bin, id);
        Self::span(spans, id).is_vacating = is_vacating;
        self.push_front(spans, bin, id);
        if let Some(count) = self.vacating.get_mut(usize::from(bin.0)) {
            *count = if is_vacating { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// Like [`Owned::carve_home`], in a span that is being vacated, which is kept.
    pub fn carve_vacating(&mut self, spans: &Spans, bin: Bin, out: &mut Places, mark: impl Fn(&Span)) -> usize {
        if self.keep(spans, bin, mark) { self.carve_home(spans, bin, out) } else { 0 }
    }

    /// Like [`Owned::carve`], slots at home alone: touches no fresh page.
    pub fn carve_home(&mut self, spans: &Spans, bin: Bin, out: &mut Places) -> usize {
        let info = bins::info(bin);
        let mut free = out.len();
        while free > 0 && self.has_home(spans, bin) {
            let Some(&id) = self.heads.get(usize::from(bin.0)) else { break };
            if let Some(places) = out.get_mut(..free) {
                free -= self.take(spans, id, |span| span.carve_home(info, places));
            }
            let span = Self::span(spans, id);
            if span.home > 0 {
                break;
            }
            let has_fresh = span.has_room(info);
            self.remove(spans, bin, id);
            if has_fresh {
                self.push_back(spans, bin, id);
            }
        }
        self.finish_take(bin, out, free)
    }

    /// Lets `take` take slots of the span `id`, which becomes young.
    fn take(&mut self, spans: &Spans, id: SpanId, take: impl FnOnce(&mut Span) -> usize) -> usize {
        let span = Self::span(spans, id);
        span.stamp = self.clock;
        let before = span.purged_pages();
        let taken = take(span);
        self.purged_pages -= (before - span.purged_pages()) as usize;
        taken
    }

    /// Whether slots of `bin` are at home.
    pub fn has_home(&self, spans: &Spans, bin: Bin) -> bool {
        // Their spans come first.
        let first = self.heads.get(usize::from(bin.0)).copied().unwrap_or(SpanId::NONE);
        !first.is_none() && Self::span(spans, first).home > 0
    }

    /// Moves the slots behind `free` empty places to the front of `out`, and counts them as out.
    fn finish_take(&mut self, bin: Bin, out: &mut Places, free: usize) -> usize {
        let taken = out.len() - free;
        // SAFETY: both ranges are in `out`; the front held no slots, and the originals are not read again.
        unsafe { out.as_mut_ptr().copy_from(out.as_ptr().add(free), taken) };
        if let Some(count) = self.out.get_mut(usize::from(bin.0)) {
            *count += taken as u64;
        }
        self.out_bytes += taken * bins::info(bin).slot_bytes as usize;
        taken
    }

    /// Returns `slot` to its span `id`. True if the span is empty and unlisted now: the caller must release it. A slot
    /// that is not `idle` makes its span young.
    ///
    /// # Errors
    /// Not a carved slot, or at home already; nothing changes.
    ///
    /// # Safety
    /// `id` is a small span of this shard.
    pub unsafe fn restore(&mut self, spans: &Spans, id: SpanId, slot: Slot, idle: bool) -> Result<bool, NotReturned> {
        let span = Self::span(spans, id);
        let bin = span.bin;
        span.restore(bins::info(bin), slot.address())?;
        if !idle {
            span.stamp = self.clock;
        }
        let (first_home, empty, listing) = (span.home == 1, span.is_empty(), span.listing);
        let listed = listing == Listing::Listed;
        if let Some(count) = self.out.get_mut(usize::from(bin.0)) {
            *count = count.saturating_sub(1);
        }
        self.out_bytes = self.out_bytes.saturating_sub(bins::info(bin).slot_bytes as usize);
        if listing == Listing::Aside {
            // `put_back` lists or releases it.
            return Ok(false);
        }
        if empty {
            if listed {
                self.remove(spans, bin, id);
            }
            self.forget(spans, bin, id);
            return Ok(true);
        }
        if first_home && !Self::span(spans, id).is_vacating {
            if listed {
                self.remove(spans, bin, id);
            }
            self.push_front(spans, bin, id);
        }
        Ok(false)
    }

    /// Stops counting an empty, unlisted span.
    fn forget(&mut self, spans: &Spans, bin: Bin, id: SpanId) {
        if let Some(count) = self.spans.get_mut(usize::from(bin.0)) {
            *count -= 1;
        }
        let span = Self::span(spans, id);
        if span.is_vacating {
            if let Some(count) = self.vacating.get_mut(usize::from(bin.0)) {
                *count -= 1;
            }
        }
        self.pages -= span.pages as usize;
        self.slot_bytes -= Self::room_of(bin);
        self.purged_pages -= span.purged_pages() as usize;
    }

    /// Resumes the scan for a span with holes, unused for `delay_ms` at `now`. Such a span leaves the lists until
    /// this `thread` calls [`Owned::put_back`]. Scans at most `budget` spans, counted down; after the last, the next call starts again.
    pub fn take_next_with_holes(
        &mut self,
        spans: &Spans,
        thread: usize,
        now: u32,
        delay_ms: u32,
        budget: &mut u32,
    ) -> HoleScan {
        self.clock = now;
        loop {
            let (number, mut id) = self.scan_position;
            let Some(&head) = self.heads.get(usize::from(number)) else {
                self.scan_position = (0, SpanId::NONE);
                return HoleScan::End;
            };
            if id.is_none() {
                id = head;
            }
            while !id.is_none() {
                if *budget == 0 {
                    self.scan_position = (number, id);
                    return HoleScan::Pause;
                }
                *budget -= 1;
                let span = Self::span(spans, id);
                let next = span.next;
                if elapsed_ms(span.stamp, now) >= delay_ms {
                    let (bin, pages) = (span.bin, span.holes(bins::info(span.bin)));
                    if pages != 0 {
                        let start = span.start;
                        self.aside.begin(thread);
                        self.scan_position = (number, id);
                        // Moves `scan_position` on.
                        self.remove(spans, bin, id);
                        Self::span(spans, id).listing = Listing::Aside;
                        return HoleScan::Holes { id, start, pages };
                    }
                }
                id = next;
            }
            self.scan_position = (number + 1, SpanId::NONE);
        }
    }

    /// Lists a span again that was set aside; its pages `purged` hold no memory now. True if it has become empty: the
    /// caller must release it.
    ///
    /// # Safety
    /// [`Owned::take_next_with_holes`] of this shard returned `id`, which is put back once.
    pub unsafe fn put_back(&mut self, spans: &Spans, thread: usize, id: SpanId, purged: u128) -> bool {
        self.aside.end(thread);
        let span = Self::span(spans, id);
        span.listing = Listing::Unlisted;
        let before = span.purged_pages();
        span.note_purged(purged);
        self.purged_pages += (span.purged_pages() - before) as usize;
        let (bin, home, empty, is_vacating) = (span.bin, span.home, span.is_empty(), span.is_vacating);
        if empty {
            self.forget(spans, bin, id);
        } else if is_vacating {
            self.push_front(spans, bin, id);
        } else if home > 0 {
            self.push_late(spans, bin, id);
        } else {
            self.push_back(spans, bin, id);
        }
        empty
    }

    /// Whether a span is set aside.
    pub fn has_aside(&self) -> bool {
        self.aside.is_any()
    }

    fn room_of(bin: Bin) -> usize {
        usize::from(bins::info(bin).span_slots()) * bins::info(bin).slot_bytes as usize
    }

    /// Bytes of slots out, and of all slots that fit into the spans.
    pub fn slot_bytes(&self) -> (usize, usize) {
        (self.out_bytes, self.slot_bytes)
    }

    /// The same of `bin` alone, but for as many free slots as fit into a span.
    pub fn bytes_of_bin(&self, bin: Bin) -> (usize, usize) {
        let (out, spans) = self.counts(bin);
        let (out, room) = (out as usize * bins::info(bin).slot_bytes as usize, Self::room_of(bin));
        (out, out.max((spans as usize * room).saturating_sub(room)))
    }

    /// Pages of the spans.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Those of them that hold no memory.
    pub fn purged_pages(&self) -> usize {
        self.purged_pages
    }

    /// Checks the span list of `bin`; returns its length.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check_list(&self, spans: &Spans, bin: Bin) -> Result<u32, &'static str> {
        Ok(self.check_one_list(spans, bin, 0)? + self.check_one_list(spans, bin, BINS)?)
    }

    fn check_one_list(&self, spans: &Spans, bin: Bin, first: usize) -> Result<u32, &'static str> {
        let index = usize::from(bin.0) + first;
        let (head, tail) = (self.heads.get(index), self.tails.get(index));
        let (mut id, mut last) = (head.copied().unwrap_or(SpanId::NONE), SpanId::NONE);
        let mut listed = 0;
        while !id.is_none() {
            let span = Self::span(spans, id);
            if span.kind != Kind::Small
                || span.bin != bin
                || span.listing != Listing::Listed
                || span.is_vacating != (first > 0)
            {
                return Err("a list holds a span that is not its own");
            }
            if !span.has_room(bins::info(bin)) {
                return Err("a full span is listed");
            }
            if span.previous != last {
                return Err("a list's links disagree");
            }
            (last, id) = (id, span.next);
            listed += 1;
        }
        if listed > 0 && tail != Some(&last) { Err("a list's tail is not its last") } else { Ok(listed) }
    }

    /// Slots of `bin` that are out, and its spans.
    pub fn counts(&self, bin: Bin) -> (u64, u32) {
        let index = usize::from(bin.0);
        (self.out.get(index).copied().unwrap_or(0), self.spans.get(index).copied().unwrap_or(0))
    }
}
