//! Schedule: decides which thread does upkeep and when, and remembers where the next turn continues.

use crate::platform::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::platform::units::elapsed_ms;

/// How much sooner the next turn is due if work is left.
const BEHIND_SPEEDUP: u32 = 8;
/// Milliseconds between two trim requests for want of memory. Chosen: the time between two turns at the default delay.
const REQUEST_INTERVAL_MS: u32 = 125;

/// Milliseconds between two steps of a pass. Chosen: a thread that does all of them loses at most a third of its time.
const STEP_MS: u32 = 4;

/// The state of upkeep. Times are in milliseconds.
// Relaxed, all accesses: nothing is published. Turns may overlap: what they change has locks of its own.
pub struct Schedule {
    last_turn: AtomicU32,
    round_start: AtomicU32,
    is_behind: AtomicU32,
    next_shard: AtomicU32,
    /// When a trim was last requested for want of memory.
    last_request: AtomicU32,
    /// How fast old memory goes back.
    pub pace: Pace,
}

impl Schedule {
    /// No turn yet.
    pub const fn new() -> Self {
        Self {
            last_turn: AtomicU32::new(0),
            round_start: AtomicU32::new(0),
            is_behind: AtomicU32::new(0),
            next_shard: AtomicU32::new(0),
            last_request: AtomicU32::new(0),
            pace: Pace::new(),
        }
    }

    /// Claims a turn at `now`, `tick_ms` after the last, or an eighth of it if work is left; whether this thread won.
    pub fn claim_turn(&self, now: u32, tick_ms: u32) -> bool {
        let is_behind = self.is_behind.load(Ordering::Relaxed) != 0;
        let pause_ms = if is_behind { tick_ms / BEHIND_SPEEDUP } else { tick_ms };
        let last = self.last_turn.load(Ordering::Relaxed);
        elapsed_ms(last, now) >= pause_ms
            && self.last_turn.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Begins a round at `now`, `tick_ms` after the last; whether it did.
    pub fn begin_round_if_due(&self, now: u32, tick_ms: u32) -> bool {
        let is_new = elapsed_ms(self.round_start.load(Ordering::Relaxed), now) >= tick_ms;
        if is_new {
            self.round_start.store(now, Ordering::Relaxed);
        }
        is_new
    }

    /// Lets the next turn wait for a whole pause from `now`: what is due in a forked child is its parent's doing.
    pub fn put_off(&self, now: u32) {
        self.last_turn.store(now, Ordering::Relaxed);
        self.round_start.store(now, Ordering::Relaxed);
        self.set_behind(false);
    }

    /// Notes whether the turn left work.
    pub fn set_behind(&self, is_behind: bool) {
        self.is_behind.store(u32::from(is_behind), Ordering::Relaxed);
    }

    /// The shard at which the next search for holes starts.
    pub fn next_shard(&self) -> u32 {
        self.next_shard.load(Ordering::Relaxed)
    }

    /// Sets the shard at which the next search for holes starts.
    pub fn set_next_shard(&self, shard: u32) {
        self.next_shard.store(shard, Ordering::Relaxed);
    }

    /// Claims the right to request a trim at `now`; whether this thread won.
    pub fn claim_trim_request(&self, now: u32) -> bool {
        let last_request = self.last_request.load(Ordering::Relaxed);
        elapsed_ms(last_request, now) >= REQUEST_INTERVAL_MS
            && self.last_request.compare_exchange(last_request, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::new()
    }
}

/// Rounds in which what is old goes back while the program rests. Chosen: one that needs it again a little later finds most
/// of it.
const ROUNDS: usize = 8;
/// Bytes that go back in a round, at least.
const LEAST_PACE_BYTES: usize = 8 << 20;

/// How much old memory still goes back in this round. Relaxed, all accesses: gauges.
pub struct Pace {
    /// What a round began with; 0 if the program works.
    bytes: AtomicUsize,
    left: AtomicUsize,
}

impl Pace {
    /// Nothing is old.
    pub const fn new() -> Self {
        Self { bytes: AtomicUsize::new(LEAST_PACE_BYTES), left: AtomicUsize::new(LEAST_PACE_BYTES) }
    }

    /// Begins a round, with `dirty` bytes that may be old: whatever is goes, or while the program rests an eighth, or as much as
    /// in the rounds before.
    pub fn begin_round(&self, dirty: usize, is_resting: bool) {
        let last = self.bytes.load(Ordering::Relaxed);
        let before = if self.left() < last { last } else { 0 };
        let bytes = if is_resting { before.max(dirty.div_ceil(ROUNDS)).max(LEAST_PACE_BYTES) } else { 0 };
        self.bytes.store(bytes, Ordering::Relaxed);
        self.left.store(if is_resting { bytes } else { usize::MAX }, Ordering::Relaxed);
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Notes that `bytes` went back.
    pub fn note_given(&self, bytes: usize) {
        self.left.store(self.left().saturating_sub(bytes), Ordering::Relaxed);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

/// When and where the next step of a pass over all heaps is due. Times are in milliseconds.
// Relaxed, all accesses: nothing is published. Steps may overlap: a heap is one taker's at a time.
pub struct Rests {
    pass_start: AtomicU32,
    last_step: AtomicU32,
    /// The heap at which the next step starts; 0 between two passes.
    next_heap: AtomicU32,
}

impl Rests {
    /// No pass yet.
    pub const fn new() -> Self {
        Self { pass_start: AtomicU32::new(0), last_step: AtomicU32::new(0), next_heap: AtomicU32::new(0) }
    }

    /// Claims a step at `now`; the heap at which it starts.
    pub fn claim_step(&self, now: u32, pass_ms: u32) -> Option<u32> {
        let (next, last) = (self.next_heap.load(Ordering::Relaxed), self.last_step.load(Ordering::Relaxed));
        let is_due = match next {
            0 => elapsed_ms(self.pass_start.load(Ordering::Relaxed), now) >= pass_ms,
            _ => elapsed_ms(last, now) >= STEP_MS,
        };
        if !is_due || self.last_step.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return None;
        }
        if next == 0 {
            self.pass_start.store(now, Ordering::Relaxed);
        }
        Some(next.max(1))
    }

    /// Whether a pass goes on.
    pub fn is_in_pass(&self) -> bool {
        self.next_heap.load(Ordering::Relaxed) != 0
    }

    /// Sets the heap at which the next step starts; 0 ends the pass.
    pub fn set_next_heap(&self, next: u32) {
        self.next_heap.store(next, Ordering::Relaxed);
    }
}

impl Default for Rests {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const MIB: usize = 1 << 20;

    /// MiB that go back in each round.
    fn rounds(pace: &Pace, mut dirty: usize, is_resting: bool) -> Vec<usize> {
        let mut rounds = Vec::new();
        while dirty > 0 {
            pace.begin_round(dirty, is_resting);
            let given = pace.left().min(dirty);
            for half in [given / 2, given - given / 2] {
                pace.note_given(half);
                dirty -= half;
            }
            rounds.push(given / MIB);
        }
        rounds
    }

    #[test]
    fn what_was_old_at_first_goes_back_in_eight_rounds_while_the_program_rests() {
        let pace = Pace::new();
        assert_eq!(rounds(&pace, 800 * MIB, true), [100; ROUNDS]);
        pace.begin_round(0, true);
        pace.begin_round(160 * MIB, true);
        assert_eq!(pace.left(), 20 * MIB);
    }

    #[test]
    fn it_goes_back_at_once_while_the_program_works() {
        let pace = Pace::new();
        assert_eq!(rounds(&pace, 800 * MIB, false), [800]);
        assert_eq!(rounds(&pace, 800 * MIB, true), [100; ROUNDS]);
    }
}
