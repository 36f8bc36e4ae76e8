//! Registry: records which heaps are in use, unused, or orphans of threads that a fork left behind.
//!
//! ```text
//! made ──→ IN_USE ── give ──→ UNUSED, in the list ── take ──→ IN_USE
//!            │
//!            └── orphaned by a fork: adopted (emptied and given),
//!                or LOST if somebody was changing it at that moment, or its thread had set it aside
//! ```
//!
//! A thread has at most one heap in its life. A forked child starts a new *generation*: a heap in use of an older one
//! is an orphan. The *heaps' lock* is that over the unused heaps.

use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::lock::{ForkLock, Mutex, Ranked};
use crate::platform::os::Waiter;
use crate::platform::rank::Rank;
use crate::thread::claim::Claim;
use core::sync::atomic::compiler_fence;

const UNUSED: u32 = 0;
const IN_USE: u32 = 1;
const LOST: u32 = 2;

/// Heaps that one search for an orphan looks at.
const LOOKS: usize = 64;

/// The ownership of one heap. All zeros: just made.
#[repr(C)]
pub struct HeapState {
    claim: Claim,
    /// Whether the owner's pointer is elsewhere for a while. Sync: written by the owner, read in a forked child.
    aside: AtomicU32,
    /// Sync: the heaps' lock.
    state: AtomicU32,
    /// The owner's generation: the number of forks between the first process and its own. Sync: as `state`.
    generation: AtomicU32,
    /// Sync: written once, by the thread that makes the heap.
    id: AtomicU32,
    /// The next unused heap, while this one is in the list. Sync: as `state`.
    next_unused: AtomicU32,
}

impl HeapState {
    /// Who may change the heap. A child forked during a change does not adopt it.
    #[inline]
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Notes that the owner's pointer leaves the heap, until [`HeapStates::take_back`].
    #[inline]
    pub fn set_aside(&self) {
        // Relaxed, with a compiler fence: only a forked child reads it, from a copy of this thread's memory.
        self.aside.store(1, Ordering::Relaxed);
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
    }
}

/// The heaps.
pub trait Members {
    /// The state of heap `id`, which was made.
    fn state(&self, id: u32) -> &HeapState;
    /// Makes an all-zero heap and returns its id, never 0. `None` when memory has run out.
    fn make(&self) -> Option<u32>;
    /// One past the highest id made so far.
    fn end(&self) -> u32;
}

/// The list of unused heaps: its first id, or 0 if it is empty.
struct Unused(u32);

impl Ranked for Unused {
    const RANK: Rank = Rank::Heaps;
}

/// The unused heaps, and the process's generation.
pub struct HeapStates<W: Waiter> {
    unused: Mutex<Unused, W>,
    /// Sync: the heaps' lock.
    generation: AtomicU32,
    /// The first heap that may be an orphan to adopt; 0 if there is none. Sync: written under the heaps' lock.
    next_orphan: AtomicU32,
}

impl<W: Waiter> HeapStates<W> {
    /// No heap yet.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { unused: Mutex::new(Unused(0)), generation: AtomicU32::new(0), next_orphan: AtomicU32::new(0) }
    }

    /// No heap yet.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { unused: Mutex::new(Unused(0)), generation: AtomicU32::new(0), next_orphan: AtomicU32::new(0) }
    }

    /// A heap, unused or new, that the calling thread owns from here on. Calls `with_lock` under the heaps' lock.
    /// `None` when memory has run out.
    pub fn take(&self, members: &impl Members, with_lock: impl FnOnce()) -> Option<u32> {
        let mut unused = self.unused.lock();
        let mut id = unused.0;
        if id == 0 {
            // No lock is held during the system call. A child forked meanwhile loses one heap, which was never used.
            drop(unused);
            id = members.make()?;
            // Relaxed: read by its owner, or after a fork, which orders the store, by an adopter.
            members.state(id).id.store(id, Ordering::Relaxed);
            unused = self.unused.lock();
        } else {
            // Relaxed: under the lock.
            unused.0 = members.state(id).next_unused.load(Ordering::Relaxed);
        }
        self.mark_used(members.state(id));
        with_lock();
        drop(unused);
        Some(id)
    }

    /// The caller holds the heaps' lock.
    fn mark_used(&self, heap: &HeapState) {
        // Relaxed, all: under the lock.
        heap.generation.store(self.generation.load(Ordering::Relaxed), Ordering::Relaxed);
        heap.state.store(IN_USE, Ordering::Relaxed);
    }

    /// Undoes [`HeapState::set_aside`]. The calling thread owns the heap, which is no orphan even if this thread forked
    /// meanwhile and is the child's. Rarely takes the heaps' lock.
    #[inline]
    pub fn take_back(&self, heap: &HeapState) {
        // Relaxed, both: only a fork of this thread, meanwhile, makes them differ.
        if heap.generation.load(Ordering::Relaxed) != self.generation.load(Ordering::Relaxed) {
            self.take_back_in_child(heap);
        }
        compiler_fence(core::sync::atomic::Ordering::SeqCst);
        // Relaxed, with a compiler fence: read in a forked child only.
        heap.aside.store(0, Ordering::Relaxed);
    }

    #[cold]
    fn take_back_in_child(&self, heap: &HeapState) {
        let _unused = self.unused.lock();
        self.mark_used(heap);
    }

    /// Takes back an empty heap, which the calling thread owns until now.
    pub fn give(&self, heap: &HeapState) {
        let mut first = self.unused.lock();
        // Relaxed, all: under the lock.
        heap.state.store(UNUSED, Ordering::Relaxed);
        heap.next_unused.store(first.0, Ordering::Relaxed);
        first.0 = heap.id.load(Ordering::Relaxed);
    }

    /// The heaps' lock, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &self.unused
    }

    /// In a forked child: makes every used heap but `own` an orphan. The calling thread holds the heaps' lock.
    pub fn orphan_all_but(&self, own: Option<&HeapState>) {
        // Relaxed, all: under the lock.
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        self.generation.store(generation, Ordering::Relaxed);
        if let Some(own) = own {
            own.claim.forget_taker();
            own.generation.store(generation, Ordering::Relaxed);
        }
        self.next_orphan.store(1, Ordering::Relaxed);
    }

    /// An orphan, which the calling thread must empty and give back. Orphans in the middle of a change are lost. One at a
    /// time, so that a child does not pay at once for all threads of its parent.
    #[inline]
    pub fn adopt(&self, members: &impl Members) -> Option<u32> {
        // Relaxed: a hint; a thread that misses it loses nothing.
        if self.next_orphan.load(Ordering::Relaxed) == 0 { None } else { self.take_orphan(members) }
    }

    #[cold]
    fn take_orphan(&self, members: &impl Members) -> Option<u32> {
        let _unused = self.unused.lock();
        // Relaxed: under the lock.
        let first = self.next_orphan.load(Ordering::Relaxed);
        if first == 0 {
            return None;
        }
        let end = members.end();
        let found = (first..end).take(LOOKS).find(|&id| self.is_orphan(members.state(id)));
        let next = found.map_or(first.saturating_add(LOOKS as u32), |id| id + 1);
        // Relaxed: under the lock.
        self.next_orphan.store(if next < end { next } else { 0 }, Ordering::Relaxed);
        found
    }

    /// Whether `heap` is an orphan that can be adopted; one that can't becomes LOST. The caller holds the heaps' lock.
    fn is_orphan(&self, heap: &HeapState) -> bool {
        // Relaxed, all: under the lock; an orphan's claim was written before the fork.
        if heap.state.load(Ordering::Relaxed) != IN_USE {
            return false;
        }
        if heap.generation.load(Ordering::Relaxed) == self.generation.load(Ordering::Relaxed) {
            return false;
        }
        // Its thread may be this process's, and then takes it back.
        if heap.aside.load(Ordering::Relaxed) != 0 {
            heap.state.store(LOST, Ordering::Relaxed);
            return false;
        }
        if heap.claim.is_unsettled() {
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

/// The target of a thread's pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage<H> {
    /// No heap yet.
    Without,
    /// The thread's heap.
    With(H),
    /// No heap any more.
    Left,
}

/// A thread's pointer to its heap.
pub trait Pointer {
    /// A thread's heap.
    type Heap: Copy;
    /// The current target.
    fn stage(&self) -> Stage<Self::Heap>;
    /// Sets the target.
    fn set_stage(&self, stage: Stage<Self::Heap>);
}

/// The thread's heap, from `take` if it has none yet. `None` if that fails, or if the thread has left: a second heap
/// would strand late frees.
#[inline]
pub fn begin<P: Pointer>(pointer: &P, take: impl FnOnce() -> Option<P::Heap>) -> Option<P::Heap> {
    match pointer.stage() {
        Stage::With(heap) => Some(heap),
        Stage::Left => None,
        Stage::Without => {
            let heap = take()?;
            pointer.set_stage(Stage::With(heap));
            Some(heap)
        }
    }
}

/// Marks the thread as left; `give` empties its heap, if it has one, and gives it back.
#[inline]
pub fn leave<P: Pointer>(pointer: &P, give: impl FnOnce(P::Heap)) {
    if let Stage::With(heap) = pointer.stage() {
        // First, so that nothing freed inside `give` enters the heap.
        pointer.set_stage(Stage::Left);
        give(heap);
    }
}

/// Copies that stand for a forked child's memory in models.
#[cfg(loom)]
#[allow(missing_docs, reason = "for models only")]
mod forked {
    use super::*;

    impl HeapState {
        #[allow(clippy::new_without_default, reason = "elsewhere a heap is zeroed memory")]
        pub fn new() -> Self {
            let zero = || AtomicU32::new(0);
            let claim = Claim::new();
            Self { claim, aside: zero(), state: zero(), generation: zero(), id: zero(), next_unused: zero() }
        }

        pub fn forked(&self) -> Self {
            // Relaxed: the model decides which stores the copy may miss.
            let copy = |word: &AtomicU32| AtomicU32::new(word.load(Ordering::Relaxed));
            Self {
                claim: self.claim.forked(),
                aside: copy(&self.aside),
                state: copy(&self.state),
                generation: copy(&self.generation),
                id: copy(&self.id),
                next_unused: copy(&self.next_unused),
            }
        }
    }

    impl<W: Waiter> HeapStates<W> {
        /// A copy with its lock held for the fork, as the calling thread holds the original's.
        pub fn forked(&self) -> Self {
            // SAFETY: the calling thread holds the lock for the fork.
            let unused = unsafe { self.unused.value_while_held() }.0;
            let copy = Self {
                unused: Mutex::new(Unused(unused)),
                // Relaxed, both: under the lock, or a hint.
                generation: AtomicU32::new(self.generation.load(Ordering::Relaxed)),
                next_orphan: AtomicU32::new(self.next_orphan.load(Ordering::Relaxed)),
            };
            copy.unused.acquire_for_fork();
            copy
        }
    }
}
