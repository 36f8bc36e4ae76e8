//! Miss: `malloc` and `free` where the hit paths end: no slot or no room at hand, a large block, no heap yet.
//!
//! ```text
//! malloc   heap → refill → pop          or a slot straight from a span, or pages
//! free     heap → spill → push          or straight home, or pages
//! ```
//!
//! Every so often a miss looks at the clock for what is due.

use crate::allocator::{HeapOf, Lane, thread_heap};
use crate::api::checked;
use crate::api::large::{self, Block};
use crate::api::refill::refill;
use crate::api::spill::{send_neighbour_home, spill};
use crate::hardening::free_mark;
use crate::hardening::validation::{hand_out, refuse, require_live, usable};
use crate::observe::sampling;
use crate::pages::bins::{self, FOREIGN, bin_for};
use crate::pages::slot::{Slot, no_slots};
use crate::platform::os::Os;
use crate::platform::units::{Bin, MIN_ALIGN, PAGE_BYTES, ShardId};
use crate::thread::cold_bins::send_cold_bins_home;
use crate::thread::heap::{Entry, TICKS, entry_at, heap_at, is_static};
use crate::transfer::carve::carve;
use crate::transfer::homeward::deliver_one;
use crate::upkeep::round;
use crate::upkeep::trim::{could_serve, flush, purge_all};
use core::ptr::{NonNull, null_mut};

/// Largest request in bytes. Outside rule: C23 7.24.3 with POSIX: no object is larger than `PTRDIFF_MAX`.
pub const MAX_BYTES: usize = isize::MAX as usize;

/// `malloc` where this thread has no slot at hand.
#[cold]
#[inline(never)]
pub fn malloc<L: Lane>(bytes: usize) -> *mut u8 {
    match bin_for(bytes.saturating_add(L::TRAILER_BYTES)) {
        Some(bin) => small::<L>(bin, bytes),
        None => large::<L>(bytes, MIN_ALIGN).map_or(null_mut(), |block| block.start),
    }
}

/// A block of `bin`, or a sampled one, for `bytes`; null when memory has run out.
pub fn small<L: Lane>(bin: Bin, bytes: usize) -> *mut u8 {
    let block =
        sampling::small::<L>(bytes, || large::allocate_for_sample(&L::allocator().pages, bytes)).or_else(|| {
            or_after_trim::<L, _>(0, || {
                NonNull::new(match thread_heap::<L>() {
                    // SAFETY: the heap is this thread's.
                    Some(heap) => unsafe { pop_or_refill::<L>(&mut *heap, bin, bytes) },
                    None => uncached::<L>(bin, bytes),
                })
            })
        });
    block.map_or(null_mut(), NonNull::as_ptr)
}

/// A large block; `None` when memory has run out or the size is above [`MAX_BYTES`].
pub fn large<L: Lane>(bytes: usize, align: usize) -> Option<Block> {
    // What can never be had is not worth a trim: a descriptor counts pages in 32 bits.
    if bytes > MAX_BYTES || u32::try_from(bytes / PAGE_BYTES + align / PAGE_BYTES + 2).is_err() {
        return None;
    }
    tick_of::<L>();
    let block = or_after_trim::<L, _>(bytes, || large::allocate(&L::allocator().pages, bytes, align))?;
    sampling::large::<L>(block.start.addr(), bytes);
    Some(block)
}

/// A slot straight from a span, for threads without a heap; null when memory has run out.
#[cold]
fn uncached<L: Lane>(bin: Bin, bytes: usize) -> *mut u8 {
    let mut out = no_slots::<1>();
    let allocator = L::allocator();
    if carve(&allocator.pages, &allocator.exchange, ShardId(0), bin, &mut out) == 0 {
        return null_mut();
    }
    let [slot] = out;
    // SAFETY: the slot was just taken.
    unsafe { hand_out::<L>(slot.assume_init(), bin, bytes) }
}

fn pop_or_refill<L: Lane>(heap: &mut HeapOf<L>, bin: Bin, bytes: usize) -> *mut u8 {
    if heap.entry(bin).is_empty() {
        tick::<L>(heap);
        heap.begin_change();
        // SAFETY: the heap is this thread's, and the entry empty.
        let filled = unsafe { refill::<L>(heap, bin, empty::<L>) };
        heap.end_change();
        if !filled {
            return uncached::<L>(bin, bytes);
        }
    }
    // SAFETY: the heap is this thread's, and begins with its entries; a filled entry has a slot.
    unsafe {
        // Pointers, because the entry and the random numbers are parts of one heap.
        let heap = core::ptr::from_mut(heap);
        let entry = entry_at(heap.cast(), bin);
        let slot = if L::HARDENED {
            Some(Entry::draw(entry, |limit| (*heap).random_below::<L::Os>(limit)))
        } else {
            Entry::pop(entry)
        };
        slot.map_or(null_mut(), |slot| hand_out::<L>(slot, bin, bytes))
    }
}

/// `free` where the block is not a small one of the first arena, or this thread has no room at hand.
///
/// # Safety
/// `block` is null or a block of this lane's that nobody uses any more.
#[cold]
#[inline(never)]
pub unsafe fn free<L: Lane>(block: *mut u8) {
    if block.is_null() {
        return;
    }
    let allocator = L::allocator();
    let tag = allocator.pages.tag(block.addr());
    if tag.bin() == FOREIGN {
        // SAFETY: the caller's promise.
        return unsafe { free_large::<L>(block) };
    }
    // SAFETY: where it is the block that it should be, it is nobody's any more.
    let slot = unsafe {
        require_live(&allocator.pages, "free()", tag, block);
        if L::HARDENED {
            usable::<L>("free()", tag.bin(), block);
            free_mark::wipe(block, bins::info(tag.bin()).slot_bytes as usize);
        } else if L::MARKS {
            free_mark::set(block);
        }
        Slot::new(block)
    };
    match thread_heap::<L>() {
        // SAFETY: the heap is this thread's.
        Some(heap) if L::HARDENED => unsafe {
            checked::quarantine::<L>(&mut *heap, tag.bin(), slot, push_or_spill::<L>);
        },
        // SAFETY: as above.
        Some(heap) => unsafe { push_or_spill::<L>(&mut *heap, tag.bin(), slot) },
        None => deliver_one(&allocator.pages, &allocator.exchange, slot),
    }
}

/// [`free`] of what is no small block.
///
/// # Safety
/// As for [`free`].
unsafe fn free_large<L: Lane>(block: *mut u8) {
    let pages = &L::allocator().pages;
    sampling::take::<L>(block.addr());
    // SAFETY: the caller's promise.
    if !unsafe { large::free(pages, block.addr()) } {
        refuse(pages, "free()", block.addr());
    }
    tick_of::<L>();
}

/// Puts `slot` into a magazine, or home.
#[inline]
pub fn push_or_spill<L: Lane>(heap: &mut HeapOf<L>, bin: Bin, slot: Slot) {
    let mut slot = slot;
    if heap.entry(bin).is_full() {
        let is_first = !heap.entry(bin).is_loaded();
        tick::<L>(heap);
        heap.begin_change();
        // SAFETY: the heap is this thread's, and the entry full, or without a magazine now.
        let has_room = unsafe { spill::<L>(heap, bin) };
        let left = if has_room && is_first { send_neighbour_home::<L>(heap, bin, slot) } else { Some(slot) };
        heap.end_change();
        let Some(kept) = left else { return };
        if !has_room {
            let allocator = L::allocator();
            return deliver_one(&allocator.pages, &allocator.exchange, kept);
        }
        slot = kept;
    }
    // SAFETY: the heap is this thread's, and there is room.
    unsafe { Entry::push(heap.entry_mut(bin), slot) }
}

/// Empties `heap`.
///
/// # Safety
/// The caller owns the heap.
unsafe fn empty<L: Lane>(heap: *mut HeapOf<L>) {
    let allocator = L::allocator();
    // SAFETY: the caller's promise.
    unsafe { flush(&allocator.pages, &allocator.exchange, heap) };
}

/// Counts a miss of this thread and, now and then, looks at the clock for what is due. May empty any entry of the heap.
#[inline]
fn tick<L: Lane>(heap: &mut HeapOf<L>) {
    match heap.ticks.checked_sub(1) {
        Some(left) if heap.trims == L::allocator().trims() => heap.ticks = left,
        _ => look_at_the_clock::<L>(heap),
    }
}

#[cold]
fn look_at_the_clock<L: Lane>(heap: &mut HeapOf<L>) {
    let allocator = L::allocator();
    heap.ticks = TICKS;
    let trims = allocator.trims();
    // SAFETY: the heap is this thread's, and no entry of it is in use.
    unsafe {
        if core::mem::replace(&mut heap.trims, trims) == trims {
            send_cold_bins_home(&allocator.pages, &allocator.exchange, heap, L::Os::now_ms());
        } else {
            empty::<L>(heap);
        }
    }
    round::tick(&allocator.pages, &allocator.exchange, &allocator.schedule, &allocator.observer);
}

fn tick_of<L: Lane>() {
    if let Some(heap) = thread_heap::<L>() {
        // SAFETY: the heap is this thread's.
        tick::<L>(unsafe { &mut *heap });
    }
}

/// The attempt's result, or, where the system has no more memory for `bytes`, that of a second one after everything
/// that lies free in caches has come together. A program may probe for sizes that can't be had as often as it likes: that
/// does not cost its other threads their caches, nor itself more than a look at the books.
#[inline]
fn or_after_trim<L: Lane, T>(bytes: usize, attempt: impl Fn() -> Option<T>) -> Option<T> {
    attempt().or_else(|| {
        let allocator = L::allocator();
        if !could_serve(&allocator.pages, &allocator.exchange, bytes) {
            return None;
        }
        allocator.request_trim_if_due();
        trim_own::<L>();
        attempt()
    })
}

/// Gives all free memory that can be reached back to the system; whether any went. The calling thread's
/// cache is emptied too; other threads' caches are theirs alone, and each empties its own at its next slow
/// path.
pub fn trim<L: Lane>() -> bool {
    L::allocator().request_trim();
    trim_own::<L>()
}

/// As [`trim`], without asking the other threads.
fn trim_own<L: Lane>() -> bool {
    let allocator = L::allocator();
    let entries = L::heap();
    if !is_static(entries) {
        // SAFETY: the heap is this thread's, and stays in use, empty.
        unsafe {
            let heap = heap_at::<L::Stash, L::Quarantine>(entries);
            (*heap).trims = allocator.trims();
            empty::<L>(heap);
        }
    }
    purge_all(&allocator.pages, &allocator.exchange)
}
