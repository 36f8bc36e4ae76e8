//! A bounded array of free slots of one bin, and the unit in which slots change hands.
//!
//! ```text
//! | next, id, count, capacity, class, origin | slot | slot | … |   header 16 bytes, then pointers
//! ```
//!
//! Magazines have 64, 128, 256 or 512 bytes, so that one for large slots is small. A loaded magazine's count is in its
//! heap's entry, any other's in `count`. A magazine belongs to the thread that took it, or to the stack it is in.

use crate::pages::shape::{HEADER_BYTES, MAX_SLOTS, UNIT_BYTES};
use crate::pages::slot::{Batch, Slot};
use crate::platform::atomic::AtomicU32;
use crate::platform::os::Os;
use crate::platform::prefetch;
use crate::platform::table::{Table, typed};
use crate::platform::units::ShardId;
use crate::transfer::depot::{ID_BITS, Links};

const _: () = assert!(size_of::<Magazine>() == HEADER_BYTES);

/// A magazine's header; its slots follow it.
#[repr(C)]
pub struct Magazine {
    next: AtomicU32,
    /// The magazine's own id. Sync: fixed.
    pub id: u32,
    /// Slots in it, unless it is loaded. Sync: its owner.
    pub count: u16,
    /// Most slots. Sync: its owner.
    pub capacity: u16,
    /// Class of capacity: 64 · 2^class bytes. Sync: fixed.
    pub class: u8,
    /// Shard that it was taken from, and to which it returns when empty. Sync: its owner.
    pub origin: ShardId,
}

/// A magazine enters a depot if at least this fraction of it is full: an eighth.
const WORTHWHILE: u16 = 8;

impl Magazine {
    /// Whether it has enough slots for a place in a depot. A refill takes a whole magazine, and a few slots serve
    /// better from their spans.
    pub fn is_worthwhile(&self) -> bool {
        self.count >= self.capacity.div_ceil(WORTHWHILE)
    }

    /// Address of the first slot.
    ///
    /// # Safety
    /// `this` is a magazine.
    #[inline]
    pub unsafe fn slots(this: *mut Magazine) -> *mut Slot {
        // SAFETY: `this` is a magazine, whose slots follow the header in the same allocation.
        unsafe { this.add(1).cast() }
    }

    /// Prefetches all cache lines but the first, for writing.
    ///
    /// # Safety
    /// The caller owns the magazine.
    #[inline]
    pub unsafe fn prefetch(this: *mut Magazine) {
        // SAFETY: `this` is a magazine; `class` is fixed.
        let units = 1_usize << unsafe { (*this).class };
        for unit in 1..units {
            prefetch::to_write(this.cast::<u8>().wrapping_add(unit * UNIT_BYTES));
        }
    }

    /// The magazine whose slots begin at `base`.
    ///
    /// # Safety
    /// `base` is a result of [`Magazine::slots`].
    #[inline]
    pub unsafe fn of_slots(base: *mut Slot) -> *mut Magazine {
        // SAFETY: the slots at `base` follow a header in the same allocation.
        unsafe { base.cast::<Magazine>().sub(1) }
    }

    /// The first slot and the number of slots of a magazine that is not loaded. The caller need not own it: the number
    /// is exact while its owner does not change it, and never above [`MAX_SLOTS`].
    ///
    /// # Safety
    /// `this` is a magazine.
    pub unsafe fn peek(this: *const Magazine) -> (*const *mut u8, usize) {
        // SAFETY: a magazine is never unmapped. Volatile: the owner may be writing the count, by one plain store of an
        // aligned word.
        let count = unsafe { (&raw const (*this).count).read_volatile() };
        // SAFETY: the slots follow the header in the same allocation.
        (unsafe { this.add(1).cast() }, usize::from(count).min(MAX_SLOTS))
    }

    /// Takes all slots out of a magazine that is not loaded.
    ///
    /// # Safety
    /// The caller owns the magazine; nothing else refers to its slots while the batch lives.
    #[inline]
    pub unsafe fn drain<'a>(this: *mut Magazine) -> Batch<'a> {
        // SAFETY: the caller owns the magazine; its first `count` places hold slots, which now count in the batch
        // alone.
        unsafe {
            let count = usize::from(core::mem::replace(&mut (*this).count, 0));
            Batch::of(core::slice::from_raw_parts_mut(Self::slots(this).cast(), count), count)
        }
    }

    /// The slots in a magazine that is not loaded.
    ///
    /// # Safety
    /// The caller owns the magazine; nothing else refers to its slots while the result lives.
    #[inline]
    pub unsafe fn contents<'a>(this: *mut Magazine) -> &'a mut [Slot] {
        // SAFETY: the caller owns the magazine; its first `count` places hold slots.
        unsafe { core::slice::from_raw_parts_mut(Self::slots(this), usize::from((*this).count)) }
    }
}

/// All magazines, by id.
pub struct Magazines {
    table: Table<UNIT_BYTES>,
}

impl Magazines {
    /// No magazines.
    pub const fn new() -> Self {
        Self { table: Table::new() }
    }

    /// The magazine `id`.
    ///
    /// # Safety
    /// `id` is a magazine's id.
    #[inline]
    pub unsafe fn get(&self, id: u32) -> *mut Magazine {
        // SAFETY: `id` is a magazine's, so its unit holds a header.
        unsafe { typed::<Magazine, UNIT_BYTES>(&self.table, id) }.as_ptr()
    }

    /// Creates an empty magazine of `class`, with a capacity of 0, which the caller owns. `None` when memory or ids
    /// have run out.
    #[cold]
    pub fn create<O: Os>(&self, class: u8) -> Option<*mut Magazine> {
        let id = self.table.allocate::<O>(1 << class)?;
        if id >> ID_BITS != 0 {
            return None;
        }
        // SAFETY: the units are zeroed, a valid header, and this thread's alone.
        unsafe {
            let magazine = self.get(id);
            (*magazine).id = id;
            (*magazine).class = class;
            Some(magazine)
        }
    }

    /// Bytes mapped, and bytes in magazines.
    pub fn bytes(&self) -> (usize, usize) {
        (self.table.mapped_bytes(), self.table.end() as usize * UNIT_BYTES)
    }
}

impl Default for Magazines {
    fn default() -> Self {
        Self::new()
    }
}

impl Links for Magazines {
    #[inline]
    fn next(&self, id: u32) -> &AtomicU32 {
        // SAFETY: ids in stacks are magazines' ids, and magazines are never unmapped.
        unsafe { &(*self.get(id)).next }
    }
}
