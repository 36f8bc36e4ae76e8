//! Stats: what an allocator's memory is used for, counted when asked.
//!
//! Every count is taken by itself while threads go on. What other threads' heaps hold is read without their
//! knowledge, so that live bytes, which are what remains when everything free is taken off, are exact while
//! no thread allocates or frees, and otherwise off by what moved meanwhile. A block counts with all bytes of
//! its slot or its pages: what was asked for is not recorded, so the waste inside blocks can't be known.

use crate::allocator::Lane;
use crate::hardening::quarantine::Quarantine;
use crate::observe::counts::Stats;
use crate::pages::bins::{self, BINS};
use crate::pages::page_heap::PageHeap;
use crate::pages::page_tag::Kind;
use crate::pages::span::{Span, at};
use crate::platform::atomic::Ordering;
use crate::platform::units::{Bin, PAGE_BYTES};
use crate::thread::heap::peek;
use crate::transfer::magazine::Magazine;
use crate::transfer::remote_stash::RemoteStash;

/// Where a free slot waits.
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

/// Bytes of `spans` spans of `bin`, their guards included.
fn span_bytes<L: Lane>(bin: Bin, spans: u32) -> usize {
    spans as usize * (usize::from(bins::info(bin).span_pages) + L::GUARD_PAGES) * PAGE_BYTES
}

/// Calls `look` with every group of cached slots of one bin: the first one's place and their number.
pub(crate) fn each_cached<L: Lane>(mut look: impl FnMut(Cache, Bin, *const *mut u8, usize)) {
    let allocator = L::allocator();
    allocator.heaps.each(|heap| {
        // SAFETY: heaps and magazines are never unmapped.
        unsafe {
            for bin in small_bins() {
                peek(heap, bin, |slots, count| look(Cache::Magazine, bin, slots.cast(), count));
            }
            L::Stash::peek(&raw const (*heap).stash, |bin, slots, count| look(Cache::Stash, bin, slots, count));
            L::Quarantine::peek(&raw const (*heap).quarantine, |bin, slot| look(Cache::Quarantine, bin, &slot, 1));
        }
    });
    for shard in allocator.exchange.shards() {
        for bin in small_bins() {
            let depot = shard.depot(bin);
            for stack in [&depot.full, &depot.inbox] {
                stack.each(&allocator.exchange.magazines, |id| {
                    // SAFETY: ids in stacks are magazines'.
                    let (slots, count) = unsafe { Magazine::peek(allocator.exchange.magazines.get(id)) };
                    look(Cache::Depot, bin, slots, count);
                });
            }
        }
    }
}

/// Counts lane `L`'s allocator. Takes each shard's lock, the run lock and that of the direct blocks, one at a
/// time.
pub fn collect<L: Lane>() -> Stats {
    collect_with_bins::<L>(&mut [BinStats::default(); BINS])
}

/// As [`collect`], and fills `bins`, by bin number, with the same counts apart: they add up to its own.
pub fn collect_with_bins<L: Lane>(bins: &mut [BinStats; BINS]) -> Stats {
    let allocator = L::allocator();
    let mut stats = Stats::default();
    (stats.reserved_bytes, stats.committed_bytes) = allocator.pages.runs.arenas.reserved_and_committed();
    (stats.dirty_bytes, stats.clean_bytes, stats.purging_bytes) = allocator.pages.runs.free_bytes();
    *bins = [BinStats::default(); BINS];
    for (bin, counts) in small_bins().zip(bins.iter_mut().skip(1)) {
        counts.slot_bytes = slot_bytes(bin);
        for shard in allocator.exchange.shards() {
            let (out, spans) = shard.owned().lock().counts(bin);
            counts.out += out as usize;
            counts.slots += spans as usize * usize::from(bins::info(bin).span_slots);
            counts.span_bytes += span_bytes::<L>(bin, spans);
        }
        let in_slots = counts.slots * counts.slot_bytes;
        stats.small_out_bytes += counts.out * counts.slot_bytes;
        stats.small_span_bytes += counts.span_bytes;
        stats.span_free_bytes += in_slots.saturating_sub(counts.out * counts.slot_bytes);
        stats.span_waste_bytes += counts.span_bytes - in_slots;
    }
    for shard in allocator.exchange.shards() {
        stats.span_purged_bytes += shard.owned().lock().purged_pages() * PAGE_BYTES;
    }
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
    stats.small_live_bytes = stats.small_out_bytes.saturating_sub(stats.cached_bytes());
    (stats.held_bytes, stats.refused_guards) =
        (allocator.pages.guards.waiting_bytes(), allocator.pages.guards.refused());
    let free_runs = stats.dirty_bytes + stats.clean_bytes + stats.purging_bytes + stats.held_bytes;
    stats.large_bytes = stats.committed_bytes.saturating_sub(free_runs + stats.small_span_bytes);
    (stats.direct_blocks, stats.direct_bytes) = allocator.pages.direct.count_and_bytes();
    stats.unreturned_bytes = allocator.pages.direct.unreturned().1;
    let tables = allocator.pages.runs.spans.mapped_bytes()
        + allocator.exchange.magazines.bytes().0
        + allocator.heaps.mapped_bytes();
    stats.metadata_bytes = tables + allocator.pages.runs.arenas.tag_bytes() + allocator.profile.mapped_bytes();
    // Relaxed, all: counts.
    stats.purged_bytes = allocator.pages.purged_bytes() as usize;
    stats.heaps = allocator.heaps.made() as usize;
    allocator.heaps.each(|heap| {
        // SAFETY: heaps are never unmapped and counters are atomic.
        let counters = unsafe { &(*heap).counters };
        stats.refills += counters.refills.load(Ordering::Relaxed) as usize;
        stats.steals += counters.steals.load(Ordering::Relaxed) as usize;
        stats.carves += counters.carves.load(Ordering::Relaxed) as usize;
        stats.spills += counters.spills.load(Ordering::Relaxed) as usize;
        stats.homeward += counters.homeward.load(Ordering::Relaxed) as usize;
    });
    stats
}

/// Counts of one bin. Numbers of slots but for the two in bytes; live slots are `out` less the cached ones.
#[derive(Clone, Copy, Default, Debug)]
pub struct BinStats {
    /// Bytes of a slot.
    pub slot_bytes: usize,
    /// Bytes of the bin's spans.
    pub span_bytes: usize,
    /// Slots that fit into them.
    pub slots: usize,
    /// Live, in a magazine, a stash or a depot.
    pub out: usize,
    /// In the magazines, stashes and quarantines of threads.
    pub in_threads: usize,
    /// In depots and inboxes.
    pub in_depots: usize,
}

impl BinStats {
    /// Slots that the program holds.
    pub fn live(&self) -> usize {
        self.out.saturating_sub(self.in_threads + self.in_depots)
    }

    /// Slots that are free in their spans: at home, or never handed out.
    pub fn free_in_spans(&self) -> usize {
        self.slots.saturating_sub(self.out)
    }

    /// What the spans hold beyond their last slots, in bytes.
    pub fn rest_bytes(&self) -> usize {
        self.span_bytes.saturating_sub(self.slots * self.slot_bytes)
    }

    /// Bytes of the spans that are no live slot's.
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
    /// Slots that came home in magazines.
    pub inbox_bytes: usize,
}

/// The counts of shard number `index` of lane `L`; `None` where there is none.
pub fn collect_shard<L: Lane>(index: usize) -> Option<ShardStats> {
    let allocator = L::allocator();
    let shard = allocator.exchange.shards().get(index)?;
    let mut stats = ShardStats::default();
    for bin in small_bins() {
        let (out, spans) = shard.owned().lock().counts(bin);
        stats.out_bytes += out as usize * slot_bytes(bin);
        stats.span_bytes += span_bytes::<L>(bin, spans);
        let depot = shard.depot(bin);
        for (stack, bytes) in [(&depot.full, &mut stats.depot_bytes), (&depot.inbox, &mut stats.inbox_bytes)] {
            stack.each(&allocator.exchange.magazines, |id| {
                // SAFETY: ids in stacks are magazines'.
                *bytes += unsafe { Magazine::peek(allocator.exchange.magazines.get(id)) }.1 * slot_bytes(bin);
            });
        }
    }
    Some(stats)
}

/// Bytes that the live block at `block` counts with: its slot, or its pages with their guard; `None` where no block of
/// the lane begins there.
pub fn block_bytes<L: Lane>(block: *const u8) -> Option<usize> {
    let tag = L::allocator().pages.tag(block.addr());
    match tag.bin() {
        bins::FOREIGN => large_span_bytes(&L::allocator().pages, block.addr()),
        bin => L::allocator().pages.is_slot(tag, block.addr()).then(|| slot_bytes(bin)),
    }
}

/// Bytes that the large block at `address` counts with, its guard included; `None` where none begins there.
fn large_span_bytes<L: Lane>(pages: &PageHeap<L>, address: usize) -> Option<usize> {
    let tag = pages.tag(address);
    if tag.kind() != Kind::Large {
        return pages.direct.with(pages.spans(), address, Span::bytes);
    }
    // SAFETY: a live large block's descriptor is fixed; where the address is no block's, the number read is thrown away.
    let span = unsafe { &*at(pages.spans(), tag.span()) };
    (span.start == address).then(|| span.bytes())
}
