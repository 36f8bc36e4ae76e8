//! Arena: a reserved address range with its page tags in front, committed in steps.
//!
//! ```text
//! reservation   | page tags, 8 bytes a page | segment | segment | … | not yet committed        |
//!                                           ^ base                  ^ base + committed
//! ```
//!
//! A reservation has no access rights, so it costs no commit charge, no `mlockall` memory and no `RLIMIT_DATA`.
//! Segments are committed from the front, with a page of tags each, so addresses below `committed` have a readable
//! tag. A further arena follows one that is used up. An arena that lies in a window has its tags there: the window's
//! tags are a reservation of their own, and the room in front of the arena is unused.
//!
//! ```text
//! lock: claim | commit pages, and tags up to the claim's end | lock: publish, or give up the claim
//! lock: none  | reserve, commit                              | lock: add, or give back if there is room now
//! ```
//!
//! No lock is held across a system call: a library in its place may allocate, and then grows by later segments. Other
//! threads wait a little for one that grows, so that not all grow at once.

use crate::pages::page_map::{ArenaTags, Claim, PageMap};
use crate::pages::page_tag::{PageTag, TagCell};
use crate::platform::lock::{ForkLock, Mutex, Ranked};
use crate::platform::options::Options;
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::platform::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_PAGES};
use core::ptr::NonNull;
use crossbeam_utils::CachePadded;

/// Most arenas. From 16 GiB and doubling, they cover the address space.
const ARENAS: usize = 64;
/// Least and most bytes committed beyond a request. A commit takes the mmap lock, which delays other threads' page
/// faults, so each step is twice what is committed.
const STEP_BYTES: core::ops::RangeInclusive<usize> = 4 * SEGMENT_BYTES..=128 * SEGMENT_BYTES;
/// Bytes of tags committed at a time, for the same reason. Derived: the tags of the two largest steps.
const TAG_STEP_BYTES: usize = 2 * *STEP_BYTES.end() / PAGE_BYTES * size_of::<TagCell>();
/// How often a thread yields, and then naps, for another one's growth. Chosen: some commits; about a millisecond at most.
const YIELDS: u32 = 8;
const NAPS: u32 = 8;
const MIN_RESERVATION_BYTES: usize = 2 * SEGMENT_BYTES;
/// How far a window reaches from its arena's end in the direction in which the kernel goes on, an eighth of it the other
/// way: a multiple of the first arena's size, in bounds. Chosen: tags of 1.8 % of the first arena for the near one, which
/// each process has, at most 144 MiB; in the far one room for the arenas of the largest processes.
const NEAR: (usize, core::ops::RangeInclusive<usize>) = (8, 16 << 30..=64 << 30);
const FAR: (usize, core::ops::RangeInclusive<usize>) = (64, 64 << 30..=1 << 40);

/// What lies unmapped between a process's mappings at most, by which they reach further than the limit on their sum. Chosen.
const HOLES_BYTES: usize = 128 << 20;

/// The addresses of a window around `arena`, for a first arena of `first` bytes. `is_upward`: the kernel maps upwards.
fn window_around(
    arena: PageRange,
    (factor, bounds): (usize, core::ops::RangeInclusive<usize>),
    first: usize,
    is_upward: bool,
    limit: usize,
) -> Option<PageRange> {
    let size =
        first.saturating_mul(factor).clamp(*bounds.start(), *bounds.end()).min(limit.saturating_add(HOLES_BYTES));
    let ahead = size.next_multiple_of(SEGMENT_BYTES).max(arena.pages * PAGE_BYTES);
    let behind = (size / 8).next_multiple_of(SEGMENT_BYTES);
    let (start, end) = if is_upward {
        (arena.start.saturating_sub(behind), arena.start.checked_add(ahead)?)
    } else {
        (arena.end().saturating_sub(ahead), arena.end().checked_add(behind)?)
    };
    let start = start.max(SEGMENT_BYTES);
    Some(PageRange { start, pages: (end - start) / PAGE_BYTES })
}

/// Bytes to reserve for arena number `count`, in whole segments: `first`, doubled for every second arena. In a limited
/// address space, at most a small share of it, which leaves room for the program's mappings.
fn wanted_bytes(first: usize, count: usize, limit: usize) -> usize {
    let wanted = match limit {
        usize::MAX => first << (count / 2).min(12),
        limit => first.min((limit / 16).max(4 * SEGMENT_BYTES)),
    };
    wanted.next_multiple_of(SEGMENT_BYTES)
}

/// Bytes of tags at the front of a reservation of `bytes`, in whole segments.
const fn tag_bytes_of(bytes: usize) -> usize {
    (bytes / PAGE_BYTES * size_of::<TagCell>()).next_multiple_of(SEGMENT_BYTES)
}

/// Bytes to reserve for `pages` pages, whole segments, and their tags; `None` on overflow.
fn reservation_for(pages: usize) -> Option<usize> {
    let bytes = pages.checked_mul(PAGE_BYTES)?;
    let tags = tag_bytes_of(bytes);
    // Also for the tags of the tags' pages, and for the tags of those, which need less than a segment.
    bytes.checked_add(tags + tag_bytes_of(tags) + SEGMENT_BYTES)?.checked_next_multiple_of(SEGMENT_BYTES)
}

/// Whether a claim's pages are usable after [`Os::commit`]; those that the system can't make so any more are renewed.
///
/// # Safety
/// The caller owns the range, in whole pages, which nothing has written.
unsafe fn is_usable<O: Os>(start: NonNull<u8>, bytes: usize, is_committed: bool) -> bool {
    // SAFETY: the last page lies in the caller's range, which holds nothing.
    unsafe { if O::is_sealed(start.add(bytes - PAGE_BYTES)) { O::renew(start, bytes) } else { is_committed } }
}

#[derive(Clone, Copy)]
struct Reservation {
    base: usize,
    tags: *mut TagCell,
    capacity: usize,
}

impl Reservation {
    fn of(extent: &ArenaTags<TagCell>) -> Self {
        Self { base: extent.base(), tags: extent.tags(), capacity: extent.capacity() }
    }

    /// Commits the pages of `claim`, and all tags between those that were published and its end. False if the system
    /// refuses. The caller holds no lock.
    fn commit<O: Os>(self, claim: &Claim) -> bool {
        let pages = claim.end - claim.first;
        let start = core::ptr::with_exposed_provenance_mut::<u8>(self.base + claim.first * PAGE_BYTES);
        let (Some(start), Some(tags)) = (NonNull::new(start), NonNull::new(self.tags)) else {
            return false;
        };
        let (tags_from, tags_to) = (self.tags_committed(claim.published), self.tags_committed(claim.end));
        // SAFETY: the caller owns the pages: it has claimed them, or owns the reservation. All ranges lie in the
        // reservation, in whole pages, since claims are whole segments, each with a page of tags. Tags that others commit
        // too keep their contents, as do pages whose tags were refused.
        unsafe {
            // Pages first: if they are refused, nothing is kept.
            if !is_usable::<O>(start, pages * PAGE_BYTES, O::commit(start, pages * PAGE_BYTES)) {
                return false;
            }
            let is_committed = tags_to == tags_from || O::commit(tags.byte_add(tags_from).cast(), tags_to - tags_from);
            // Where they must be renewed, the claim's own alone: others' may be in use.
            if !is_usable::<O>(tags.add(claim.first).cast(), pages * size_of::<TagCell>(), is_committed) {
                return false;
            }
            // Tags are first written under the run lock, where a page fault would hold up all threads. More than a step is
            // one block, which needs only its first and last page's.
            if pages * PAGE_BYTES <= *STEP_BYTES.end() {
                O::populate(tags.add(claim.first).cast(), pages * size_of::<TagCell>());
            }
        }
        true
    }

    /// Pages to claim for a request of `need`, whole segments, if `room` pages, at least as many, are left.
    fn step(self, room: usize, need: usize) -> usize {
        let claimed = self.capacity - room;
        let step = (2 * claimed * PAGE_BYTES).clamp(*STEP_BYTES.start(), *STEP_BYTES.end()) / PAGE_BYTES;
        need.max(step.next_multiple_of(SEGMENT_PAGES as usize)).min(room)
    }

    fn all(self) -> PageRange {
        PageRange { start: self.base, pages: self.capacity }
    }

    fn range(self, claim: &Claim) -> PageRange {
        PageRange { start: self.base + claim.first * PAGE_BYTES, pages: claim.end - claim.first }
    }

    fn tags_committed(self, pages: usize) -> usize {
        // Behind the last tag may be another arena's.
        (pages * size_of::<TagCell>()).next_multiple_of(TAG_STEP_BYTES).min(self.capacity * size_of::<TagCell>())
    }
}

/// Address space that this thread has reserved, whole segments.
#[derive(Clone, Copy)]
struct Reserved {
    start: NonNull<u8>,
    bytes: usize,
}

impl Reserved {
    fn new<O: Os>(bytes: usize, align: usize) -> Option<Self> {
        O::reserve(bytes, align).map(|start| Self { start, bytes })
    }

    fn range(self) -> PageRange {
        PageRange { start: self.start.as_ptr().expose_provenance(), pages: self.bytes / PAGE_BYTES }
    }

    /// Makes it readable, which it was not; false if the system refuses.
    fn make_readable<O: Os>(self) -> bool {
        // SAFETY: the caller owns the reservation, and has committed none of it.
        unsafe { O::make_readable(self.start, self.bytes) }
    }

    /// A refusal costs address space, but no memory: nothing was written there.
    fn unmap<O: Os>(self) {
        // SAFETY: the caller owns the reservation, and nothing uses it.
        let _ = unsafe { O::unmap(self.start, self.bytes) };
    }
}

/// A window's addresses, and the tags of their pages.
#[derive(Clone, Copy)]
struct Window {
    range: PageRange,
    tags: *mut TagCell,
}

impl Window {
    /// The window `extent`, if it is open.
    fn of(extent: &ArenaTags<TagCell>) -> Option<Self> {
        extent.range().map(|(start, pages)| Self { range: PageRange { start, pages }, tags: extent.tags() })
    }

    /// The tags of `arena`, if it lies in the window.
    fn tags_of(self, arena: PageRange) -> Option<*mut TagCell> {
        // SAFETY: the window has a tag for each page of its range.
        self.range.contains(arena).then(|| unsafe { self.tags.add((arena.start - self.range.start) / PAGE_BYTES) })
    }
}

/// A window that opens with an arena.
struct Opening {
    window: Window,
    /// The reservation of its tags; `None` if they are in the room in front of the arena.
    reserved: Option<Reserved>,
    is_far: bool,
}

/// An arena that this thread has reserved.
struct FreshArena {
    place: Reservation,
    reserved: Reserved,
    opening: Option<Opening>,
    /// Pages of the near and far window when it was reserved.
    open_pages: (usize, usize),
}

impl FreshArena {
    fn unmap<O: Os>(self) {
        self.reserved.unmap::<O>();
        if let Some(tags) = self.opening.and_then(|opening| opening.reserved) {
            tags.unmap::<O>();
        }
    }
}

/// Adjacent pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRange {
    /// Address of the first page.
    pub start: usize,
    /// Number of pages.
    pub pages: usize,
}

impl PageRange {
    const fn end(self) -> usize {
        self.start + self.pages * PAGE_BYTES
    }

    const fn contains(self, other: PageRange) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    const fn overlaps(self, other: PageRange) -> bool {
        self.start < other.end() && other.start < self.end()
    }
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

/// What the growth lock protects, besides arenas and claims.
struct Growth {
    /// Threads that are growing and worth waiting for.
    growing: u32,
}

impl Ranked for Growth {
    const RANK: Rank = Rank::Growth;
}

/// All arenas of an allocator.
pub struct Arenas<O: Os> {
    extents: PageMap<TagCell, ARENAS>,
    growth: CachePadded<Mutex<Growth, O>>,
    /// The options of the environment, the first arena's size among them.
    pub options: Options,
}

impl<O: Os> Arenas<O> {
    /// No arenas.
    pub const fn new(options: Options) -> Self {
        Self { extents: PageMap::new(), growth: CachePadded::new(Mutex::new(Growth { growing: 0 })), options }
    }

    /// The near window, for the hit path.
    #[inline(always)]
    pub const fn near(&self) -> &ArenaTags<TagCell> {
        self.extents.near()
    }

    /// The far window, for what lies outside the near one.
    #[inline(always)]
    pub const fn far(&self) -> &ArenaTags<TagCell> {
        self.extents.far()
    }

    /// The tag cell of the page that holds `address`; zero or `None` outside every arena.
    #[inline]
    pub fn tag(&self, address: usize) -> Option<&TagCell> {
        self.extents.tag(address)
    }

    /// The tag of the page that holds `address`; [`PageTag::NONE`] outside every arena.
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

    /// Commits at least `pages` adjacent pages in the arenas that `which` names. The caller owns all that are returned, and
    /// holds no lock but perhaps the run lock inside `give_up`. Takes the growth lock.
    ///
    /// # Errors
    /// The system refuses, or `give_up`, called under the lock, says that pages came free.
    pub fn grow(&self, which: Growing, pages: usize, give_up: impl Fn() -> bool) -> Result<PageRange, NotGrown> {
        self.begin(give_up)?;
        let grown = self.grow_by(which, pages);
        let mut growth = self.growth.lock();
        growth.growing = growth.growing.saturating_sub(1);
        grown.ok_or(NotGrown::Refused)
    }

    /// Waits a little for threads that grow, then counts this one among them.
    fn begin(&self, give_up: impl Fn() -> bool) -> Result<(), NotGrown> {
        for turn in 0.. {
            let mut growth = self.growth.lock();
            if give_up() {
                return Err(NotGrown::NotNeeded);
            }
            if turn == YIELDS + NAPS {
                // They are stuck: this very thread, in a call that allocates, or a thread that a fork left behind.
                // Nobody waits for them again.
                growth.growing = 0;
            }
            if growth.growing == 0 {
                growth.growing = 1;
                break;
            }
            drop(growth);
            if turn < YIELDS { O::yield_now() } else { O::nap() }
        }
        Ok(())
    }

    /// [`Arenas::grow`] without the wait. `None` if the system refuses.
    fn grow_by(&self, which: Growing, pages: usize) -> Option<PageRange> {
        let need = pages.checked_next_multiple_of(SEGMENT_PAGES as usize)?;
        loop {
            if let Some(grown) = self.grow_in_place(need) {
                return grown;
            }
            if which == Growing::Present {
                return None;
            }
            if let Some(range) = self.grow_by_an_arena(need)? {
                return Some(range);
            }
            // Another thread has added an arena with room meanwhile. There are few arenas, so this ends.
        }
    }

    /// Grows an arena that has room for `need` pages, whole segments. `None` without one; `Some(None)` if the system
    /// refuses: it would refuse a further arena too.
    fn grow_in_place(&self, need: usize) -> Option<Option<PageRange>> {
        let mut is_generous = true;
        loop {
            let growth = self.growth.lock();
            let extent = self.extents.all().iter().find(|extent| extent.room() >= need)?;
            let place = Reservation::of(extent);
            let claim = extent.claim(if is_generous { place.step(extent.room(), need) } else { need });
            drop(growth);
            let is_committed = place.commit::<O>(&claim);
            let _growth = self.growth.lock();
            if is_committed {
                let range = place.range(&claim);
                extent.publish(claim);
                return Some(Some(range));
            }
            extent.give_up(claim);
            if !is_generous {
                return Some(None);
            }
            is_generous = false;
        }
    }

    /// Adds an arena with at least `need` pages, whole segments. `Some(None)` if another has room meanwhile, or has opened
    /// the window; `None` if the system refuses.
    fn grow_by_an_arena(&self, need: usize) -> Option<Option<PageRange>> {
        let fresh = self.reserve(self.extents.all().len(), need)?;
        let place = fresh.place;
        // An arena only once it has pages: a refused request leaves nothing behind.
        let whole = |pages| Claim { published: 0, first: 0, end: pages };
        let size = [place.step(place.capacity, need), need]
            .into_iter()
            .find(|&size| size <= place.capacity && place.commit::<O>(&whole(size)));
        let mut added = None;
        let mut is_late = false;
        if let Some(size) = size {
            let _growth = self.growth.lock();
            is_late = self.extents.all().iter().any(|extent| extent.room() >= need)
                || self.open_pages() != fresh.open_pages
                || fresh.opening.as_ref().is_some_and(|opening| opening.is_far && !self.are_all_near());
            let new = if is_late { None } else { self.extents.add(place.base, place.tags, place.capacity) };
            if let Some(extent) = new {
                if let Some(Opening { window: Window { range, tags }, is_far, .. }) = fresh.opening {
                    let extent = if is_far { self.far() } else { self.near() };
                    extent.open(range.start, tags, range.pages);
                }
                let claim = extent.claim(size);
                added = Some(place.range(&claim));
                extent.publish(claim);
            }
        }
        if added.is_none() {
            fresh.unmap::<O>();
        }
        if is_late { Some(None) } else { added.map(Some) }
    }

    /// Reserves arena number `count`, for at least `pages` pages, whole segments.
    fn reserve(&self, count: usize, pages: usize) -> Option<FreshArena> {
        if count == ARENAS {
            return None;
        }
        let need = reservation_for(pages)?;
        let limit = O::address_space_limit();
        let mut bytes = wanted_bytes(self.options.arena_bytes(), count, limit).max(need);
        let least = need.max(MIN_RESERVATION_BYTES);
        let open_pages = self.open_pages();
        let windows = [Window::of(self.near()), Window::of(self.far())];
        let mut is_least_granted = false;
        let reserved = loop {
            let granted = Self::reserve_whole(bytes, windows, 2 * windows.len());
            if granted.is_some() || bytes <= least {
                break granted?;
            }
            if !is_least_granted {
                // Two calls where nothing is to be had, instead of one for each size between.
                Reserved::new::<O>(least, SEGMENT_BYTES)?.unmap::<O>();
                is_least_granted = true;
            }
            bytes = (bytes / 2).next_multiple_of(SEGMENT_BYTES).max(least);
        };
        let tag_bytes = tag_bytes_of(bytes);
        let arena = PageRange { start: reserved.range().start + tag_bytes, pages: (bytes - tag_bytes) / PAGE_BYTES };
        // For the whole range at once: the kernel merges mappings only if their advice is the same.
        // SAFETY: the range behind the tags is reserved, in whole segments, and owned by this call.
        unsafe { self.options.advise::<O>(reserved.start.add(tag_bytes), bytes - tag_bytes) };
        let own_tags = reserved.start.as_ptr().cast();
        let known = windows.into_iter().flatten().find_map(|window| window.tags_of(arena));
        let opening = match windows {
            [None, _] => {
                let front = Reserved { start: reserved.start, bytes: tag_bytes };
                let near = self.reserve_window(arena, front, false, limit).or_else(|| {
                    let window = Window { range: arena, tags: own_tags };
                    front.make_readable::<O>().then_some(Opening { window, reserved: None, is_far: false })
                });
                if near.is_none() {
                    reserved.unmap::<O>();
                    return None;
                }
                near
            }
            [_, None] if known.is_none() && self.are_all_near() => {
                let front = Reserved { start: reserved.start, bytes: tag_bytes };
                self.reserve_window(arena, front, true, limit)
            }
            _ => None,
        };
        let opened = opening.as_ref().and_then(|opening| opening.window.tags_of(arena));
        let place =
            Reservation { base: arena.start, tags: known.or(opened).unwrap_or(own_tags), capacity: arena.pages };
        Some(FreshArena { place, reserved, opening, open_pages })
    }

    fn open_pages(&self) -> (usize, usize) {
        (self.near().pages(), self.far().pages())
    }

    /// Whether all arenas lie in the near window.
    fn are_all_near(&self) -> bool {
        let mut all = self.extents.all().iter().map(Reservation::of);
        Window::of(self.near()).is_none_or(|near| all.all(|place| near.tags_of(place.all()).is_some()))
    }

    /// Reserves `bytes` that lie in one of the windows or outside both. Tries again up to `tries` times: a window has two
    /// ends, and what lies across one is kept meanwhile.
    fn reserve_whole(bytes: usize, windows: [Option<Window>; 2], tries: usize) -> Option<Reserved> {
        let reserved = Reserved::new::<O>(bytes, SEGMENT_BYTES)?;
        let range = reserved.range();
        let is_across = |window: Window| window.range.overlaps(range) && !window.range.contains(range);
        if !windows.into_iter().flatten().any(is_across) {
            return Some(reserved);
        }
        let other = if tries > 0 { Self::reserve_whole(bytes, windows, tries - 1) } else { None };
        reserved.unmap::<O>();
        other
    }

    /// Reserves the tags of a window around `arena`, in the room in `front` of it if that is enough. `None` if the system
    /// refuses.
    fn reserve_window(&self, arena: PageRange, front: Reserved, is_far: bool, limit: usize) -> Option<Opening> {
        let size = if is_far { FAR } else { NEAR };
        let is_upward = Window::of(self.near()).is_some_and(|near| near.range.start < arena.start);
        let range = window_around(arena, size, self.options.arena_bytes(), is_upward, limit)?;
        let bytes = range.pages * size_of::<TagCell>();
        let own = if bytes > front.bytes { Some(Reserved::new::<O>(bytes, PAGE_BYTES)?) } else { None };
        let tags = own.unwrap_or(front);
        if !tags.make_readable::<O>() {
            if let Some(own) = own {
                own.unmap::<O>();
            }
            return None;
        }
        let window = Window { range, tags: tags.start.as_ptr().cast() };
        Some(Opening { window, reserved: own, is_far })
    }

    /// Calls `visit` with the committed pages of each arena.
    ///
    /// # Errors
    /// The first error of `visit`.
    pub fn each_committed<E>(&self, mut visit: impl FnMut(PageRange) -> Result<(), E>) -> Result<(), E> {
        self.extents
            .all()
            .iter()
            .try_for_each(|extent| visit(PageRange { start: extent.base(), pages: extent.pages() }))
    }

    /// Committed bytes of page tags.
    pub fn tag_bytes(&self) -> usize {
        self.extents.all().iter().map(|extent| Reservation::of(extent).tags_committed(extent.pages())).sum()
    }

    /// Bytes that all arenas have reserved and committed, without tags.
    pub fn reserved_and_committed(&self) -> (usize, usize) {
        self.extents.all().iter().fold((0, 0), |(reserved, committed), extent| {
            (reserved + extent.capacity() * PAGE_BYTES, committed + extent.pages() * PAGE_BYTES)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_is_whole_segments_and_fits_under_the_limit() {
        for first in [4 << 20, (4 << 20) + 1, 5 << 20, 256 << 20, 16 << 40] {
            for limit in [64 << 20, 100_000_000, 4 << 30, usize::MAX] {
                for count in [0, 1, 2, 63] {
                    let bytes = wanted_bytes(first, count, limit);
                    assert_eq!(bytes % SEGMENT_BYTES, 0, "{first} {count} {limit}");
                    assert!(bytes >= first || bytes <= limit / 4, "{first} {count} {limit}: {bytes}");
                    assert!(limit == usize::MAX || bytes <= first.next_multiple_of(SEGMENT_BYTES));
                }
            }
        }
        assert_eq!(wanted_bytes(16 << 30, 0, usize::MAX), 16 << 30);
        assert_eq!(wanted_bytes(16 << 30, 3, usize::MAX), 32 << 30);
    }

    #[test]
    fn a_window_holds_its_arena_and_goes_on_where_the_kernel_does() {
        for gib in [1, 100, 20_000] {
            for limit in [64 << 20, 100_000_000, 8_000_000_000, usize::MAX] {
                for is_upward in [false, true] {
                    let arena = PageRange { start: 0x7000_0020_0000, pages: gib << 18 };
                    let window = window_around(arena, NEAR, 4 << 30, is_upward, limit).expect("a window");
                    assert!(window.contains(arena), "{gib} {limit} {is_upward}");
                    assert_eq!(window.start % SEGMENT_BYTES + window.end() % SEGMENT_BYTES, 0);
                    let next = if is_upward { arena.end() } else { arena.start - PAGE_BYTES };
                    let has_next = window.contains(PageRange { start: next, pages: 1 });
                    assert!(has_next || (gib << 30) >= limit.min(32 << 30), "{gib} {limit} {is_upward}");
                }
            }
        }
        let low = PageRange { start: 4 * SEGMENT_BYTES, pages: 512 };
        assert_eq!(
            window_around(low, NEAR, 4 << 30, false, usize::MAX).map(|window| window.start),
            Some(SEGMENT_BYTES)
        );
    }

    #[test]
    fn a_reservation_for_any_run_holds_it() {
        for segments in (1..3000).chain([4095, 10_239, 262_143, 262_144, 524_288, 1 << 22, (1 << 23) - 1]) {
            let pages = segments * SEGMENT_PAGES as usize;
            let bytes = reservation_for(pages).expect("a size");
            assert_eq!(bytes % SEGMENT_BYTES, 0);
            let room = (bytes - tag_bytes_of(bytes)) / PAGE_BYTES;
            assert!((pages..pages + 3 * SEGMENT_PAGES as usize).contains(&room), "{segments}: {room}");
        }
        assert_eq!(reservation_for(usize::MAX / PAGE_BYTES), None);
    }
}
