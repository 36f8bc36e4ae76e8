//! Vacate: empties spans that a bin has beyond its need, while others take spans.
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
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::{TURN_MAGAZINES, send_depots};

/// Parts of all spans' pages that are taken between two looks. Chosen: more than one look per turn of a cache.
const LOOKS_PER_TURN: usize = 1024;
/// Spans of a bin in a shard that a look looks at: bounds the time with the shard's lock. Chosen.
const MOST_SPANS: u32 = 64;
/// Magazines that depots keep of a bin that has spans beyond its need.
const KEPT_MAGAZINES: u32 = 0;

/// Whether so many spans were taken that a look is due.
#[inline]
pub fn is_due<P: Policy>(pages: &PageHeap<P>) -> bool {
    pages.taken.is_due()
}

/// Looks for spans to vacate, if that is due. The caller holds no lock. Takes shards' locks.
#[cold]
pub fn look<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>) {
    if !is_due(pages) || pages.taken.claim() == 0 {
        return;
    }
    let (mut surplus, mut all) = ([false; BINS], 0);
    for id in exchange.shard_ids() {
        let shard = exchange.shard(id);
        let mut owned = shard.owned().lock();
        all += owned.pages();
        for bin in (1..BINS as u8).map(Bin) {
            if owned.counts(bin).1 == 0 {
                continue;
            }
            let cached = u64::from(shard.depot(bin).full.count()) * u64::from(shape::<P>(bin).capacity);
            if owned.vacate(pages.spans(), bin, cached, MOST_SPANS, |span| pages.set_bin(span, FOREIGN)) {
                exchange.set_vacating_hint(bin, id, owned.is_vacating(bin));
                if let Some(is_surplus) = surplus.get_mut(usize::from(bin.0)) {
                    *is_surplus = true;
                }
            }
        }
    }
    pages.taken.set_due(all / LOOKS_PER_TURN);
    if surplus.contains(&true) {
        let has = |bin: Bin| surplus.get(usize::from(bin.0)).copied().unwrap_or(false);
        send_depots(pages, exchange, TURN_MAGAZINES, |bin, depot, most| {
            if has(bin) { depot.count().saturating_sub(KEPT_MAGAZINES).min(most) } else { 0 }
        });
    }
}
