//! Pressure: where growth has met the soft limit, free memory goes back at once.
//!
//! ```text
//! more counts than the threshold   → kept mappings, oldest dirty runs → operating system
//!                    not enough    → depots → slots in spans → dirty runs → operating system; holes too
//!                    not enough    → threads' caches, at their next misses; the threshold rises by a step
//! ```
//!
//! A call takes about a millisecond. What is left is for the next: a heap that goes on growing makes it soon. A heap whose
//! live blocks exceed the limit pays once for each step that it grows, so not for each block.

use crate::pages::page_heap::{PageHeap, TURN_US};
use crate::pages::policy::Policy;
use crate::platform::budget::Budget;
use crate::platform::os::Os;
use crate::platform::units::PAGE_BYTES;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::{TURN_MAGAZINES, send_depots};
use crate::upkeep::holes::{HOLE_AGE_MS, purge_holes};
use crate::upkeep::schedule::Schedule;

/// Whether more counts than the soft limit allows.
#[inline]
pub fn is_met<P: Policy>(pages: &PageHeap<P>) -> bool {
    pages.runs.limit.is_met()
}

/// Reads the soft limit again, and counts holes. Takes shards' locks. The caller holds no lock.
pub fn look<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, now: u32) {
    let limit = &pages.runs.limit;
    limit.set_soft::<P::Os>(pages.options(), now);
    if limit.soft_limit_bytes() > 0 {
        limit.note_holes(exchange.shards().iter().map(|shard| shard.owned().lock().purged_pages()).sum());
    }
}

/// Makes the next look at growth due before the soft limit is met, or soon where it is.
pub fn look_soon<P: Policy>(pages: &PageHeap<P>) {
    if let Some(room) = pages.runs.limit.room() {
        pages.runs.fresh.hasten_due(room);
    }
}

/// Gives free memory back if the soft limit is met; whether caches should go too. Takes shards' locks. The caller holds no
/// lock.
#[cold]
pub fn relieve<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, schedule: &Schedule) -> bool {
    let (limit, now) = (&pages.runs.limit, P::Os::now_ms());
    look(pages, exchange, now);
    let owed = limit.owed() * PAGE_BYTES;
    if owed == 0 {
        return false;
    }
    let budget = Budget::of_us::<P::Os>(TURN_US);
    let sent = send_depots(pages, exchange, TURN_MAGAZINES, |_, depot, most| depot.count().min(most));
    let (mut given, mut is_behind) = pages.purge_now(now, owed, &budget);
    is_behind |= sent == TURN_MAGAZINES;
    if given < owed && !is_behind {
        let before = pages.purged_bytes();
        let is_more = purge_holes(pages, exchange, schedule, now, HOLE_AGE_MS);
        let purged = pages.purged_bytes().wrapping_sub(before) as usize;
        given += purged;
        // Spans without holes are no work: they would be looked through at each miss.
        is_behind = is_more && purged > 0;
        look(pages, exchange, now);
    }
    if P::HARDENED && given < owed && !is_behind {
        pages.release_waiting(0, 0);
        let (more, is_late) = pages.purge_now(now, owed - given, &budget);
        (given, is_behind) = (given + more, is_late);
    }
    if given < owed && !is_behind {
        limit.raise_threshold(now);
        return true;
    }
    false
}
