//! The shards of an allocator, and the transfer of magazines between shards and threads.
//!
//! ```text
//! a thread ── put_full ──→ depot or inbox of a shard ── take_full ──→ any thread
//!          ←─ empty_magazine ── empties of a shard ←── return_empty ──
//! ```
//!
//! A magazine changes hands by one compare-exchange. Hint words tell, per bin, which shards are worth a try.

use crate::pages::bins::{self, BINS};
use crate::pages::policy::{Policy, shape};
use crate::pages::shape::CLASSES;
use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::lock::{ForkLock, Mutex, Ranked};
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::platform::units::{Bin, ShardId};
use crate::record::heat::Heat;
use crate::transfer::depot::{Links, MAX_COUNT, Stocked};
use crate::transfer::doubts::Doubts;
use crate::transfer::magazine::{Magazine, Magazines};
use crate::transfer::shard::Shard;
use crate::transfer::spread::Spread;
use crossbeam_utils::CachePadded;

/// An array of shards.
pub trait Shards<O: Os>: Sync + 'static {
    /// Every shard.
    fn all(&self) -> &[Shard<O>];
}

impl<O: Os, const N: usize> Shards<O> for [Shard<O>; N] {
    #[inline]
    fn all(&self) -> &[Shard<O>] {
        self
    }
}

/// A policy with its shards.
pub trait Sharded: Policy {
    /// [`Policy::SHARD_COUNT`] shards.
    type Shards: Shards<Self::Os>;
    /// Shards without a slot.
    const FRESH_SHARDS: Self::Shards;
}

/// Empty magazines whose shard's stack was full: a linked list per class.
struct Spares([u32; CLASSES]);

impl Ranked for Spares {
    const RANK: Rank = Rank::Magazines;
}

/// What all threads look up about a bin: in a cache line of its own, as many write it.
#[repr(align(64))]
struct Hints {
    /// Shards that may have full magazines.
    stocked: Stocked,
    /// A bit for each shard that has slots at home. Sync: written under the shard's lock.
    home: AtomicU32,
    /// A bit for each shard that has spans which are being vacated. Sync: as `home`.
    vacating: AtomicU32,
}

/// Sets or clears `bit` of a hint.
fn set_hint(word: &AtomicU32, bit: u32, is_so: bool) {
    // Relaxed, all: a hint. Tested first, to spare the shared line a write.
    if (word.load(Ordering::Relaxed) & bit != 0) == is_so {
        return;
    }
    if is_so {
        word.fetch_or(bit, Ordering::Relaxed);
    } else {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

/// The shards and what they share.
pub struct Exchange<P: Sharded> {
    /// Every magazine.
    pub magazines: Magazines,
    /// Counts of frees, if the options ask for them.
    pub heat: Heat,
    shards: P::Shards,
    hints: [Hints; BINS],
    /// Slots that wait for their others.
    pub doubts: Doubts,
    /// Bins whose spans are to empty.
    pub spread: Spread,
    spares: CachePadded<Mutex<Spares, P::Os>>,
    next_shard: CachePadded<AtomicU32>,
}

impl<P: Sharded> Exchange<P> {
    /// An exchange without slots.
    #[allow(clippy::new_without_default, reason = "only an allocator has one")]
    pub const fn new() -> Self {
        Self {
            magazines: Magazines::new(),
            heat: Heat::new(),
            shards: P::FRESH_SHARDS,
            hints: [const { Hints { stocked: Stocked::new(), home: AtomicU32::new(0), vacating: AtomicU32::new(0) } };
                BINS],
            doubts: Doubts::new(),
            spread: Spread::new(),
            spares: CachePadded::new(Mutex::new(Spares([0; CLASSES]))),
            next_shard: CachePadded::new(AtomicU32::new(0)),
        }
    }

    // ---- shards ----

    /// The shards that threads have, and at least the first, for threads without a heap. No lock of another is ever taken.
    pub fn shards(&self) -> &[Shard<P::Os>] {
        // Relaxed: a count; a shard missed now is new.
        let assigned = self.next_shard.load(Ordering::Relaxed) as usize;
        self.shards.all().get(..assigned.clamp(1, P::SHARD_COUNT)).unwrap_or_default()
    }

    /// The shard `id`; ids wrap around.
    #[inline]
    pub fn shard(&self, id: ShardId) -> &Shard<P::Os> {
        let index = usize::from(id.0) & (P::SHARD_COUNT - 1);
        // SAFETY: the mask keeps the index below SHARD_COUNT, a power of two and the array's length in every lane.
        unsafe { self.shards.all().get_unchecked(index) }
    }

    /// The ids of [`Exchange::shards`].
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<P> {
        (0..self.shards().len() as u8).map(ShardId)
    }

    /// Assigns a shard to a thread, in turn. The caller holds the heaps' lock, so that a fork takes the locks of all
    /// shards that threads have.
    pub fn assign_shard(&self) -> ShardId {
        // Relaxed, both: under the lock. At its end, the count goes on with the second round: it must not look small.
        let next = self.next_shard.load(Ordering::Relaxed);
        self.next_shard.store(if next == u32::MAX { P::SHARD_COUNT as u32 } else { next + 1 }, Ordering::Relaxed);
        ShardId((next as usize & (P::SHARD_COUNT - 1)) as u8)
    }

    #[inline]
    fn bit(shard: ShardId) -> u32 {
        1 << (usize::from(shard.0) & (P::SHARD_COUNT - 1))
    }

    /// The shards in `mask`, from `first` on, so that threads of different shards spread out.
    fn in_turn(mask: u32, first: ShardId) -> impl Iterator<Item = ShardId> {
        let mut left = mask.rotate_right(u32::from(first.0));
        core::iter::from_fn(move || {
            let next = ShardId(((left.trailing_zeros() + u32::from(first.0)) % 32) as u8);
            let is_one = left != 0;
            left &= left.wrapping_sub(1);
            is_one.then_some(next)
        })
    }

    // ---- empty magazines ----

    /// An empty magazine for `bin`, if possible of `shard`'s; the caller owns it. `None` when memory has run out.
    pub fn empty_magazine(&self, shard: ShardId, bin: Bin) -> Option<*mut Magazine> {
        let shape = shape::<P>(bin);
        let magazine = match self.shard(shard).empty(shape.class).pop(&self.magazines) {
            // SAFETY: ids in stacks are magazines' ids.
            Some(id) => unsafe { self.magazines.get(id) },
            None => self.spare_magazine(shape.class).or_else(|| self.magazines.create::<P::Os>(shape.class))?,
        };
        // SAFETY: this thread owns the magazine now.
        unsafe {
            (*magazine).set_count(0);
            (*magazine).capacity = shape.capacity;
            (*magazine).origin = shard;
            Magazine::prefetch(magazine);
        }
        Some(magazine)
    }

    /// Returns an empty magazine to its origin, where full ones come from.
    ///
    /// # Safety
    /// The caller owns `magazine` and gives it up.
    pub unsafe fn return_empty(&self, magazine: *mut Magazine) {
        // SAFETY: the caller owns `magazine`.
        let (id, class, origin) = unsafe { ((*magazine).id, (*magazine).class, (*magazine).origin) };
        if !self.shard(origin).empty(class).push(&self.magazines, id, u32::MAX) {
            let mut spares = self.spares.lock();
            if let Some(first) = spares.0.get_mut(usize::from(class)) {
                // Relaxed: the lock orders it.
                self.magazines.next(id).store(*first, Ordering::Relaxed);
                *first = id;
            }
        }
    }

    fn spare_magazine(&self, class: u8) -> Option<*mut Magazine> {
        let mut spares = self.spares.lock();
        let first = spares.0.get_mut(usize::from(class))?;
        if *first == 0 {
            return None;
        }
        // SAFETY: ids in the list are magazines' ids.
        let magazine = unsafe { self.magazines.get(*first) };
        // Relaxed: the lock orders it.
        *first = self.magazines.next(*first).load(Ordering::Relaxed);
        Some(magazine)
    }

    /// The lock of the spare magazines, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &*self.spares
    }

    // ---- full magazines ----

    #[inline]
    fn hints(&self, bin: Bin) -> &Hints {
        let index = usize::from(bin.0);
        &self.hints[if index < BINS { index } else { 0 }]
    }

    #[inline]
    fn stocked(&self, bin: Bin) -> &Stocked {
        &self.hints(bin).stocked
    }

    /// Most magazines of `bin` in one stack.
    #[inline]
    fn depot_limit(bin: Bin) -> u32 {
        let bytes = usize::from(shape::<P>(bin).capacity) * bins::info(bin).slot_bytes as usize;
        ((P::DEPOT_BYTES / bytes.max(1)) as u32).clamp(1, P::DEPOT_MAGAZINES)
    }

    /// Takes a magazine with slots of `bin`, which the caller then owns, from `shard` or else another (flag: true).
    pub fn take_full(&self, shard: ShardId, bin: Bin) -> Option<(*mut Magazine, bool)> {
        let own = Self::bit(shard);
        let mask = self.stocked(bin).mask();
        if mask == 0 {
            return None;
        }
        if mask & own != 0 {
            if let Some(magazine) = self.take_full_of(shard, bin) {
                return Some((magazine, false));
            }
        }
        Self::in_turn(mask & !own, shard).find_map(|other| Some((self.take_full_of(other, bin)?, true)))
    }

    /// Like [`Exchange::take_full`], from the depot or inbox of `shard` alone.
    pub fn take_full_of(&self, shard: ShardId, bin: Bin) -> Option<*mut Magazine> {
        let depot = self.shard(shard).depot(bin);
        let id = depot.full.pop(&self.magazines).or_else(|| depot.inbox.pop(&self.magazines));
        depot.note_taken();
        self.stocked(bin).note_taken(Self::bit(shard), || depot.count() == 0);
        // SAFETY: ids in stacks are magazines' ids; this thread has popped this one.
        id.map(|id| unsafe {
            let magazine = self.magazines.get(id);
            depot.note_lacking((*magazine).lacking(), false);
            (*magazine).origin = shard;
            magazine
        })
    }

    /// The shards that may have full magazines of `bin`.
    pub fn stocked_shards(&self, bin: Bin) -> impl Iterator<Item = ShardId> + use<P> {
        Self::in_turn(self.stocked(bin).mask(), ShardId(0))
    }

    /// Bytes of the slots in all depots and inboxes.
    pub fn depot_bytes(&self) -> usize {
        let bytes = |bin| {
            let slots = |shard| self.shard(shard).depot(bin).slot_count(shape::<P>(bin).capacity);
            self.stocked_shards(bin).map(slots).sum::<usize>() * bins::info(bin).slot_bytes as usize
        };
        (1..BINS as u8).map(Bin).map(bytes).sum()
    }

    /// Makes the surplus of every depot due to be sent home, by its low-water mark since the last call.
    pub fn make_surplus_due(&self) {
        for shard in self.shards() {
            (1..BINS as u8).map(Bin).for_each(|bin| shard.depot(bin).make_surplus_due());
        }
    }

    /// Puts a magazine with slots of `bin` into the depot of `shard`, or its `inbox`; false if that is full.
    ///
    /// # Safety
    /// The caller owns `magazine`, and gives it up on success.
    pub unsafe fn put_full(&self, shard: ShardId, bin: Bin, magazine: *mut Magazine, inbox: bool) -> bool {
        let depot = self.shard(shard).depot(bin);
        let stack = if inbox { &depot.inbox } else { &depot.full };
        // SAFETY: the caller owns `magazine`.
        let (id, lacking) = unsafe { ((*magazine).id, (*magazine).lacking()) };
        depot.note_lacking(lacking, true);
        let pushed = stack.push(&self.magazines, id, Self::depot_limit(bin));
        if pushed {
            self.stocked(bin).note_pushed(Self::bit(shard));
        } else {
            depot.note_lacking(lacking, false);
        }
        pushed
    }

    /// Reverses the inbox of `shard` into its depot, if that is empty: first in, first out. Returns the first of the
    /// magazines that do not fit, linked and the caller's; 0 if all fit. Takes the shard's lock.
    pub fn reverse_inbox_into_depot(&self, shard: ShardId, bin: Bin) -> u32 {
        let depot = self.shard(shard).depot(bin);
        if !depot.full.is_empty() || depot.inbox.is_empty() {
            return 0;
        }
        let mut overflow = 0;
        {
            // Keeps forks out: the child would lose magazines on their way.
            let _owned = self.shard(shard).owned().lock();
            let mut next = depot.inbox.pop_all().unwrap_or(0);
            while next != 0 {
                let id = next;
                // Relaxed, both: `pop_all` made them this thread's.
                next = self.magazines.next(id).load(Ordering::Relaxed);
                if !depot.full.push(&self.magazines, id, MAX_COUNT) {
                    self.magazines.next(id).store(overflow, Ordering::Relaxed);
                    overflow = id;
                    // SAFETY: ids in stacks are magazines' ids; this thread has popped this one.
                    depot.note_lacking(unsafe { (*self.magazines.get(id)).lacking() }, false);
                }
            }
        }
        self.stocked(bin).note_pushed(Self::bit(shard));
        overflow
    }

    // ---- slots at home ----

    /// Shards that may have slots of `bin` at home, starting with `first`.
    pub fn shards_with_home(&self, bin: Bin, first: ShardId) -> impl Iterator<Item = ShardId> + use<P> {
        // Relaxed: a hint; the shard's lock protects the slots.
        Self::in_turn(self.hints(bin).home.load(Ordering::Relaxed), first)
    }

    /// Notes whether `shard`, whose lock the caller holds, has slots of `bin` at home.
    pub fn set_home_hint(&self, bin: Bin, shard: ShardId, has_home: bool) {
        set_hint(&self.hints(bin).home, Self::bit(shard), has_home);
    }

    /// Shards that may have spans of `bin` that are being vacated, starting with `first`.
    pub fn shards_with_vacating(&self, bin: Bin, first: ShardId) -> impl Iterator<Item = ShardId> + use<P> {
        // Relaxed: a hint; the shard's lock protects the spans.
        Self::in_turn(self.hints(bin).vacating.load(Ordering::Relaxed), first)
    }

    /// Notes whether `shard`, whose lock the caller holds, has spans of `bin` that are being vacated.
    pub fn set_vacating_hint(&self, bin: Bin, shard: ShardId, is_vacating: bool) {
        set_hint(&self.hints(bin).vacating, Self::bit(shard), is_vacating);
    }
}
