//! Hot: the paths of `malloc` and `free` that nearly every call takes in the lanes for speed.
//!
//! ```text
//! malloc   size → entry of its bin in this thread's heap → pop
//! free     address → page tag → entry of its bin in this thread's heap → push
//! ```
//!
//! Both are leaf functions without a stack frame, an atomic read-modify-write or an initialisation test;
//! a thread without a heap, a size without a bin and an address that is no small block's all meet an
//! entry that is empty and full at once, and so leave for the miss by the one test that is there.
//! `docs/hot-path.txt` holds what they cost in instructions.
//!
//! A caller who knows the size that a block was asked for, as Rust's does, frees with [`free_sized_or`], which finds
//! the entry as `malloc` did and reads no page tag.

use crate::allocator::Lane;
use crate::hardening::free_mark;
use crate::pages::bins::{MAX_SMALL_BYTES, entry_offset};
use crate::thread::heap::Entry;

/// A block of `bytes` bytes at a multiple of 16, or what `miss` returns, called as the last thing, where this thread has
/// no slot at hand.
#[inline(always)]
pub fn malloc_or<L: Lane>(bytes: usize, miss: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    if bytes <= MAX_SMALL_BYTES {
        // SAFETY: `entry_offset` is given a small size and names an entry at this thread's pointer; the slot that is
        // popped is the caller's.
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

/// Frees `block`, or calls `miss`, as the last thing, where it is not a small block of the first arena, or this thread has
/// no room at hand.
///
/// # Safety
/// `block` is null or a block of this lane's that nobody uses any more.
#[inline(always)]
pub unsafe fn free_or<L: Lane>(block: *mut u8, miss: impl Fn(*mut u8)) {
    L::allocator().pages.runs.arenas.first().with_tag(
        block.addr(),
        |tag| {
            // SAFETY: the block is live, so its tag holds still; the tag's offset is that of an entry at this thread's
            // pointer; the block's 16 bytes are nobody's any more.
            let is_done = unsafe {
                let entry = L::heap().byte_add(tag.offset()).cast::<Entry>();
                Entry::push_if(entry, block, || !L::MARKS || free_mark::set_once(block))
            };
            if !is_done {
                miss(block);
            }
        },
        || miss(block),
    );
}

/// [`free_or`] of a block that was made for `bytes`, without a look at the page tag.
///
/// # Safety
/// As for [`free_or`], and the block serves `bytes`: its bin is that of `bytes`, or both are large.
#[inline(always)]
pub unsafe fn free_sized_or<L: Lane>(block: *mut u8, bytes: usize, miss: impl Fn(*mut u8)) {
    if L::MARKS {
        // SAFETY: the caller's promise.
        return unsafe { free_or::<L>(block, miss) };
    }
    if bytes <= MAX_SMALL_BYTES {
        // SAFETY: as in `malloc_or`; the bin is the block's.
        let is_done = unsafe {
            let entry = L::heap().byte_add(entry_offset(bytes)).cast::<Entry>();
            Entry::push_if(entry, block, || true)
        };
        if is_done {
            return;
        }
    }
    miss(block);
}
