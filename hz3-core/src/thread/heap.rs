//! Heap: a thread's private cache of free slots, two magazines per bin, and its remote stash.
//!
//! ```text
//! entry   top ─────────┐     limit ─┐
//!         base ─┐      ↓            ↓
//! magazine |hdr|slot|…|slot|  room  |        spare → a second magazine, full or empty
//! ```
//!
//! The entry's first magazine is [*loaded*](crate::thread::loaded): slots lie from `base` to `top`. Without one the entry
//! is all null, so empty and full at once: every access misses. The two static heaps consist of such entries. Only its
//! owner writes a heap, but for who [holds](crate::thread::claim) it, and for a forked child, which adopts the heaps of
//! threads that are gone.

use crate::pages::bins::{self, BINS};
use crate::pages::policy::{Policy, shape};
use crate::pages::shape::MAX_SLOTS;
use crate::pages::slot::{Places, Slot};
use crate::platform::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use crate::platform::os::Os;
use crate::platform::units::{BIN_ENTRY_BYTES, Bin, ShardId};
use crate::record::pace::Pace;
use crate::thread::claim::Claim;
use crate::thread::flow::Balances;
use crate::thread::loaded::Loaded;
use crate::thread::misses::Misses;
use crate::thread::registry::HeapState;
use crate::thread::rest::Rest;
use crate::transfer::magazine::Magazine;
use core::cell::Cell;
use core::ptr::{NonNull, null_mut};

/// A heap's entry for one bin. Sync, both fields: as [`Loaded`]'s; a taker that holds the heap also takes spares.
#[repr(C)]
pub struct Entry {
    loaded: Loaded,
    /// The second magazine, or null.
    spare: AtomicPtr<Magazine>,
}

impl Entry {
    // Relaxed, all accesses below: as `Loaded` says.

    /// As [`Loaded::is_empty`].
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.loaded.is_empty()
    }

    /// As [`Loaded::is_full`].
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.loaded.is_full()
    }

    /// As [`Loaded::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.loaded.is_closed()
    }

    /// As [`Loaded::is_any`].
    #[inline(always)]
    pub fn is_loaded(&self) -> bool {
        self.loaded.is_any()
    }

    /// The second magazine, or null.
    #[inline]
    pub fn spare(&self) -> *mut Magazine {
        self.spare.load(Ordering::Relaxed)
    }

    /// Replaces the second magazine.
    ///
    /// # Safety
    /// The caller owns the entry's heap, in a change, or holds it and is between `enter` and `leave`; `magazine` is null or
    /// the caller's. A decoy's foreign entry takes the caller's heap instead.
    #[inline]
    pub unsafe fn set_spare(&self, magazine: *mut Magazine) {
        self.spare.store(magazine, Ordering::Relaxed);
    }

    /// As [`Loaded::pop`].
    ///
    /// # Safety
    /// `this` is an entry at the calling thread's pointer, or of the heap that the thread owns.
    #[inline(always)]
    pub unsafe fn pop(this: *mut Entry) -> Option<Slot> {
        // SAFETY: the caller's own promise.
        unsafe { Loaded::pop(&raw mut (*this).loaded) }
    }

    /// As [`Loaded::push_if`].
    ///
    /// # Safety
    /// As for [`Entry::pop`]. If `accept` returns true, a free slot begins at `block` and belongs to the caller.
    #[inline(always)]
    pub unsafe fn push_if(this: *mut Entry, block: *mut u8, accept: impl FnOnce() -> bool) -> bool {
        // SAFETY: the caller's own promise.
        unsafe { Loaded::push_if(&raw mut (*this).loaded, block, accept) }
    }

    /// As [`Loaded::push`].
    ///
    /// # Safety
    /// As for [`Entry::pop`]; the entry is not full.
    #[inline(always)]
    pub unsafe fn push(this: *mut Entry, slot: Slot) {
        // SAFETY: the caller's own promise.
        unsafe { Loaded::push(&raw mut (*this).loaded, slot) }
    }

    /// As [`Loaded::draw`].
    ///
    /// # Safety
    /// As for [`Entry::pop`], within a change.
    #[inline(always)]
    pub unsafe fn draw(this: *mut Entry, random_below: impl FnOnce(usize) -> usize) -> Option<Slot> {
        // SAFETY: the caller's own promise.
        unsafe { Loaded::draw(&raw mut (*this).loaded, random_below) }
    }

    // ---- the owner's changes ----

    /// The first `count` places of the loaded magazine.
    ///
    /// # Safety
    /// The caller owns the entry's heap, in a change. The loaded magazine is empty, has `count` places, and is not used
    /// during `'a`.
    pub unsafe fn places<'a>(&self, count: u16) -> &'a mut Places {
        let base = self.loaded.look().map_or(core::ptr::dangling_mut(), |(base, _)| base);
        // SAFETY: `count` places follow `base`, need no initialisation and are the caller's during `'a`.
        unsafe { core::slice::from_raw_parts_mut(base.cast(), usize::from(count)) }
    }

    /// Sets the loaded magazine's number of slots.
    ///
    /// # Safety
    /// The caller owns the entry's heap, in a change; the first `count` places of the loaded magazine contain slots.
    pub unsafe fn set_count(&self, count: usize) {
        // SAFETY: the caller's own promise: outside of claims `base` is the first place.
        unsafe { self.loaded.set_count(count) };
    }

    /// As [`Loaded::close`].
    pub fn close(&self) {
        self.loaded.close();
    }

    /// As [`Loaded::open`].
    pub fn open(&self, capacity: u16) {
        self.loaded.open(usize::from(capacity));
    }

    /// Loads `magazine` with its `count`, in place of any other, which the caller keeps.
    ///
    /// # Safety
    /// The caller owns the entry's heap, in a change, and `magazine`.
    #[inline]
    pub unsafe fn load(&self, magazine: *mut Magazine) {
        // SAFETY: the caller owns `magazine`; `count ≤ capacity` places follow its header.
        unsafe {
            let (count, capacity) = (usize::from((*magazine).count()), usize::from((*magazine).capacity));
            self.loaded.load(Magazine::slots(magazine), count, capacity);
        }
    }

    /// The loaded magazine, with `count` set; it stays loaded. `None` without one.
    ///
    /// # Safety
    /// The caller owns the entry's heap, in a change; or holds it, in a lane whose hits are changes, and is between `enter`
    /// and `leave`.
    #[inline]
    pub unsafe fn loaded(&self) -> Option<*mut Magazine> {
        let (base, count) = self.loaded.look()?;
        // SAFETY: `base` is the first place of a magazine, which the caller owns, with so many slots.
        unsafe {
            let magazine = Magazine::of_slots(base);
            (*magazine).set_count(count as u16);
            Some(magazine)
        }
    }

    /// Takes the loaded magazine out, with `count` set; the caller owns it from here on. `None` without one.
    ///
    /// # Safety
    /// As for [`Entry::loaded`].
    #[inline]
    pub unsafe fn unload(&self) -> Option<*mut Magazine> {
        // SAFETY: the caller owns the heap.
        let loaded = unsafe { self.loaded() };
        self.loaded.forget();
        loaded
    }

    /// Takes both magazines out, with `count` set; the caller owns them from here on.
    ///
    /// # Safety
    /// As for [`Entry::loaded`].
    pub unsafe fn unload_all(&self) -> [Option<NonNull<Magazine>>; 2] {
        let spare = NonNull::new(self.spare());
        // SAFETY: the caller owns the heap; the spare is taken out.
        unsafe {
            let loaded = self.unload().and_then(NonNull::new);
            self.set_spare(null_mut());
            [loaded, spare]
        }
    }

    /// Swaps the loaded magazine and the spare.
    ///
    /// # Safety
    /// The caller owns the entry's heap, in a change. If a magazine is loaded, there is a spare.
    #[inline]
    pub unsafe fn swap(&self) {
        // SAFETY: the caller owns the heap, and both magazines with it.
        unsafe {
            if let Some(loaded) = self.loaded() {
                let spare = self.spare();
                self.set_spare(loaded);
                self.load(spare);
            }
        }
    }

    /// Calls `visit` with each magazine's first place and slot count, for other threads: exact while the owner is idle.
    pub fn peek(&self, mut visit: impl FnMut(*const Slot, usize)) {
        // A larger count: the owner swapped magazines between the two reads.
        if let Some((base, count)) = self.loaded.look().filter(|&(_, count)| count <= MAX_SLOTS) {
            visit(base, count);
        }
        let spare = self.spare();
        if !spare.is_null() {
            // SAFETY: a non-null spare is a magazine, and magazines are never unmapped.
            let (slots, count) = unsafe { Magazine::peek(spare) };
            visit(slots.cast(), count);
        }
    }
}

const _: () = assert!(size_of::<Entry>() == BIN_ENTRY_BYTES);

/// The entries of a heap, by bin. The foreign bin's entry is never loaded.
#[repr(C)]
pub struct Entries([Entry; BINS]);

/// Entries that are null for ever: plain words, so that they lie in read-only memory.
#[repr(C, align(8))]
pub struct StaticHeap([usize; BINS * BIN_ENTRY_BYTES / size_of::<usize>()]);

const _: () = assert!(size_of::<StaticHeap>() == size_of::<Entries>());

impl StaticHeap {
    const fn new() -> Self {
        StaticHeap([0; BINS * BIN_ENTRY_BYTES / size_of::<usize>()])
    }

    /// Its entries, which are only read: they are empty and full at once.
    pub const fn entries(&'static self) -> *mut Entries {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

/// A thread reads the clock once per this many misses.
pub const TICKS: u8 = 64;

/// The entries of a thread that has no heap yet.
pub static NO_HEAP: StaticHeap = StaticHeap::new();
/// The entries of a thread that is ending and has given its heap back, or has set it aside for the time of a miss.
pub static LEFT_HEAP: StaticHeap = StaticHeap::new();

/// Stands in front of a heap while there is a heap profile: its null entries make each call miss. Starts as zeros.
#[repr(C)]
pub struct Decoy {
    /// At offset 0, as in a heap. The foreign bin's `spare`, which no hit path reads, is the heap's address.
    entries: Entries,
    /// Decides when the thread is sampled next. Sync: owner thread.
    pub pace: Pace,
}

impl Decoy {
    /// Makes the decoy stand in front of `heap`.
    ///
    /// # Safety
    /// The calling thread owns both.
    pub unsafe fn stand_before<S, Q>(&self, heap: *mut Heap<S, Q>) {
        // SAFETY: the caller owns the entry.
        unsafe { self.entries.0[0].set_spare(heap.cast()) };
    }
}

/// The calling thread's heap: the one at its pointer, or the one behind the decoy there.
///
/// # Safety
/// `entries` is the calling thread's pointer and not a static heap.
#[inline]
pub unsafe fn heap_at<S, Q>(entries: *mut Entries) -> *mut Heap<S, Q> {
    // SAFETY: heaps and decoys are never unmapped. The foreign bin's spare is null in a heap.
    let heap = unsafe { (*entries).0[0].spare() };
    if heap.is_null() { entries.cast() } else { heap.cast() }
}

/// The decoy at the calling thread's pointer; `None` if that is a heap, static or not.
///
/// # Safety
/// `entries` is the calling thread's pointer.
#[inline]
pub unsafe fn decoy(entries: *mut Entries) -> Option<NonNull<Decoy>> {
    // SAFETY: heaps, static or not, and decoys are never unmapped.
    let heap = unsafe { (*entries).0[0].spare() };
    if heap.is_null() { None } else { NonNull::new(entries.cast()) }
}

/// The entry of `bin` at the calling thread's pointer.
///
/// # Safety
/// `entries` is the calling thread's pointer or heap.
#[inline(always)]
pub unsafe fn entry_at(entries: *mut Entries, bin: Bin) -> *mut Entry {
    // SAFETY: every bin has an entry, at its offset from `entries`.
    unsafe { entries.byte_add(bin.entry_offset()).cast() }
}

/// Counts of a heap's events. Sync: only the owner thread writes, any thread may read.
#[derive(Default)]
pub struct Counters {
    /// Refills from the own shard's depots and inboxes.
    pub refills: AtomicU64,
    /// Refills from other shards.
    pub steals: AtomicU64,
    /// Refills from spans.
    pub carves: AtomicU64,
    /// Magazines spilled to a depot or inbox.
    pub spills: AtomicU64,
    /// Slots sent home.
    pub homeward: AtomicU64,
}

/// Adds to a counter that only the calling thread writes.
#[inline]
pub fn count(counter: &AtomicU64, more: u64) {
    // Relaxed, no read-modify-write: a count with one writer.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// A thread's heap. Its owner alone changes it; any thread may read what is atomic, so that there is never a `&mut` to it.
/// Sync of cells: owner thread.
#[repr(C, align(128))]
pub struct Heap<S, Q> {
    /// At offset 0: a heap's address is its entries'.
    pub entries: Entries,
    /// Slots that the next refill carves, by bin.
    pub batches: [Cell<u8>; BINS],
    /// Spills less refills, by bin.
    pub balances: Balances,
    /// When each bin last had a miss.
    pub misses: Misses,
    /// A bit for each bin that may have a magazine. Sync: any thread may read.
    used: [AtomicU64; BINS.div_ceil(64)],
    /// Time of that check, in milliseconds.
    pub last_look_ms: Cell<u32>,
    /// The allocator's count of trim requests when the heap was last emptied.
    pub trims: Cell<u32>,
    /// The thread's shard.
    pub shard: Cell<ShardId>,
    /// Misses left until the thread reads the clock.
    pub ticks: Cell<u8>,
    pub(super) state: HeapState,
    /// Empty places at the start of each loaded magazine, whose slots were taken. Sync: the owner, in a change, or who holds
    /// the heap.
    gone: [AtomicU8; BINS],
    /// What a taker saw of the heap. Sync: any thread, as hints.
    pub rest: Rest,
    /// Bytes of cached slots that count in the heaps' sum. Sync: any thread, by swaps.
    pub(super) counted: AtomicUsize,
    /// State of the random number generator; 0 before its first use.
    random: Cell<u64>,
    /// Null if the heap never needed one.
    pub(super) decoy: Cell<*mut Decoy>,
    /// Counts of events. Sync: any thread may read.
    pub counters: Counters,
    /// Slots on their way home.
    pub stash: S,
    /// Recently freed slots that must not be used yet.
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

    /// A random number of 32 bits: the upper half of xorshift64*.
    pub fn random<O: Os>(&self) -> u32 {
        let mut state = self.random.get();
        if state == 0 {
            state = O::random_seed() ^ core::ptr::from_ref(self).addr() as u64 | 1;
        }
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A random number below `limit`, which must fit in 32 bits; 0 for a `limit` of 0.
    pub fn random_below<O: Os>(&self, limit: usize) -> usize {
        ((u64::from(self.random::<O>()) * limit as u64) >> 32) as usize
    }

    /// Notes a miss of `bin`.
    #[inline]
    pub fn mark_active(&self, bin: Bin) {
        self.misses.note(bin);
        self.mark_used(bin);
    }

    /// Notes that `bin` may have a magazine from now on.
    #[inline]
    pub fn mark_used(&self, bin: Bin) {
        // Relaxed, all, here and below: only the owner writes; to others, a snapshot.
        if let Some(word) = self.used.get(usize::from(bin.0 / 64)) {
            let (bits, bit) = (word.load(Ordering::Relaxed), 1 << (bin.0 % 64));
            if bits & bit == 0 {
                word.store(bits | bit, Ordering::Relaxed);
            }
        }
    }

    /// Notes that no bin has a magazine.
    pub fn mark_unused(&self) {
        self.used.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Begins a change of several words: no other thread takes anything meanwhile, and a child forked before
    /// [`Heap::end_change`] does not adopt the heap. May change every entry: makes whole what a taker left.
    #[inline]
    pub fn begin_change<P: Policy>(&self) {
        if self.claim().begin() {
            self.mend::<P>();
        }
    }

    #[cold]
    #[inline(never)]
    fn mend<P: Policy>(&self) {
        if !self.claim().take_back::<P::Os>() {
            return;
        }
        for (bin, (entry, gone)) in self.entries.0.iter().zip(&self.gone).enumerate() {
            // Relaxed, both: `take_back` has acquired it, and it is the owner's now.
            let places = gone.load(Ordering::Relaxed);
            // SAFETY: the caller owns the heap, in a change; every magazine of a bin has the bin's capacity.
            unsafe { entry.loaded.mend(usize::from(shape::<P>(Bin(bin as u8)).capacity), usize::from(places)) };
            gone.store(0, Ordering::Relaxed);
        }
    }

    /// Ends the change: the words are consistent again.
    #[inline]
    pub fn end_change(&self) {
        self.claim().end();
    }

    /// Who may change the heap.
    #[inline]
    pub fn claim(&self) -> &Claim {
        self.state.claim()
    }

    /// As [`HeapState::set_aside`].
    #[inline]
    pub fn set_aside(&self) {
        self.state.set_aside();
    }
}

/// The bins that may have a magazine in `heap`.
///
/// # Safety
/// As for [`peek`].
pub unsafe fn used_bins<S, Q>(heap: *const Heap<S, Q>) -> impl Iterator<Item = Bin> {
    (0..BINS.div_ceil(64)).flat_map(move |index| {
        // SAFETY: heaps are never unmapped, and the words are atomic.
        let word = unsafe { &(*heap).used }.get(index).map_or(0, |word| word.load(Ordering::Relaxed));
        let mut left = word;
        core::iter::from_fn(move || {
            let bin = Bin((index as u32 * 64 + left.trailing_zeros()) as u8);
            let is_one = left != 0;
            left &= left.wrapping_sub(1);
            is_one.then_some(bin)
        })
    })
}

/// As [`Entry::peek`], for the entry of `bin` in `heap`, without a reference to the whole heap: its owner may be writing.
///
/// # Safety
/// `heap` is one that `Heaps::each` gives.
pub unsafe fn peek<S, Q>(heap: *const Heap<S, Q>, bin: Bin, visit: impl FnMut(*const Slot, usize)) {
    let index = usize::from(bin.0);
    // SAFETY: heaps are never unmapped, and an entry's fields are atomic. The index is below `BINS`.
    unsafe { &(*heap).entries.0[if index < BINS { index } else { 0 }] }.peek(visit);
}

/// What takers see of a heap that they do not hold, or change of one that they do. Its owner may be running.
impl<S, Q> Heap<S, Q> {
    /// As [`Loaded::spared`], and the spare's slots.
    pub fn spared(&self, bin: Bin) -> (usize, usize) {
        let (entry, spare) = (self.entry(bin), self.entry(bin).spare());
        // SAFETY: a non-null spare is a magazine, and magazines are never unmapped.
        (entry.loaded.spared(), if spare.is_null() { 0 } else { unsafe { Magazine::peek(spare) }.1 })
    }

    /// Bytes of the cached slots of `bin`: exact while the owner is idle.
    pub fn cached_bytes_of(&self, bin: Bin) -> usize {
        let mut slots = 0;
        self.entry(bin).peek(|_, count| slots += count);
        slots * bins::info(bin).slot_bytes as usize
    }

    /// Bytes of all cached slots, as exact.
    pub fn cached_bytes(&self) -> usize {
        // SAFETY: the heap is one of all.
        let bins = unsafe { used_bins(self) };
        bins.map(|bin| self.cached_bytes_of(bin)).sum()
    }

    /// As [`Loaded::top_address`].
    pub fn top_address(&self, bin: Bin) -> usize {
        self.entry(bin).loaded.top_address()
    }

    /// Empty places at the start of the loaded magazine of `bin`.
    fn gone(&self, bin: Bin) -> &AtomicU8 {
        let index = usize::from(bin.0);
        &self.gone[if index < BINS { index } else { 0 }]
    }

    /// As [`Loaded::raise`].
    pub fn raise(&self, bin: Bin) -> bool {
        self.entry(bin).loaded.raise()
    }

    /// Whether one slot is left in the loaded magazine of `bin`, as it looks now.
    pub fn has_one(&self, bin: Bin) -> bool {
        self.entry(bin).loaded.look().is_some_and(|(_, count)| count == 1)
    }

    /// Its address. The caller holds the heap, between `enter` and `leave`.
    pub fn last_of(&self, bin: Bin) -> Option<*mut u8> {
        self.entry(bin).loaded.last()
    }

    /// As [`Loaded::exchange`].
    ///
    /// # Safety
    /// The caller holds the heap, between `enter` and `leave`.
    pub unsafe fn exchange(&self, bin: Bin, former: *mut u8, other: Slot) -> Result<(), Slot> {
        // SAFETY: the caller's own promise.
        unsafe { self.entry(bin).loaded.exchange(former, other) }
    }

    /// As [`Loaded::is_exchanged`].
    pub fn is_exchanged(&self, bin: Bin, other: *mut u8) -> bool {
        self.entry(bin).loaded.is_exchanged(other)
    }

    /// As [`Loaded::confirm`].
    pub fn confirm<P: Policy>(&self, bin: Bin) {
        // Relaxed, here and below: who holds the heap acquired it.
        let gone = usize::from(self.gone(bin).load(Ordering::Relaxed));
        self.entry(bin).loaded.confirm(usize::from(shape::<P>(bin).capacity), gone);
    }

    /// Takes up to `most` slots out of the loaded magazine; returns how many.
    ///
    /// # Safety
    /// The caller holds the heap, between `enter` and `leave`, and has confirmed what it raised.
    pub unsafe fn lift<P: Policy>(&self, bin: Bin, most: usize, take: impl FnMut(Slot)) -> usize {
        let gone = self.gone(bin);
        let before = gone.load(Ordering::Relaxed);
        // SAFETY: the caller's own promise; every magazine of a bin has the bin's capacity.
        unsafe {
            let capacity = usize::from(shape::<P>(bin).capacity);
            let count = self.entry(bin).loaded.lift(capacity, usize::from(before), most, take);
            // The slots are taken from here on, in a child that is forked now too.
            gone.store(before + count as u8, Ordering::Relaxed);
            count
        }
    }
}

/// Whether `heap` is a static heap.
#[inline]
pub fn is_static(heap: *const Entries) -> bool {
    core::ptr::eq(heap, NO_HEAP.entries()) || has_left(heap)
}

/// Whether the thread with `heap` at its pointer has given its heap back or set it aside.
#[inline]
pub fn has_left(heap: *const Entries) -> bool {
    core::ptr::eq(heap, LEFT_HEAP.entries())
}
