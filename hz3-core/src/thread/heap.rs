//! Heap: a thread's own cache, one entry per bin, and its remote stash.
//!
//! ```text
//! entry   top ─────────┐     limit ─┐
//!         base ─┐      ↓            ↓
//! magazine |hdr|slot|…|slot|  room  |        spare → a second magazine, full or empty
//! ```
//!
//! The entry's first magazine is *loaded*: `base ≤ top ≤ limit`, slots lie below `top`. An entry without
//! a magazine is all null: empty and full at once, as is every entry of the two static heaps below, which
//! belong to threads that have no heap yet and to threads that gave theirs back. Only its own thread
//! touches a heap, except in a forked child, where the threads of the others' are gone.

use crate::pages::bins::BINS;
use crate::pages::shape::MAX_SLOTS;
use crate::pages::slot::{Places, Slot};
use crate::platform::atomic::{AtomicPtr, AtomicU64, Ordering, compiler_fence};
use crate::platform::lock::ForkLock;
use crate::platform::os::Os;
use crate::platform::table::{Table, typed};
use crate::platform::units::{BIN_ENTRY_BYTES, Bin, ShardId};
use crate::record::pace::Pace;
use crate::thread::flow::Balances;
use crate::thread::registry::{HeapState, HeapStates, Members};
use crate::transfer::magazine::Magazine;
use core::marker::PhantomData;
use core::ptr::{NonNull, null_mut};

/// A heap's entry for one bin. Sync, every field: written by the owner thread, read by anyone; so that every access is
/// atomic, and Relaxed, because what a reader sees need not agree.
#[repr(C)]
pub struct Entry {
    /// One past the last slot.
    top: AtomicPtr<Slot>,
    /// The loaded magazine's first slot; null without a magazine.
    base: AtomicPtr<Slot>,
    /// One past the loaded magazine's last place.
    limit: AtomicPtr<Slot>,
    /// The second magazine, or null.
    spare: AtomicPtr<Magazine>,
}

impl Entry {
    const fn none() -> Self {
        Self {
            top: AtomicPtr::new(null_mut()),
            base: AtomicPtr::new(null_mut()),
            limit: AtomicPtr::new(null_mut()),
            spare: AtomicPtr::new(null_mut()),
        }
    }

    // Relaxed, all accesses below: as the struct says.

    /// Whether there is no slot to take. True without a magazine.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.top.load(Ordering::Relaxed) == self.base.load(Ordering::Relaxed)
    }

    /// Whether there is no room for a slot. True without a magazine.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.top.load(Ordering::Relaxed) == self.limit.load(Ordering::Relaxed)
    }

    /// Whether there is a loaded magazine.
    #[inline(always)]
    pub fn is_loaded(&self) -> bool {
        !self.base.load(Ordering::Relaxed).is_null()
    }

    /// The second magazine, or null.
    #[inline]
    pub fn spare(&self) -> *mut Magazine {
        self.spare.load(Ordering::Relaxed)
    }

    /// Replaces the second magazine.
    ///
    /// # Safety
    /// The caller owns the entry's heap, and `magazine`, which may be null.
    #[inline]
    pub unsafe fn set_spare(&self, magazine: *mut Magazine) {
        self.spare.store(magazine, Ordering::Relaxed);
    }

    /// Takes the slot on top; `None` where there is none.
    ///
    /// # Safety
    /// The entry is one of the calling thread's heap, decoy or static heap.
    #[inline(always)]
    pub unsafe fn pop(this: *mut Entry) -> Option<Slot> {
        // SAFETY: the caller's promise; between `base` and `top` the magazine's slots are initialised.
        unsafe {
            // Plain reads, which fold into the comparison: the calling thread alone writes these words.
            let top = *(*this).top.as_ptr();
            if top == *(*this).base.as_ptr() {
                return None;
            }
            // The decrement is a load and a store of its own, which the compiler makes one instruction on memory.
            let word = &(*this).top;
            word.store(word.load(Ordering::Relaxed).sub(1), Ordering::Relaxed);
            Some(top.sub(1).read())
        }
    }

    /// Puts the slot at `block` on top, if there is room and it `is_fit`; whether it did.
    ///
    /// # Safety
    /// As for [`Entry::pop`]. A slot begins at `block`, which is nobody else's where it `is_fit`.
    #[inline(always)]
    pub unsafe fn push_if(this: *mut Entry, block: *mut u8, is_fit: impl FnOnce() -> bool) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            // Plain reads, as in `pop`.
            let top = *(*this).top.as_ptr();
            if top == *(*this).limit.as_ptr() || !is_fit() {
                return false;
            }
            Self::push_at(this, top, Slot::new(block));
        }
        true
    }

    /// Puts `slot` on top of the loaded magazine, which has room.
    ///
    /// # Safety
    /// As for [`Entry::pop`]; the entry is not full.
    #[inline(always)]
    pub unsafe fn push(this: *mut Entry, slot: Slot) {
        // SAFETY: the caller's promise.
        unsafe { Self::push_at(this, (*this).top.load(Ordering::Relaxed), slot) }
    }

    /// As [`Entry::push`], where `top` is known.
    ///
    /// # Safety
    /// As for [`Entry::push`].
    #[inline(always)]
    unsafe fn push_at(this: *mut Entry, top: *mut Slot, slot: Slot) {
        // SAFETY: the caller's promise.
        unsafe {
            top.write(slot);
            // The slot is written before it counts, also in the eyes of a forked child, which sees this thread
            // stopped between any two instructions.
            compiler_fence(Ordering::Release);
            // One instruction on memory, as in `pop`.
            let word = &(*this).top;
            word.store(word.load(Ordering::Relaxed).add(1), Ordering::Relaxed);
        }
    }

    /// Takes one of the last few slots, which `random_below` chooses. Whoever hardens, draws.
    ///
    /// # Safety
    /// As for [`Entry::pop`]; the entry is not empty.
    #[inline(always)]
    pub unsafe fn draw(this: *mut Entry, random_below: impl FnOnce(usize) -> usize) -> Slot {
        // SAFETY: the caller's promise; between `base` and `top` the magazine's slots are initialised.
        unsafe {
            let (top, base) = ((*this).top.load(Ordering::Relaxed), (*this).base.load(Ordering::Relaxed));
            let count = top.offset_from_unsigned(base);
            let place = base.add(count - 1 - random_below(count.min(DRAWN)));
            let slot = place.read();
            let last = top.sub(1);
            (*this).top.store(last, Ordering::Relaxed);
            // A forked child that sees this thread stopped here loses one slot, and finds none twice.
            compiler_fence(Ordering::Release);
            // Where they are one place, nothing counts there any more.
            place.write(last.read());
            slot
        }
    }

    /// The places of the loaded magazine, which is empty, up to `count` of them.
    ///
    /// # Safety
    /// The caller owns the entry's heap; a magazine is loaded, of at least that capacity.
    pub unsafe fn places<'a>(&self, count: u16) -> &'a mut Places {
        // SAFETY: the caller's promise.
        unsafe { core::slice::from_raw_parts_mut(self.base.load(Ordering::Relaxed).cast(), usize::from(count)) }
    }

    /// Says that the loaded magazine holds `count` slots.
    ///
    /// # Safety
    /// The caller owns the entry's heap; the first `count` places hold slots.
    pub unsafe fn set_count(&self, count: usize) {
        // SAFETY: the caller's promise.
        self.top.store(unsafe { self.base.load(Ordering::Relaxed).add(count) }, Ordering::Relaxed);
    }

    /// Loads `magazine`.
    ///
    /// # Safety
    /// The caller owns the entry's heap, which has nothing loaded there, and the magazine.
    #[inline]
    pub unsafe fn load(&self, magazine: *mut Magazine) {
        // SAFETY: the slots lie in the magazine.
        unsafe {
            let base = Magazine::slots(magazine);
            self.base.store(base, Ordering::Relaxed);
            self.limit.store(base.add(usize::from((*magazine).capacity)), Ordering::Relaxed);
            self.top.store(base.add(usize::from((*magazine).count)), Ordering::Relaxed);
        }
    }

    /// The loaded magazine, its slots counted; it stays loaded. `None` where there is none.
    ///
    /// # Safety
    /// The caller owns the entry's heap.
    #[inline]
    pub unsafe fn loaded(&self) -> Option<*mut Magazine> {
        let (top, base) = (self.top.load(Ordering::Relaxed), self.base.load(Ordering::Relaxed));
        if base.is_null() {
            return None;
        }
        // SAFETY: `base` lies in a magazine of this heap, and `top` not before it.
        unsafe {
            let magazine = Magazine::of_slots(base);
            (*magazine).count = top.offset_from_unsigned(base) as u16;
            Some(magazine)
        }
    }

    /// Takes the loaded magazine out, its slots counted; the caller's from here on.
    ///
    /// # Safety
    /// The caller owns the entry's heap.
    #[inline]
    pub unsafe fn unload(&self) -> Option<*mut Magazine> {
        // SAFETY: the caller's promise.
        let loaded = unsafe { self.loaded() };
        self.top.store(null_mut(), Ordering::Relaxed);
        self.base.store(null_mut(), Ordering::Relaxed);
        self.limit.store(null_mut(), Ordering::Relaxed);
        loaded
    }

    /// Takes both magazines out, their slots counted; the caller's from here on.
    ///
    /// # Safety
    /// The caller owns the entry's heap.
    pub unsafe fn unload_all(&self) -> [Option<NonNull<Magazine>>; 2] {
        let spare = NonNull::new(self.spare());
        // SAFETY: the caller's promise.
        unsafe {
            let loaded = self.unload().and_then(NonNull::new);
            self.set_spare(null_mut());
            [loaded, spare]
        }
    }

    /// Exchanges the loaded magazine for the spare one. Both must be there.
    ///
    /// # Safety
    /// The caller owns the entry's heap.
    #[inline]
    pub unsafe fn swap(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(loaded) = self.loaded() {
                let spare = self.spare();
                self.set_spare(loaded);
                self.load(spare);
            }
        }
    }

    /// Calls `look` with the slots of each magazine: the first one's place and their number. For whoever does not own the
    /// heap: exact while its owner leaves it alone.
    pub fn peek(&self, mut look: impl FnMut(*const Slot, usize)) {
        let (top, base) = (self.top.load(Ordering::Relaxed), self.base.load(Ordering::Relaxed));
        let count = top.addr().wrapping_sub(base.addr()) / size_of::<Slot>();
        // More than a magazine holds: the two words are of two magazines, because the owner was at work.
        if !base.is_null() && count <= MAX_SLOTS {
            look(base, count);
        }
        let spare = self.spare();
        if !spare.is_null() {
            // SAFETY: what an entry refers to is a magazine, and magazines are never unmapped.
            let (slots, count) = unsafe { Magazine::peek(spare) };
            look(slots.cast(), count);
        }
    }
}

/// Among how many slots of a magazine one is drawn: the last ones. Chosen: what programs allocate one after another they
/// read one after another, and the more of that order is lost, the longer they wait for memory. Python's objects took
/// 1.5 times the scale lane's time where nothing was drawn, and 1.9 times among 16 here and in quarantine.
const DRAWN: usize = 4;

const _: () = assert!(size_of::<Entry>() == BIN_ENTRY_BYTES);

/// The entries of a heap. The foreign bin's stays null for ever.
#[repr(C)]
pub struct Entries([Entry; BINS]);

impl Entries {
    const fn none() -> Self {
        Entries([const { Entry::none() }; BINS])
    }
}

/// Slow paths of one thread between two looks at the clock.
pub const TICKS: u8 = 64;

/// The heap of a thread that has none yet.
pub static NO_HEAP: Entries = Entries::none();
/// The heap of a thread that is ending and has given its own back.
pub static LEFT_HEAP: Entries = Entries::none();

/// What a thread's pointer leads to while there is a profile: entries that are all null, so that each of the
/// thread's calls takes its slow path, and behind them the heap. All zeros but for that.
#[repr(C)]
pub struct Decoy {
    /// At offset 0, as in a heap. The foreign bin's entry, of which no hit path reads more than `top`, `base` and
    /// `limit`, has the heap's address for a spare magazine.
    entries: Entries,
    /// When the thread is sampled next. Sync: owner thread.
    pub pace: Pace,
}

/// The heap of a thread: the one at its pointer, or that behind the decoy there.
///
/// # Safety
/// `entries` is the calling thread's pointer and none of the two static heaps.
#[inline]
pub unsafe fn behind<S, Q>(entries: *mut Entries) -> *mut Heap<S, Q> {
    // SAFETY: the caller's promise; the foreign bin's spare is null in a heap.
    let heap = unsafe { (*entries).0[0].spare() };
    if heap.is_null() { entries.cast() } else { heap.cast() }
}

/// The decoy at a thread's pointer; `None` where there is a heap, of its own or a static one.
///
/// # Safety
/// `entries` is the calling thread's pointer.
#[inline]
pub unsafe fn decoy(entries: *mut Entries) -> Option<NonNull<Decoy>> {
    // SAFETY: every heap, the static ones included, begins with entries that outlive all threads.
    let heap = unsafe { (*entries).0[0].spare() };
    if heap.is_null() { None } else { NonNull::new(entries.cast()) }
}

/// The entry of `bin` at a thread's pointer.
///
/// # Safety
/// `entries` is the calling thread's pointer or heap.
#[inline(always)]
pub unsafe fn entry_at(entries: *mut Entries, bin: Bin) -> *mut Entry {
    // SAFETY: the caller's promise; every bin has an entry.
    unsafe { entries.byte_add(bin.entry_offset()).cast() }
}

/// What a heap's events amount to. Plain counts of its own thread, read by anyone.
#[derive(Default)]
pub struct Counters {
    /// Refills from this thread's own shard's depots and inboxes.
    pub refills: AtomicU64,
    /// Refills from other shards.
    pub steals: AtomicU64,
    /// Refills from spans.
    pub carves: AtomicU64,
    /// Magazines handed to a depot.
    pub spills: AtomicU64,
    /// Slots that went home.
    pub homeward: AtomicU64,
}

/// Adds to a counter that only the calling thread writes.
#[inline]
pub fn count(counter: &AtomicU64, more: u64) {
    // Relaxed, and no read-modify-write: one writer, and readers want no more than a recent value.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// A thread's heap.
#[repr(C, align(128))]
pub struct Heap<S, Q> {
    /// At offset 0: a heap's address is its entries'.
    pub entries: Entries,
    /// Slots that the next refill from a span carves, by bin. Sync: owner thread.
    pub batches: [u8; BINS],
    /// Whether the thread is one end of a queue, by bin. Sync: owner thread.
    pub balances: Balances,
    /// Bins that took a slow path since the last look for cold bins. Sync: owner thread.
    pub active: [bool; BINS],
    /// When that look was, in milliseconds. Sync: owner thread.
    pub looked: u32,
    /// Trims of the allocator that this heap has followed. Sync: owner thread.
    pub trims: u32,
    /// The shard that the thread belongs to. Sync: owner thread.
    pub shard: ShardId,
    /// Slow paths left until the next look at the clock. Sync: owner thread.
    pub ticks: u8,
    /// Whose the heap is.
    state: HeapState,
    /// Where the thread's random numbers are; 0 before the first. Sync: owner thread.
    random: u64,
    /// The heap's decoy, or null where it never needed one. Sync: owner thread.
    decoy: *mut Decoy,
    /// Counts of events.
    pub counters: Counters,
    /// Slots on their way home. Sync: owner thread.
    pub stash: S,
    /// Slots that were freed a short while ago. Sync: owner thread.
    pub quarantine: Q,
}

impl<S, Q> Heap<S, Q> {
    /// The entry of `bin`.
    #[inline]
    pub fn entry(&self, bin: Bin) -> &Entry {
        let index = usize::from(bin.0);
        // A clamp instead of a bounds check: nothing in the allocator may panic.
        &self.entries.0[if index < BINS { index } else { 0 }]
    }

    /// The entry of `bin`, to push to and pop from.
    #[inline]
    pub fn entry_mut(&self, bin: Bin) -> *mut Entry {
        core::ptr::from_ref(self.entry(bin)).cast_mut()
    }

    /// A random number of 32 bits (xorshift64*, whose upper half is used).
    pub fn random<O: Os>(&mut self) -> u32 {
        let mut state = self.random;
        if state == 0 {
            state = O::random_seed() ^ core::ptr::from_ref(self).addr() as u64 | 1;
        }
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random = state;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A random number below `limit`, which fits 32 bits.
    pub fn random_below<O: Os>(&mut self, limit: usize) -> usize {
        ((u64::from(self.random::<O>()) * limit as u64) >> 32) as usize
    }

    /// Notes that `bin` took a slow path.
    #[inline]
    pub fn mark_active(&mut self, bin: Bin) {
        if let Some(active) = self.active.get_mut(usize::from(bin.0)) {
            *active = true;
        }
    }

    /// As [`HeapState::unsettled`].
    #[inline]
    pub fn unsettled(&self) {
        self.state.unsettled();
    }

    /// As [`HeapState::settled`].
    #[inline]
    pub fn settled(&self) {
        self.state.settled();
    }
}

/// Bytes of one heap's unit. Chosen: the least power of two that every lane's heap fits in.
const HEAP_UNIT_BYTES: usize = 8192;

/// Bytes of one decoy's unit. Chosen: the least power of two that a decoy fits in.
const DECOY_UNIT_BYTES: usize = 4096;
const _: () = assert!(size_of::<Decoy>() <= DECOY_UNIT_BYTES);

/// Every heap there is, and those that no thread uses.
pub struct Heaps<S, Q, O: Os> {
    table: Table<HEAP_UNIT_BYTES>,
    decoys: Table<DECOY_UNIT_BYTES>,
    states: HeapStates<O>,
    heaps: PhantomData<fn() -> Heap<S, Q>>,
}

impl<S, Q, O: Os> Members for Heaps<S, Q, O> {
    fn state(&self, id: u32) -> &HeapState {
        // SAFETY: heaps are never unmapped, and the state is atomic.
        unsafe { &(*self.get(id)).state }
    }

    fn make(&self) -> Option<u32> {
        // All-zero entries, counters and stash are empty ones.
        self.table.allocate::<O>(1)
    }

    fn end(&self) -> u32 {
        self.table.end()
    }
}

impl<S, Q, O: Os> Heaps<S, Q, O> {
    /// None yet.
    pub const fn new() -> Self {
        const { assert!(size_of::<Heap<S, Q>>() <= HEAP_UNIT_BYTES) }
        Self { table: Table::new(), decoys: Table::new(), states: HeapStates::new(), heaps: PhantomData }
    }

    fn get(&self, id: u32) -> *mut Heap<S, Q> {
        // SAFETY: ids come from the table.
        unsafe { typed::<Heap<S, Q>, HEAP_UNIT_BYTES>(&self.table, id) }.as_ptr()
    }

    /// A heap without slots for the calling thread. `None` where memory has run out.
    pub fn take(&self) -> Option<*mut Heap<S, Q>> {
        let heap = self.get(self.states.take(self)?);
        // SAFETY: the heap is this thread's.
        unsafe {
            (*heap).batches = [0; BINS];
            (*heap).active = [true; BINS];
            (*heap).balances.begin_anew();
        }
        Some(heap)
    }

    /// The decoy of `heap`, made where there is none; its pace may not have started. `None` where memory has run
    /// out.
    ///
    /// # Safety
    /// The calling thread owns the heap.
    pub unsafe fn decoy_of(&self, heap: *mut Heap<S, Q>) -> Option<NonNull<Decoy>> {
        // SAFETY: the caller's promise; a fresh unit is zeroed and this thread's alone.
        unsafe {
            if (*heap).decoy.is_null() {
                let decoy = typed::<Decoy, DECOY_UNIT_BYTES>(&self.decoys, self.decoys.allocate::<O>(1)?).as_ptr();
                (*decoy).entries.0[0].set_spare(heap.cast());
                (*heap).decoy = decoy;
            }
            NonNull::new((*heap).decoy)
        }
    }

    /// Takes back a heap that holds no slot any more.
    ///
    /// # Safety
    /// The calling thread owned it and uses it no longer.
    pub unsafe fn give(&self, heap: *mut Heap<S, Q>) {
        // SAFETY: heaps are never unmapped, and the state is atomic.
        self.states.give(unsafe { &(*heap).state });
    }

    /// The lock over the unused heaps, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        self.states.lock_for_fork()
    }

    /// In a forked child: every heap but `own` (null for none) belonged to a thread that is gone.
    ///
    /// # Safety
    /// `own` is null or the calling thread's heap, and that thread holds the lock over the unused heaps.
    pub unsafe fn orphan_all_but(&self, own: *mut Heap<S, Q>) {
        // SAFETY: the caller's own heap, if it has one.
        self.states.orphan_all_but(unsafe { own.as_ref() }.map(|own| &own.state));
    }

    /// As [`HeapStates::adopt_orphans`].
    #[inline]
    pub fn adopt_orphans(&self, mut adopt: impl FnMut(*mut Heap<S, Q>)) {
        self.states.adopt_orphans(self, |id| adopt(self.get(id)));
    }

    /// Calls `look` with every heap there is, whoever uses it; heaps are never unmapped.
    pub fn each(&self, mut look: impl FnMut(*const Heap<S, Q>)) {
        for id in 1..self.table.end() {
            let heap = self.table.peek(id).cast::<Heap<S, Q>>();
            if !heap.is_null() {
                look(heap);
            }
        }
    }

    /// Heaps ever made.
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

/// As [`Entry::peek`], for the entry of `bin` in `heap`. No reference to the whole heap: what else is in it is the owner's,
/// who may be at work.
///
/// # Safety
/// `heap` is one that [`Heaps::each`] gives.
pub unsafe fn peek<S, Q>(heap: *const Heap<S, Q>, bin: Bin, look: impl FnMut(*const Slot, usize)) {
    let index = usize::from(bin.0);
    // SAFETY: heaps are never unmapped, and an entry's words are atomic; the clamp is that of `Heap::entry`.
    unsafe { &(*heap).entries.0[if index < BINS { index } else { 0 }] }.peek(look);
}

/// Whether `heap` is one of the two static ones.
#[inline]
pub fn is_static(heap: *const Entries) -> bool {
    core::ptr::eq(heap, &NO_HEAP) || core::ptr::eq(heap, &LEFT_HEAP)
}

/// Whether the thread of `heap` is ending.
#[inline]
pub fn has_left(heap: *const Entries) -> bool {
    core::ptr::eq(heap, &LEFT_HEAP)
}
