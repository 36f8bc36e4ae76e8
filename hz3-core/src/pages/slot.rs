//! Slot: a free slot as a value, which owns the slot's memory.
//!
//! ```text
//! span ── carve ──→ Slot ── magazine, depot, magazine ──→ Slot ── hand out ──→ *mut u8, the program's
//!   ↑                                                                             │ free
//!   └── restore ── Slot ←── batch ←── stash ←── magazine ←── Slot ←───────────────┘
//! ```
//!
//! A value moves and is never copied: two for one address would hand a block out twice. A dropped one is lost.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// A free slot.
#[must_use]
#[repr(transparent)]
pub struct Slot(NonNull<u8>);

// SAFETY: nothing else refers to the slot's memory.
unsafe impl Send for Slot {}

impl Slot {
    /// The slot at `start`.
    ///
    /// # Safety
    /// `start` is not null, the slot is free, and no other value stands for it.
    #[inline(always)]
    pub const unsafe fn new(start: *mut u8) -> Self {
        // SAFETY: the caller passes no null.
        Slot(unsafe { NonNull::new_unchecked(start) })
    }

    /// Address of the first byte.
    #[inline(always)]
    pub fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Pointer to the first byte, to read or write the free slot's memory.
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

/// Places for slots, filled or not.
pub type Places = [MaybeUninit<Slot>];

/// `N` empty places.
pub const fn no_slots<const N: usize>() -> [MaybeUninit<Slot>; N] {
    [const { MaybeUninit::uninit() }; N]
}

/// Slots that leave their places one after the other.
pub struct Batch<'a> {
    next: *const Slot,
    left: usize,
    places: PhantomData<&'a mut Places>,
}

impl<'a> Batch<'a> {
    /// The slots of the first `count` places.
    ///
    /// # Safety
    /// The places hold slots, which the batch owns from now on.
    #[inline]
    pub unsafe fn of(places: &'a mut Places, count: usize) -> Self {
        Self { next: places.as_ptr().cast(), left: count.min(places.len()), places: PhantomData }
    }

    /// The `count` slots that lie from `first` on.
    ///
    /// # Safety
    /// They lie there, other threads at most read them during `'a`, and the batch owns them from now on.
    #[inline]
    pub unsafe fn at(first: *const Slot, count: usize) -> Self {
        Self { next: first, left: count, places: PhantomData }
    }
}

impl Iterator for Batch<'_> {
    type Item = Slot;

    #[inline]
    fn next(&mut self) -> Option<Slot> {
        self.left = self.left.checked_sub(1)?;
        // SAFETY: `left` was not 0, so by `of`'s contract a slot lies at `next`; it is read only once.
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
