//! The system, or a limit, refuses memory: null, nothing lost, and allocation works again. One test, because the fake
//! system's allowance is the process's.

use hz3_core::api::block;
use hz3_core::api::block::trim;
use hz3_core::api::limits::{Limit, set};
use hz3_core::api::size::usable_bytes;
use hz3_core::observe::books::check_accounts;
use hz3_core::observe::stats::collect;
use hz3_core::pages::direct::DIRECT_BYTES;
use hz3_core::platform::fake::Fake;
use hz3_core::{Lane, Tiny, TinyHardened, TinyHome};
use std::sync::Barrier;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn allocate_until_refused<L: Lane>(bytes: usize, most: usize) -> Vec<*mut u8> {
    let mut blocks = Vec::new();
    while blocks.len() < most {
        let block = block::malloc::<L>(bytes);
        if block.is_null() {
            break;
        }
        // SAFETY: a fresh block's first and last byte.
        unsafe {
            block.write(0xa5);
            block.add(bytes - 1).write(0xa5);
        }
        blocks.push(block);
    }
    blocks
}

fn refuse_at_every_request<L: Lane>() {
    let mut outlived = 0;
    for requests in 0..120 {
        for (bytes, most) in [(16, 300), (1000, 300), (20_000, 100), (300_000, 50), (130 << 20, 10)] {
            Fake::refuse_after(requests);
            // In a thread of its own, so that its heap comes and goes under refusal too.
            let blocks = std::thread::spawn(move || {
                let blocks = allocate_until_refused::<L>(bytes, most);
                blocks.into_iter().map(|block| block.expose_provenance()).collect::<Vec<_>>()
            })
            .join()
            .expect("no panic");
            outlived += usize::from(blocks.len() < most);
            for block in blocks {
                // SAFETY: live blocks of the lane.
                unsafe { block::free::<L>(std::ptr::with_exposed_provenance_mut(block)) };
            }
            Fake::grant_all();
            let again = allocate_until_refused::<L>(bytes, most);
            assert_eq!(again.len(), most, "no recovery after {requests} requests at {bytes} bytes");
            for block in again {
                // SAFETY: as above.
                unsafe { block::free::<L>(block) };
            }
            assert_eq!(check_accounts::<L>(), Ok(()));
            assert_eq!(collect::<L>().live_bytes(), 0);
        }
    }
    assert!(outlived > 0, "nothing was ever refused");
    trim::<L>();
    let stats = collect::<L>();
    assert_eq!(
        (stats.small_out_bytes, stats.small_span_bytes, stats.large_bytes, stats.direct_blocks),
        (0, 0, 0, 0),
        "{stats:?}"
    );
}

/// Where refusals hit a block that moves, it stays as it is, or moves all the same, with its contents.
fn refuse_at_every_request_of_a_move<L: Lane>() {
    let sizes = [130 * KIB, 3000 * KIB, 20_000 * KIB, 40_000 * KIB].map(|bytes| bytes + 5);
    for requests in 0..14 {
        for (from, to) in sizes.iter().flat_map(|&from| sizes.map(|to| (from, to))) {
            // Its neighbours keep the block from growing in place.
            let [before, block, after] = [from, from, from].map(block::malloc::<L>);
            // SAFETY: live blocks of the lane; `block` is at least `from`, then `kept` bytes long.
            unsafe {
                block.write_bytes(7, from);
                Fake::refuse_after(requests);
                let moved = block::realloc::<L>(block, to);
                Fake::grant_all();
                let (place, kept) = if moved.is_null() { (block, from) } else { (moved, from.min(to)) };
                let contents = std::slice::from_raw_parts(place, kept);
                assert!(contents.iter().all(|&byte| byte == 7), "{from} to {to} after {requests} requests");
                assert!(usable_bytes::<L>(place).is_some_and(|usable| usable >= kept));
                assert_eq!(check_accounts::<L>(), Ok(()));
                for block in [before, place, after] {
                    block::free::<L>(block);
                }
            }
        }
    }
    trim::<L>();
    let stats = collect::<L>();
    assert_eq!((stats.large_bytes, stats.direct_blocks, stats.unreturned_bytes), (0, 0, 0), "{stats:?}");
}

/// A block of `bytes` with its last byte set to `mark`; null if it is refused.
fn marked<L: Lane>(bytes: usize, mark: u8) -> *mut u8 {
    let block = block::malloc::<L>(bytes);
    if !block.is_null() {
        // SAFETY: a fresh block's last byte.
        unsafe { block.add(bytes - 1).write(mark) };
    }
    block
}

/// Takes, resizes and frees blocks of all kinds, in a thread of its own and across its end; whatever is refused is left out.
fn work_with_every_kind_of_block<L: Lane>() {
    const SIZES: [usize; 6] = [24, 5000, 30 * KIB, 200 * KIB, 3 * MIB, DIRECT_BYTES + 5 * MIB];
    let work = || {
        let mut blocks = Vec::new();
        for (mark, &bytes) in (1..).zip(&SIZES) {
            let many = if bytes < 10_000 { 40 } else { 2 };
            blocks.extend((0..many).map(|_| (marked::<L>(bytes, mark), bytes, mark)));
            // Every other one: holes of all sizes.
            for (block, ..) in blocks.iter_mut().step_by(2) {
                // SAFETY: live blocks of the lane, or null.
                unsafe { block::free::<L>(std::mem::replace(block, std::ptr::null_mut())) };
            }
        }
        for (block, bytes, mark) in blocks.iter_mut().filter(|(block, ..)| !block.is_null()) {
            // SAFETY: a live block of so many bytes, with the mark in its last.
            unsafe {
                assert_eq!(block.add(*bytes - 1).read(), *mark);
                // Where the system refuses to resize a mapping, its bytes are copied: no long ones.
                let many = if *bytes < DIRECT_BYTES { 2 } else { 0 };
                for to in [*bytes + 150 * KIB, *bytes / 2 * 3 + 300 * KIB].into_iter().take(many) {
                    let moved = block::realloc::<L>(*block, to);
                    if !moved.is_null() {
                        assert_eq!(moved.add(*bytes - 1).read(), *mark);
                        moved.add(to - 1).write(*mark);
                        (*block, *bytes) = (moved, to);
                    }
                }
            }
        }
        let live = blocks.into_iter().filter(|(block, ..)| !block.is_null());
        live.map(|(block, bytes, mark)| (block.expose_provenance(), bytes, mark)).collect::<Vec<_>>()
    };
    for (block, bytes, mark) in std::thread::spawn(work).join().expect("no panic") {
        let block: *mut u8 = std::ptr::with_exposed_provenance_mut(block);
        // SAFETY: live blocks of the lane, with their marks.
        unsafe {
            assert_eq!(block.add(bytes - 1).read(), mark);
            block::free::<L>(block);
        }
    }
    trim::<L>();
}

/// After the fault nothing is lost: every page that is not free goes back.
fn everything_comes_back<L: Lane>(fault: &str) {
    assert_eq!(check_accounts::<L>(), Ok(()), "{fault}");
    // What the system would not take back, it does now.
    trim::<L>();
    trim::<L>();
    let stats = collect::<L>();
    let left = [stats.live_bytes(), stats.unreturned_bytes, stats.direct_blocks, stats.counted_bytes];
    assert_eq!(left, [0; 4], "{fault}: {stats:?}");
    let block = block::malloc::<L>(2 * DIRECT_BYTES);
    assert!(!block.is_null(), "{fault}: no memory any more");
    // SAFETY: a live block of the lane.
    unsafe { block::free::<L>(block) };
}

fn refuse_each_request_once<L: Lane>() {
    for requests in 0.. {
        let before = Fake::refused();
        Fake::refuse_one(requests);
        work_with_every_kind_of_block::<L>();
        Fake::grant_all();
        everything_comes_back::<L>(&format!("request {requests} refused"));
        if Fake::refused() == before {
            assert!(requests > 20, "only {requests} requests");
            break;
        }
    }
}

fn refuse_some_requests_by_chance<L: Lane>() {
    for seed in 1..=12 {
        let one_in = 2 + seed % 5;
        Fake::refuse_some(one_in, seed);
        work_with_every_kind_of_block::<L>();
        Fake::grant_all();
        everything_comes_back::<L>(&format!("one request in {one_in} refused, seed {seed}"));
    }
}

/// Every kind of block, one after another, to the last byte of the limit, and again after frees.
fn a_hard_limit_holds_and_memory_comes_back<L: Lane>() {
    const LIMIT: usize = 24 * MIB;
    trim::<L>();
    set::<L>(Limit::Hard, LIMIT);
    let refused = collect::<L>().hard_limit_met;
    for round in 0..2 {
        for bytes in [48, 3000, 30 * KIB, 100 * KIB, 5 * MIB] {
            let most = LIMIT / bytes + 1;
            let blocks = allocate_until_refused::<L>(bytes, most);
            let stats = collect::<L>();
            assert!(blocks.len() < most && stats.counted_bytes <= LIMIT, "{bytes} bytes: {stats:?}");
            // All but a block or span, slack of sizes, and canaries and guards.
            assert!(blocks.len() * bytes >= LIMIT / 5 * 3 - bytes, "{round}: {} blocks of {bytes}", blocks.len());
            assert_eq!(check_accounts::<L>(), Ok(()));
            assert!(block::malloc::<L>(LIMIT).is_null() && block::malloc::<L>(4 * DIRECT_BYTES).is_null());
            for block in blocks {
                // SAFETY: live blocks of the lane.
                unsafe { block::free::<L>(block) };
            }
        }
    }
    assert!(collect::<L>().hard_limit_met > refused);
    // A block that grows meets it too, and stays.
    let block = marked::<L>(MIB, 7);
    // SAFETY: a live block of the lane; null leaves it.
    unsafe {
        assert!(block::realloc::<L>(block, LIMIT + MIB).is_null());
        assert_eq!(block.add(MIB - 1).read(), 7);
        // Lowered below what there is: nothing more, until it is raised.
        set::<L>(Limit::Hard, MIB / 2);
        assert!(block::realloc::<L>(block, 6 * MIB).is_null() && marked::<L>(8 * MIB, 1).is_null());
        set::<L>(Limit::Hard, 0);
        let grown = block::realloc::<L>(block, 2 * DIRECT_BYTES);
        assert_eq!(grown.add(MIB - 1).read(), 7);
        block::free::<L>(grown);
    }
    everything_comes_back::<L>("a hard limit");
}

fn a_hard_limit_holds_among_threads<L: Lane>() {
    const LIMIT: usize = 32 * MIB;
    const THREADS: usize = 4;
    set::<L>(Limit::Hard, LIMIT);
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        let threads = [0, 1, 2, 3].map(|thread| {
            let barrier = &barrier;
            scope.spawn(move || {
                for round in 0..6 {
                    let bytes = [600, 20_000, 90 * KIB, 2 * MIB][(thread + round) % 4];
                    barrier.wait();
                    let blocks = allocate_until_refused::<L>(bytes, LIMIT / bytes);
                    let counted = collect::<L>().counted_bytes;
                    assert!(counted <= LIMIT, "{counted} bytes count");
                    barrier.wait();
                    for block in blocks {
                        // SAFETY: live blocks of the lane.
                        unsafe { block::free::<L>(block) };
                    }
                }
            })
        });
        // To their very ends, at which their caches go home.
        for thread in threads {
            thread.join().expect("no panic");
        }
    });
    let again = allocate_until_refused::<L>(MIB, 24);
    assert_eq!(again.len(), 24, "no recovery");
    set::<L>(Limit::Hard, 0);
    for block in again {
        // SAFETY: live blocks of the lane.
        unsafe { block::free::<L>(block) };
    }
    everything_comes_back::<L>("a hard limit among threads");
}

/// Live blocks beyond it are served, and asked for in vain once a step, not at each block.
fn a_soft_limit_refuses_nothing<L: Lane>() {
    const BLOCKS: usize = 4000;
    set::<L>(Limit::Soft, 96 * MIB);
    let before = collect::<L>().soft_limit_met;
    let blocks = allocate_until_refused::<L>(50 * KIB, BLOCKS);
    let stats = collect::<L>();
    assert_eq!((blocks.len(), stats.soft_limit_bytes), (BLOCKS, 96 * MIB));
    assert!((1..250).contains(&(stats.soft_limit_met - before)), "{} times", stats.soft_limit_met - before);
    set::<L>(Limit::Soft, 0);
    for block in blocks {
        // SAFETY: live blocks of the lane.
        unsafe { block::free::<L>(block) };
    }
    assert_eq!(collect::<L>().soft_limit_bytes, 0);
    everything_comes_back::<L>("a soft limit");
}

#[test]
fn memory_that_is_refused_gives_null_and_leaves_the_rest_working() {
    apart!();
    refuse_at_every_request::<Tiny>();
    refuse_at_every_request::<TinyHome>();
    refuse_at_every_request::<TinyHardened>();
    refuse_each_request_once::<Tiny>();
    refuse_each_request_once::<TinyHome>();
    refuse_each_request_once::<TinyHardened>();
    refuse_some_requests_by_chance::<Tiny>();
    refuse_some_requests_by_chance::<TinyHome>();
    refuse_some_requests_by_chance::<TinyHardened>();
    a_hard_limit_holds_and_memory_comes_back::<Tiny>();
    a_hard_limit_holds_and_memory_comes_back::<TinyHome>();
    a_hard_limit_holds_and_memory_comes_back::<TinyHardened>();
    a_hard_limit_holds_among_threads::<Tiny>();
    a_hard_limit_holds_among_threads::<TinyHome>();
    a_hard_limit_holds_among_threads::<TinyHardened>();
    a_soft_limit_refuses_nothing::<Tiny>();
    a_soft_limit_refuses_nothing::<TinyHome>();
    a_soft_limit_refuses_nothing::<TinyHardened>();
    refuse_at_every_request_of_a_move::<Tiny>();
    refuse_at_every_request_of_a_move::<TinyHardened>();
    assert!(collect::<TinyHardened>().refused_guards > 10, "{:?}", collect::<TinyHardened>());
    assert!(Fake::refused() > 10, "only {} refusals", Fake::refused());
}
