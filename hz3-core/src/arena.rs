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

use crate::options::Options;
use crate::os::Os;
use crate::page_tag::{PageTag, TagCell};
use crate::sync::{AtomicPtr, AtomicUsize, Mutex, Ordering};
use crate::units::{PAGE_BYTES, PAGE_SHIFT, SEGMENT_BYTES, SEGMENT_PAGES};
use core::ptr::null_mut;

/// Most arenas. With a 16 GiB first one and doubling, they cover the whole address space.
const ARENAS: usize = 64;
/// Least and most bytes committed at a time beyond what is asked for.
const STEP_BYTES: core::ops::RangeInclusive<usize> = 2 * SEGMENT_BYTES..=32 * SEGMENT_BYTES;
/// Smallest reservation tried.
const LEAST_RESERVATION: usize = 2 * SEGMENT_BYTES;

/// What `free` reads of an arena; the first arena's copy of it is the hot path's.
#[repr(C, align(64))]
pub struct Extent {
    /// Minus the address of the first page, modulo 2^64: an address plus this is its offset.
    origin: AtomicUsize,
    /// Committed pages.
    pages: AtomicUsize,
    /// Page tags, one a page.
    tags: AtomicPtr<TagCell>,
    /// Pages reserved. Sync: written before the arena is published.
    capacity: AtomicUsize,
}

impl Extent {
    const fn new() -> Self {
        Self {
            origin: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            tags: AtomicPtr::new(null_mut()),
            capacity: AtomicUsize::new(0),
        }
    }

    fn base(&self) -> usize {
        // Relaxed: read where the arena is known to exist.
        self.origin.load(Ordering::Relaxed).wrapping_neg()
    }

    /// Calls `found` with the tag of the page that holds `address`, `none` where that lies outside the
    /// committed part. (An `Option` of a reference would cost `free` a second test.)
    #[inline(always)]
    pub fn with_tag<T>(&self, address: usize, found: impl FnOnce(&TagCell) -> T, none: impl FnOnce() -> T) -> T {
        // Relaxed, all three: whoever holds a block of this arena got it through an exchange that came
        // after these were written; for any other address each mix of old and new values is either
        // refused here or names a tag that is readable.
        let page = address.wrapping_add(self.origin.load(Ordering::Relaxed)) >> PAGE_SHIFT;
        if page < self.pages.load(Ordering::Relaxed) {
            // SAFETY: tags of committed pages are mapped for good.
            found(unsafe { &*self.tags.load(Ordering::Relaxed).add(page) })
        } else {
            none()
        }
    }

    fn tag(&self, address: usize) -> Option<&TagCell> {
        self.with_tag(address, |tag| Some(core::ptr::from_ref(tag)), || None)
            // SAFETY: tags of committed pages are mapped for good.
            .map(|tag| unsafe { &*tag })
    }
}

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

/// All arenas of an allocator.
pub struct Arenas<O: Os> {
    extents: [Extent; ARENAS],
    count: AtomicUsize,
    /// Held while address space is reserved or committed.
    growing: Mutex<(), O>,
    /// What the environment says, the first arena's size among it.
    pub options: Options,
}

impl<O: Os> Arenas<O> {
    /// No arena yet.
    pub const fn new(options: Options) -> Self {
        Self {
            extents: [const { Extent::new() }; ARENAS],
            count: AtomicUsize::new(0),
            growing: Mutex::new(()),
            options,
        }
    }

    /// The first arena's extent, for the hot path.
    #[inline(always)]
    pub const fn first(&self) -> &Extent {
        let [first, ..] = &self.extents;
        first
    }

    /// The tag cell of the page that holds `address`, in whichever arena.
    #[inline]
    pub fn tag(&self, address: usize) -> Option<&TagCell> {
        // Acquire: pairs with the Release in `reserve`.
        let count = self.count.load(Ordering::Acquire).min(ARENAS);
        self.extents.iter().take(count).find_map(|extent| extent.tag(address))
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
    pub fn growing(&self) -> &Mutex<(), O> {
        &self.growing
    }

    /// Commits at least `pages` adjoining pages and returns all that was committed, which the caller owns.
    ///
    /// # Errors
    /// The system refuses, or `give_up` says, under the lock, that pages came free meanwhile.
    pub fn grow(&self, pages: usize, give_up: impl Fn() -> bool) -> Result<Stretch, NotGrown> {
        let _growing = self.growing.lock();
        if give_up() {
            return Err(NotGrown::Needless);
        }
        self.grow_by(pages).ok_or(NotGrown::Refused)
    }

    /// As [`Arenas::grow`], under the growing lock. `None` where the system refuses.
    fn grow_by(&self, pages: usize) -> Option<Stretch> {
        // Relaxed: written under the lock that is held.
        let count = self.count.load(Ordering::Relaxed);
        for extent in self.extents.iter().take(count) {
            if Self::room(extent) >= pages.next_multiple_of(SEGMENT_PAGES as usize) {
                // Where this is refused, so would a further arena be.
                return self.extend(extent, pages);
            }
        }
        self.extend(self.reserve(count, pages)?, pages)
    }

    /// Pages of `extent` that are reserved and not committed.
    fn room(extent: &Extent) -> usize {
        // Relaxed: written under the growing lock, which is held.
        extent.capacity.load(Ordering::Relaxed) - extent.pages.load(Ordering::Relaxed)
    }

    /// Commits the next segments of `extent`, at least `pages` pages, for which there is room.
    fn extend(&self, extent: &Extent, pages: usize) -> Option<Stretch> {
        // Relaxed: all of these are written under the growing lock, which is held.
        let committed = extent.pages.load(Ordering::Relaxed);
        let step = (committed * PAGE_BYTES / 8).clamp(*STEP_BYTES.start(), *STEP_BYTES.end()) / PAGE_BYTES;
        let need = pages.next_multiple_of(SEGMENT_PAGES as usize);
        let generous = pages.max(step).next_multiple_of(SEGMENT_PAGES as usize).min(Self::room(extent));
        for size in [generous, need] {
            if self.commit(extent, committed, size) {
                // Release: the tags exist before an address is checked against the new bound.
                extent.pages.store(committed + size, Ordering::Release);
                let start = extent.base() + committed * PAGE_BYTES;
                return Some(Stretch { start, pages: size });
            }
        }
        None
    }

    fn commit(&self, extent: &Extent, committed: usize, pages: usize) -> bool {
        // Relaxed: as in `extend`.
        let (base, tags) = (extent.base(), extent.tags.load(Ordering::Relaxed));
        let first = core::ptr::with_exposed_provenance_mut::<u8>(base + committed * PAGE_BYTES);
        let (Some(first), Some(tags)) = (core::ptr::NonNull::new(first), core::ptr::NonNull::new(tags)) else {
            return false;
        };
        // SAFETY: both ranges lie in this arena's reservation, in whole pages because `pages` and
        // `committed` count whole segments; committing a range of tags again after a refusal of the
        // pages is harmless.
        unsafe {
            if !O::commit(tags.add(committed).cast(), pages * size_of::<TagCell>())
                || !O::commit(first, pages * PAGE_BYTES)
            {
                return false;
            }
            self.options.advise::<O>(first, pages * PAGE_BYTES);
        }
        true
    }

    /// Reserves arena number `count`, large enough for `pages`.
    fn reserve(&self, count: usize, pages: usize) -> Option<&Extent> {
        let extent = self.extents.get(count)?;
        let need =
            pages.checked_mul(PAGE_BYTES)?.checked_add(2 * SEGMENT_BYTES)?.checked_next_multiple_of(SEGMENT_BYTES)?;
        let mut bytes = wanted_bytes(self.options.arena_bytes(), count, O::address_space_limit()).max(need);
        let reserved = loop {
            let granted = O::reserve(bytes, SEGMENT_BYTES);
            if granted.is_some() || bytes <= need.max(LEAST_RESERVATION) {
                break granted?;
            }
            bytes = (bytes / 2).next_multiple_of(SEGMENT_BYTES).max(need);
        };
        let tag_bytes = (bytes / PAGE_BYTES * size_of::<TagCell>()).next_multiple_of(SEGMENT_BYTES);
        let base = reserved.as_ptr().expose_provenance() + tag_bytes;
        // Relaxed: published by the count, or, for the first arena's hot copy, by `pages`.
        extent.tags.store(reserved.as_ptr().cast(), Ordering::Relaxed);
        extent.capacity.store((bytes - tag_bytes) / PAGE_BYTES, Ordering::Relaxed);
        extent.origin.store(base.wrapping_neg(), Ordering::Relaxed);
        // Release: pairs with the Acquire in `tag`.
        self.count.store(count + 1, Ordering::Release);
        Some(extent)
    }

    /// Bytes reserved and bytes committed, in all arenas.
    pub fn reserved_and_committed(&self) -> (usize, usize) {
        // Acquire: pairs with the Release in `reserve`.
        let count = self.count.load(Ordering::Acquire).min(ARENAS);
        self.extents.iter().take(count).fold((0, 0), |(reserved, committed), extent| {
            // Relaxed: counts.
            let capacity = extent.capacity.load(Ordering::Relaxed) * PAGE_BYTES;
            (reserved + capacity, committed + extent.pages.load(Ordering::Relaxed) * PAGE_BYTES)
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
}
