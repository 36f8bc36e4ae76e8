//! Guards: pages of the hardened lane that fault at any access, and runs that wait before they may be used again.
//!
//! ```text
//! span in use     | pages … | guard |                       any access to the guard page faults
//! waiting run     | guard, guard, guard … |                 so does any access to a large block that was freed
//! waiting runs    oldest → next → … → youngest              first in, first out, bounded in number and in bytes
//! ```
//!
//! A waiting run has no memory, only address space, unless the system refused its guard.

use crate::pages::span::{SpanQueue, Spans};
use crate::platform::atomic::{AtomicU64, Ordering};
use crate::platform::lock::{ForkLock, Mutex};
use crate::platform::os::Os;
use crate::platform::rank::{Rank, Ranked};
use crate::platform::units::SpanId;
use core::ptr::NonNull;

/// The guards and the waiting runs of an allocator.
pub struct Guards<O: Os> {
    waiting: Mutex<Waiting, O>,
    refused: AtomicU64,
}

struct Waiting {
    queue: SpanQueue,
    /// Runs on their way in or out, in no queue meanwhile.
    on_their_way: u32,
}

impl Ranked for Waiting {
    const RANK: Rank = Rank::Waiting;

    fn is_settled(&self) -> bool {
        self.on_their_way == 0
    }
}

impl<O: Os> Guards<O> {
    /// None.
    pub const fn new() -> Self {
        Self { waiting: Mutex::new(Waiting { queue: SpanQueue::new(), on_their_way: 0 }), refused: AtomicU64::new(0) }
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

    fn note(&self, is_granted: bool) -> bool {
        if !is_granted {
            // Relaxed: a count.
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        is_granted
    }

    /// Makes `bytes` at `start` fault; false where the system refuses.
    ///
    /// # Safety
    /// As for [`Os::guard`].
    pub unsafe fn guard(&self, start: usize, bytes: usize) -> bool {
        let start = NonNull::new(core::ptr::with_exposed_provenance_mut(start));
        // SAFETY: the caller's promise.
        self.note(start.is_some_and(|start| unsafe { O::guard(start, bytes) }))
    }

    /// Undoes [`Guards::guard`]; false where the system refuses.
    ///
    /// # Safety
    /// As for [`Os::unguard`].
    pub unsafe fn unguard(&self, start: usize, bytes: usize) -> bool {
        let start = NonNull::new(core::ptr::with_exposed_provenance_mut(start));
        // SAFETY: the caller's promise.
        self.note(start.is_some_and(|start| unsafe { O::unguard(start, bytes) }))
    }

    /// Says that a run is on its way to [`Guards::push`].
    pub fn note_coming(&self) {
        self.waiting.lock().on_their_way += 1;
    }

    /// Puts a run that is on its way into the queue.
    ///
    /// # Safety
    /// The caller owns the span, and no longer does afterwards.
    pub unsafe fn push(&self, spans: &Spans, id: SpanId) {
        let mut waiting = self.waiting.lock();
        // SAFETY: the caller's promise.
        unsafe { waiting.queue.push(spans, id) };
        waiting.on_their_way -= 1;
    }

    /// Takes the oldest run out, if there are more than `most_runs` or `most_bytes`. It is on its way then, to
    /// [`Guards::push`] or [`Guards::note_gone`].
    pub fn pop_above(&self, spans: &Spans, most_runs: usize, most_bytes: usize) -> Option<SpanId> {
        let mut waiting = self.waiting.lock();
        if waiting.queue.count() <= most_runs && waiting.queue.bytes() <= most_bytes {
            return None;
        }
        let id = waiting.queue.pop(spans)?;
        waiting.on_their_way += 1;
        Some(id)
    }

    /// Says that a run that was on its way is somewhere else.
    pub fn note_gone(&self) {
        self.waiting.lock().on_their_way -= 1;
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
