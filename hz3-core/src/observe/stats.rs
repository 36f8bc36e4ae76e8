//! Stats: what an allocator's memory is used for, counted when asked, and the walker that checks the books.
//!
//! ```text
//! mapped     = committed + direct + unreturned + metadata
//! committed  = live small + live large
//!            + in magazines + in stashes + in depots             free slots, cached
//!            + in quarantine + held runs                         freed a short while ago (hardened lane)
//!            + free in spans + waste of spans                    free slots at home or never handed out; rests
//!            + dirty + clean + purging                           free runs
//! ```
//!
//! Every count is taken by itself while threads go on. What other threads' heaps hold is read without their
//! knowledge, so that live bytes, which are what remains when everything free is taken off, are exact while
//! no thread allocates or frees, and otherwise off by what moved meanwhile. A block counts with all bytes of
//! its slot or its pages: what was asked for is not recorded, so the waste inside blocks can't be known.

use crate::allocator::Lane;
use crate::hardening::quarantine::Quarantine;
use crate::pages::bins::{self, BINS};
use crate::pages::page_heap::PageHeap;
use crate::pages::page_tag::Kind;
use crate::pages::span::{Span, at};
use crate::platform::sync::Ordering;
use crate::platform::units::{Bin, PAGE_BYTES};
use crate::record::heat::SHARDS;
use crate::transfer::magazine::Magazine;
use crate::transfer::remote_stash::RemoteStash;

mod uses;
pub use uses::{USES, Use};

/// Counts of one allocator. Bytes unless said otherwise.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// Address space reserved for arenas.
    pub reserved_bytes: usize,
    /// Of it, made usable so far.
    pub committed_bytes: usize,
    /// Slots that the program holds.
    pub small_live_bytes: usize,
    /// Large blocks in arenas.
    pub large_bytes: usize,
    /// Blocks that are mappings of their own.
    pub direct_bytes: usize,
    /// Their number.
    pub direct_blocks: usize,
    /// Mappings that are nobody's any more and that the system did not take back.
    pub unreturned_bytes: usize,
    /// Free slots in the loaded and spare magazines of all heaps.
    pub magazine_bytes: usize,
    /// Free slots in the remote stashes of all heaps.
    pub stash_bytes: usize,
    /// Free slots in depots and inboxes.
    pub depot_bytes: usize,
    /// Free slots in spans: at home, or never handed out.
    pub span_free_bytes: usize,
    /// Of `span_free_bytes` and `span_waste_bytes`, pages that hold no memory.
    pub span_purged_bytes: usize,
    /// What spans hold beyond their last slot.
    pub span_waste_bytes: usize,
    /// Free runs that may hold memory.
    pub dirty_bytes: usize,
    /// Free runs that hold none.
    pub clean_bytes: usize,
    /// Free runs whose memory is being given back at this moment.
    pub purging_bytes: usize,
    /// Slots that are live, in a magazine or in a stash; what the shards count.
    pub small_out_bytes: usize,
    /// Pages of small spans.
    pub small_span_bytes: usize,
    /// Descriptors, magazines, heaps and page tags, as far as their address space has been made usable.
    pub metadata_bytes: usize,
    /// Memory given back to the system so far.
    pub purged_bytes: usize,
    /// Heaps ever made, a number.
    pub heaps: usize,
    /// Refills from the own shard's depots, a number.
    pub refills: usize,
    /// Refills from other shards, a number.
    pub steals: usize,
    /// Refills from spans, a number.
    pub carves: usize,
    /// Magazines handed to depots, a number.
    pub spills: usize,
    /// Slots that went home, a number.
    pub homeward: usize,
    /// Free slots that the hardened lane keeps out of reuse for a while.
    pub quarantine_bytes: usize,
    /// Free runs that it keeps out of reuse.
    pub held_bytes: usize,
    /// Guards that the system refused to make or to remove, a number.
    pub refused_guards: usize,
}

/// Number of [`Stats::rows`].
pub const ROWS: usize = 31;

impl Stats {
    /// Blocks in arenas that the program holds.
    pub fn arena_live_bytes(&self) -> usize {
        self.small_live_bytes + self.large_bytes
    }

    /// Every block that the program holds.
    pub fn live_bytes(&self) -> usize {
        self.arena_live_bytes() + self.direct_bytes
    }

    /// Free slots in threads' caches and in those that threads share.
    pub fn cached_bytes(&self) -> usize {
        self.magazine_bytes + self.stash_bytes + self.depot_bytes + self.quarantine_bytes
    }

    /// What is free in spans and in runs, or lost to the rests of spans.
    pub fn uncached_bytes(&self) -> usize {
        let in_runs = self.dirty_bytes + self.clean_bytes + self.purging_bytes + self.held_bytes;
        self.span_free_bytes + self.span_waste_bytes + in_runs
    }

    /// Address space that the allocator can use.
    pub fn mapped_bytes(&self) -> usize {
        self.committed_bytes + self.direct_bytes + self.unreturned_bytes + self.metadata_bytes
    }

    /// Every count with its name.
    pub fn rows(&self) -> [(&'static str, usize); ROWS] {
        [
            ("reserved_bytes", self.reserved_bytes),
            ("mapped_bytes", self.mapped_bytes()),
            ("metadata_bytes", self.metadata_bytes),
            ("committed_bytes", self.committed_bytes),
            ("live_bytes", self.live_bytes()),
            ("small_live_bytes", self.small_live_bytes),
            ("large_bytes", self.large_bytes),
            ("direct_bytes", self.direct_bytes),
            ("direct_blocks", self.direct_blocks),
            ("magazine_bytes", self.magazine_bytes),
            ("stash_bytes", self.stash_bytes),
            ("depot_bytes", self.depot_bytes),
            ("span_free_bytes", self.span_free_bytes),
            ("span_waste_bytes", self.span_waste_bytes),
            ("span_purged_bytes", self.span_purged_bytes),
            ("dirty_bytes", self.dirty_bytes),
            ("clean_bytes", self.clean_bytes),
            ("purging_bytes", self.purging_bytes),
            ("small_span_bytes", self.small_span_bytes),
            ("small_out_bytes", self.small_out_bytes),
            ("purged_bytes", self.purged_bytes),
            ("heaps", self.heaps),
            ("refills", self.refills),
            ("steals", self.steals),
            ("carves", self.carves),
            ("spills", self.spills),
            ("homeward_slots", self.homeward),
            ("unreturned_bytes", self.unreturned_bytes),
            ("quarantine_bytes", self.quarantine_bytes),
            ("held_bytes", self.held_bytes),
            ("refused_guards", self.refused_guards),
        ]
    }
}

/// Where a free slot waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cache {
    Magazine,
    Stash,
    Depot,
    Quarantine,
}

fn small_bins() -> impl Iterator<Item = Bin> {
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
fn each_cached<L: Lane>(mut look: impl FnMut(Cache, Bin, *const *mut u8, usize)) {
    let allocator = L::allocator();
    allocator.heaps.each(|heap| {
        // SAFETY: heaps and magazines are never unmapped.
        unsafe {
            for bin in small_bins() {
                (*heap).entry(bin).peek(|slots, count| look(Cache::Magazine, bin, slots.cast(), count));
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

/// What the walk over an arena's spans found of one shard and bin.
#[derive(Clone, Copy, Default)]
struct Found {
    spans: u32,
    with_room: u32,
    out: u64,
}

/// Checks lane `L`'s books, for tests and debug builds, at a moment when no thread allocates or frees: every
/// committed page belongs to exactly one span or run, each shard's and bin's counts are those of its spans'
/// bitmaps, the lists hold the spans with room and no others, every cached slot is one that its span counts
/// as handed out, and the parts add up to what is committed. Takes every shard's lock, then the run lock.
///
/// # Errors
/// Names the broken rule. While threads are at work, a rule may seem broken that is not.
pub fn check_accounts<L: Lane>() -> Result<(), &'static str> {
    let allocator = L::allocator();
    allocator.pages.runs.check()?;
    allocator.pages.direct.check(&allocator.pages.runs.spans)?;
    let large_bytes = check_spans::<L>()?;
    check_caches::<L>()?;
    let stats = collect::<L>();
    if stats.large_bytes != large_bytes {
        return Err("pages of large blocks");
    }
    let sum = stats.arena_live_bytes() + stats.cached_bytes() + stats.uncached_bytes();
    if sum == stats.committed_bytes { Ok(()) } else { Err("the parts do not add up to what is committed") }
}

/// The part of [`check_accounts`] about spans; returns the bytes of large blocks in arenas.
fn check_spans<L: Lane>() -> Result<usize, &'static str> {
    const { assert!(L::SHARD_COUNT <= SHARDS) }
    let allocator = L::allocator();
    let spans = &allocator.pages.runs.spans;
    // All at once, so that what the walk sees of spans in use is one moment's.
    let owned: [_; SHARDS] =
        core::array::from_fn(|shard| allocator.exchange.shards().get(shard).map(|shard| shard.owned().lock()));
    let mut found = [[Found::default(); BINS]; SHARDS];
    let mut purged_pages = [0; SHARDS];
    let (mut large_bytes, mut held_bytes) = (0, 0);
    allocator.pages.runs.walk(|span| {
        match span.kind {
            Kind::Large => large_bytes += span.bytes(),
            Kind::Waiting => held_bytes += span.bytes(),
            Kind::Small => {
                let info = bins::info(span.bin);
                if !span.is_consistent() || span.pages as usize != usize::from(info.span_pages) + L::GUARD_PAGES {
                    return Err("a span that disagrees with itself");
                }
                if span.is_empty() {
                    return Err("an empty span that was kept");
                }
                let found = found
                    .get_mut(usize::from(span.owner.0))
                    .and_then(|bins| bins.get_mut(usize::from(span.bin.0)))
                    .ok_or("a span without an owner")?;
                if span.listed != span.has_room(info) {
                    return Err("a span with room that is not listed, or one without that is");
                }
                if let Some(purged) = purged_pages.get_mut(usize::from(span.owner.0)) {
                    *purged += span.purged_pages() as usize;
                }
                found.spans += 1;
                found.with_room += u32::from(span.listed);
                found.out += u64::from(span.carved - span.home);
            }
            _ => {}
        }
        Ok(())
    })?;
    if held_bytes != allocator.pages.guards.waiting_bytes() {
        return Err("the bytes of runs that are held");
    }
    for ((owned, found), purged_pages) in owned.iter().zip(&found).zip(purged_pages) {
        let Some(owned) = owned else { continue };
        if owned.has_aside() || owned.purged_pages() != purged_pages {
            return Err("a shard's count of pages without memory");
        }
        for (bin, found) in small_bins().zip(found.iter().skip(1)) {
            if owned.counts(bin) != (found.out, found.spans) {
                return Err("a shard's count of spans or of slots that are out");
            }
            if owned.check_list(spans, bin)? != found.with_room {
                return Err("a list that lacks a span with room");
            }
        }
    }
    Ok(large_bytes)
}

/// The part of [`check_accounts`] about slots in magazines, stashes and depots.
fn check_caches<L: Lane>() -> Result<(), &'static str> {
    let runs = &L::allocator().pages.runs;
    let mut result = Ok(());
    let mut cached = [0_u64; BINS];
    each_cached::<L>(|_, bin, slots, count| {
        if let Some(cached) = cached.get_mut(usize::from(bin.0)) {
            *cached += count as u64;
        }
        for index in 0..count {
            // SAFETY: `count` slots lie there; volatile, as in `Magazine::peek`.
            let slot = unsafe { slots.add(index).read_volatile() };
            let tag = runs.arenas.tag_value(slot.addr());
            if tag.kind() != Kind::Small || tag.bin() != bin {
                result = Err("a cached slot of another bin");
            } else {
                let _owned = L::allocator().exchange.shard(tag.owner()).owned().lock();
                // SAFETY: a small span's descriptor is its shard's, whose lock is held.
                let span = unsafe { &*at(&runs.spans, tag.span()) };
                if !span.is_out(bins::info(bin), slot.addr()) {
                    result = Err("a cached slot that its span does not count as handed out");
                }
            }
        }
    });
    for bin in small_bins() {
        let out: u64 = L::allocator().exchange.shards().iter().map(|shard| shard.owned().lock().counts(bin).0).sum();
        if cached.get(usize::from(bin.0)).is_some_and(|&cached| cached > out) {
            return Err("more slots cached than are out");
        }
    }
    result
}
