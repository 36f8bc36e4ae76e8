//! Ends: how much of what is free at windows' ends is unmapped, so that what is mapped follows what is used.
//!
//! ```text
//! window   | in use | clean | in use | clean …        |
//!                                    | kept | unmapped |     all of them keep an eighth of what is used, and 32 MiB
//! ```
//!
//! Tags stay mapped, below a window's bound as before: what lies past its end has none.

use crate::platform::units::PAGE_BYTES;

/// Clean memory that stays mapped: so many bytes, and one byte per so many in use.
const KEPT_BYTES: usize = 32 << 20;
const KEPT_PER: usize = 8;
/// Fewest and most pages unmapped at a time. Chosen: few calls; less than a millisecond.
pub const FEWEST_PAGES: usize = (16 << 20) / PAGE_BYTES;
const MOST_PAGES: usize = (256 << 20) / PAGE_BYTES;

/// Most pages to unmap at once where `free` of `mapped` bytes are not in use; 0 if it is not worth a call.
pub fn most_pages(free: usize, mapped: usize) -> usize {
    let surplus = free.saturating_sub(KEPT_BYTES + mapped.saturating_sub(free) / KEPT_PER) / PAGE_BYTES;
    if surplus < FEWEST_PAGES { 0 } else { surplus.min(MOST_PAGES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_of_what_is_used_and_32_mib_stay_and_little_is_not_worth_a_call() {
        const MIB: usize = 1 << 20;
        let most_mib = |free, mapped| most_pages(free * MIB, mapped * MIB) * PAGE_BYTES / MIB;
        assert_eq!(most_mib(132, 932), 0);
        assert_eq!(most_mib(147, 947), 0);
        assert_eq!(most_mib(148, 948), 16);
        assert_eq!(most_mib(232, 1032), 100);
        assert_eq!(most_mib(1000, 1000), 256);
        assert_eq!(most_mib(0, 100), 0);
    }
}
