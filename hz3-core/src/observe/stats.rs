//! Stats: counts an allocator's memory on request.
//!
//! Each count is read separately while threads run, and other threads' heaps are read without a lock. Live bytes, the
//! remainder after all free bytes, are therefore exact only while no thread allocates or frees. A block counts with its
//! whole slot or pages: requested sizes are not recorded, so waste inside blocks is unknown.

use crate::allocator::Lane;
use crate::hardening::quarantine::Quarantine;
use crate::observe::counts::Stats;
use crate::pages::bins::{self, BINS};
use crate::pages::page_heap::PageHeap;
use crate::pages::page_tag::Kind;
use crate::pages::span::{Span, at};
use crate::platform::atomic::Ordering;
use crate::platform::system_page;
use crate::platform::units::{Bin, PAGE_BYTES};
use crate::thread::heap::{peek, used_bins};
use crate::transfer::magazine::Magazine;
use crate::transfer::remote_stash::RemoteStash;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    Magazine,
    Stash,
    Depot,
    Quarantine,
}

pub(crate) fn small_bins() -> impl Iterator<Item = Bin> {
    (1..BINS as u8).map(Bin)
}

fn slot_bytes(bin: Bin) -> usize {
    bins::info(bin).slot_bytes as usize
}

/// Pages of a span of `bin`, its guard included; a shared page's guard is not.
pub(crate) fn pages_of_span<L: Lane>(bin: Bin) -> usize {
    let pages = bins::info(bin).span_pages();
    if pages < system_page::pages() { pages } else { pages + L::guard_pages() }
}

fn span_bytes<L: Lane>(bin: Bin, spans: u32) -> usize {
    spans as usize * pages_of_span::<L>(bin) * PAGE_BYTES
}

/// Calls `look` with one slot of each pair [in doubt](crate::transfer::doubts), and its bin.
fn each_doubtful<L: Lane>(mut look: impl FnMut(Bin, *mut u8)) {
    let allocator = L::allocator();
    allocator.exchange.doubts.each(|address| {
        look(allocator.pages.tag(address).bin(), core::ptr::with_exposed_provenance_mut(address));
    });
}

/// Calls `look` with each group of cached slots of one bin: address of the first, and number.
pub(crate) fn each_cached<L: Lane>(mut look: impl FnMut(Cache, Bin, *const *mut u8, usize)) {
    let allocator = L::allocator();
    allocator.heaps.each(|heap| {
        // SAFETY: heaps, their stashes and quarantines, and magazines are never unmapped.
        unsafe {
            for bin in small_bins() {
                peek(heap, bin, |slots, count| look(Cache::Magazine, bin, slots.cast(), count));
            }
            (*heap).stash.peek(|bin, slots, count| look(Cache::Stash, bin, slots, count));
            (*heap).quarantine.peek(|bin, slot| look(Cache::Quarantine, bin, &slot, 1));
        }
    });
    each_doubtful::<L>(|bin, slot| look(Cache::Stash, bin, &slot, 1));
    for shard in allocator.exchange.shards() {
        for bin in small_bins() {
            let depot = shard.depot(bin);
            for stack in [&depot.full, &depot.inbox] {
                stack.each(&allocator.exchange.magazines, |id| {
                    // SAFETY: ids in stacks are magazines', which are never unmapped.
                    let (slots, count) = unsafe { Magazine::peek(allocator.exchange.magazines.get(id)) };
                    look(Cache::Depot, bin, slots, count);
                });
            }
        }
    }
}

/// Counts lane `L`'s allocator. Takes each shard's lock, the run lock, the lock of the direct mappings and each region's,
/// one at a time. Looks at what shards, depots and heaps have in sum, not at each bin of each.
pub fn collect<L: Lane>() -> Stats {
    let allocator = L::allocator();
    let mut stats = Stats::default();
    let mut in_slots = 0;
    for shard in allocator.exchange.shards() {
        let owned = shard.owned().lock();
        let (out, slots) = owned.slot_bytes();
        stats.small_out_bytes += out;
        in_slots += slots;
        stats.small_span_bytes += owned.pages() * PAGE_BYTES;
    }
    stats.small_span_bytes += allocator.pages.runs.shared_free_bytes();
    stats.span_free_bytes = in_slots.saturating_sub(stats.small_out_bytes);
    stats.span_waste_bytes = stats.small_span_bytes.saturating_sub(in_slots);
    stats.depot_bytes = allocator.exchange.depot_bytes();
    allocator.heaps.each(|heap| {
        // SAFETY: heaps, their stashes and quarantines are never unmapped.
        unsafe {
            for bin in used_bins(heap) {
                peek(heap, bin, |_, count| stats.magazine_bytes += count * slot_bytes(bin));
            }
            (*heap).stash.peek(|bin, _, count| stats.stash_bytes += count * slot_bytes(bin));
            (*heap).quarantine.peek(|bin, _| stats.quarantine_bytes += slot_bytes(bin));
        }
    });
    each_doubtful::<L>(|bin, _| stats.stash_bytes += slot_bytes(bin));
    collect_rest::<L>(&mut stats);
    stats
}

/// [`collect`], also by bin: the values in `bins` add up to the result's.
pub fn collect_with_bins<L: Lane>(bins: &mut [BinStats; BINS]) -> Stats {
    let allocator = L::allocator();
    let mut stats = Stats::default();
    *bins = [BinStats::default(); BINS];
    for (bin, counts) in small_bins().zip(bins.iter_mut().skip(1)) {
        counts.slot_bytes = slot_bytes(bin);
        for shard in allocator.exchange.shards() {
            let (out, spans) = shard.owned().lock().counts(bin);
            counts.out += out as usize;
            counts.slots += spans as usize * usize::from(bins::info(bin).span_slots());
            counts.span_bytes += span_bytes::<L>(bin, spans);
        }
        let in_slots = counts.slots * counts.slot_bytes;
        stats.small_out_bytes += counts.out * counts.slot_bytes;
        stats.small_span_bytes += counts.span_bytes;
        stats.span_free_bytes += in_slots.saturating_sub(counts.out * counts.slot_bytes);
        stats.span_waste_bytes += counts.span_bytes - in_slots;
    }
    // Of no bin: the rest of the shortest spans'.
    let shared_bytes = allocator.pages.runs.shared_free_bytes();
    if let Some(shortest) = bins.get_mut(1) {
        shortest.span_bytes += shared_bytes;
    }
    stats.small_span_bytes += shared_bytes;
    stats.span_waste_bytes += shared_bytes;
    each_cached::<L>(|cache, bin, _, count| {
        *match cache {
            Cache::Magazine => &mut stats.magazine_bytes,
            Cache::Stash => &mut stats.stash_bytes,
            Cache::Depot => &mut stats.depot_bytes,
            Cache::Quarantine => &mut stats.quarantine_bytes,
        } += count * slot_bytes(bin);
        if let Some(counts) = bins.get_mut(usize::from(bin.0)) {
            *(if cache == Cache::Depot { &mut counts.in_depots } else { &mut counts.in_threads }) += count;
        }
    });
    collect_rest::<L>(&mut stats);
    stats
}

/// Adds what is not counted by bin.
fn collect_rest<L: Lane>(stats: &mut Stats) {
    let allocator = L::allocator();
    (stats.reserved_bytes, stats.committed_bytes) = allocator.pages.runs.arenas.reserved_and_committed();
    (stats.dirty_bytes, stats.clean_bytes, stats.purging_bytes) = allocator.pages.runs.free_bytes();
    let kept_bytes = allocator.pages.direct.kept_bytes();
    stats.reserved_bytes += kept_bytes;
    stats.committed_bytes += kept_bytes;
    stats.dirty_bytes += kept_bytes;
    for shard in allocator.exchange.shards() {
        stats.span_purged_bytes += shard.owned().lock().purged_pages() * PAGE_BYTES;
    }
    stats.small_live_bytes = stats.small_out_bytes.saturating_sub(stats.cached_bytes());
    (stats.held_bytes, stats.refused_guards) =
        (allocator.pages.guards.waiting_bytes(), allocator.pages.guards.refused());
    let free_runs = stats.dirty_bytes + stats.clean_bytes + stats.purging_bytes + stats.held_bytes;
    stats.large_bytes = stats.committed_bytes.saturating_sub(free_runs + stats.small_span_bytes);
    (stats.direct_blocks, stats.direct_bytes) = allocator.pages.direct.count_and_bytes();
    stats.unreturned_bytes = allocator.pages.direct.unreturned().1;
    let tables = allocator.pages.runs.spans.mapped_bytes()
        + allocator.pages.direct.bucket_bytes()
        + allocator.exchange.magazines.bytes().0
        + allocator.heaps.mapped_bytes()
        + allocator.regions.mapped_bytes();
    stats.metadata_bytes = tables + allocator.pages.runs.arenas.tag_bytes() + allocator.profile.mapped_bytes();
    let limit = &allocator.pages.runs.limit;
    stats.counted_bytes = limit.pages() * PAGE_BYTES;
    (stats.soft_limit_bytes, stats.hard_limit_bytes) =
        (limit.soft_limit_bytes(), allocator.options().hard_limit_bytes());
    (stats.soft_limit_met, stats.hard_limit_met) = limit.met_and_refused();
    let regions = allocator.regions.stats();
    (stats.regions, stats.region_bytes) = (regions.regions, regions.held_bytes);
    (stats.region_live_bytes, stats.region_live_blocks) = (regions.live_bytes, regions.live_blocks);
    // Relaxed, all loads below: counts.
    stats.purged_bytes = allocator.pages.purged_bytes() as usize;
    stats.heaps = allocator.heaps.made() as usize;
    allocator.heaps.each(|heap| {
        // SAFETY: heaps are never unmapped, and counters are atomic.
        let counters = unsafe { &(*heap).counters };
        stats.refills += counters.refills.load(Ordering::Relaxed) as usize;
        stats.steals += counters.steals.load(Ordering::Relaxed) as usize;
        stats.carves += counters.carves.load(Ordering::Relaxed) as usize;
        stats.spills += counters.spills.load(Ordering::Relaxed) as usize;
        stats.homeward += counters.homeward.load(Ordering::Relaxed) as usize;
    });
}

/// Counts of one bin: numbers of slots unless the name says bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct BinStats {
    /// Bytes of one slot.
    pub slot_bytes: usize,
    /// Bytes of all spans.
    pub span_bytes: usize,
    /// Slots that fit into them.
    pub slots: usize,
    /// Out of their spans: live or cached.
    pub out: usize,
    /// In threads' magazines, stashes and quarantines.
    pub in_threads: usize,
    /// In depots and inboxes.
    pub in_depots: usize,
}

impl BinStats {
    /// Slots of live blocks.
    pub fn live(&self) -> usize {
        self.out.saturating_sub(self.in_threads + self.in_depots)
    }

    /// Free slots in spans: at home or never carved.
    pub fn free_in_spans(&self) -> usize {
        self.slots.saturating_sub(self.out)
    }

    /// Bytes of spans behind their last slots.
    pub fn rest_bytes(&self) -> usize {
        self.span_bytes.saturating_sub(self.slots * self.slot_bytes)
    }

    /// Bytes of spans outside live slots.
    pub fn unused_bytes(&self) -> usize {
        self.span_bytes.saturating_sub(self.live() * self.slot_bytes)
    }
}

/// Counts of one shard, in bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct ShardStats {
    /// Spans.
    pub span_bytes: usize,
    /// Slots of its spans that are live or cached anywhere.
    pub out_bytes: usize,
    /// Slots in the magazines of its depots.
    pub depot_bytes: usize,
    /// Slots in the magazines of its inboxes.
    pub inbox_bytes: usize,
}

/// Counts of shard `index` of lane `L`; `None` if there is no such shard. Takes its lock.
pub fn collect_shard<L: Lane>(index: usize) -> Option<ShardStats> {
    let allocator = L::allocator();
    let mut stats = ShardStats::default();
    let Some(shard) = allocator.exchange.shards().get(index) else {
        return (index < L::SHARD_COUNT).then_some(stats);
    };
    for bin in small_bins() {
        let (out, spans) = shard.owned().lock().counts(bin);
        stats.out_bytes += out as usize * slot_bytes(bin);
        stats.span_bytes += span_bytes::<L>(bin, spans);
        let depot = shard.depot(bin);
        for (stack, bytes) in [(&depot.full, &mut stats.depot_bytes), (&depot.inbox, &mut stats.inbox_bytes)] {
            stack.each(&allocator.exchange.magazines, |id| {
                // SAFETY: ids in stacks are magazines', which are never unmapped.
                *bytes += unsafe { Magazine::peek(allocator.exchange.magazines.get(id)) }.1 * slot_bytes(bin);
            });
        }
    }
    Some(stats)
}

/// Bytes that count for the live block at `block`: its slot, or its pages with their guard. `None` if no block of the
/// lane begins there.
pub fn block_bytes<L: Lane>(block: *const u8) -> Option<usize> {
    let tag = L::allocator().pages.tag(block.addr());
    match tag.bin() {
        bins::FOREIGN => large_span_bytes(&L::allocator().pages, block.addr()),
        bin => L::allocator().pages.is_slot(tag, block.addr()).then(|| slot_bytes(bin)),
    }
}

/// [`block_bytes`] of a large block.
fn large_span_bytes<L: Lane>(pages: &PageHeap<L>, address: usize) -> Option<usize> {
    let tag = pages.tag(address);
    if tag.kind() == Kind::Region {
        // SAFETY: a region's tag has a span's id; descriptors are never unmapped.
        return Some(slot_bytes(unsafe { (*at(pages.spans(), tag.span())).bin }));
    }
    if tag.kind() != Kind::Large {
        return pages.direct.with(pages.spans(), address, Span::bytes);
    }
    // SAFETY: a tag's descriptor is never unmapped, and fixed while its large block lives. For other addresses the
    // value is discarded.
    let span = unsafe { &*at(pages.spans(), tag.span()) };
    (span.start == address).then(|| span.bytes())
}
