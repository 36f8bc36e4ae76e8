//! Size: usable bytes of a block, and `realloc`.
//!
//! A block that fits well in its place stays there; otherwise its contents move.

use crate::allocator::Lane;
use crate::api::large;
use crate::api::slack::{stays_in_place, with_slack};
use crate::hardening::canary;
use crate::hardening::free_mark;
use crate::hardening::validation::{refuse, require_live, usable};
use crate::observe::sampling;
use crate::pages::bins::{self, FOREIGN, MAX_SMALL_BYTES};
use crate::pages::page_tag::Kind;
use crate::platform::abort;
use crate::platform::system_page::pages_for;
use crate::regions::blocks::{Blocks, Member};
use core::ptr::null_mut;

/// Usable bytes of the block at `block`; 0 for null, `None` if none begins there. A damaged canary aborts the process.
#[allow(clippy::not_unsafe_ptr_arg_deref, reason = "read only where it is the start of a slot")]
pub fn usable_bytes<L: Lane>(block: *const u8) -> Option<usize> {
    usable_bytes_for::<L>("malloc_usable_size()", block)
}

/// [`usable_bytes`], with `entry` in messages.
#[allow(clippy::not_unsafe_ptr_arg_deref, reason = "read only where it is the start of a slot")]
#[inline]
pub fn usable_bytes_for<L: Lane>(entry: &str, block: *const u8) -> Option<usize> {
    if block.is_null() {
        return Some(0);
    }
    let pages = &L::allocator().pages;
    let tag = pages.tag(block.addr());
    match tag.bin() {
        // SAFETY: `tag` is the page's.
        FOREIGN if tag.kind() == Kind::Region => unsafe {
            Some(Blocks::of(pages, &L::allocator().regions).usable_bytes(entry, tag, block))
        },
        FOREIGN => large_usable::<L>(entry, block.addr()),
        bin => {
            // SAFETY: `is_slot` is true, so a slot of 16 bytes or more begins at `block`.
            let is_live = pages.is_slot(tag, block.addr()) && !(L::MARKS && unsafe { free_mark::is_set(block) });
            // SAFETY: a slot of `bin` begins at `block` and is not marked free.
            is_live.then(|| unsafe { usable::<L>(entry, bin, block) })
        }
    }
}

/// [`usable_bytes`] of a large block.
fn large_usable<L: Lane>(entry: &str, address: usize) -> Option<usize> {
    let bytes = large::usable_bytes(&L::allocator().pages, entry, address)?;
    Some(if L::HARDENED { bytes } else { sampling::usable_bytes::<L>(address, bytes) })
}

/// Resizes `block` to `bytes`, at most `isize::MAX`, in place or with `malloc` and `free`, and keeps its contents. A
/// null block is allocated. Null, with nothing changed, when memory has run out. `tick` is called if it makes free runs
/// without the other two.
///
/// # Safety
/// `block` is null or a live block of this lane. After success the caller no longer uses it. `malloc`, `free`
/// and `tick` are the lane's.
pub unsafe fn realloc<L: Lane>(
    block: *mut u8,
    bytes: usize,
    malloc: impl Fn(usize) -> *mut u8,
    free: impl FnOnce(*mut u8),
    tick: impl FnOnce(),
) -> *mut u8 {
    if block.is_null() {
        return malloc(bytes);
    }
    let pages = &L::allocator().pages;
    let tag = pages.tag(block.addr());
    let old = match tag.bin() {
        FOREIGN => match large_usable::<L>("realloc()", block.addr()) {
            Some(bytes) => bytes,
            None => refuse(pages, "realloc()", block.addr()),
        },
        bin => {
            // SAFETY: `tag` is the page's; after `require_live` a live slot of `bin` begins at `block`.
            unsafe {
                require_live(pages, "realloc()", tag, block);
                usable::<L>("realloc()", bin, block)
            }
        }
    };
    if L::HARDENED {
        let slot_bytes = bins::info(tag.bin()).slot_bytes as usize;
        let wanted = bytes.saturating_add(L::TRAILER_BYTES);
        if tag.bin() != FOREIGN && wanted <= slot_bytes && stays_in_place(wanted, slot_bytes) {
            // SAFETY: the caller owns the block, and its slot has room for `bytes` and the trailer.
            unsafe { canary::seal(canary::process_key::<L::Os>(), block, slot_bytes, bytes) };
            return block;
        }
    } else if bytes <= old && stays_in_place(bytes, old) {
        return block;
    }
    const { assert!(L::TRAILER_BYTES < MAX_SMALL_BYTES) }
    let max_small_bytes = MAX_SMALL_BYTES - L::TRAILER_BYTES;
    let stays_large = tag.bin() == FOREIGN && old > max_small_bytes && bytes > max_small_bytes;
    if stays_large {
        // Before the block may move: another thread's block may take its address at once.
        let sample = sampling::take::<L>(block.addr());
        // SAFETY: the caller owns the live block.
        let here = unsafe { large::resize(pages, block.addr(), bytes) };
        if !here.is_null() {
            sampling::large::<L>(here.addr(), bytes);
            return here;
        }
        // SAFETY: the caller owns the live block, and gives it up once it has moved.
        unsafe {
            let moved = if bytes > old { large::move_apart(pages, block.addr(), old, bytes) } else { None };
            if let Some(moved) = moved {
                if !large::free_moved(pages, block.addr(), &moved) {
                    refuse(pages, "realloc()", block.addr());
                }
                sampling::large::<L>(moved.start.addr().get(), bytes);
                tick();
                return moved.start.as_ptr();
            }
        }
        sampling::put_back::<L>(sample);
    }
    let mut new = malloc(if L::HARDENED { bytes } else { with_slack(bytes, old) });
    if new.is_null() {
        new = malloc(bytes);
    }
    if new.is_null() {
        if bytes > old {
            return null_mut();
        }
        // A block that shrinks still fits in its place.
        if L::HARDENED && tag.bin() == FOREIGN {
            // SAFETY: the caller owns the block, which is at least `bytes` long.
            unsafe { large::reseal(pages, block.addr(), bytes) };
        } else if L::HARDENED {
            // SAFETY: the caller owns the block, and its slot already had room for `bytes` and the trailer.
            unsafe {
                canary::seal(canary::process_key::<L::Os>(), block, bins::info(tag.bin()).slot_bytes as usize, bytes)
            };
        }
        return block;
    }
    // SAFETY: two live blocks, each at least as long as the copy; the caller gives up the old one.
    unsafe {
        new.copy_from_nonoverlapping(block, old.min(bytes));
        if stays_large {
            large::note_copy(pages, block.addr(), new.addr(), old.min(bytes));
        }
        free(block);
    }
    new
}

/// Who owns the live block at `address`; `None` if no region does.
#[inline]
pub fn region_of<L: Lane>(address: usize) -> Option<Member> {
    Blocks::of(&L::allocator().pages, &L::allocator().regions).owner_of(address)
}

/// [`realloc`] of a block of a region, in the name of `entry`, where it stays, or by `allocate`, from the region, and `free`.
///
/// # Safety
/// `block` is a live block, which `owned` tells of. After success the caller no longer uses it.
pub unsafe fn realloc_in_region<L: Lane>(
    entry: &str,
    member: Member,
    block: *mut u8,
    bytes: usize,
    allocate: impl Fn(usize) -> *mut u8,
    free: impl FnOnce(*mut u8),
) -> *mut u8 {
    let (pages, address) = (&L::allocator().pages, block.addr());
    let blocks = Blocks::of(pages, &L::allocator().regions);
    // SAFETY: the caller owns the live block, and gives it up once it has moved.
    unsafe {
        let old = if member.is_large {
            match large_usable::<L>(entry, address) {
                Some(old) => old,
                None => refuse(pages, entry, address),
            }
        } else {
            let old = blocks.usable_bytes(entry, pages.tag(address), block);
            if !blocks.is_out(member, address) {
                abort::misuse::<L::Os>(entry, "use after free of", address);
            }
            old
        };
        let slot_bytes = if member.is_large { 0 } else { blocks.slot_bytes(member.span) };
        let wanted = bytes.saturating_add(L::TRAILER_BYTES);
        if member.is_large && bytes > MAX_SMALL_BYTES - L::TRAILER_BYTES {
            // Before the block may move: another thread's block may take its address at once.
            let sample = sampling::take::<L>(address);
            let here = blocks.resize_large(member, pages_for(bytes), || large::resize(pages, address, bytes));
            if !here.is_null() {
                sampling::large::<L>(here.addr(), bytes);
                return here;
            }
            sampling::put_back::<L>(sample);
        } else if wanted <= slot_bytes && stays_in_place(wanted, slot_bytes) {
            blocks.reseal(block, slot_bytes, bytes);
            return block;
        }
        let mut new = allocate(if L::HARDENED { bytes } else { with_slack(bytes, old) });
        if new.is_null() {
            new = allocate(bytes);
        }
        if !new.is_null() {
            new.copy_from_nonoverlapping(block, old.min(bytes));
            free(block);
        } else if bytes <= old {
            // A block that shrinks still fits in its place.
            new = block;
            if member.is_large {
                large::reseal(pages, address, bytes);
            } else {
                blocks.reseal(block, slot_bytes, bytes);
            }
        }
        new
    }
}
