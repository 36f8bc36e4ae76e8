//! Heaps: every heap that an allocator has made, and the decoys that stand in front of some.
//!
//! Heaps are never unmapped, so that whoever counts may read them at any time.

use crate::platform::atomic::{AtomicUsize, Ordering};
use crate::platform::lock::ForkLock;
use crate::platform::os::Os;
use crate::platform::table::{Table, typed};
use crate::thread::heap::{Decoy, Heap};
use crate::thread::registry::{HeapState, HeapStates, Members};
use core::marker::PhantomData;
use core::ptr::NonNull;
use crossbeam_utils::CachePadded;

/// Bytes of a heap's unit. Chosen: the least power of two that fits every lane's heap.
const HEAP_UNIT_BYTES: usize = 8192;

/// Bytes of a decoy's unit. Chosen: the least power of two that fits a decoy.
const DECOY_UNIT_BYTES: usize = 4096;
const _: () = assert!(size_of::<Decoy>() <= DECOY_UNIT_BYTES);

/// All heaps, used and unused.
pub struct Heaps<S, Q, O: Os> {
    table: Table<HEAP_UNIT_BYTES>,
    decoys: Table<DECOY_UNIT_BYTES>,
    states: HeapStates<O>,
    /// Bytes of cached slots, as each heap's was last counted. A gauge.
    cached: CachePadded<AtomicUsize>,
    heaps: PhantomData<fn() -> Heap<S, Q>>,
}

impl<S, Q, O: Os> Members for Heaps<S, Q, O> {
    fn state(&self, id: u32) -> &HeapState {
        // SAFETY: `id` is a heap's. Heaps are never unmapped, and the state's fields are atomic.
        unsafe { &(*self.get(id)).state }
    }

    fn make(&self) -> Option<u32> {
        // An all-zero heap is a valid, empty one.
        self.table.allocate::<O>(1)
    }

    fn end(&self) -> u32 {
        self.table.end()
    }
}

impl<S, Q, O: Os> Heaps<S, Q, O> {
    /// No heaps.
    pub const fn new() -> Self {
        const { assert!(size_of::<Heap<S, Q>>() <= HEAP_UNIT_BYTES) }
        Self {
            table: Table::new(),
            decoys: Table::new(),
            states: HeapStates::new(),
            cached: CachePadded::new(AtomicUsize::new(0)),
            heaps: PhantomData,
        }
    }

    fn get(&self, id: u32) -> *mut Heap<S, Q> {
        // SAFETY: `id` came from this table and starts a heap's unit.
        unsafe { typed::<Heap<S, Q>, HEAP_UNIT_BYTES>(&self.table, id) }.as_ptr()
    }

    /// An empty heap for the calling thread to own. `None` when memory has run out. Calls `with_lock` under the heaps'
    /// lock.
    pub fn take(&self, with_lock: impl FnOnce()) -> Option<*mut Heap<S, Q>> {
        let heap = self.get(self.states.take(self, with_lock)?);
        // SAFETY: this thread owns the heap.
        unsafe {
            (*heap).batches.iter().for_each(|batch| batch.set(0));
            (*heap).misses.restart();
            (*heap).balances.forget_all();
        }
        Some(heap)
    }

    /// The decoy of `heap`, made on first use, its pace not started. `None` when memory has run out.
    ///
    /// # Safety
    /// The calling thread owns the heap.
    pub unsafe fn decoy_of(&self, heap: *mut Heap<S, Q>) -> Option<NonNull<Decoy>> {
        // SAFETY: the caller owns `heap`. A fresh unit is zeroed, fits a decoy and is this thread's alone.
        unsafe {
            if (*heap).decoy.get().is_null() {
                let decoy = typed::<Decoy, DECOY_UNIT_BYTES>(&self.decoys, self.decoys.allocate::<O>(1)?).as_ptr();
                (*decoy).stand_before(heap);
                (*heap).decoy.set(decoy);
            }
            NonNull::new((*heap).decoy.get())
        }
    }

    /// Takes back an empty heap. Takes the heaps' lock.
    ///
    /// # Safety
    /// The calling thread owns it, and no longer does afterwards.
    pub unsafe fn give(&self, heap: *mut Heap<S, Q>) {
        // SAFETY: `heap` is never unmapped, and what is used of it is atomic.
        unsafe {
            self.note_cached(&*heap, 0);
            self.states.give(&(*heap).state);
        }
    }

    /// The heaps' lock, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        self.states.lock_for_fork()
    }

    /// In a forked child: makes every used heap but `own` (null for none) an orphan.
    ///
    /// # Safety
    /// `own` is null or the calling thread's heap. The calling thread holds the heaps' lock.
    pub unsafe fn orphan_all_but(&self, own: *mut Heap<S, Q>) {
        // SAFETY: `own` is null or a heap, which is never unmapped and which only this thread writes.
        self.states.orphan_all_but(unsafe { own.as_ref() }.map(|own| &own.state));
    }

    /// As [`HeapStates::adopt`].
    #[inline]
    pub fn adopt(&self) -> Option<*mut Heap<S, Q>> {
        self.states.adopt(self).map(|id| self.get(id))
    }

    /// As [`HeapStates::take_back`].
    #[inline]
    pub fn take_back(&self, heap: &Heap<S, Q>) {
        self.states.take_back(&heap.state);
    }

    /// Counts `bytes` of cached slots for `heap`; returns the sum of all heaps, as each was last counted.
    pub fn note_cached(&self, heap: &Heap<S, Q>, bytes: usize) -> usize {
        // Relaxed, all: gauges. Each change of a heap's count is added once, so the sum may be off only in a child forked
        // between the two.
        let more = bytes.wrapping_sub(heap.counted.swap(bytes, Ordering::Relaxed));
        if more != 0 {
            self.cached.fetch_add(more, Ordering::Relaxed);
        }
        self.cached()
    }

    /// Bytes of cached slots in all heaps, as each was last counted.
    pub fn cached(&self) -> usize {
        let sum = self.cached.load(Ordering::Relaxed);
        // Below zero: another thread is between its two steps.
        if sum > isize::MAX as usize { 0 } else { sum }
    }

    /// Calls `visit` with every heap, used or not. Heaps are never unmapped.
    pub fn each(&self, mut visit: impl FnMut(*const Heap<S, Q>)) {
        (1..self.table.end()).filter_map(|id| self.peek(id)).for_each(&mut visit);
    }

    /// Heap `id`, from 1 to [`Heaps::made`], used or not; `None` if its memory is still to come. Never unmapped.
    pub fn peek(&self, id: u32) -> Option<*const Heap<S, Q>> {
        let heap = self.table.peek(id).cast::<Heap<S, Q>>();
        (!heap.is_null()).then_some(heap.cast_const())
    }

    /// Number of heaps ever made.
    pub fn made(&self) -> u32 {
        self.table.end() - 1
    }

    /// Bytes of address space mapped for heaps.
    pub fn mapped_bytes(&self) -> usize {
        self.table.mapped_bytes() + self.decoys.mapped_bytes()
    }
}

impl<S, Q, O: Os> Default for Heaps<S, Q, O> {
    fn default() -> Self {
        Self::new()
    }
}
