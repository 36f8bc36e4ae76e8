//! A producer is one for as long as its blocks come back in some order. Alone in its process: the depots are its own.

use hz3_core::allocator::thread_heap;
use hz3_core::api::block;
use hz3_core::pages::bins::bin_for;
use hz3_core::pages::slot::Slot;
use hz3_core::platform::units::PAGE_BYTES;
use hz3_core::transfer::magazine::Magazine;
use hz3_core::{Fast, Lane};

const BYTES: usize = 64;

/// Whether this thread, a producer, still is one after a refill by a magazine of each `step`-th of the blocks that it got.
fn is_still_producer(step: usize) -> bool {
    let (allocator, bin) = (Fast::allocator(), bin_for(BYTES).unwrap());
    let heap = thread_heap::<Fast>().unwrap();
    // SAFETY: the heap is this thread's, the magazine too until it is in the inbox, and each block goes into one place.
    unsafe {
        let shard = (*heap).shard.get();
        let magazine = allocator.exchange.empty_magazine(shard, bin).unwrap();
        let capacity = (*magazine).capacity;
        let blocks: Vec<*mut u8> = (0..usize::from(capacity) * step).map(|_| block::malloc::<Fast>(BYTES)).collect();
        for (index, &block) in blocks.iter().step_by(step).enumerate() {
            Magazine::slots(magazine).add(index).write(Slot::new(block));
        }
        (*magazine).set_count(capacity);
        while !(*heap).entry(bin).is_empty() {
            block::malloc::<Fast>(BYTES);
        }
        for _ in 0..1000 {
            (*heap).balances.note_refill(bin, capacity, usize::from(capacity));
        }
        assert!((*heap).balances.is_producer(bin, capacity));
        assert!(allocator.exchange.put_full(shard, bin, magazine, true));
        assert_eq!(block::malloc::<Fast>(BYTES), blocks[0]);
        (*heap).balances.is_producer(bin, capacity)
    }
}

#[test]
fn a_producer_stays_one_while_its_blocks_come_back_in_order() {
    apart!();
    assert!(is_still_producer(1));
    assert!(!is_still_producer(PAGE_BYTES / BYTES + 1));
}
