//! Slot: the place of one small block, free and owned by whoever has the value.
//!
//! ```text
//! span ── carve ──→ Slot ── magazine, depot, magazine ──→ Slot ── hand out ──→ *mut u8, the program's
//!   ↑                                                                             │ free
//!   └── restore ── Slot ←── batch ←── stash ←── magazine ←── Slot ←───────────────┘
//! ```
//!
//! A value is moved, never copied: two of one address would hand a block out twice. One that is dropped is lost.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// A free slot.
#[must_use]
#[repr(transparent)]
pub struct Slot(NonNull<u8>);

// SAFETY: a slot is memory that nothing else refers to.
unsafe impl Send for Slot {}

impl Slot {
    /// The slot at `start`.
    ///
    /// # Safety
    /// `start` is not null, the slot there is free, and no other value stands for it.
    #[inline(always)]
    pub const unsafe fn new(start: *mut u8) -> Self {
        // SAFETY: the caller's promise.
        Slot(unsafe { NonNull::new_unchecked(start) })
    }

    /// Address of the first byte.
    #[inline(always)]
    pub fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// The first byte, to look at or to write to what is in the free slot.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Makes the slot the program's block.
    #[inline(always)]
    pub const fn into_block(self) -> *mut u8 {
        self.0.as_ptr()
    }
}

/// Room for slots.
pub type Places = [MaybeUninit<Slot>];

/// Places without slots.
pub const fn no_slots<const N: usize>() -> [MaybeUninit<Slot>; N] {
    [const { MaybeUninit::uninit() }; N]
}

/// Slots that are taken, one after the other, out of the places where they lie.
pub struct Batch<'a> {
    next: *const Slot,
    left: usize,
    places: PhantomData<&'a mut Places>,
}

impl<'a> Batch<'a> {
    /// The slots of the first `count` places.
    ///
    /// # Safety
    /// The places hold slots, which are the batch's from here on.
    #[inline]
    pub unsafe fn of(places: &'a mut Places, count: usize) -> Self {
        Self { next: places.as_ptr().cast(), left: count.min(places.len()), places: PhantomData }
    }
}

impl Iterator for Batch<'_> {
    type Item = Slot;

    #[inline]
    fn next(&mut self) -> Option<Slot> {
        self.left = self.left.checked_sub(1)?;
        // SAFETY: `of`'s promise: a slot lies there, and this is the only time that it is taken.
        unsafe {
            let slot = self.next.read();
            self.next = self.next.add(1);
            Some(slot)
        }
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Batch<'_> {}
