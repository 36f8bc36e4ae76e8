//! Shard: an owner heap. A place, not a thread: any number of threads use one, any thread visits any.
//!
//! ```text
//! per bin    full → magazine → …     free slots for whoever refills
//!            inbox → magazine → …    slots that came home (dense stash)
//!            spans with room         those with slots at home first, those with only fresh ones last
//! per class  empty → magazine → …    spent magazines, back where they were filled
//! ```
//!
//! The stacks are lock-free; the span lists have one lock, held for a bounded number of slots and never
//! across a system call or another lock.

use crate::pages::bins::{self, BINS};
use crate::pages::page_tag::Kind;
use crate::pages::shape::CLASSES;
use crate::pages::slot::{Places, Slot};
use crate::pages::span::{NotReturned, Span, Spans, at};
use crate::platform::lock::Mutex;
use crate::platform::os::Os;
use crate::platform::rank::{Rank, Ranked};
use crate::platform::units::{Bin, SpanId, elapsed_ms};
use crate::transfer::depot::{Depot, Stack};

/// An owner heap.
#[repr(C, align(128))]
pub struct Shard<O: Os> {
    depots: [Depot; BINS],
    empty: [Stack; CLASSES],
    owned: Mutex<Owned, O>,
}

/// The spans of a shard that have room. Sync: the shard's lock.
pub struct Owned {
    heads: [SpanId; BINS],
    tails: [SpanId; BINS],
    /// Slots handed out and not at home, per bin: live, or cached in magazines and stashes.
    out: [u64; BINS],
    /// Spans, per bin.
    spans: [u32; BINS],
    /// Pages of them that hold no memory.
    purged_pages: usize,
    /// Spans that are out of the lists while memory of theirs is given back.
    aside: u32,
    /// The time, in milliseconds, as of the last look for holes or new span.
    clock: u32,
    /// Where the next look for holes goes on: the bin, and the span in its list, if there is one.
    next_look: (u8, SpanId),
}

impl Ranked for Owned {
    const RANK: Rank = Rank::Shard;

    fn is_settled(&self) -> bool {
        self.aside == 0
    }
}

/// What a look for holes comes to.
pub enum Look {
    /// `pages` of the span `id`, which is set aside, hold memory for nothing.
    Holes {
        /// The span.
        id: SpanId,
        /// Address of its first page.
        start: usize,
        /// A bit for each page.
        pages: u128,
    },
    /// As many spans as allowed have been looked at.
    Pause,
    /// Every span has been looked at.
    End,
}

impl<O: Os> Shard<O> {
    /// A shard without spans.
    pub const fn new() -> Self {
        Self {
            depots: [const { Depot::new() }; BINS],
            empty: [const { Stack::new() }; CLASSES],
            owned: Mutex::new(Owned {
                heads: [SpanId::NONE; BINS],
                tails: [SpanId::NONE; BINS],
                out: [0; BINS],
                spans: [0; BINS],
                purged_pages: 0,
                aside: 0,
                clock: 0,
                next_look: (0, SpanId::NONE),
            }),
        }
    }

    /// The stacks of full magazines of `bin`.
    #[inline]
    pub fn depot(&self, bin: Bin) -> &Depot {
        let index = usize::from(bin.0);
        // A clamp instead of a bounds check: nothing in the allocator may panic.
        &self.depots[if index < BINS { index } else { 0 }]
    }

    /// The stack of empty magazines of `class`.
    #[inline]
    pub fn empty(&self, class: u8) -> &Stack {
        &self.empty[usize::from(class) % CLASSES]
    }

    /// The spans, and the lock over them.
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
        // SAFETY: ids in the lists and in small pages' tags came from `spans`; the shard's lock, held by
        // every caller, is what allows the exclusive reference, and no caller keeps two at a time.
        unsafe { &mut *at(spans, id) }
    }

    fn list(&mut self, bin: Bin) -> Option<(&mut SpanId, &mut SpanId)> {
        let index = usize::from(bin.0);
        Some((self.heads.get_mut(index)?, self.tails.get_mut(index)?))
    }

    fn push_front(&mut self, spans: &Spans, bin: Bin, id: SpanId) {
        let Some((head, tail)) = self.list(bin) else { return };
        let old = core::mem::replace(head, id);
        if old.is_none() {
            *tail = id;
        } else {
            Self::span(spans, old).previous = id;
        }
        let span = Self::span(spans, id);
        (span.next, span.previous, span.listed) = (old, SpanId::NONE, true);
    }

    fn push_back(&mut self, spans: &Spans, bin: Bin, id: SpanId) {
        let Some((head, tail)) = self.list(bin) else { return };
        let old = core::mem::replace(tail, id);
        if old.is_none() {
            *head = id;
        } else {
            Self::span(spans, old).next = id;
        }
        let span = Self::span(spans, id);
        (span.next, span.previous, span.listed) = (SpanId::NONE, old, true);
    }

    /// Adds a span with slots at home where it is not the first to be taken from, as far as the order allows.
    fn push_late(&mut self, spans: &Spans, bin: Bin, id: SpanId) {
        let index = usize::from(bin.0);
        let (Some(&head), Some(&tail)) = (self.heads.get(index), self.tails.get(index)) else { return };
        if head.is_none() || Self::span(spans, head).home == 0 {
            return self.push_front(spans, bin, id);
        }
        if Self::span(spans, tail).home > 0 {
            return self.push_back(spans, bin, id);
        }
        // The tail is another than the head, so that there is a next one.
        let next = Self::span(spans, head).next;
        Self::span(spans, head).next = id;
        Self::span(spans, next).previous = id;
        let span = Self::span(spans, id);
        (span.next, span.previous, span.listed) = (next, head, true);
    }

    fn remove(&mut self, spans: &Spans, bin: Bin, id: SpanId) {
        let (next, previous) = {
            let span = Self::span(spans, id);
            span.listed = false;
            (span.next, span.previous)
        };
        if self.next_look.1 == id {
            self.next_look.1 = next;
            if next.is_none() {
                self.next_look.0 = self.next_look.0.saturating_add(1);
            }
        }
        let Some((head, tail)) = self.list(bin) else { return };
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

    /// Adds a fresh span of `bin` and takes slots of it into the front of `out`, to be popped from its end;
    /// returns how many. A span is listed only once a slot of it is out, so that the last slot to return
    /// always finds it.
    ///
    /// # Safety
    /// The caller owns the span, which `become_small` was called on, and no longer does afterwards.
    pub unsafe fn add(&mut self, spans: &Spans, bin: Bin, id: SpanId, now: u32, out: &mut Places) -> usize {
        if let Some(count) = self.spans.get_mut(usize::from(bin.0)) {
            *count += 1;
        }
        self.clock = now;
        let span = Self::span(spans, id);
        span.stamp = now;
        let free = out.len() - span.take(bins::info(bin), out);
        self.purged_pages += span.purged_pages() as usize;
        let span = Self::span(spans, id);
        if span.has_room(bins::info(bin)) {
            self.push_back(spans, bin, id);
        }
        self.taken(bin, out, free)
    }

    /// Takes slots of `bin` into the front of `out`, to be popped from its end; returns how many.
    pub fn carve(&mut self, spans: &Spans, bin: Bin, out: &mut Places) -> usize {
        let info = bins::info(bin);
        let mut free = out.len();
        while free > 0 {
            let Some(&id) = self.heads.get(usize::from(bin.0)) else { break };
            if id.is_none() {
                break;
            }
            if let Some(places) = out.get_mut(..free) {
                free -= self.take(spans, id, |span| span.take(info, places));
            }
            let span = Self::span(spans, id);
            if span.has_room(info) {
                let (home, next) = (span.home, span.next);
                if home == 0 && !next.is_none() && Self::span(spans, next).home > 0 {
                    // Spans with slots at home come first.
                    self.remove(spans, bin, id);
                    self.push_back(spans, bin, id);
                }
                break;
            }
            self.remove(spans, bin, id);
        }
        self.taken(bin, out, free)
    }

    /// As [`Owned::carve`], slots at home alone: no fresh page is touched.
    pub fn carve_home(&mut self, spans: &Spans, bin: Bin, out: &mut Places) -> usize {
        let info = bins::info(bin);
        let mut free = out.len();
        while free > 0 && self.has_home(spans, bin) {
            let Some(&id) = self.heads.get(usize::from(bin.0)) else { break };
            if let Some(places) = out.get_mut(..free) {
                free -= self.take(spans, id, |span| span.take_home(info, places));
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
        self.taken(bin, out, free)
    }

    /// Lets `take` take slots of the span `id`, which are needed now.
    fn take(&mut self, spans: &Spans, id: SpanId, take: impl FnOnce(&mut Span) -> usize) -> usize {
        let span = Self::span(spans, id);
        span.stamp = self.clock;
        let before = span.purged_pages();
        let taken = take(span);
        self.purged_pages -= (before - span.purged_pages()) as usize;
        taken
    }

    /// Whether a slot of `bin` is at home.
    pub fn has_home(&self, spans: &Spans, bin: Bin) -> bool {
        // Spans with slots at home come first.
        let first = self.heads.get(usize::from(bin.0)).copied().unwrap_or(SpanId::NONE);
        !first.is_none() && Self::span(spans, first).home > 0
    }

    /// Moves the slots behind the first `free` places to the front of `out` and counts them as out.
    fn taken(&mut self, bin: Bin, out: &mut Places, free: usize) -> usize {
        let taken = out.len() - free;
        // SAFETY: both ranges lie in `out`; what lies in the first one is no slot, and what lies there afterwards counts
        // in the places from which it came no more.
        unsafe { out.as_mut_ptr().copy_from(out.as_ptr().add(free), taken) };
        if let Some(count) = self.out.get_mut(usize::from(bin.0)) {
            *count += taken as u64;
        }
        taken
    }

    /// Puts `slot`, of the span `id`, back. Returns whether the span is empty now and has left the list,
    /// so that the caller must release it. A slot that was not `idle` until now counts as needed just now.
    ///
    /// # Errors
    /// The slot is none, or free already; nothing changes.
    ///
    /// # Safety
    /// `id` is that of a small span of this shard.
    pub unsafe fn restore(&mut self, spans: &Spans, id: SpanId, slot: Slot, idle: bool) -> Result<bool, NotReturned> {
        let span = Self::span(spans, id);
        let bin = span.bin;
        span.give(bins::info(bin), slot.address())?;
        if !idle {
            span.stamp = self.clock;
        }
        let (first_home, empty, listed, aside) = (span.home == 1, span.is_empty(), span.listed, span.aside);
        if let Some(count) = self.out.get_mut(usize::from(bin.0)) {
            *count = count.saturating_sub(1);
        }
        if aside {
            // [`Owned::put_back`] sees to it.
            return Ok(false);
        }
        if empty {
            if listed {
                self.remove(spans, bin, id);
            }
            self.forget(spans, bin, id);
            return Ok(true);
        }
        if first_home {
            if listed {
                self.remove(spans, bin, id);
            }
            self.push_front(spans, bin, id);
        }
        Ok(false)
    }

    /// Stops counting an empty span that is in no list.
    fn forget(&mut self, spans: &Spans, bin: Bin, id: SpanId) {
        if let Some(count) = self.spans.get_mut(usize::from(bin.0)) {
            *count -= 1;
        }
        self.purged_pages -= Self::span(spans, id).purged_pages() as usize;
    }

    /// Goes on looking through the lists for a span with holes of which no slot was needed for `delay_ms` at
    /// `now`. Looks at `looks` spans at most, counted down, and takes the first such span out of the lists: nobody
    /// takes a slot of it until [`Owned::put_back`]. When all lists are through, the next call starts again.
    pub fn set_aside(&mut self, spans: &Spans, now: u32, delay_ms: u32, looks: &mut u32) -> Look {
        self.clock = now;
        loop {
            let (number, mut id) = self.next_look;
            let Some(&head) = self.heads.get(usize::from(number)) else {
                self.next_look = (0, SpanId::NONE);
                return Look::End;
            };
            if id.is_none() {
                id = head;
            }
            while !id.is_none() {
                if *looks == 0 {
                    self.next_look = (number, id);
                    return Look::Pause;
                }
                *looks -= 1;
                let span = Self::span(spans, id);
                let next = span.next;
                if elapsed_ms(span.stamp, now) >= delay_ms {
                    let pages = span.holes(bins::info(span.bin));
                    if pages != 0 {
                        span.aside = true;
                        let start = span.start;
                        self.aside += 1;
                        self.next_look = (number, id);
                        // Moves the look on.
                        self.remove(spans, Bin(number), id);
                        return Look::Holes { id, start, pages };
                    }
                }
                id = next;
            }
            self.next_look = (number + 1, SpanId::NONE);
        }
    }

    /// Puts a span back that [`Owned::set_aside`] took out; `purged` of its pages hold no memory now. Returns
    /// whether it has become empty meanwhile, so that the caller must release it.
    ///
    /// # Safety
    /// `id` is the result of [`Owned::set_aside`] for this shard, and is put back once.
    pub unsafe fn put_back(&mut self, spans: &Spans, id: SpanId, purged: u128) -> bool {
        self.aside -= 1;
        let span = Self::span(spans, id);
        span.aside = false;
        let before = span.purged_pages();
        span.note_purged(purged);
        self.purged_pages += (span.purged_pages() - before) as usize;
        let (bin, home, empty) = (span.bin, span.home, span.is_empty());
        if empty {
            self.forget(spans, bin, id);
        } else if home > 0 {
            self.push_late(spans, bin, id);
        } else {
            self.push_back(spans, bin, id);
        }
        empty
    }

    /// Whether a span is set aside.
    pub fn has_aside(&self) -> bool {
        self.aside > 0
    }

    /// Pages of spans that hold no memory.
    pub fn purged_pages(&self) -> usize {
        self.purged_pages
    }

    /// Checks the list of spans of `bin` with room; returns how many there are.
    ///
    /// # Errors
    /// Names the broken rule.
    pub fn check_list(&self, spans: &Spans, bin: Bin) -> Result<u32, &'static str> {
        let index = usize::from(bin.0);
        let (head, tail) = (self.heads.get(index), self.tails.get(index));
        let (mut id, mut last) = (head.copied().unwrap_or(SpanId::NONE), SpanId::NONE);
        let mut listed = 0;
        while !id.is_none() {
            let span = Self::span(spans, id);
            if span.kind != Kind::Small || span.bin != bin || !span.listed {
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

    /// Slots of `bin` that are out (live or cached in magazines and stashes), and its spans.
    pub fn counts(&self, bin: Bin) -> (u64, u32) {
        let index = usize::from(bin.0);
        (self.out.get(index).copied().unwrap_or(0), self.spans.get(index).copied().unwrap_or(0))
    }
}
