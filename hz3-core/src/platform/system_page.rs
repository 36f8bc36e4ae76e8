//! System page: how long the system's pages are, which it says at the start.
//!
//! ```text
//! pages of hz3   |0|1|2|3|4|5|6|7|8|…        4 KiB: what tags, bins and lengths count in, on every system
//! system pages   |0      |1      |…          4, 16 or 64 KiB: what runs begin and end with, and the system is told of
//! ```
//!
//! All sizes here are powers of two. Until the system is asked, and where it does not say, its pages are hz3's.

// Not loom's: written once, before all else.
use core::sync::atomic::{AtomicU32, Ordering};

/// log2 of hz3's page, as in `platform/units.rs`.
const PAGE_SHIFT: u32 = 12;
/// Page sizes that may be: so many.
pub const CLASSES: usize = 3;

/// Which one it is.
static CLASS: AtomicU32 = AtomicU32::new(0);

/// Bytes of a system page of `class`: 4, 16, 64 KiB.
const fn bytes_of(class: usize) -> usize {
    1 << (PAGE_SHIFT + 2 * class as u32)
}

/// hz3's pages in a system page of `class`.
pub const fn pages_of(class: usize) -> usize {
    bytes_of(class) >> PAGE_SHIFT
}

/// Notes that the system's pages have `bytes`, or are unknown: 0. False if hz3 can't divide memory at their ends. The caller
/// has taken no memory yet.
pub fn begin(bytes: usize) -> bool {
    let class = if bytes == 0 { Some(0) } else { (0..CLASSES).find(|&class| bytes_of(class) == bytes) };
    if let Some(class) = class {
        // Relaxed: every thread that begins stores the same.
        CLASS.store(class as u32, Ordering::Relaxed);
    }
    class.is_some()
}

/// The class of the system's pages, below [`CLASSES`].
#[inline(always)]
pub fn class() -> usize {
    // Relaxed: written before memory was taken.
    CLASS.load(Ordering::Relaxed) as usize
}

/// Bytes of a system page.
#[inline]
pub fn bytes() -> usize {
    bytes_of(class())
}

/// hz3's pages in a system page: 1, 4 or 16.
#[inline]
pub fn pages() -> usize {
    pages_of(class())
}

/// `pages` of hz3 in whole system pages, rounded up.
#[inline]
pub fn whole(pages: usize) -> usize {
    whole_in(pages, class())
}

/// [`whole`] on a system with pages of `class`.
pub const fn whole_in(pages: usize, class: usize) -> usize {
    let most = pages_of(class) - 1;
    (pages + most) & !most
}

/// hz3's pages that hold `bytes` bytes, in whole system pages; 0 for 0.
#[inline]
pub fn pages_for(bytes: usize) -> usize {
    whole(bytes.div_ceil(bytes_of(0)))
}

/// Address of the system page that holds `address`.
#[inline]
pub fn start_of(address: usize) -> usize {
    address & !(bytes() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::units::PAGE_BYTES;

    #[test]
    fn lengths_are_rounded_up_to_whole_system_pages() {
        assert_eq!([0, 1, 2].map(pages_of), [1, 4, 16]);
        assert_eq!((bytes_of(0), bytes_of(2)), (PAGE_BYTES, 64 << 10));
        for pages in 0..100 {
            assert_eq!(whole_in(pages, 0), pages);
            assert_eq!([1, 2].map(|class| whole_in(pages, class)), [4, 16].map(|of| pages.next_multiple_of(of)));
        }
    }

    #[test]
    fn pages_of_another_size_are_refused_and_change_nothing() {
        for bytes in [1, 2048, 8192, 32 << 10, 128 << 10, 2 << 20] {
            assert!(!begin(bytes));
        }
        assert!(begin(0) && begin(PAGE_BYTES));
        assert_eq!((bytes(), pages(), whole(7), start_of(0x1fff)), (PAGE_BYTES, 1, 7, 0x1000));
    }
}
