//! Round: sends surplus magazines home and purges memory that stayed free for the purge delay.
//!
//! ```text
//! magazines in depots → slots in spans → spans to vacate, holes in spans, empty spans → runs → operating system
//!           idle for an eighth of the delay       idle for the delay
//! ```
//!
//! A turn is due eight times per purge delay, at the next miss that reads the clock or in the background thread. It
//! does a bounded amount. If work is left, the next turn is due eight times sooner.

use crate::pages::page_heap::{PageHeap, TURN_US};
use crate::pages::policy::Policy;
use crate::platform::budget::Budget;
use crate::platform::options::{NEVER, Options};
use crate::platform::os::Os;
use crate::record::observer::{Event, Observer};
use crate::thread::heap::TICKS;
use crate::transfer::depot::Depot;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::{TURN_MAGAZINES, send_depots};
use crate::upkeep::holes::purge_holes;
use crate::upkeep::schedule::Schedule;
use crate::upkeep::vacate;

/// Most refused `munmap` calls that a turn repeats.
const MAX_UNMAPS: usize = 16;
const TICKS_PER_DELAY: u32 = 8;

/// Milliseconds between two turns: an eighth of the purge delay, or of the lane's default if the delay is `NEVER`.
pub fn tick_ms<P: Policy>(options: &Options) -> u32 {
    match options.purge_delay_ms() {
        NEVER => P::PURGE_DELAY_MS / TICKS_PER_DELAY,
        delay_ms => delay_ms / TICKS_PER_DELAY,
    }
}

/// Magazines that a depot keeps where free memory goes back early, so that depots of many bins don't exceed the bound.
const EARLY_KEPT: u32 = 8;
/// Most magazines sent home then, per tick. Chosen: more than a thread spills between two.
const EARLY_MAGAZINES: u32 = 96;
const _: () = assert!(EARLY_MAGAZINES > TICKS as u32);
/// How many times later a turn is due while the background thread does them. Chosen: the machine may be busy.
const LATE: u32 = 4;

/// Tells `observer` the time and, if a turn is due that the background thread doesn't do, does it. The caller holds no
/// lock.
#[cold]
pub fn tick<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, schedule: &Schedule, observer: &Observer) {
    let now = P::Os::now_ms();
    observer.notify(Event::Tick(now));
    let tick_ms = tick_ms::<P>(pages.options());
    let has_helper = pages.helper.post::<P::Os>();
    let is_short = pages.is_short_of_space(now);
    if is_short || !has_helper && pages.is_giving_early(now) {
        let kept = if is_short { 0 } else { EARLY_KEPT };
        let beyond = |_, depot: &Depot, most: u32| depot.count().saturating_sub(kept).min(most);
        send_depots(pages, exchange, EARLY_MAGAZINES, beyond);
    }
    if schedule.claim_turn(now, if has_helper { tick_ms.saturating_mul(LATE) } else { tick_ms }) {
        turn(pages, exchange, schedule, now);
    }
}

/// [`tick`] of the background thread, which always does a turn; whether work is left.
pub fn tick_in_background<P: Sharded>(
    pages: &PageHeap<P>,
    exchange: &Exchange<P>,
    schedule: &Schedule,
    observer: &Observer,
) -> bool {
    let now = P::Os::now_ms();
    observer.notify(Event::Tick(now));
    schedule.claim_turn(now, 0);
    turn(pages, exchange, schedule, now)
}

/// Vacates spans, if so many were taken that it is due. The caller holds no lock.
#[inline]
pub fn vacate_if_due<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>) {
    if vacate::claim(pages) {
        vacate(pages, exchange);
    }
}

/// Vacates spans, and sends the depots of bins that have too many home.
// Not inlined: what its callers do next would lie below its table.
#[cold]
#[inline(never)]
fn vacate<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>) {
    let surplus = vacate::look(pages, exchange);
    if surplus.is_any() {
        send_depots(pages, exchange, TURN_MAGAZINES, |bin, depot, most| surplus.share(bin, depot, most));
    }
}

/// One turn at `now`; whether work is left.
fn turn<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, schedule: &Schedule, now: u32) -> bool {
    let is_new = schedule.begin_round_if_due(now, tick_ms::<P>(pages.options()));
    if is_new {
        exchange.make_surplus_due();
        exchange.spread.end_if_quiet(now);
        // The depots' own surplus goes home below.
        vacate::look(pages, exchange);
        let (dirty, is_resting) = pages.aging();
        schedule.pace.begin_round(dirty, is_resting);
    }
    let budget = Budget::of_us::<P::Os>(TURN_US);
    let mut is_behind =
        send_depots(pages, exchange, TURN_MAGAZINES, |_, depot, most| depot.take_due(most)) == TURN_MAGAZINES;
    if pages.options().purge_delay_ms() != NEVER {
        let now = P::Os::now_ms();
        let delay_ms = pages.delay_ms(now);
        is_behind |= purge_holes(pages, exchange, schedule, now, delay_ms);
        let (purged, is_stopped) = pages.purge_aged(now, delay_ms, schedule.pace.left(), &budget);
        schedule.pace.note_given(purged);
        is_behind |= is_stopped;
    }
    if is_new && !is_behind {
        pages.runs.unmap_end();
        pages.runs.leave_out();
    }
    pages.retry_unmaps(MAX_UNMAPS);
    schedule.set_behind(is_behind);
    is_behind
}
