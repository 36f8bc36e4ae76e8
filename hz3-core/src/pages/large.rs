//! Large: blocks above the biggest bin. Runs of pages; the largest are mappings of their own.
//!
//! ```text
//! 32 KiB < size < 32 MiB     a run of the arenas, tagged at its first and last page
//! 32 MiB ≤ size              a mapping; known by a table of its own, resized by mremap
//! ```
//!
//! A request that the arenas can't serve becomes a mapping too, so that fragmentation alone never makes
//! one fail; and one that should become a mapping is served by the arenas where the system refuses it, as it
//! does when the process has as many mappings as it may (`vm.max_map_count`).

mod unreturned;

use crate::allocator::Allocator;
use crate::hardening::canary;
use crate::lane::Lane;
use crate::pages::page_tag::{PageTag, TagCell};
use crate::pages::span::{Guarded, Kind, Queue, Span, Spans, at};
use crate::platform::abort;
use crate::platform::os::Os;
use crate::platform::sync::Mutex;
use crate::platform::units::{PAGE_BYTES, SpanId, pages_for};
use core::ptr::{NonNull, null_mut};

/// Smallest block that is mapped on its own. Chosen: glibc's largest threshold for the same step.
pub const DIRECT_BYTES: usize = 32 << 20;
const BUCKETS: usize = 256;

/// The blocks that are mappings of their own, by address.
pub struct Directs<O: Os> {
    table: Mutex<DirectTable, O>,
}

struct DirectTable {
    buckets: [SpanId; BUCKETS],
    blocks: usize,
    bytes: usize,
    /// Mappings that the system did not take back.
    unreturned: Queue,
}

impl<O: Os> Directs<O> {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            table: Mutex::new(DirectTable {
                buckets: [SpanId::NONE; BUCKETS],
                blocks: 0,
                bytes: 0,
                unreturned: Queue::new(),
            }),
        }
    }

    fn bucket(address: usize) -> usize {
        // Fibonacci hashing of the page number; the top byte is the bucket.
        (((address / PAGE_BYTES) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % BUCKETS
    }

    fn insert(&self, spans: &Spans, id: SpanId) {
        let mut table = self.table.lock();
        // SAFETY: the descriptor is the caller's, and from here on the lock holder's.
        let span = unsafe { &mut *at(spans, id) };
        table.bytes += span.bytes();
        table.blocks += 1;
        if let Some(first) = table.buckets.get_mut(Self::bucket(span.start)) {
            span.next = *first;
            *first = id;
        }
    }

    /// Takes the block at `address` out of the table; the caller owns its descriptor then.
    fn remove(&self, spans: &Spans, address: usize) -> Option<SpanId> {
        let mut table = self.table.lock();
        let first = table.buckets.get_mut(Self::bucket(address))?;
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
    fn with<T>(&self, spans: &Spans, address: usize, look: impl FnOnce(&Span) -> T) -> Option<T> {
        let table = self.table.lock();
        let mut id = *table.buckets.get(Self::bucket(address))?;
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

    /// Checks the table against its own counts.
    ///
    /// # Errors
    /// Names the broken rule.
    pub fn check(&self, spans: &Spans) -> Result<(), &'static str> {
        let table = self.table.lock();
        let (mut blocks, mut bytes) = (0, 0);
        for (bucket, first) in table.buckets.iter().enumerate() {
            let mut id = *first;
            while !id.is_none() {
                // SAFETY: the chain's descriptors are the lock holder's.
                let span = unsafe { &*at(spans, id) };
                if span.kind != Kind::Large || Self::bucket(span.start) != bucket {
                    return Err("a direct block in the wrong place");
                }
                (blocks, bytes, id) = (blocks + 1, bytes + span.bytes(), span.next);
            }
        }
        if (blocks, bytes) != (table.blocks, table.bytes) {
            return Err("the count of direct blocks");
        }
        table.unreturned.check(spans, Kind::Transit)
    }

    /// Takes the lock, for fork.
    pub fn acquire_for_fork(&self) {
        self.table.acquire();
    }

    /// Releases it, in the parent.
    ///
    /// # Safety
    /// The calling thread took it.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.table.release() }
    }

    /// Frees it, in the child.
    ///
    /// # Safety
    /// The calling thread is the only one and took it before the fork.
    pub unsafe fn reset_after_fork(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.table.reset_after_fork() }
    }
}

impl<O: Os> Default for Directs<O> {
    fn default() -> Self {
        Self::new()
    }
}

/// A large block, and whether its bytes are known to be zero.
pub struct Block {
    /// Its first byte.
    pub start: *mut u8,
    /// Whether it reads as zero.
    pub zeroed: bool,
}

/// A large block's place.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    /// Bytes that are the block's: its pages, without a guard.
    room: usize,
    /// Bytes that may be used.
    usable: usize,
}

impl<L: Lane> Allocator<L> {
    /// Allocates `bytes` (at most `isize::MAX`) at a multiple of `align`, a power of two.
    /// `None` when memory has run out.
    pub fn allocate_large(&self, bytes: usize, align: usize) -> Option<Block> {
        let pages = pages_for(bytes.max(1)) + L::GUARD_PAGES;
        let align_pages = align.div_ceil(PAGE_BYTES).max(1);
        if u32::try_from(pages.checked_add(align_pages)?).is_err() {
            return None;
        }
        let (id, zeroed) = if pages.max(align_pages) * PAGE_BYTES < DIRECT_BYTES {
            self.take_run(pages, align_pages).or_else(|| self.map_direct(pages, align_pages * PAGE_BYTES))
        } else {
            self.map_direct(pages, align_pages * PAGE_BYTES).or_else(|| self.take_run(pages, align_pages))
        }?;
        // SAFETY: the span is this thread's: just made.
        let start = unsafe { (*at(&self.runs.spans, id)).start };
        if L::HARDENED {
            self.guard_end(id);
            self.seal(id, bytes);
        }
        Some(Block { start: core::ptr::with_exposed_provenance_mut(start), zeroed })
    }

    fn take_run(&self, pages: usize, align_pages: usize) -> Option<(SpanId, bool)> {
        let id = self.runs.allocate(pages, align_pages)?;
        // SAFETY: the span is this thread's: just taken.
        let span = unsafe { &mut *at(&self.runs.spans, id) };
        span.kind = Kind::Large;
        let (start, last) = (span.start, span.start + span.bytes() - PAGE_BYTES);
        self.runs.arenas.set_tag(start, PageTag::edge(Kind::Large, id));
        self.runs.arenas.set_tag(last, PageTag::edge(Kind::Large, id));
        Some((id, span.zeroed))
    }

    fn map_direct(&self, pages: usize, align: usize) -> Option<(SpanId, bool)> {
        // What the system did not take back, where that wastes little, or where there is nothing else.
        self.reuse_direct(pages, pages + pages / 8, align)
            .or_else(|| self.map_fresh(pages, align))
            .or_else(|| self.reuse_direct(pages, usize::MAX, align))
    }

    fn reuse_direct(&self, pages: usize, most_pages: usize, align: usize) -> Option<(SpanId, bool)> {
        let id = self.directs.reuse(&self.runs.spans, pages, most_pages, align)?;
        // SAFETY: the descriptor is this thread's, and the mapping behind it.
        let zeroed = unsafe {
            let span = &mut *at(&self.runs.spans, id);
            span.kind = Kind::Large;
            let start = NonNull::new(core::ptr::with_exposed_provenance_mut(span.start))?;
            self.options().advise::<L::Os>(start, span.bytes());
            span.zeroed
        };
        self.directs.insert(&self.runs.spans, id);
        Some((id, zeroed))
    }

    fn map_fresh(&self, pages: usize, align: usize) -> Option<(SpanId, bool)> {
        let bytes = pages * PAGE_BYTES;
        let mapped = if align > PAGE_BYTES { bytes.checked_add(align)? } else { bytes };
        let id = self.runs.descriptor()?;
        let Some(raw) = L::Os::map(mapped) else {
            self.runs.retire_descriptor(id);
            return None;
        };
        let first = raw.as_ptr().expose_provenance();
        let start = first.next_multiple_of(align);
        let tail = first + mapped - (start + bytes);
        // SAFETY: both ends lie in the mapping just made, outside the block.
        unsafe {
            self.directs.end_untouched(&self.runs, raw, start - first);
            self.directs.end_untouched(&self.runs, raw.add(start - first + bytes), tail);
            let span = &mut *at(&self.runs.spans, id);
            (span.start, span.pages, span.kind, span.guarded) = (start, pages as u32, Kind::Large, Guarded::None);
            self.options().advise::<L::Os>(raw.add(start - first), bytes);
            self.directs.insert(&self.runs.spans, id);
        }
        Some((id, true))
    }

    /// Notes, where the lane does that, that `bytes` were asked for of the large block `id`, and writes its canary.
    fn seal(&self, id: SpanId, bytes: usize) {
        if L::HARDENED {
            // SAFETY: the span is the caller's, and what lies behind what was asked for is nobody's.
            unsafe {
                let span = &mut *at(&self.runs.spans, id);
                span.set_asked(bytes);
                let place = Self::place_of(span);
                let start = core::ptr::with_exposed_provenance_mut(place.start);
                canary::seal_large(canary::key::<L::Os>(), start, place.room, bytes);
            }
        }
    }

    /// Notes, as for a fresh one, that `bytes` were asked for of the large block at `address`, which is the caller's.
    pub fn reseal_large(&self, address: usize, bytes: usize) {
        let tag = self.runs.arenas.tag_value(address);
        if tag.kind() == Kind::Large {
            self.seal(tag.span(), bytes);
        } else if let Some(id) = self.directs.remove(&self.runs.spans, address) {
            self.seal(id, bytes);
            self.directs.insert(&self.runs.spans, id);
        }
    }

    fn place_of(span: &Span) -> Place {
        let room = span.bytes() - L::GUARD_PAGES * PAGE_BYTES;
        Place { start: span.start, room, usable: if L::HARDENED { span.asked() } else { room } }
    }

    /// Bytes that may be used of the large block at `address`; `None` where no large block begins there. Where the
    /// lane looks, one that was written to behind its end stops the process in the name of `entry`.
    pub fn large_bytes(&self, entry: &str, address: usize) -> Option<usize> {
        let tag = self.runs.arenas.tag_value(address);
        let place = if tag.kind() == Kind::Large {
            // SAFETY: a live large block's descriptor is fixed; where the address is no block's, the
            // number read is thrown away or the caller stops the process.
            let place = Self::place_of(unsafe { &*at(&self.runs.spans, tag.span()) });
            (place.start == address).then_some(place)
        } else {
            self.directs.with(&self.runs.spans, address, Self::place_of)
        }?;
        if L::HARDENED {
            let start = core::ptr::with_exposed_provenance(address);
            // SAFETY: a large block begins here, which is the caller's; where another thread frees it at this moment,
            // the look may be a fault, which ends the process as well.
            let is_whole = unsafe { canary::is_large_sealed(canary::key::<L::Os>(), start, place.room, place.usable) };
            if !is_whole {
                abort::misuse::<L::Os>(entry, "overflow past", address);
            }
        }
        Some(place.usable)
    }

    /// Bytes that the large block at `address` counts with, its guard included; `None` where none begins there.
    pub fn large_span_bytes(&self, address: usize) -> Option<usize> {
        let tag = self.runs.arenas.tag_value(address);
        if tag.kind() != Kind::Large {
            return self.directs.with(&self.runs.spans, address, Span::bytes);
        }
        // SAFETY: as in `large_bytes`.
        let span = unsafe { &*at(&self.runs.spans, tag.span()) };
        (span.start == address).then(|| span.bytes())
    }

    /// Frees the large block at `address`; false where no large block begins there.
    pub fn free_large(&self, address: usize) -> bool {
        if L::HARDENED && self.large_bytes("free()", address).is_none() {
            return false;
        }
        let tag = self.runs.arenas.tag_value(address);
        if tag.kind() == Kind::Large {
            // SAFETY: as in `large_bytes`; the block is the caller's, who gives it up.
            let is_start = unsafe { (*at(&self.runs.spans, tag.span())).start } == address;
            if !is_start || !self.runs.arenas.tag(address).is_some_and(TagCell::claim_large) {
                return false;
            }
            if L::HARDENED {
                self.hold(tag.span());
            } else {
                self.release(tag.span());
            }
            return true;
        }
        let Some(id) = self.directs.remove(&self.runs.spans, address) else { return false };
        // SAFETY: the descriptor is this thread's now, and the block's contents are nobody's.
        unsafe {
            (*at(&self.runs.spans, id)).zeroed = false;
            self.directs.end(&self.runs, id);
        }
        true
    }

    /// Resizes the large block at `address` to hold `bytes` without copying: in place, or by moving a mapping's
    /// pages. Null where that can't be done, and the block is as it was.
    pub fn resize_large(&self, address: usize, bytes: usize) -> *mut u8 {
        let pages = pages_for(bytes.max(1)) + L::GUARD_PAGES;
        let here = core::ptr::with_exposed_provenance_mut(address);
        let tag = self.runs.arenas.tag_value(address);
        if tag.kind() == Kind::Large {
            let id = tag.span();
            // SAFETY: a live large block's descriptor is fixed.
            let old_pages = unsafe { (*at(&self.runs.spans, id)).pages } as usize;
            // What has grown to the size of a mapping of its own should become one.
            if pages > old_pages && pages >= DIRECT_BYTES / PAGE_BYTES {
                return null_mut();
            }
            if !self.resize_run(id, old_pages, pages) {
                return null_mut();
            }
            self.seal(id, bytes);
            return here;
        }
        if pages < DIRECT_BYTES / PAGE_BYTES / 2 || u32::try_from(pages).is_err() {
            return null_mut();
        }
        let Some(id) = self.directs.remove(&self.runs.spans, address) else { return null_mut() };
        // SAFETY: the descriptor is this thread's while it is out of the table, and the mapping is whole.
        let moved = unsafe {
            let span = &mut *at(&self.runs.spans, id);
            let old_bytes = span.bytes();
            let moved = match NonNull::new(here) {
                here if old_bytes == pages * PAGE_BYTES => here,
                Some(_) if L::HARDENED && !self.unguard(id) => None,
                here => here.and_then(|start| L::Os::remap(start, old_bytes, pages * PAGE_BYTES)),
            };
            if let Some(moved) = moved {
                (span.start, span.pages) = (moved.as_ptr().expose_provenance(), pages as u32);
            }
            moved
        };
        if L::HARDENED {
            // SAFETY: as above.
            if unsafe { (*at(&self.runs.spans, id)).guarded } == Guarded::None {
                self.guard_end(id);
            }
            if moved.is_some() {
                self.seal(id, bytes);
            }
        }
        self.directs.insert(&self.runs.spans, id);
        moved.map_or(null_mut(), NonNull::as_ptr)
    }

    /// Resizes the run `id` of a large block where it lies, its guard included; false where that can't be done.
    fn resize_run(&self, id: SpanId, old_pages: usize, pages: usize) -> bool {
        // A guard is not moved for less than an eighth.
        if pages == old_pages || L::HARDENED && pages < old_pages && pages > old_pages - old_pages / 8 {
            return true;
        }
        if L::HARDENED && !self.unguard(id) {
            return false;
        }
        let is_done = if pages < old_pages {
            self.runs.shrink(id, pages, L::Os::now_ms());
            self.purge_if_at_once();
            true
        } else {
            self.runs.extend(id, pages)
        };
        if L::HARDENED {
            self.guard_end(id);
        }
        is_done
    }
}
