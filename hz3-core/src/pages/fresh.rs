//! Fresh: how many pages without memory were taken, and after how many growth is looked at.

use crate::platform::atomic::{AtomicUsize, Ordering};

/// Fewest pages between two looks. Chosen: 1 MiB; a look then costs little beside the page faults.
pub const LEAST_PAGES: usize = 256;

/// The counts. Relaxed, all accesses: gauges.
pub struct Fresh {
    /// Pages taken since the last look.
    pages: AtomicUsize,
    /// Pages after which the next look is due.
    due: AtomicUsize,
}

impl Fresh {
    /// None taken.
    #[allow(clippy::new_without_default, reason = "only an allocator has one")]
    pub const fn new() -> Self {
        Self { pages: AtomicUsize::new(0), due: AtomicUsize::new(LEAST_PAGES) }
    }

    /// Notes that `pages` were taken.
    pub fn note(&self, pages: usize) {
        self.pages.fetch_add(pages, Ordering::Relaxed);
    }

    /// Notes that `pages` that were just noted are not used.
    pub fn forget(&self, pages: usize) {
        let less = |noted: usize| Some(noted.saturating_sub(pages));
        let _ = self.pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether a look is due.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.pages.load(Ordering::Relaxed) >= self.due.load(Ordering::Relaxed)
    }

    /// Claims all pages taken: whoever gets them looks.
    pub fn claim(&self) -> usize {
        self.pages.swap(0, Ordering::Relaxed)
    }

    /// Makes the next look due after `pages`, at least [`LEAST_PAGES`].
    pub fn set_due(&self, pages: usize) {
        let pages = pages.max(LEAST_PAGES);
        if self.due.load(Ordering::Relaxed) != pages {
            self.due.store(pages, Ordering::Relaxed);
        }
    }

    /// Makes the next look due after `pages` at most, or [`LEAST_PAGES`].
    pub fn hasten_due(&self, pages: usize) {
        if self.due.load(Ordering::Relaxed) > pages {
            self.set_due(pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_due_after_as_many_pages_as_were_set_and_at_least_a_mib() {
        let fresh = Fresh::new();
        fresh.note(LEAST_PAGES - 1);
        assert!(!fresh.is_due());
        fresh.note(1);
        assert!(fresh.is_due());
        assert_eq!((fresh.claim(), fresh.claim()), (LEAST_PAGES, 0));
        fresh.set_due(2 * LEAST_PAGES);
        fresh.note(LEAST_PAGES);
        assert!(!fresh.is_due());
        fresh.note(LEAST_PAGES);
        assert!(fresh.is_due());
        fresh.set_due(4 * LEAST_PAGES);
        fresh.hasten_due(5 * LEAST_PAGES);
        assert_eq!(fresh.due.load(Ordering::Relaxed), 4 * LEAST_PAGES);
        fresh.hasten_due(2 * LEAST_PAGES);
        assert_eq!(fresh.due.load(Ordering::Relaxed), 2 * LEAST_PAGES);
        fresh.set_due(0);
        fresh.claim();
        fresh.note(LEAST_PAGES - 1);
        assert!(!fresh.is_due());
    }
}
