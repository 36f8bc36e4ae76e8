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

use crate::lane::Lane;
use crate::pages::bins::{BIN_ENTRY_BYTES, BINS};
use crate::platform::os::Os;
use crate::platform::sync::{AtomicU64, Mutex, Ordering};
use crate::platform::table::{Table, typed};
use crate::platform::units::{Bin, ShardId};
use crate::record::profile::pace::Pace;
use crate::thread::flow::Balances;
use crate::thread::registry::{HeapState, HeapStates, Members};
use crate::transfer::magazine::{MAX_SLOTS, Magazine};
use core::ptr::{NonNull, null_mut};

/// A heap's entry for one bin. Sync, every field: owner thread only.
#[repr(C)]
pub struct Entry {
    /// One past the last slot held.
    pub top: *mut *mut u8,
    /// The loaded magazine's first slot; null without a magazine.
    pub base: *mut *mut u8,
    /// One past the loaded magazine's last place.
    pub limit: *mut *mut u8,
    /// The second magazine, or null.
    pub spare: *mut Magazine,
}

const _: () = assert!(size_of::<Entry>() == BIN_ENTRY_BYTES);

/// The entries of a heap. The foreign bin's stays null for ever.
#[repr(C)]
pub struct Entries([Entry; BINS]);

// SAFETY: the only shared ones are the two statics below, which nobody writes.
unsafe impl Sync for Entries {}

impl Entries {
    const fn none() -> Self {
        Entries([const { Entry { top: null_mut(), base: null_mut(), limit: null_mut(), spare: null_mut() } }; BINS])
    }
}

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
pub unsafe fn behind<L: Lane>(entries: *mut Entries) -> *mut Heap<L> {
    // SAFETY: the caller's promise; the foreign bin's spare is null in a heap.
    let heap = unsafe { (*entries).0[0].spare };
    if heap.is_null() { entries.cast() } else { heap.cast() }
}

/// The decoy at the calling thread's pointer; `None` where there is a heap, of its own or a static one.
#[inline]
pub fn decoy<L: Lane>() -> Option<NonNull<Decoy>> {
    let entries = L::heap();
    // SAFETY: every heap, the static ones included, begins with entries that outlive all threads.
    let heap = unsafe { (*entries).0[0].spare };
    if heap.is_null() { None } else { NonNull::new(entries.cast()) }
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
pub struct Heap<L: Lane> {
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
    pub stash: L::Stash,
    /// Slots that were freed a short while ago. Sync: owner thread.
    pub quarantine: L::Quarantine,
}

impl<L: Lane> Heap<L> {
    /// The entry of `bin`.
    #[inline]
    pub fn entry(&mut self, bin: Bin) -> &mut Entry {
        let index = usize::from(bin.0);
        // A clamp instead of a bounds check: nothing in the allocator may panic.
        &mut self.entries.0[if index < BINS { index } else { 0 }]
    }

    /// A random number of 32 bits (xorshift64*, whose upper half is used).
    pub fn random(&mut self) -> u32 {
        let mut state = self.random;
        if state == 0 {
            state = L::Os::random_seed() ^ core::ptr::from_ref(self).addr() as u64 | 1;
        }
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random = state;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A random number below `limit`, which fits 32 bits.
    pub fn random_below(&mut self, limit: usize) -> usize {
        ((u64::from(self.random()) * limit as u64) >> 32) as usize
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
pub struct Heaps<L: Lane> {
    table: Table<HEAP_UNIT_BYTES>,
    decoys: Table<DECOY_UNIT_BYTES>,
    states: HeapStates<L::Os>,
}

impl<L: Lane> Members for Heaps<L> {
    fn state(&self, id: u32) -> &HeapState {
        // SAFETY: heaps are never unmapped, and the state is atomic.
        unsafe { &(*self.get(id)).state }
    }

    fn make(&self) -> Option<u32> {
        // All-zero entries, counters and stash are empty ones.
        self.table.allocate::<L::Os>(1)
    }

    fn end(&self) -> u32 {
        self.table.end()
    }
}

impl<L: Lane> Heaps<L> {
    /// None yet.
    pub const fn new() -> Self {
        const { assert!(size_of::<Heap<L>>() <= HEAP_UNIT_BYTES) }
        Self { table: Table::new(), decoys: Table::new(), states: HeapStates::new() }
    }

    fn get(&self, id: u32) -> *mut Heap<L> {
        // SAFETY: ids come from the table.
        unsafe { typed::<Heap<L>, HEAP_UNIT_BYTES>(&self.table, id) }.as_ptr()
    }

    /// A heap without slots for the calling thread. `None` where memory has run out.
    pub fn take(&self) -> Option<*mut Heap<L>> {
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
    pub unsafe fn decoy_of(&self, heap: *mut Heap<L>) -> Option<NonNull<Decoy>> {
        // SAFETY: the caller's promise; a fresh unit is zeroed and this thread's alone.
        unsafe {
            if (*heap).decoy.is_null() {
                let decoy = typed::<Decoy, DECOY_UNIT_BYTES>(&self.decoys, self.decoys.allocate::<L::Os>(1)?).as_ptr();
                (*decoy).entries.0[0].spare = heap.cast();
                (*heap).decoy = decoy;
            }
            NonNull::new((*heap).decoy)
        }
    }

    /// Takes back a heap that holds no slot any more.
    ///
    /// # Safety
    /// The calling thread owned it and uses it no longer.
    pub unsafe fn give(&self, heap: *mut Heap<L>) {
        // SAFETY: heaps are never unmapped, and the state is atomic.
        self.states.give(unsafe { &(*heap).state });
    }

    /// The lock over the unused heaps, for fork.
    pub fn lock_for_fork(&self) -> &Mutex<u32, L::Os> {
        self.states.lock_for_fork()
    }

    /// In a forked child: every heap but `own` (null for none) belonged to a thread that is gone.
    ///
    /// # Safety
    /// `own` is null or the calling thread's heap, and that thread holds the lock over the unused heaps.
    pub unsafe fn orphan_all_but(&self, own: *mut Heap<L>) {
        // SAFETY: the caller's own heap, if it has one.
        self.states.orphan_all_but(unsafe { own.as_ref() }.map(|own| &own.state));
    }

    /// As [`HeapStates::adopt_orphans`].
    #[inline]
    pub fn adopt_orphans(&self, mut adopt: impl FnMut(*mut Heap<L>)) {
        self.states.adopt_orphans(self, |id| adopt(self.get(id)));
    }

    /// Calls `look` with every heap there is, whoever uses it; heaps are never unmapped.
    pub fn each(&self, mut look: impl FnMut(*const Heap<L>)) {
        for id in 1..self.table.end() {
            let heap = self.table.peek(id).cast::<Heap<L>>();
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

impl<L: Lane> Default for Heaps<L> {
    fn default() -> Self {
        Self::new()
    }
}

/// Calls `look` with the slots of `bin` that the magazines of `heap` hold, by magazine: the first one's place
/// and their number. For whoever does not own the heap: exact while its owner leaves it alone.
///
/// # Safety
/// `heap` came from [`Heaps::each`] or [`Heaps::take`].
pub unsafe fn peek<L: Lane>(heap: *const Heap<L>, bin: Bin, mut look: impl FnMut(*const *mut u8, usize)) {
    let index = usize::from(bin.0);
    // SAFETY: the entry lies in the heap, by the clamp. Volatile, all three, because the owner may write them
    // at this moment, with plain stores of one aligned word each, which arrive whole.
    let (top, base, spare) = unsafe {
        let entry = &raw const (*heap).entries.0[if index < BINS { index } else { 0 }];
        (
            (&raw const (*entry).top).read_volatile(),
            (&raw const (*entry).base).read_volatile(),
            (&raw const (*entry).spare).read_volatile(),
        )
    };
    let held = top.addr().wrapping_sub(base.addr()) / size_of::<*mut u8>();
    // More than a magazine holds: the two words are of two magazines, because the owner was at work.
    if !base.is_null() && held <= MAX_SLOTS {
        look(base, held);
    }
    if !spare.is_null() {
        // SAFETY: what an entry refers to is a magazine, and magazines are never unmapped.
        let (slots, count) = unsafe { Magazine::peek(spare) };
        look(slots, count);
    }
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

/// Takes the loaded and the spare magazine out of `entry`, counted.
///
/// # Safety
/// The caller owns the entry's heap; the magazines are the caller's afterwards.
pub unsafe fn unload(entry: &mut Entry) -> [Option<NonNull<Magazine>>; 2] {
    let Entry { top, base, spare, .. } =
        core::mem::replace(entry, Entry { top: null_mut(), base: null_mut(), limit: null_mut(), spare: null_mut() });
    let loaded = NonNull::new(base).map(|base| {
        // SAFETY: `base` lies in a magazine of this heap, and `top` not before it.
        unsafe {
            let magazine = Magazine::of_slots(base.as_ptr());
            (*magazine).count = top.offset_from_unsigned(base.as_ptr()) as u16;
            NonNull::new_unchecked(magazine)
        }
    });
    [loaded, NonNull::new(spare)]
}

/// Loads `magazine`, which has `count` slots.
///
/// # Safety
/// The caller owns the entry's heap, which has nothing loaded there, and the magazine.
#[inline]
pub unsafe fn load(entry: &mut Entry, magazine: *mut Magazine) {
    // SAFETY: the slots lie in the magazine.
    unsafe {
        let base = Magazine::slots(magazine);
        entry.base = base;
        entry.limit = base.add(usize::from((*magazine).capacity));
        entry.top = base.add(usize::from((*magazine).count));
    }
}

/// Exchanges the loaded magazine, which must be there, for the spare one, which must be too.
///
/// # Safety
/// The caller owns the entry's heap.
#[inline]
pub unsafe fn swap(entry: &mut Entry) {
    // SAFETY: as for `unload` and `load`.
    unsafe {
        let loaded = Magazine::of_slots(entry.base);
        (*loaded).count = entry.top.offset_from_unsigned(entry.base) as u16;
        let spare = core::mem::replace(&mut entry.spare, loaded);
        load(entry, spare);
    }
}
