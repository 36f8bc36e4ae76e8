//! Hot: the paths of `malloc` and `free` that nearly every call takes.
//!
//! ```text
//! malloc   size → entry of its bin in this thread's heap → pop
//! free     address → page tag → entry of its bin in this thread's heap → push
//! ```
//!
//! Both are leaf functions without a stack frame, an atomic read-modify-write or an initialisation test;
//! a thread without a heap, a size without a bin and an address that is no small block's all meet an
//! entry that is empty and full at once, and so leave for the slow path by the one test that is there.
//! `docs/hot-path.txt` holds what they cost in instructions.
//!
//! A caller who knows the size that a block was asked for, as Rust's does, frees with [`free_sized`], which finds
//! the entry as `malloc` did and reads no page tag.

use crate::api::slow;
use crate::hardening::checked;
use crate::hardening::free_mark;
use crate::lane::Lane;
use crate::pages::bins::{MAX_SMALL_BYTES, entry_offset};
use crate::platform::sync::{AtomicUsize, Ordering, compiler_fence};
use crate::thread::heap::Entry;

/// Allocates `bytes` bytes at a multiple of 16; null when memory has run out. 0 bytes are a block too.
#[inline(always)]
pub fn malloc<L: Lane>(bytes: usize) -> *mut u8 {
    malloc_or::<L>(bytes, slow::malloc::<L>)
}

/// [`malloc`], with `miss` called, as the last thing, where this thread has no slot at hand.
#[inline(always)]
pub fn malloc_or<L: Lane>(bytes: usize, miss: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    if L::HARDENED {
        return checked::malloc_or::<L>(bytes, miss);
    }
    if bytes <= MAX_SMALL_BYTES {
        // SAFETY: `entry_offset` is given a small size and names an entry of the heap, which is this
        // thread's alone; between `base` and `top` the magazine's slots are initialised.
        unsafe {
            let entry = L::heap().byte_add(entry_offset(bytes)).cast::<Entry>();
            let top = (*entry).top;
            if top != (*entry).base {
                // The decrement is written as a load and a store of its own, which the compiler makes one
                // instruction on memory. Relaxed: this thread's word.
                let top_word = AtomicUsize::from_ptr((&raw mut (*entry).top).cast());
                top_word.store(top_word.load(Ordering::Relaxed) - size_of::<*mut u8>(), Ordering::Relaxed);
                let slot = *top.sub(1);
                return if L::MARKS { free_mark::clear(slot) } else { slot };
            }
        }
    }
    miss(bytes)
}

/// Frees the block at `block`; null is allowed and does nothing. A pointer that is no block's start stops
/// the process.
///
/// # Safety
/// `block` is null or a block of this lane's that nobody uses any more.
#[inline(always)]
pub unsafe fn free<L: Lane>(block: *mut u8) {
    // SAFETY: the caller's promise.
    let miss = || unsafe { slow::free::<L>(block) };
    if L::HARDENED {
        // SAFETY: the caller's promise.
        return unsafe { checked::free::<L>(block) };
    }
    L::allocator().runs.arenas.first().with_tag(
        block.addr(),
        |tag| {
            // SAFETY: the block is live, so its tag holds still; the tag's offset is that of an entry of the
            // heap, which is this thread's alone; below `limit` the magazine has room; the block's 16 bytes are
            // nobody's any more.
            unsafe {
                let entry = L::heap().byte_add(tag.offset()).cast::<Entry>();
                let top = (*entry).top;
                if top == (*entry).limit {
                    return miss();
                }
                if L::MARKS {
                    // A block that is free already: the slow path stops the process.
                    if free_mark::is_set(block) {
                        return miss();
                    }
                    free_mark::set(block);
                }
                push(entry, top, block);
            }
        },
        miss,
    );
}

/// Puts `block` on top of the loaded magazine of `entry`, whose `top` is given.
///
/// # Safety
/// The entry is this thread's, and `top` lies below its limit.
#[inline(always)]
pub unsafe fn push(entry: *mut Entry, top: *mut *mut u8, block: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        *top = block;
        // The slot is written before it counts, also in the eyes of a forked child, which sees this thread
        // stopped between any two instructions.
        compiler_fence(Ordering::Release);
        // One instruction on memory, as in `malloc_or`. Relaxed: this thread's word.
        let top_word = AtomicUsize::from_ptr((&raw mut (*entry).top).cast());
        top_word.store(top_word.load(Ordering::Relaxed) + size_of::<*mut u8>(), Ordering::Relaxed);
    }
}

/// [`free`] of a block that [`malloc`] made for `bytes`, without a look at the page tag.
///
/// # Safety
/// As for [`free`], and the block serves `bytes`: its bin is that of `bytes`, or both are large.
#[inline(always)]
pub unsafe fn free_sized<L: Lane>(block: *mut u8, bytes: usize) {
    if L::MARKS {
        // SAFETY: the caller's promise.
        return unsafe { free::<L>(block) };
    }
    if bytes <= MAX_SMALL_BYTES {
        // SAFETY: `entry_offset` is given a small size and names an entry of the heap, which is this
        // thread's alone; below `limit` the magazine has room; the bin is the block's.
        unsafe {
            let entry = L::heap().byte_add(entry_offset(bytes)).cast::<Entry>();
            let top = (*entry).top;
            if top != (*entry).limit {
                push(entry, top, block);
                return;
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { slow::free::<L>(block) }
}
