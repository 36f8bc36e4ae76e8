//! A bounded array of free slots of one bin: the unit in which slots change hands.
//!
//! ```text
//! | next, id, count, capacity, class, origin | slot | slot | … |   header 16 bytes, then pointers
//! ```
//!
//! A magazine has 64 to 512 bytes, so that one for large slots is small. It belongs to the thread that took it, or to
//! the stack it is in. While it is loaded, the heap's entry has its count.

use crate::pages::shape::{HEADER_BYTES, MAX_SLOTS, UNIT_BYTES};
use crate::pages::slot::{Batch, Slot};
use crate::platform::atomic::{AtomicU16, AtomicU32, Ordering};
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
    /// Its id. Sync: fixed.
    pub id: u32,
    /// Slots, while it is not loaded. Sync: written by its owner, read by anyone.
    count: AtomicU16,
    /// Most slots. Sync: its owner.
    pub capacity: u16,
    /// It has 64 · 2^class bytes. Sync: fixed.
    pub class: u8,
    /// Shard it was taken from, and returns to when empty. Sync: its owner.
    pub origin: ShardId,
}

/// A magazine is worth a place in a depot if this part of it is full: an eighth.
const WORTHWHILE: u16 = 8;

impl Magazine {
    /// Slots, while it is not loaded.
    #[inline]
    pub fn count(&self) -> u16 {
        // Relaxed: the owner's own number; to others, a count.
        self.count.load(Ordering::Relaxed)
    }

    /// Sets the number of slots.
    ///
    /// # Safety
    /// The caller owns the magazine; its first `count` places hold slots.
    #[inline]
    pub unsafe fn set_count(&self, count: u16) {
        // Relaxed: as in `count`.
        self.count.store(count, Ordering::Relaxed);
    }

    /// Slots by which it is not full.
    #[inline]
    pub fn lacking(&self) -> u16 {
        self.capacity.saturating_sub(self.count())
    }

    /// Whether it is worth a place in a depot. A refill takes all of it, and a few slots serve better from their spans.
    pub fn is_worthwhile(&self) -> bool {
        self.count() >= self.capacity.div_ceil(WORTHWHILE)
    }

    /// Address of the first slot.
    ///
    /// # Safety
    /// `this` is a magazine.
    #[inline]
    pub unsafe fn slots(this: *mut Magazine) -> *mut Slot {
        // SAFETY: the slots follow the header in one allocation.
        unsafe { this.add(1).cast() }
    }

    /// Adds `slot`.
    ///
    /// # Safety
    /// The caller owns the magazine, which is not full.
    #[inline]
    pub unsafe fn push(this: *mut Magazine, slot: Slot) {
        // SAFETY: there is a place behind the last slot. The slot is written before it counts.
        unsafe {
            let count = (*this).count();
            Self::slots(this).add(usize::from(count)).write(slot);
            (*this).set_count(count + 1);
        }
    }

    /// Prefetches all its cache lines but the first, to write.
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
        // SAFETY: a header precedes the slots in one allocation.
        unsafe { base.cast::<Magazine>().sub(1) }
    }

    /// The first slot and the number of slots, at most [`MAX_SLOTS`], of a magazine that is not loaded. The caller need
    /// not own it: exact while its owner leaves it alone.
    ///
    /// # Safety
    /// `this` is a magazine.
    pub unsafe fn peek(this: *const Magazine) -> (*const *mut u8, usize) {
        // SAFETY: magazines are never unmapped, and the count is atomic.
        let count = unsafe { (*this).count.load(Ordering::Relaxed) };
        // SAFETY: the slots follow the header in one allocation.
        (unsafe { this.add(1).cast() }, usize::from(count).min(MAX_SLOTS))
    }

    /// Takes all slots out.
    ///
    /// # Safety
    /// The caller owns the magazine, which is not loaded; nothing else refers to its slots while the batch lives.
    #[inline]
    pub unsafe fn drain<'a>(this: *mut Magazine) -> Batch<'a> {
        // SAFETY: the caller owns the first `count` places; their slots count in the batch alone now.
        unsafe {
            let count = usize::from((*this).count());
            (*this).set_count(0);
            Batch::of(core::slice::from_raw_parts_mut(Self::slots(this).cast(), count), count)
        }
    }

    /// All its slots.
    ///
    /// # Safety
    /// The caller owns the magazine, which is not loaded; nothing else refers to its slots while the result lives.
    #[inline]
    pub unsafe fn contents<'a>(this: *mut Magazine) -> &'a mut [Slot] {
        // SAFETY: the caller owns the first `count` places, which hold slots.
        unsafe { core::slice::from_raw_parts_mut(Self::slots(this), usize::from((*this).count())) }
    }
}

/// All magazines.
pub struct Magazines {
    table: Table<UNIT_BYTES>,
}

impl Magazines {
    /// None yet.
    pub const fn new() -> Self {
        Self { table: Table::new() }
    }

    /// The magazine `id`.
    ///
    /// # Safety
    /// `id` is a magazine's id.
    #[inline]
    pub unsafe fn get(&self, id: u32) -> *mut Magazine {
        // SAFETY: a magazine's id, so its unit holds a header.
        unsafe { typed::<Magazine, UNIT_BYTES>(&self.table, id) }.as_ptr()
    }

    /// Creates an empty magazine, with a capacity of 0; the caller owns it. `None` when memory or ids have run out.
    #[cold]
    pub fn create<O: Os>(&self, class: u8) -> Option<*mut Magazine> {
        let id = self.table.allocate::<O>(1 << class)?;
        if id >> ID_BITS != 0 {
            return None;
        }
        // SAFETY: the units are this thread's alone; zeros are a valid header.
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
        // SAFETY: ids in stacks are magazines'; magazines are never unmapped.
        unsafe { &(*self.get(id)).next }
    }
}
