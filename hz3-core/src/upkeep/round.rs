//! Round: sends surplus magazines home and purges memory that stayed free for the purge delay.
//!
//! ```text
//! magazines in depots → slots in spans → holes in spans, empty spans → runs → operating system
//!           idle for an eighth of the delay       idle for the delay
//! ```
//!
//! A turn is due eight times per purge delay, at the next miss that reads the clock or in the background thread. It
//! does a bounded amount. If work is left, the next turn is due eight times sooner.

use crate::pages::bins::BINS;
use crate::pages::page_heap::PageHeap;
use crate::pages::policy::Policy;
use crate::platform::options::{NEVER, Options};
use crate::platform::os::Os;
use crate::platform::units::Bin;
use crate::record::observer::{Event, Observer};
use crate::transfer::depot::Depot;
use crate::transfer::exchange::{Exchange, Sharded};
use crate::transfer::homeward::send_depots;
use crate::upkeep::holes::{Effort, purge_holes};
use crate::upkeep::schedule::Schedule;

/// Bytes of dirty runs after which a turn stops purging: bounds the time of one thread.
const MAX_PURGE_BYTES: usize = 256 << 20;
/// Bounds a turn's search for holes, for the same reason.
const HOLES: Effort = Effort { spans: 4096, calls: 2048 };
/// Most magazines sent home per turn, for the same reason.
const MAX_MAGAZINES: u32 = 1024;
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

/// Tells `observer` the time and, if a turn is due, does it. The caller holds no lock.
#[cold]
pub fn tick<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, schedule: &Schedule, observer: &Observer) {
    let now = P::Os::now_ms();
    observer.notify(Event::Tick(now));
    let tick_ms = tick_ms::<P>(pages.options());
    if !schedule.claim_turn(now, tick_ms) {
        return;
    }
    if schedule.begin_round_if_due(now, tick_ms) {
        make_surplus_due(exchange);
    }
    let mut is_behind = send_depots(pages, exchange, MAX_MAGAZINES, Depot::take_due) == MAX_MAGAZINES;
    let delay_ms = pages.options().purge_delay_ms();
    if delay_ms != NEVER {
        let now = P::Os::now_ms();
        is_behind |= purge_holes(pages, exchange, schedule, now, delay_ms, HOLES);
        is_behind |= pages.purge(now, delay_ms, MAX_PURGE_BYTES) >= MAX_PURGE_BYTES;
    }
    pages.retry_unmaps(MAX_UNMAPS);
    schedule.set_behind(is_behind);
}

/// Makes the surplus of every depot due to be sent home, by its low-water mark since the last round.
fn make_surplus_due<P: Sharded>(exchange: &Exchange<P>) {
    for shard in exchange.shard_ids() {
        for bin in (1..BINS as u8).map(Bin) {
            exchange.shard(shard).depot(bin).make_surplus_due();
        }
    }
}
