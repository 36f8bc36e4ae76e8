//! A magazine that a thread has given away is another's: nothing of it is written to any more. Alone in its process: the
//! depots are its own.

use hz3_core::allocator::thread_heap;
use hz3_core::api::block;
use hz3_core::pages::bins::bin_for;
use hz3_core::{Lane, Scale};
use std::sync::atomic::{AtomicBool, Ordering};

const BYTES: usize = 64;
const ROUNDS: usize = 400_000;

/// One thread spills; another one takes each magazine as soon as it is in the depot, empties it, and looks whether it stays
/// empty.
#[test]
fn a_spilled_magazine_stays_as_the_next_owner_leaves_it() {
    apart!();
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    let (allocator, bin) = (Scale::allocator(), bin_for(BYTES).unwrap());
    // SAFETY: the heap is this thread's.
    let shard = unsafe { (*thread_heap::<Scale>().unwrap()).shard.get() };
    let taker = std::thread::spawn(move || {
        let mut taken = 0;
        while !IS_OVER.load(Ordering::Relaxed) {
            let Some(magazine) = allocator.exchange.take_full_of(shard, bin) else { continue };
            taken += 1;
            // SAFETY: what was taken is this thread's until it is put back, slots and all.
            unsafe {
                let count = (*magazine).count();
                (*magazine).set_count(0);
                for _ in 0..1000 {
                    assert_eq!((*magazine).count(), 0, "written to after {taken}");
                    std::hint::spin_loop();
                }
                (*magazine).set_count(count);
                while !allocator.exchange.put_full(shard, bin, magazine, true) {}
            }
        }
        taken
    });
    for _ in 0..ROUNDS {
        let blocks = [(); 300].map(|()| block::malloc::<Scale>(BYTES));
        for block in blocks {
            assert!(!block.is_null());
            // SAFETY: just made, and given up here.
            unsafe { block::free::<Scale>(block) };
        }
        if taker.is_finished() {
            break;
        }
    }
    IS_OVER.store(true, Ordering::Relaxed);
    assert!(taker.join().expect("what was given away stays as it was") > 0);
}
