//! Vacate: empties spans that a bin has beyond its need, while others take spans, and as time passes.
//!
//! ```text
//! spans taken → looks at every bin of every shard → those with few slots out, whose rest fits into others: vacated
//!               slots freed there → home at once    slots at home → stay, unless the bin takes a span
//!               all home → a free run → a span of another bin
//! ```
//!
//! A program that evicts its oldest blocks empties such a span in one turn of its cache. The slots that a thread's magazines
//! hand out again would keep it in use for ever.

use crate::pages::bins::{BINS, FOREIGN};
use crate::pages::page_heap::PageHeap;
use crate::pages::policy::{Policy, shape};
use crate::platform::units::Bin;
use crate::transfer::depot::Depot;
use crate::transfer::exchange::{Exchange, Sharded};

/// A look is due when one of so many pages of all spans was taken. Chosen: often enough within one turn of a cache.
const LOOKS_PER_TURN: usize = 512;
/// Fewest pages between two looks, per shard. Chosen: what a look costs is then little beside the spans taken.
const PAGES_PER_SHARD: usize = 32;
/// Spans of a bin in a shard that a look looks at: bounds the time with the shard's lock. Chosen: a tenth of a millisecond for
/// all bins.
const MOST_SPANS: usize = 16;

/// The bins that have spans beyond their need.
pub struct Surplus([bool; BINS]);

impl Surplus {
    /// Whether there is such a bin.
    pub fn is_any(&self) -> bool {
        self.0.contains(&true)
    }

    /// Magazines of the `depot` of `bin` that are to go home, `most` at most: all of such a bin.
    pub fn share(&self, bin: Bin, depot: &Depot, most: u32) -> u32 {
        let is_surplus = self.0.get(usize::from(bin.0)).copied().unwrap_or(false);
        if is_surplus { depot.count().min(most) } else { 0 }
    }
}

/// Whether so many spans were taken that a look is due, for the caller.
#[inline]
pub fn claim<P: Policy>(pages: &PageHeap<P>) -> bool {
    pages.taken.is_due() && pages.taken.claim() > 0
}

/// Looks for spans to vacate. The caller holds no lock. Takes shards' locks.
// Not inlined: what its callers do next would lie below its table.
#[inline(never)]
pub fn look<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>) -> Surplus {
    let (mut surplus, mut all) = (Surplus([false; BINS]), 0);
    for id in exchange.shard_ids() {
        let shard = exchange.shard(id);
        let mut owned = shard.owned().lock();
        all += owned.pages();
        for (bin, is_surplus) in (0..BINS as u8).map(Bin).zip(&mut surplus.0).skip(1) {
            if owned.counts(bin).1 == 0 {
                continue;
            }
            let cached = u64::from(shard.depot(bin).full.count()) * u64::from(shape::<P>(bin).capacity);
            *is_surplus |= owned.vacate(pages.spans(), bin, cached, MOST_SPANS, |span| pages.set_bin(span, FOREIGN));
            exchange.set_vacating_hint(bin, id, owned.is_vacating(bin));
        }
    }
    pages.taken.set_due((all / LOOKS_PER_TURN).max(exchange.shards().len() * PAGES_PER_SHARD));
    surplus
}
