//! Slack: extra bytes that `realloc` gives to large blocks that grow in steps, and keeps in blocks that shrink.
//!
//! ```text
//! requested   |████████|            |█████████|          |██████████|
//! pages       |████████|  moves →   |█████████|·|        |██████████|   in place
//! ```
//!
//! An append buffer grows by an eighth or less per step, and each move copies all of it. Room for one more step saves
//! every second move, or nearly all if steps are smaller.

use crate::pages::bins::MAX_SMALL_BYTES;
use crate::platform::units::PAGE_BYTES;

/// Largest step of growth, and the slack, as a part of the block. Chosen: CPython's growth of lists and strings.
const STEP: usize = 8;

/// Bytes to allocate when a block of `old` usable bytes moves to grow to `bytes`: with slack if another step is likely.
pub fn with_slack(bytes: usize, old: usize) -> usize {
    let is_step = old > MAX_SMALL_BYTES && bytes > old && bytes - old <= old / STEP + PAGE_BYTES;
    if is_step { bytes.saturating_add(bytes / STEP + PAGE_BYTES / 2) } else { bytes }
}

/// Whether a block of `old` usable bytes stays in place when it shrinks to `bytes`: a small one down to half, so that
/// sizes around a bin's edge don't move each time; a large one with at most the slack and a few pages to spare.
pub fn stays_in_place(bytes: usize, old: usize) -> bool {
    if old > MAX_SMALL_BYTES {
        old - bytes <= bytes / STEP + 2 * PAGE_BYTES || old - bytes < 4 * PAGE_BYTES && bytes > MAX_SMALL_BYTES
    } else {
        bytes >= old / 2 || old <= 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::units::pages_for;

    #[test]
    fn a_buffer_that_grows_by_an_eighth_moves_every_second_time() {
        let (mut bytes, mut usable, mut steps, mut moves) = (MAX_SMALL_BYTES + 1, MAX_SMALL_BYTES + 1, 0, 0);
        while bytes < 1 << 20 {
            bytes += bytes / 8 + 16;
            steps += 1;
            if bytes > usable {
                usable = pages_for(with_slack(bytes, usable)) * PAGE_BYTES;
                moves += 1;
            }
        }
        assert!(steps > 20 && moves <= steps / 2 + 1, "{moves} of {steps}");
    }

    #[test]
    fn slack_is_an_eighth_and_a_page_at_most_and_is_kept() {
        for bytes in (MAX_SMALL_BYTES + 1..1 << 20).step_by(997) {
            for old in
                [bytes - 1, bytes - bytes / 16, bytes - bytes / 9, bytes / 2].map(|old| pages_for(old) * PAGE_BYTES)
            {
                let usable = pages_for(with_slack(bytes, old)) * PAGE_BYTES;
                assert!(usable <= bytes + bytes / 8 + 2 * PAGE_BYTES && stays_in_place(bytes, usable), "{bytes} {old}");
            }
        }
    }

    #[test]
    fn what_is_small_or_takes_a_large_step_gets_none() {
        for (bytes, old) in [(32_000, 31_000), (40_000, 32_768), (200_000, 100_000), (usize::MAX, 100_000)] {
            assert_eq!(with_slack(bytes, old), bytes);
        }
    }
}
