//! Large: blocks above the biggest bin, and what the hardened lane writes behind their ends.
//!
//! ```text
//! page heap → span → | requested size … | canary | guard page |      canary and guard in the hardened lane alone
//! ```

use crate::hardening::canary;
use crate::pages::page_heap::{DIRECT_BYTES, PageHeap};
use crate::pages::page_tag::Kind;
use crate::pages::policy::Policy;
use crate::pages::span::{Span, at};
use crate::platform::abort;
use crate::platform::units::{MIN_ALIGN, PAGE_BYTES, SpanId, pages_for};
use core::ptr::{NonNull, null_mut};

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

impl Place {
    fn of<P: Policy>(span: &Span) -> Self {
        let room = span.bytes() - P::GUARD_PAGES * PAGE_BYTES;
        Self { start: span.start, room, usable: if P::HARDENED { span.requested_bytes() } else { room } }
    }
}

/// Allocates `bytes` (at most `isize::MAX`) at a multiple of `align`, a power of two. `None` when memory has run out.
pub fn allocate<P: Policy>(pages: &PageHeap<P>, bytes: usize, align: usize) -> Option<Block> {
    let page_count = pages_for(bytes.max(1)) + P::GUARD_PAGES;
    let align_pages = align.div_ceil(PAGE_BYTES).max(1);
    if u32::try_from(page_count.checked_add(align_pages)?).is_err() {
        return None;
    }
    let id = pages.take_large(page_count, align_pages)?;
    // SAFETY: the span is this thread's: just made.
    unsafe {
        let span = at(pages.spans(), id);
        let block = Block { start: core::ptr::with_exposed_provenance_mut((*span).start), zeroed: (*span).zeroed };
        if P::HARDENED {
            pages.guard_end(id);
            seal(pages, id, bytes);
        }
        Some(block)
    }
}

/// A block of pages in place of a small one of `bytes`, which is to be sampled.
pub fn allocate_for_sample<P: Policy>(pages: &PageHeap<P>, bytes: usize) -> Option<NonNull<u8>> {
    let block = allocate(pages, bytes, MIN_ALIGN)?;
    if P::HARDENED && !block.zeroed {
        // It stands for a slot, and those read as zero.
        // SAFETY: the block holds `bytes` bytes, and is nobody's yet.
        unsafe { block.start.write_bytes(0, bytes) };
    }
    NonNull::new(block.start)
}

/// Notes, in a hardened lane, the requested size of the large block `id`, and writes its canary.
///
/// # Safety
/// The caller owns the span; what lies behind `bytes` is nobody's.
unsafe fn seal<P: Policy>(pages: &PageHeap<P>, id: SpanId, bytes: usize) {
    if P::HARDENED {
        // SAFETY: the caller's promise.
        unsafe {
            let span = &mut *at(pages.spans(), id);
            span.set_requested_bytes(bytes);
            let place = Place::of::<P>(span);
            let start = core::ptr::with_exposed_provenance_mut(place.start);
            canary::seal_large(canary::process_key::<P::Os>(), start, place.room, bytes);
        }
    }
}

/// Notes, as for a fresh one, that the large block at `address` is of `bytes` from here on.
///
/// # Safety
/// The block is the caller's, and holds `bytes`.
pub unsafe fn reseal<P: Policy>(pages: &PageHeap<P>, address: usize, bytes: usize) {
    let tag = pages.tag(address);
    // SAFETY: the caller's promise.
    unsafe {
        if tag.kind() == Kind::Large {
            seal(pages, tag.span(), bytes);
        } else if let Some(id) = pages.direct.remove(pages.spans(), address) {
            seal(pages, id, bytes);
            pages.direct.insert(pages.spans(), id);
        }
    }
}

/// Bytes that may be used of the large block at `address`; `None` where no large block begins there. Where the lane
/// looks, one that was written to behind its end stops the process in the name of `entry`.
pub fn usable_bytes<P: Policy>(pages: &PageHeap<P>, entry: &str, address: usize) -> Option<usize> {
    let tag = pages.tag(address);
    let place = if tag.kind() == Kind::Large {
        // SAFETY: a live large block's descriptor is fixed; where the address is no block's, the
        // number read is thrown away or the caller stops the process.
        let place = Place::of::<P>(unsafe { &*at(pages.spans(), tag.span()) });
        (place.start == address).then_some(place)
    } else {
        pages.direct.with(pages.spans(), address, Place::of::<P>)
    }?;
    if P::HARDENED {
        let start = core::ptr::with_exposed_provenance(address);
        // SAFETY: a large block begins here, which is the caller's; where another thread frees it at this moment,
        // the look may be a fault, which ends the process as well.
        let is_whole =
            unsafe { canary::is_large_sealed(canary::process_key::<P::Os>(), start, place.room, place.usable) };
        if !is_whole {
            abort::misuse::<P::Os>(entry, "overflow past", address);
        }
    }
    Some(place.usable)
}

/// Frees the large block at `address`; false where no large block begins there.
///
/// # Safety
/// Nothing uses the block any more.
pub unsafe fn free<P: Policy>(pages: &PageHeap<P>, address: usize) -> bool {
    if P::HARDENED && usable_bytes(pages, "free()", address).is_none() {
        return false;
    }
    let tag = pages.tag(address);
    // SAFETY: the caller's promise.
    unsafe { if tag.kind() == Kind::Large { pages.release_run(tag, address) } else { pages.release_direct(address) } }
}

/// Resizes the large block at `address` to hold `bytes` without copying: in place, or by moving a mapping's pages. Null
/// where that can't be done, and the block is as it was.
///
/// # Safety
/// The block is the caller's.
pub unsafe fn resize<P: Policy>(pages: &PageHeap<P>, address: usize, bytes: usize) -> *mut u8 {
    let page_count = pages_for(bytes.max(1)) + P::GUARD_PAGES;
    let tag = pages.tag(address);
    // SAFETY: the caller's promise.
    unsafe {
        if tag.kind() == Kind::Large {
            resize_run(pages, tag.span(), page_count, bytes)
        } else {
            resize_direct(pages, address, page_count, bytes)
        }
    }
}

/// [`resize`] of a run.
///
/// # Safety
/// As for [`resize`].
unsafe fn resize_run<P: Policy>(pages: &PageHeap<P>, id: SpanId, page_count: usize, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's promise: a live large block's descriptor is fixed.
    unsafe {
        let (start, old_pages) = ((*at(pages.spans(), id)).start, (*at(pages.spans(), id)).pages as usize);
        // What has grown to the size of a mapping of its own should become one.
        if page_count > old_pages && page_count >= DIRECT_BYTES / PAGE_BYTES || !pages.resize_run(id, page_count) {
            return null_mut();
        }
        seal(pages, id, bytes);
        core::ptr::with_exposed_provenance_mut(start)
    }
}

/// [`resize`] of a direct mapping.
///
/// # Safety
/// As for [`resize`].
unsafe fn resize_direct<P: Policy>(pages: &PageHeap<P>, address: usize, page_count: usize, bytes: usize) -> *mut u8 {
    if page_count < DIRECT_BYTES / PAGE_BYTES / 2 || u32::try_from(page_count).is_err() {
        return null_mut();
    }
    let Some(id) = pages.direct.remove(pages.spans(), address) else { return null_mut() };
    // SAFETY: the descriptor is this thread's while it is out of the table, and the mapping is whole.
    unsafe {
        let moved = pages.resize_direct(id, page_count);
        if moved.is_some() {
            seal(pages, id, bytes);
        }
        pages.direct.insert(pages.spans(), id);
        moved.map_or(null_mut(), NonNull::as_ptr)
    }
}
