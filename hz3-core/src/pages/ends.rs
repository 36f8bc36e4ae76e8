//! Ends: unmaps what is free at windows' ends, so that what is mapped follows what is used.
//!
//! ```text
//! window   | in use | clean | in use | clean …        |
//!                                    | kept | unmapped |     all of them keep an eighth of what is used, and 32 MiB
//! ```
//!
//! Tags stay mapped, below a window's bound as before: what lies past its end has none.

use crate::pages::arena::Arenas;
use crate::pages::runs::Runs;
use crate::platform::os::Os;
use crate::platform::units::PAGE_BYTES;
use core::ptr::{NonNull, with_exposed_provenance_mut};

/// Clean memory that stays mapped: so many bytes, and one byte per so many in use.
const KEPT_BYTES: usize = 32 << 20;
const KEPT_PER: usize = 8;
/// Fewest and most pages unmapped at a time. Chosen: few calls; less than a millisecond.
const FEWEST_PAGES: usize = (16 << 20) / PAGE_BYTES;
const MOST_PAGES: usize = (256 << 20) / PAGE_BYTES;

/// Pages of `free` bytes that are mapped beyond what may stay so.
fn surplus<O: Os>(runs: &Runs<O>, free: usize) -> usize {
    let (_, mapped) = runs.arenas.reserved_and_committed();
    free.saturating_sub(KEPT_BYTES + mapped.saturating_sub(free) / KEPT_PER) / PAGE_BYTES
}

/// Whether so much of `free` bytes, once they are clean, is to be unmapped that it is worth a call.
pub fn has_surplus<O: Os>(runs: &Runs<O>, free: usize) -> bool {
    surplus(runs, free) >= FEWEST_PAGES
}

/// Whether a window ends with so many free pages, dirty or clean. Takes the run lock.
pub fn has_free_end<O: Os>(runs: &Runs<O>) -> bool {
    runs.arenas.ends().any(|end| runs.is_free_before(end, FEWEST_PAGES))
}

/// Unmaps pages at the end of one window, if too much is mapped; the bytes. The caller holds no lock. Takes the growth lock
/// and the run lock.
#[cold]
pub fn unmap_end<O: Os>(runs: &Runs<O>) -> usize {
    let most = surplus(runs, runs.free_bytes().1).min(MOST_PAGES);
    if most < FEWEST_PAGES {
        return 0;
    }
    (0..Arenas::<O>::MOST_WINDOWS)
        .map_while(|number| unmap_end_of(runs, number, most))
        .find(|&bytes| bytes > 0)
        .unwrap_or(0)
}

/// The bytes unmapped at the end of window `number`; `None` if there is no such window.
fn unmap_end_of<O: Os>(runs: &Runs<O>, number: usize, most: usize) -> Option<usize> {
    let _transit = runs.forks.begin_transit::<O>();
    let Some(end) = runs.arenas.claim_end(number)? else { return Some(0) };
    // Windows end with whole segments, and so does what is left.
    let Some((id, pages)) = runs.take_end(end.address, FEWEST_PAGES, most.min(end.most_pages)) else {
        runs.arenas.give_up_end(end);
        return Some(0);
    };
    let start = NonNull::new(with_exposed_provenance_mut(end.address - pages * PAGE_BYTES));
    // SAFETY: the run, in whole pages, is this thread's, and nothing uses its contents.
    if start.is_some_and(|start| unsafe { O::unmap(start, pages * PAGE_BYTES) }) {
        runs.drop_end(id);
        runs.arenas.publish_end(end, pages);
        Some(pages * PAGE_BYTES)
    } else {
        runs.put_end_back(id);
        runs.arenas.give_up_end(end);
        Some(0)
    }
}
