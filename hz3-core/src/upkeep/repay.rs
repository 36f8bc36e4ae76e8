//! Repay: a heap that grows gives back free memory for what it takes, while it has much.
//!
//! ```text
//! fresh pages taken                     → looks which bins are spread, whose depots go home
//!                    too much is free?  → depots → slots in spans → dirty runs
//!                                       → oldest dirty runs, then holes → operating system
//! three quarters of all slots are free  → looks which bins are (one thread), whose depots go home
//! ```
//!
//! The purge delay bounds free memory in time, this bounds it in size. A heap that reuses what it has pays nothing.

use crate::pages::bins::{self, BINS};
use crate::pages::early::LEAST_BYTES;
use crate::pages::page_heap::{PageHeap, TURN_US};
use crate::pages::policy::{Policy, shape};
use crate::platform::budget::Budget;
use crate::platform::options::NEVER;
use crate::platform::os::Os;
use crate::platform::units::PAGE_BYTES;
use crate::transfer::depot::Depot;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::{TURN_MAGAZINES, send_depots};
use crate::transfer::spread::{WINDOW, Window};
use crate::upkeep::holes::{HOLE_AGE_MS, purge_holes};
use crate::upkeep::schedule::Schedule;

/// Part of what may still become free that a heap takes until the next look. Chosen: that much more may be free than
/// the bound says.
const LOOKS_PER_SLACK: usize = 16;
/// Most fresh memory that one payment is for, in bytes: bounds its time. The rest is for the next.
const MAX_STEP_BYTES: usize = 4 << 20;
/// Free memory that every heap may keep, in bytes.
const FREE_BYTES: usize = 64 << 20;
/// A heap may keep one byte free per so many in use. Chosen: `docs/decisions/repay.md`.
const FREE_PER: usize = 2;
/// Free slots in spans from which bins are looked at, in bytes, and one of so many bytes in use.
const SPREAD_BYTES: usize = 8 << 20;
const SPREAD_PER: usize = 32;
/// Free slots from which a bin may be spread, in bytes.
const SPREAD_BIN_BYTES: usize = 256 << 10;
/// Slots, of which one in use at most, from which a heap that shrinks is [gathered](gather). Chosen: few spans come free
/// before, and a heap that comes and goes pays for a quarter of its frees.
const GATHERED_PER: usize = 4;

/// Free memory that may be present, and what is in use, in bytes.
struct Balance {
    dirty: usize,
    depots: usize,
    /// Free slots in spans, without purged pages.
    spans: usize,
    used: usize,
    /// Slots that are in use, or cached by threads.
    slots: usize,
}

impl Balance {
    /// Sums the bins of `window` as well. Takes shards' locks.
    fn of<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, window: &mut Window) -> Self {
        let (dirty, clean, purging) = pages.runs.free_bytes();
        let (_, committed) = pages.runs.arenas.reserved_and_committed();
        let (_, direct) = pages.direct.count_and_bytes();
        let (mut free, mut purged, mut all_out) = (0, 0, 0);
        for shard in exchange.shards() {
            let owned = shard.owned().lock();
            let (out, slots) = owned.slot_bytes();
            free += slots - out;
            all_out += out;
            purged += owned.purged_pages() * PAGE_BYTES;
            for bin in window.bins() {
                let (out, all) = owned.bytes_of_bin(bin);
                let unused = shard.depot(bin).full.count() as usize * usize::from(shape::<P>(bin).capacity);
                window.add(bin, out.saturating_sub(unused * bins::info(bin).slot_bytes as usize), all);
            }
        }
        let depots = exchange.depot_bytes();
        let used = (committed + direct).saturating_sub(dirty + clean + purging + depots + free);
        Self { dirty, depots, spans: free.saturating_sub(purged), used, slots: all_out.saturating_sub(depots) }
    }

    fn bound(&self) -> usize {
        FREE_BYTES.max(self.used / FREE_PER)
    }

    fn free(&self) -> usize {
        self.dirty + self.depots + self.spans
    }

    /// Bytes above the bound.
    fn excess(&self) -> usize {
        self.free().saturating_sub(self.bound())
    }

    /// Bytes below the bound.
    fn slack(&self) -> usize {
        self.bound().saturating_sub(self.free())
    }
}

/// Whether the heap has taken so much that a payment is due.
#[inline]
pub fn is_due<P: Policy>(pages: &PageHeap<P>) -> bool {
    pages.runs.fresh.is_due()
}

/// The balance, and whether bins are spread.
// Not inlined: what its caller does next would lie below its window.
#[inline(never)]
fn weigh<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, now: u32) -> (Balance, bool) {
    let mut window = exchange.spread.window();
    let balance = Balance::of(pages, exchange, &mut window);
    let is_much = balance.spans + balance.depots >= SPREAD_BYTES.max(balance.used / SPREAD_PER);
    if is_much {
        exchange.spread.note(&window, SPREAD_BIN_BYTES, now);
    }
    (balance, is_much && exchange.spread.is_any())
}

/// Sends the depots of spread bins home.
fn send_spread<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>) {
    let all = |bin, depot: &Depot, most| if exchange.spread.has(bin) { depot.count().min(most) } else { 0 };
    send_depots(pages, exchange, TURN_MAGAZINES, all);
}

/// Lets spans empty where no thread gives memory back later: once most slots are free, and more is free than may stay, bins
/// of which little is used are spread. A heap that is freed in a random order would else keep nearly all of its spans, each
/// for the sake of a few slots in depots. The caller holds no lock. Takes shards' locks.
pub fn gather<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>) {
    if pages.runs.arenas.reserved_and_committed().1 < LEAST_BYTES || pages.helper.post::<P::Os>() {
        return;
    }
    if look_all(pages, exchange, P::Os::now_ms()) {
        send_spread(pages, exchange);
    }
}

/// Looks at all bins, as there may be few calls until the last; whether one is spread.
// Not inlined: what its caller does next would lie below its window.
#[inline(never)]
fn look_all<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, now: u32) -> bool {
    for _ in 0..BINS.div_ceil(WINDOW) {
        let mut window = exchange.spread.window();
        let balance = Balance::of(pages, exchange, &mut window);
        let free = balance.depots + balance.spans;
        let is_much = balance.slots <= (balance.slots + free) / GATHERED_PER && pages.excess_with(free) > 0;
        exchange.spread.note_shrunk(&window, SPREAD_BIN_BYTES, if is_much { GATHERED_PER } else { 0 }, now);
        if !is_much && !exchange.spread.is_any() {
            return false;
        }
    }
    exchange.spread.is_any()
}

/// Gives free memory back for fresh pages taken, if that is due. The caller holds no lock. Takes shards' locks.
#[cold]
pub fn repay<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, schedule: &Schedule) {
    if !is_due(pages) {
        return;
    }
    let taken = pages.runs.fresh.claim() * PAGE_BYTES;
    if taken == 0 || pages.options().purge_delay_ms() == NEVER {
        return;
    }
    let now = P::Os::now_ms();
    let (balance, is_spread) = weigh(pages, exchange, now);
    if is_spread {
        send_spread(pages, exchange);
    }
    pages.runs.fresh.set_due(balance.slack() / LOOKS_PER_SLACK / PAGE_BYTES);
    let owed = balance.excess().min(taken).min(MAX_STEP_BYTES);
    if owed == 0 {
        return;
    }
    pages.runs.fresh.note(taken.saturating_sub(MAX_STEP_BYTES) / PAGE_BYTES);
    if balance.depots > balance.bound() / 4 {
        exchange.make_surplus_due();
        send_depots(pages, exchange, TURN_MAGAZINES, |_, depot, most| depot.take_due(most));
    }
    let (purged, is_behind) = pages.purge_runs(now, 0, owed, &Budget::of_us::<P::Os>(TURN_US));
    if purged < owed && !is_behind && balance.spans > balance.bound() / 4 {
        purge_holes(pages, exchange, schedule, now, HOLE_AGE_MS);
    }
}
