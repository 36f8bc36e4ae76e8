//! The hardened lane as its caller sees it: memory that reads as zero, an order of reuse that can't be foretold, and
//! sizes that are right. What stops the process is tested in `hz3-preload/tests/preload_misuse.rs`.

use crate::access::is_readable;
use hz3_core::api::{block, size};
use hz3_core::observe::books::check_accounts;
use hz3_core::observe::stats::collect;
use hz3_core::pages::bins;
use hz3_core::platform::units::PAGE_BYTES;
use hz3_core::{Hardened, Lane};
use std::collections::VecDeque;

fn malloc(bytes: usize) -> *mut u8 {
    let block = block::malloc::<Hardened>(bytes);
    assert!(!block.is_null());
    block
}

fn free(block: *mut u8) {
    // SAFETY: every caller gives a live block that it does not use again.
    unsafe { block::free::<Hardened>(block) }
}

#[test]
fn a_block_that_was_freed_reads_as_zero_when_it_is_handed_out_again() {
    apart!();
    for bytes in [1, 16, 64, 500, 6000, (32 << 10) - 8] {
        for _ in 0..3 {
            let blocks: Vec<*mut u8> = (0..100).map(|_| block::malloc::<Hardened>(bytes)).collect();
            for &block in &blocks {
                assert!(!block.is_null());
                // SAFETY: a live block of `bytes` bytes, which the lane wiped.
                unsafe {
                    assert!((0..bytes).all(|index| *block.add(index) == 0), "{bytes}");
                    block.write_bytes(0xa5, bytes);
                }
            }
            for block in blocks {
                // SAFETY: live, and not used again.
                unsafe { block::free::<Hardened>(block) };
            }
        }
    }
}

#[test]
fn the_order_of_reuse_is_not_that_of_the_frees() {
    apart!();
    let take = || -> Vec<usize> {
        let blocks: Vec<*mut u8> = (0..30).map(|_| block::malloc::<Hardened>(48)).collect();
        for &block in &blocks {
            // SAFETY: live, and not used again.
            unsafe { block::free::<Hardened>(block) };
        }
        blocks.into_iter().map(<*mut u8>::addr).collect()
    };
    // The first rounds fill the thread's magazine.
    let rounds: Vec<Vec<usize>> = (0..6).map(|_| take()).collect();
    for pair in rounds.windows(2) {
        let reversed: Vec<usize> = pair[0].iter().rev().copied().collect();
        assert!(pair[1] != pair[0] && pair[1] != reversed);
    }
}

#[test]
fn a_block_is_freed_with_the_size_that_it_was_asked_for() {
    apart!();
    for bytes in (0..600).chain((600..80_000).step_by(371)).chain([1 << 20, 40 << 20, 130 << 20]) {
        for align in [1, 16, 32, 256, 4096, 65536] {
            let block = block::malloc_aligned::<Hardened>(bytes, align);
            assert!(!block.is_null());
            // SAFETY: live, and not used again.
            unsafe { block::free_with_layout::<Hardened>(block, bytes, align) };
        }
        for shorter in [bytes, bytes * 3 / 4, bytes / 2, bytes / 3, bytes / 10] {
            let block = block::malloc::<Hardened>(bytes);
            // SAFETY: live; the result replaces it, and is not used again.
            unsafe {
                let block = block::realloc::<Hardened>(block, shorter);
                block::free_with_layout::<Hardened>(block, shorter, 1);
            }
        }
    }
}

#[test]
fn a_large_block_ends_in_a_page_that_faults() {
    apart!();
    for bytes in [40_000, 1 << 20, 40 << 20, 130 << 20] {
        let block = malloc(bytes);
        let end = block.expose_provenance() + bytes.next_multiple_of(PAGE_BYTES);
        assert!(is_readable(end - 1) && !is_readable(end), "{bytes}");
        // It moves with the block's end.
        for new in [(bytes / 2).max(36_000), bytes, 2 * bytes] {
            // SAFETY: live, and replaced by the result.
            let resized = unsafe { block::realloc::<Hardened>(malloc(bytes), new) };
            assert!(!resized.is_null());
            let end = resized.expose_provenance() + new.next_multiple_of(PAGE_BYTES);
            assert!(is_readable(end - 1) && !is_readable(end), "{bytes} to {new}");
            free(resized);
        }
        free(block);
    }
    assert_eq!(collect::<Hardened>().refused_guards, 0);
}

#[test]
fn a_span_ends_in_a_page_that_faults() {
    apart!();
    for bytes in [8, 100, 1000, 20_000] {
        let bin = bins::bin_for(bytes + 8).expect("small");
        let span_pages = bins::info(bin).span_pages();
        // More than a few spans.
        let blocks: Vec<*mut u8> = (0..2000).map(|_| malloc(bytes)).collect();
        let runs = &Hardened::allocator().pages.runs;
        for block in blocks.iter().step_by(97) {
            let id = runs.arenas.tag_value(block.addr()).span();
            // SAFETY: the span of a live block, whose place is fixed.
            let start = unsafe { (*hz3_core::pages::span::at(&runs.spans, id)).start };
            assert!(is_readable(start + span_pages * PAGE_BYTES - 1), "{bytes}");
            assert!(!is_readable(start + span_pages * PAGE_BYTES), "{bytes}");
        }
        blocks.into_iter().for_each(free);
    }
}

#[test]
fn a_large_block_faults_once_it_is_freed() {
    apart!();
    for bytes in [40_000, 1 << 20] {
        let block = malloc(bytes);
        // SAFETY: live.
        unsafe { block.write_bytes(0xa5, bytes) };
        let start = block.expose_provenance();
        free(block);
        assert!(!is_readable(start) && !is_readable(start + bytes - 1));
        for _ in 0..20 {
            let other = malloc(bytes);
            assert_ne!(other.addr(), start, "an address that was in use a moment ago");
            free(other);
        }
    }
}

#[test]
fn large_blocks_that_were_freed_keep_to_a_budget_and_their_memory_goes_back() {
    apart!();
    for bytes in [50_000, 5 << 20] {
        for _ in 0..200 {
            let block = malloc(bytes);
            // SAFETY: live.
            unsafe { block.write_bytes(0xa5, bytes) };
            free(block);
            let held = collect::<Hardened>().held_bytes;
            assert!(held > 0 && held <= 32 << 20, "{held}");
        }
    }
    block::trim::<Hardened>();
    let stats = collect::<Hardened>();
    assert_eq!((stats.held_bytes, stats.dirty_bytes), (0, 0), "{stats:?}");
}

#[test]
fn a_slot_that_was_freed_is_not_handed_out_soon() {
    apart!();
    for (bytes, least) in [(10, 250), (56, 250), (1000, 250), (20_000, 40)] {
        let mut last = VecDeque::new();
        for _ in 0..3000 {
            let block = malloc(bytes);
            assert!(!last.contains(&block.addr()), "{bytes}");
            last.push_back(block.addr());
            free(block);
            if last.len() == least {
                last.pop_front();
            }
        }
    }
}

#[test]
fn what_is_in_quarantine_is_in_the_books_and_comes_home_with_its_thread() {
    apart!();
    block::trim::<Hardened>();
    let before = collect::<Hardened>();
    std::thread::spawn(|| {
        let before = collect::<Hardened>().quarantine_bytes;
        for bytes in [10, 100, 1000, 10_000] {
            (0..50).map(|_| malloc(bytes)).collect::<Vec<_>>().into_iter().for_each(free);
        }
        let stats = collect::<Hardened>();
        assert!(stats.quarantine_bytes > before && stats.quarantine_bytes - before <= 1 << 20, "{stats:?}");
        assert_eq!(check_accounts::<Hardened>(), Ok(()));
    })
    .join()
    .expect("no panic");
    block::trim::<Hardened>();
    let after = collect::<Hardened>();
    assert_eq!((after.live_bytes(), after.quarantine_bytes), (before.live_bytes(), 0), "{after:?}");
    assert_eq!(check_accounts::<Hardened>(), Ok(()));
}

#[test]
fn what_may_be_used_of_a_block_is_what_was_asked_for() {
    apart!();
    for bytes in (0..600).chain((600..80_000).step_by(371)).chain([1 << 20, 40 << 20, 130 << 20]) {
        for align in [16, 64, 4096, 65536] {
            let block = block::malloc_aligned::<Hardened>(bytes, align);
            assert!(block.addr().is_multiple_of(align));
            assert_eq!(size::usable_bytes::<Hardened>(block), Some(bytes));
            free(block);
        }
        let zeroed = block::malloc_zeroed::<Hardened>(bytes);
        assert_eq!(size::usable_bytes::<Hardened>(zeroed), Some(bytes));
        // SAFETY: live; the result replaces it.
        let resized = unsafe { block::realloc::<Hardened>(zeroed, bytes / 2 + 7) };
        assert_eq!(size::usable_bytes::<Hardened>(resized), Some(bytes / 2 + 7));
        free(resized);
    }
}
