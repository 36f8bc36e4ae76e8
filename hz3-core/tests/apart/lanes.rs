//! The lanes through their public interface, from outside: blocks never overlap, keep their contents, and
//! all memory comes back. The tiny lanes overflow at every turn; the real ones run the same. Whenever all
//! threads rest, the books must add up, to the byte.

use hz3_core::api::block;
use hz3_core::api::block::realloc;
use hz3_core::api::block::{malloc_aligned, malloc_zeroed, trim};
use hz3_core::api::size::usable_bytes;
use hz3_core::observe::books::{check_accounts, check_runs};
use hz3_core::observe::stats::{block_bytes, collect};
use hz3_core::pages::bins::{BINS, info};
use hz3_core::pages::shape::MAX_SLOTS;
use hz3_core::platform::units::Bin;
use hz3_core::{Fast, Hardened, Lane, Scale, Tiny, TinyHardened, TinyHome};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};

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
        unsafe { block::free::<L>(self.pointer()) };
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
        _ => Block::written(block::malloc::<L>(bytes), bytes, fill),
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
            assert_eq!(check_runs(&L::allocator().pages.runs), Ok(()));
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

/// Runs `body` in a thread whose end, with all that its destructors hand over, is waited for.
fn to_the_end(body: impl FnOnce() + Send + 'static) {
    join_all(vec![std::thread::spawn(body)]);
}

/// The books at a moment when no thread allocates or frees: they hold together, and what they call live is
/// exactly the slots and pages of `live`.
fn expect_books<'a, L: Lane>(live: impl IntoIterator<Item = &'a Block>) {
    assert_eq!(check_accounts::<L>(), Ok(()));
    let bytes = |block: &Block| block_bytes::<L>(block.pointer()).expect("a block of the lane");
    let live: usize = live.into_iter().map(bytes).sum();
    let stats = collect::<L>();
    assert_eq!(stats.live_bytes(), live, "{stats:?}");
    assert_eq!(
        stats.committed_bytes,
        stats.arena_live_bytes() + stats.cached_bytes() + stats.uncached_bytes(),
        "{stats:?}"
    );
}

/// Everything at once, one lane at a time, then the books: nothing is out, every page is free.
fn exercise<L: Lane>(rounds: usize) {
    join_all([0x5eed, 0xbeef].map(|seed| std::thread::spawn(move || calls_against_a_model::<L>(seed, rounds))).into());
    expect_books::<L>([]);
    threads_free_each_others_blocks::<L>(42);
    expect_books::<L>([]);
    trim::<L>();
    expect_books::<L>([]);
    let stats = collect::<L>();
    assert_eq!(stats.small_out_bytes, 0, "{stats:?}");
    assert_eq!(stats.small_span_bytes, 0, "{stats:?}");
    assert_eq!((stats.large_bytes, stats.direct_blocks), (0, 0), "{stats:?}");
    assert_eq!(stats.dirty_bytes, 0, "{stats:?}");
    assert_eq!(stats.clean_bytes, stats.committed_bytes, "{stats:?}");
}

/// Threads that stay, with what their caches hold, free each other's blocks and their own in rounds; between
/// the rounds all of them rest with blocks live, and the books are compared with these.
fn books_add_up_while_blocks_live<L: Lane>(rounds: usize) {
    const THREADS: usize = 4;
    const SEED: u64 = 0xacc;
    println!("seed {SEED:#x}");
    let barrier = Arc::new(Barrier::new(THREADS + 1));
    let live: Arc<[Mutex<Vec<Block>>; THREADS]> = Arc::new(std::array::from_fn(|_| Mutex::default()));
    let threads = (0..THREADS).map(|index| {
        let (barrier, live) = (barrier.clone(), live.clone());
        std::thread::spawn(move || {
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(SEED + index as u64);
            for round in 0..rounds {
                for _ in 0..400 {
                    let mut blocks = live[rng.random_range(0..THREADS)].lock().expect("no panic");
                    // Many live blocks at the end of even rounds, few at the end of odd ones.
                    if rng.random_range(0..10) < if round % 2 == 0 { 7 } else { 4 } || blocks.is_empty() {
                        blocks.push(random_block::<L>(&mut rng));
                    } else {
                        let block = rng.random_range(0..blocks.len());
                        blocks.swap_remove(block).free::<L>();
                    }
                }
                barrier.wait();
                barrier.wait();
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    let mut direct = Vec::new();
    for round in 0..rounds {
        barrier.wait();
        let mut all: Vec<Block> = live.iter().flat_map(|blocks| blocks.lock().expect("no panic").clone()).collect();
        assert!(all.len() > THREADS, "nothing is live");
        all.extend(&direct);
        expect_books::<L>(&all);
        if round % 3 == 0 {
            direct.push(Block::written(block::malloc::<L>(130 << 20), 1, 7));
            all.extend(direct.last());
            expect_books::<L>(&all);
        }
        if round % 4 == 3 {
            trim::<L>();
            expect_books::<L>(&all);
        }
        barrier.wait();
    }
    join_all(threads);
    let mut all: Vec<Block> =
        live.iter().flat_map(|blocks| std::mem::take(&mut *blocks.lock().expect("no panic"))).collect();
    all.extend(direct);
    expect_books::<L>(&all);
    trim::<L>();
    expect_books::<L>(&all);
    while let Some(block) = all.pop() {
        block.free::<L>();
        if all.len() % 64 == 0 {
            expect_books::<L>(&all);
        }
    }
    trim::<L>();
    let stats = collect::<L>();
    assert_eq!((stats.live_bytes(), stats.cached_bytes(), stats.small_span_bytes), (0, 0, 0), "{stats:?}");
}

#[test]
fn the_tiny_lane_s_books_add_up_while_blocks_live() {
    apart!();
    to_the_end(|| books_add_up_while_blocks_live::<Tiny>(12));
}

#[test]
fn the_tiny_home_lane_s_books_add_up_while_blocks_live() {
    apart!();
    to_the_end(|| books_add_up_while_blocks_live::<TinyHome>(12));
}

#[test]
fn the_tiny_hardened_lane_s_books_add_up_while_blocks_live() {
    apart!();
    to_the_end(|| books_add_up_while_blocks_live::<TinyHardened>(12));
}

#[test]
fn the_hardened_lane_s_books_add_up_while_blocks_live() {
    apart!();
    to_the_end(|| books_add_up_while_blocks_live::<Hardened>(12));
}

#[test]
fn the_fast_lane_s_books_add_up_while_blocks_live() {
    apart!();
    to_the_end(|| books_add_up_while_blocks_live::<Fast>(12));
}

#[test]
fn the_scale_lane_s_books_add_up_while_blocks_live() {
    apart!();
    to_the_end(|| books_add_up_while_blocks_live::<Scale>(12));
}

/// A reader of the books never disturbs threads that are at work, and believes of no magazine that it holds
/// more than there is room for.
#[test]
fn books_can_be_read_while_threads_are_at_work() {
    apart!();
    to_the_end(|| {
        let most: usize = (1..BINS as u8).map(|bin| 2 * MAX_SLOTS * info(Bin(bin)).slot_bytes as usize).sum();
        let worker = || std::thread::spawn(|| threads_free_each_others_blocks::<Scale>(7));
        let workers = vec![worker(), worker()];
        let mut readings = 0;
        while !workers.iter().all(std::thread::JoinHandle::is_finished) {
            let stats = collect::<Scale>();
            assert!(stats.magazine_bytes <= stats.heaps * most, "{stats:?}");
            assert!(stats.small_live_bytes <= stats.small_out_bytes, "{stats:?}");
            readings += 1;
        }
        assert!(readings > 10, "{readings} readings");
        join_all(workers);
        expect_books::<Scale>([]);
    });
}

/// Blocks that lie far apart keep their own pages and no others, whatever was around them.
fn pages_around_live_blocks_go_back<L: Lane>() {
    const BLOCKS: usize = 8192;
    for bytes in [64, 256, 1000, 6000] {
        let blocks: Vec<Block> =
            (0..BLOCKS).map(|number| Block::written(block::malloc::<L>(bytes), bytes, number as u8)).collect();
        let (kept, freed): (Vec<_>, Vec<_>) = blocks.into_iter().enumerate().partition(|(number, _)| number % 256 == 0);
        freed.into_iter().for_each(|(_, block)| block.free::<L>());
        let kept: Vec<Block> = kept.into_iter().map(|(_, block)| block).collect();
        trim::<L>();
        expect_books::<L>(&kept);
        let stats = collect::<L>();
        let most = kept.len() * 2 * 4096_usize.max(bytes.next_multiple_of(4096));
        assert!(stats.span_purged_bytes > 0, "{bytes}: {stats:?}");
        assert!(stats.small_span_bytes - stats.span_purged_bytes <= most, "{bytes}: {stats:?}");
        // What went back serves again.
        let again: Vec<Block> = (0..BLOCKS).map(|_| Block::written(block::malloc::<L>(bytes), bytes, 1)).collect();
        expect_books::<L>(kept.iter().chain(&again));
        kept.into_iter().chain(again).for_each(Block::free::<L>);
    }
    trim::<L>();
    let stats = collect::<L>();
    assert_eq!((stats.small_span_bytes, stats.span_purged_bytes), (0, 0), "{stats:?}");
}

#[test]
fn pages_around_live_blocks_go_back_in_every_lane() {
    apart!();
    to_the_end(pages_around_live_blocks_go_back::<Tiny>);
    to_the_end(pages_around_live_blocks_go_back::<TinyHome>);
    to_the_end(pages_around_live_blocks_go_back::<Fast>);
    to_the_end(pages_around_live_blocks_go_back::<Scale>);
}

/// Of a pair in doubt, the slot that waits for its other is a cache's, and comes home with it.
fn a_slot_in_doubt_is_cached<L: Lane>() {
    let exchange = &L::allocator().exchange;
    for bytes in [64, 1000, 7680] {
        let [former, other] = [1, 2].map(|seed| Block::written(block::malloc::<L>(bytes), bytes, seed));
        assert!(exchange.doubts.enter(former.address, other.address).is_some());
        expect_books::<L>([&former]);
        former.free::<L>();
        expect_books::<L>([]);
        trim::<L>();
        expect_books::<L>([]);
        assert!(!exchange.doubts.is_any(), "{bytes}: it did not come home");
        assert_eq!(collect::<L>().small_out_bytes, 0);
    }
}

#[test]
fn slots_in_doubt_are_cached() {
    apart!();
    to_the_end(a_slot_in_doubt_is_cached::<Tiny>);
    to_the_end(a_slot_in_doubt_is_cached::<Fast>);
    to_the_end(a_slot_in_doubt_is_cached::<Scale>);
}

/// Pages that are being given back are nobody's: blocks that other threads get meanwhile keep their contents.
fn trims_leave_working_threads_alone<L: Lane>() {
    let workers = [11, 13].map(|seed| std::thread::spawn(move || threads_free_each_others_blocks::<L>(seed)));
    let mut trims = 0;
    while !workers.iter().all(std::thread::JoinHandle::is_finished) {
        trim::<L>();
        trims += 1;
    }
    assert!(trims > 10, "{trims} trims");
    join_all(workers.into());
    expect_books::<L>([]);
}

#[test]
fn trims_leave_working_threads_alone_in_every_lane() {
    apart!();
    to_the_end(trims_leave_working_threads_alone::<Tiny>);
    to_the_end(trims_leave_working_threads_alone::<TinyHome>);
    to_the_end(trims_leave_working_threads_alone::<Scale>);
    to_the_end(trims_leave_working_threads_alone::<TinyHardened>);
}

#[test]
fn tiny_lane_loses_and_doubles_nothing() {
    apart!();
    to_the_end(|| exercise::<Tiny>(10_000));
}

#[test]
fn tiny_home_lane_loses_and_doubles_nothing() {
    apart!();
    to_the_end(|| exercise::<TinyHome>(10_000));
}

#[test]
fn tiny_hardened_lane_loses_and_doubles_nothing() {
    apart!();
    to_the_end(|| exercise::<TinyHardened>(10_000));
}

#[test]
fn hardened_lane_loses_and_doubles_nothing() {
    apart!();
    to_the_end(|| exercise::<Hardened>(15_000));
}

#[test]
fn fast_lane_loses_and_doubles_nothing() {
    apart!();
    to_the_end(|| exercise::<Fast>(15_000));
}

#[test]
fn scale_lane_loses_and_doubles_nothing() {
    apart!();
    to_the_end(|| exercise::<Scale>(15_000));
}

#[test]
fn sizes_that_no_object_may_have_are_refused() {
    apart!();
    to_the_end(|| {
        for bytes in [isize::MAX as usize + 1, usize::MAX - 4096, usize::MAX] {
            assert!(block::malloc::<Scale>(bytes).is_null());
            assert!(malloc_zeroed::<Scale>(bytes).is_null());
            assert!(malloc_aligned::<Scale>(bytes, 64).is_null());
        }
        assert!(block::malloc::<Scale>(isize::MAX as usize).is_null());
        assert!(malloc_aligned::<Scale>(isize::MAX as usize, 1 << 30).is_null());
        expect_books::<Scale>([]);
    });
}

#[test]
fn empty_blocks_are_distinct() {
    apart!();
    to_the_end(|| {
        let (a, b) = (block::malloc::<Scale>(0), block::malloc::<Scale>(0));
        assert!(!a.is_null() && !b.is_null() && a != b);
        // SAFETY: live blocks.
        unsafe {
            block::free::<Scale>(a);
            block::free::<Scale>(b);
            block::free::<Scale>(std::ptr::null_mut());
        }
        expect_books::<Scale>([]);
    });
}

#[test]
fn alignments_up_to_a_gibibyte_are_honoured() {
    apart!();
    to_the_end(|| {
        for shift in 0..=30 {
            let align = 1_usize << shift;
            for bytes in [1, 1000, 100_000] {
                let block = Block::written(malloc_aligned::<Fast>(bytes, align), bytes, 1);
                assert_eq!(block.address % align, 0);
                block.free::<Fast>();
            }
        }
        expect_books::<Fast>([]);
    });
}
