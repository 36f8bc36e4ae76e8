//! Places: where a window may lie, and how pages and their tags are mapped in it.
//!
//! ```text
//! | tags, from the front → | … | pages, from the front → | …                  … not mapped, anybody's
//! tags                         base
//! ```
//!
//! The first window lies [out of the way](Os::OUT_OF_THE_WAY), at random. Others, or where that is refused, lie where the
//! system has so much room: the upper half is taken, as the system itself goes on at one end. Where no such room is to be
//! had, or nothing can be mapped at an address, a window is one mapping, and never grows.

use crate::platform::os::{NotMapped, Os};
use crate::platform::system_page;
use crate::platform::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_PAGES};
use core::ffi::CStr;
use core::ptr::{NonNull, with_exposed_provenance_mut};

const ARENA_NAME: &CStr = c"hz3: arena";
/// Longest request in bytes for which all new tags get their memory at once. A longer one is a block, which needs those of
/// its first and last page; more like it may follow.
const MOST_POPULATED_BYTES: usize = 4 << 20;
/// How far a window goes round what is in the way. Chosen: tags of 2 MiB, which are mapped for what lies between, too.
const MOST_SKIPPED_PAGES: usize = (1 << 30) / PAGE_BYTES;
/// Places from which chance picks one out of the way, a segment apart. Chosen: 128 GiB, which leaves room for 200.
const RANDOM_PLACES: u64 = 1 << 16;
/// Bytes of a page tag.
pub const TAG_BYTES: usize = 8;
/// Bytes of tags mapped at a time. Chosen: those of 128 MiB; each call takes the mmap lock.
const TAG_STEP_BYTES: usize = 256 << 10;

/// Bytes of the tags of `pages` pages, in whole segments.
const fn tag_room(pages: usize) -> usize {
    (pages * TAG_BYTES).next_multiple_of(SEGMENT_BYTES)
}

/// Bytes of tags that are mapped if those of `pages` pages are.
pub const fn mapped_tags(pages: usize) -> usize {
    (pages * TAG_BYTES).next_multiple_of(TAG_STEP_BYTES)
}

/// How far a window reaches, in pages.
#[derive(Clone, Copy)]
pub struct Edge {
    /// Behind the last mapped page.
    pub end: usize,
    /// Pages that have tags.
    pub bound: usize,
}

/// The pages of a window that a growth has mapped, with their tags.
#[derive(Clone, Copy)]
pub struct Mapped {
    /// The first one's number in the window.
    pub first: usize,
    /// Behind the last one.
    pub end: usize,
}

/// Where a window and its tags lie.
#[derive(Clone, Copy)]
pub struct Place {
    /// Address of the first page.
    pub base: usize,
    /// Address of the tags.
    pub tags: usize,
    /// Most pages, in whole segments.
    pub capacity: usize,
}

impl Place {
    /// One of the places out of the way, as `random` picks it, for at most `capacity` pages. `None` if there are none.
    pub fn out_of_the_way<O: Os>(capacity: usize, random: u64) -> Option<Self> {
        let all = O::OUT_OF_THE_WAY?;
        let room = tag_room((all.end - all.start) / PAGE_BYTES);
        let base = all.start + room + (random % RANDOM_PLACES) as usize * SEGMENT_BYTES;
        let capacity = capacity.min((all.end - base) / PAGE_BYTES);
        Some(Self { base, tags: base - tag_room(capacity), capacity })
    }

    /// A place where the system has room for `capacity` pages, or a half, a quarter…, `least` pages at least. `is_free` says
    /// of an address and a number of bytes whether no window reaches there. `None` if the system refuses.
    pub fn of_the_system<O: Os>(
        mut capacity: usize,
        least: usize,
        is_free: &impl Fn(usize, usize) -> bool,
    ) -> Option<Self> {
        let bytes_for = |pages: usize| 2 * (pages * PAGE_BYTES + tag_room(pages) + SEGMENT_BYTES);
        let mut is_least_granted = false;
        loop {
            let bytes = bytes_for(capacity);
            if let Some(start) = room_of::<O>(bytes, is_free, 4) {
                let tags = (start + bytes / 2).next_multiple_of(SEGMENT_BYTES);
                return Some(Self { base: tags + tag_room(capacity), tags, capacity });
            }
            if capacity <= least {
                return None;
            }
            if !is_least_granted {
                // Two calls where nothing is to be had, instead of one for each size between.
                room_of::<O>(bytes_for(least), is_free, 0)?;
                is_least_granted = true;
            }
            capacity = (capacity / 2).next_multiple_of(SEGMENT_PAGES as usize).max(least);
        }
    }

    /// A mapping of `pages` pages and their tags: all of a window. `None` if the system refuses.
    pub fn whole<O: Os>(pages: usize) -> Option<Self> {
        let tag_bytes = (pages * TAG_BYTES).next_multiple_of(system_page::bytes());
        let bytes = pages.checked_mul(PAGE_BYTES)?.checked_add(tag_bytes + SEGMENT_BYTES)?;
        let start = O::map(bytes)?;
        // SAFETY: just mapped.
        unsafe { O::name(start, bytes, ARENA_NAME) };
        let tags = start.as_ptr().expose_provenance();
        Some(Self { base: (tags + tag_bytes).next_multiple_of(SEGMENT_BYTES), tags, capacity: pages })
    }

    /// Unmaps what [`Place::whole`] has mapped.
    ///
    /// # Safety
    /// It is the caller's, and nothing uses it.
    pub unsafe fn unmap_whole<O: Os>(self) {
        let tag_bytes = (self.capacity * TAG_BYTES).next_multiple_of(system_page::bytes());
        // SAFETY: the caller's own promise.
        unsafe { unmap::<O>(self.tags, self.capacity * PAGE_BYTES + tag_bytes + SEGMENT_BYTES) };
    }

    /// Unmaps what [`Place::map`] has mapped at `edge`.
    ///
    /// # Safety
    /// It is the caller's, and nothing uses it.
    pub unsafe fn unmap<O: Os>(self, edge: Edge, mapped: Mapped) {
        // SAFETY: the caller's own promise.
        unsafe {
            unmap::<O>(self.base + mapped.first * PAGE_BYTES, (mapped.end - mapped.first) * PAGE_BYTES);
            let (from, to) = (mapped_tags(edge.bound), mapped_tags(mapped.end));
            if to > from {
                unmap::<O>(self.tags + from, to - from);
            }
        }
    }

    /// Maps `step` pages, or if that is refused `need`, whole segments, at `edge`, the end of a window, or, if it
    /// `may_skip`, behind what is in the way there. Maps the tags up to their end.
    ///
    /// # Errors
    /// Why not; then nothing is mapped.
    pub fn map<O: Os>(self, edge: Edge, step: usize, need: usize, may_skip: bool) -> Result<Mapped, NotMapped> {
        let (mut wanted, mut skipped) = (step.max(need), 0);
        loop {
            let first = edge.end + skipped;
            if first.checked_add(need).is_none_or(|end| end > self.capacity) {
                return Err(NotMapped::Taken);
            }
            let pages = wanted.min(self.capacity - first);
            let follows = edge.end > 0 && skipped == 0;
            let refusal = match O::map_at(self.base + first * PAGE_BYTES, pages * PAGE_BYTES, follows) {
                Ok(start) => match self.map_tags::<O>(edge, first, first + pages, need) {
                    Ok(()) => {
                        // SAFETY: just mapped.
                        unsafe { O::name(start, pages * PAGE_BYTES, ARENA_NAME) };
                        return Ok(Mapped { first, end: first + pages });
                    }
                    Err(refusal) => {
                        // SAFETY: just mapped, and nothing uses it.
                        unsafe { unmap::<O>(start.as_ptr().addr(), pages * PAGE_BYTES) };
                        if refusal == NotMapped::Taken {
                            return Err(refusal);
                        }
                        refusal
                    }
                },
                Err(refusal) => refusal,
            };
            match refusal {
                NotMapped::Refused if pages > need => wanted = need,
                NotMapped::Taken if may_skip && skipped < MOST_SKIPPED_PAGES => {
                    skipped = (2 * skipped).max(SEGMENT_PAGES as usize);
                }
                refusal => return Err(refusal),
            }
        }
    }

    /// Maps the tags from the window's bound to `end`, and gets memory for those from `first` on, if a request of `need`
    /// pages may use many: tags are first written under the run lock, where a page fault would hold up all threads.
    fn map_tags<O: Os>(self, edge: Edge, first: usize, end: usize, need: usize) -> Result<(), NotMapped> {
        if end <= edge.bound {
            return Ok(());
        }
        let (from, to) = (mapped_tags(edge.bound), mapped_tags(end));
        if to > from {
            let tags = O::map_at(self.tags + from, to - from, edge.bound > 0)?;
            // SAFETY: just mapped.
            unsafe { O::name(tags, to - from, c"hz3: tags") };
        }
        let fresh = first.max(edge.bound);
        let is_block = need * PAGE_BYTES > MOST_POPULATED_BYTES;
        // A segment's tags are 4 KiB: others' lie in the same page of the system.
        let start = system_page::start_of(self.tags + fresh * TAG_BYTES);
        let bytes = (self.tags + end * TAG_BYTES - start).next_multiple_of(system_page::bytes());
        if let Some(start) = NonNull::new(with_exposed_provenance_mut(start)).filter(|_| !is_block) {
            // SAFETY: mapped, here or before, in whole pages.
            unsafe { O::populate(start, bytes) };
        }
        Ok(())
    }
}

/// Unmaps memory. A second refusal costs address space.
///
/// # Safety
/// It is the caller's, in whole pages, and nothing uses it.
unsafe fn unmap<O: Os>(start: usize, bytes: usize) {
    if let Some(start) = NonNull::new(with_exposed_provenance_mut(start)) {
        // SAFETY: the caller's own promise.
        let _ = unsafe { O::unmap(start, bytes) || O::unmap(start, bytes) };
    }
}

/// Where the system has room for `bytes` in which no window lies. Tries again up to `tries` times, and keeps what it got
/// meanwhile. `None` if it refuses.
fn room_of<O: Os>(bytes: usize, is_free: &impl Fn(usize, usize) -> bool, tries: usize) -> Option<usize> {
    let room = O::reserve(bytes)?;
    let start = room.as_ptr().expose_provenance();
    let found = match is_free(start, bytes) {
        true => Some(start),
        false if tries > 0 => room_of::<O>(bytes, is_free, tries - 1),
        false => None,
    };
    // SAFETY: this call's reservation, which nothing uses.
    unsafe { unmap::<O>(start, bytes) };
    found
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use crate::platform::linux::Linux;

    const PAGES: usize = SEGMENT_PAGES as usize;

    const NONE: Edge = Edge { end: 0, bound: 0 };

    fn edge(end: usize) -> Edge {
        Edge { end, bound: end }
    }

    /// Maps something in the way, from page `first` of `place` on.
    fn block(place: Place, first: usize, pages: usize) {
        Linux::map_at(place.base + first * PAGE_BYTES, pages * PAGE_BYTES, false).expect("free addresses");
    }

    fn somewhere() -> Place {
        Place::of_the_system::<Linux>(64 * PAGES, 64 * PAGES, &|_, _| true).expect("room")
    }

    #[test]
    fn places_out_of_the_way_are_within_them_and_have_room_for_200_gib() {
        let Some(all) = Linux::OUT_OF_THE_WAY else { return };
        for random in [0, 1, RANDOM_PLACES - 1, RANDOM_PLACES, u64::MAX] {
            for gib in [1, 4, 200, 100_000] {
                let place = Place::out_of_the_way::<Linux>(gib << 18, random).expect("a place");
                assert!(place.capacity >= (gib << 18).min(200 << 18));
                assert!(all.start <= place.tags && place.base + place.capacity * PAGE_BYTES <= all.end);
                assert!(place.tags + place.capacity * TAG_BYTES <= place.base);
                assert_eq!(place.base % SEGMENT_BYTES, 0);
            }
        }
    }

    #[test]
    fn what_is_in_the_way_stays_and_is_gone_round() {
        let place = somewhere();
        block(place, 3 * PAGES, PAGES);
        let first = place.map::<Linux>(NONE, 2 * PAGES, PAGES, true).expect("free");
        assert_eq!((first.first, first.end), (0, 2 * PAGES));
        let here = edge(2 * PAGES);
        assert!(place.map::<Linux>(here, 2 * PAGES, PAGES, false).is_err_and(|error| error == NotMapped::Taken));
        let next = place.map::<Linux>(here, 2 * PAGES, PAGES, true).expect("free further on");
        assert_eq!((next.first, next.end), (4 * PAGES, 6 * PAGES));
        // The tags of what lies between are there.
        for page in 0..next.end {
            // SAFETY: below the end of what is mapped.
            let tag = unsafe { *with_exposed_provenance_mut::<u64>(place.tags + page * TAG_BYTES) };
            assert_eq!(tag, 0);
        }
    }

    #[test]
    fn tags_that_have_no_room_leave_no_pages_behind() {
        let place = somewhere();
        let taken = Linux::map_at(place.tags, PAGE_BYTES, false).expect("free addresses");
        assert!(place.map::<Linux>(NONE, PAGES, PAGES, true).is_err_and(|error| error == NotMapped::Taken));
        // SAFETY: this test's own.
        assert!(unsafe { Linux::unmap(taken, PAGE_BYTES) });
        assert_eq!(place.map::<Linux>(NONE, PAGES, PAGES, false).map(|mapped| mapped.first), Ok(0));
    }

    #[test]
    fn a_window_that_is_full_is_as_one_that_is_taken() {
        let place = somewhere();
        let nearly = edge(place.capacity - PAGES);
        assert!(place.map::<Linux>(nearly, PAGES, 2 * PAGES, true).is_err_and(|error| error == NotMapped::Taken));
        let last = place.map::<Linux>(nearly, 9 * PAGES, PAGES, true).expect("a segment");
        assert_eq!(last.end, place.capacity);
    }

    #[test]
    fn the_system_is_asked_again_where_a_window_lies() {
        let refused = core::cell::Cell::new(0);
        let is_free = |start, bytes| {
            let first = refused.get() == 0;
            if first {
                refused.set(start + bytes);
            }
            !first
        };
        let place = Place::of_the_system::<Linux>(PAGES, PAGES, &is_free).expect("room");
        let end = place.base + place.capacity * PAGE_BYTES;
        assert!(end <= refused.get() - SEGMENT_BYTES || place.tags >= refused.get());
        assert!(Place::of_the_system::<Linux>(PAGES, PAGES, &|_, _| false).is_none());
    }
}
