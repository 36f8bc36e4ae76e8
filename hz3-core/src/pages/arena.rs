//! Arenas: the pages that an allocator has, in windows of addresses, mapped in steps.
//!
//! ```text
//! window   | step | step | step |  not mapped, free for anybody …
//! tags     |--------------------|  …                                 8 bytes a page
//! ```
//!
//! Only what is used is mapped, so that limits, `mlockall` and core dumps see what is true. A step is an eighth of what
//! there is, and lies at the window's end; where a stranger's mapping lies, the window goes on behind it. If no window has
//! room, a further one is opened.
//!
//! ```text
//! lock: claim a window's end | map pages and their tags | lock: publish, or give up the claim
//! lock: none                 | map pages and their tags | lock: add a window, or unmap them if another was added
//! ```
//!
//! No lock is held across a system call: a library in its place may allocate, and then grows another window. Other
//! threads wait a little for one that grows, so that not all grow at once.

use crate::pages::page_map::{ArenaTags, Claim, PageMap, Reach};
use crate::pages::page_tag::{PageTag, TagCell};
use crate::pages::places::{Edge, Mapped, Place, TAG_BYTES, mapped_tags};
use crate::platform::lock::{ForkLock, Mutex, Ranked};
use crate::platform::options::Options;
use crate::platform::os::{NotMapped, Os};
use crate::platform::rank::Rank;
use crate::platform::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_PAGES};
use core::ops::{Range, RangeInclusive};
use core::ptr::{NonNull, with_exposed_provenance_mut};
use crossbeam_utils::CachePadded;

/// Most windows. Past the far one they double, and cover the address space.
pub const WINDOWS: usize = 64;
/// Least and most bytes mapped beyond a request, and their share of what there is. A step takes the mmap lock, which delays
/// other threads' page faults. Chosen: what is mapped and unused stays small beside the rest.
const STEP_BYTES: RangeInclusive<usize> = 2 * SEGMENT_BYTES..=128 * SEGMENT_BYTES;
const STEP_SHARE: usize = 8;
/// The same while threads wait for one that grows: twice what there is, up to the larger of these. Chosen:
/// `docs/decisions/windows.md`.
const RUSH_BYTES: usize = 48 << 20;
const RUSH_SHARE: usize = 5;
/// What is mapped first. Chosen: a small program may lock its memory within the usual limit of 8 MiB.
const FIRST_BYTES: usize = SEGMENT_BYTES;
/// How many times the first size the near and the far window reach. Chosen: heaps of hundreds of GiB lie in the two.
const NEAR_SIZES: usize = 16;
const FAR_SIZES: usize = 64;
/// Most pages of the near and the far window where the system is asked for room. Chosen: emulators in user space keep a
/// record of each page of a reservation, 23 bytes in qemu 7.2.
const MOST_FOUND_PAGES: usize = (16 << 30) / PAGE_BYTES;
/// Random places that are tried for the near window. Chosen: more than one only where another allocator is in the way.
const TRIES: u64 = 3;
/// How often a thread yields, and then naps, for another one's growth. Chosen: some calls; some milliseconds at most.
const YIELDS: u32 = 8;
const NAPS: u32 = 32;

/// A window's that has no pages yet.
const NO_EDGE: Edge = Edge { end: 0, bound: 0 };

const _: () = assert!(size_of::<TagCell>() == TAG_BYTES);

/// Pages that window number `count` may have, in whole segments, if the first one has `first` bytes.
fn capacity_of(first: usize, count: usize) -> usize {
    let bytes = match count {
        0 => first.saturating_mul(NEAR_SIZES),
        1 => first.saturating_mul(FAR_SIZES),
        _ => first.saturating_mul(1 << (count / 2).min(12)),
    };
    // What no machine has, so that sums don't overflow.
    bytes.clamp(2 * SEGMENT_BYTES, 1 << 56).next_multiple_of(SEGMENT_BYTES) / PAGE_BYTES
}

/// Adjacent pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    /// Address of the first page.
    pub start: usize,
    /// Number of pages.
    pub pages: usize,
}

/// Why the arenas did not grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotGrown {
    /// Pages came free while the caller waited for the lock.
    NotNeeded,
    /// The system refused.
    Refused,
}

/// Which arenas may grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Growing {
    /// Those that there are, or else a further one.
    Any,
    /// Those that there are.
    Present,
}

/// What the growth lock protects, besides windows.
struct Growth {
    /// The [thread](crate::platform::os::Waiter::this_thread) that changes a window and is worth waiting for; 0 for none.
    grower: usize,
    /// Whether another one has waited for it.
    has_waiter: bool,
}

impl Growth {
    /// Notes that the thread `this` is done.
    fn end(&mut self, this: usize) {
        if self.grower == this {
            self.grower = 0;
        }
    }
}

impl Ranked for Growth {
    const RANK: Rank = Rank::Growth;
}

/// A window's place with what is mapped there, which is this thread's.
struct Fresh {
    place: Place,
    mapped: Mapped,
    /// Whether it is one mapping.
    is_whole: bool,
}

/// A window's end, claimed. Ends in [`Arenas::give_up_end`] or [`Arenas::publish_end`].
#[must_use]
pub struct End {
    number: usize,
    claim: Claim,
    /// Behind the last mapped page.
    pub address: usize,
    /// Most pages that may go.
    pub most_pages: usize,
}

/// All windows of an allocator.
pub struct Arenas<O: Os> {
    windows: PageMap<TagCell, WINDOWS>,
    growth: CachePadded<Mutex<Growth, O>>,
    /// The options of the environment, a sixteenth of the first window's reach among them.
    pub options: Options,
}

impl<O: Os> Arenas<O> {
    /// Most windows that there may be.
    pub const MOST_WINDOWS: usize = WINDOWS;

    /// No windows.
    pub const fn new(options: Options) -> Self {
        Self {
            windows: PageMap::new(),
            growth: CachePadded::new(Mutex::new(Growth { grower: 0, has_waiter: false })),
            options,
        }
    }

    /// The near window, for the hit path.
    #[inline(always)]
    pub const fn near(&self) -> &ArenaTags<TagCell> {
        self.windows.near()
    }

    /// The far window, for what lies outside the near one.
    #[inline(always)]
    pub const fn far(&self) -> &ArenaTags<TagCell> {
        self.windows.far()
    }

    /// The tag cell of the page that holds `address`; zero or `None` outside every window.
    #[inline]
    pub fn tag(&self, address: usize) -> Option<&TagCell> {
        self.windows.tag(address)
    }

    /// The tag of the page that holds `address`; [`PageTag::NONE`] outside every window.
    #[inline]
    pub fn tag_value(&self, address: usize) -> PageTag {
        self.tag(address).map_or(PageTag::NONE, TagCell::get)
    }

    /// Sets the tag of the page that holds `address`, which lies in an arena.
    #[inline]
    pub fn set_tag(&self, address: usize, value: PageTag) {
        if let Some(tag) = self.tag(address) {
            tag.set(value);
        }
    }

    /// The growth lock, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &*self.growth
    }

    /// Maps at least `pages` adjacent pages in the windows that `which` names. The caller owns all that are returned, and
    /// holds no lock but perhaps the run lock inside `give_up`. Takes the growth lock.
    ///
    /// # Errors
    /// The system refuses, or `give_up`, called under the lock, says that pages came free.
    pub fn grow(&self, which: Growing, pages: usize, give_up: impl Fn() -> bool) -> Result<PageRange, NotGrown> {
        let is_rush = self.begin(give_up)?;
        let grown = self.grow_by(which, pages, is_rush);
        self.growth.lock().end(O::this_thread());
        grown.ok_or(NotGrown::Refused)
    }

    /// Waits a little for a thread that grows, then notes this one. Whether threads waited since the last growth.
    fn begin(&self, give_up: impl Fn() -> bool) -> Result<bool, NotGrown> {
        let this = O::this_thread();
        for turn in 0.. {
            let mut growth = self.growth.lock();
            if give_up() {
                return Err(NotGrown::NotNeeded);
            }
            // This very thread is in a call that allocates. Or the other one is stuck, or a fork left it behind: nobody
            // waits for it again.
            if growth.grower == 0 || growth.grower == this || turn == YIELDS + NAPS {
                growth.grower = this;
                return Ok(core::mem::take(&mut growth.has_waiter));
            }
            growth.has_waiter = true;
            drop(growth);
            if turn < YIELDS { O::yield_now() } else { O::nap() }
        }
        Ok(false)
    }

    /// [`Arenas::grow`] without the wait. `None` if the system refuses.
    fn grow_by(&self, which: Growing, pages: usize, is_rush: bool) -> Option<PageRange> {
        let need = pages.checked_next_multiple_of(SEGMENT_PAGES as usize)?;
        let step = self.step(need, is_rush);
        // Each turn but the last one, another thread has opened a window meanwhile.
        for _ in 0..=WINDOWS {
            match self.grow_in_place(step, need) {
                Err(NotMapped::Taken) if which == Growing::Any => {}
                grown => return grown.ok(),
            }
            match self.open_window(step, need) {
                Err(NotMapped::Taken) => {}
                opened => return opened.ok(),
            }
        }
        None
    }

    /// Pages to map for a request of `need`; in a rush, others want more.
    fn step(&self, need: usize, is_rush: bool) -> usize {
        let (_, mapped) = self.reserved_and_committed();
        let bytes = match mapped {
            0 => FIRST_BYTES,
            _ if is_rush => {
                (2 * mapped).min(RUSH_BYTES.max(mapped / RUSH_SHARE)).clamp(*STEP_BYTES.start(), *STEP_BYTES.end())
            }
            _ => (mapped / STEP_SHARE).clamp(*STEP_BYTES.start(), *STEP_BYTES.end()),
        };
        need.max(bytes / SEGMENT_BYTES * SEGMENT_PAGES as usize)
    }

    /// Grows the first window that has room for `need` pages, whole segments.
    ///
    /// # Errors
    /// None has, or the system refuses: it would refuse a further window too.
    fn grow_in_place(&self, step: usize, need: usize) -> Result<PageRange, NotMapped> {
        for window in self.windows.all() {
            let growth = self.growth.lock();
            let Some(claim) = window.claim() else { continue };
            let may_skip = self.windows.has_stretch();
            drop(growth);
            match self.grow_window(window, claim, step, need, may_skip) {
                Err(NotMapped::Taken) => {}
                grown => return grown,
            }
        }
        Err(NotMapped::Taken)
    }

    /// Maps pages of a window behind its last ones, if those end at `end`: at least `pages`, for what lies there to grow in
    /// place. The caller owns all that are returned, and holds no lock. Takes the growth lock.
    pub fn grow_at(&self, end: usize, pages: usize) -> Option<PageRange> {
        let need = pages.checked_next_multiple_of(SEGMENT_PAGES as usize)?;
        let mut growth = self.growth.lock();
        if growth.grower != 0 {
            return None;
        }
        let window = self.windows.all().iter().find(|window| window.ends_at(end))?;
        let claim = window.claim()?;
        growth.grower = O::this_thread();
        drop(growth);
        let grown = self.grow_window(window, claim, self.step(need, false), need, false).ok();
        self.growth.lock().end(O::this_thread());
        grown
    }

    /// Where the windows' last mapped pages end, or ended a moment ago.
    pub fn ends(&self) -> impl Iterator<Item = usize> {
        self.windows.all().iter().map(|window| window.end_address())
    }

    /// The window that reaches over `address`.
    pub fn reach_of(&self, address: usize) -> Option<Reach> {
        self.windows.all().iter().enumerate().find_map(|(number, window)| {
            let (base, bytes) = (window.base(), window.capacity() * PAGE_BYTES);
            (address.wrapping_sub(base) < bytes).then_some(Reach { number, base, bytes })
        })
    }

    /// Claims the end of window `number`, for pages there to be unmapped. `None` without such a window, `Some(None)` if its
    /// end is not to be had, or must stay. Takes the growth lock.
    pub fn claim_end(&self, number: usize) -> Option<Option<End>> {
        let mut growth = self.growth.lock();
        let window = self.windows.all().get(number)?;
        // One mapping stays whole.
        if growth.grower != 0 || !O::MAPS_AT || window.pages() >= window.capacity() {
            return Some(None);
        }
        let Some(claim) = window.claim() else { return Some(None) };
        growth.grower = O::this_thread();
        let address = window.base() + claim.end * PAGE_BYTES;
        // A stretch keeps a segment.
        let most_pages = self.windows.pages_before(address).saturating_sub(SEGMENT_PAGES as usize);
        Some(Some(End { number, claim, address, most_pages }))
    }

    /// Ends the claim: nothing has changed. Takes the growth lock.
    pub fn give_up_end(&self, end: End) {
        let mut growth = self.growth.lock();
        growth.end(O::this_thread());
        if let Some(window) = self.windows.all().get(end.number) {
            window.give_up(end.claim);
        }
    }

    /// Ends the claim: the last `pages` pages, of those that may go, are unmapped, and have no tags. Takes the growth lock.
    pub fn publish_end(&self, end: End, pages: usize) {
        let mut growth = self.growth.lock();
        growth.end(O::this_thread());
        if let Some(window) = self.windows.all().get(end.number) {
            self.windows.cut(end.address, pages);
            let left = end.claim.end - pages;
            window.publish(end.claim, left);
        }
    }

    /// Grows `window`, whose end is claimed, by `step` or `need` pages; ends the claim.
    fn grow_window(
        &self,
        window: &ArenaTags<TagCell>,
        claim: Claim,
        step: usize,
        need: usize,
        may_skip: bool,
    ) -> Result<PageRange, NotMapped> {
        let place = Place { base: window.base(), tags: window.tags().expose_provenance(), capacity: claim.capacity };
        let edge = Edge { end: claim.end, bound: claim.pages };
        let mapped = match place.map::<O>(edge, step, need, may_skip) {
            Ok(mapped) => mapped,
            Err(refusal) => {
                let _growth = self.growth.lock();
                window.give_up(claim);
                return Err(refusal);
            }
        };
        let range = PageRange { start: place.base + mapped.first * PAGE_BYTES, pages: mapped.end - mapped.first };
        let growth = self.growth.lock();
        // Another window may lie there by now.
        if mapped.end <= window.capacity() && self.windows.note(range.start, range.pages) {
            window.publish(claim, mapped.end);
            drop(growth);
            self.advise(range);
            return Ok(range);
        }
        drop(growth);
        // SAFETY: just mapped, and nothing uses it.
        unsafe { place.unmap::<O>(edge, mapped) };
        let _growth = self.growth.lock();
        window.give_up(claim);
        Err(NotMapped::Taken)
    }

    /// Opens a window with at least `need` pages, whole segments.
    ///
    /// # Errors
    /// Another thread has opened one meanwhile, or the system refuses.
    fn open_window(&self, step: usize, need: usize) -> Result<PageRange, NotMapped> {
        let count = self.windows.all().len();
        let fresh = if count < WINDOWS { self.map_window(count, step, need) } else { None };
        let Some(Fresh { place, mapped, is_whole }) = fresh else { return Err(NotMapped::Refused) };
        let range = PageRange { start: place.base, pages: mapped.end };
        let growth = self.growth.lock();
        let is_late = self.windows.all().len() != count || !self.is_free(place.base, mapped.end * PAGE_BYTES);
        let tags = with_exposed_provenance_mut(place.tags);
        if is_late || !self.windows.add(place.base, tags, mapped.end, place.capacity) {
            drop(growth);
            // SAFETY: just mapped, and nothing uses it.
            unsafe { if is_whole { place.unmap_whole::<O>() } else { place.unmap::<O>(NO_EDGE, mapped) } };
            return Err(if is_late { NotMapped::Taken } else { NotMapped::Refused });
        }
        // Others stop where this one begins.
        self.windows.all().iter().take(count).for_each(|window| window.leave(place.tags));
        drop(growth);
        self.advise(range);
        Ok(range)
    }

    /// Maps the first pages of window number `count`, `need` at least. `None` if the system refuses.
    fn map_window(&self, count: usize, step: usize, need: usize) -> Option<Fresh> {
        let capacity = capacity_of(self.options.arena_bytes(), count).max(need);
        let map = |place: Place| {
            place.map::<O>(NO_EDGE, step, need, false).map(|mapped| Fresh { place, mapped, is_whole: false })
        };
        if O::MAPS_AT {
            let is_used = |all: &Range<usize>| self.windows.all().iter().any(|window| all.contains(&window.base()));
            let tries = if O::OUT_OF_THE_WAY.as_ref().is_none_or(is_used) { 0 } else { TRIES };
            for number in 0..tries {
                match Place::out_of_the_way::<O>(capacity, self.random(number)).map(map) {
                    Some(Ok(fresh)) => return Some(fresh),
                    Some(Err(NotMapped::Taken)) => {}
                    Some(Err(NotMapped::Refused)) | None => break,
                }
            }
            let is_free = |start, bytes| self.is_free(start, bytes);
            let found = if count < 2 { capacity.min(MOST_FOUND_PAGES).max(need) } else { capacity };
            if let Some(Ok(fresh)) = Place::of_the_system::<O>(found, need, &is_free).map(map) {
                return Some(fresh);
            }
        }
        let place = [step, need].into_iter().find_map(Place::whole::<O>)?;
        let mapped = Mapped { first: 0, end: place.capacity };
        Some(Fresh { place, mapped, is_whole: true })
    }

    /// Whether no window's tags are for any of the addresses.
    fn is_free(&self, start: usize, bytes: usize) -> bool {
        self.windows.all().iter().all(|window| {
            let end = window.base() + window.pages() * PAGE_BYTES;
            start + bytes <= window.base() || end <= start
        })
    }

    /// A number that differs between processes, and between allocators of a process.
    fn random(&self, number: u64) -> u64 {
        // Multiplied, and only few bits are used: an address must not reveal the seed.
        let mixed = O::random_seed() ^ (&raw const *self).addr().rotate_left(20) as u64 ^ number;
        (mixed ^ mixed >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
    }

    /// Applies the option on huge pages to fresh pages: the kernel merges mappings only if their advice is the same.
    fn advise(&self, range: PageRange) {
        if let Some(start) = NonNull::new(with_exposed_provenance_mut(range.start)) {
            // SAFETY: just mapped, in whole pages, and this thread's.
            unsafe { self.options.advise::<O>(start, range.pages * PAGE_BYTES) };
        }
    }

    /// Calls `visit` with the mapped pages of each stretch.
    ///
    /// # Errors
    /// The first error of `visit`.
    pub fn each_committed<E>(&self, mut visit: impl FnMut(PageRange) -> Result<(), E>) -> Result<(), E> {
        self.windows.mapped().try_for_each(|(start, pages)| visit(PageRange { start, pages }))
    }

    /// Mapped bytes of page tags.
    pub fn tag_bytes(&self) -> usize {
        self.windows.all().iter().map(|window| mapped_tags(window.pages())).sum()
    }

    /// Bytes of addresses in windows, and of pages that are mapped there, without tags.
    pub fn reserved_and_committed(&self) -> (usize, usize) {
        let reserved: usize = self.windows.all().iter().map(ArenaTags::pages).sum();
        let committed: usize = self.windows.mapped().map(|(_, pages)| pages).sum();
        (reserved * PAGE_BYTES, committed * PAGE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_segments_and_grow_with_their_number() {
        for first in [4 << 20, (4 << 20) + 1, 16 << 30, 16 << 40] {
            for count in 0..WINDOWS {
                assert_eq!(capacity_of(first, count) % SEGMENT_PAGES as usize, 0, "{first} {count}");
                assert!(count < 2 || capacity_of(first, count) <= capacity_of(first, count + 1));
            }
        }
        assert_eq!(capacity_of(16 << 30, 0) * PAGE_BYTES, 256 << 30);
        assert_eq!(capacity_of(16 << 30, 1) * PAGE_BYTES, 1 << 40);
    }
}
