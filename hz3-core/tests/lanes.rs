//! The lanes through their public interface, from outside: blocks never overlap, keep their contents, and
//! all memory comes back. The tiny lanes overflow at every turn; the real ones run the same.

use hz3_core::slow::{malloc_aligned, malloc_zeroed, realloc, trim, usable_bytes};
use hz3_core::stats::collect;
use hz3_core::{Fast, Lane, Scale, Tiny, TinyHome, hot};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::channel;

/// A live block: address, bytes asked for, the byte it is filled with.
#[derive(Clone, Copy)]
struct Block {
    address: usize,
    bytes: usize,
    fill: u8,
}

impl Block {
    fn pointer(self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.address)
    }

    fn written(pointer: *mut u8, bytes: usize, fill: u8) -> Self {
        assert!(!pointer.is_null(), "out of memory at {bytes} bytes");
        assert_eq!(pointer.addr() % 16, 0);
        // SAFETY: a fresh block of that size.
        unsafe { pointer.write_bytes(fill, bytes) };
        Block { address: pointer.expose_provenance(), bytes, fill }
    }

    fn check(self, upto: usize) {
        // SAFETY: a live block, filled when it was made.
        let bytes = unsafe { std::slice::from_raw_parts(self.pointer(), self.bytes.min(upto)) };
        assert!(
            bytes.iter().all(|&byte| byte == self.fill),
            "{} bytes at {:#x} were overwritten",
            self.bytes,
            self.address
        );
    }

    fn free<L: Lane>(self) {
        self.check(usize::MAX);
        // SAFETY: live, and given up here.
        unsafe { hot::free::<L>(self.pointer()) };
    }
}

fn random_bytes(rng: &mut impl Rng) -> usize {
    match rng.random_range(0..100) {
        0..70 => rng.random_range(0..1024),
        70..95 => rng.random_range(0..40_000),
        95..99 => rng.random_range(0..1 << 20),
        _ => rng.random_range(0..5 << 20),
    }
}

fn random_block<L: Lane>(rng: &mut impl Rng) -> Block {
    let (bytes, fill) = (random_bytes(rng), rng.random());
    match rng.random_range(0..8) {
        0 => {
            let block = malloc_zeroed::<L>(bytes);
            Block { address: block.expose_provenance(), bytes, fill: 0 }.check(usize::MAX);
            Block::written(block, bytes, fill)
        }
        1 => {
            let align = 1 << rng.random_range(0..17);
            let block = malloc_aligned::<L>(bytes, align);
            assert_eq!(block.addr() % align, 0);
            Block::written(block, bytes, fill)
        }
        _ => Block::written(hot::malloc::<L>(bytes), bytes, fill),
    }
}

/// Random calls against a map of what is live.
fn calls_against_a_model<L: Lane>(seed: u64, rounds: usize) {
    println!("seed {seed}");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut live: BTreeMap<usize, Block> = BTreeMap::new();
    let mut keys: Vec<usize> = Vec::new();
    for round in 0..rounds {
        let grow = live.len() < 300 && rng.random_range(0..10) < 6;
        if grow || keys.is_empty() {
            let block = random_block::<L>(&mut rng);
            let usable = usable_bytes::<L>(block.pointer()).expect("a block of the lane");
            assert!(usable >= block.bytes);
            if let Some((_, before)) = live.range(..=block.address).next_back() {
                assert!(before.address + before.bytes.max(1) <= block.address, "overlap");
            }
            if let Some((_, after)) = live.range(block.address..).next() {
                assert!(block.address + usable <= after.address, "overlap");
            }
            live.insert(block.address, block);
            keys.push(block.address);
        } else {
            let key = keys.swap_remove(rng.random_range(0..keys.len()));
            let block = live.remove(&key).expect("live");
            if rng.random_range(0..4) == 0 {
                block.check(usize::MAX);
                let bytes = random_bytes(&mut rng);
                // SAFETY: live; the result takes its place.
                let moved = unsafe { realloc::<L>(block.pointer(), bytes) };
                assert!(!moved.is_null());
                Block { address: moved.expose_provenance(), ..block }.check(bytes);
                let block = Block::written(moved, bytes, block.fill);
                live.insert(block.address, block);
                keys.push(block.address);
            } else {
                block.free::<L>();
            }
        }
        if round % 1024 == 0 {
            assert_eq!(L::allocator().runs.check(), Ok(()));
        }
    }
    for block in live.into_values() {
        block.free::<L>();
    }
}

/// Threads that pass most of their blocks to each other, and end while others still hold their blocks.
fn threads_free_each_others_blocks<L: Lane>(seed: u64) {
    const THREADS: usize = 6;
    println!("seed {seed}");
    for generation in 0..3 {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| channel::<Block>()).unzip();
        let threads: Vec<_> = receivers
            .into_iter()
            .enumerate()
            .map(|(index, inbound)| {
                let outbound = senders[(index + 1) % THREADS].clone();
                std::thread::spawn(move || {
                    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed + generation * 100 + index as u64);
                    let mut own: Vec<Block> = Vec::new();
                    for _ in 0..1500 {
                        for block in inbound.try_iter() {
                            block.free::<L>();
                        }
                        own.push(random_block::<L>(&mut rng));
                        if own.len() > 60 {
                            let block = own.swap_remove(rng.random_range(0..own.len()));
                            if rng.random_range(0..4) == 0 {
                                block.free::<L>();
                            } else {
                                outbound.send(block).expect("the neighbour listens until all have ended");
                            }
                        }
                    }
                    drop(outbound);
                    own.into_iter().for_each(Block::free::<L>);
                    inbound.iter().for_each(Block::free::<L>);
                })
            })
            .collect();
        drop(senders);
        join_all(threads);
    }
}

/// Waits for the threads' very end, their destructors included, which a scope does not.
fn join_all(threads: Vec<std::thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// Everything at once, one lane at a time, then the books: nothing is out, every page is free.
fn exercise<L: Lane>(rounds: usize) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    join_all([0x5eed, 0xbeef].map(|seed| std::thread::spawn(move || calls_against_a_model::<L>(seed, rounds))).into());
    threads_free_each_others_blocks::<L>(42);
    trim::<L>();
    let stats = collect::<L>();
    assert_eq!(L::allocator().runs.check(), Ok(()));
    assert_eq!(stats.small_out_bytes, 0, "{stats:?}");
    assert_eq!(stats.small_span_bytes, 0, "{stats:?}");
    assert_eq!((stats.large_bytes, stats.direct_blocks), (0, 0), "{stats:?}");
    assert_eq!(stats.dirty_bytes, 0, "{stats:?}");
    assert_eq!(stats.clean_bytes, stats.committed_bytes, "{stats:?}");
}

#[test]
fn tiny_lane_loses_and_doubles_nothing() {
    exercise::<Tiny>(10_000);
}

#[test]
fn tiny_home_lane_loses_and_doubles_nothing() {
    exercise::<TinyHome>(10_000);
}

#[test]
fn fast_lane_loses_and_doubles_nothing() {
    exercise::<Fast>(15_000);
}

#[test]
fn scale_lane_loses_and_doubles_nothing() {
    exercise::<Scale>(15_000);
}

#[test]
fn sizes_that_no_object_may_have_are_refused() {
    for bytes in [isize::MAX as usize + 1, usize::MAX - 4096, usize::MAX] {
        assert!(hot::malloc::<Scale>(bytes).is_null());
        assert!(malloc_zeroed::<Scale>(bytes).is_null());
        assert!(malloc_aligned::<Scale>(bytes, 64).is_null());
    }
    assert!(hot::malloc::<Scale>(isize::MAX as usize).is_null());
    assert!(malloc_aligned::<Scale>(isize::MAX as usize, 1 << 30).is_null());
}

#[test]
fn empty_blocks_are_distinct() {
    let (a, b) = (hot::malloc::<Scale>(0), hot::malloc::<Scale>(0));
    assert!(!a.is_null() && !b.is_null() && a != b);
    // SAFETY: live blocks.
    unsafe {
        hot::free::<Scale>(a);
        hot::free::<Scale>(b);
        hot::free::<Scale>(std::ptr::null_mut());
    }
}

#[test]
fn alignments_up_to_a_gibibyte_are_honoured() {
    for shift in 0..=30 {
        let align = 1_usize << shift;
        for bytes in [1, 1000, 100_000] {
            let block = Block::written(malloc_aligned::<Fast>(bytes, align), bytes, 1);
            assert_eq!(block.address % align, 0);
            block.free::<Fast>();
        }
    }
}
