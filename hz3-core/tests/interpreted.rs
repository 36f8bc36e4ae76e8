//! What Miri runs of the whole allocator, and any compiler: short sequences of calls against the model in `sequence`,
//! and threads that free each other's blocks while somebody reads the statistics, on lanes whose magazines overflow at
//! once. Miri sees what no other test does: a read of what was never written, a pointer that leads out of its block,
//! two threads at one word without an order between them.

mod sequence;

use hz3_core::api::block::{free, malloc, realloc};
use hz3_core::observe::books::{check_accounts, check_runs};
use hz3_core::observe::stats::collect;
use hz3_core::pages::bins::BINS;
use hz3_core::transfer::spread::WINDOW;
use hz3_core::{Lane, Tiny, TinyHardened, TinyHome};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::ptr::with_exposed_provenance_mut;
use std::sync::mpsc::channel;

/// Steps of a sequence. Chosen: a lane takes an interpreter less than a minute.
const STEPS: usize = 25;
/// Blocks that each of two threads allocates.
const BLOCKS: usize = 30;

fn short_sequences_hold<L: Lane>() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(0x4d31);
    let steps = (0..STEPS).flat_map(|_| {
        let [first, a, b, c] = rng.random::<[u8; 4]>();
        // One size in eight is larger than 1,100 bytes, and none is a mapping of its own.
        let c = if a % 8 == 0 { c & 0xbf } else { c & 0x3f };
        // Bursts of at most seven calls.
        [first, if first & 15 == 15 || first & 15 == 14 { a & 0xe7 } else { a }, b, c]
    });
    sequence::run::<L>(&steps.collect::<Vec<u8>>());
}

fn threads_free_each_others_blocks_under_a_reader_s_eyes<L: Lane>() {
    let (to_second, from_first) = channel::<usize>();
    let (to_first, from_second) = channel::<usize>();
    let thread = |out: std::sync::mpsc::Sender<usize>, inbound: std::sync::mpsc::Receiver<usize>| {
        move || {
            let free_next = |block: usize| {
                // SAFETY: the other thread's, which has given it up.
                unsafe { free::<L>(with_exposed_provenance_mut(block)) }
            };
            for round in 0..BLOCKS {
                let block = malloc::<L>(16 + round % 3 * 100);
                // SAFETY: fresh, of at least 16 bytes.
                unsafe { block.write_bytes(round as u8, 16) };
                out.send(block.expose_provenance()).expect("the other thread listens");
                if round % 2 == 0 {
                    inbound.try_iter().for_each(free_next);
                }
            }
            drop(out);
            inbound.iter().for_each(free_next);
        }
    };
    let threads = [(to_second, from_second), (to_first, from_first)]
        .map(|(out, inbound)| std::thread::spawn(thread(out, inbound)));
    for _ in 0..if cfg!(miri) { 1 } else { 3 } {
        assert!(collect::<L>().committed_bytes < 1 << 30);
        std::thread::yield_now();
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(check_runs(&L::allocator().pages.runs), Ok(()));
}

/// Looks as if `used` of 1000 bytes in each bin were used.
fn look_at_all_bins<L: Lane>(used: usize, now: u32) {
    let spread = &L::allocator().exchange.spread;
    for _ in 0..BINS.div_ceil(WINDOW) {
        let mut window = spread.window();
        window.bins().for_each(|bin| window.add(bin, used, 1000));
        spread.note(&window, 1, now);
    }
}

/// More blocks than two magazines hold. A whole sequence takes an interpreter half a minute.
fn go_through_magazines<L: Lane>() {
    let blocks = [(); 9].map(|()| malloc::<L>(100));
    // SAFETY: live blocks of the lane, each given up once.
    blocks.into_iter().for_each(|block| unsafe { free::<L>(block) });
    if !cfg!(miri) {
        short_sequences_hold::<L>();
    }
}

/// What is freed in a spread bin is not handed out again at once, and all slots are found again afterwards.
fn frees_in_spread_bins_are_kept_apart<L: Lane>() {
    look_at_all_bins::<L>(1000, 0);
    look_at_all_bins::<L>(10, 0);
    // Their bin had no magazine before it was spread, and the second leaves a slot in it.
    let [first, second] = [(); 2].map(|()| malloc::<L>(100));
    // An interpreter takes seconds, and looks again at the end.
    assert!(cfg!(miri) || check_accounts::<L>() == Ok(()));
    let third = malloc::<L>(100);
    // SAFETY: live blocks of the lane, each given up once.
    unsafe {
        free::<L>(second);
        let fourth = malloc::<L>(100);
        assert_ne!(fourth, second);
        [first, third, fourth].into_iter().for_each(|block| free::<L>(block));
    }
    go_through_magazines::<L>();
    L::allocator().exchange.spread.end_if_quiet(1 << 20);
    go_through_magazines::<L>();
    assert_eq!(check_accounts::<L>(), Ok(()));
}

/// Blocks that grow in turn, so that none can where it lies: from runs to mappings, longer and shorter ones, and back.
fn blocks_move_to_mappings_and_back<L: Lane>() {
    const KIB: usize = 1 << 10;
    // Three bytes short of whole pages: a canary fills the rest, which an interpreter checks byte by byte.
    let sizes = [100, 140, 200, 148, 132, 300, 60, 8].map(|kib| kib * KIB - 3);
    let mut blocks = [std::ptr::null_mut(); 2];
    let mut kept = 0;
    for bytes in sizes {
        for (block, mark) in blocks.iter_mut().zip(1..) {
            // SAFETY: live blocks of the lane, or null at first; `kept` bytes are written, then `bytes` are there.
            unsafe {
                *block = realloc::<L>(*block, bytes);
                assert!(!block.is_null());
                for at in [0, 77 * KIB, 128 * KIB, kept.max(1) - 1].into_iter().filter(|&at| at < kept.min(bytes)) {
                    assert_eq!(block.add(at).read(), mark, "byte {at} of {bytes}");
                }
                block.write_bytes(mark, bytes);
            }
        }
        kept = bytes;
    }
    assert_eq!(check_runs(&L::allocator().pages.runs), Ok(()));
    assert_eq!(L::allocator().pages.direct.check(L::allocator().pages.spans()), Ok(()));
    for block in blocks {
        // SAFETY: live blocks of the lane.
        unsafe { free::<L>(block) };
    }
}

macro_rules! on {
    ($($lane:ident: $name:ident;)+) => {$(
        #[test]
        fn $name() {
            frees_in_spread_bins_are_kept_apart::<$lane>();
            threads_free_each_others_blocks_under_a_reader_s_eyes::<$lane>();
            short_sequences_hold::<$lane>();
            blocks_move_to_mappings_and_back::<$lane>();
        }
    )+};
}

on! {
    Tiny: threads_and_short_sequences_hold_on_tiny;
    TinyHome: threads_and_short_sequences_hold_on_tiny_home;
    TinyHardened: threads_and_short_sequences_hold_on_tiny_hardened;
}
