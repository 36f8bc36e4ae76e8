//! Loaded: the loaded magazine of a heap's entry, as the hit paths see it, and what another thread may take out of it.
//!
//! ```text
//! limit - capacity     base              top        limit
//!     |  gone  | raised | kept … the owner's |  room  |
//!
//! limit                base              top                    closed: every push misses
//! ```
//!
//! The owner pops above `base` and pushes at `top`, by plain loads and stores, and may be stopped between any two of them
//! for ever. A taker that [holds](crate::thread::claim) the heap raises `base` to `KEPT` places below `top`, makes all
//! threads pass a fence, and looks at `top` again:
//!
//! - Whoever reads `base` after its fence never goes below it.
//! - Of what was read before, one hit may be left, with a `top` that it read then. If it is still to store its own, `top`
//!   is unchanged, and it reads a place at or above `top - KEPT`; otherwise it is past that.
//!
//! So if `top` is at least `base + KEPT` then, it never falls below `base` again, and nobody reads below: these slots are
//! the taker's. If not, the owner ran meanwhile, and `base` is lowered again. Until then `top` may lie below `base`.
//!
//! The owner reads `base` plainly, the only word that another thread may write at that moment.

use crate::pages::slot::Slot;
use crate::platform::atomic::{AtomicPtr, Ordering, light_fence};
use core::ptr::null_mut;
use place::{Place, address, plain, read, replace, step, write};

/// Slots that a taker leaves: as many as a pop reads below the `top` that it has read.
pub const KEPT: usize = 1;

/// The loaded magazine: its first place that counts, or null; one past its last slot, and one past its last place. Sync:
/// the owner writes all, a taker that holds the heap `base`; any thread may read. Relaxed, every access: readers need no
/// consistent view, and takers pass fences.
#[repr(C)]
pub struct Loaded {
    top: AtomicPtr<Place>,
    base: AtomicPtr<Place>,
    limit: AtomicPtr<Place>,
}

impl Loaded {
    /// No magazine.
    #[cfg(loom)]
    #[allow(clippy::new_without_default, reason = "elsewhere an entry is zeroed memory")]
    pub fn new() -> Self {
        let null = || AtomicPtr::new(null_mut());
        Self { top: null(), base: null(), limit: null() }
    }

    // Relaxed, all accesses below: as `Loaded` says.

    /// Moves `top`, which this thread has read and alone writes. On x86-64, a load and a store of their own become one
    /// instruction on memory; elsewhere a second load is one too many.
    #[inline(always)]
    fn step_top(&self, top: *mut Place, by_one: impl FnOnce(*mut Place) -> *mut Place) {
        let now = if cfg!(target_arch = "x86_64") { self.top.load(Ordering::Relaxed) } else { top };
        self.top.store(by_one(now), Ordering::Relaxed);
    }

    /// Whether a pop would miss. True without a magazine.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.top.load(Ordering::Relaxed) <= self.base.load(Ordering::Relaxed)
    }

    /// Whether a push would miss. True without a magazine.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.top.load(Ordering::Relaxed) >= self.limit.load(Ordering::Relaxed)
    }

    /// Whether pops may hit, and no push does.
    pub fn is_closed(&self) -> bool {
        let (base, limit) = (self.base.load(Ordering::Relaxed), self.limit.load(Ordering::Relaxed));
        // An open magazine has a place above `base`.
        !base.is_null() && limit <= base
    }

    /// The first of the magazine's `capacity` places.
    fn first(&self, capacity: usize) -> *mut Place {
        let limit = self.limit.load(Ordering::Relaxed);
        if self.is_closed() { limit } else { limit.wrapping_sub(capacity) }
    }

    /// Whether there is a magazine.
    #[inline(always)]
    pub fn is_any(&self) -> bool {
        !self.base.load(Ordering::Relaxed).is_null()
    }

    /// The first place that counts, and the number of slots from there on; `None` without a magazine. `top` may lie below.
    pub fn look(&self) -> Option<(*mut Place, usize)> {
        let (top, base) = (self.top.load(Ordering::Relaxed), self.base.load(Ordering::Relaxed));
        let count = top.addr().saturating_sub(base.addr()) / size_of::<Place>();
        (!base.is_null()).then_some((base, count))
    }

    /// One past the last slot, as a number.
    pub fn top_address(&self) -> usize {
        self.top.load(Ordering::Relaxed).addr()
    }

    // ---- hits ----

    /// Takes the top slot; `None` if there is none.
    ///
    /// # Safety
    /// `this` is in an entry at the calling thread's pointer, or of the heap that the thread owns.
    #[inline(always)]
    pub unsafe fn pop(this: *mut Loaded) -> Option<Slot> {
        // A hit reads `base` itself, and not what an earlier one has read.
        light_fence();
        // SAFETY: `this` is valid, and this thread alone writes `top`. If `top` is above `base`, a slot lies below it.
        unsafe {
            let top = plain(&(*this).top);
            step();
            if top <= plain(&(*this).base) {
                return None;
            }
            step();
            (*this).step_top(top, |top| top.sub(1));
            step();
            // In this order: `is_exchanged` relies on it.
            light_fence();
            Some(read(top.sub(1)))
        }
    }

    /// Pushes the slot at `block` if there is room and `accept` then returns true; whether it did.
    ///
    /// # Safety
    /// As for [`Loaded::pop`]. If `accept` returns true, a free slot begins at `block` and belongs to the caller.
    #[inline(always)]
    pub unsafe fn push_if(this: *mut Loaded, block: *mut u8, accept: impl FnOnce() -> bool) -> bool {
        // SAFETY: `this` is valid, this thread alone writes what is read, and there is room. The slot at `block` is the
        // caller's.
        unsafe {
            let top = plain(&(*this).top);
            if top >= plain(&(*this).limit) || !accept() {
                return false;
            }
            Self::push_at(this, top, Slot::new(block));
        }
        true
    }

    /// Pushes `slot`.
    ///
    /// # Safety
    /// As for [`Loaded::pop`]; there is room.
    #[inline(always)]
    pub unsafe fn push(this: *mut Loaded, slot: Slot) {
        // SAFETY: the calling thread may write `this`, which is not full; `top` is its.
        unsafe { Self::push_at(this, (*this).top.load(Ordering::Relaxed), slot) }
    }

    /// As [`Loaded::push`], with a known `top`.
    ///
    /// # Safety
    /// As for [`Loaded::push`]; `top` is the magazine's.
    #[inline(always)]
    unsafe fn push_at(this: *mut Loaded, top: *mut Place, slot: Slot) {
        // SAFETY: `top` is a free place of the magazine, and this thread alone writes it.
        unsafe {
            write(top, slot);
            // The slot is written before it counts: a fork copies this thread between any two instructions.
            light_fence();
            (*this).step_top(top, |top| top.add(1));
        }
    }

    /// Takes one of the last few slots, chosen by `random_below`; `None` if there is none. The hardened lane's `pop`, within
    /// a change, which keeps takers out.
    ///
    /// # Safety
    /// As for [`Loaded::pop`].
    #[inline(always)]
    pub unsafe fn draw(this: *mut Loaded, random_below: impl FnOnce(usize) -> usize) -> Option<Slot> {
        // SAFETY: this thread alone writes `this`. `base ≤ place ≤ last < top`, and all these places contain slots.
        unsafe {
            let (top, base) = ((*this).top.load(Ordering::Relaxed), (*this).base.load(Ordering::Relaxed));
            if top <= base {
                return None;
            }
            let count = top.offset_from(base) as usize;
            let place = base.add(count - 1 - random_below(count.min(DRAW_WINDOW)));
            let slot = read(place);
            let last = top.sub(1);
            (*this).top.store(last, Ordering::Relaxed);
            // A child forked here loses one slot and finds none twice.
            light_fence();
            write(place, read(last));
            Some(slot)
        }
    }

    // ---- the owner's changes ----

    /// Loads `count` slots from `base` on, where there are `capacity` places, in place of what is loaded.
    ///
    /// # Safety
    /// The caller owns the heap, in a change, and the places, of which the first `count` hold slots.
    #[inline]
    pub unsafe fn load(&self, base: *mut Place, count: usize, capacity: usize) {
        self.base.store(base, Ordering::Relaxed);
        // SAFETY: both lie within the places, or one past them.
        unsafe {
            self.limit.store(base.add(capacity), Ordering::Relaxed);
            self.top.store(base.add(count), Ordering::Relaxed);
        }
    }

    /// Forgets what is loaded.
    #[inline]
    pub fn forget(&self) {
        self.top.store(null_mut(), Ordering::Relaxed);
        self.base.store(null_mut(), Ordering::Relaxed);
        self.limit.store(null_mut(), Ordering::Relaxed);
    }

    /// Makes each push miss from now on. The caller owns the heap, in a change.
    pub fn close(&self) {
        self.limit.store(self.base.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Lets pushes hit again. The caller owns the heap, in a change; `capacity` is the magazine's.
    pub fn open(&self, capacity: usize) {
        self.limit.store(self.base.load(Ordering::Relaxed).wrapping_add(capacity), Ordering::Relaxed);
    }

    /// Sets the number of slots from `base` on.
    ///
    /// # Safety
    /// The caller owns the heap, in a change; the first `count` places from `base` on contain slots.
    pub unsafe fn set_count(&self, count: usize) {
        // SAFETY: `count` places follow `base` in the magazine.
        self.top.store(unsafe { self.base.load(Ordering::Relaxed).add(count) }, Ordering::Relaxed);
    }

    /// Undoes what takers did: after it, `base` is the first of `capacity` places. `gone` as for [`Loaded::lift`].
    ///
    /// # Safety
    /// The caller owns the heap, in a change; `capacity` and `gone` are the magazine's.
    pub unsafe fn mend(&self, capacity: usize, gone: usize) {
        let top = self.top.load(Ordering::Relaxed);
        if !self.is_any() {
            return;
        }
        // SAFETY: the magazine's first place, its first slot and `top` lie within it, in this order; all from the first
        // slot to `top` are slots, and move down.
        unsafe {
            let first = self.first(capacity);
            let count = top.offset_from(first.add(gone)) as usize;
            if gone > 0 {
                for index in 0..count {
                    write(first.add(index), read(first.add(gone + index)));
                }
                self.top.store(first.add(count), Ordering::Relaxed);
            }
            self.base.store(first, Ordering::Relaxed);
        }
    }

    // ---- a taker that holds the heap, between `enter` and `leave` ----

    /// Slots that [`Loaded::raise`] would raise `base` over, as it looks now.
    pub fn spared(&self) -> usize {
        self.look().map_or(0, |(_, count)| count.saturating_sub(KEPT))
    }

    /// Raises `base` as far as `top` allows; whether it did. All threads must pass a fence before [`Loaded::confirm`].
    pub fn raise(&self) -> bool {
        let (top, base) = (self.top.load(Ordering::Relaxed), self.base.load(Ordering::Relaxed));
        let raised = top.wrapping_sub(KEPT);
        let is_any = !base.is_null() && top > base && raised > base;
        if is_any {
            self.base.store(raised, Ordering::Relaxed);
        }
        is_any
    }

    /// Lowers a raised `base` unless nobody will ever read below it. `gone` as for [`Loaded::lift`]. All threads must pass a
    /// fence before [`Loaded::lift`], where stores may be seen out of order.
    pub fn confirm(&self, capacity: usize, gone: usize) {
        let base = self.base.load(Ordering::Relaxed);
        if base.is_null() {
            return;
        }
        let first_kept = self.first(capacity).wrapping_add(gone);
        // Acquire: on x86-64 the slots below are seen as they were at this `top`.
        if base != first_kept && self.top.load(Ordering::Acquire) < base.wrapping_add(KEPT) {
            self.base.store(first_kept, Ordering::Relaxed);
        }
    }

    /// Calls `take` with up to `most` of the slots below a confirmed `base`. The first `gone` places are empty by now;
    /// returns how many more are.
    ///
    /// # Safety
    /// The caller holds the heap, has confirmed `base`, and counts the places as gone; `capacity` and `gone` are the
    /// magazine's.
    pub unsafe fn lift(&self, capacity: usize, gone: usize, most: usize, mut take: impl FnMut(Slot)) -> usize {
        let base = self.base.load(Ordering::Relaxed);
        if base.is_null() {
            return 0;
        }
        // SAFETY: the first place, the first slot and `base` lie within the magazine, in this order.
        unsafe {
            let first = self.first(capacity).add(gone);
            let count = (base.offset_from(first) as usize).min(most);
            (0..count).for_each(|index| take(read(first.add(index))));
            count
        }
    }
}

/// What came of an exchange, after a fence of all threads.
impl Loaded {
    /// The address of the one slot that is left; `None` if more or none are. The caller holds the heap, between `enter` and
    /// `leave`.
    pub fn last(&self) -> Option<*mut u8> {
        // SAFETY: the loaded magazine has this place; it is read as one word and not taken.
        self.look().filter(|&(_, count)| count == 1).map(|(base, _)| unsafe { address(base) })
    }

    /// Puts `other` in the place of `former`, the one slot that was left, which a hit may be about to read. `Err` with
    /// `other` if it is no longer there. All threads must pass a fence before [`Loaded::is_exchanged`]: until then, `former`
    /// is no slot.
    ///
    /// # Safety
    /// The caller holds the heap, between `enter` and `leave`, since it got `former` from [`Loaded::last`].
    pub unsafe fn exchange(&self, former: *mut u8, other: Slot) -> Result<(), Slot> {
        match self.look() {
            // SAFETY: the loaded magazine has this place; others read and write it as one word.
            Some((base, _)) => unsafe { replace(base, former, other) },
            None => Err(other),
        }
    }

    /// Whether no hit read the former slot: then it is the caller's. If not, either of the two may be the program's. The
    /// caller still holds the heap, and its owner has not taken it back since.
    ///
    /// A hit steps `top` before it reads, and who pushes leaves its own slot in that place.
    pub fn is_exchanged(&self, other: *mut u8) -> bool {
        // Acquire: the place is seen as it was at this `top`, on x86-64.
        let (top, base) = (self.top.load(Ordering::Acquire), self.base.load(Ordering::Relaxed));
        // SAFETY: as above; the place is read as one word and not taken.
        !base.is_null() && top > base && unsafe { address(base) } == other
    }
}

/// Top slots that [`Loaded::draw`] chooses among. Chosen: random order costs cache misses. Python's objects took 1.5
/// times the scale lane's time without a draw, and 1.9 times with 16 here and in quarantine.
const DRAW_WINDOW: usize = 4;

#[cfg(not(loom))]
mod place {
    use crate::pages::slot::Slot;
    use crate::platform::atomic::{AtomicPtr, Ordering};

    /// A place of a magazine.
    pub type Place = Slot;

    #[inline(always)]
    pub unsafe fn read(place: *mut Place) -> Slot {
        // SAFETY: the caller takes over the slot at `place`.
        unsafe { place.read() }
    }

    #[inline(always)]
    pub unsafe fn write(place: *mut Place, slot: Slot) {
        // SAFETY: the caller owns the empty `place`.
        unsafe { place.write(slot) }
    }

    /// Replaces `former` at `place` by `slot`; `Err` with that if another is there.
    pub unsafe fn replace(place: *mut Place, former: *mut u8, slot: Slot) -> Result<(), Slot> {
        // SAFETY: a place is a pointer, and aligned.
        let word = unsafe { AtomicPtr::from_ptr(place.cast::<*mut u8>()) };
        // Relaxed, both: fences of all threads order it with hits.
        match word.compare_exchange(former, slot.as_ptr(), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(slot),
        }
    }

    /// The slot's address at `place`.
    pub unsafe fn address(place: *mut Place) -> *mut u8 {
        // SAFETY: a place is a pointer, and aligned.
        unsafe { AtomicPtr::from_ptr(place.cast::<*mut u8>()) }.load(Ordering::Acquire)
    }

    /// Reads a word plainly, so that the read folds into the comparison: an atomic one is an instruction of its own.
    #[inline(always)]
    pub unsafe fn plain(word: &AtomicPtr<Place>) -> *mut Place {
        // SAFETY: this thread alone writes the word, or a taker one aligned `base`, which the language calls a race: fences
        // for the compiler stand before each read, and `docs/hot-path.txt` watches over what it makes of them.
        unsafe { *word.as_ptr() }
    }

    /// Between two accesses of a hit.
    #[inline(always)]
    pub fn step() {}
}

/// Places that loom watches. All threads' fences may pass between any two accesses of a hit.
#[cfg(loom)]
pub mod place {
    use crate::pages::slot::Slot;
    use crate::platform::atomic::{AtomicPtr, Ordering, light_fence};

    /// A place of a magazine.
    pub type Place = AtomicPtr<u8>;

    pub(super) unsafe fn read(place: *mut Place) -> Slot {
        // SAFETY: the caller takes over the slot at `place`.
        unsafe { Slot::new((*place).load(Ordering::Relaxed)) }
    }

    pub(super) unsafe fn write(place: *mut Place, slot: Slot) {
        // SAFETY: the caller owns the empty `place`.
        unsafe { (*place).store(slot.into_block(), Ordering::Relaxed) }
    }

    pub(super) unsafe fn replace(place: *mut Place, former: *mut u8, slot: Slot) -> Result<(), Slot> {
        // SAFETY: the place is there.
        let place = unsafe { &*place };
        match place.compare_exchange(former, slot.as_ptr(), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(slot),
        }
    }

    pub(super) unsafe fn address(place: *mut Place) -> *mut u8 {
        // SAFETY: the place is there.
        unsafe { (*place).load(Ordering::Acquire) }
    }

    pub(super) unsafe fn plain(word: &AtomicPtr<Place>) -> *mut Place {
        word.load(Ordering::Relaxed)
    }

    pub(super) fn step() {
        light_fence();
    }
}
