//! Two threads that free one large block at the same instant: one of them frees it, and the other one is told.

use hz3_core::api::{block, large};
use hz3_core::observe::books::check_accounts;
use hz3_core::platform::atomic::{AtomicUsize, Ordering};
use hz3_core::{Fast, Lane, Scale};

/// Times that each of the two must have been the one, so that the two were at it together: a claim by a load and a store
/// lets both free a run some hundred rounds in.
const EACH: u32 = 4000;
/// As many for mappings, which are claimed under a lock and cost a system call each.
const EACH_MAPPING: u32 = 200;
/// Blocks after which a machine that never lets them meet is given up. The start below is steered until they do, so that a
/// slow machine takes longer and fails no sooner.
const MOST: usize = 400_000;
/// Steps of the first thread's start by which successive rounds differ, around the start that makes both equally often first.
const SPREAD: usize = 64;

/// Says, when it goes, that there is no further round.
struct End<'a>(&'a AtomicUsize);

impl Drop for End<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire of the other thread, which goes on with nothing.
        self.0.store(usize::MAX, Ordering::Release);
    }
}

/// Frees `bytes` large blocks by two threads at once until each was first often enough.
fn one_of_two_frees_it<L: Lane>(bytes: usize, each: u32) {
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
                // SAFETY: the block is nobody's; which of two threads frees it is what is tested.
                let freed = unsafe { large::free(&L::allocator().pages, address) };
                // Release: the block is done with. Pairs with the Acquire below.
                others.store(number * 2 + usize::from(freed), Ordering::Release);
            }
        });
        // A failure below ends the other thread too.
        let _end = End(&round);
        let mut first = [0; 2];
        // How much later than it published the round the first thread frees, so that the other one has seen it.
        let mut start = 0_usize;
        for number in 1..=MOST {
            let fresh = block::malloc::<L>(bytes).expose_provenance();
            assert_ne!(fresh, 0);
            // Relaxed: published by the round. Release: as above.
            block.store(fresh, Ordering::Relaxed);
            round.store(number, Ordering::Release);
            for step in 0..start + number % SPREAD {
                std::hint::black_box(step);
            }
            // SAFETY: as above.
            let mine = unsafe { large::free(&L::allocator().pages, fresh) };
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
            start = if mine { start + 1 } else { start.saturating_sub(1) };
            if first.iter().all(|&times| times >= each) {
                break;
            }
        }
        println!("{}: the first thread freed {} blocks of {bytes} bytes, the second {}", L::NAME, first[0], first[1]);
        assert!(first.iter().all(|&times| times >= each), "the two never met: {first:?}");
    });
    assert_eq!(check_accounts::<L>(), Ok(()));
}

#[test]
fn one_of_two_threads_frees_a_run_of_pages() {
    apart!();
    one_of_two_frees_it::<Fast>(100_000, EACH);
    one_of_two_frees_it::<Scale>(1 << 20, EACH);
}

#[test]
fn one_of_two_threads_frees_a_mapping() {
    apart!();
    one_of_two_frees_it::<Fast>(128 << 20, EACH_MAPPING);
    one_of_two_frees_it::<Scale>(130 << 20, EACH_MAPPING);
}
