//! Table: an array of metadata units that grows by chunks and never moves or shrinks.
//!
//! ```text
//! id = chunk number | unit in chunk        chunks[0] → 1 MiB    chunks[1] → 1 MiB    …
//! group  | chunk | chunk | … | reserved, not yet made usable |    64 chunks
//! ```
//!
//! A group of chunks is one reservation, made usable from the front, so that a further chunk needs no further
//! entry in the kernel's list of mappings, of which a process may have only so many. As many chunks are made
//! usable at a time as there are already, because each change of a mapping's rights holds up all threads that
//! fault in a page at that moment; and the thread that half empties a chunk sees to the next, before many threads
//! need it at once. Where the reservation is refused, or would take up too much of a limited address space, a
//! chunk is a mapping of its own.
//!
//! Ids take half the room of pointers and, unlike pointers, leave bits for a version beside them in one
//! atomic word. A chunk is mapped before an id in it is handed out and stays for good, so that reading
//! through a stale id is harmless. Id 0 is never handed out.

use crate::platform::atomic::{AtomicPtr, AtomicU32, Ordering};
use crate::platform::os::Os;
use crate::platform::units::PAGE_BYTES;
use core::ptr::{NonNull, null_mut};

/// Bytes of one chunk. Chosen: untouched parts cost address space only.
pub const CHUNK_BYTES: usize = if cfg!(loom) { 1 << 10 } else { 1 << 20 };
/// Most chunks of one table. Chosen: 4 GiB of metadata.
const CHUNKS: usize = match () {
    () if cfg!(loom) => 2,
    // Miri looks at all of them whenever an allocator is borrowed.
    () if cfg!(miri) => 128,
    () => 4096,
};
/// Chunks of one group.
const GROUP_CHUNKS: usize = if cfg!(loom) { 2 } else { 64 };
const GROUP_BYTES: usize = GROUP_CHUNKS * CHUNK_BYTES;

/// A growing array of units of `UNIT_BYTES`, a power of two.
pub struct Table<const UNIT_BYTES: usize> {
    chunks: [AtomicPtr<u8>; CHUNKS],
    /// Reservations; null where there is none.
    groups: [AtomicPtr<u8>; CHUNKS / GROUP_CHUNKS],
    /// Of each reservation, up to which chunk all that are not in place yet can be used as they are.
    usable: [AtomicU32; CHUNKS / GROUP_CHUNKS],
    next: AtomicU32,
}

impl<const UNIT_BYTES: usize> Table<UNIT_BYTES> {
    const UNITS: u32 = (CHUNK_BYTES / UNIT_BYTES) as u32;

    /// An empty table.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            chunks: core::array::from_fn(|_| AtomicPtr::new(null_mut())),
            groups: core::array::from_fn(|_| AtomicPtr::new(null_mut())),
            usable: core::array::from_fn(|_| AtomicU32::new(0)),
            next: AtomicU32::new(1),
        }
    }

    /// An empty table.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        assert!(UNIT_BYTES.is_power_of_two() && UNIT_BYTES < CHUNK_BYTES);
        Self {
            chunks: [const { AtomicPtr::new(null_mut()) }; CHUNKS],
            groups: [const { AtomicPtr::new(null_mut()) }; CHUNKS / GROUP_CHUNKS],
            usable: [const { AtomicU32::new(0) }; CHUNKS / GROUP_CHUNKS],
            next: AtomicU32::new(1),
        }
    }

    /// Address of unit `id`.
    ///
    /// # Safety
    /// `id` is, or was once, part of a result of [`Table::allocate`] of this table.
    #[inline]
    pub unsafe fn unit(&self, id: u32) -> *mut u8 {
        // SAFETY: ids handed out lie below CHUNKS * UNITS. Acquire: pairs with the Release that put the
        // chunk there, so that its zeros are seen.
        let chunk = unsafe { self.chunks.get_unchecked((id / Self::UNITS) as usize) }.load(Ordering::Acquire);
        // SAFETY: the unit lies inside the chunk.
        unsafe { chunk.add((id % Self::UNITS) as usize * UNIT_BYTES) }
    }

    /// As [`Table::unit`], for ids that were counted rather than handed over: null where the chunk is not
    /// known to this thread yet.
    pub fn peek(&self, id: u32) -> *mut u8 {
        // Acquire: as in `unit`.
        let chunk = self.chunks.get((id / Self::UNITS) as usize).map_or(null_mut(), |at| at.load(Ordering::Acquire));
        if chunk.is_null() { chunk } else { chunk.wrapping_add((id % Self::UNITS) as usize * UNIT_BYTES) }
    }

    /// Hands out `units` adjoining units, zeroed; the first one's id. `None` where memory or ids run out.
    pub fn allocate<O: Os>(&self, units: u32) -> Option<u32> {
        // Relaxed: the exchange below checks what was read.
        let mut next = self.next.load(Ordering::Relaxed);
        loop {
            let left = Self::UNITS - next % Self::UNITS;
            let first = if left < units { next + left } else { next };
            let chunk = (first / Self::UNITS) as usize;
            // Relaxed: only tested for null; `unit` acquires.
            if self.chunks.get(chunk)?.load(Ordering::Relaxed).is_null() {
                self.install::<O>(chunk)?;
            }
            // Release: whoever learns by `end` of these ids finds their chunk in place; the pointer that was just
            // seen can't be seen older by those who come after. Pairs with the Acquire there.
            match self.next.compare_exchange_weak(next, first + units, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    // The one thread that takes a chunk's middle unit sees to the next one: were that left to those
                    // who need it, all of them would ask for it at once, and wait for each other in the kernel.
                    if (first..first + units).contains(&(chunk as u32 * Self::UNITS + Self::UNITS / 2)) {
                        self.install::<O>(chunk + 1);
                    }
                    return Some(first);
                }
                Err(now) => next = now,
            }
        }
    }

    /// Puts chunk number `index` in its place. `None` where memory or chunks run out.
    #[cold]
    fn install<O: Os>(&self, index: usize) -> Option<()> {
        let place = self.chunks.get(index)?;
        let (chunk, is_mapping) = match self.commit_in_group::<O>(index) {
            Some(chunk) => (chunk, false),
            None => (O::map(CHUNK_BYTES)?, true),
        };
        // Release: publishes the memory. Pairs with the Acquire in `unit`.
        let installed = place.compare_exchange(null_mut(), chunk.as_ptr(), Ordering::Release, Ordering::Relaxed);
        if installed.is_err() && is_mapping {
            // SAFETY: another thread's chunk is in place; nobody has seen this one. A refusal leaves address space
            // behind, and no memory, because nobody has written to it.
            let _ = unsafe { O::unmap(chunk, CHUNK_BYTES) };
        }
        Some(())
    }

    /// Makes chunk number `index` usable in its group's reservation.
    fn commit_in_group<O: Os>(&self, index: usize) -> Option<NonNull<u8>> {
        let group = self.groups.get(index / GROUP_CHUNKS)?;
        // Acquire: pairs with the Release below.
        let start = match NonNull::new(group.load(Ordering::Acquire)) {
            Some(start) => start,
            None if O::address_space_limit() != usize::MAX => return None,
            None => {
                let fresh = O::reserve(GROUP_BYTES, PAGE_BYTES)?;
                // Release: publishes the reservation. Acquire: sees the other thread's.
                match group.compare_exchange(null_mut(), fresh.as_ptr(), Ordering::Release, Ordering::Acquire) {
                    Ok(_) => fresh,
                    Err(other) => {
                        // SAFETY: another thread's reservation is in place; nobody has seen this one. A refusal: as in
                        // `install`.
                        let _ = unsafe { O::unmap(fresh, GROUP_BYTES) };
                        NonNull::new(other)?
                    }
                }
            }
        };
        let (usable, at) = (self.usable.get(index / GROUP_CHUNKS)?, index % GROUP_CHUNKS);
        // SAFETY: the chunk lies in the reservation.
        let chunk = unsafe { start.add(at * CHUNK_BYTES) };
        // Relaxed, here and below: the count speaks of the kernel's state, not of memory; whoever reads it finds
        // the chunks usable.
        if at < usable.load(Ordering::Relaxed) as usize {
            return Some(chunk);
        }
        let generous = at.clamp(1, GROUP_CHUNKS - at);
        for chunks in [generous, 1] {
            // SAFETY: the chunks lie in the reservation. Threads that come here for the same chunk at the same
            // time all make it usable, which leaves its contents alone.
            if unsafe { O::commit(chunk, chunks * CHUNK_BYTES) } {
                usable.fetch_max((at + chunks) as u32, Ordering::Relaxed);
                return Some(chunk);
            }
        }
        None
    }

    /// One past the highest id handed out so far. Units of those below may be read, but their users may not
    /// have written to them yet.
    pub fn end(&self) -> u32 {
        // Acquire: pairs with the Release in `allocate`.
        self.next.load(Ordering::Acquire)
    }

    /// Bytes of address space that this table can use.
    pub fn mapped_bytes(&self) -> usize {
        let in_groups = self.chunks.chunks(GROUP_CHUNKS).zip(&self.usable).map(|(chunks, usable)| {
            // Relaxed, both: counts. A chunk that is not in place yet may be usable.
            let in_place = chunks.iter().filter(|chunk| !chunk.load(Ordering::Relaxed).is_null()).count();
            in_place.max(usable.load(Ordering::Relaxed) as usize)
        });
        in_groups.sum::<usize>() * CHUNK_BYTES
    }
}

impl<const UNIT_BYTES: usize> Default for Table<UNIT_BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

/// A typed, never-null view of a unit.
///
/// # Safety
/// As for [`Table::unit`], and `id` starts a unit that holds a `T`.
#[inline]
pub unsafe fn typed<T, const UNIT_BYTES: usize>(table: &Table<UNIT_BYTES>, id: u32) -> NonNull<T> {
    // SAFETY: the caller's promise; chunks are never null once ids in them exist.
    unsafe { NonNull::new_unchecked(table.unit(id).cast()) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::platform::linux::Linux;

    /// Units of 1,024 bytes in one group.
    const TABLE_UNITS: usize = GROUP_BYTES / 1024;

    #[test]
    fn the_chunks_of_a_group_adjoin() {
        static TABLE: Table<1024> = Table::new();
        let first = TABLE.allocate::<Linux>(1).expect("memory");
        // SAFETY: just handed out; so is every id below.
        let start = unsafe { TABLE.unit(first) }.addr();
        for chunk in 1..GROUP_CHUNKS as u32 {
            let id = std::iter::repeat_with(|| TABLE.allocate::<Linux>(1023).expect("memory"))
                .find(|id| id / 1024 == chunk)
                .expect("endless");
            // SAFETY: as above.
            assert_eq!(unsafe { TABLE.unit(id) }.addr() - start, (id - first) as usize * 1024);
        }
        // The next group's first chunk was seen to when the last one of this was half full.
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
        let chunks = [1, 2, 4, 8, 16, 32, 64, 65];
        assert_eq!(steps, chunks.map(|chunks| chunks * CHUNK_BYTES));
        // What is usable and not in place yet can be written to.
        let id = TABLE.allocate::<Linux>(1024).expect("memory");
        // SAFETY: just handed out, 1,024 units of 1,024 bytes.
        unsafe { core::slice::from_raw_parts_mut(TABLE.unit(id), CHUNK_BYTES) }.fill(1);
    }

    #[test]
    fn ids_that_were_not_handed_out_yet_are_null_to_look_at() {
        static TABLE: Table<1024> = Table::new();
        assert!(TABLE.peek(1).is_null() && TABLE.peek(u32::MAX).is_null());
        let id = TABLE.allocate::<Linux>(1).expect("memory");
        // SAFETY: just handed out.
        assert_eq!(TABLE.peek(id), unsafe { TABLE.unit(id) });
        assert!(TABLE.peek(id + 1024).is_null());
    }

    #[test]
    fn units_are_distinct_zeroed_and_never_cross_a_chunk() {
        static TABLE: Table<1024> = Table::new();
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..2000_u32 {
            let units = round % 5 + 1;
            let first = TABLE.allocate::<Linux>(units).expect("memory");
            assert_eq!(first / 1024, (first + units - 1) / 1024);
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
