//! Books: checks an allocator's counts, lists and page tags against each other, for tests and debug builds.

use crate::allocator::Lane;
use crate::observe::stats::{BinStats, collect, collect_with_bins, each_cached, pages_of_span, small_bins};
use crate::pages::arena::PageRange;
use crate::pages::bins::{self, BINS};
use crate::pages::length_tree::Tree;
use crate::pages::page_tag::{Kind, PageTag};
use crate::pages::run_lists::{CLASSES, class_of};
use crate::pages::runs::Runs;
use crate::pages::span::{Listing, SharedPages, Span, at};
use crate::platform::os::Os;
use crate::platform::units::PAGE_BYTES;
use crate::record::heat::SHARDS;

#[derive(Clone, Copy, Default)]
struct Found {
    spans: u32,
    with_room: u32,
    out: u64,
}

/// Checks all of lane `L` while no thread allocates or frees. Every committed page belongs to one span or run; the
/// counts of each shard and bin match its spans' bitmaps; the lists have exactly the spans with room; every cached slot
/// is out of its span; and the parts add up to the committed bytes. Takes every shard's lock, then the run lock.
///
/// # Errors
/// The broken rule. While threads work, false alarms are possible.
pub fn check_accounts<L: Lane>() -> Result<(), &'static str> {
    let allocator = L::allocator();
    check_runs(&allocator.pages.runs)?;
    allocator.pages.direct.check(&allocator.pages.runs.spans)?;
    allocator.regions.check(allocator.pages.spans(), L::guard_pages())?;
    let large_bytes = check_spans::<L>()?;
    check_caches::<L>()?;
    let stats = collect::<L>();
    // The sums that are kept, against what is found bin by bin.
    if !collect_with_bins::<L>(&mut [BinStats::default(); BINS]).rows().eq(stats.rows()) {
        return Err("a sum of counts");
    }
    if stats.large_bytes != large_bytes {
        return Err("pages of large blocks");
    }
    if stats.region_live_bytes > stats.region_bytes || stats.region_bytes > stats.large_bytes + stats.direct_bytes {
        return Err("the bytes of regions");
    }
    let counted = stats.committed_bytes + stats.direct_bytes - stats.clean_bytes;
    // Of what the system does not take back, the part that it purged does not count.
    if !(counted..=counted + stats.unreturned_bytes).contains(&stats.counted_bytes) {
        return Err("the bytes that count for the limits");
    }
    let sum = stats.arena_live_bytes() + stats.cached_bytes() + stats.uncached_bytes();
    if sum == stats.committed_bytes { Ok(()) } else { Err("the parts do not add up to what is committed") }
}

/// Returns the bytes of large blocks in arenas.
fn check_spans<L: Lane>() -> Result<usize, &'static str> {
    const { assert!(L::SHARD_COUNT <= SHARDS) }
    let allocator = L::allocator();
    let spans = &allocator.pages.runs.spans;
    // All locks at once, for one consistent view of the spans in use.
    let owned: [_; SHARDS] =
        core::array::from_fn(|shard| allocator.exchange.shards().get(shard).map(|shard| shard.owned().lock()));
    let mut found = [[Found::default(); BINS]; SHARDS];
    let mut purged_pages = [0; SHARDS];
    let (mut large_bytes, mut waiting_bytes) = (0, 0);
    walk_runs(&allocator.pages.runs, |span| {
        match span.kind {
            Kind::Large | Kind::Region => large_bytes += span.bytes(),
            Kind::Waiting => waiting_bytes += span.bytes(),
            Kind::Small => {
                let info = bins::info(span.bin);
                if !span.is_consistent() || span.pages as usize != pages_of_span::<L>(span.bin) {
                    return Err("a span that disagrees with itself");
                }
                if span.is_empty() {
                    return Err("an empty span that was kept");
                }
                let found = found
                    .get_mut(usize::from(span.owner.0))
                    .and_then(|bins| bins.get_mut(usize::from(span.bin.0)))
                    .ok_or("a span without an owner")?;
                if (span.listing == Listing::Listed) != span.has_room(info) {
                    return Err("a span with room that is not listed, or one without that is");
                }
                if let Some(purged) = purged_pages.get_mut(usize::from(span.owner.0)) {
                    *purged += span.purged_pages() as usize;
                }
                found.spans += 1;
                found.with_room += u32::from(span.listing == Listing::Listed);
                found.out += u64::from(span.carved - span.home);
            }
            _ => {}
        }
        Ok(())
    })?;
    if waiting_bytes != allocator.pages.guards.waiting_bytes() {
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

fn check_caches<L: Lane>() -> Result<(), &'static str> {
    let runs = &L::allocator().pages.runs;
    let mut result = Ok(());
    let mut cached = [0_u64; BINS];
    each_cached::<L>(|_, bin, slots, count| {
        if let Some(cached) = cached.get_mut(usize::from(bin.0)) {
            *cached += count as u64;
        }
        for index in 0..count {
            // SAFETY: `count` places, never unmapped. Volatile: their thread may write them, each as one aligned word.
            let slot = unsafe { slots.add(index).read_volatile() };
            let tag = L::allocator().pages.tag(slot.addr());
            if tag.kind() != Kind::Small || tag.bin() != bin {
                result = Err("a cached slot of another bin");
            } else {
                let _owned = L::allocator().exchange.shard(tag.owner()).owned().lock();
                // SAFETY: a small page's tag has the id of its span, whose shard's lock is held.
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

/// Calls `look` with every span and free run in address order, and checks that they cover each committed page once,
/// with the right tags. Takes the run lock. No span may be in transit.
///
/// # Errors
/// The broken rule, or the first error of `look`.
pub fn walk_runs<O: Os>(
    runs: &Runs<O>,
    mut look: impl FnMut(&Span) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let free = runs.lock();
    runs.arenas.each_committed(|PageRange { start, pages }| {
        let (mut address, end) = (start, start + pages * PAGE_BYTES);
        while address < end {
            let tag = runs.arenas.tag_value(address);
            if tag.span().is_none() {
                return Err("a page that belongs to nothing");
            }
            if tag.kind() == Kind::Shared {
                if !SharedPages::is_free(&runs.spans, tag.span(), address) {
                    return Err("a page of a shared one that a span has");
                }
                address += PAGE_BYTES;
                continue;
            }
            let span = &*free.span(tag.span());
            if span.start != address || span.pages == 0 || span.bytes() > end - address {
                return Err("a page whose descriptor is another's");
            }
            let last = span.pages as usize - 1;
            for page in 0..=last {
                let expected = match span.kind {
                    Kind::Small if span.is_vacating => PageTag::small(bins::FOREIGN, span.owner, tag.span()),
                    Kind::Small => PageTag::small(span.bin, span.owner, tag.span()),
                    Kind::Region => PageTag::edge(span.kind, tag.span()),
                    Kind::Large | Kind::Dirty | Kind::Clean | Kind::Waiting if page == 0 || page == last => {
                        PageTag::edge(span.kind, tag.span())
                    }
                    Kind::Large | Kind::Dirty | Kind::Clean | Kind::Waiting => PageTag::NONE,
                    Kind::Transit | Kind::Shared | Kind::None => return Err("a span that is in use by nobody"),
                };
                if runs.arenas.tag_value(address + page * PAGE_BYTES) != expected {
                    return Err("a page with a wrong tag");
                }
            }
            look(span)?;
            address += span.bytes();
        }
        Ok(())
    })
}

/// Checks the lists of free runs against descriptors and tags. Takes the run lock.
///
/// # Errors
/// The broken rule.
pub fn check_runs<O: Os>(runs: &Runs<O>) -> Result<(), &'static str> {
    let mut free = runs.lock();
    for kind in [Kind::Dirty, Kind::Clean] {
        let mut pages = 0;
        for class in 0..CLASSES {
            let mut id = free.index.lists(kind).head(class);
            while !id.is_none() {
                let span = free.span(id);
                if span.kind != kind || class_of(span.pages as usize) != class {
                    return Err("run in the wrong list");
                }
                for edge in [span.start, span.start + span.bytes() - PAGE_BYTES] {
                    if runs.arenas.tag_value(edge) != PageTag::edge(kind, id) {
                        return Err("run without its tag");
                    }
                }
                if runs.arenas.tag_value(span.start + span.bytes()).kind() == kind {
                    return Err("neighbours that did not merge");
                }
                let length = span.pages as usize;
                if let Some(&mut root) = free.index.lists(kind).root(class) {
                    let found = Tree { root, nodes: &free }.at_least(length);
                    if found.is_none_or(|found| free.span(found).pages as usize != length) {
                        return Err("run that its tree lacks");
                    }
                }
                pages += length;
                id = free.span(id).next;
            }
        }
        if pages != free.index.lists(kind).pages {
            return Err("page count of the lists");
        }
    }
    let mut aged = 0;
    let mut id = free.index.oldest;
    while !id.is_none() {
        aged += free.span(id).pages as usize;
        id = free.span(id).younger;
    }
    if aged == free.index.dirty.pages { Ok(()) } else { Err("dirty runs and their ages") }
}
