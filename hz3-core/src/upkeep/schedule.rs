//! Schedule: when upkeep is due, and how far it has come.

use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::units::elapsed_ms;

/// How much sooner the next time is due where work was left over.
const SOONER: u32 = 8;
/// Milliseconds between two times that the threads are asked to empty their caches because memory has run out. Chosen:
/// the time between two ticks of the default delay.
const ASK_AGAIN_MS: u32 = 125;

/// When upkeep is due, and how far it has come.
pub struct Schedule {
    /// When a thread last did some, in milliseconds.
    last: AtomicU32,
    /// When the round that is going on began.
    round: AtomicU32,
    /// Whether the round left work over.
    is_behind: AtomicU32,
    /// Where the next look for holes goes on.
    next_shard: AtomicU32,
    /// When the threads were last asked to empty their caches because memory had run out.
    asked: AtomicU32,
}

impl Schedule {
    /// Nothing done yet.
    pub const fn new() -> Self {
        Self {
            last: AtomicU32::new(0),
            round: AtomicU32::new(0),
            is_behind: AtomicU32::new(0),
            next_shard: AtomicU32::new(0),
            asked: AtomicU32::new(0),
        }
    }

    /// Whether the calling thread has won the turn at `now`, `tick_ms` after the last one, or sooner where that left work
    /// over.
    pub fn is_due(&self, now: u32, tick_ms: u32) -> bool {
        // Relaxed, all here and below: one thread wins the exchange, and what upkeep does is under locks of its own; a
        // second thread that comes in while the first is at work finds other work, or the same figures.
        let is_behind = self.is_behind.load(Ordering::Relaxed) != 0;
        let pause_ms = if is_behind { tick_ms / SOONER } else { tick_ms };
        let last = self.last.load(Ordering::Relaxed);
        elapsed_ms(last, now) >= pause_ms
            && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether a new round begins at `now`.
    pub fn begins_round(&self, now: u32, tick_ms: u32) -> bool {
        let is_new = elapsed_ms(self.round.load(Ordering::Relaxed), now) >= tick_ms;
        if is_new {
            self.round.store(now, Ordering::Relaxed);
        }
        is_new
    }

    /// Says whether the turn left work over.
    pub fn set_behind(&self, is_behind: bool) {
        self.is_behind.store(u32::from(is_behind), Ordering::Relaxed);
    }

    /// The shard at which the next look for holes goes on.
    pub fn next_shard(&self) -> u32 {
        self.next_shard.load(Ordering::Relaxed)
    }

    /// Says at which shard it does.
    pub fn set_next_shard(&self, shard: u32) {
        self.next_shard.store(shard, Ordering::Relaxed);
    }

    /// Whether the threads may be asked at `now` to empty their caches because memory has run out; the caller asks.
    pub fn may_ask(&self, now: u32) -> bool {
        // Relaxed, both: one thread wins the exchange; nothing is published.
        let asked = self.asked.load(Ordering::Relaxed);
        elapsed_ms(asked, now) >= ASK_AGAIN_MS
            && self.asked.compare_exchange(asked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::new()
    }
}
