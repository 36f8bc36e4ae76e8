//! Arena: a reserved address range with its page tags in front, committed in steps.
//!
//! ```text
//! reservation   | page tags, 8 bytes a page | segment | segment | … | not yet committed        |
//!                                           ^ base                  ^ base + committed
//! ```
//!
//! A reservation has no access rights, so it costs no commit charge, no `mlockall` memory and no `RLIMIT_DATA`.
//! Segments are committed from the front, with a page of tags each, so addresses below `committed` have a readable
//! tag. A further arena follows one that is used up.

use crate::pages::page_map::{ArenaTags, PageMap};
use crate::pages::page_tag::{PageTag, TagCell};
use crate::platform::lock::{ForkLock, Mutex};
use crate::platform::options::Options;
use crate::platform::os::Os;
use crate::platform::rank::{Rank, Ranked};
use crate::platform::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_PAGES};
use core::ptr::NonNull;

/// Most arenas. From 16 GiB and doubling, they cover the address space.
const ARENAS: usize = 64;
/// Least and most bytes committed beyond a request. A commit takes the mmap lock, which delays other threads' page
/// faults, so each step is twice what is committed.
const STEP_BYTES: core::ops::RangeInclusive<usize> = 4 * SEGMENT_BYTES..=128 * SEGMENT_BYTES;
/// Bytes of tags committed at a time, for the same reason. Derived: the tags of the two largest steps.
const TAG_STEP_BYTES: usize = 2 * *STEP_BYTES.end() / PAGE_BYTES * size_of::<TagCell>();
const MIN_RESERVATION_BYTES: usize = 2 * SEGMENT_BYTES;

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

    /// Commits `pages` pages after the first `committed`, and their tags. False if the system refuses.
    fn commit<O: Os>(self, committed: usize, pages: usize) -> bool {
        let first = core::ptr::with_exposed_provenance_mut::<u8>(self.base + committed * PAGE_BYTES);
        let (Some(first), Some(tags)) = (NonNull::new(first), NonNull::new(self.tags)) else {
            return false;
        };
        let (tags_from, tags_to) = (self.tags_committed(committed), self.tags_committed(committed + pages));
        // SAFETY: the caller owns the reservation. All ranges lie in it, in whole pages, since `pages` and `committed`
        // are whole segments, each with a page of tags. Pages whose tags were refused may be committed again.
        unsafe {
            // Pages first: if they are refused, nothing is kept.
            if !O::commit(first, pages * PAGE_BYTES) {
                return false;
            }
            if tags_to > tags_from && !O::commit(tags.byte_add(tags_from).cast(), tags_to - tags_from) {
                return false;
            }
            // Tags are first written under the run lock, where a page fault would hold up all threads.
            O::populate(tags.add(committed).cast(), pages * size_of::<TagCell>());
        }
        true
    }

    fn tags_committed(self, pages: usize) -> usize {
        let reserved = (self.capacity * size_of::<TagCell>()).next_multiple_of(SEGMENT_BYTES);
        (pages * size_of::<TagCell>()).next_multiple_of(TAG_STEP_BYTES).min(reserved)
    }

    /// Unmaps all of it. A refusal costs address space, but no memory: nothing was written there.
    fn unmap<O: Os>(self) {
        if let Some(start) = NonNull::new(self.tags) {
            // SAFETY: the caller owns the reservation, and nothing uses it.
            let _ = unsafe { O::unmap(start.cast(), self.base - self.tags.addr() + self.capacity * PAGE_BYTES) };
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

/// Why the arenas did not grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotGrown {
    /// Pages came free while the caller waited for the lock.
    NotNeeded,
    /// The system refused.
    Refused,
}

/// Stands for the right to reserve and commit.
struct Growth;

impl Ranked for Growth {
    const RANK: Rank = Rank::Growth;
}

/// All arenas of an allocator.
pub struct Arenas<O: Os> {
    extents: PageMap<TagCell, ARENAS>,
    growth: Mutex<Growth, O>,
    /// The options of the environment, the first arena's size among them.
    pub options: Options,
}

impl<O: Os> Arenas<O> {
    /// No arenas.
    pub const fn new(options: Options) -> Self {
        Self { extents: PageMap::new(), growth: Mutex::new(Growth), options }
    }

    /// The first arena's extent, for the hit path.
    #[inline(always)]
    pub const fn first(&self) -> &ArenaTags<TagCell> {
        self.extents.first()
    }

    /// The tag cell of the page that holds `address`; `None` outside every arena.
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
        &self.growth
    }

    /// Commits at least `pages` adjacent pages. The caller owns all that are returned. Takes the growth lock.
    ///
    /// # Errors
    /// The system refuses, or `give_up`, called under the lock, says that pages came free.
    pub fn grow(&self, pages: usize, give_up: impl Fn() -> bool) -> Result<PageRange, NotGrown> {
        let _growth = self.growth.lock();
        if give_up() {
            return Err(NotGrown::NotNeeded);
        }
        self.grow_by(pages).ok_or(NotGrown::Refused)
    }

    /// [`Arenas::grow`] under the growth lock. `None` if the system refuses.
    fn grow_by(&self, pages: usize) -> Option<PageRange> {
        let extents = self.extents.all();
        let need = pages.checked_next_multiple_of(SEGMENT_PAGES as usize)?;
        for extent in extents {
            let (place, committed) = (Reservation::of(extent), extent.pages());
            if place.capacity - committed >= need {
                // If this is refused, a further arena would be too.
                let size = Self::commit(place, committed, need)?;
                extent.set_pages(committed + size);
                return Some(PageRange { start: place.base + committed * PAGE_BYTES, pages: size });
            }
        }
        let place = self.reserve(extents.len(), need)?;
        // An arena only once it has pages: a refused request leaves nothing behind.
        let size = Self::commit(place, 0, need);
        if size.is_none() {
            place.unmap::<O>();
        }
        let size = size?;
        self.extents.add(place.base, place.tags, place.capacity)?.set_pages(size);
        Some(PageRange { start: place.base, pages: size })
    }

    /// Commits at least `need` pages, whole segments, after the first `committed` of `place`. Returns how many.
    fn commit(place: Reservation, committed: usize, need: usize) -> Option<usize> {
        let room = place.capacity - committed;
        if need > room {
            return None;
        }
        let step = (2 * committed * PAGE_BYTES).clamp(*STEP_BYTES.start(), *STEP_BYTES.end()) / PAGE_BYTES;
        let generous = need.max(step.next_multiple_of(SEGMENT_PAGES as usize)).min(room);
        [generous, need].into_iter().find(|&size| place.commit::<O>(committed, size))
    }

    /// Reserves arena number `count`, for at least `pages` pages, whole segments.
    fn reserve(&self, count: usize, pages: usize) -> Option<Reservation> {
        if count == ARENAS {
            return None;
        }
        let need = reservation_for(pages)?;
        let mut bytes = wanted_bytes(self.options.arena_bytes(), count, O::address_space_limit()).max(need);
        let reserved = loop {
            let granted = O::reserve(bytes, SEGMENT_BYTES);
            if granted.is_some() || bytes <= need.max(MIN_RESERVATION_BYTES) {
                break granted?;
            }
            bytes = (bytes / 2).next_multiple_of(SEGMENT_BYTES).max(need);
        };
        let tag_bytes = tag_bytes_of(bytes);
        let base = reserved.as_ptr().expose_provenance() + tag_bytes;
        // For the whole range at once: the kernel merges mappings only if their advice is the same.
        // SAFETY: the range behind the tags is reserved, in whole segments, and owned by this call.
        unsafe { self.options.advise::<O>(reserved.add(tag_bytes), bytes - tag_bytes) };
        Some(Reservation { base, tags: reserved.as_ptr().cast(), capacity: (bytes - tag_bytes) / PAGE_BYTES })
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
