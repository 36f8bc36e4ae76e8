//! Guards: pages of the hardened lane that fault at any access, and freed runs that wait before reuse.
//!
//! ```text
//! span in use     | pages … | guard |                       any access to the guard page faults
//! waiting run     | guard … | pages … | guard |             so does any to the front of a freed large block
//! waiting runs    oldest → next → … → youngest              first in, first out, bounded in number and bytes
//! ```
//!
//! A waiting run keeps its memory, which then serves again, where memory need not go back at once. Its front pages, one in
//! 256 and one more, have none.

use crate::pages::span::{SpanQueue, Spans};
use crate::platform::atomic::{AtomicU64, Ordering};
use crate::platform::lock::{ForkLock, Mutex, Ranked};
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::platform::transit::Transit;
use crate::platform::units::SpanId;
use core::ptr::NonNull;

/// The guards and the waiting runs of an allocator.
pub struct Guards<O: Os> {
    waiting: Mutex<Waiting, O>,
    refused: AtomicU64,
}

struct Waiting {
    queue: SpanQueue,
    /// Runs on their way into the queue or out of it.
    transit: Transit,
}

impl Ranked for Waiting {
    const RANK: Rank = Rank::Waiting;

    fn transit(&mut self) -> Option<&mut Transit> {
        Some(&mut self.transit)
    }
}

impl<O: Os> Guards<O> {
    /// No guards, no runs.
    pub const fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting { queue: SpanQueue::new(), transit: Transit::new() }),
            refused: AtomicU64::new(0),
        }
    }

    /// Number of waiting runs.
    pub fn waiting_runs(&self) -> usize {
        self.waiting.lock().queue.count()
    }

    /// Bytes of waiting runs.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.lock().queue.bytes()
    }

    /// Guards that the system refused to make or to remove so far.
    pub fn refused(&self) -> usize {
        // Relaxed: a count.
        self.refused.load(Ordering::Relaxed) as usize
    }

    fn count_refusal(&self, is_granted: bool) -> bool {
        if !is_granted {
            // Relaxed: a count.
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        is_granted
    }

    /// Makes any access to `bytes` at `start` fault. False if the system refuses.
    ///
    /// # Safety
    /// As for [`Os::guard`].
    pub unsafe fn guard(&self, start: usize, bytes: usize) -> bool {
        let start = NonNull::new(core::ptr::with_exposed_provenance_mut(start));
        // SAFETY: the caller keeps the contract of `Os::guard`.
        self.count_refusal(start.is_some_and(|start| unsafe { O::guard(start, bytes) }))
    }

    /// Undoes [`Guards::guard`]. False if the system refuses.
    ///
    /// # Safety
    /// As for [`Os::unguard`].
    pub unsafe fn unguard(&self, start: usize, bytes: usize) -> bool {
        let start = NonNull::new(core::ptr::with_exposed_provenance_mut(start));
        // SAFETY: the caller keeps the contract of `Os::unguard`.
        self.count_refusal(start.is_some_and(|start| unsafe { O::unguard(start, bytes) }))
    }

    /// Announces a run that [`Guards::push`] will get.
    pub fn begin_transit(&self) {
        self.waiting.lock().transit.begin(O::this_thread());
    }

    /// Puts a run that is in transit into the queue.
    ///
    /// # Safety
    /// The caller owns the span and hands it over.
    pub unsafe fn push(&self, spans: &Spans, id: SpanId) {
        let mut waiting = self.waiting.lock();
        // SAFETY: the caller owns the descriptor, of `spans`, and hands it over.
        unsafe { waiting.queue.push(spans, id) };
        waiting.transit.end(O::this_thread());
    }

    /// Takes the oldest run out if `is_due`, which is called under the lock. The caller then owns it, and calls
    /// [`Guards::push`] or [`Guards::end_transit`].
    pub fn pop_if(&self, spans: &Spans, is_due: impl Fn(&SpanQueue) -> bool) -> Option<SpanId> {
        let mut waiting = self.waiting.lock();
        if !is_due(&waiting.queue) {
            return None;
        }
        let id = waiting.queue.pop(spans)?;
        waiting.transit.begin(O::this_thread());
        Some(id)
    }

    /// Ends the transit of a run that does not return.
    pub fn end_transit(&self) {
        self.waiting.lock().transit.end(O::this_thread());
    }

    /// The queue's lock, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &self.waiting
    }
}

impl<O: Os> Default for Guards<O> {
    fn default() -> Self {
        Self::new()
    }
}
