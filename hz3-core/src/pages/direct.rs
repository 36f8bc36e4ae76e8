//! Direct mappings: large blocks with a mapping each, found by address.
//!
//! ```text
//! buckets[hash of the address] → block → block → …
//! munmap refused → first → mapping → … → last → retried, or the next large block that fits
//! ```
//!
//! munmap(2) is refused if it would split a mapping (the kernel merges neighbours) and the process has as many as it
//! may. The memory is purged instead, and the mapping waits: upkeep and trims retry, and a new block may reuse it.

use crate::pages::page_tag::Kind;
use crate::pages::span::{Span, SpanQueue, Spans, at};
use crate::platform::lock::{ForkLock, Mutex, Ranked};
use crate::platform::os::Os;
use crate::platform::rank::Rank;
use crate::platform::units::{PAGE_BYTES, SpanId};

/// Size in bytes from which every large block is a direct mapping. Chosen: glibc's largest mmap threshold.
pub const DIRECT_BYTES: usize = 32 << 20;
const BUCKETS: usize = 256;
/// Unreturned mappings that a request examines: bounds the time under the lock.
const PROBES: usize = 64;

/// The direct mappings of an allocator.
pub struct DirectMappings<O: Os> {
    table: Mutex<Table, O>,
}

struct Table {
    buckets: [SpanId; BUCKETS],
    blocks: usize,
    /// Blocks below [`DIRECT_BYTES`].
    small: usize,
    bytes: usize,
    /// Mappings that the system refused to unmap.
    unreturned: SpanQueue,
}

impl Ranked for Table {
    const RANK: Rank = Rank::Direct;
}

fn bucket(address: usize) -> usize {
    // Fibonacci hashing of the page number: the top byte is the bucket.
    (((address / PAGE_BYTES) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % BUCKETS
}

impl<O: Os> DirectMappings<O> {
    /// No mappings.
    pub const fn new() -> Self {
        let table =
            Table { buckets: [SpanId::NONE; BUCKETS], blocks: 0, small: 0, bytes: 0, unreturned: SpanQueue::new() };
        Self { table: Mutex::new(table) }
    }

    /// Adds the mapping `id`.
    ///
    /// # Safety
    /// The caller owns the descriptor and hands it over.
    pub unsafe fn insert(&self, spans: &Spans, id: SpanId) {
        let mut table = self.table.lock();
        // SAFETY: the caller owns the descriptor.
        let span = unsafe { &mut *at(spans, id) };
        table.bytes += span.bytes();
        table.blocks += 1;
        table.small += usize::from(span.bytes() < DIRECT_BYTES);
        if let Some(first) = table.buckets.get_mut(bucket(span.start)) {
            span.next = *first;
            *first = id;
        }
    }

    /// Removes the block at `address`; the caller then owns its descriptor. `None` if there is none.
    pub fn remove(&self, spans: &Spans, address: usize) -> Option<SpanId> {
        let mut table = self.table.lock();
        let first = table.buckets.get_mut(bucket(address))?;
        let mut link: *mut SpanId = first;
        // SAFETY: the lock is held, and protects the chain's descriptors; `link` points to the bucket or into one.
        unsafe {
            while !(*link).is_none() {
                let id = *link;
                let span = at(spans, id);
                if (*span).start == address {
                    *link = (*span).next;
                    let bytes = (*span).bytes();
                    table.bytes -= bytes;
                    table.blocks -= 1;
                    table.small -= usize::from(bytes < DIRECT_BYTES);
                    return Some(id);
                }
                link = &raw mut (*span).next;
            }
        }
        None
    }

    /// The result of `read` for the block at `address`, called under the lock; `None` if there is none.
    pub fn with<T>(&self, spans: &Spans, address: usize, read: impl FnOnce(&Span) -> T) -> Option<T> {
        let table = self.table.lock();
        let mut id = *table.buckets.get(bucket(address))?;
        while !id.is_none() {
            // SAFETY: the lock is held, and protects the chain's descriptors.
            let span = unsafe { &*at(spans, id) };
            if span.start == address {
                return Some(read(span));
            }
            id = span.next;
        }
        None
    }

    /// Number and bytes of the blocks with a mapping of their own.
    pub fn count_and_bytes(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.blocks, table.bytes)
    }

    /// Number of the blocks below [`DIRECT_BYTES`].
    pub fn small_blocks(&self) -> usize {
        self.table.lock().small
    }

    /// Number and bytes of the mappings that the system refused to unmap, without those being retried.
    pub fn unreturned(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.unreturned.count(), table.unreturned.bytes())
    }

    /// Appends the mapping `id`, which the system refused to unmap.
    ///
    /// # Safety
    /// The caller owns the descriptor, which is in no list, and hands it over. Nothing uses the mapping.
    pub unsafe fn push_unreturned(&self, spans: &Spans, id: SpanId) {
        // SAFETY: the caller owns the descriptor, of `spans`, and hands it over.
        unsafe { self.table.lock().unreturned.push(spans, id) };
    }

    /// Takes the oldest unreturned mapping; the caller then owns its descriptor.
    pub fn pop_unreturned(&self, spans: &Spans) -> Option<SpanId> {
        self.table.lock().unreturned.pop(spans)
    }

    /// Takes an unreturned mapping of `pages` to `most_pages` pages at a multiple of `align`; the caller then owns it.
    pub fn reuse(&self, spans: &Spans, pages: usize, most_pages: usize, align: usize) -> Option<SpanId> {
        self.table.lock().unreturned.take(spans, PROBES, |start, bytes| {
            (pages..=most_pages).contains(&(bytes / PAGE_BYTES)) && start.is_multiple_of(align)
        })
    }

    /// Checks the table against its counts.
    ///
    /// # Errors
    /// The broken rule.
    pub fn check(&self, spans: &Spans) -> Result<(), &'static str> {
        let table = self.table.lock();
        let (mut blocks, mut small, mut bytes) = (0, 0, 0);
        for (number, first) in table.buckets.iter().enumerate() {
            let mut id = *first;
            while !id.is_none() {
                // SAFETY: the lock is held, and protects the chain's descriptors.
                let span = unsafe { &*at(spans, id) };
                if span.kind != Kind::Large || bucket(span.start) != number {
                    return Err("a direct mapping in the wrong place");
                }
                small += usize::from(span.bytes() < DIRECT_BYTES);
                (blocks, bytes, id) = (blocks + 1, bytes + span.bytes(), span.next);
            }
        }
        if (blocks, small, bytes) != (table.blocks, table.small, table.bytes) {
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
