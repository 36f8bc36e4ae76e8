//! Clearing: makes a large block of used memory read as zero.
//!
//! ```text
//! up to 64 MiB, of which pages are looked at               zeros alone: given back
//! | … page … page … page … | … page … page … page … |      else: each 2 MiB
//!   few hold other bytes: given back       many: overwritten, and for some time so are all blocks of about this size
//! ```
//!
//! What was used is free as a whole, though the program may have written to a little of it. To overwrite a page without
//! memory costs a page fault, many times what it costs where there is memory; to give memory back and let it come again
//! costs more still. The system tells which pages have memory, but filters may kill who asks. Pages of zeros tell nearly
//! as well: they have none, or nothing was written there.

use crate::platform::atomic::{AtomicU32, Ordering};
use crate::platform::os::Os;
use crate::platform::system_page;
use crate::platform::units::PAGE_BYTES;
use core::ptr::NonNull;

/// Bytes that are given back or overwritten as one. Chosen, as all below, by measuring: `docs/decisions/large-blocks.md`.
const LONG_BYTES: usize = 64 << 20;
const SHORT_BYTES: usize = 2 << 20;
/// Most pages of them that are looked at, at most one in [`SPACING`].
const LOOKS: usize = 16;
const SPACING: usize = 8;
/// One in so many that holds other bytes than zeros is many.
const FEW: usize = 8;
/// Least bytes of a block of which pages are looked at.
const LEAST_BYTES: usize = 128 << 10;
/// Blocks that are overwritten unseen once most of one was.
const UNSEEN: core::ops::RangeInclusive<u32> = 16..=4096;
/// Classes of sizes, by doubling.
const CLASSES: usize = 24;

/// What is known of blocks of about a size. Relaxed, all accesses: hints.
struct Class {
    /// Blocks still to be overwritten unseen, and how many there were last time.
    left: AtomicU32,
    last: AtomicU32,
}

/// How an allocator clears.
pub struct Clearing([Class; CLASSES]);

impl Clearing {
    /// Nothing known.
    #[allow(clippy::new_without_default, reason = "only an allocator has one")]
    pub const fn new() -> Self {
        Self([const { Class { left: AtomicU32::new(0), last: AtomicU32::new(0) } }; CLASSES])
    }

    /// Clears `bytes` at `start`, the beginning of a page of the system.
    ///
    /// # Safety
    /// The caller owns the range, which is writable.
    pub unsafe fn clear<O: Os>(&self, start: *mut u8, bytes: usize) {
        let class = self.0.get((bytes / LEAST_BYTES).checked_ilog2().map_or(CLASSES, |log| log as usize));
        let left = class.map_or(1, |class| class.left.load(Ordering::Relaxed));
        if left > 0 {
            if let Some(class) = class {
                class.left.store(left - 1, Ordering::Relaxed);
            }
            // SAFETY: the caller's range.
            return unsafe { start.write_bytes(0, bytes) };
        }
        let (whole, mut written) = (system_page::start_of(bytes), 0);
        // SAFETY: all parts lie in the caller's range.
        unsafe {
            for from in (0..whole).step_by(LONG_BYTES) {
                let (part, part_bytes) = (start.add(from), LONG_BYTES.min(whole - from));
                if part_bytes > SHORT_BYTES && gives_back::<O>(part, part_bytes, 1) {
                    continue;
                }
                for from in (0..part_bytes).step_by(SHORT_BYTES) {
                    let (part, part_bytes) = (part.add(from), SHORT_BYTES.min(part_bytes - from));
                    if !gives_back::<O>(part, part_bytes, (LOOKS / FEW).max(1)) {
                        part.write_bytes(0, part_bytes);
                        written += part_bytes;
                    }
                }
            }
            start.add(whole).write_bytes(0, bytes - whole);
        }
        if let Some(class) = class {
            let (last, is_many) = (class.last.load(Ordering::Relaxed), written > bytes / 2);
            let unseen = if is_many { (2 * last).clamp(*UNSEEN.start(), *UNSEEN.end()) } else { 0 };
            class.last.store(unseen, Ordering::Relaxed);
            class.left.store(unseen, Ordering::Relaxed);
        }
    }
}

/// Gives the pages back if fewer than `many` that are looked at hold other bytes than zeros; whether all read as zero.
///
/// # Safety
/// The caller owns the pages, which are writable, and needs no contents.
unsafe fn gives_back<O: Os>(start: *mut u8, bytes: usize, many: usize) -> bool {
    // SAFETY: the caller owns the pages, and needs no contents.
    unsafe {
        has_fewer(start, bytes / PAGE_BYTES, many) && NonNull::new(start).is_some_and(|start| O::purge(start, bytes))
    }
}

/// # Safety
/// The caller owns the `pages`, which are readable.
unsafe fn has_fewer(start: *const u8, pages: usize, many: usize) -> bool {
    // At no stride that a program may have: where, the address decides.
    const FACTOR: usize = 0x9e37_79b9_7f4a_7c15;
    let looks = (pages / SPACING).clamp(1, LOOKS);
    let (mut drawn, mut found) = ((start.addr() / PAGE_BYTES).wrapping_mul(FACTOR), 0);
    for look in 0..looks {
        drawn = drawn.wrapping_add(FACTOR).wrapping_mul(FACTOR);
        let (first, end) = (look * pages / looks, (look + 1) * pages / looks);
        let page = first + (drawn >> 32) % (end - first).max(1);
        // SAFETY: the page is one of the caller's. Volatile: what it holds is nobody's value.
        let is_empty = unsafe {
            let words = start.add(page * PAGE_BYTES).cast::<u64>();
            (0..PAGE_BYTES / size_of::<u64>()).all(|word| words.add(word).read_volatile() == 0)
        };
        found += usize::from(!is_empty);
        if found >= many {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::linux::Linux;

    #[test]
    fn every_byte_is_zero_whatever_was_written_where() {
        let most = if cfg!(miri) { 150 << 10 } else { 40 << 20 };
        let start = Linux::map(most).expect("memory").as_ptr();
        let clearing = Clearing::new();
        let lengths = [1, 5000, LEAST_BYTES, LEAST_BYTES + 1, (1 << 20) - 1, 17 << 20, (33 << 20) + 4097];
        for bytes in lengths.into_iter().filter(|&bytes| bytes < most) {
            // A byte in each step: from all pages to one.
            for step in [100, PAGE_BYTES, 3 * PAGE_BYTES, 3 << 20, most].repeat(2) {
                // SAFETY: this test's mapping.
                let all = unsafe { core::slice::from_raw_parts_mut(start, bytes + 1) };
                all.iter_mut().step_by(step).for_each(|byte| *byte = 1);
                all[bytes] = 7;
                // SAFETY: as above.
                unsafe { clearing.clear::<Linux>(start, bytes) };
                let (last, cleared) = all.split_last().expect("bytes");
                assert!(cleared.iter().all(|&byte| byte == 0), "{bytes} in steps of {step}");
                assert_eq!(*last, 7, "{bytes} in steps of {step}");
            }
        }
        // SAFETY: this test's mapping, which it gives up.
        assert!(unsafe { Linux::unmap(NonNull::new(start).expect("not null"), most) });
    }
}
