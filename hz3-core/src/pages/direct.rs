//! Direct mappings: large blocks that are mappings of their own, by address; and mappings that the system did not take back.
//!
//! ```text
//! buckets[hash of the address] → block → block → …
//! munmap refused → first → mapping → … → last → asked again, or the next large block that fits
//! ```
//!
//! munmap(2) is refused where it would cut a mapping in two (the kernel lets neighbours grow together) and the process has
//! as many as it may. The mapping's memory is given back instead, and the mapping waits: upkeep and trims ask again, and a
//! new block may take it.

use crate::pages::page_tag::Kind;
use crate::pages::span::{Span, SpanQueue, Spans, at};
use crate::platform::lock::{ForkLock, Mutex};
use crate::platform::os::Os;
use crate::platform::rank::{Rank, Ranked};
use crate::platform::units::{PAGE_BYTES, SpanId};

const BUCKETS: usize = 256;
/// Waiting mappings that a request looks at: bounds the time under the lock.
const LOOKS: usize = 64;

/// The direct mappings of an allocator.
pub struct DirectMappings<O: Os> {
    table: Mutex<Table, O>,
}

struct Table {
    buckets: [SpanId; BUCKETS],
    blocks: usize,
    bytes: usize,
    /// Mappings that the system did not take back.
    unreturned: SpanQueue,
}

impl Ranked for Table {
    const RANK: Rank = Rank::Direct;
}

fn bucket(address: usize) -> usize {
    // Fibonacci hashing of the page number; the top byte is the bucket.
    (((address / PAGE_BYTES) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % BUCKETS
}

impl<O: Os> DirectMappings<O> {
    /// None yet.
    pub const fn new() -> Self {
        let table = Table { buckets: [SpanId::NONE; BUCKETS], blocks: 0, bytes: 0, unreturned: SpanQueue::new() };
        Self { table: Mutex::new(table) }
    }

    /// Puts the mapping `id` into the table.
    ///
    /// # Safety
    /// The caller owns the descriptor, which is the table's from here on.
    pub unsafe fn insert(&self, spans: &Spans, id: SpanId) {
        let mut table = self.table.lock();
        // SAFETY: the caller's promise.
        let span = unsafe { &mut *at(spans, id) };
        table.bytes += span.bytes();
        table.blocks += 1;
        if let Some(first) = table.buckets.get_mut(bucket(span.start)) {
            span.next = *first;
            *first = id;
        }
    }

    /// Takes the block at `address` out of the table; the caller owns its descriptor then.
    pub fn remove(&self, spans: &Spans, address: usize) -> Option<SpanId> {
        let mut table = self.table.lock();
        let first = table.buckets.get_mut(bucket(address))?;
        let mut link: *mut SpanId = first;
        // SAFETY: the chain's descriptors are the lock holder's; `link` points to the bucket or into one.
        unsafe {
            while !(*link).is_none() {
                let id = *link;
                let span = at(spans, id);
                if (*span).start == address {
                    *link = (*span).next;
                    let bytes = (*span).bytes();
                    table.bytes -= bytes;
                    table.blocks -= 1;
                    return Some(id);
                }
                link = &raw mut (*span).next;
            }
        }
        None
    }

    /// What `look` says of the block at `address`; `None` where there is none.
    pub fn with<T>(&self, spans: &Spans, address: usize, look: impl FnOnce(&Span) -> T) -> Option<T> {
        let table = self.table.lock();
        let mut id = *table.buckets.get(bucket(address))?;
        while !id.is_none() {
            // SAFETY: the chain's descriptors are the lock holder's.
            let span = unsafe { &*at(spans, id) };
            if span.start == address {
                return Some(look(span));
            }
            id = span.next;
        }
        None
    }

    /// Number and bytes of all blocks that are mappings of their own.
    pub fn count_and_bytes(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.blocks, table.bytes)
    }

    /// Number and bytes of the mappings that the system did not take back. One that it is asked for at this moment does
    /// not count.
    pub fn unreturned(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.unreturned.count(), table.unreturned.bytes())
    }

    /// Puts the mapping `id`, which the system did not take back, at the end of the line.
    ///
    /// # Safety
    /// The caller owns the descriptor, which is in no table, and no longer does afterwards. Nothing uses the mapping.
    pub unsafe fn push_unreturned(&self, spans: &Spans, id: SpanId) {
        // SAFETY: the caller's promise.
        unsafe { self.table.lock().unreturned.push(spans, id) };
    }

    /// Takes the first mapping of the line; the caller owns its descriptor then.
    pub fn pop_unreturned(&self, spans: &Spans) -> Option<SpanId> {
        self.table.lock().unreturned.pop(spans)
    }

    /// Takes a mapping of the line that holds from `pages` to `most_pages` and begins at a multiple of `align`; the caller
    /// owns its descriptor then.
    pub fn reuse(&self, spans: &Spans, pages: usize, most_pages: usize, align: usize) -> Option<SpanId> {
        self.table.lock().unreturned.take(spans, LOOKS, |start, bytes| {
            (pages..=most_pages).contains(&(bytes / PAGE_BYTES)) && start.is_multiple_of(align)
        })
    }

    /// Checks the table against its own counts.
    ///
    /// # Errors
    /// Names the broken rule.
    pub fn check(&self, spans: &Spans) -> Result<(), &'static str> {
        let table = self.table.lock();
        let (mut blocks, mut bytes) = (0, 0);
        for (number, first) in table.buckets.iter().enumerate() {
            let mut id = *first;
            while !id.is_none() {
                // SAFETY: the chain's descriptors are the lock holder's.
                let span = unsafe { &*at(spans, id) };
                if span.kind != Kind::Large || bucket(span.start) != number {
                    return Err("a direct mapping in the wrong place");
                }
                (blocks, bytes, id) = (blocks + 1, bytes + span.bytes(), span.next);
            }
        }
        if (blocks, bytes) != (table.blocks, table.bytes) {
            return Err("the count of direct mappings");
        }
        table.unreturned.check(spans, Kind::Transit)
    }

    /// The table's lock, for fork.
    pub fn lock_for_fork(&self) -> &dyn ForkLock {
        &self.table
    }
}

impl<O: Os> Default for DirectMappings<O> {
    fn default() -> Self {
        Self::new()
    }
}
