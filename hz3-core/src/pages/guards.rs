//! Held: runs of the hardened lane that are in use no more and may not be used yet; and the guards of those in use.
//!
//! ```text
//! span in use    | pages … | guard |                       any access to the guard page faults
//! held run       | guard, guard, guard … |                 so does any access to a large block that was freed
//! held runs      oldest → next → … → youngest              first in, first out, bounded in number and in bytes
//! ```
//!
//! A held run has no memory, only address space, unless the system refused its guard. One whose guards the system
//! refuses to remove stays until it does not, so that nobody is given a page that faults.

use crate::allocator::Allocator;
use crate::lane::Lane;
use crate::pages::page_tag::PageTag;
use crate::pages::span::{Guarded, Kind, Queue, at};
use crate::platform::os::Os;
use crate::platform::sync::{AtomicU64, Mutex, Ordering};
use crate::platform::units::{PAGE_BYTES, SpanId};
use core::ptr::NonNull;

/// Most bytes of held runs, and most of them. Chosen: as much as a program goes through in a short while, and no more
/// than the arenas grow by at once.
const HELD_BYTES: usize = 32 << 20;
const HELD_RUNS: usize = 64;

/// The held runs.
pub struct Held<O: Os> {
    list: Mutex<List, O>,
    refused: AtomicU64,
}

struct List {
    waiting: Queue,
    /// Runs on their way in or out, in no queue meanwhile.
    on_their_way: u32,
}

impl<O: Os> Held<O> {
    /// None.
    pub const fn new() -> Self {
        Self { list: Mutex::new(List { waiting: Queue::new(), on_their_way: 0 }), refused: AtomicU64::new(0) }
    }

    /// Bytes of held runs.
    pub fn bytes(&self) -> usize {
        self.list.lock().waiting.bytes()
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
    unsafe fn guard(&self, start: usize, bytes: usize) -> bool {
        let start = NonNull::new(core::ptr::with_exposed_provenance_mut(start));
        // SAFETY: the caller's promise.
        self.note(start.is_some_and(|start| unsafe { O::guard(start, bytes) }))
    }

    /// Undoes [`Held::guard`]; false where the system refuses.
    ///
    /// # Safety
    /// As for [`Os::unguard`].
    unsafe fn unguard(&self, start: usize, bytes: usize) -> bool {
        let start = NonNull::new(core::ptr::with_exposed_provenance_mut(start));
        // SAFETY: the caller's promise.
        self.note(start.is_some_and(|start| unsafe { O::unguard(start, bytes) }))
    }

    /// Takes the lock, for fork, at a moment when no run is on its way, because in the child nobody would take it
    /// there.
    pub fn acquire_for_fork(&self) {
        self.list.acquire_when(|list| list.on_their_way == 0);
    }

    /// Releases it, in the parent.
    ///
    /// # Safety
    /// The calling thread took it.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.list.release() }
    }

    /// Frees it, in the child.
    ///
    /// # Safety
    /// The calling thread is the only one and took it before the fork.
    pub unsafe fn reset_after_fork(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.list.reset_after_fork() }
    }
}

impl<O: Os> Default for Held<O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Lane> Allocator<L> {
    /// Guards the last page of the span `id`. Where the system refuses, the span has no guard.
    pub fn guard_end(&self, id: SpanId) {
        // SAFETY: the span is the caller's, and its last page nobody's.
        unsafe {
            let span = &mut *at(&self.runs.spans, id);
            if span.guarded == Guarded::End {
                // A mapping that the system did not take back kept its guard.
                return;
            }
            let is_guarded = self.held.guard(span.start + span.bytes() - PAGE_BYTES, PAGE_BYTES);
            span.guarded = if is_guarded { Guarded::End } else { Guarded::None };
        }
    }

    /// Makes all pages of the span `id` usable; false where the system refuses.
    pub fn unguard(&self, id: SpanId) -> bool {
        // SAFETY: the span is the caller's.
        unsafe {
            let span = &mut *at(&self.runs.spans, id);
            let (start, end) = (span.start, span.start + span.bytes());
            let is_open = match span.guarded {
                Guarded::None => true,
                Guarded::End => self.held.unguard(end - PAGE_BYTES, PAGE_BYTES),
                Guarded::All => self.held.unguard(start, end - start),
            };
            if is_open {
                span.guarded = Guarded::None;
            }
            is_open
        }
    }

    /// Keeps the pages of a large block that was freed from being used for a while.
    pub fn hold(&self, id: SpanId) {
        self.held.list.lock().on_their_way += 1;
        // SAFETY: the span is this thread's, and its contents are nobody's.
        unsafe {
            let span = &mut *at(&self.runs.spans, id);
            if self.held.guard(span.start, span.bytes()) {
                span.guarded = Guarded::All;
            }
        }
        self.keep(id);
        self.let_go(HELD_RUNS, HELD_BYTES);
    }

    /// Keeps a small span without a slot that is out, whose guard can't be removed.
    pub fn hold_guarded(&self, id: SpanId) {
        self.held.list.lock().on_their_way += 1;
        self.keep(id);
    }

    /// Puts a run that is on its way into the list.
    fn keep(&self, id: SpanId) {
        // SAFETY: the span is this thread's.
        let span = unsafe { &mut *at(&self.runs.spans, id) };
        span.kind = Kind::Held;
        let (start, last) = (span.start, span.start + span.bytes() - PAGE_BYTES);
        self.runs.arenas.set_tag(start, PageTag::edge(Kind::Held, id));
        self.runs.arenas.set_tag(last, PageTag::edge(Kind::Held, id));
        let mut list = self.held.list.lock();
        list.waiting.push(&self.runs.spans, id);
        list.on_their_way -= 1;
    }

    /// Lets held runs go, the oldest first, until no more than `most_runs` and `most_bytes` are left or the system
    /// refuses to remove a guard.
    pub fn let_go(&self, most_runs: usize, most_bytes: usize) {
        loop {
            let id = {
                let mut list = self.held.list.lock();
                if list.waiting.count() <= most_runs && list.waiting.bytes() <= most_bytes {
                    return;
                }
                let Some(id) = list.waiting.pop(&self.runs.spans) else { return };
                list.on_their_way += 1;
                id
            };
            // SAFETY: the span is this thread's.
            let is_empty = unsafe { (*at(&self.runs.spans, id)).guarded == Guarded::All };
            if !self.unguard(id) {
                return self.keep(id);
            }
            // SAFETY: as above.
            unsafe { (*at(&self.runs.spans, id)).kind = Kind::Transit };
            if is_empty {
                self.runs.release_clean(id);
            } else {
                self.runs.release(id, L::Os::now_ms());
            }
            self.held.list.lock().on_their_way -= 1;
        }
    }
}
