//! Limit: counts the pages that hold memory, and bounds them.
//!
//! ```text
//! clean run  → taken   (charge) → … → purged    (uncharge)
//! no mapping → mapped  (charge) → … → unmapped  (uncharge)
//!
//! counted = small spans + large blocks + dirty and waiting runs + direct and kept mappings     hz3's tables are not
//! hard limit   a charge beyond it is refused: pages are reserved before they are taken, so it is exact
//! soft limit   beyond the threshold, free memory goes back. The threshold is the soft limit, or a step above what was left
//!              when nothing more was free
//! ```
//!
//! A block counts with all its pages, whether the program has written to them or not. Holes of spans count for the hard
//! limit, as slots come and go there without a question; for the soft one they do not.

use crate::platform::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::platform::options::{NEVER, Options, SoftLimit};
use crate::platform::os::Os;
use crate::platform::units::{PAGE_BYTES, elapsed_ms};

/// Pages of a limit that is none.
const NONE: usize = usize::MAX;
/// What may come fresh between two payments: this part of the soft limit, and at least so many pages. Chosen: a payment's
/// millisecond is then small beside the page faults of what comes.
const STEPS: usize = 64;
const LEAST_STEP_PAGES: usize = (1 << 20) / PAGE_BYTES;
/// Part of the threshold that is left where it is near.
const NEAR: usize = 16;
/// Counted pages from which `auto` holds. Chosen: what a container has room for.
const AUTO_PAGES: usize = (32 << 20) / PAGE_BYTES;
/// Milliseconds after which a threshold above the soft limit ends.
const RAISED_MS: u32 = 1000;
/// Milliseconds after which the system is asked for its limit again. Chosen: the files take some 50 µs.
const ASK_MS: u32 = 1000;
/// Part of the system's limit that is left to what hz3 does not count: tables, stacks, code, page tables.
const LEFT_SHARE: usize = 8;

/// The counts. Relaxed, all accesses: gauges, and a reservation that publishes nothing.
pub struct Limit {
    /// Pages that count.
    pages: AtomicUsize,
    /// Of them, holes without memory, as of the last look.
    hole_pages: AtomicUsize,
    /// Pages beyond which free memory goes back; [`NONE`] without a soft limit.
    threshold: AtomicUsize,
    /// The soft limit in pages.
    soft: AtomicUsize,
    /// Times that growth met the soft limit, and that the hard one refused a charge, which may have been served then.
    met: AtomicUsize,
    refused: AtomicUsize,
    /// Bytes that went back for requests at the hard limit.
    purged_bytes: AtomicU64,
    /// When the threshold was raised, and the system asked for its limit.
    raised_ms: AtomicU32,
    asked_ms: AtomicU32,
}

/// Whole pages of a limit in bytes; 0 is none.
const fn pages_of(bytes: usize) -> usize {
    if bytes == 0 || bytes == usize::MAX { NONE } else { bytes / PAGE_BYTES }
}

impl Limit {
    /// Nothing counts.
    #[allow(clippy::new_without_default, reason = "only an allocator has one")]
    pub const fn new() -> Self {
        Self {
            pages: AtomicUsize::new(0),
            hole_pages: AtomicUsize::new(0),
            threshold: AtomicUsize::new(NONE),
            soft: AtomicUsize::new(NONE),
            met: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            purged_bytes: AtomicU64::new(0),
            raised_ms: AtomicU32::new(0),
            asked_ms: AtomicU32::new(0),
        }
    }

    /// Counts `pages` more. False, and nothing has changed, if that exceeds the hard limit of `options`.
    #[must_use]
    #[inline]
    pub fn charge(&self, options: &Options, pages: usize) -> bool {
        let most = pages_of(options.hard_limit_bytes());
        if most == NONE {
            self.force(pages);
            return true;
        }
        self.reserve(pages, most)
    }

    #[cold]
    fn reserve(&self, pages: usize, most: usize) -> bool {
        let sum = |now: usize| now.checked_add(pages).filter(|&sum| pages == 0 || sum <= most);
        let is_granted = self.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok();
        if !is_granted {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        is_granted
    }

    /// Counts `pages` more, whatever the limit.
    #[inline]
    pub fn force(&self, pages: usize) {
        self.pages.fetch_add(pages, Ordering::Relaxed);
    }

    /// Counts `pages` less, which were counted.
    #[inline]
    pub fn uncharge(&self, pages: usize) {
        self.pages.fetch_sub(pages, Ordering::Relaxed);
    }

    /// Pages that count.
    pub fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Pages by which `pages` more exceed the hard limit of `options`.
    pub fn excess(&self, options: &Options, pages: usize) -> usize {
        self.pages().saturating_add(pages).saturating_sub(pages_of(options.hard_limit_bytes()))
    }

    fn held_pages(&self) -> usize {
        self.pages().saturating_sub(self.hole_pages.load(Ordering::Relaxed))
    }

    /// Whether more counts than the soft limit allows.
    #[inline]
    pub fn is_met(&self) -> bool {
        let threshold = self.threshold.load(Ordering::Relaxed);
        threshold != NONE && self.held_pages() > threshold
    }

    /// Notes that `bytes` went back for a request at the hard limit.
    pub fn note_purged(&self, bytes: usize) {
        self.purged_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that went back for requests at the hard limit so far.
    pub fn purged_bytes(&self) -> u64 {
        self.purged_bytes.load(Ordering::Relaxed)
    }

    /// Whether so much counts that growth may soon meet the soft limit.
    #[inline]
    pub fn is_near(&self) -> bool {
        let threshold = self.threshold.load(Ordering::Relaxed);
        threshold != NONE && self.held_pages() > threshold - threshold / NEAR
    }

    /// Pages that may come before the soft limit is met; `None` without one.
    pub fn room(&self) -> Option<usize> {
        let threshold = self.threshold.load(Ordering::Relaxed);
        (threshold != NONE).then(|| threshold.saturating_sub(self.held_pages()))
    }

    /// Notes that so many counted pages are holes without memory.
    pub fn note_holes(&self, pages: usize) {
        self.hole_pages.store(pages, Ordering::Relaxed);
    }

    /// Pages that may come between two payments.
    fn step(soft: usize) -> usize {
        (soft / STEPS).max(LEAST_STEP_PAGES)
    }

    /// Pages that are to go back, half a least step more than must; 0 if the soft limit is not met.
    pub fn owed(&self) -> usize {
        if !self.is_met() {
            return 0;
        }
        self.met.fetch_add(1, Ordering::Relaxed);
        let threshold = self.threshold.load(Ordering::Relaxed);
        self.held_pages().saturating_sub(threshold) + LEAST_STEP_PAGES / 2
    }

    /// Notes that nothing more is free at `now`: until a step more counts, or for a while, nothing is asked for.
    pub fn raise_threshold(&self, now: u32) {
        let soft = self.soft.load(Ordering::Relaxed);
        if soft != NONE {
            self.threshold.store(soft.max(self.held_pages().saturating_add(Self::step(soft))), Ordering::Relaxed);
            self.raised_ms.store(now, Ordering::Relaxed);
        }
    }

    /// The soft limit in bytes by `options`; `usize::MAX` if there is none.
    fn soft_bytes<O: Os>(&self, options: &Options) -> usize {
        match options.soft_limit() {
            SoftLimit::None => usize::MAX,
            SoftLimit::Bytes(bytes) => bytes,
            SoftLimit::Percent(percent) => match options.system_bytes().min(O::memory_bytes()) {
                usize::MAX => usize::MAX,
                bytes => bytes / 100 * percent as usize + bytes % 100 * percent as usize / 100,
            },
            // Who never gives memory back must ask for a limit.
            SoftLimit::Auto if self.pages() < AUTO_PAGES || options.purge_delay_ms() == NEVER => usize::MAX,
            SoftLimit::Auto => match options.system_bytes() {
                usize::MAX => usize::MAX,
                bytes => bytes - bytes / LEFT_SHARE,
            },
        }
    }

    /// Sets the soft limit by `options` at `now`, and asks the system again where it is followed. The caller holds no lock.
    pub fn set_soft<O: Os>(&self, options: &Options, now: u32) {
        if options.follows_system() && elapsed_ms(self.asked_ms.load(Ordering::Relaxed), now) >= ASK_MS {
            self.asked_ms.store(now, Ordering::Relaxed);
            options.ask_system::<O>();
        }
        let soft = pages_of(self.soft_bytes::<O>(options));
        let is_new = self.soft.swap(soft, Ordering::Relaxed) != soft;
        let is_over = elapsed_ms(self.raised_ms.load(Ordering::Relaxed), now) >= RAISED_MS || self.held_pages() <= soft;
        if is_new || is_over && self.threshold.load(Ordering::Relaxed) != soft {
            self.threshold.store(soft, Ordering::Relaxed);
        }
    }

    /// The soft limit in bytes; 0 if there is none.
    pub fn soft_limit_bytes(&self) -> usize {
        match self.soft.load(Ordering::Relaxed) {
            NONE => 0,
            pages => pages * PAGE_BYTES,
        }
    }

    /// Times that growth met the soft limit, and that the hard one refused it.
    pub fn met_and_refused(&self) -> (usize, usize) {
        (self.met.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::fake::Fake;

    const MIB: usize = (1 << 20) / PAGE_BYTES;

    fn options(soft: SoftLimit, hard: usize) -> Options {
        let options = Options::new(1000, 4 << 30);
        options.set_soft_limit(soft);
        options.set_hard_limit_bytes(hard);
        options
    }

    #[test]
    fn no_page_more_than_the_hard_limit_is_granted_to_many_threads() {
        let (limit, options) = (Limit::new(), options(SoftLimit::None, 10_007 * PAGE_BYTES + 5));
        let granted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..4000 {
                        if limit.charge(&options, 3) {
                            granted.fetch_add(3, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!((limit.pages(), granted.load(Ordering::Relaxed)), (10_005, 10_005));
        assert!(!limit.charge(&options, 3) && limit.charge(&options, 2) && !limit.charge(&options, 1));
        assert!(!limit.charge(&options, usize::MAX), "no overflow");
        assert_eq!((limit.excess(&options, 0), limit.excess(&options, 9)), (0, 9));
        limit.uncharge(7);
        assert!(limit.charge(&options, 7) && !limit.charge(&options, 1));
        options.set_hard_limit_bytes(0);
        assert!(limit.charge(&options, 1));
    }

    #[test]
    fn what_can_t_go_back_is_asked_for_once_a_step_or_a_second() {
        let (limit, options) = (Limit::new(), options(SoftLimit::Bytes(320 << 20), 0));
        limit.set_soft::<Fake>(&options, 5000);
        limit.force(320 * MIB);
        assert!(!limit.is_met() && limit.owed() == 0);
        limit.force(1);
        assert_eq!((limit.is_met(), limit.owed()), (true, 1 + MIB / 2));
        limit.raise_threshold(5000);
        limit.force(5 * MIB);
        assert!(!limit.is_met());
        limit.force(1);
        assert!(limit.is_met());
        limit.raise_threshold(5000);
        assert!(!limit.is_met());
        limit.set_soft::<Fake>(&options, 5999);
        assert!(!limit.is_met());
        limit.set_soft::<Fake>(&options, 6000);
        assert!(limit.is_met(), "a second later");
        limit.note_holes(20 * MIB);
        assert!(!limit.is_met(), "holes hold nothing");
        assert_eq!(limit.met_and_refused(), (1, 0));
    }

    #[test]
    fn a_limit_of_the_system_s_counts_once_some_memory_is_in_use() {
        let (limit, options) = (Limit::new(), options(SoftLimit::Auto, 0));
        Fake::set_memory(64 << 30, 800 << 20);
        options.ask_system::<Fake>();
        limit.set_soft::<Fake>(&options, 5000);
        assert_eq!(limit.soft_limit_bytes(), 0);
        limit.force(AUTO_PAGES);
        limit.set_soft::<Fake>(&options, 5000);
        assert_eq!(limit.soft_limit_bytes(), 700 << 20);
        Fake::set_memory(64 << 30, 80 << 20);
        limit.set_soft::<Fake>(&options, 6000);
        assert_eq!(limit.soft_limit_bytes(), 700 << 20, "files were opened late");
        options.set_follows_system(true);
        limit.set_soft::<Fake>(&options, 6100);
        assert_eq!(limit.soft_limit_bytes(), 70 << 20, "who asks for it gets it");
        Fake::set_memory(64 << 30, 160 << 20);
        limit.set_soft::<Fake>(&options, 7099);
        assert_eq!(limit.soft_limit_bytes(), 70 << 20, "not at once");
        limit.set_soft::<Fake>(&options, 7100);
        assert_eq!(limit.soft_limit_bytes(), 140 << 20);
        Fake::set_memory(64 << 30, 80 << 20);
        options.ask_system::<Fake>();
        options.set_soft_limit(SoftLimit::Percent(50));
        limit.set_soft::<Fake>(&options, 6000);
        assert_eq!(limit.soft_limit_bytes() >> 20, 40);
        Fake::set_memory(100 << 20, usize::MAX);
        options.ask_system::<Fake>();
        limit.set_soft::<Fake>(&options, 7000);
        assert_eq!(limit.soft_limit_bytes() >> 20, 50);
        options.set_soft_limit(SoftLimit::None);
        limit.set_soft::<Fake>(&options, 7000);
        assert_eq!((limit.soft_limit_bytes(), limit.is_met()), (0, false));
    }
}
