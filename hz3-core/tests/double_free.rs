//! Two threads that free one large block at the same instant: one of them frees it, and the other one is told.

use hz3_core::stats::check_accounts;
use hz3_core::sync::{AtomicUsize, Ordering};
use hz3_core::{Fast, Lane, Scale, hot};
use std::sync::Mutex;

/// Times that each of the two must have been the one, so that the two were at it together.
const EACH: u32 = 40;
/// Blocks after which a machine that never lets them meet is given up.
const MOST: usize = 400_000;

/// Frees `bytes` large blocks by two threads at once until each was first often enough.
fn one_of_two_frees_it<L: Lane>(bytes: usize) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock();
    // The block of the round; the number of the round that each thread has ended, and what it was told.
    let block = AtomicUsize::new(0);
    let round = AtomicUsize::new(0);
    let others = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=MOST {
                let address = loop {
                    // Acquire: the block of the round is there. Pairs with the Release below.
                    match round.load(Ordering::Acquire) {
                        usize::MAX => return,
                        // Relaxed: published by the round.
                        now if now == number => break block.load(Ordering::Relaxed),
                        _ => std::hint::spin_loop(),
                    }
                };
                let freed = L::allocator().free_large(address);
                // Release: the block is done with. Pairs with the Acquire below.
                others.store(number * 2 + usize::from(freed), Ordering::Release);
            }
        });
        let mut first = [0; 2];
        for number in 1..=MOST {
            let fresh = hot::malloc::<L>(bytes).expose_provenance();
            assert_ne!(fresh, 0);
            // Relaxed: published by the round. Release: as above.
            block.store(fresh, Ordering::Relaxed);
            round.store(number, Ordering::Release);
            // The other thread sees the round a little later: now and then it gets a start.
            for _ in 0..number % 64 {
                std::hint::spin_loop();
            }
            let mine = L::allocator().free_large(fresh);
            // Acquire: as above.
            let theirs = loop {
                let other = others.load(Ordering::Acquire);
                if other >= number * 2 {
                    break other % 2 == 1;
                }
                std::hint::spin_loop();
            };
            assert!(mine != theirs, "block {number} at {fresh:#x}: freed by {}", if mine { "both" } else { "nobody" });
            first[usize::from(theirs)] += 1;
            if first.iter().all(|&times| times >= EACH) {
                break;
            }
        }
        // Release: as above.
        round.store(usize::MAX, Ordering::Release);
        println!("{}: the first thread freed {} blocks of {bytes} bytes, the second {}", L::NAME, first[0], first[1]);
        assert!(first.iter().all(|&times| times >= EACH), "the two never met: {first:?}");
    });
    assert_eq!(check_accounts::<L>(), Ok(()));
}

#[test]
fn one_of_two_threads_frees_a_run_of_pages() {
    one_of_two_frees_it::<Fast>(100_000);
    one_of_two_frees_it::<Scale>(1 << 20);
}

#[test]
fn one_of_two_threads_frees_a_mapping() {
    one_of_two_frees_it::<Fast>(32 << 20);
    one_of_two_frees_it::<Scale>(40 << 20);
}
