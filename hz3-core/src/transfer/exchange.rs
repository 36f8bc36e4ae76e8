//! Exchange: the shards of an allocator, and how magazines change hands between them and threads.
//!
//! ```text
//! a thread ── put_full ──→ depot or inbox of a shard ── take_full ──→ any thread
//!          ←─ empty_magazine ── empties of a shard ←── return_empty ──
//! ```
//!
//! A magazine changes hands by one compare-exchange. Hint words say per bin which shards may have something.

use crate::pages::bins::{self, BINS};
use crate::pages::policy::{Policy, shape};
use crate::pages::shape::CLASSES;
use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::lock::{ForkLock, Mutex};
use crate::platform::os::Os;
use crate::platform::rank::{Rank, Ranked};
use crate::platform::units::{Bin, ShardId};
use crate::record::heat::Heat;
use crate::transfer::depot::{Links, MAX_COUNT, Stocked};
use crate::transfer::magazine::{Magazine, Magazines};
use crate::transfer::shard::Shard;

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

/// A lane's shards.
pub trait Sharded: Policy {
    /// As many as [`Policy::SHARD_COUNT`].
    type Shards: Shards<Self::Os>;
    /// Fresh shards.
    const FRESH_SHARDS: Self::Shards;
}

/// Empty magazines that no shard's stack had room for: the first one's id, by class.
struct Spares([u32; CLASSES]);

impl Ranked for Spares {
    const RANK: Rank = Rank::Magazines;
}

/// The shards of an allocator and what moves between them.
pub struct Exchange<P: Sharded> {
    /// Every magazine.
    pub magazines: Magazines,
    /// Who frees whose slots, if the options ask for it.
    pub heat: Heat,
    shards: P::Shards,
    /// Per bin, which shards may have full magazines.
    stocked: [Stocked; BINS],
    /// Per bin, a bit for each shard that has slots at home. Sync: a shard's bit is written under its lock.
    roomy: [AtomicU32; BINS],
    spares: Mutex<Spares, P::Os>,
    next_shard: AtomicU32,
}

impl<P: Sharded> Exchange<P> {
    /// Shards without a slot.
    #[allow(clippy::new_without_default, reason = "only an allocator has one")]
    pub const fn new() -> Self {
        Self {
            magazines: Magazines::new(),
            heat: Heat::new(),
            shards: P::FRESH_SHARDS,
            stocked: [const { Stocked::new() }; BINS],
            roomy: [const { AtomicU32::new(0) }; BINS],
            spares: Mutex::new(Spares([0; CLASSES])),
            next_shard: AtomicU32::new(0),
        }
    }

    // ---- shards ----

    /// Every shard.
    pub fn shards(&self) -> &[Shard<P::Os>] {
        self.shards.all()
    }

    /// The shard `id`; ids beyond the last wrap around.
    #[inline]
    pub fn shard(&self, id: ShardId) -> &Shard<P::Os> {
        let index = usize::from(id.0) & (P::SHARD_COUNT - 1);
        // SAFETY: every lane's array holds SHARD_COUNT shards, a power of two.
        unsafe { self.shards.all().get_unchecked(index) }
    }

    /// Shards that threads have been assigned to so far, the lowest ids; no other one has a slot. At least one, the
    /// shard that threads without a heap use.
    pub fn used_shards(&self) -> impl Iterator<Item = ShardId> + use<P> {
        // Relaxed: what a thread that comes in just now has is not old.
        let assigned = self.next_shard.load(Ordering::Relaxed) as usize;
        (0..assigned.clamp(1, P::SHARD_COUNT) as u8).map(ShardId)
    }

    /// The shard for the next thread: each in turn.
    pub fn assign_shard(&self) -> ShardId {
        // Relaxed: any value does.
        ShardId((self.next_shard.fetch_add(1, Ordering::Relaxed) as usize & (P::SHARD_COUNT - 1)) as u8)
    }

    /// The bit that stands for `shard`.
    #[inline]
    fn bit(shard: ShardId) -> u32 {
        1 << (usize::from(shard.0) & (P::SHARD_COUNT - 1))
    }

    /// The shards of `mask` in turn, beginning with `first`, so that threads of different shards spread out.
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

    /// An empty magazine for `bin`, from `shard`'s spent ones if there are any. `None` when memory has run out.
    pub fn empty_magazine(&self, shard: ShardId, bin: Bin) -> Option<*mut Magazine> {
        let shape = shape::<P>(bin);
        let magazine = match self.shard(shard).empty(shape.class).pop(&self.magazines) {
            // SAFETY: ids in stacks are magazines'.
            Some(id) => unsafe { self.magazines.get(id) },
            None => self.spare_magazine(shape.class).or_else(|| self.magazines.create::<P::Os>(shape.class))?,
        };
        // SAFETY: the magazine is this thread's now.
        unsafe {
            (*magazine).count = 0;
            (*magazine).capacity = shape.capacity;
            (*magazine).origin = shard;
            Magazine::fetch(magazine);
        }
        Some(magazine)
    }

    /// Sends an empty magazine back to where full ones come from: its origin.
    ///
    /// # Safety
    /// The caller owns `magazine`, and no longer does afterwards.
    pub unsafe fn return_empty(&self, magazine: *mut Magazine) {
        // SAFETY: the caller's promise.
        let (id, class, origin) = unsafe { ((*magazine).id, (*magazine).class, (*magazine).origin) };
        if !self.shard(origin).empty(class).push(&self.magazines, id, u32::MAX) {
            let mut spares = self.spares.lock();
            if let Some(first) = spares.0.get_mut(usize::from(class)) {
                // Relaxed: under the lock.
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
        // SAFETY: ids in the list are magazines'.
        let magazine = unsafe { self.magazines.get(*first) };
        // Relaxed: under the lock.
        *first = self.magazines.next(*first).load(Ordering::Relaxed);
        Some(magazine)
    }

    /// The lock over the spare magazines, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &self.spares
    }

    // ---- full magazines ----

    fn stocked(&self, bin: Bin) -> &Stocked {
        let index = usize::from(bin.0);
        &self.stocked[if index < BINS { index } else { 0 }]
    }

    /// Most magazines of `bin` in one depot.
    #[inline]
    fn depot_limit(bin: Bin) -> u32 {
        let bytes = usize::from(shape::<P>(bin).capacity) * bins::info(bin).slot_bytes as usize;
        ((P::DEPOT_BYTES / bytes.max(1)) as u32).clamp(1, P::DEPOT_MAGAZINES)
    }

    /// A magazine with slots of `bin`, the caller's from here on: from the depot of `shard`, its inbox, or another
    /// shard's. The flag says whether it was another's.
    pub fn take_full(&self, shard: ShardId, bin: Bin) -> Option<(*mut Magazine, bool)> {
        let own = Self::bit(shard);
        let mask = self.stocked(bin).mask();
        if mask == 0 {
            return None;
        }
        if mask & own != 0
            && let Some(magazine) = self.take_full_of(shard, bin)
        {
            return Some((magazine, false));
        }
        Self::in_turn(mask & !own, shard).find_map(|other| Some((self.take_full_of(other, bin)?, true)))
    }

    /// As [`Exchange::take_full`], from the depot or inbox of `shard` alone.
    pub fn take_full_of(&self, shard: ShardId, bin: Bin) -> Option<*mut Magazine> {
        let depot = self.shard(shard).depot(bin);
        let id = depot.full.pop(&self.magazines).or_else(|| depot.inbox.pop(&self.magazines));
        depot.note_taken();
        self.stocked(bin).note_taken(Self::bit(shard), || depot.count() == 0);
        // SAFETY: ids in stacks are magazines', and this one is this thread's now.
        id.map(|id| unsafe {
            let magazine = self.magazines.get(id);
            (*magazine).origin = shard;
            magazine
        })
    }

    /// Puts a magazine of slots of `bin` into the depot of `shard`, or its `inbox`; false, and nothing done, where that
    /// holds as much as it may.
    ///
    /// # Safety
    /// The caller owns `magazine`, and no longer does after a success.
    pub unsafe fn put_full(&self, shard: ShardId, bin: Bin, magazine: *mut Magazine, inbox: bool) -> bool {
        let depot = self.shard(shard).depot(bin);
        let stack = if inbox { &depot.inbox } else { &depot.full };
        // SAFETY: the caller's promise.
        let pushed = stack.push(&self.magazines, unsafe { (*magazine).id }, Self::depot_limit(bin));
        if pushed {
            self.stocked(bin).note_pushed(Self::bit(shard));
        }
        pushed
    }

    /// Turns the inbox of `shard` over into its empty depot, so that what came first leaves first. Returns the first of
    /// the magazines that the depot had no room for, whose links lead to the others; the caller owns them. 0: none.
    pub fn turn_inbox_over(&self, shard: ShardId, bin: Bin) -> u32 {
        let depot = self.shard(shard).depot(bin);
        if !depot.full.is_empty() || depot.inbox.is_empty() {
            return 0;
        }
        let mut homeless = 0;
        {
            // No fork may come between: the child would not have what is on its way.
            let _owned = self.shard(shard).owned().lock();
            let mut next = depot.inbox.pop_all().unwrap_or(0);
            while next != 0 {
                let id = next;
                // Relaxed, both: this thread's own since the exchange.
                next = self.magazines.next(id).load(Ordering::Relaxed);
                if !depot.full.push(&self.magazines, id, MAX_COUNT) {
                    self.magazines.next(id).store(homeless, Ordering::Relaxed);
                    homeless = id;
                }
            }
        }
        self.stocked(bin).note_pushed(Self::bit(shard));
        homeless
    }

    // ---- slots at home ----

    /// The shards that may have slots of `bin` at home, in turn from `first`.
    pub fn roomy_shards(&self, bin: Bin, first: ShardId) -> impl Iterator<Item = ShardId> + use<P> {
        // Relaxed, here and below: a hint; a shard's bit and its slots are written under its lock.
        Self::in_turn(self.roomy(bin).load(Ordering::Relaxed), first)
    }

    /// Says whether `shard`, whose lock the caller holds, has slots of `bin` at home.
    pub fn set_roomy(&self, bin: Bin, shard: ShardId, is_roomy: bool) {
        let (word, bit) = (self.roomy(bin), Self::bit(shard));
        if !is_roomy {
            word.fetch_and(!bit, Ordering::Relaxed);
        } else if word.load(Ordering::Relaxed) & bit == 0 {
            // Tested first so that a bit that stands costs no write to a shared line.
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn roomy(&self, bin: Bin) -> &AtomicU32 {
        let index = usize::from(bin.0);
        &self.roomy[if index < BINS { index } else { 0 }]
    }
}
