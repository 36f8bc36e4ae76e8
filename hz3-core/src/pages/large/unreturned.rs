//! Unreturned: mappings that are nobody's any more and that the system did not take back.
//!
//! ```text
//! munmap refused → first → mapping → … → last → asked again, or the next large block that fits
//! ```
//!
//! munmap(2) is refused where it would cut a mapping in two (the kernel lets neighbours grow together) and the process
//! has as many as it may. The pages' memory is given back instead, where the system does that much, and the mapping
//! waits in line: upkeep and trims ask again, and a block may come to lie in it meanwhile.

use super::Directs;
use crate::pages::runs::Runs;
use crate::pages::span::{Guarded, Kind, Spans, at};
use crate::platform::os::Os;
use crate::platform::units::{PAGE_BYTES, SpanId};
use core::ptr::NonNull;

/// Mappings that a request looks at: bounds the time under the lock.
const LOOKS: usize = 64;

impl<O: Os> Directs<O> {
    /// Number and bytes of mappings that the system did not take back. One that it is asked for at this moment does
    /// not count.
    pub fn unreturned(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.unreturned.count(), table.unreturned.bytes())
    }

    /// Ends the mapping `id`, or puts it in the line; whether it ended.
    ///
    /// # Safety
    /// The caller owns the descriptor, which is in no table, and no longer does afterwards; nothing uses the mapping.
    /// It reads as zero where the descriptor says so.
    pub(super) unsafe fn end(&self, runs: &Runs<O>, id: SpanId) -> bool {
        // SAFETY: the caller's promise.
        let span = unsafe { &mut *at(&runs.spans, id) };
        let Some(start) = NonNull::new(core::ptr::with_exposed_provenance_mut(span.start)) else { return false };
        // SAFETY: as above; the range is the whole mapping.
        if unsafe { O::unmap(start, span.bytes()) } {
            runs.retire_descriptor(id);
            return true;
        }
        // SAFETY: as above.
        span.zeroed = span.zeroed || unsafe { O::purge(start, span.bytes()) };
        span.kind = Kind::Transit;
        self.table.lock().unreturned.push(&runs.spans, id);
        false
    }

    /// Ends an end of a fresh mapping, `bytes` in whole pages, as [`Directs::end`]. Where there is no memory for a
    /// descriptor either, address space is lost, and no memory.
    ///
    /// # Safety
    /// Nothing has used the range, nor will.
    pub(super) unsafe fn end_untouched(&self, runs: &Runs<O>, start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise; a descriptor that was just handed out is this thread's.
        unsafe {
            if bytes == 0 || O::unmap(start, bytes) {
                return;
            }
            if let Some(id) = runs.descriptor() {
                let span = &mut *at(&runs.spans, id);
                (span.start, span.pages) = (start.as_ptr().expose_provenance(), (bytes / PAGE_BYTES) as u32);
                (span.kind, span.zeroed, span.guarded) = (Kind::Transit, true, Guarded::None);
                self.table.lock().unreturned.push(&runs.spans, id);
            }
        }
    }

    /// A mapping of the line that holds from `pages` to `most_pages` and begins at a multiple of `align`; the caller
    /// owns its descriptor then.
    pub(super) fn reuse(&self, spans: &Spans, pages: usize, most_pages: usize, align: usize) -> Option<SpanId> {
        self.table.lock().unreturned.take(spans, LOOKS, |start, bytes| {
            (pages..=most_pages).contains(&(bytes / PAGE_BYTES)) && start.is_multiple_of(align)
        })
    }

    /// Asks the system again to take back the first `most` mappings of the line; returns how many bytes went. In a
    /// child that is forked meanwhile, one mapping without memory is nobody's.
    pub fn return_again(&self, runs: &Runs<O>, most: usize) -> usize {
        let mut returned = 0;
        for _ in 0..most.min(self.unreturned().0) {
            let Some(id) = self.table.lock().unreturned.pop(&runs.spans) else { break };
            // SAFETY: the descriptor is this thread's now, and nothing uses the mapping.
            unsafe {
                let bytes = (*at(&runs.spans, id)).bytes();
                returned += if self.end(runs, id) { bytes } else { 0 };
            }
        }
        returned
    }
}
