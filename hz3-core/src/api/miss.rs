//! Miss: the slow paths of `malloc` and `free`.
//!
//! ```text
//! malloc   heap → refill → pop          or one slot carved from a span, or pages
//! free     heap → spill → push          or home, or pages
//! ```
//!
//! Now and then a miss checks the clock and runs due upkeep. While a miss changes the heap, the thread's pointer is
//! elsewhere.

use crate::allocator::{Allocator, HeapOf, Lane, set_aside, thread_heap};
use crate::api::apart;
use crate::api::checked;
use crate::api::large::{self, Block};
use crate::api::refill::{refill, refill_from_spans};
use crate::api::spill::{check_slots, send_shared_line_home, spill};
use crate::hardening::free_mark;
use crate::hardening::quarantine::Quarantine;
use crate::hardening::unwritten::require_unwritten;
use crate::hardening::validation::{hand_out, refuse, require_live, usable};
use crate::observe::sampling;
use crate::pages::bins::{self, FOREIGN, bin_for, bin_for_aligned};
use crate::pages::guards::Wait;
use crate::pages::page_tag::Kind;
use crate::pages::policy::shape;
use crate::pages::slot::{Slot, no_slots};
use crate::platform::os::Os;
use crate::platform::system_page::{self, pages_for};
use crate::platform::units::{Bin, MIN_ALIGN, PAGE_BYTES, ShardId, SpanId};
use crate::regions::blocks::Blocks;
use crate::thread::cold_bins::{keep_to_share, send_cold_bins_home};
use crate::thread::heap::{Entry, TICKS, count, heap_at, is_static};
use crate::transfer::carve::{carve, carve_anywhere};
use crate::transfer::homeward::{empty_stocked_depots, restore_idle, restore_one};
use crate::transfer::remote_stash::RemoteStash;
use crate::upkeep::trim::{could_serve, flush, flush_stash, gather, purge_all, would_free_a_span};
use crate::upkeep::{pressure, repay, rest, round};
use core::ptr::{NonNull, null_mut};

/// Largest request in bytes. Outside rule: C23 7.24.3 with POSIX: no object exceeds `PTRDIFF_MAX`.
pub const MAX_BYTES: usize = isize::MAX as usize;

/// Refused unmaps that a failed request repeats; now and then it repeats them all.
const UNMAPS: usize = 4;

/// `malloc` if this thread has no cached slot.
#[cold]
#[inline(never)]
pub fn malloc<L: Lane>(bytes: usize) -> *mut u8 {
    match bin_for(bytes.saturating_add(L::TRAILER_BYTES)) {
        Some(bin) => small::<L>(bin, bytes),
        None => large::<L>(bytes, MIN_ALIGN).map_or(null_mut(), |block| block.start),
    }
}

/// Pages of the run for a span of `pages` for slots, or of the [shared page](crate::pages::span::SharedPages) for a part.
fn run_pages<L: Lane>(pages: usize) -> usize {
    pages.max(system_page::pages()) + L::guard_pages()
}

/// A block of `bin`, or a sampled one, for `bytes`; null when memory has run out.
pub fn small<L: Lane>(bin: Bin, bytes: usize) -> *mut u8 {
    let want = || Want { pages: run_pages::<L>(bins::info(bin).span_pages()), align_pages: 1, bin };
    let block =
        sampling::small::<L>(bytes, || large::allocate_for_sample(&L::allocator().pages, bytes)).or_else(|| {
            retry_gathered::<L, _>(want, || {
                NonNull::new(match thread_heap::<L>() {
                    // SAFETY: this thread's heap, without another reference.
                    Some(heap) => unsafe { pop_or_refill::<L>(&*heap, bin, bytes) },
                    None => carve_one::<L>(bin, bytes, false),
                })
            })
        });
    block.map_or(null_mut(), NonNull::as_ptr)
}

/// A large block, aligned to `align`; `None` when memory has run out or `bytes` exceeds [`MAX_BYTES`].
pub fn large<L: Lane>(bytes: usize, align: usize) -> Option<Block> {
    // A descriptor counts pages in 32 bits; more is impossible and not worth a trim.
    if bytes > MAX_BYTES || u32::try_from(bytes / PAGE_BYTES + align / PAGE_BYTES + 2).is_err() {
        return None;
    }
    start_helper_if_wanted::<L>();
    tick_thread::<L>();
    let want = || {
        let (pages, align_pages) = large::pages_of::<L>(bytes, align);
        Want { pages, align_pages, bin: FOREIGN }
    };
    let block = retry_gathered::<L, _>(want, || large::allocate(&L::allocator().pages, bytes, align))?;
    // Now, while the block counts as used.
    pay_if_due::<L>();
    sampling::large::<L>(block.start.addr(), bytes);
    Some(block)
}

/// A slot from a span, when there is no heap or no magazine; null when memory has run out. Any shard serves: the first.
/// Asks for no fresh pages if they were just `refused`.
#[cold]
fn carve_one<L: Lane>(bin: Bin, bytes: usize, refused: bool) -> *mut u8 {
    let mut out = no_slots::<1>();
    let (pages, exchange) = (&L::allocator().pages, &L::allocator().exchange);
    if (refused || carve(pages, exchange, ShardId(0), bin, &mut out) == 0)
        && carve_anywhere(pages, exchange, bin, &mut out) == 0
    {
        return null_mut();
    }
    let [slot] = out;
    // SAFETY: the one place was filled with a slot of `bin`, which has room for `bytes` and the trailer.
    unsafe { hand_out::<L>(slot.assume_init(), bin, bytes) }
}

fn pop_or_refill<L: Lane>(heap: &HeapOf<L>, bin: Bin, bytes: usize) -> *mut u8 {
    if heap.entry(bin).is_empty() {
        start_helper_if_wanted::<L>();
        tick::<L>(heap);
        if pressure::is_met(&L::allocator().pages) {
            relieve::<L>(heap);
        }
    }
    heap.begin_change::<L>();
    // SAFETY: the heap is this thread's, in a change. The entry is empty when it is refilled: `tick` can only empty entries,
    // and what a taker left in it is mended by now. A slot of `bin` fits `bytes` and the trailer.
    unsafe {
        let is_there = !heap.entry(bin).is_empty() || set_aside::<L, _>(heap, || fill_entry::<L>(heap, bin));
        let entry = heap.entry_mut(bin);
        // With a magazine, it was the spans that had nothing.
        let refused = heap.entry(bin).is_loaded();
        let slot = match is_there {
            false => None,
            true if L::HARDENED => Entry::draw(entry, |limit| heap.random_below::<L::Os>(limit)),
            true => Entry::pop(entry),
        };
        heap.end_change();
        match slot {
            Some(slot) => hand_out::<L>(slot, bin, bytes),
            None => carve_one::<L>(bin, bytes, refused),
        }
    }
}

/// [`refill`], or of a bin that is spread what its spans have.
///
/// # Safety
/// As for [`refill`].
unsafe fn fill_entry<L: Lane>(heap: &HeapOf<L>, bin: Bin) -> bool {
    // SAFETY: the caller's own promise.
    unsafe {
        if !apart::is_apart::<L>(heap, bin) {
            return refill::<L>(heap, bin, flush_heap::<L>);
        }
        apart::prepare_refill::<L>(heap, bin, check_slots::<L>);
        let is_any = refill_from_spans::<L>(heap, bin, flush_heap::<L>);
        heap.entry(bin).close();
        is_any
    }
}

/// `free` if the block is not a small one of a window, or the magazine is full.
///
/// # Safety
/// `block` is null or a block of this lane that is no longer used.
#[cold]
#[inline(never)]
pub unsafe fn free<L: Lane>(block: *mut u8) {
    if block.is_null() {
        return;
    }
    let allocator = L::allocator();
    let tag = allocator.pages.tag(block.addr());
    if tag.bin() == FOREIGN {
        // SAFETY: the caller gives up the block.
        return unsafe { free_large::<L>(block) };
    }
    // SAFETY: `tag` is the page's. After `require_live` a slot begins at `block`; the caller has given it up.
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
        // SAFETY: this thread's heap, without another reference.
        Some(heap) if L::HARDENED => unsafe {
            checked::quarantine::<L>(&*heap, tag.bin(), slot, push_or_spill::<L>);
        },
        // SAFETY: this thread's heap, without another reference.
        Some(heap) => unsafe { push_or_spill::<L>(&*heap, tag.bin(), slot) },
        None => restore_one(&allocator.pages, &allocator.exchange, slot),
    }
}

/// # Safety
/// `block` is a block of this lane that is no longer used.
unsafe fn free_large<L: Lane>(block: *mut u8) {
    let pages = &L::allocator().pages;
    let tag = pages.tag(block.addr());
    if tag.kind() == Kind::Region {
        // SAFETY: the caller gives up the block.
        return unsafe { free_in_region::<L>("free()", block) };
    }
    Blocks::of(pages, &L::allocator().regions).forget_large(block.addr());
    sampling::take::<L>(block.addr());
    let is_direct = tag.kind() != Kind::Large;
    let wait = |page_count| match thread_heap::<L>() {
        // SAFETY: this thread's heap, without another reference.
        Some(heap) => unsafe { (*heap).quarantine.claim_wait(L::Os::now_ms(), page_count) },
        None => Wait::Whole,
    };
    // SAFETY: the caller gives up the block.
    if !unsafe { large::free_or_wait(pages, block.addr(), wait) } {
        refuse(pages, "free()", block.addr());
    }
    start_helper_if_wanted::<L>();
    tick_after::<L>(is_direct);
}

/// Frees a small block of a region, in the name of `entry`.
///
/// # Safety
/// `block` lies in a span of a region, and is no longer used.
#[cold]
pub unsafe fn free_in_region<L: Lane>(entry: &str, block: *mut u8) {
    let allocator = L::allocator();
    // SAFETY: the caller gives up the block.
    if unsafe {
        Blocks::of(&allocator.pages, &allocator.regions).free_small(entry, allocator.pages.tag(block.addr()), block)
    } {
        tick_and_pay::<L>();
    }
}

/// A block of `bytes` bytes in `region`, aligned to `align`, a power of two, and at least to 16. `None` beyond the limit, or
/// when memory has run out.
#[inline]
pub fn in_region<L: Lane>(region: u32, bytes: usize, align: usize) -> Option<Block> {
    let allocator = L::allocator();
    let blocks = Blocks::of(&allocator.pages, &allocator.regions);
    let Some(bin) = bin_for_aligned(bytes.saturating_add(L::TRAILER_BYTES), align) else {
        return in_region_large::<L>(&blocks, region, bytes, align);
    };
    let slot = blocks.take_slot(region, bin, |page_count| region_span::<L>(bin, page_count))?;
    // SAFETY: a slot of `bin`, which has room for `bytes` and the trailer. A hardened lane's slots read as zero.
    Some(unsafe { Block { start: hand_out::<L>(slot, bin, bytes), zeroed: L::HARDENED } })
}

fn in_region_large<L: Lane>(blocks: &Blocks<'_, L>, region: u32, bytes: usize, align: usize) -> Option<Block> {
    if bytes > MAX_BYTES {
        return None;
    }
    blocks.take_large(region, pages_for(bytes.max(1)), || {
        let block = large::<L>(bytes, align)?;
        let address = block.start.addr();
        Some((block, address))
    })
}

/// A span of `page_count` pages for slots of `bin` in a region; `None` when memory has run out.
#[cold]
fn region_span<L: Lane>(bin: Bin, page_count: usize) -> Option<SpanId> {
    start_helper_if_wanted::<L>();
    tick_and_pay::<L>();
    let want = || Want { pages: run_pages::<L>(page_count), align_pages: 1, bin: FOREIGN };
    retry_gathered::<L, _>(want, || L::allocator().pages.take_for_region(bin, page_count))
}

/// Puts `slot` into a magazine, or sends it home: at once if its span is being vacated.
#[inline]
pub fn push_or_spill<L: Lane>(heap: &HeapOf<L>, bin: Bin, slot: Slot) {
    if L::allocator().pages.is_vacating(slot.address()) {
        // It is not handed out again.
        require_unwritten::<L>("free()", bin, &slot);
        tick::<L>(heap);
        count(&heap.counters.homeward, 1);
        return restore_idle(&L::allocator().pages, &L::allocator().exchange, slot);
    }
    let is_first = !heap.entry(bin).is_loaded();
    if heap.entry(bin).is_full() {
        if heap.balances.drains(bin, shape::<L>(bin).capacity) {
            start_helper_if_wanted::<L>();
        }
        tick::<L>(heap);
    }
    heap.begin_change::<L>();
    let make_room = |slot| {
        // SAFETY: the heap is this thread's, in a change.
        unsafe {
            if apart::is_apart::<L>(heap, bin) {
                return (false, apart::put::<L>(heap, bin, slot, check_slots::<L>));
            }
            if !heap.entry(bin).is_full() {
                return (true, Some(slot));
            }
        }
        // SAFETY: the heap is this thread's, in a change, and the entry is full: null entries are full too.
        let has_room = unsafe { spill::<L>(heap, bin) };
        let left = if has_room && is_first { send_shared_line_home::<L>(heap, bin, slot) } else { Some(slot) };
        (has_room, left)
    };
    // `tick` may have unloaded the entry, and what a taker left in it is mended by now.
    let (has_room, left) = if heap.entry(bin).is_full() {
        // SAFETY: the heap is this thread's.
        unsafe { set_aside::<L, _>(heap, || make_room(slot)) }
    } else {
        (true, Some(slot))
    };
    let left = left.and_then(|kept| {
        if !has_room {
            return Some(kept);
        }
        // SAFETY: the entry is one of this thread's heap, in a change, and not full.
        unsafe { Entry::push(heap.entry_mut(bin), kept) };
        None
    });
    heap.end_change();
    if let Some(kept) = left {
        let allocator = L::allocator();
        restore_one(&allocator.pages, &allocator.exchange, kept);
    }
}

/// # Safety
/// The caller owns the heap.
unsafe fn flush_heap<L: Lane>(heap: &HeapOf<L>) {
    let allocator = L::allocator();
    // SAFETY: the caller owns the heap.
    unsafe { flush(&allocator.pages, &allocator.exchange, heap) };
}

/// Starts the background thread once there are two threads, and it is worth it. The caller allocates, or frees a large
/// block or many small ones (`process/background.rs` says why), with no magazine in use.
#[inline]
fn start_helper_if_wanted<L: Lane>() {
    if L::allocator().pages.helper.is_wanted() {
        L::start_helper();
    }
}

/// Counts a miss and sometimes checks the clock and pays for growth. May unload any entry of the heap.
#[inline]
fn tick<L: Lane>(heap: &HeapOf<L>) {
    match heap.ticks.get().checked_sub(1) {
        Some(left) if heap.trims.get() == L::allocator().trims() => heap.ticks.set(left),
        _ => check_clock::<L>(heap),
    }
}

/// The heap is set aside.
// Inlined: no frame of its own below what it calls.
#[inline(always)]
fn pay_now<L: Lane>(allocator: &Allocator<L>) {
    round::vacate_if_due(&allocator.pages, &allocator.exchange);
    if repay::is_due(&allocator.pages) {
        pressure::look(&allocator.pages, &allocator.exchange, L::Os::now_ms());
        repay::repay(&allocator.pages, &allocator.exchange, &allocator.schedule);
        pressure::look_soon(&allocator.pages);
    }
}

#[cold]
fn pay<L: Lane>(heap: &HeapOf<L>) {
    let allocator = L::allocator();
    // SAFETY: the heap is this thread's, and no magazine of it is in use.
    unsafe { set_aside::<L, _>(heap, || pay_now::<L>(allocator)) };
    if pressure::is_met(&allocator.pages) {
        relieve::<L>(heap);
    }
}

/// Gives free memory back where the soft limit is met.
#[cold]
#[inline(never)]
fn relieve<L: Lane>(heap: &HeapOf<L>) {
    let allocator = L::allocator();
    let relieve = || pressure::relieve(&allocator.pages, &allocator.exchange, &allocator.schedule);
    // SAFETY: the heap is this thread's, and no magazine of it is in use.
    if unsafe { set_aside::<L, _>(heap, relieve) } {
        allocator.request_trim_if_due();
    }
}

#[cold]
fn check_clock<L: Lane>(heap: &HeapOf<L>) {
    let allocator = L::allocator();
    heap.ticks.set(TICKS);
    let trims = allocator.trims();
    // SAFETY: the heap is this thread's, and no magazine of it is in use.
    unsafe {
        set_aside::<L, _>(heap, || {
            if heap.trims.replace(trims) == trims {
                let now = L::Os::now_ms();
                send_cold_bins_home(&allocator.pages, &allocator.exchange, heap, now);
                if allocator.pages.is_short_of_space(now) {
                    flush_stash(&allocator.pages, &allocator.exchange, heap);
                }
                keep_to_share(&allocator.pages, &allocator.exchange, &allocator.heaps, heap);
            } else {
                flush_heap::<L>(heap);
            }
            rest::tick(&allocator.pages, &allocator.exchange, &allocator.heaps, &allocator.rests);
            round::tick(&allocator.pages, &allocator.exchange, &allocator.schedule, &allocator.observer);
            repay::gather(&allocator.pages, &allocator.exchange);
            pay_now::<L>(allocator);
        });
    }
}

/// Counts a miss, and sometimes checks the clock.
fn tick_thread<L: Lane>() {
    if let Some(heap) = thread_heap::<L>() {
        // SAFETY: this thread's heap, without another reference.
        tick::<L>(unsafe { &*heap });
    }
}

#[inline]
fn pay_if_due<L: Lane>() {
    if !repay::is_due(&L::allocator().pages) {
        return;
    }
    if let Some(heap) = thread_heap::<L>() {
        // SAFETY: this thread's heap, without another reference.
        pay::<L>(unsafe { &*heap });
    }
}

/// Counts a miss, and sometimes checks the clock; pays for growth.
pub fn tick_and_pay<L: Lane>() {
    tick_thread::<L>();
    pay_if_due::<L>();
}

/// Misses that a free of a direct mapping counts as. Chosen: what was kept of others must not wait for many.
const DIRECT_TICKS: u8 = 16;

/// [`tick_and_pay`] after a free.
fn tick_after<L: Lane>(is_direct: bool) {
    if let Some(heap) = is_direct.then(thread_heap::<L>).flatten() {
        // SAFETY: this thread's heap, without another reference.
        let ticks = unsafe { &(*heap).ticks };
        ticks.set(ticks.get().saturating_sub(DIRECT_TICKS));
    }
    tick_and_pay::<L>();
}

/// What a request takes from the page heap.
#[derive(Clone, Copy)]
struct Want {
    /// Pages of a block, or of a span.
    pages: usize,
    align_pages: usize,
    /// The bin whose slots serve it; [`FOREIGN`] for a large block.
    bin: Bin,
}

/// Makes a second `attempt` if free memory came together meanwhile.
#[inline]
fn retry_gathered<L: Lane, T>(want: impl FnOnce() -> Want, attempt: impl Fn() -> Option<T>) -> Option<T> {
    attempt().or_else(|| {
        let want = want();
        let block = if gather_all::<L>(want) { attempt() } else { None };
        if block.is_none() {
            note_failure::<L>(want);
        }
        block
    })
}

/// After this, a repetition leaves this thread's cache alone.
#[cold]
fn note_failure<L: Lane>(want: Want) {
    let runs = &L::allocator().pages.runs;
    if runs.failure_of(want.pages, want.align_pages).is_none() {
        runs.note_failure(want.pages, want.align_pages);
    }
}

/// Brings all free memory together that this thread can reach, if that may be enough; whether any moved. Asks other threads rarely: probes for impossible sizes must not cost them their caches.
#[cold]
#[inline(never)]
fn gather_all<L: Lane>(want: Want) -> bool {
    let allocator = L::allocator();
    let (pages, exchange) = (&allocator.pages, &allocator.exchange);
    if want.bin == FOREIGN && !could_serve(pages, exchange, want.pages * PAGE_BYTES) {
        return false;
    }
    let is_due = allocator.request_trim_if_due();
    let entries = L::heap();
    // SAFETY: this thread's pointer to a heap, which stays in use.
    let heap = (!is_static(entries)).then(|| unsafe { &*heap_at::<L::Stash, L::Quarantine>(entries) });
    let mut is_any = false;
    // SAFETY: the heap is this thread's, with no reference into it.
    unsafe {
        if let Some(heap) = heap.filter(|heap| heap.stash.slot_count() > 0) {
            set_aside::<L, _>(heap, || flush_stash(pages, exchange, heap));
            is_any = true;
        }
        if is_due {
            is_any |= Blocks::of(pages, &allocator.regions).release_empties();
        }
        is_any |= gather(pages, exchange, if is_due { usize::MAX } else { UNMAPS });
        if let Some(heap) = heap {
            if is_due {
                heap.trims.set(allocator.trims());
            }
            let mut waits_there = false;
            let failure = pages.runs.failure_of(want.pages, want.align_pages);
            // Nobody takes what is looked at.
            heap.begin_change::<L>();
            heap.quarantine.peek(|other, _| waits_there |= other == want.bin);
            let is_worth_it = waits_there || would_free_a_span(pages, exchange, heap, failure);
            heap.end_change();
            if is_worth_it {
                set_aside::<L, _>(heap, || flush_heap::<L>(heap));
                empty_stocked_depots(pages, exchange);
                is_any = true;
            }
        }
    }
    is_any
}

/// Returns reachable free memory to the system; true if there was any. Empties this thread's cache, and takes what others
/// keep while they rest; the others empty theirs at their next slow path.
pub fn trim<L: Lane>() -> bool {
    let allocator = L::allocator();
    allocator.request_trim();
    let entries = L::heap();
    if !is_static(entries) {
        // SAFETY: `entries` is this thread's pointer to a heap, which stays in use, empty.
        unsafe {
            let heap = heap_at::<L::Stash, L::Quarantine>(entries);
            (*heap).trims.set(allocator.trims());
            set_aside::<L, _>(&*heap, || flush_heap::<L>(&*heap));
        }
    }
    rest::take_all(&allocator.pages, &allocator.exchange, &allocator.heaps);
    Blocks::of(&allocator.pages, &allocator.regions).release_empties();
    let is_any = purge_all(&allocator.pages, &allocator.exchange);
    if !rest::exchange_last(&allocator.pages, &allocator.exchange, &allocator.heaps) {
        return is_any;
    }
    purge_all(&allocator.pages, &allocator.exchange) | is_any
}
