//! Takes slots out of spans when a refill finds no magazine.
//!
//! ```text
//! slots at home, own and others' → fresh slots of an own span → spans that are being vacated → a fresh span
//!                                → others' fresh slots
//! ```

use crate::hardening::free_mark;
use crate::pages::bins;
use crate::pages::page_heap::PageHeap;
use crate::pages::policy::shape;
use crate::pages::slot::{Places, Slot};
use crate::pages::span::at;
use crate::platform::os::Os;
use crate::platform::system_page;
use crate::platform::units::{Bin, ShardId};
use crate::transfer::exchange::{Exchange, Sharded};
use core::ptr::NonNull;

/// Largest slot to populate ahead: the middle of a larger one may never be written.
const POPULATED_SLOT_BYTES: u32 = 2048;
/// Most pages to populate at once, where more shards than few have threads: others' page faults wait meanwhile. Chosen:
/// `docs/decisions/populate-ahead.md`.
const POPULATED_PAGES: usize = 2;
const FEW_SHARDS: usize = 4;

/// Carves up to `out.len()` slots of `bin` into the front of `out`: slots at home in any shard, or else fresh ones of
/// `shard`. Returns their number; 0 when memory has run out.
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
            populate(pages, exchange, bin, slots_of(out, taken));
            taken
        }
    }
}

/// Like [`carve`], from `shard` alone.
pub fn carve_own<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    shard: ShardId,
    bin: Bin,
    out: &mut Places,
) -> usize {
    let owned = exchange.shard(shard).owned();
    let mut taken = owned.lock().carve(pages.spans(), bin, out, |span| pages.set_bin(span, bin));
    if taken == 0 {
        taken = carve_vacating(pages, exchange, shard, bin, out);
    }
    let fresh = if taken == 0 && !out.is_empty() { pages.take_small(bin, shard) } else { None };
    if let Some(id) = fresh {
        // Before the lock: a library may have put itself in the clock's place.
        let now = P::Os::now_ms();
        // SAFETY: `take_small` made the span for this thread alone; `add` takes it over.
        taken = unsafe { owned.lock().add(pages.spans(), bin, id, now, out) };
    }
    let carved = slots_of(out, taken);
    populate(pages, exchange, bin, carved);
    if P::HARDENED {
        wipe_fresh(pages, bin, carved);
    }
    taken
}

/// Carves slots at home, in any shard: they spare this one fresh pages.
fn carve_home<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    shard: ShardId,
    bin: Bin,
    out: &mut Places,
) -> usize {
    let mut taken = 0;
    for other in exchange.shards_with_home(bin, shard) {
        if taken == out.len() {
            break;
        }
        // Never wait for another shard's lock.
        let Some(places) = out.get_mut(taken..) else { break };
        if let Some(mut owned) = exchange.shard(other).owned().try_lock() {
            taken += owned.carve_home(pages.spans(), bin, places);
            if !owned.has_home(pages.spans(), bin) {
                exchange.set_home_hint(bin, other, false);
            }
        }
    }
    taken
}

/// Carves slots at home in spans that other shards vacate: they spare this one fresh pages.
#[cold]
fn carve_vacating<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    shard: ShardId,
    bin: Bin,
    out: &mut Places,
) -> usize {
    for other in exchange.shards_with_vacating(bin, shard) {
        if let Some(mut owned) = exchange.shard(other).owned().try_lock() {
            let taken = owned.carve_vacating(pages.spans(), bin, out, |span| pages.set_bin(span, bin));
            exchange.set_vacating_hint(bin, other, owned.is_vacating(bin));
            if owned.has_home(pages.spans(), bin) {
                exchange.set_home_hint(bin, other, true);
            }
            if taken > 0 {
                return taken;
            }
        }
    }
    0
}

/// Like [`carve`], but no fresh span: whatever any shard's spans have left. Waits for their locks.
pub fn carve_anywhere<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, bin: Bin, out: &mut Places) -> usize {
    let mut taken = 0;
    for shard in exchange.shard_ids() {
        let mut owned = exchange.shard(shard).owned().lock();
        taken = owned.carve(pages.spans(), bin, out, |span| pages.set_bin(span, bin));
        if taken > 0 {
            exchange.set_home_hint(bin, shard, owned.has_home(pages.spans(), bin));
            break;
        }
    }
    if P::HARDENED {
        wipe_fresh(pages, bin, slots_of(out, taken));
    }
    taken
}

fn slots_of(out: &Places, taken: usize) -> &[Slot] {
    // SAFETY: every caller has just filled the first `taken` places.
    unsafe { core::slice::from_raw_parts(out.as_ptr().cast(), taken.min(out.len())) }
}

/// Makes fresh slots look freed: old contents must not pass for a write after free.
fn wipe_fresh<P: Sharded>(pages: &PageHeap<P>, bin: Bin, slots: &[Slot]) {
    for slot in slots {
        // SAFETY: the slot is this thread's and writable; `zeroed` does not change while a slot of the span is out.
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

/// Populates the pages of a whole carved magazine, or the first where there are several threads: the thread has used up as
/// many slots before. Not those of a span that was dirty, which most likely hold memory.
fn populate<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, bin: Bin, slots: &[Slot]) {
    let (info, page_bytes) = (bins::info(bin), system_page::bytes());
    if info.slot_bytes > POPULATED_SLOT_BYTES || slots.len() < usize::from(shape::<P>(bin).capacity) {
        return;
    }
    let (Some(last), Some(first)) = (slots.first(), slots.last()) else { return };
    let bytes = last.address().wrapping_sub(first.address()).wrapping_add(info.slot_bytes as usize);
    // In falling order. Fresh slots adjoin; the pages of those that were at home are present.
    if bytes != slots.len() * info.slot_bytes as usize || bytes < 2 * page_bytes {
        return;
    }
    // SAFETY: a small tag has a span's id; `zeroed` does not change while a slot of the span is out.
    if unsafe { !(*at(pages.spans(), pages.tag(first.address()).span())).zeroed } {
        return;
    }
    let start = first.address().next_multiple_of(page_bytes);
    // The lowest ones are used first.
    let most = if exchange.shards().len() <= FEW_SHARDS { usize::MAX } else { start + POPULATED_PAGES * page_bytes };
    let end = (last.address() + info.slot_bytes as usize).min(most);
    if let Some(start_pointer) = NonNull::new(core::ptr::with_exposed_provenance_mut(start)) {
        // SAFETY: whole pages, between two slots of committed spans that are less than a magazine apart.
        unsafe { P::Os::populate(start_pointer, system_page::start_of(end) - start) };
    }
}
