//! Sizes that drift: a cache with a limit, whose values grow slowly, takes its memory from the bins of the small ones and
//! not from the system. With one thread.

use hz3_core::Lane;
use hz3_core::api::block;
use hz3_core::{Fast, Hardened, Scale};
use std::collections::VecDeque;

const LIMIT: usize = 96 << 20;
/// Chosen: each size is in use for several turns of the cache.
const TURNS: usize = 24;
const SMALLEST: usize = 100;
const LARGEST: usize = 3000;
/// Most free memory of spans and depots in live memory, in hundredths: 12 here. A magazine hands out again what was freed
/// into it where it lies: without a remedy, 83.
const MOST_FREE: usize = 20;

#[test]
fn memory_of_smaller_sizes_serves_larger_ones_in_scale() {
    apart!();
    memory_of_smaller_sizes_serves_larger_ones::<Scale>();
}

#[test]
fn memory_of_smaller_sizes_serves_larger_ones_in_fast() {
    apart!();
    memory_of_smaller_sizes_serves_larger_ones::<Fast>();
}

#[test]
fn memory_of_smaller_sizes_serves_larger_ones_in_hardened() {
    apart!();
    memory_of_smaller_sizes_serves_larger_ones::<Hardened>();
}

fn memory_of_smaller_sizes_serves_larger_ones<L: Lane>() {
    let (mut blocks, mut live, mut total, mut random) = (VecDeque::new(), 0, 0, 88_172_645_463_325_252_u64);
    let mut most = 0;
    while total < LIMIT * TURNS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let (range, draw) = (LARGEST - SMALLEST, random as usize >> 8);
        let drifted = total / (LIMIT * TURNS / 1000) * range / 2000 + draw % (range / 2);
        let bytes = SMALLEST + if random % 3 == 0 { draw % range } else { drifted };
        let block = block::malloc::<L>(bytes);
        assert!(!block.is_null());
        blocks.push_back((block, bytes));
        (live, total) = (live + bytes, total + bytes);
        while live > LIMIT {
            let (oldest, bytes) = blocks.pop_front().expect("a live block");
            // SAFETY: live, and given up here.
            unsafe { block::free::<L>(oldest) };
            live -= bytes;
        }
        if total % 4096 < 64 && total > LIMIT * TURNS / 2 {
            most = most.max(free_bytes::<L>());
        }
    }
    for (block, _) in blocks {
        // SAFETY: as above.
        unsafe { block::free::<L>(block) };
    }
    assert!(most * 100 <= LIMIT * MOST_FREE, "{} KiB free in spans and depots", most >> 10);
    assert!(most > 0);
}

fn free_bytes<L: Lane>() -> usize {
    let exchange = &L::allocator().exchange;
    let in_spans = exchange.shards().iter().map(|shard| {
        let (out, all) = shard.owned().lock().slot_bytes();
        all - out
    });
    in_spans.sum::<usize>() + exchange.depot_bytes()
}
