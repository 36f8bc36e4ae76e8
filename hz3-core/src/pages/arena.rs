//! Arena: a reserved address range, its page tags, and how far it has been made usable.
//!
//! ```text
//! reservation   | page tags, 8 bytes a page | segment | segment | … | not yet committed        |
//!                                           ^ base                  ^ base + committed
//! ```
//!
//! A reservation has no access rights and so costs nothing: no commit charge, no `mlockall`, no
//! `RLIMIT_DATA`. Segments are committed in steps from the front, one page of tags with each. Further
//! arenas chain when one is used up. Addresses below `committed` of any arena have a readable tag.

use crate::pages::extent::{Extent, Extents};
use crate::pages::page_tag::{PageTag, TagCell};
use crate::platform::lock::{ForkLock, Mutex};
use crate::platform::options::Options;
use crate::platform::os::Os;
use crate::platform::rank::{Rank, Ranked};
use crate::platform::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_PAGES};
use core::ptr::NonNull;

/// Most arenas. With a 16 GiB first one and doubling, they cover the whole address space.
const ARENAS: usize = 64;
/// Least and most bytes committed at a time beyond what is asked for. To change a mapping's rights makes every
/// thread wait that faults in a page at that moment, so that it is done seldom: each step is twice what there is.
const STEP_BYTES: core::ops::RangeInclusive<usize> = 4 * SEGMENT_BYTES..=128 * SEGMENT_BYTES;
/// Bytes of tags committed at a time, for the same reason. Derived: those of the two largest steps.
const TAG_STEP_BYTES: usize = 2 * *STEP_BYTES.end() / PAGE_BYTES * size_of::<TagCell>();
/// Smallest reservation tried.
const LEAST_RESERVATION: usize = 2 * SEGMENT_BYTES;

/// Bytes to reserve for arena number `count`, in whole segments: `first`, the choice for the first one,
/// doubled for every second arena; at most a small share where the process's address space has a limit, so
/// that its own mappings have room.
fn wanted_bytes(first: usize, count: usize, limit: usize) -> usize {
    let wanted = match limit {
        usize::MAX => first << (count / 2).min(12),
        limit => first.min((limit / 16).max(4 * SEGMENT_BYTES)),
    };
    wanted.next_multiple_of(SEGMENT_BYTES)
}

/// Bytes of tags at the front of a reservation of `bytes`, whole segments.
const fn tag_bytes_of(bytes: usize) -> usize {
    (bytes / PAGE_BYTES * size_of::<TagCell>()).next_multiple_of(SEGMENT_BYTES)
}

/// Bytes to reserve for `pages` pages, whole segments, and their tags.
fn reservation_for(pages: usize) -> Option<usize> {
    let bytes = pages.checked_mul(PAGE_BYTES)?;
    let tags = tag_bytes_of(bytes);
    // Tags are reserved for the tags' own pages too, and for those tags', which are less than a segment's.
    bytes.checked_add(tags + tag_bytes_of(tags) + SEGMENT_BYTES)?.checked_next_multiple_of(SEGMENT_BYTES)
}

/// A reserved address range: tags, then as many pages.
#[derive(Clone, Copy)]
struct Reservation {
    base: usize,
    tags: *mut TagCell,
    capacity: usize,
}

impl Reservation {
    fn of(extent: &Extent<TagCell>) -> Self {
        Self { base: extent.base(), tags: extent.tags(), capacity: extent.capacity() }
    }

    /// Makes `pages` pages behind the first `committed` usable, and their tags; false where the system refuses.
    fn commit<O: Os>(self, committed: usize, pages: usize) -> bool {
        let first = core::ptr::with_exposed_provenance_mut::<u8>(self.base + committed * PAGE_BYTES);
        let (Some(first), Some(tags)) = (NonNull::new(first), NonNull::new(self.tags)) else {
            return false;
        };
        let (tags_from, tags_to) = (self.tags_committed(committed), self.tags_committed(committed + pages));
        // SAFETY: every range lies in this reservation, in whole pages because `pages` and `committed` count whole
        // segments; committing pages again, after a refusal of their tags, is harmless.
        unsafe {
            // The many pages first: where they are refused, nothing is kept for them.
            if !O::commit(first, pages * PAGE_BYTES) {
                return false;
            }
            if tags_to > tags_from && !O::commit(tags.byte_add(tags_from).cast(), tags_to - tags_from) {
                return false;
            }
            // A page of tags covers a segment, and is written to under the run lock, where a page fault would make
            // every other thread wait.
            O::populate(tags.add(committed).cast(), pages * size_of::<TagCell>());
        }
        true
    }

    /// Bytes of tags that are committed when `pages` pages are.
    fn tags_committed(self, pages: usize) -> usize {
        let reserved = (self.capacity * size_of::<TagCell>()).next_multiple_of(SEGMENT_BYTES);
        (pages * size_of::<TagCell>()).next_multiple_of(TAG_STEP_BYTES).min(reserved)
    }

    /// Gives all of it back. Where the system refuses, address space is lost, and no memory: nobody has written there.
    fn give_back<O: Os>(self) {
        if let Some(start) = NonNull::new(self.tags) {
            // SAFETY: the reservation is nobody's but the caller's.
            let _ = unsafe { O::unmap(start.cast(), self.base - self.tags.addr() + self.capacity * PAGE_BYTES) };
        }
    }
}

/// A stretch of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Address of the first page.
    pub start: usize,
    /// Number of pages.
    pub pages: usize,
}

/// Why the arenas did not grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotGrown {
    /// Pages came free while the caller waited for its turn.
    Needless,
    /// The system gives no more.
    Refused,
}

/// Held while address space is reserved or committed.
struct Growth;

impl Ranked for Growth {
    const RANK: Rank = Rank::Growth;
}

/// All arenas of an allocator.
pub struct Arenas<O: Os> {
    extents: Extents<TagCell, ARENAS>,
    growth: Mutex<Growth, O>,
    /// What the environment says, the first arena's size among it.
    pub options: Options,
}

impl<O: Os> Arenas<O> {
    /// No arena yet.
    pub const fn new(options: Options) -> Self {
        Self { extents: Extents::new(), growth: Mutex::new(Growth), options }
    }

    /// The first arena's extent, for the hot path.
    #[inline(always)]
    pub const fn first(&self) -> &Extent<TagCell> {
        self.extents.first()
    }

    /// The tag cell of the page that holds `address`, in whichever arena.
    #[inline]
    pub fn tag(&self, address: usize) -> Option<&TagCell> {
        self.extents.tag(address)
    }

    /// The tag of the page that holds `address`; [`PageTag::NONE`] outside every arena.
    #[inline]
    pub fn tag_value(&self, address: usize) -> PageTag {
        self.tag(address).map_or(PageTag::NONE, TagCell::get)
    }

    /// Tags the page that holds `address`, which lies in an arena.
    #[inline]
    pub fn set_tag(&self, address: usize, value: PageTag) {
        if let Some(tag) = self.tag(address) {
            tag.set(value);
        }
    }

    /// The lock that is held while arenas grow, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &self.growth
    }

    /// Commits at least `pages` adjoining pages and returns all that was committed, which the caller owns.
    ///
    /// # Errors
    /// The system refuses, or `give_up` says, under the lock, that pages came free meanwhile.
    pub fn grow(&self, pages: usize, give_up: impl Fn() -> bool) -> Result<Stretch, NotGrown> {
        let _growth = self.growth.lock();
        if give_up() {
            return Err(NotGrown::Needless);
        }
        self.grow_by(pages).ok_or(NotGrown::Refused)
    }

    /// As [`Arenas::grow`], under the growth lock. `None` where the system refuses.
    fn grow_by(&self, pages: usize) -> Option<Stretch> {
        let extents = self.extents.all();
        let need = pages.checked_next_multiple_of(SEGMENT_PAGES as usize)?;
        for extent in extents {
            let (place, committed) = (Reservation::of(extent), extent.pages());
            if place.capacity - committed >= need {
                // Where this is refused, so would a further arena be.
                let size = Self::commit(place, committed, need)?;
                extent.set_pages(committed + size);
                return Some(Stretch { start: place.base + committed * PAGE_BYTES, pages: size });
            }
        }
        let place = self.reserve(extents.len(), need)?;
        // It becomes an arena once it has pages: a request that can't be met leaves nothing behind.
        let size = Self::commit(place, 0, need);
        if size.is_none() {
            place.give_back::<O>();
        }
        let size = size?;
        self.extents.add(place.base, place.tags, place.capacity)?.set_pages(size);
        Some(Stretch { start: place.base, pages: size })
    }

    /// Commits the next segments of `place`, of which `committed` pages are: at least `need` pages, whole segments. How many.
    fn commit(place: Reservation, committed: usize, need: usize) -> Option<usize> {
        let room = place.capacity - committed;
        if need > room {
            return None;
        }
        let step = (2 * committed * PAGE_BYTES).clamp(*STEP_BYTES.start(), *STEP_BYTES.end()) / PAGE_BYTES;
        let generous = need.max(step.next_multiple_of(SEGMENT_PAGES as usize)).min(room);
        [generous, need].into_iter().find(|&size| place.commit::<O>(committed, size))
    }

    /// Reserves arena number `count`, large enough for `pages`, which are whole segments.
    fn reserve(&self, count: usize, pages: usize) -> Option<Reservation> {
        if count == ARENAS {
            return None;
        }
        let need = reservation_for(pages)?;
        let mut bytes = wanted_bytes(self.options.arena_bytes(), count, O::address_space_limit()).max(need);
        let reserved = loop {
            let granted = O::reserve(bytes, SEGMENT_BYTES);
            if granted.is_some() || bytes <= need.max(LEAST_RESERVATION) {
                break granted?;
            }
            bytes = (bytes / 2).next_multiple_of(SEGMENT_BYTES).max(need);
        };
        let tag_bytes = tag_bytes_of(bytes);
        let base = reserved.as_ptr().expose_provenance() + tag_bytes;
        // All of it now, not each piece when it is committed: the kernel lets two mappings grow into each other
        // only where their advice is the same.
        // SAFETY: the range lies in the reservation, behind the tags.
        unsafe { self.options.advise::<O>(reserved.add(tag_bytes), bytes - tag_bytes) };
        Some(Reservation { base, tags: reserved.as_ptr().cast(), capacity: (bytes - tag_bytes) / PAGE_BYTES })
    }

    /// Calls `look` with the committed part of each arena.
    ///
    /// # Errors
    /// The first error of `look`.
    pub fn each_committed<E>(&self, mut look: impl FnMut(Stretch) -> Result<(), E>) -> Result<(), E> {
        self.extents.all().iter().try_for_each(|extent| look(Stretch { start: extent.base(), pages: extent.pages() }))
    }

    /// Bytes of page tags that are committed.
    pub fn tag_bytes(&self) -> usize {
        self.extents.all().iter().map(|extent| Reservation::of(extent).tags_committed(extent.pages())).sum()
    }

    /// Bytes reserved and bytes committed, in all arenas.
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
