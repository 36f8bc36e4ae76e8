//! Guards: pages of the hardened lane that fault at any access, and freed runs that wait before reuse.
//!
//! ```text
//! span in use     | pages … | guard |                       any access to the guard page faults
//! waiting run     | guard, guard, guard … |                 so does any to a freed large block, or to its ends:
//!                 | guard … | pages … | guard | guard |
//! waiting runs    oldest → next → … → youngest              first in, first out, bounded in number and bytes
//! ready runs      oldest → … → youngest                     a few that have their last guard alone, for the same length
//! ```
//!
//! What is guarded has no memory; what is not serves again with its own. Guards cost calls to the system and page faults.
//! So a thread guards only so many pages in a while, then the ends of so many runs ([`crate::hardening::quarantine`]): one
//! page in 1,024 and one more in front, and the last two. What is freed faster is ready: it serves again with its guard
//! where it is, or after four others.

use crate::pages::span::{SpanQueue, Spans};
use crate::platform::atomic::{AtomicU64, Ordering};
use crate::platform::lock::{ForkLock, Mutex, Ranked};
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::platform::transit::Transit;
use crate::platform::units::SpanId;
use core::ptr::NonNull;

/// How the run of a freed large block waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// All of it guarded.
    Whole,
    /// Its ends guarded.
    Ends,
    /// Ready, with its last guard alone.
    Ready,
}

/// Most ready runs, and bytes of those but one. Chosen: a few threads' turns, in a cache of the processor.
const READY_RUNS: usize = 4;
const READY_BYTES: usize = 4 << 20;

/// The guards and the waiting runs of an allocator.
pub struct Guards<O: Os> {
    waiting: Mutex<Waiting, O>,
    refused: AtomicU64,
}

struct Waiting {
    queue: SpanQueue,
    ready: SpanQueue,
    /// Runs on their way into a queue or out of it.
    transit: Transit,
}

impl Waiting {
    fn count(&self) -> usize {
        self.queue.count() + self.ready.count()
    }

    fn bytes(&self) -> usize {
        self.queue.bytes() + self.ready.bytes()
    }
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
        let waiting = Waiting { queue: SpanQueue::new(), ready: SpanQueue::new(), transit: Transit::new() };
        Self { waiting: Mutex::new(waiting), refused: AtomicU64::new(0) }
    }

    /// Number of waiting and ready runs.
    pub fn waiting_runs(&self) -> usize {
        self.waiting.lock().count()
    }

    /// Bytes of waiting and ready runs.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.lock().bytes()
    }

    /// Makes a run that is in transit ready. Returns another one in its stead if there are too many.
    ///
    /// # Safety
    /// The caller owns the span and hands it over; it then owns the one that is returned, in transit.
    pub unsafe fn push_ready(&self, spans: &Spans, id: SpanId) -> Option<SpanId> {
        let mut waiting = self.waiting.lock();
        // SAFETY: the caller owns the descriptor, of `spans`, and hands it over.
        unsafe { waiting.ready.push(spans, id) };
        let ready = &mut waiting.ready;
        let is_one_too_many = ready.count() > READY_RUNS || ready.count() > 1 && ready.bytes() > READY_BYTES;
        let other = if is_one_too_many { ready.pop(spans) } else { None };
        if other.is_none() {
            waiting.transit.end(O::this_thread());
        }
        other
    }

    /// Takes a ready run of `bytes` at a multiple of `align`; the caller then owns it, and calls [`Guards::end_transit`].
    pub fn take_ready(&self, spans: &Spans, bytes: usize, align: usize) -> Option<SpanId> {
        let mut waiting = self.waiting.lock();
        let id = waiting.ready.take(spans, READY_RUNS, |start, of| of == bytes && start % align == 0)?;
        waiting.transit.begin(O::this_thread());
        Some(id)
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

    /// Takes the oldest waiting or ready run out if there are more than `most_runs` or `most_bytes`, or if `is_due` says so
    /// of it under the lock. The caller then owns it, and calls [`Guards::push`] or [`Guards::end_transit`].
    pub fn pop_if(
        &self,
        spans: &Spans,
        most_runs: usize,
        most_bytes: usize,
        is_due: impl Fn(SpanId) -> bool,
    ) -> Option<SpanId> {
        let mut waiting = self.waiting.lock();
        let is_above = waiting.count() > most_runs || waiting.bytes() > most_bytes;
        let due = |queue: &SpanQueue| queue.oldest().is_some_and(|id| is_above || is_due(id));
        let id = if due(&waiting.queue) {
            waiting.queue.pop(spans)
        } else if due(&waiting.ready) {
            waiting.ready.pop(spans)
        } else {
            None
        }?;
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
