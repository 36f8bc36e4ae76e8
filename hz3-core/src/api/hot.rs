//! Hot: the hit paths of `malloc` and `free` in the fast and scale lanes.
//!
//! ```text
//! malloc   size → entry of its bin in this thread's heap → pop
//! free     address → page tag → entry of its bin in this thread's heap → push
//! ```
//!
//! Leaf functions without a stack frame, an atomic read-modify-write or an initialisation test. Threads without a heap,
//! large sizes and addresses outside small blocks reach an entry that is empty and full at once, so one test covers
//! all. Outside the near window, `free` jumps to [`free_beyond_or`], which looks at the far one.
//! `docs/hot-path.txt` records the instruction counts. [`free_sized_or`] serves callers that know the size, like
//! Rust.

use crate::allocator::Lane;
use crate::hardening::free_mark;
use crate::pages::bins::{MAX_SMALL_BYTES, entry_offset};
use crate::pages::page_map::ArenaTags;
use crate::pages::page_tag::TagCell;
use crate::thread::heap::Entry;

/// A block of `bytes` bytes, aligned to 16, or a tail call to `miss` if this thread has no cached slot.
#[inline(always)]
pub fn malloc_or<L: Lane>(bytes: usize, miss: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    if bytes <= MAX_SMALL_BYTES {
        // SAFETY: a small size's offset is that of an entry at this thread's pointer; a popped slot is this thread's.
        unsafe {
            let entry = L::heap().byte_add(entry_offset(bytes)).cast::<Entry>();
            if let Some(slot) = Entry::pop(entry) {
                let block = slot.into_block();
                return if L::MARKS { free_mark::clear(block) } else { block };
            }
        }
    }
    miss(bytes)
}

/// Frees `block`, or tail-calls `miss` if the magazine is full or it is no small block, and `beyond` if it lies outside the
/// near window.
///
/// # Safety
/// `block` is null or a block of this lane that is no longer used.
#[inline(always)]
pub unsafe fn free_or<L: Lane>(block: *mut u8, miss: impl Fn(*mut u8), beyond: impl FnOnce(*mut u8)) {
    let near = L::allocator().pages.runs.arenas.near();
    // SAFETY: the caller gives up `block`.
    unsafe { push_or::<L>(near, block, miss, beyond) }
}

/// [`free_or`] of a block outside the near window, or tail-calls `miss` if it lies outside the far one too.
///
/// # Safety
/// As for [`free_or`].
#[inline(always)]
pub unsafe fn free_beyond_or<L: Lane>(block: *mut u8, miss: impl Fn(*mut u8)) {
    let far = L::allocator().pages.runs.arenas.far();
    // SAFETY: the caller gives up `block`.
    unsafe { push_or::<L>(far, block, &miss, &miss) }
}

/// Pushes `block` if `tags` has it, or tail-calls `miss` if it is no small block or the magazine is full, and `none` if
/// it lies elsewhere.
///
/// # Safety
/// As for [`free_or`].
#[inline(always)]
unsafe fn push_or<L: Lane>(
    tags: &ArenaTags<TagCell>,
    block: *mut u8,
    miss: impl Fn(*mut u8),
    none: impl FnOnce(*mut u8),
) {
    tags.with_tag(
        block.addr(),
        |first, page| {
            // SAFETY: the page is one with a tag, whose offset is that of an entry at this thread's pointer; the caller gives
            // up the live block.
            let pushed = unsafe {
                let entry = L::heap().byte_add(TagCell::offset_at(first, page)).cast::<Entry>();
                Entry::push_if(entry, block, || !L::MARKS || free_mark::set_once(block))
            };
            if !pushed {
                miss(block);
            }
        },
        || none(block),
    );
}

/// [`free_or`] of a block allocated for `bytes`, without reading the page tag.
///
/// # Safety
/// `block` is a live block of this lane, not null, and no longer used. Its bin is that of `bytes`, or both are large.
#[inline(always)]
pub unsafe fn free_sized_or<L: Lane>(
    block: *mut u8,
    bytes: usize,
    miss: impl Fn(*mut u8),
    beyond: impl FnOnce(*mut u8),
) {
    if L::MARKS {
        // SAFETY: the caller gives up the block.
        return unsafe { free_or::<L>(block, miss, beyond) };
    }
    if bytes <= MAX_SMALL_BYTES {
        // SAFETY: the offset is that of the block's entry at this thread's pointer; the caller gives up the block.
        let pushed = unsafe {
            let entry = L::heap().byte_add(entry_offset(bytes)).cast::<Entry>();
            Entry::push_if(entry, block, || true)
        };
        if pushed {
            return;
        }
    }
    miss(block);
}
