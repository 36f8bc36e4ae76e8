//! Upkeep: what an allocator does now and then so that free memory comes together and goes back.
//!
//! ```text
//! magazines in depots → slots in spans → holes in spans, empty spans → runs → operating system
//!           unneeded for an eighth of the delay       unneeded for the delay
//! ```
//!
//! It is due eight times per purge delay, on whichever slow path looks at the clock then, or on the background
//! thread. One turn does a bounded amount; where that leaves work over, the next one is due much sooner.

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
use crate::upkeep::holes::purge_holes;
use crate::upkeep::schedule::Schedule;

/// Bytes of dirty runs given back at a time at most: bounds the time that one thread spends on it.
const PURGE_BYTES: usize = 256 << 20;
/// Magazines sent home at a time at most, for the same reason.
const MAGAZINES: u32 = 1024;
/// Mappings that the system did not take back that it is asked for again at a time.
const MAPPINGS: usize = 16;
/// Times per purge delay that upkeep is due.
const PER_DELAY: u32 = 8;

/// Milliseconds between two times that upkeep is due: an eighth of the purge delay.
pub fn tick_ms<P: Policy>(options: &Options) -> u32 {
    match options.purge_delay_ms() {
        NEVER => P::PURGE_DELAY_MS / PER_DELAY,
        delay_ms => delay_ms / PER_DELAY,
    }
}

/// Tells `observer` that time passes, and does some upkeep if it is time. Called from slow paths now and then.
#[cold]
pub fn tick<P: Sharded>(pages: &PageHeap<P>, exchange: &Exchange<P>, schedule: &Schedule, observer: &Observer) {
    let now = P::Os::now_ms();
    observer.notify(Event::Tick(now));
    let tick_ms = tick_ms::<P>(pages.options());
    if !schedule.is_due(now, tick_ms) {
        return;
    }
    if schedule.begins_round(now, tick_ms) {
        make_surplus_due(exchange);
    }
    let mut is_behind = send_depots(pages, exchange, MAGAZINES, Depot::take_due) == MAGAZINES;
    let delay_ms = pages.options().purge_delay_ms();
    if delay_ms != NEVER {
        let now = P::Os::now_ms();
        is_behind |= purge_holes(pages, exchange, schedule, now, delay_ms);
        is_behind |= pages.purge(now, delay_ms, PURGE_BYTES) >= PURGE_BYTES;
    }
    pages.unmap_again(MAPPINGS);
    schedule.set_behind(is_behind);
}

/// Makes the magazines of every depot due that were not needed since the last round.
fn make_surplus_due<P: Sharded>(exchange: &Exchange<P>) {
    for shard in exchange.used_shards() {
        for bin in (1..BINS as u8).map(Bin) {
            exchange.shard(shard).depot(bin).make_surplus_due();
        }
    }
}
