//! Heap states: whose each heap is, from the thread that takes it to the one that adopts it after a fork.
//!
//! ```text
//! made ──→ IN_USE ── give ──→ UNUSED, in the list ── take ──→ IN_USE
//!            │
//!            └── its thread is gone with a fork: adopted, which empties and gives it,
//!                or LOST where it was being changed at that moment
//! ```
//!
//! A thread has one heap in its life: its pointer leads to none, then to its heap, then to where those end up that have
//! left, for good. After a fork the child counts a further *generation*. A heap in use whose generation is not the
//! process's belonged to a thread that is not there. What a heap holds is none of this module's business.

use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::lock::{ForkLock, Mutex};
use crate::platform::os::Waiter;
use crate::platform::rank::{Rank, Ranked};
use core::sync::atomic::compiler_fence;

const UNUSED: u32 = 0;
const IN_USE: u32 = 1;
const LOST: u32 = 2;

/// What a heap says of its owner. Zeros: just made.
#[repr(C)]
pub struct HeapState {
    /// Whether the thread is changing more than one word of this heap. Read in a forked child.
    busy: AtomicU32,
    /// Sync: the lock over the unused heaps.
    state: AtomicU32,
    /// The process generation (count of forks) that the owner thread lives in. Sync: as `state`.
    generation: AtomicU32,
    /// Sync: written by the thread that made the heap, before anybody else has it.
    id: AtomicU32,
    /// The next one of the list, where the heap is in it. Sync: as `state`.
    next_unused: AtomicU32,
}

impl HeapState {
    /// Says that several words are about to change; a child forked before [`HeapState::settled`] leaves this heap
    /// alone.
    #[inline]
    pub fn unsettled(&self) {
        // Relaxed, with a compiler fence: only a forked child's single thread reads it, from a snapshot
        // taken between two instructions of this thread.
        self.busy.store(1, Ordering::Relaxed);
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
    }

    /// Says that the words agree again.
    #[inline]
    pub fn settled(&self) {
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        // Relaxed: as in `unsettled`.
        self.busy.store(0, Ordering::Relaxed);
    }
}

/// Where the heaps are.
pub trait Members {
    /// What heap `id`, which was made, says of its owner.
    fn state(&self, id: u32) -> &HeapState;
    /// Makes a heap of zeros and returns its id, which is not 0. `None` where memory has run out.
    fn make(&self) -> Option<u32>;
    /// One past the highest id of those made so far.
    fn end(&self) -> u32;
}

/// The first id of the list of unused heaps; 0 where it is empty.
struct Unused(u32);

impl Ranked for Unused {
    const RANK: Rank = Rank::Heaps;
}

/// Which heaps no thread uses, and the process's generation.
pub struct HeapStates<W: Waiter> {
    unused: Mutex<Unused, W>,
    /// Sync: the lock.
    generation: AtomicU32,
    /// Whether heaps of threads that did not survive a fork may be waiting.
    orphans: AtomicU32,
}

impl<W: Waiter> HeapStates<W> {
    /// No heap yet.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { unused: Mutex::new(Unused(0)), generation: AtomicU32::new(0), orphans: AtomicU32::new(0) }
    }

    /// No heap yet.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { unused: Mutex::new(Unused(0)), generation: AtomicU32::new(0), orphans: AtomicU32::new(0) }
    }

    /// The id of a heap that is the calling thread's from here on. `None` where there is none and none can be made.
    pub fn take(&self, members: &impl Members) -> Option<u32> {
        let mut unused = self.unused.lock();
        let mut id = unused.0;
        if id == 0 {
            // The system is asked without the lock. A fork meanwhile leaves the child one heap that was never used.
            drop(unused);
            id = members.make()?;
            // Relaxed: this thread's alone until it is given back under the lock, or until a fork, which orders all.
            members.state(id).id.store(id, Ordering::Relaxed);
            unused = self.unused.lock();
        } else {
            // Relaxed: under the lock.
            unused.0 = members.state(id).next_unused.load(Ordering::Relaxed);
        }
        let heap = members.state(id);
        // Relaxed, all: read under the lock.
        heap.generation.store(self.generation.load(Ordering::Relaxed), Ordering::Relaxed);
        heap.state.store(IN_USE, Ordering::Relaxed);
        drop(unused);
        Some(id)
    }

    /// Takes back a heap that the calling thread owned and uses no longer.
    pub fn give(&self, heap: &HeapState) {
        let mut first = self.unused.lock();
        // Relaxed, all: under the lock.
        heap.state.store(UNUSED, Ordering::Relaxed);
        heap.next_unused.store(first.0, Ordering::Relaxed);
        first.0 = heap.id.load(Ordering::Relaxed);
    }

    /// The lock over the unused heaps, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &self.unused
    }

    /// In a forked child, whose thread holds the lock: every heap but its `own` belonged to a thread that is gone.
    pub fn orphan_all_but(&self, own: Option<&HeapState>) {
        // Relaxed, all: under the lock.
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        self.generation.store(generation, Ordering::Relaxed);
        if let Some(own) = own {
            own.generation.store(generation, Ordering::Relaxed);
        }
        self.orphans.store(1, Ordering::Relaxed);
    }

    /// Hands each heap whose thread did not survive a fork to `adopt`, which must empty it and give it back. Heaps that
    /// were being changed at the fork are given up with what they hold.
    #[inline]
    pub fn adopt_orphans(&self, members: &impl Members, mut adopt: impl FnMut(u32)) {
        // Relaxed: the fork ordered it; a second thread that misses it loses nothing.
        if self.orphans.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Relaxed: it is the exchange that lets one thread through, and the lock below that orders what it sees.
        if self.orphans.swap(0, Ordering::Relaxed) == 0 {
            return;
        }
        for id in 1..members.end() {
            if self.is_orphan(members.state(id)) {
                adopt(id);
            }
        }
    }

    /// Whether `heap` is one to adopt. One that can't be is lost from here on.
    fn is_orphan(&self, heap: &HeapState) -> bool {
        let _unused = self.unused.lock();
        // Relaxed, all: under the lock, but for `busy`, which the fork ordered.
        if heap.state.load(Ordering::Relaxed) != IN_USE {
            return false;
        }
        if heap.generation.load(Ordering::Relaxed) == self.generation.load(Ordering::Relaxed) {
            return false;
        }
        if heap.busy.load(Ordering::Relaxed) != 0 {
            heap.state.store(LOST, Ordering::Relaxed);
            return false;
        }
        true
    }
}

impl<W: Waiter> Default for HeapStates<W> {
    fn default() -> Self {
        Self::new()
    }
}

/// What a thread's pointer leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage<H> {
    /// No heap yet.
    Without,
    /// The thread's heap.
    With(H),
    /// None any more.
    Left,
}

/// A thread's pointer, as the start and the end of the thread see it.
pub trait Pointer {
    /// A thread's heap.
    type Heap: Copy;
    /// Where it leads.
    fn stage(&self) -> Stage<Self::Heap>;
    /// Leads it to `stage`.
    fn lead_to(&self, stage: Stage<Self::Heap>);
}

/// The heap of the thread of `pointer`, which `take` finds where it has none yet. `None` for a thread that has left,
/// so that what it frees late is not stranded in a second heap, and where `take` finds none.
#[inline]
pub fn begin<P: Pointer>(pointer: &P, take: impl FnOnce() -> Option<P::Heap>) -> Option<P::Heap> {
    match pointer.stage() {
        Stage::With(heap) => Some(heap),
        Stage::Left => None,
        Stage::Without => {
            let heap = take()?;
            pointer.lead_to(Stage::With(heap));
            Some(heap)
        }
    }
}

/// Ends the thread's use of its heap, if it has one: `give` empties it and gives it back.
#[inline]
pub fn leave<P: Pointer>(pointer: &P, give: impl FnOnce(P::Heap)) {
    if let Stage::With(heap) = pointer.stage() {
        // Before the heap is emptied: what is freed within goes elsewhere.
        pointer.lead_to(Stage::Left);
        give(heap);
    }
}

/// Copies for models, in which a forked child is a copy of what it would find.
#[cfg(loom)]
#[allow(missing_docs, reason = "for models only")]
mod forked {
    use super::*;

    impl HeapState {
        #[allow(clippy::new_without_default, reason = "elsewhere a heap is zeroed memory")]
        pub fn new() -> Self {
            let zero = || AtomicU32::new(0);
            Self { busy: zero(), state: zero(), generation: zero(), id: zero(), next_unused: zero() }
        }

        pub fn forked(&self) -> Self {
            // Relaxed: the caller sees to it that nobody writes, or that it does not matter.
            let copy = |word: &AtomicU32| AtomicU32::new(word.load(Ordering::Relaxed));
            Self {
                busy: copy(&self.busy),
                state: copy(&self.state),
                generation: copy(&self.generation),
                id: copy(&self.id),
                next_unused: copy(&self.next_unused),
            }
        }
    }

    impl<W: Waiter> HeapStates<W> {
        /// A copy whose lock is held for the fork, as the caller holds the original's.
        pub fn forked(&self) -> Self {
            // SAFETY: the lock is held.
            let unused = unsafe { self.unused.value_while_held() }.0;
            let copy = Self {
                unused: Mutex::new(Unused(unused)),
                // Relaxed, both: as above.
                generation: AtomicU32::new(self.generation.load(Ordering::Relaxed)),
                orphans: AtomicU32::new(self.orphans.load(Ordering::Relaxed)),
            };
            copy.unused.acquire_for_fork();
            copy
        }
    }
}
