//! Forks: those that wait until nobody else has things in [transit](crate::platform::transit).
//!
//! A forked child lacks the other threads. So a fork waits until only its own thread has things in transit, and new
//! transits wait for it in turn. Neither waits for ever, nor with a lock held: whoever is in transit calls the system,
//! where a library in libc's place may allocate, fork, or wait for the thread that forks.

use crate::platform::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::platform::os::Waiter;

/// Naps of a transit that lets forks pass. Chosen: 0.15 s, longer than most purges.
const TRANSIT_NAPS: u32 = if cfg!(loom) { 1 } else { 1000 };
/// Naps of a fork before it gives up a turn. Chosen: 15 ms.
const FORK_NAPS: u32 = if cfg!(loom) { 1 } else { 100 };

/// Threads in transit that are known. Of more, one that is in transit within a transit lets forks pass in vain.
const TRAVELERS: usize = 16;

/// An allocator's forks.
pub struct Forks {
    /// Identities of threads in transit; 0 for none.
    travelers: [AtomicUsize; TRAVELERS],
    /// Forks that wait for transits to end.
    waiting: AtomicU32,
    /// Forks within the one for which this thread holds the locks: from another library's handler. Sync: those locks.
    nested: AtomicU32,
}

impl Forks {
    /// None.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            travelers: [const { AtomicUsize::new(0) }; TRAVELERS],
            waiting: AtomicU32::new(0),
            nested: AtomicU32::new(0),
        }
    }

    /// None.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            travelers: core::array::from_fn(|_| AtomicUsize::new(0)),
            waiting: AtomicU32::new(0),
            nested: AtomicU32::new(0),
        }
    }

    /// Before something is taken out: waits a little while forks wait, unless they may wait for this very thread. The
    /// caller holds no lock.
    #[inline]
    pub fn begin_transit<W: Waiter>(&self) -> InTransit<'_> {
        if self.is_in_transit::<W>() {
            return InTransit(None);
        }
        let thread = W::this_thread();
        // Relaxed: a request, not an order; the fork looks at the transits under their locks.
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.let_pass::<W>();
        }
        InTransit(self.travelers.iter().find(|traveler| {
            // Relaxed, all: only this thread stores its identity, and takes it away.
            traveler.load(Ordering::Relaxed) == 0
                && traveler.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        }))
    }

    /// Whether the calling thread is in transit; false if it is one too many to be known.
    pub fn is_in_transit<W: Waiter>(&self) -> bool {
        let thread = W::this_thread();
        // Relaxed, all: only this thread stores its identity, and takes it away.
        self.travelers.iter().any(|traveler| traveler.load(Ordering::Relaxed) == thread)
    }

    #[cold]
    fn let_pass<W: Waiter>(&self) {
        for _ in 0..TRANSIT_NAPS {
            W::nap();
            // Relaxed: as above.
            if self.waiting.load(Ordering::Relaxed) == 0 {
                break;
            }
        }
    }

    /// Takes all locks by `acquire`, which tells whether nobody else has anything in transit. If somebody has, gives the
    /// locks back by `release`, naps and tries again, a limited number of times. Returns with the locks; the last answer.
    pub fn acquire_settled<W: Waiter>(&self, acquire: impl Fn() -> bool, release: impl Fn()) -> bool {
        if acquire() {
            return true;
        }
        // Relaxed, both: as above.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let is_settled = (0..FORK_NAPS).any(|_| {
            release();
            W::nap();
            acquire()
        });
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        is_settled
    }

    /// Begins a fork in a thread that holds all locks for another.
    pub fn begin_nested(&self) {
        // Relaxed: under the locks.
        self.nested.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends such a fork, in the parent or in the child; false if there is none.
    pub fn end_nested(&self) -> bool {
        // Relaxed, both: under the locks.
        let nested = self.nested.load(Ordering::Relaxed);
        if nested > 0 {
            self.nested.store(nested - 1, Ordering::Relaxed);
        }
        nested > 0
    }

    /// In a forked child: forgets the other threads.
    pub fn forget_others<W: Waiter>(&self) {
        // Relaxed, all: the child has one thread. It pays for a page that it writes to.
        for traveler in &self.travelers {
            if ![0, W::this_thread()].contains(&traveler.load(Ordering::Relaxed)) {
                traveler.store(0, Ordering::Relaxed);
            }
        }
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.waiting.store(0, Ordering::Relaxed);
        }
    }
}

/// A transit of the calling thread, until dropped.
pub struct InTransit<'a>(Option<&'a AtomicUsize>);

impl Drop for InTransit<'_> {
    fn drop(&mut self) {
        if let Some(traveler) = self.0 {
            // Relaxed: as at the beginning.
            traveler.store(0, Ordering::Relaxed);
        }
    }
}

impl Default for Forks {
    fn default() -> Self {
        Self::new()
    }
}
