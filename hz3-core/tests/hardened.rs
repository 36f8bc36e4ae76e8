//! The hardened lane as its caller sees it: memory that reads as zero, an order of reuse that can't be foretold, and
//! sizes that are right. What stops the process is tested in `hz3-preload/tests/preload_misuse.rs`.

use hz3_core::{Hardened, hot, slow};

#[test]
fn a_block_that_was_freed_reads_as_zero_when_it_is_handed_out_again() {
    for bytes in [1, 16, 64, 500, 6000, 32 << 10] {
        for _ in 0..3 {
            let blocks: Vec<*mut u8> = (0..100).map(|_| hot::malloc::<Hardened>(bytes)).collect();
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
                unsafe { hot::free::<Hardened>(block) };
            }
        }
    }
}

#[test]
fn the_order_of_reuse_is_not_that_of_the_frees() {
    let take = || -> Vec<usize> {
        let blocks: Vec<*mut u8> = (0..30).map(|_| hot::malloc::<Hardened>(48)).collect();
        for &block in &blocks {
            // SAFETY: live, and not used again.
            unsafe { hot::free::<Hardened>(block) };
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
    for bytes in (0..600).chain((600..80_000).step_by(371)).chain([1 << 20, 40 << 20]) {
        for align in [1, 16, 32, 256, 4096, 65536] {
            let block = slow::malloc_aligned::<Hardened>(bytes, align);
            assert!(!block.is_null());
            // SAFETY: live, and not used again.
            unsafe { slow::free_of_size::<Hardened>(block, bytes, align) };
        }
        for shorter in [bytes, bytes * 3 / 4, bytes / 2, bytes / 3, bytes / 10] {
            let block = hot::malloc::<Hardened>(bytes);
            // SAFETY: live; the result replaces it, and is not used again.
            unsafe {
                let block = slow::realloc::<Hardened>(block, shorter);
                slow::free_of_size::<Hardened>(block, shorter, 1);
            }
        }
    }
}
