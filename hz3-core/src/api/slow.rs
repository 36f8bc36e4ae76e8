//! Slow: everything that the hot paths leave over, and the rest of the interface.
//!
//! ```text
//! refill   spare magazine → own depot → own inbox → other shards' → slots at home, own and others' → fresh slots
//!          → new span
//! spill    spare magazine → own depot (adopted), or home through the stash (not adopted, or depot full)
//! ```
//!
//! The ends of a queue have ways of their own: [`one_way`].
//!
//! Policy acts here, once per magazine, never on the hot path.

mod last_resort;
mod resize;

use crate::api::hot;
use crate::hardening::checked;
use crate::hardening::free_mark;
use crate::hardening::validation::{hand_out, misuse_of, refuse, require_live, usable};
use crate::lane::Lane;
use crate::observe::sampling;
use crate::pages::bins::{self, FOREIGN, MAX_SMALL_BYTES, bin_for, bin_for_aligned};
use crate::pages::large::Block;
use crate::platform::abort;
use crate::platform::os::Os;
use crate::platform::units::{Bin, MIN_ALIGN, PAGE_BYTES, ShardId};
use crate::process::lifecycle::{self, TICKS};
use crate::thread::cold_bins;
use crate::thread::heap::{Entry, Heap, count, load, swap};
use crate::thread::one_way;
use crate::transfer::homeward::Courier;
use crate::transfer::magazine::{Magazine, shape};
use crate::transfer::remote_stash::RemoteStash;
use core::ptr::{NonNull, null_mut};
use last_resort::or_after_trim;

pub use last_resort::trim;
pub use resize::realloc;

/// Largest request. Outside rule: C23 7.24.3 with POSIX: no object is larger than `PTRDIFF_MAX`.
pub const MAX_BYTES: usize = isize::MAX as usize;

/// [`hot::malloc`] where this thread's heap has no slot at hand.
#[cold]
#[inline(never)]
pub fn malloc<L: Lane>(bytes: usize) -> *mut u8 {
    match bin_for(bytes.saturating_add(L::TRAILER_BYTES)) {
        Some(bin) => small::<L>(bin, bytes),
        None => large::<L>(bytes, MIN_ALIGN).map_or(null_mut(), |block| block.start),
    }
}

/// A block of `bin`, or a sampled one, for `bytes`; null when memory has run out.
fn small<L: Lane>(bin: Bin, bytes: usize) -> *mut u8 {
    let block = sampling::small::<L>(bytes).or_else(|| {
        or_after_trim::<L, _>(0, || {
            NonNull::new(match lifecycle::heap::<L>() {
                // SAFETY: the heap is this thread's.
                Some(heap) => unsafe { pop_or_refill(&mut *heap, bin, bytes) },
                None => uncached::<L>(bin, bytes),
            })
        })
    });
    block.map_or(null_mut(), NonNull::as_ptr)
}

/// A large block; `None` when memory has run out or the size is above [`MAX_BYTES`].
fn large<L: Lane>(bytes: usize, align: usize) -> Option<Block> {
    // What can never be had is not worth a trim: a descriptor counts pages in 32 bits.
    if bytes > MAX_BYTES || u32::try_from(bytes / PAGE_BYTES + align / PAGE_BYTES + 2).is_err() {
        return None;
    }
    tick_of::<L>();
    let block = or_after_trim::<L, _>(bytes, || L::allocator().allocate_large(bytes, align))?;
    sampling::large::<L>(block.start.addr(), bytes);
    Some(block)
}

/// A slot straight from a span, for threads without a heap; null when memory has run out.
#[cold]
fn uncached<L: Lane>(bin: Bin, bytes: usize) -> *mut u8 {
    let mut out = [null_mut()];
    let allocator = L::allocator();
    allocator.carve(ShardId(0), bin, &mut out);
    let [slot] = out;
    if slot.is_null() {
        return slot;
    }
    // SAFETY: the slot was just taken, and is nobody else's.
    unsafe { hand_out::<L>(slot, bin, bytes) }
}

fn pop_or_refill<L: Lane>(heap: &mut Heap<L>, bin: Bin, bytes: usize) -> *mut u8 {
    let entry = heap.entry(bin);
    if entry.top == entry.base {
        tick(heap);
        heap.unsettled();
        let filled = refill(heap, bin);
        heap.settled();
        if !filled {
            return uncached::<L>(bin, bytes);
        }
    }
    let entry = heap.entry(bin);
    // SAFETY: a filled entry has a slot below `top`, and `base` is its first.
    unsafe {
        if L::HARDENED {
            let entry = &raw mut *entry;
            return hand_out::<L>(checked::draw(heap, entry), bin, bytes);
        }
        entry.top = entry.top.sub(1);
        hand_out::<L>(*entry.top, bin, bytes)
    }
}

/// Fills the empty entry of `bin`; false where memory has run out.
fn refill<L: Lane>(heap: &mut Heap<L>, bin: Bin) -> bool {
    let allocator = L::allocator();
    heap.mark_active(bin);
    let shard = heap.shard;
    let entry = heap.entry(bin);
    // SAFETY: the heap is this thread's and its magazines with it; the loaded one is empty.
    unsafe {
        if !entry.spare.is_null() && (*entry.spare).count > 0 {
            if entry.base.is_null() {
                // A spill could not get an empty magazine for the full one that it gave away.
                let spare = core::mem::replace(&mut entry.spare, null_mut());
                load(entry, spare);
            } else {
                swap(entry);
            }
            return true;
        }
        let capacity = shape(L::shapes(), bin).capacity;
        if L::KEEPS_ORDER && heap.balances.is_producer(bin, capacity) && refill_in_order(heap, bin, capacity) {
            return true;
        }
        if let Some((full, stolen)) = allocator.take_full(shard, bin) {
            exchange(heap, bin, full, stolen);
            return true;
        }
        let entry = heap.entry(bin);
        if entry.base.is_null() {
            let magazine = allocator.empty_magazine(shard, bin);
            if magazine.is_null() {
                return false;
            }
            load(entry, magazine);
        }
        allocator.heaps.adopt_orphans(|orphan| {
            lifecycle::empty(allocator, orphan);
            allocator.heaps.give(orphan);
        });
        let batch = next_batch(heap, bin, capacity);
        fill(heap, bin, batch, |places| allocator.carve(shard, bin, places))
    }
}

/// Fills the empty magazine of `bin`, which must be there, with what `carve` takes into `batch` places; false where
/// that is nothing.
///
/// # Safety
/// The caller owns the heap; `batch` is at most the magazine's capacity.
unsafe fn fill<L: Lane>(heap: &mut Heap<L>, bin: Bin, batch: u16, carve: impl FnOnce(&mut [*mut u8]) -> usize) -> bool {
    let entry = heap.entry(bin);
    // SAFETY: the caller's promise.
    let taken = unsafe {
        let taken = carve(core::slice::from_raw_parts_mut(entry.base, usize::from(batch)));
        entry.top = entry.base.add(taken);
        taken
    };
    count(&heap.counters.carves, 1);
    heap.balances.note_refill(bin, shape(L::shapes(), bin).capacity, taken);
    L::allocator().note_refill(bin, taken);
    taken > 0
}

/// Loads `full` in place of the empty magazine of `bin`, if there is one. `stolen`: it comes from another shard.
///
/// # Safety
/// The caller owns the heap, whose loaded magazine is empty, and `full`.
unsafe fn exchange<L: Lane>(heap: &mut Heap<L>, bin: Bin, full: *mut Magazine, stolen: bool) {
    let allocator = L::allocator();
    let entry = heap.entry(bin);
    // SAFETY: the caller's promise.
    unsafe {
        let spent = entry.base;
        load(entry, full);
        if !spent.is_null() {
            // The empty goes where the full one came from, so that empties don't pile up with those
            // who only allocate.
            let spent = Magazine::of_slots(spent);
            (*spent).origin = (*full).origin;
            allocator.return_empty(spent);
        }
        count(if stolen { &heap.counters.steals } else { &heap.counters.refills }, 1);
        heap.balances.note_refill(bin, (*full).capacity, usize::from((*full).count));
        allocator.note_refill(bin, usize::from((*full).count));
    }
}

/// [`refill`] of a producer's bin, as [`one_way`] says; false where the shard has nothing for it.
///
/// # Safety
/// The caller owns the heap, whose magazines of the bin are empty and hold `capacity` slots.
unsafe fn refill_in_order<L: Lane>(heap: &mut Heap<L>, bin: Bin, capacity: u16) -> bool {
    let allocator = L::allocator();
    let shard = heap.shard;
    // SAFETY: the caller's promise; what was taken is this thread's.
    unsafe {
        if let Some(full) = allocator.take_in_order(shard, bin) {
            let has_order = one_way::has_order(Magazine::held(full), bins::info(bin).slot_bytes as usize);
            exchange(heap, bin, full, false);
            if !has_order {
                heap.balances.forget(bin);
            }
            return true;
        }
        let entry = heap.entry(bin);
        if entry.base.is_null() || !heap.balances.may_take_own() {
            return false;
        }
        heap.balances.note_own(usize::from(capacity) * bins::info(bin).slot_bytes as usize);
        fill(heap, bin, capacity, |places| allocator.carve_own(shard, bin, places))
    }
}

/// Most bytes that a thread's first refill of a bin carves, unless one slot is larger. Chosen: a page, so that
/// short-lived threads which need a block or two of a size do not spread over fresh pages.
const FIRST_BATCH_BYTES: u32 = 4096;

/// How many slots to carve: few at first, so that a thread which needs one block of a size does not
/// spread over many pages, then twice as many each time.
fn next_batch<L: Lane>(heap: &mut Heap<L>, bin: Bin, capacity: u16) -> u16 {
    let Some(batch) = heap.batches.get_mut(usize::from(bin.0)) else { return 1 };
    let first = (FIRST_BATCH_BYTES / bins::info(bin).slot_bytes.max(1)).clamp(1, u32::from(L::FIRST_BATCH)) as u16;
    let now = u16::from(*batch).max(first).min(capacity);
    *batch = (now * 2).min(capacity) as u8;
    now
}

/// [`hot::free`] where the block is not a small one of the first arena, or this thread's magazine is full.
///
/// # Safety
/// As for [`hot::free`].
#[cold]
#[inline(never)]
pub unsafe fn free<L: Lane>(block: *mut u8) {
    if block.is_null() {
        return;
    }
    let allocator = L::allocator();
    let tag = allocator.runs.arenas.tag_value(block.addr());
    if tag.bin() == FOREIGN {
        sampling::take::<L>(block.addr());
        if !allocator.free_large(block.addr()) {
            refuse::<L>("free()", block.addr());
        }
        tick_of::<L>();
        return;
    }
    // SAFETY: where it is the block that it should be, it is nobody's any more.
    unsafe {
        require_live::<L>("free()", tag, block);
        if L::HARDENED {
            usable::<L>("free()", tag.bin(), block);
            free_mark::wipe(block, bins::info(tag.bin()).slot_bytes as usize);
        } else if L::MARKS {
            free_mark::set(block);
        }
    }
    match lifecycle::heap::<L>() {
        // SAFETY: the heap is this thread's.
        Some(heap) if L::HARDENED => unsafe { checked::quarantine(&mut *heap, tag.bin(), block) },
        // SAFETY: as above.
        Some(heap) => unsafe { push_or_spill(&mut *heap, tag.bin(), block) },
        None => allocator.deliver_one(block),
    }
}

/// Puts the free slot `block` into a magazine, or home.
#[inline]
pub(crate) fn push_or_spill<L: Lane>(heap: &mut Heap<L>, bin: Bin, block: *mut u8) {
    let entry = heap.entry(bin);
    if entry.top == entry.limit {
        let is_first = entry.base.is_null();
        tick(heap);
        heap.unsettled();
        let room = spill(heap, bin);
        let sent = room && is_first && lifecycle::send_neighbour_home(heap, bin, block);
        heap.settled();
        if sent {
            return;
        }
        if !room {
            return L::allocator().deliver_one(block);
        }
    }
    let entry = heap.entry(bin);
    // SAFETY: there is room below `limit`.
    unsafe { hot::push(entry, entry.top, block) }
}

/// Makes room in the full entry of `bin`; false where it can't.
fn spill<L: Lane>(heap: &mut Heap<L>, bin: Bin) -> bool {
    let allocator = L::allocator();
    heap.mark_active(bin);
    let shard = heap.shard;
    let entry = heap.entry(bin);
    // SAFETY: the heap is this thread's and its magazines with it; the loaded one, if any, is full.
    unsafe {
        if entry.base.is_null() {
            return load_empty(entry, allocator.empty_magazine(shard, bin));
        }
        if entry.spare.is_null() {
            let magazine = allocator.empty_magazine(shard, bin);
            if magazine.is_null() {
                return false;
            }
            entry.spare = magazine;
        }
        swap(entry);
        // What was the spare is loaded now: empty, or the older of two full ones.
        if entry.top != entry.limit {
            return true;
        }
        let oldest = Magazine::of_slots(entry.base);
        (*oldest).count = (*oldest).capacity;
        if L::MARKS
            && let Some(stranger) = allocator.first_stranger(bin, Magazine::held(oldest))
        {
            // A handler of the program's for SIGABRT may allocate.
            entry.top = entry.base;
            heap.settled();
            misuse_of::<L>("free()", "invalid pointer", bin, stranger.addr());
        }
        if !L::ADOPT && keep_own(heap, bin, oldest) {
            return true;
        }
        heap.balances.note_spill(bin, (*oldest).capacity, usize::from((*oldest).count));
        let is_homeward = L::KEEPS_ORDER && heap.balances.is_consumer(bin, (*oldest).capacity);
        let owner = is_homeward.then(|| one_way::owner_of_all(allocator, Magazine::held(oldest))).flatten();
        let home = owner.filter(|&owner| owner != shard);
        let sent = if home.is_some() { u64::from((*oldest).count) } else { 0 };
        allocator.note_spill(shard, bin, L::ADOPT && home.is_none(), Magazine::held(oldest));
        if allocator.put_full(home.unwrap_or(shard), bin, oldest, home.is_some()) {
            count(&heap.counters.spills, 1);
            count(&heap.counters.homeward, sent);
            let magazine = allocator.empty_magazine(shard, bin);
            let entry = heap.entry(bin);
            *entry = Entry { top: null_mut(), base: null_mut(), limit: null_mut(), spare: entry.spare };
            return load_empty(entry, magazine);
        }
        count(&heap.counters.homeward, u64::from((*oldest).count));
        lifecycle::send_home(allocator, &mut heap.stash, shard, oldest);
        load(heap.entry(bin), oldest);
        true
    }
}

/// Loads an empty magazine; false where there is none.
///
/// # Safety
/// The caller owns the entry's heap, which has nothing loaded there, and the magazine, which may be null.
unsafe fn load_empty(entry: &mut Entry, magazine: *mut Magazine) -> bool {
    if magazine.is_null() {
        return false;
    }
    // SAFETY: the caller's promise.
    unsafe { load(entry, magazine) };
    true
}

/// Sends the slots of the full, loaded `magazine` that other shards own home; true where that made room.
///
/// # Safety
/// The caller owns the heap.
unsafe fn keep_own<L: Lane>(heap: &mut Heap<L>, bin: Bin, magazine: *mut Magazine) -> bool {
    let allocator = L::allocator();
    let shard = heap.shard;
    let mut courier = Courier { allocator, shard, idle: false };
    // SAFETY: the heap is this thread's and the magazine with it.
    unsafe {
        let slots = Magazine::held(magazine);
        let all = slots.len();
        let mut kept = 0;
        for index in 0..all {
            let slot = *slots.get_unchecked(index);
            let tag = allocator.runs.arenas.tag_value(slot.addr());
            if tag.owner() == shard {
                *slots.get_unchecked_mut(kept) = slot;
                kept += 1;
            } else {
                allocator.note_freed(shard, bin, false, &[slot]);
                heap.stash.put(tag.owner(), bin, slot, &mut courier);
            }
        }
        count(&heap.counters.homeward, (all - kept) as u64);
        heap.balances.note_spill(bin, (*magazine).capacity, all - kept);
        (*magazine).count = kept as u16;
        load(heap.entry(bin), magazine);
        kept < all
    }
}

/// Counts a slow path of this thread and, now and then, looks at the clock for what is due. May empty any
/// entry of the heap.
#[inline]
fn tick<L: Lane>(heap: &mut Heap<L>) {
    match heap.ticks.checked_sub(1) {
        Some(left) if heap.trims == L::allocator().trims() => heap.ticks = left,
        _ => look_at_the_clock(heap),
    }
}

#[cold]
fn look_at_the_clock<L: Lane>(heap: &mut Heap<L>) {
    let allocator = L::allocator();
    heap.ticks = TICKS;
    let trims = allocator.trims();
    // SAFETY: the heap is this thread's, and no entry of it is in use.
    unsafe {
        if core::mem::replace(&mut heap.trims, trims) == trims {
            cold_bins::drop_cold_bins(allocator, heap, L::Os::now_ms());
        } else {
            lifecycle::empty(allocator, heap);
        }
    }
    allocator.tick();
}

fn tick_of<L: Lane>() {
    if let Some(heap) = lifecycle::heap::<L>() {
        // SAFETY: the heap is this thread's.
        tick(unsafe { &mut *heap });
    }
}

/// Allocates `bytes` at a multiple of `align`, a power of two; null when memory has run out or the size is
/// above [`MAX_BYTES`].
pub fn malloc_aligned<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    if align <= MIN_ALIGN {
        return hot::malloc::<L>(bytes);
    }
    match bin_for_aligned(bytes.saturating_add(L::TRAILER_BYTES), align) {
        Some(bin) if L::HARDENED => small::<L>(bin, bytes),
        Some(bin) => hot::malloc::<L>(bins::info(bin).slot_bytes as usize),
        None => large::<L>(bytes, align).map_or(null_mut(), |block| block.start),
    }
}

/// Allocates `bytes` bytes that read as zero; null as for [`hot::malloc`].
#[inline]
pub fn malloc_zeroed<L: Lane>(bytes: usize) -> *mut u8 {
    malloc_aligned_zeroed::<L>(bytes, MIN_ALIGN)
}

/// As [`malloc_aligned`], of bytes that read as zero, at a multiple of at most a page.
#[inline]
pub fn malloc_aligned_zeroed<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    if bytes > MAX_SMALL_BYTES - L::TRAILER_BYTES {
        return large_zeroed::<L>(bytes, align);
    }
    let block = malloc_aligned::<L>(bytes, align);
    // In a hardened lane free slots read as zero, mark and all, once they are handed out.
    if !L::HARDENED && !block.is_null() {
        // SAFETY: the block holds `bytes` bytes.
        unsafe { block.write_bytes(0, bytes) };
    }
    block
}

/// Allocates a large block of `bytes` at a multiple of `align`, a power of two, that reads as zero:
/// pages that come fresh from the system are not cleared again. Null as for [`malloc_aligned`].
pub fn large_zeroed<L: Lane>(bytes: usize, align: usize) -> *mut u8 {
    let Some(block) = large::<L>(bytes, align) else { return null_mut() };
    if !block.zeroed {
        // SAFETY: the block holds `bytes` bytes.
        unsafe { block.start.write_bytes(0, bytes) };
    }
    block.start
}

/// Bytes that may be used of the live block at `block`; `None` where none begins there. Null has 0.
#[allow(clippy::not_unsafe_ptr_arg_deref, reason = "read only where it is the start of a slot")]
pub fn usable_bytes<L: Lane>(block: *const u8) -> Option<usize> {
    usable_bytes_for::<L>("malloc_usable_size()", block)
}

/// [`usable_bytes`] in the name of `entry`.
#[inline]
fn usable_bytes_for<L: Lane>(entry: &str, block: *const u8) -> Option<usize> {
    if block.is_null() {
        return Some(0);
    }
    let tag = L::allocator().runs.arenas.tag_value(block.addr());
    match tag.bin() {
        FOREIGN => large_usable::<L>(entry, block.addr()),
        bin => {
            // SAFETY: a slot of 16 bytes or more begins at the block where the first test says so.
            let is_live =
                L::allocator().is_slot(tag, block.addr()) && !(L::MARKS && unsafe { free_mark::is_set(block) });
            // SAFETY: as above, and it is not free.
            is_live.then(|| unsafe { usable::<L>(entry, bin, block) })
        }
    }
}

/// Bytes that may be used of the large block at `address`; `None` where none begins there.
fn large_usable<L: Lane>(entry: &str, address: usize) -> Option<usize> {
    let bytes = L::allocator().large_bytes(entry, address)?;
    Some(if L::HARDENED { bytes } else { sampling::usable_bytes::<L>(address, bytes) })
}

/// Frees the block at `block`, which the program says it asked `bytes` at a multiple of `align` for; a hardened lane
/// stops the process where that can't be.
///
/// # Safety
/// As for [`hot::free`].
#[inline(always)]
pub unsafe fn free_of_size<L: Lane>(block: *mut u8, bytes: usize, align: usize) {
    if L::HARDENED
        && !block.is_null()
        && let Some(asked) = usable_bytes_for::<L>("free()", block)
        && (asked != bytes || !block.addr().is_multiple_of(align.max(1)))
    {
        abort::misuse::<L::Os>("free()", "wrong size for", block.addr());
    }
    // SAFETY: the caller's promise.
    unsafe { hot::free::<L>(block) }
}
