//! Index: all regions, found by number, each under its lock.
//!
//! ```text
//! number → region in a table, never unmapped        number modulo 32 → its lock
//! ```
//!
//! A fork takes the locks, as many however many regions there are. A claim that waits for the system is in transit: the
//! fork waits for it, so that the child's limit holds. What a fork meets between a region and the free runs, or in the middle
//! of an end of a region, the child loses.

use crate::pages::span::Spans;
use crate::platform::abort;
use crate::platform::atomic::{AtomicUsize, Ordering};
use crate::platform::lock::{ForkLock, Guard, Mutex, Ranked};
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::platform::table::{Table, typed};
use crate::platform::transit::Transit;
use crate::regions::region::{Region, RegionStats};
use core::ptr::NonNull;
use crossbeam_utils::CachePadded;

/// Bytes of a region.
const REGION_BYTES: usize = 512;
/// Locks. Chosen: as the shards' of a lane; one thread's regions seldom meet another's.
const LOCKS: usize = if cfg!(miri) { 1 } else { 32 };

const _: () = assert!(size_of::<Region>() <= REGION_BYTES && align_of::<Region>() <= REGION_BYTES);

/// What a lock protects besides its regions.
struct Stripe {
    /// The first region that is not in use.
    unused: u32,
    claims: Transit,
}

impl Ranked for Stripe {
    const RANK: Rank = Rank::Regions;

    fn transit(&mut self) -> Option<&mut Transit> {
        Some(&mut self.claims)
    }
}

/// The regions of an allocator.
pub struct Regions<O: Os> {
    locks: [CachePadded<Mutex<Stripe, O>>; LOCKS],
    table: Table<REGION_BYTES>,
    /// Counts regions begun: the lock of the next one follows in turn.
    begun: AtomicUsize,
    unused: AtomicUsize,
    large_blocks: AtomicUsize,
}

/// A region under its lock.
pub struct Held<'a, O: Os> {
    stripe: Guard<'a, Stripe, O>,
    region: NonNull<Region>,
}

impl<O: Os> Held<'_, O> {
    /// The region.
    pub fn region(&mut self) -> &mut Region {
        // SAFETY: the lock is held, which protects the region; the exclusive borrow of `self` makes the reference the only
        // one.
        unsafe { self.region.as_mut() }
    }

    /// Counts a claim as in transit.
    pub fn begin_claim(&mut self) {
        self.stripe.claims.begin(O::this_thread());
    }

    /// Counts one that has arrived, or is given up.
    pub fn end_claim(&mut self) {
        self.stripe.claims.end(O::this_thread());
    }
}

impl<O: Os> Regions<O> {
    /// No regions.
    #[allow(clippy::new_without_default, reason = "only an allocator has one")]
    pub const fn new() -> Self {
        Self {
            locks: [const { CachePadded::new(Mutex::new(Stripe { unused: 0, claims: Transit::new() })) }; LOCKS],
            table: Table::new(),
            begun: AtomicUsize::new(0),
            unused: AtomicUsize::new(0),
            large_blocks: AtomicUsize::new(0),
        }
    }

    /// Calls `visit` with each lock, in order.
    pub fn each_lock(&self, mut visit: impl FnMut(&dyn ForkLock)) {
        self.locks.iter().for_each(|lock| visit(&**lock));
    }

    /// Bytes of address space that regions' records take.
    pub fn mapped_bytes(&self) -> usize {
        self.table.mapped_bytes()
    }

    /// Whether there was a region ever.
    #[inline]
    pub fn is_any(&self) -> bool {
        // Relaxed: whoever has a block of a region got it after the count.
        self.begun.load(Ordering::Relaxed) != 0
    }

    /// Whether a region may have a large block.
    #[inline]
    pub fn has_large(&self) -> bool {
        // Relaxed: as above.
        self.large_blocks.load(Ordering::Relaxed) != 0
    }

    /// The region, in use or not.
    pub fn lock(&self, number: u32) -> Held<'_, O> {
        // The index is below the length.
        let stripe = self.locks[number as usize % LOCKS].lock();
        // SAFETY: callers pass numbers that the table handed out.
        Held { stripe, region: unsafe { typed::<Region, REGION_BYTES>(&self.table, number) } }
    }

    /// The region of which a descriptor tells, perhaps a stale one; `None` for what is no number.
    pub fn lock_if_any(&self, number: u32) -> Option<Held<'_, O>> {
        self.numbers().contains(&number).then(|| self.lock(number))
    }

    /// The region, in use. One that was destroyed stops the process in the name of `entry`.
    pub fn lock_live(&self, number: u32, entry: &str) -> Held<'_, O> {
        let mut held = self.lock(number);
        if !held.region().is_live {
            let address = held.region.as_ptr().addr();
            // The program's SIGABRT handler may allocate.
            drop(held);
            abort::misuse::<O>(entry, "destroyed region", address);
        }
        held
    }

    /// Begins a region with a limit in pages, `usize::MAX` for none; its number. `None` if memory runs out.
    pub fn begin(&self, most_pages: usize) -> Option<u32> {
        // Relaxed: a turn.
        let turn = self.begun.fetch_add(1, Ordering::Relaxed);
        let number = self.take_unused(turn).or_else(|| self.table.allocate::<O>(1))?;
        self.lock(number).region().begin(number, most_pages);
        Some(number)
    }

    fn take_unused(&self, turn: usize) -> Option<u32> {
        for step in 0..LOCKS {
            // Relaxed: a hint.
            if self.unused.load(Ordering::Relaxed) == 0 {
                return None;
            }
            let mut stripe = self.locks[(turn + step) % LOCKS].lock();
            let number = stripe.unused;
            if number != 0 {
                // SAFETY: numbers in the list came from the table; the lock is held, which protects the region.
                stripe.unused = unsafe { typed::<Region, REGION_BYTES>(&self.table, number).as_ref() }.next_unused;
                // Relaxed: a hint.
                self.unused.fetch_sub(1, Ordering::Relaxed);
                return Some(number);
            }
        }
        None
    }

    /// Counts large blocks in.
    pub fn note_large(&self, is_in: bool) {
        // Relaxed, both: counted before the program has the block, and after it has given it up.
        if is_in {
            self.large_blocks.fetch_add(1, Ordering::Relaxed);
        } else {
            self.large_blocks.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes back a region's number, which nobody uses any more.
    pub fn retire(&self, number: u32) {
        let mut held = self.lock(number);
        held.region().next_unused = held.stripe.unused;
        held.stripe.unused = number;
        // Relaxed: a hint.
        self.unused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts region `number`.
    pub fn stats_of(&self, number: u32) -> RegionStats {
        let mut stats = RegionStats::default();
        self.lock_live(number, "hz3_region_stats()").region().add_to(&mut stats);
        stats
    }

    /// Counts all regions.
    pub fn stats(&self) -> RegionStats {
        let mut stats = RegionStats::default();
        self.each(|region| {
            region.add_to(&mut stats);
            Ok(())
        })
        .unwrap_or_default();
        stats
    }

    /// The numbers of all regions, in use or not.
    pub fn numbers(&self) -> core::ops::Range<u32> {
        1..self.table.end()
    }

    fn each(&self, mut look: impl FnMut(&Region) -> Result<(), &'static str>) -> Result<(), &'static str> {
        for number in self.numbers() {
            let mut held = self.lock(number);
            if held.region().is_live {
                look(held.region())?;
            }
        }
        Ok(())
    }

    /// Checks every region's counts while no thread uses one.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check(&self, spans: &Spans, guard_pages: usize) -> Result<(), &'static str> {
        self.each(|region| region.check(spans, guard_pages))
    }

    /// The number of the region at an [address](Regions::address_of).
    ///
    /// # Safety
    /// A region lies there, in use or destroyed.
    pub unsafe fn number_at(address: NonNull<u8>) -> u32 {
        // SAFETY: the caller passes a region's address; the number is constant.
        unsafe { (*address.cast::<Region>().as_ptr()).number }
    }

    /// The region's address, which stands for it in C.
    pub fn address_of(&self, number: u32) -> NonNull<u8> {
        // SAFETY: callers pass numbers that the table handed out.
        unsafe { typed::<u8, REGION_BYTES>(&self.table, number) }
    }
}
