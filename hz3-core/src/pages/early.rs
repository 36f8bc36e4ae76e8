//! Early: how long free memory is kept, and how much of it where no thread gives it back later.
//!
//! ```text
//! delay, twice as long for 16 s once half of what went back by age is taken again within the delay,
//!        if four times as much was free as was in use meanwhile
//!
//! most = max(32 MiB, a sixteenth of the highest use) + allowance
//!
//! a run is taken that was given back less than the delay ago    allowance grows by it; with half of what was given back, by
//!                                                               all that was too much then
//! free memory reaches the delay's age                           allowance shrinks by it
//! ```
//!
//! A process without such a thread may sleep right after it has freed. What exceeds the bound therefore goes back while it
//! frees, in steps of bounded time, and at least as much as each call frees. One that takes it again soon pays page faults
//! once; from then on it keeps as much.

use crate::platform::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::platform::units::elapsed_ms;

/// Bytes that are always kept. Chosen: 13 ms of page faults, and more than most small programs free.
pub const LEAST_BYTES: usize = 32 << 20;
/// Chosen: with what caches keep, below a tenth.
const SHARE: usize = 16;

/// How long the delay is a longer one, in milliseconds. Chosen: a program whose bursts come a little after the delay pays
/// for one in a dozen.
const LONGER_MS: u32 = 16_000;

/// Chosen: more than a time slice.
const GIVING_MS: u32 = 100;

/// Whether a program with so many bytes in use and free rests between bursts. One that goes on with other sizes needs the
/// memory for them.
pub fn is_resting(used: usize, free: usize) -> bool {
    used <= free / 4
}

/// The bound's and the delay's state. Relaxed, all accesses: gauges; a lost update hardly matters.
pub struct Early {
    /// The highest use so far, in bytes.
    highest: AtomicUsize,
    allowance: AtomicUsize,
    /// Bytes given back early and not taken again, half of all that were, and the most by which the bound was exceeded then.
    given: AtomicUsize,
    half: AtomicUsize,
    exceeded: AtomicUsize,
    /// When memory last was given back early, in milliseconds.
    stamp: AtomicU32,
    /// Bytes given back by age that were not taken again, half of them; and when.
    aged: AtomicUsize,
    aged_stamp: AtomicU32,
    /// Most bytes that were free then, and those in use meanwhile.
    free: AtomicUsize,
    used: AtomicUsize,
    /// When limited address space last was to go back; 0 if never.
    short: AtomicU32,
    /// When the delay last became a longer one; 0 if it is none.
    longer_since: AtomicU32,
}

impl Early {
    /// Nothing used yet.
    pub const fn new() -> Self {
        Self {
            highest: AtomicUsize::new(0),
            allowance: AtomicUsize::new(0),
            given: AtomicUsize::new(0),
            half: AtomicUsize::new(0),
            exceeded: AtomicUsize::new(0),
            stamp: AtomicU32::new(0),
            aged: AtomicUsize::new(0),
            aged_stamp: AtomicU32::new(0),
            free: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            short: AtomicU32::new(0),
            longer_since: AtomicU32::new(0),
        }
    }

    /// Bytes by which `dirty` exceeds the bound, where `used` bytes hold memory, the dirty ones included.
    pub fn excess(&self, used: usize, dirty: usize) -> usize {
        if used > self.highest.load(Ordering::Relaxed) {
            self.highest.store(used, Ordering::Relaxed);
        }
        let share = self.highest.load(Ordering::Relaxed) / SHARE;
        dirty.saturating_sub(share.max(LEAST_BYTES) + self.allowance.load(Ordering::Relaxed))
    }

    /// Notes that `bytes` were given back early at `now`, as the bound was exceeded by `excess`.
    pub fn note_given(&self, bytes: usize, excess: usize, now: u32) {
        let given = self.given.load(Ordering::Relaxed);
        let (half, exceeded) = match given {
            0 => (0, 0),
            _ => (self.half.load(Ordering::Relaxed), self.exceeded.load(Ordering::Relaxed)),
        };
        self.half.store(half + bytes / 2, Ordering::Relaxed);
        self.exceeded.store(exceeded.max(excess), Ordering::Relaxed);
        self.given.store(given.saturating_add(bytes), Ordering::Relaxed);
        self.stamp.store(now, Ordering::Relaxed);
    }

    /// Whether memory was given back early just before `now`.
    pub fn is_giving(&self, now: u32) -> bool {
        self.given.load(Ordering::Relaxed) != 0 && elapsed_ms(self.stamp.load(Ordering::Relaxed), now) < GIVING_MS
    }

    /// Notes at `now` that more address space is mapped than may be, where it is limited.
    pub fn note_shortage(&self, now: u32) {
        self.short.store(now.max(1), Ordering::Relaxed);
    }

    /// Whether that was just before `now`.
    pub fn is_short(&self, now: u32) -> bool {
        let short = self.short.load(Ordering::Relaxed);
        short != 0 && elapsed_ms(short, now) < GIVING_MS
    }

    /// Whether [`Early::note_taken`] has anything to do.
    #[inline]
    pub fn has_given(&self) -> bool {
        self.given.load(Ordering::Relaxed) | self.aged.load(Ordering::Relaxed) != 0
    }

    /// Notes that `bytes` without memory were taken at `now`.
    pub fn note_taken(&self, bytes: usize, now: u32, delay_ms: u32) {
        let aged = self.aged.load(Ordering::Relaxed);
        if aged != 0 {
            let is_soon = elapsed_ms(self.aged_stamp.load(Ordering::Relaxed), now) < delay_ms;
            let left = if is_soon { aged.saturating_sub(bytes) } else { 0 };
            self.aged.store(left, Ordering::Relaxed);
            let was_resting = is_resting(self.used.load(Ordering::Relaxed), self.free.load(Ordering::Relaxed));
            if is_soon && left == 0 && was_resting {
                self.longer_since.store(now.max(1), Ordering::Relaxed);
            }
        }
        let given = self.given.load(Ordering::Relaxed);
        if elapsed_ms(self.stamp.load(Ordering::Relaxed), now) >= delay_ms {
            return self.given.store(0, Ordering::Relaxed);
        }
        let missed = bytes.min(given);
        let was_more = given > self.half.load(Ordering::Relaxed);
        self.given.store(given - missed, Ordering::Relaxed);
        // Whoever takes half of it again would take the rest again too.
        let more = if was_more && given - missed <= self.half.load(Ordering::Relaxed) {
            self.exceeded.load(Ordering::Relaxed).max(missed)
        } else {
            missed
        };
        self.allowance.store(self.allowance.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
    }

    /// Notes that `bytes` of `free` ones reached the delay's age and were given back at `now`, while `used` bytes are in use.
    pub fn note_aged(&self, bytes: usize, free: usize, used: usize, now: u32, delay_ms: u32) {
        if bytes == 0 {
            return;
        }
        let allowance = self.allowance.load(Ordering::Relaxed);
        self.allowance.store(allowance.saturating_sub(bytes), Ordering::Relaxed);
        let is_new = self.aged.load(Ordering::Relaxed) == 0
            || elapsed_ms(self.aged_stamp.load(Ordering::Relaxed), now) >= delay_ms;
        let before = if is_new { 0 } else { self.aged.load(Ordering::Relaxed) };
        let most_free = if is_new { 0 } else { self.free.load(Ordering::Relaxed) };
        self.free.store(most_free.max(free), Ordering::Relaxed);
        self.used.store(used, Ordering::Relaxed);
        self.aged.store(before + bytes / 2, Ordering::Relaxed);
        self.aged_stamp.store(now, Ordering::Relaxed);
    }

    /// Milliseconds that free memory is kept at `now`, where the options say `delay_ms`.
    pub fn delay_ms(&self, now: u32, delay_ms: u32) -> u32 {
        let since = self.longer_since.load(Ordering::Relaxed);
        if since == 0 {
            return delay_ms;
        }
        if elapsed_ms(since, now) >= LONGER_MS {
            self.longer_since.store(0, Ordering::Relaxed);
            return delay_ms;
        }
        delay_ms.saturating_mul(2).min(u32::MAX - 1)
    }
}

impl Default for Early {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_sixteenth_of_the_highest_use_is_kept_and_at_least_32_mib() {
        let early = Early::new();
        assert_eq!(early.excess(100 * MIB, 40 * MIB), 8 * MIB);
        assert_eq!(early.excess(1024 * MIB, 100 * MIB), 36 * MIB);
        assert_eq!(early.excess(100 * MIB, 60 * MIB), 0);
    }

    #[test]
    fn what_is_taken_again_soon_is_kept_next_time_until_it_gets_old() {
        let early = Early::new();
        assert!(!early.has_given());
        early.note_given(300 * MIB, 300 * MIB, 1000);
        assert!(early.has_given() && early.is_giving(1050) && !early.is_giving(1500));
        early.note_taken(100 * MIB, 1500, 1000);
        assert_eq!(early.excess(400 * MIB, 300 * MIB), 168 * MIB);
        early.note_taken(200 * MIB, 2500, 1000);
        assert!(!early.has_given(), "too late");
        assert_eq!(early.excess(400 * MIB, 300 * MIB), 168 * MIB);
        early.note_aged(50 * MIB, 50 * MIB, 0, 9000, 1000);
        assert_eq!(early.excess(400 * MIB, 300 * MIB), 218 * MIB);
        early.note_aged(150 * MIB, 150 * MIB, 0, 9000, 1000);
        assert_eq!(early.excess(400 * MIB, 300 * MIB), 268 * MIB);
    }

    #[test]
    fn once_half_is_taken_again_all_that_was_too_much_is_kept() {
        let early = Early::new();
        early.note_given(10 * MIB, 90 * MIB, 1000);
        early.note_given(10 * MIB, 80 * MIB, 1000);
        early.note_taken(8 * MIB, 1001, 1000);
        assert_eq!(early.excess(400 * MIB, 122 * MIB), 82 * MIB);
        early.note_taken(8 * MIB, 1001, 1000);
        assert_eq!(early.excess(400 * MIB, 122 * MIB), 0);
    }

    #[test]
    fn the_delay_is_longer_for_a_while_once_half_of_what_went_back_is_taken_soon() {
        let early = Early::new();
        early.note_aged(100 * MIB, 200 * MIB, 50 * MIB, 5000, 1000);
        early.note_aged(100 * MIB, 100 * MIB, 50 * MIB, 5050, 1000);
        early.note_taken(60 * MIB, 5300, 1000);
        assert_eq!(early.delay_ms(5300, 1000), 1000);
        early.note_taken(60 * MIB, 5400, 1000);
        assert_eq!(early.delay_ms(5400, 1000), 2000);
        assert_eq!(early.delay_ms(5400 + LONGER_MS, 1000), 1000);
        early.note_aged(100 * MIB, 100 * MIB, 0, 40_000, 1000);
        early.note_taken(60 * MIB, 41_000, 1000);
        early.note_taken(60 * MIB, 41_000, 1000);
        assert_eq!(early.delay_ms(41_000, 1000), 1000, "not soon");
        early.note_aged(200 * MIB, 200 * MIB, 60 * MIB, 50_000, 1000);
        early.note_taken(200 * MIB, 50_100, 1000);
        assert_eq!(early.delay_ms(50_100, 1000), 1000, "much was in use");
    }
}
