//! Magazine: a bounded array of free slots of one bin, and the unit in which slots change hands.
//!
//! ```text
//! | next, id, count, capacity, class, origin | slot | slot | … |   header 16 bytes, then pointers
//! ```
//!
//! Four classes of capacity, so that a magazine for large slots is small: 64, 128, 256 and 512 bytes.
//! While it is loaded in a heap, the heap's entry says how full it is; otherwise `count` does. A magazine
//! belongs to whoever took it: a thread, or the stack that it lies in.

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
    /// Its own id. Sync: fixed.
    pub id: u32,
    /// Slots held while it is not loaded in a heap. Sync: its owner.
    pub count: u16,
    /// Slots it may hold. Sync: its owner.
    pub capacity: u16,
    /// Class of capacity. Sync: fixed.
    pub class: u8,
    /// Shard whose depot it was taken from, and to which it returns when empty. Sync: its owner.
    pub origin: ShardId,
}

/// The part of a magazine that makes it worth a place in a depot: an eighth.
const WORTHWHILE: u16 = 8;

impl Magazine {
    /// Whether it holds enough to be worth a place in a depot, where whoever needs a slot takes all of it; a few slots
    /// are better in their spans.
    pub fn is_worthwhile(&self) -> bool {
        self.count >= self.capacity.div_ceil(WORTHWHILE)
    }

    /// Address of the first slot of the magazine at `this`.
    ///
    /// # Safety
    /// `this` is a magazine.
    #[inline]
    pub unsafe fn slots(this: *mut Magazine) -> *mut Slot {
        // SAFETY: the slots follow the header in the same unit.
        unsafe { this.add(1).cast() }
    }

    /// Asks for the cache lines of the magazine at `this` after its first, to be written soon.
    ///
    /// # Safety
    /// The caller owns the magazine.
    #[inline]
    pub unsafe fn fetch(this: *mut Magazine) {
        // SAFETY: the caller's promise.
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
        // SAFETY: the header lies before the slots.
        unsafe { base.cast::<Magazine>().sub(1) }
    }

    /// The first slot, and how many there are, of a magazine that is not loaded, for whoever does not own it:
    /// exact while its owner leaves it alone, and never more than there is room for.
    ///
    /// # Safety
    /// `this` is a magazine.
    pub unsafe fn peek(this: *const Magazine) -> (*const *mut u8, usize) {
        // SAFETY: a magazine's memory is never unmapped. Volatile, because its owner may write the count at
        // this moment, with a plain store of one aligned word, which arrives whole.
        let count = unsafe { (&raw const (*this).count).read_volatile() };
        // SAFETY: the slots follow the header in the same unit.
        (unsafe { this.add(1).cast() }, usize::from(count).min(MAX_SLOTS))
    }

    /// Takes all slots out of a magazine that is not loaded.
    ///
    /// # Safety
    /// The caller owns the magazine at `this`, and nothing else refers to its slots.
    #[inline]
    pub unsafe fn drain<'a>(this: *mut Magazine) -> Batch<'a> {
        // SAFETY: the caller's promise; `count` slots are initialised and lie in the unit.
        unsafe {
            let count = usize::from(core::mem::replace(&mut (*this).count, 0));
            Batch::of(core::slice::from_raw_parts_mut(Self::slots(this).cast(), count), count)
        }
    }

    /// The slots held, of a magazine that is not loaded.
    ///
    /// # Safety
    /// The caller owns the magazine at `this`, and nothing else refers to its slots.
    #[inline]
    pub unsafe fn held<'a>(this: *mut Magazine) -> &'a mut [Slot] {
        // SAFETY: `count` slots are initialised and lie in the unit.
        unsafe { core::slice::from_raw_parts_mut(Self::slots(this), usize::from((*this).count)) }
    }
}

/// Every magazine there is.
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
    /// `id` is a magazine's.
    #[inline]
    pub unsafe fn get(&self, id: u32) -> *mut Magazine {
        // SAFETY: the caller's promise.
        unsafe { typed::<Magazine, UNIT_BYTES>(&self.table, id) }.as_ptr()
    }

    /// Makes a new, empty magazine of `class`. `None` where memory or ids have run out.
    #[cold]
    pub fn create<O: Os>(&self, class: u8) -> Option<*mut Magazine> {
        let id = self.table.allocate::<O>(1 << class)?;
        if id >> ID_BITS != 0 {
            return None;
        }
        // SAFETY: the units were just handed out, zeroed, to this thread alone.
        unsafe {
            let magazine = self.get(id);
            (*magazine).id = id;
            (*magazine).class = class;
            Some(magazine)
        }
    }

    /// Bytes of address space mapped, and bytes handed out.
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
        // SAFETY: ids in stacks are magazines'; the memory is never unmapped.
        unsafe { &(*self.get(id)).next }
    }
}
