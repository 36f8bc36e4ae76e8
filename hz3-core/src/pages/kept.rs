//! Kept: freed direct mappings that stay mapped, with their memory, to serve again.
//!
//! ```text
//! | start, pages, age | start, pages, age | …       up to 64, in no order; neighbours are merged
//! request → the shortest that fits, whole if that wastes an eighth at most, else cut
//! ```
//!
//! What is kept and what is live together are an eighth more than what was live lately, at most; and what is kept, 32 MiB, or
//! 256 where a helper gives them back, or more once a mapping that was unmapped for that alone would have served again. So
//! memory follows the program: what comes and goes stays, and what is over goes at once. Upkeep unmaps what stays idle; a
//! request that fails, everything.
//!
//! Protected by the lock of the direct mappings. In a hardened lane a kept mapping begins with guards, so that it is not
//! merged with what lies before it.

use crate::platform::units::{PAGE_BYTES, elapsed_ms};

/// Most mappings. Chosen: a search stays below a microsecond.
const MOST: usize = 64;
/// Part of a request that may be wasted. Chosen.
pub const WASTE: usize = 8;

/// Part of the most bytes that were live lately by which live and kept ones may exceed them. Chosen: what cuts leave over.
const EXCESS: usize = 8;

/// What decides how much is kept.
#[derive(Clone, Copy)]
pub struct Keeping {
    /// The time in milliseconds.
    pub now: u32,
    /// Milliseconds that count as lately, not 0.
    pub lately_ms: u32,
    /// Most bytes, whatever else holds.
    pub most_bytes: usize,
    /// Most bytes where no request missed more: a process that frees all and sleeps holds so much at most.
    pub idle_bytes: usize,
}

impl Keeping {
    fn is_lately(&self, when: u32) -> bool {
        elapsed_ms(when, self.now) < self.lately_ms
    }
}

/// A mapping, or a part of one, that nobody uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Address of the first page.
    pub start: usize,
    /// Number of pages, not 0.
    pub pages: usize,
    /// Guarded pages in front.
    pub guarded: u32,
    /// Milliseconds: when it was freed.
    pub stamp: u32,
}

impl Mapping {
    const NONE: Self = Self { start: 0, pages: 0, guarded: 0, stamp: 0 };

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.pages * PAGE_BYTES
    }

    fn end(&self) -> usize {
        self.start + self.bytes()
    }

    /// The part for `pages` at a multiple of `align` bytes, and pages before and behind it.
    fn part(&self, pages: usize, align: usize, may_cut: bool) -> Option<(Self, usize, usize)> {
        let start = self.start.checked_next_multiple_of(align)?;
        let front = (start - self.start) / PAGE_BYTES;
        let rest = self.pages.checked_sub(front)?.checked_sub(pages)?;
        let back = if rest <= pages / WASTE { 0 } else { rest };
        let is_whole = front == 0 && back == 0;
        // The guards go with the front.
        if !is_whole && !may_cut || front > 0 && self.guarded > 0 {
            return None;
        }
        Some((Self { start, pages: pages + rest - back, ..*self }, front, back))
    }
}

/// The kept mappings of an allocator.
pub struct Kept {
    all: [Mapping; MOST],
    count: usize,
    bytes: usize,
    /// Most bytes of live mappings in this while and in the one before, each at least as long as what counts as lately.
    most_live: usize,
    most_live_before: usize,
    /// When this while began.
    since: u32,
    /// Bytes of fresh memory handed out elsewhere while mappings were kept, less those that are due for it.
    debt: usize,
    /// Bytes of the oldest mapping that go back for that, piece by piece.
    due: usize,
    /// Bytes of the longest mapping that was unmapped for [`Keeping::idle_bytes`] alone, and when.
    dropped: Option<(usize, u32)>,
    /// When one like it was missed, or what exceeds the limit served.
    missed: Option<u32>,
}

impl Kept {
    /// None.
    #[allow(clippy::new_without_default, reason = "only statics have one")]
    pub const fn new() -> Self {
        Self {
            all: [Mapping::NONE; MOST],
            count: 0,
            bytes: 0,
            most_live: 0,
            most_live_before: 0,
            since: 0,
            debt: 0,
            due: 0,
            dropped: None,
            missed: None,
        }
    }

    /// Bytes of all.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn all(&self) -> impl Iterator<Item = (usize, &Mapping)> {
        self.all.iter().enumerate().take(self.count)
    }

    fn remove(&mut self, index: usize) -> Option<Mapping> {
        let last = self.count.checked_sub(1)?;
        let last = self.all.get(last).copied()?;
        let removed = core::mem::replace(self.all.get_mut(index)?, last);
        self.count -= 1;
        self.bytes -= removed.bytes();
        Some(removed)
    }

    /// One that can be merged with `mapping`: the second of two has no guards.
    fn neighbour_of(&self, mapping: &Mapping) -> Option<usize> {
        let joins = |first: &Mapping, second: &Mapping| first.end() == second.start && second.guarded == 0;
        let (index, _) = self.all().find(|(_, other)| joins(other, mapping) || joins(mapping, other))?;
        Some(index)
    }

    /// Adds a mapping, merged with its neighbours, of which the longest one's age survives. Returns the oldest one if there
    /// is no room for it.
    #[must_use]
    pub fn put(&mut self, mapping: Mapping) -> Option<Mapping> {
        let mut merged = mapping;
        let mut longest = mapping.pages;
        while let Some(index) = self.neighbour_of(&merged) {
            let Some(other) = self.remove(index) else { break };
            if other.pages > longest {
                (longest, merged.stamp) = (other.pages, other.stamp);
            }
            if other.start < merged.start {
                (merged.start, merged.guarded) = (other.start, other.guarded);
            }
            merged.pages += other.pages;
        }
        let displaced = if self.count == MOST { self.take_oldest(mapping.stamp) } else { None };
        if let Some(place) = self.all.get_mut(self.count) {
            *place = merged;
            self.count += 1;
            self.bytes += merged.bytes();
        }
        displaced
    }

    /// Takes `pages` at a multiple of `align` bytes, a power of two, and up to an eighth more; cuts only if `may_cut`.
    pub fn take(&mut self, pages: usize, align: usize, may_cut: bool) -> Option<Mapping> {
        // Two rests at most take the place of one.
        let may_cut = may_cut && self.count < MOST;
        let (index, (part, front, back)) = self
            .all()
            .filter_map(|(index, one)| Some((index, one.part(pages, align, may_cut)?)))
            .min_by_key(|(_, (part, front, back))| part.pages + front + back)?;
        let whole = self.remove(index)?;
        // It was used after all.
        self.due = 0;
        let guarded = if front == 0 { whole.guarded } else { 0 };
        for (start, pages) in [(whole.start, front), (part.end(), back)] {
            if pages > 0 {
                // There is room, as above, and the parts are no neighbours.
                let _ = self.put(Mapping { start, pages, guarded: 0, stamp: whole.stamp });
            }
        }
        Some(Mapping { guarded, ..part })
    }

    fn oldest(&self, now: u32) -> Option<(usize, &Mapping)> {
        self.all().max_by_key(|(_, one)| elapsed_ms(one.stamp, now))
    }

    /// Takes the oldest one at `now`.
    pub fn take_oldest(&mut self, now: u32) -> Option<Mapping> {
        self.cut_oldest(now, 0, usize::MAX)
    }

    /// Takes up to `most_pages` from the end of the oldest one, if it is at least `delay_ms` old at `now`.
    pub fn cut_oldest(&mut self, now: u32, delay_ms: u32, most_pages: usize) -> Option<Mapping> {
        let (index, oldest) = self.oldest(now)?;
        if elapsed_ms(oldest.stamp, now) < delay_ms {
            return None;
        }
        let left = oldest.pages.saturating_sub(most_pages);
        let is_whole = left <= oldest.guarded as usize;
        self.due = self.due.saturating_sub(if is_whole { oldest.bytes() } else { most_pages * PAGE_BYTES });
        if is_whole {
            return self.remove(index);
        }
        let one = self.all.get_mut(index)?;
        let cut = Mapping { start: one.start + left * PAGE_BYTES, pages: one.pages - left, guarded: 0, ..*one };
        one.pages = left;
        self.bytes -= cut.bytes();
        Some(cut)
    }

    /// Notes the bytes of live mappings.
    pub fn note_live(&mut self, live: usize) {
        self.most_live = self.most_live.max(live);
    }

    /// Most bytes to keep beside `live` ones; `freed` are those of a block that was live until now.
    fn most_bytes(&mut self, keeping: Keeping, live: usize, freed: usize) -> usize {
        let age = elapsed_ms(self.since, keeping.now);
        if age >= keeping.lately_ms {
            self.most_live_before = if age / 2 >= keeping.lately_ms { live + freed } else { self.most_live };
            (self.most_live, self.since) = (live + freed, keeping.now);
        }
        let most = self.most_live.max(self.most_live_before);
        (most + most / EXCESS).saturating_sub(live).min(keeping.most_bytes)
    }

    /// Whether more than [`Keeping::idle_bytes`] may be kept.
    fn is_missed(&self, keeping: Keeping) -> bool {
        self.missed.is_some_and(|missed| keeping.is_lately(missed))
    }

    fn note_dropped(&mut self, keeping: Keeping, bytes: usize) {
        let longest = self.dropped.filter(|&(_, when)| keeping.is_lately(when));
        self.dropped = Some((longest.map_or(bytes, |(longest, _)| longest.max(bytes)), keeping.now));
    }

    /// Whether a mapping of `bytes`, a block's until now, may be put here beside `live` ones.
    pub fn may_put(&mut self, keeping: Keeping, live: usize, bytes: usize) -> bool {
        let is_idle = bytes > keeping.idle_bytes && !self.is_missed(keeping);
        if is_idle {
            self.note_dropped(keeping, bytes);
        }
        !is_idle && bytes <= self.most_bytes(keeping, live, bytes)
    }

    /// Takes the oldest one if more is kept than may be beside `live` bytes.
    pub fn take_excess(&mut self, keeping: Keeping, live: usize) -> Option<Mapping> {
        let most = self.most_bytes(keeping, live, 0);
        let is_idle = self.bytes > keeping.idle_bytes && !self.is_missed(keeping);
        if !is_idle && self.bytes <= most {
            return None;
        }
        let oldest = self.take_oldest(keeping.now)?;
        if is_idle {
            self.note_dropped(keeping, oldest.bytes());
        }
        Some(oldest)
    }

    /// Notes a request for a block of `pages`, and what it has `taken`.
    pub fn note_request(&mut self, keeping: Keeping, pages: usize, taken: Option<&Mapping>) {
        let is_missed = match taken {
            Some(taken) => self.bytes + taken.bytes() > keeping.idle_bytes,
            None => self.dropped.is_some_and(|(bytes, when)| bytes >= pages * PAGE_BYTES && keeping.is_lately(when)),
        };
        if is_missed {
            self.missed = Some(keeping.now);
        }
    }

    /// Notes that `bytes` of fresh memory were handed out elsewhere. Once they add up to the oldest mapping, that is due: each
    /// call takes a piece from its end, of `most_pages` or as much as was handed out.
    pub fn take_for_fresh(&mut self, now: u32, bytes: usize, most_pages: usize) -> Option<Mapping> {
        let Some((_, oldest)) = self.oldest(now) else {
            (self.debt, self.due) = (0, 0);
            return None;
        };
        let oldest_bytes = oldest.bytes();
        self.debt += bytes;
        if self.due == 0 && self.debt >= oldest_bytes {
            self.debt -= oldest_bytes;
            self.due = oldest_bytes;
        }
        let pages = most_pages.max(bytes / PAGE_BYTES).min(self.due / PAGE_BYTES);
        if pages > 0 { self.cut_oldest(now, 0, pages) } else { None }
    }

    /// Checks the count of bytes, and that no two overlap.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.all().map(|(_, one)| one.bytes()).sum::<usize>() != self.bytes {
            return Err("the bytes of kept mappings");
        }
        let overlap = self.all().any(|(index, one)| {
            self.all().any(|(other, two)| other != index && one.start < two.end() && two.start < one.end())
        });
        if overlap { Err("kept mappings that overlap") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: usize = 0x7000_0000_0000;

    fn mapping(page: usize, pages: usize, stamp: u32) -> Mapping {
        Mapping { start: BASE + page * PAGE_BYTES, pages, guarded: 0, stamp }
    }

    fn put(kept: &mut Kept, mapping: Mapping) {
        assert_eq!(kept.put(mapping), None);
        assert_eq!(kept.check(), Ok(()));
    }

    #[test]
    fn the_shortest_that_fits_serves_and_a_long_one_is_cut() {
        let mut kept = Kept::new();
        put(&mut kept, mapping(0, 1000, 1));
        put(&mut kept, mapping(2000, 100, 2));
        put(&mut kept, mapping(3000, 120, 3));
        assert_eq!(kept.take(95, PAGE_BYTES, true), Some(mapping(2000, 100, 2)));
        assert_eq!(kept.take(200, PAGE_BYTES, false), None);
        assert_eq!(kept.take(200, PAGE_BYTES, true), Some(mapping(0, 200, 1)));
        assert_eq!(kept.take(800, PAGE_BYTES, true), Some(mapping(200, 800, 1)));
        assert_eq!(kept.take(200, PAGE_BYTES, true), None);
        assert_eq!((kept.bytes(), kept.check()), (120 * PAGE_BYTES, Ok(())));
    }

    #[test]
    fn neighbours_are_one_again_with_the_age_of_the_longest() {
        let mut kept = Kept::new();
        put(&mut kept, mapping(0, 100, 1));
        put(&mut kept, mapping(150, 100, 2));
        put(&mut kept, mapping(100, 50, 9));
        assert_eq!(kept.take(250, PAGE_BYTES, false), Some(mapping(0, 250, 1)));
        assert_eq!(kept.bytes(), 0);
    }

    #[test]
    fn an_aligned_part_leaves_what_is_before_and_behind_it() {
        let mut kept = Kept::new();
        put(&mut kept, mapping(1, 1023, 1));
        assert_eq!(kept.take(256, 256 * PAGE_BYTES, true), Some(mapping(256, 256, 1)));
        assert_eq!(kept.take(255, PAGE_BYTES, false), Some(mapping(1, 255, 1)));
        assert_eq!(kept.take(512, PAGE_BYTES, false), Some(mapping(512, 512, 1)));
    }

    #[test]
    fn guards_stay_in_front_and_are_not_merged_away() {
        let mut kept = Kept::new();
        let guarded = |mapping| Mapping { guarded: 2, ..mapping };
        put(&mut kept, guarded(mapping(0, 100, 1)));
        put(&mut kept, guarded(mapping(100, 100, 2)));
        assert_eq!(kept.take(200, PAGE_BYTES, true), None);
        assert_eq!(kept.take(50, PAGE_BYTES, true), Some(guarded(mapping(0, 50, 1))));
        // The rest has none.
        assert_eq!(kept.cut_oldest(10, 0, 10), Some(mapping(90, 10, 1)));
        assert_eq!(kept.take_oldest(10), Some(mapping(50, 40, 1)));
        assert_eq!(kept.cut_oldest(10, 0, 99), Some(guarded(mapping(100, 100, 2))));
        put(&mut kept, mapping(50, 50, 1));
        put(&mut kept, guarded(mapping(0, 50, 2)));
        put(&mut kept, mapping(100, 10, 3));
        assert_eq!(kept.take(110, PAGE_BYTES, false), Some(guarded(mapping(0, 110, 2))));
    }

    #[test]
    fn the_oldest_goes_piece_by_piece_and_first() {
        let mut kept = Kept::new();
        put(&mut kept, mapping(0, 100, 5));
        put(&mut kept, mapping(200, 100, u32::MAX - 5));
        assert_eq!(kept.cut_oldest(10, 17, 60), None);
        assert_eq!(kept.cut_oldest(10, 16, 60), Some(mapping(240, 60, u32::MAX - 5)));
        assert_eq!(kept.cut_oldest(10, 16, 60), Some(mapping(200, 40, u32::MAX - 5)));
        assert_eq!(kept.cut_oldest(10, 16, 60), None);
        assert_eq!(kept.take_oldest(10), Some(mapping(0, 100, 5)));
    }

    #[test]
    fn for_fresh_memory_the_oldest_goes_once_it_is_as_much_and_in_pieces() {
        let mut kept = Kept::new();
        let fresh = |kept: &mut Kept, pages: usize| kept.take_for_fresh(10, pages * PAGE_BYTES, 30);
        put(&mut kept, mapping(0, 100, 1));
        put(&mut kept, mapping(200, 300, 2));
        assert_eq!(fresh(&mut kept, 99), None);
        assert_eq!(fresh(&mut kept, 1), Some(mapping(70, 30, 1)));
        assert_eq!(fresh(&mut kept, 60), Some(mapping(10, 60, 1)));
        // What is left is less than a piece.
        assert_eq!(fresh(&mut kept, 1), Some(mapping(0, 10, 1)));
        assert_eq!(fresh(&mut kept, 238), None);
        assert_eq!(fresh(&mut kept, 1), Some(mapping(470, 30, 2)));
        assert_eq!(kept.take(270, PAGE_BYTES, false), Some(mapping(200, 270, 2)));
        // It was used: what was due no longer is.
        put(&mut kept, mapping(1000, 300, 3));
        assert_eq!(fresh(&mut kept, 299), None);
        assert_eq!(fresh(&mut kept, 1), Some(mapping(1270, 30, 3)));
        assert_eq!(kept.check(), Ok(()));
    }

    #[test]
    fn one_too_many_displaces_the_oldest() {
        let mut kept = Kept::new();
        for number in 0..MOST {
            put(&mut kept, mapping(number * 100, 50, number as u32));
        }
        // Full: nothing is cut.
        assert_eq!(kept.take(10, PAGE_BYTES, true), None);
        assert_eq!(kept.put(mapping(MOST * 100, 50, 1000)), Some(mapping(0, 50, 0)));
        assert_eq!((kept.check(), kept.bytes()), (Ok(()), MOST * 50 * PAGE_BYTES));
    }
}
