//! Claim: lets another thread change the magazines of a heap while its owner does not, at no cost to the owner's hits.
//!
//! ```text
//! owner    busy ── takes the claim back, if somebody has it ── changes ── not busy
//! taker    IDLE ── request → ASKED ══ all threads pass a fence ══ not busy? ──→ HELD ⇄ TAKING ── done ──→ IDLE
//!                            └────────── the owner, at its next change ────────┴──→ IDLE
//! ```
//!
//! The owner writes one word and reads the other, the taker vice versa, and a full fence between would cost every miss.
//! So the taker has the system make all threads pass one: `membarrier(2)`. Until it is TAKING, which takes no call to
//! the system and no lock, the owner takes its heap back without a wait. The version tells the askings apart.

use crate::platform::atomic::{AtomicU32, Ordering, light_fence};
use crate::platform::os::Waiter;

const STATE: u32 = 3;
const IDLE: u32 = 0;
const ASKED: u32 = 1;
const HELD: u32 = 2;
const TAKING: u32 = 3;
/// The owner has something to mend before its next change.
const TOUCHED: u32 = 4;
const VERSION_ONE: u32 = 8;

/// Spins and yields before a thread naps.
const SPINS: u32 = if cfg!(loom) { 0 } else { 40 };
const YIELDS: u32 = if cfg!(loom) { 1 } else { 4 };

/// Who may change a heap. All zeros: its owner.
#[repr(C)]
pub struct Claim {
    /// Whether the owner is in the middle of a change. Sync: written by the owner, read by takers and in a forked child.
    busy: AtomicU32,
    /// Version, TOUCHED, state.
    word: AtomicU32,
}

/// A claim that was asked for or is held, by its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u32);

impl Claim {
    /// Of no heap.
    #[cfg(loom)]
    #[allow(clippy::new_without_default, reason = "elsewhere a heap is zeroed memory")]
    pub fn new() -> Self {
        Self { busy: AtomicU32::new(0), word: AtomicU32::new(0) }
    }

    // ---- the owner ----

    /// Begins a change of several words. True if [`Claim::take_back`] must follow.
    #[inline]
    #[must_use]
    pub fn begin(&self) -> bool {
        // Relaxed: a forked child's copy of this thread's memory has it, and takers pass a fence in this thread.
        self.busy.store(1, Ordering::Relaxed);
        // Pairs with the fence of all threads between `request` and `hold`: the taker sees `busy`, or this sees the word.
        light_fence();
        // Relaxed: zero was stored by this thread, or never.
        self.word.load(Ordering::Relaxed) & (STATE | TOUCHED) != IDLE
    }

    /// Takes the heap back; waits while a taker copies out of it. True if the owner must mend it.
    #[cold]
    #[inline(never)]
    pub fn take_back<W: Waiter>(&self) -> bool {
        let mut turn = 0;
        loop {
            // Relaxed: the exchange checks it.
            let word = self.word.load(Ordering::Relaxed);
            // Acquire: what the taker changed. Pairs with the Release in `leave`. Release: `enter` of a later claim.
            if word & STATE != TAKING
                && self
                    .word
                    .compare_exchange(word, word & !(STATE | TOUCHED), Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            {
                return word & TOUCHED != 0;
            }
            match turn {
                _ if turn < SPINS => core::hint::spin_loop(),
                _ if turn < SPINS + YIELDS => W::yield_now(),
                _ => W::nap(),
            }
            turn = turn.saturating_add(1);
        }
    }

    /// Ends the change: the words are consistent again.
    #[inline]
    pub fn end(&self) {
        light_fence();
        // Release: publishes the change. Pairs with the Acquire in `hold`.
        self.busy.store(0, Ordering::Release);
    }

    /// In a forked child: the owner, which forked, forgets a taker that the child lacks.
    pub fn forget_taker(&self) {
        // Relaxed, both: the child has one thread, or others have not met this heap.
        let word = self.word.load(Ordering::Relaxed);
        if word & STATE != IDLE {
            self.word.store(((word & !STATE) | TOUCHED).wrapping_add(VERSION_ONE), Ordering::Relaxed);
        }
    }

    // ---- takers ----

    /// Asks for the heap. All threads must pass a fence before [`Claim::hold`]. `None` if another thread has asked.
    pub fn request(&self) -> Option<Ticket> {
        // Relaxed, all: the fence of all threads orders it.
        let word = self.word.load(Ordering::Relaxed);
        let asked = (word & !STATE).wrapping_add(VERSION_ONE) | ASKED;
        (word & STATE == IDLE && self.word.compare_exchange(word, asked, Ordering::Relaxed, Ordering::Relaxed).is_ok())
            .then_some(Ticket(asked))
    }

    /// Holds the heap from here on, unless its owner is in a change, has been since, or took it back.
    pub fn hold(&self, asked: Ticket) -> Option<Ticket> {
        // Acquire: the owner's last change. Pairs with the Release in `end`.
        let is_busy = self.busy.load(Ordering::Acquire) != 0;
        let next = (asked.0 & !STATE) | if is_busy { IDLE } else { HELD };
        // Acquire: pairs with the Release in `take_back`, `leave` and `done`.
        (self.word.compare_exchange(asked.0, next, Ordering::Acquire, Ordering::Relaxed).is_ok() && !is_busy)
            .then_some(Ticket(next))
    }

    /// Keeps the owner out for a moment: until [`Claim::leave`], the caller calls nothing and takes no lock. False if the
    /// owner took the heap back; then it is no longer held.
    #[must_use]
    pub fn enter(&self, held: Ticket) -> bool {
        // Acquire: as in `hold`.
        self.word.compare_exchange(held.0, (held.0 & !STATE) | TAKING, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Lets the owner in again, which must mend what was `touched`.
    pub fn leave(&self, held: Ticket, touched: bool) -> Ticket {
        let next = held.0 | if touched { TOUCHED } else { 0 };
        // Release: publishes what was changed. Pairs with the Acquire in `take_back`, `enter` and `hold`.
        self.word.store(next, Ordering::Release);
        Ticket(next)
    }

    /// Gives the claim up.
    pub fn done(&self, held: Ticket) {
        // Release: as in `leave`. A failure: the owner took it back.
        let _ = self.word.compare_exchange(held.0, held.0 & !STATE, Ordering::Release, Ordering::Relaxed);
    }

    // ---- forks ----

    /// In a forked child: whether the owner, which is gone, or a taker was in the middle of a change.
    pub fn is_unsettled(&self) -> bool {
        // Relaxed, both: written before the fork.
        self.busy.load(Ordering::Relaxed) != 0 || self.word.load(Ordering::Relaxed) & STATE == TAKING
    }

    /// A copy that stands for a forked child's memory in models.
    #[cfg(loom)]
    #[allow(missing_docs, reason = "for models only")]
    pub fn forked(&self) -> Self {
        // Relaxed: the model decides which stores the copy may miss.
        let copy = |word: &AtomicU32| AtomicU32::new(word.load(Ordering::Relaxed));
        Self { busy: copy(&self.busy), word: copy(&self.word) }
    }
}
