//! Table: an array of metadata units that grows by chunks and never moves or shrinks.
//!
//! ```text
//! id = chunk number | unit in chunk        chunks[0] → 1 MiB    chunks[1] → 1 MiB    …
//! ```
//!
//! Ids take half the room of pointers and, unlike pointers, leave bits for a version beside them in one
//! atomic word. A chunk is mapped when the first id in it is handed out and stays for good, so that
//! reading through a stale id is harmless. Id 0 is never handed out.

use crate::os::Os;
use crate::sync::{AtomicPtr, AtomicU32, Ordering};
use core::ptr::{NonNull, null_mut};

/// Bytes of one chunk. Chosen: untouched parts cost address space only.
pub const CHUNK_BYTES: usize = if cfg!(loom) { 1 << 10 } else { 1 << 20 };
/// Most chunks of one table. Chosen: 4 GiB of metadata.
const CHUNKS: usize = if cfg!(loom) { 2 } else { 4096 };

/// A growing array of units of `UNIT_BYTES`, a power of two.
pub struct Table<const UNIT_BYTES: usize> {
    chunks: [AtomicPtr<u8>; CHUNKS],
    next: AtomicU32,
}

impl<const UNIT_BYTES: usize> Table<UNIT_BYTES> {
    const UNITS: u32 = (CHUNK_BYTES / UNIT_BYTES) as u32;

    /// An empty table.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { chunks: core::array::from_fn(|_| AtomicPtr::new(null_mut())), next: AtomicU32::new(1) }
    }

    /// An empty table.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        assert!(UNIT_BYTES.is_power_of_two() && UNIT_BYTES < CHUNK_BYTES);
        Self { chunks: [const { AtomicPtr::new(null_mut()) }; CHUNKS], next: AtomicU32::new(1) }
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

    /// Hands out `units` adjoining units, zeroed; the first one's id. `None` where memory or ids run out.
    pub fn allocate<O: Os>(&self, units: u32) -> Option<u32> {
        // Relaxed: the exchange below checks what was read.
        let mut next = self.next.load(Ordering::Relaxed);
        loop {
            let left = Self::UNITS - next % Self::UNITS;
            let first = if left < units { next + left } else { next };
            let place = self.chunks.get((first / Self::UNITS) as usize)?;
            // Relaxed: only tested for null; `unit` acquires.
            if place.load(Ordering::Relaxed).is_null() {
                Self::install::<O>(place)?;
            }
            // Release: whoever learns by `end` of these ids finds their chunk in place; the pointer that was just
            // seen can't be seen older by those who come after. Pairs with the Acquire there.
            match self.next.compare_exchange_weak(next, first + units, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Some(first),
                Err(now) => next = now,
            }
        }
    }

    #[cold]
    fn install<O: Os>(place: &AtomicPtr<u8>) -> Option<()> {
        let chunk = O::map(CHUNK_BYTES)?;
        // Release: publishes the mapping. Pairs with the Acquire in `unit`.
        if place.compare_exchange(null_mut(), chunk.as_ptr(), Ordering::Release, Ordering::Relaxed).is_err() {
            // SAFETY: another thread's chunk is in place; nobody has seen this one.
            unsafe { O::unmap(chunk, CHUNK_BYTES) };
        }
        Some(())
    }

    /// One past the highest id handed out so far. Units of those below may be read, but their users may not
    /// have written to them yet.
    pub fn end(&self) -> u32 {
        // Acquire: pairs with the Release in `allocate`.
        self.next.load(Ordering::Acquire)
    }

    /// Bytes of address space mapped for this table.
    pub fn mapped_bytes(&self) -> usize {
        // Relaxed: a count.
        self.chunks.iter().filter(|chunk| !chunk.load(Ordering::Relaxed).is_null()).count() * CHUNK_BYTES
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
    use crate::os::Linux;

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
