//! Large: allocates, frees and resizes blocks above the largest bin.
//!
//! ```text
//! page heap → span → | requested size … | canary | guard page |      canary and guard in the hardened lane only
//! ```
//!
//! A block that `realloc` can't grow in place is copied to another run, or its pages move to a mapping of its own, which
//! the kernel then grows. The mapping's pages come and go by faults, which cost as much as several copies. So a move needs
//! a reason: many copies before, or a long block, where moved ones live on until they have saved as many.

use crate::api::slack::with_slack;
use crate::hardening::canary;
use crate::pages::direct::LIMITED_DIRECT_BYTES;
use crate::pages::guards::Wait;
use crate::pages::page_heap::PageHeap;
use crate::pages::page_tag::Kind;
use crate::pages::policy::Policy;
use crate::pages::span::{Span, at};
use crate::platform::abort;
use crate::platform::system_page::pages_for;
use crate::platform::units::{MIN_ALIGN, PAGE_BYTES, SpanId};
use core::ptr::{NonNull, null_mut};

/// Smallest block in bytes that moves to a mapping of its own, or stays in one. Chosen, as the next, by measuring:
/// `docs/decisions/moved-pages.md`.
const MOVED_BYTES: usize = 128 << 10;
/// Bytes from which a block moves at once in the lanes for speed, unless moved blocks of its size are soon freed.
const LONG_BYTES: usize = 512 << 10;

/// A fresh large block.
pub struct Block {
    /// First byte.
    pub start: *mut u8,
    /// Whether its bytes are known to be zero.
    pub zeroed: bool,
}

#[derive(Clone, Copy)]
struct Place {
    start: usize,
    /// Its pages, without the guard.
    room: usize,
    usable: usize,
}

impl Place {
    fn of<P: Policy>(span: &Span) -> Self {
        let room = span.bytes() - P::guard_pages() * PAGE_BYTES;
        Self { start: span.start, room, usable: if P::HARDENED { span.requested_bytes() } else { room } }
    }
}

/// Pages of a block of `bytes`, at most `isize::MAX`, with its guard; and of its alignment, a power of two of bytes.
pub fn pages_of<P: Policy>(bytes: usize, align: usize) -> (usize, usize) {
    (pages_for(bytes.max(1)) + P::guard_pages(), align.div_ceil(PAGE_BYTES).max(1))
}

/// Allocates `bytes`, at most `isize::MAX`, aligned to `align`, a power of two. `None` when memory has run out.
pub fn allocate<P: Policy>(pages: &PageHeap<P>, bytes: usize, align: usize) -> Option<Block> {
    let (page_count, align_pages) = pages_of::<P>(bytes, align);
    if u32::try_from(page_count.checked_add(align_pages)?).is_err() {
        return None;
    }
    let id = pages.take_large(page_count, align_pages)?;
    // SAFETY: this thread owns the fresh span; the bytes behind `bytes` are unused.
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

/// A block of pages in place of a small one, to be sampled.
pub fn allocate_for_sample<P: Policy>(pages: &PageHeap<P>, bytes: usize) -> Option<NonNull<u8>> {
    let block = allocate(pages, bytes, MIN_ALIGN)?;
    if P::HARDENED && !block.zeroed {
        // A hardened slot reads as zero. SAFETY: the fresh block has `bytes` bytes.
        unsafe { block.start.write_bytes(0, bytes) };
    }
    NonNull::new(block.start)
}

/// In a hardened lane: records the requested size and writes the canary.
///
/// # Safety
/// The caller owns the span, which has room for `bytes`. Nothing uses the bytes behind them.
unsafe fn seal<P: Policy>(pages: &PageHeap<P>, id: SpanId, bytes: usize) {
    if P::HARDENED {
        // SAFETY: the caller owns the span; the bytes behind `bytes` are writable and unused.
        unsafe {
            let span = &mut *at(pages.spans(), id);
            span.set_requested_bytes(bytes);
            let place = Place::of::<P>(span);
            let start = core::ptr::with_exposed_provenance_mut(place.start);
            canary::seal_large(canary::process_key::<P::Os>(), start, place.room, bytes);
        }
    }
}

/// `seal`, after the requested size of the block at `address` has changed.
///
/// # Safety
/// The caller owns the block, which has room for `bytes`.
pub unsafe fn reseal<P: Policy>(pages: &PageHeap<P>, address: usize, bytes: usize) {
    let tag = pages.tag(address);
    // SAFETY: the caller owns the block, which has room; a descriptor removed from the table is this thread's.
    unsafe {
        if tag.kind() == Kind::Large {
            seal(pages, tag.span(), bytes);
        } else if let Some(id) = pages.direct.remove(pages.spans(), address) {
            seal(pages, id, bytes);
            pages.direct.insert(pages.spans(), id);
        }
    }
}

/// Usable bytes of the large block at `address`; `None` if none begins there. A damaged canary aborts the process in
/// the name of `entry`. May take the lock of the direct mappings.
pub fn usable_bytes<P: Policy>(pages: &PageHeap<P>, entry: &str, address: usize) -> Option<usize> {
    let tag = pages.tag(address);
    let place = if tag.kind() == Kind::Large {
        // SAFETY: descriptors are never unmapped, and fixed while their large block lives; else the values are
        // discarded.
        let place = Place::of::<P>(unsafe { &*at(pages.spans(), tag.span()) });
        (place.start == address).then_some(place)
    } else {
        pages.direct.with(pages.spans(), address, Place::of::<P>)
    }?;
    if P::HARDENED {
        let start = core::ptr::with_exposed_provenance(address);
        // SAFETY: the caller's block has `room` bytes. Should another thread free it now, a fault ends the process too.
        let is_whole =
            unsafe { canary::is_large_sealed(canary::process_key::<P::Os>(), start, place.room, place.usable) };
        if !is_whole {
            abort::misuse::<P::Os>(entry, "overflow past", address);
        }
    }
    Some(place.usable)
}

/// Frees the large block at `address`; false if none begins there.
///
/// # Safety
/// The block is no longer used.
pub unsafe fn free<P: Policy>(pages: &PageHeap<P>, address: usize) -> bool {
    // SAFETY: the caller gives up the block.
    unsafe { free_or_wait(pages, address, |_| Wait::Whole) }
}

/// [`free`], where in a hardened lane the block waits as `wait` answers for its pages.
///
/// # Safety
/// As for [`free`].
pub unsafe fn free_or_wait<P: Policy>(pages: &PageHeap<P>, address: usize, wait: impl FnOnce(usize) -> Wait) -> bool {
    if P::HARDENED && usable_bytes(pages, "free()", address).is_none() {
        return false;
    }
    let tag = pages.tag(address);
    // SAFETY: the caller gives up the block.
    unsafe {
        if tag.kind() == Kind::Large { pages.release_run(tag, address, wait) } else { pages.release_direct(address) }
    }
}

/// Resizes a large block without copying: in place, or by remapping a direct mapping. Null if impossible, with nothing
/// changed.
///
/// # Safety
/// The caller owns the block, which is live.
pub unsafe fn resize<P: Policy>(pages: &PageHeap<P>, address: usize, bytes: usize) -> *mut u8 {
    let page_count = pages_for(bytes.max(1)) + P::guard_pages();
    let tag = pages.tag(address);
    // SAFETY: the caller owns the live block.
    unsafe {
        if tag.kind() == Kind::Large {
            resize_run(pages, tag.span(), page_count, bytes)
        } else {
            resize_direct(pages, address, page_count, bytes)
        }
    }
}

/// # Safety
/// The caller owns the live block, whose span is `id`.
unsafe fn resize_run<P: Policy>(pages: &PageHeap<P>, id: SpanId, page_count: usize, bytes: usize) -> *mut u8 {
    // SAFETY: the caller owns the block, so its descriptor does not change; after the resize it has room for `bytes`.
    unsafe {
        let (start, old_pages) = ((*at(pages.spans(), id)).start, (*at(pages.spans(), id)).pages as usize);
        // A block that reaches the size of a direct mapping should become one.
        if page_count > old_pages && pages.is_direct(page_count) || !pages.resize_run(id, page_count) {
            return null_mut();
        }
        seal(pages, id, bytes);
        core::ptr::with_exposed_provenance_mut(start)
    }
}

/// # Safety
/// The caller owns the block.
unsafe fn resize_direct<P: Policy>(pages: &PageHeap<P>, address: usize, page_count: usize, bytes: usize) -> *mut u8 {
    let may_stay = page_count >= LIMITED_DIRECT_BYTES / PAGE_BYTES / 2
        || page_count >= pages_for(MOVED_BYTES) && pages.may_map_small();
    if !may_stay || u32::try_from(page_count).is_err() {
        return null_mut();
    }
    let Some(id) = pages.direct.remove(pages.spans(), address) else { return null_mut() };
    // SAFETY: out of the table the descriptor is this thread's; a resized mapping has room for `bytes`.
    unsafe {
        let roomy = pages_with_slack::<P>(bytes, (*at(pages.spans(), id)).bytes());
        let has_slack = roomy > page_count && u32::try_from(roomy).is_ok();
        let moved = if has_slack { pages.resize_direct(id, roomy) } else { None };
        let moved = moved
            .or_else(|| pages.resize_direct(id, page_count))
            .or_else(|| if pages.unmap_kept() > 0 { pages.resize_direct(id, page_count) } else { None });
        if moved.is_some() {
            seal(pages, id, bytes);
        }
        pages.direct.insert(pages.spans(), id);
        pages.unmap_excess();
        moved.map_or(null_mut(), NonNull::as_ptr)
    }
}

/// Pages, with the guard, of a mapping for a block of `old` usable bytes that grows to `bytes`. Slack costs no memory.
fn pages_with_slack<P: Policy>(bytes: usize, old: usize) -> usize {
    let exact = pages_for(bytes.max(1)) + P::guard_pages();
    if P::HARDENED { exact } else { pages_for(with_slack(bytes, old)) }
}

/// Moves the block of a run, of `old` usable bytes, to a mapping of its own, to grow it to `bytes`, if that beats a copy.
/// The caller then frees it with [`free_moved`]. `None` if it does not, or is refused; nothing has changed.
///
/// # Safety
/// The caller owns the block, which is large and live.
pub unsafe fn move_apart<P: Policy>(pages: &PageHeap<P>, address: usize, old: usize, bytes: usize) -> Option<Moved> {
    let tag = pages.tag(address);
    let page_count = pages_with_slack::<P>(bytes, old);
    if tag.kind() != Kind::Large || u32::try_from(page_count).is_err() {
        return None;
    }
    // SAFETY: the caller owns the live block, and so its descriptor; the new mapping is larger and this thread's.
    unsafe {
        let pays = (*at(pages.spans(), tag.span())).pays_for_mapping(old);
        let is_due = || P::HARDENED || pays || old >= LONG_BYTES && !pages.frees_too_soon(bytes);
        if !pages.is_direct(page_count) && (old < MOVED_BYTES || !is_due() || !pages.may_map_small()) {
            return None;
        }
        let room = Place::of::<P>(&*at(pages.spans(), tag.span())).room;
        let moved_out = if room >= MOVED_BYTES { pages.move_out(tag.span(), room, page_count) } else { None };
        let id = moved_out.or_else(|| pages.take_direct(page_count))?;
        let start = core::ptr::with_exposed_provenance_mut::<u8>((*at(pages.spans(), id)).start);
        if moved_out.is_none() {
            start.copy_from_nonoverlapping(core::ptr::with_exposed_provenance(address), old);
        }
        if P::HARDENED {
            pages.guard_end(id);
            seal(pages, id, bytes);
        }
        Some(Moved { start: NonNull::new(start)?, is_empty: moved_out.is_some() })
    }
}

/// The result of [`move_apart`].
pub struct Moved {
    /// The block in its new place.
    pub start: NonNull<u8>,
    /// Whether the old place reads as zero.
    is_empty: bool,
}

/// Frees the place that [`move_apart`] left; false if another thread has freed the block meanwhile.
///
/// # Safety
/// The block at `address` moved to `moved`, and is not used any more.
pub unsafe fn free_moved<P: Policy>(pages: &PageHeap<P>, address: usize, moved: &Moved) -> bool {
    let tag = pages.tag(address);
    // SAFETY: the caller gives up the block; if it is empty, all its pages but the guard have moved.
    unsafe {
        if moved.is_empty {
            pages.release_empty_run(tag, address)
        } else {
            pages.release_run(tag, address, |_| Wait::Whole)
        }
    }
}

/// Notes that `bytes` were copied from the block at `from` to the one at `to`.
///
/// # Safety
/// The caller owns both live blocks.
pub unsafe fn note_copy<P: Policy>(pages: &PageHeap<P>, from: usize, to: usize, bytes: usize) {
    let (from, to) = (pages.tag(from), pages.tag(to));
    if from.kind() == Kind::Large && to.kind() == Kind::Large {
        // SAFETY: the caller owns both live blocks, and so their descriptors.
        unsafe {
            let copied = (*at(pages.spans(), from.span())).copied_bytes();
            (*at(pages.spans(), to.span())).set_copied_bytes(copied.saturating_add(bytes));
        }
    }
}
