//! Carve: slots out of spans, for a refill that found no magazine.
//!
//! ```text
//! slots at home, own and others' → fresh slots of an own span → a fresh span
//! ```

use crate::hardening::free_mark;
use crate::pages::bins;
use crate::pages::page_heap::PageHeap;
use crate::pages::policy::shape;
use crate::pages::slot::{Places, Slot};
use crate::pages::span::at;
use crate::platform::os::Os;
use crate::platform::units::{Bin, PAGE_BYTES, ShardId};
use crate::transfer::exchange::{Exchange, Sharded};
use core::ptr::NonNull;

/// Largest slot whose pages are made present ahead: larger ones may never be written in the middle.
const POPULATED_SLOT_BYTES: u32 = 2048;

/// Takes up to `out.len()` slots of `bin` into the front of `out`: those at home in spans of `shard` or, failing
/// that, of others, then fresh ones of `shard`, from a fresh span if need be. Returns how many; 0 when memory has run
/// out.
pub fn carve<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    shard: ShardId,
    bin: Bin,
    out: &mut Places,
) -> usize {
    match carve_home(pages, exchange, shard, bin, out) {
        0 => carve_own(pages, exchange, shard, bin, out),
        taken => {
            populate::<P>(bin, slots_of(out, taken));
            taken
        }
    }
}

/// As [`carve`], of `shard` alone.
pub fn carve_own<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    shard: ShardId,
    bin: Bin,
    out: &mut Places,
) -> usize {
    let owned = exchange.shard(shard).owned();
    let mut taken = owned.lock().carve(pages.spans(), bin, out);
    if taken == 0
        && !out.is_empty()
        && let Some(id) = pages.take_small(bin, shard)
    {
        // SAFETY: the span is this thread's, and fresh.
        taken = unsafe { owned.lock().add(pages.spans(), bin, id, P::Os::now_ms(), out) };
    }
    let carved = slots_of(out, taken);
    populate::<P>(bin, carved);
    if P::HARDENED {
        wipe_fresh(pages, bin, carved);
    }
    taken
}

/// The slots at home of [`carve`]: a shard that has some spares another one fresh pages.
fn carve_home<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    shard: ShardId,
    bin: Bin,
    out: &mut Places,
) -> usize {
    let mut taken = 0;
    for other in exchange.roomy_shards(bin, shard) {
        if taken == out.len() {
            break;
        }
        // Nobody waits for another shard's lock.
        if let Some(mut owned) = exchange.shard(other).owned().try_lock()
            && let Some(places) = out.get_mut(taken..)
        {
            taken += owned.carve_home(pages.spans(), bin, places);
            if !owned.has_home(pages.spans(), bin) {
                exchange.set_roomy(bin, other, false);
            }
        }
    }
    taken
}

/// The slots in the first `taken` places.
fn slots_of(out: &Places, taken: usize) -> &[Slot] {
    // SAFETY: every caller has filled that many.
    unsafe { core::slice::from_raw_parts(out.as_ptr().cast(), taken.min(out.len())) }
}

/// Makes freshly carved slots read as slots that were freed: what lay there before must not be taken for a write
/// after free.
fn wipe_fresh<P: Sharded>(pages: &PageHeap<P>, bin: Bin, slots: &[Slot]) {
    for slot in slots {
        // SAFETY: the slot was just taken, and is this thread's alone, so that its span's descriptor is fixed.
        unsafe {
            let span = pages.tag(slot.address()).span();
            if (*at(pages.spans(), span)).zeroed {
                free_mark::set(slot.as_ptr());
            } else {
                free_mark::wipe(slot.as_ptr(), bins::info(bin).slot_bytes as usize);
            }
        }
    }
}

/// Has the pages of freshly carved slots made present at once where a whole magazine was asked for: the thread has used
/// up as many already and will write to these too.
fn populate<P: Sharded>(bin: Bin, slots: &[Slot]) {
    let info = bins::info(bin);
    if info.slot_bytes > POPULATED_SLOT_BYTES || slots.len() < usize::from(shape::<P>(bin).capacity) {
        return;
    }
    let (Some(last), Some(first)) = (slots.first(), slots.last()) else { return };
    let bytes = last.address().wrapping_sub(first.address()).wrapping_add(info.slot_bytes as usize);
    // Fresh slots adjoin; slots that were at home before lie anywhere, and their pages are present.
    if bytes != slots.len() * info.slot_bytes as usize || bytes < 2 * PAGE_BYTES {
        return;
    }
    let start = first.address().next_multiple_of(PAGE_BYTES);
    let end = last.address() + info.slot_bytes as usize;
    if let Some(start_pointer) = NonNull::new(core::ptr::with_exposed_provenance_mut(start)) {
        // SAFETY: the whole pages between the first and the last slot lie in a committed span.
        unsafe { P::Os::populate(start_pointer, end / PAGE_BYTES * PAGE_BYTES - start) };
    }
}
