//! Table: a growing array of metadata units, which never move.
//!
//! ```text
//! id = chunk number | unit in chunk        chunks[0] → 512 KiB    chunks[1] → 512 KiB    …
//! group  | chunk | chunk | … | reserved, not yet committed |    16 chunks
//! ```
//!
//! A group of chunks is one reservation, committed from the front: a process may have only so many mappings. A commit
//! takes the mmap lock, which delays other threads' page faults, so each doubles what its group has. The thread that
//! takes a chunk's middle unit installs the next chunk, before many threads need it at once. If the reservation is
//! refused, or address space is limited, a chunk is a mapping of its own. So is the first one: small processes' tables
//! then lie side by side, one mapping to the kernel, which makes a fork cheaper.
//!
//! An id is half as large as a pointer, and leaves room for a version in one atomic word. Chunks stay mapped for good,
//! so reading through a stale id is harmless. Id 0 is never handed out.

use crate::platform::atomic::{AtomicPtr, AtomicU32, Ordering};
use crate::platform::os::Os;
use core::ffi::CStr;
use core::ptr::{NonNull, null_mut};
use crossbeam_utils::CachePadded;

/// Bytes of one chunk. Chosen: of a small process, whose memory may be locked, each table has one.
pub const CHUNK_BYTES: usize = if cfg!(loom) { 1 << 10 } else { 512 << 10 };
/// Most chunks of a table. Chosen: 4 GiB of metadata.
const CHUNKS: usize = match () {
    () if cfg!(loom) => 2,
    // Miri looks at all of them whenever an allocator is borrowed.
    () if cfg!(miri) => 128,
    () => 8192,
};
/// Chosen: what is reserved counts against a limit on address space that is set later.
const GROUP_CHUNKS: usize = if cfg!(loom) { 2 } else { 16 };
/// What the system calls its memory.
const NAME: &CStr = c"hz3: tables";
const GROUP_BYTES: usize = GROUP_CHUNKS * CHUNK_BYTES;

/// An array of units of `UNIT_BYTES`, a power of two. What every reader reads has cache lines of its own.
pub struct Table<const UNIT_BYTES: usize> {
    chunks: CachePadded<[AtomicPtr<u8>; CHUNKS]>,
    groups: [AtomicPtr<u8>; CHUNKS / GROUP_CHUNKS],
    /// Per reservation: every chunk below this number is committed or in place.
    committed: [AtomicU32; CHUNKS / GROUP_CHUNKS],
    next: CachePadded<AtomicU32>,
}

impl<const UNIT_BYTES: usize> Table<UNIT_BYTES> {
    const UNITS: u32 = (CHUNK_BYTES / UNIT_BYTES) as u32;

    /// An empty table.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            chunks: CachePadded::new(core::array::from_fn(|_| AtomicPtr::new(null_mut()))),
            groups: core::array::from_fn(|_| AtomicPtr::new(null_mut())),
            committed: core::array::from_fn(|_| AtomicU32::new(0)),
            next: CachePadded::new(AtomicU32::new(1)),
        }
    }

    /// An empty table.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        assert!(UNIT_BYTES.is_power_of_two() && UNIT_BYTES < CHUNK_BYTES);
        Self {
            chunks: CachePadded::new([const { AtomicPtr::new(null_mut()) }; CHUNKS]),
            groups: [const { AtomicPtr::new(null_mut()) }; CHUNKS / GROUP_CHUNKS],
            committed: [const { AtomicU32::new(0) }; CHUNKS / GROUP_CHUNKS],
            next: CachePadded::new(AtomicU32::new(1)),
        }
    }

    /// Address of unit `id`.
    ///
    /// # Safety
    /// [`Table::allocate`] of this table has handed out `id`.
    #[inline]
    pub unsafe fn unit(&self, id: u32) -> *mut u8 {
        // SAFETY: ids handed out are below CHUNKS * UNITS.
        // Acquire: sees the chunk's zeros. Pairs with the Release in `install`.
        let chunk = unsafe { self.chunks.get_unchecked((id / Self::UNITS) as usize) }.load(Ordering::Acquire);
        // SAFETY: the chunk of an id handed out is in place, and the unit lies in it.
        unsafe { chunk.add((id % Self::UNITS) as usize * UNIT_BYTES) }
    }

    /// [`Table::unit`] for any `id`: null if this thread can't see its chunk.
    pub fn peek(&self, id: u32) -> *mut u8 {
        // Acquire: sees the chunk's zeros. Pairs with the Release in `install`.
        let chunk = self.chunks.get((id / Self::UNITS) as usize).map_or(null_mut(), |at| at.load(Ordering::Acquire));
        if chunk.is_null() { chunk } else { chunk.wrapping_add((id % Self::UNITS) as usize * UNIT_BYTES) }
    }

    /// Hands out `units` adjacent zeroed units, at most a chunk's; the first one's id. `None` if memory or ids run out.
    pub fn allocate<O: Os>(&self, units: u32) -> Option<u32> {
        // Relaxed: the exchange below checks it.
        let mut next = self.next.load(Ordering::Relaxed);
        loop {
            let left = Self::UNITS - next % Self::UNITS;
            let first = if left < units { next + left } else { next };
            let chunk = (first / Self::UNITS) as usize;
            // Relaxed: only compared with null; `unit` acquires.
            if self.chunks.get(chunk)?.load(Ordering::Relaxed).is_null() {
                self.install::<O>(chunk)?;
            }
            // Release: pairs with the Acquire in `end`. Threads that see these ids there also see their chunk, because
            // this thread saw it first. Relaxed: a failure retries.
            match self.next.compare_exchange_weak(next, first + units, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    // One thread alone: all that need the next chunk would wait for each other in the kernel.
                    if (first..first + units).contains(&(chunk as u32 * Self::UNITS + Self::UNITS / 2)) {
                        self.install::<O>(chunk + 1);
                    }
                    return Some(first);
                }
                Err(now) => next = now,
            }
        }
    }

    /// Puts chunk number `index` in place. `None` if memory or chunks run out.
    #[cold]
    fn install<O: Os>(&self, index: usize) -> Option<()> {
        let place = self.chunks.get(index)?;
        let (chunk, is_mapping) = match self.commit_in_group::<O>(index) {
            Some(chunk) => (chunk, false),
            None => (O::map(CHUNK_BYTES)?, true),
        };
        if is_mapping && !cfg!(loom) {
            // Side by side, several have room for a huge page, of which they would use little.
            // SAFETY: only this thread knows the mapping.
            unsafe {
                O::prefer_huge(chunk, CHUNK_BYTES, false);
                O::name(chunk, CHUNK_BYTES, NAME);
            }
        }
        // Release: publishes the chunk. Pairs with the Acquire in `unit` and `peek`. Relaxed: a failure reads nothing.
        let installed = place.compare_exchange(null_mut(), chunk.as_ptr(), Ordering::Release, Ordering::Relaxed);
        if installed.is_err() && is_mapping {
            // SAFETY: only this thread knows the mapping. A refusal costs address space, but no memory.
            let _ = unsafe { O::unmap(chunk, CHUNK_BYTES) };
        }
        Some(())
    }

    /// Commits chunk number `index` in its group's reservation. `None` for the first chunk, and if the system refuses or
    /// limits address space.
    fn commit_in_group<O: Os>(&self, index: usize) -> Option<NonNull<u8>> {
        if index == 0 && !cfg!(loom) {
            return None;
        }
        let group = self.groups.get(index / GROUP_CHUNKS)?;
        // Acquire: pairs with the Release below.
        let start = match NonNull::new(group.load(Ordering::Acquire)) {
            Some(start) => start,
            None if O::address_space_limit() != usize::MAX => return None,
            None => {
                let fresh = O::reserve(GROUP_BYTES)?;
                // SAFETY: only this thread knows the reservation.
                unsafe { O::name(fresh, GROUP_BYTES, NAME) };
                // Release: publishes the reservation. Acquire: sees another thread's.
                match group.compare_exchange(null_mut(), fresh.as_ptr(), Ordering::Release, Ordering::Acquire) {
                    Ok(_) => fresh,
                    Err(other) => {
                        // SAFETY: only this thread knows the reservation. A refusal costs address space only.
                        let _ = unsafe { O::unmap(fresh, GROUP_BYTES) };
                        NonNull::new(other)?
                    }
                }
            }
        };
        let (committed, at) = (self.committed.get(index / GROUP_CHUNKS)?, index % GROUP_CHUNKS);
        // SAFETY: the chunk lies in the reservation.
        let chunk = unsafe { start.add(at * CHUNK_BYTES) };
        // Relaxed, here and below: tells of mappings, which all threads share, and publishes no memory.
        if at < committed.load(Ordering::Relaxed) as usize {
            return Some(chunk);
        }
        let generous = at.clamp(1, GROUP_CHUNKS - at);
        for chunks in [generous, 1] {
            // SAFETY: the chunks lie in the reservation. Several threads may commit one chunk, whose contents stay.
            if unsafe { O::commit(chunk, chunks * CHUNK_BYTES) } {
                committed.fetch_max((at + chunks) as u32, Ordering::Relaxed);
                return Some(chunk);
            }
        }
        None
    }

    /// One past the highest id handed out. Lower ids can be read, but may not have been written yet.
    pub fn end(&self) -> u32 {
        // Acquire: sees the chunks of lower ids. Pairs with the Release in `allocate`.
        self.next.load(Ordering::Acquire)
    }

    /// Bytes of address space that the table has committed or mapped.
    pub fn mapped_bytes(&self) -> usize {
        // Relaxed: a count. A chunk is in place at most two ahead of the next id's: one that the id before did not fit
        // into, and the one after it.
        let groups = (self.next.load(Ordering::Relaxed) / Self::UNITS) as usize / GROUP_CHUNKS + 2;
        let in_groups =
            self.chunks.chunks(GROUP_CHUNKS).zip(&self.committed).take(groups).map(|(chunks, committed)| {
                // Relaxed, both: counts. A committed chunk may not be in place yet.
                let in_place = chunks.iter().filter(|chunk| !chunk.load(Ordering::Relaxed).is_null()).count();
                in_place.max(committed.load(Ordering::Relaxed) as usize)
            });
        in_groups.sum::<usize>() * CHUNK_BYTES
    }
}

impl<const UNIT_BYTES: usize> Default for Table<UNIT_BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

/// A unit as a `T`; never null.
///
/// # Safety
/// As for [`Table::unit`], and a `T` fits into the units and their alignment.
#[inline]
pub unsafe fn typed<T, const UNIT_BYTES: usize>(table: &Table<UNIT_BYTES>, id: u32) -> NonNull<T> {
    // SAFETY: the caller keeps the contract of `unit`; chunks of ids handed out are not null.
    unsafe { NonNull::new_unchecked(table.unit(id).cast()) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::platform::linux::Linux;

    const TABLE_UNITS: usize = GROUP_BYTES / 1024;
    const UNITS: u32 = (CHUNK_BYTES / 1024) as u32;

    #[test]
    fn the_chunks_of_a_group_adjoin() {
        static TABLE: Table<1024> = Table::new();
        // All but the first one, a mapping of its own.
        let mut starts = (1..GROUP_CHUNKS as u32).map(|chunk| {
            let id = std::iter::repeat_with(|| TABLE.allocate::<Linux>(UNITS - 1).expect("memory"))
                .find(|id| id / UNITS == chunk)
                .expect("endless");
            // SAFETY: just handed out.
            unsafe { TABLE.unit(id) }.addr() - (id % UNITS) as usize * 1024
        });
        let first = starts.next().expect("several");
        for (number, start) in starts.enumerate() {
            assert_eq!(start - first, (number + 1) * CHUNK_BYTES);
        }
        // The next group's first chunk was installed when this group's last one was half full.
        assert_eq!(TABLE.mapped_bytes(), GROUP_BYTES + CHUNK_BYTES);
    }

    #[test]
    fn chunks_are_made_usable_in_steps_that_double() {
        static TABLE: Table<1024> = Table::new();
        let mut steps = std::vec::Vec::new();
        for _ in 0..=TABLE_UNITS {
            TABLE.allocate::<Linux>(1).expect("memory");
            if steps.last() != Some(&TABLE.mapped_bytes()) {
                steps.push(TABLE.mapped_bytes());
            }
        }
        let chunks = [1, 2, 4, 8, 16, 17];
        assert_eq!(steps, chunks.map(|chunks| chunks * CHUNK_BYTES));
        // Committed chunks that are not in place yet can be written to.
        let id = TABLE.allocate::<Linux>(UNITS).expect("memory");
        // SAFETY: just handed out, a chunk's units of 1,024 bytes.
        unsafe { core::slice::from_raw_parts_mut(TABLE.unit(id), CHUNK_BYTES) }.fill(1);
    }

    #[test]
    fn ids_that_were_not_handed_out_yet_are_null_to_look_at() {
        static TABLE: Table<1024> = Table::new();
        assert!(TABLE.peek(1).is_null() && TABLE.peek(u32::MAX).is_null());
        let id = TABLE.allocate::<Linux>(1).expect("memory");
        // SAFETY: just handed out.
        assert_eq!(TABLE.peek(id), unsafe { TABLE.unit(id) });
        assert!(TABLE.peek(id + UNITS).is_null());
    }

    #[test]
    fn units_are_distinct_zeroed_and_never_cross_a_chunk() {
        static TABLE: Table<1024> = Table::new();
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..2000_u32 {
            let units = round % 5 + 1;
            let first = TABLE.allocate::<Linux>(units).expect("memory");
            assert_eq!(first / UNITS, (first + units - 1) / UNITS);
            for id in first..first + units {
                assert!(id != 0 && seen.insert(id));
                // SAFETY: just handed out, 1,024 bytes.
                let unit = unsafe { core::slice::from_raw_parts_mut(TABLE.unit(id), 1024) };
                assert!(unit.iter().all(|&byte| byte == 0));
                unit.fill(0xff);
            }
        }
    }
}
