//! `Hz3` as the allocator of a real program: this test's own, threads, harness and all; and called directly, in
//! the lanes whose caches overflow at every turn, where the books must add up.
//!
//! One test, so that no other thread of the harness is at work when the books are read.

use hz3_core::api::size::usable_bytes;
use hz3_core::observe::books::check_accounts;
use hz3_core::{Fast, Hz3, Lane, Scale, Tiny, TinyHome};
use std::alloc::{GlobalAlloc, Layout};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::channel;

#[global_allocator]
static GLOBAL: Hz3 = Hz3::new();

const ALIGNS: [usize; 9] = [1, 8, 16, 32, 64, 256, 4096, 8192, 1 << 16];
const SIZES: [usize; 17] =
    [1, 7, 16, 17, 63, 129, 200, 1000, 4095, 4097, 20_000, 32_767, 32_768, 32_769, 70_000, 1 << 20, 129 << 20];

fn layout(bytes: usize, align: usize) -> Layout {
    Layout::from_size_align(bytes, align).expect("a layout")
}

/// Bytes that hold `fill` at both ends of the first `bytes` of a block, and now and then between them.
fn places(bytes: usize) -> impl Iterator<Item = usize> {
    (0..bytes).step_by(509).chain([bytes - 1])
}

fn fill(block: *mut u8, bytes: usize, fill: u8) {
    // SAFETY: a live block of at least that size.
    places(bytes).for_each(|place| unsafe { block.add(place).write(fill) });
}

/// What `fill` wrote to `bytes` bytes is still there in the first `kept` of them.
fn assert_filled(block: *mut u8, bytes: usize, kept: usize, fill: u8) {
    for place in places(bytes).filter(|&place| place < kept) {
        // SAFETY: as above.
        assert_eq!(unsafe { block.add(place).read() }, fill, "byte {place} of {bytes}");
    }
}

/// Every pair of size and alignment: allocated, resized to every other size, zeroed, freed by another thread.
/// After each step the block lies in the bin that its layout would get afresh, which freeing relies on.
fn every_layout<L: Lane>(most_bytes: usize) {
    let lane = Hz3::<L>::new();
    let sizes = || SIZES.into_iter().filter(|&bytes| bytes <= most_bytes);
    let assert_in_its_bin = |block: *mut u8, now: Layout| {
        assert!(!block.is_null() && block.addr() % now.align() == 0, "{now:?}");
        let usable = usable_bytes::<L>(block).expect("a block of the lane");
        assert!(usable >= now.size());
        // SAFETY: a layout of more than 0 bytes; the block is freed as it was made.
        unsafe {
            let fresh = lane.alloc(now);
            let expected = usable_bytes::<L>(fresh).expect("a block of the lane");
            assert!(usable == expected || usable > 32768 && expected > 32768, "{now:?}: {usable} for {expected}");
            lane.dealloc(fresh, now);
        }
    };
    for align in ALIGNS {
        for from in sizes() {
            for to in sizes() {
                let (old, new) = (layout(from, align), layout(to, align));
                // SAFETY: layouts of more than 0 bytes; each block is used within its size and freed once.
                unsafe {
                    let block = lane.alloc(old);
                    assert_in_its_bin(block, old);
                    fill(block, from, 0xa5);
                    let block = lane.realloc(block, old, to);
                    assert_in_its_bin(block, new);
                    assert_filled(block, from, to, 0xa5);
                    fill(block, to, 0x5a);
                    lane.dealloc(block, new);
                }
            }
            // SAFETY: as above. The block before it was dirty, so zeros are no accident.
            let address = unsafe {
                let block = lane.alloc_zeroed(layout(from, align));
                assert_in_its_bin(block, layout(from, align));
                std::slice::from_raw_parts(block, from).iter().for_each(|&byte| assert_eq!(byte, 0));
                block.expose_provenance()
            };
            let elsewhere = std::thread::spawn(move || {
                // SAFETY: the block was given away to this thread.
                unsafe { Hz3::<L>::new().dealloc(std::ptr::with_exposed_provenance_mut(address), layout(from, align)) }
            });
            elsewhere.join().expect("no panic");
        }
    }
}

fn layouts_then_books<L: Lane>(most_bytes: usize) {
    std::thread::spawn(move || every_layout::<L>(most_bytes)).join().expect("no panic");
    assert_eq!(check_accounts::<L>(), Ok(()), "{}", L::NAME);
    assert_eq!(Hz3::<L>::new().stats().live_bytes(), 0, "{}", L::NAME);
}

/// What Rust programs do: strings, maps, and owners that end on other threads.
fn program(rounds: usize) {
    let (sender, receiver) = channel::<(Arc<String>, Box<[u64]>)>();
    let threads: Vec<_> = (0..6)
        .map(|thread| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut words = HashMap::new();
                let mut tree = BTreeMap::new();
                for round in 0..rounds {
                    let text = Arc::new(format!("{thread} {round}").repeat(1 + round % 50));
                    words.insert(round % 700, Arc::clone(&text));
                    tree.insert(round * 7919 % 1000, vec![round; round % 300]);
                    if round % 3 == 0 {
                        tree.pop_first();
                    }
                    sender.send((text, vec![round as u64; round % 2000].into())).expect("the receiver waits");
                }
                words.len() + tree.len()
            })
        })
        .collect();
    drop(sender);
    let mut seen = 0;
    for (text, numbers) in receiver {
        let round: usize = text.split(' ').nth(1).and_then(|text| text.get(..1)).map_or(0, str::len);
        assert_eq!(round, 1);
        assert!(numbers.iter().all(|&number| number as usize % 2000 == numbers.len()));
        seen += 1;
    }
    assert_eq!(seen, 6 * rounds);
    for thread in threads {
        assert!(thread.join().expect("no panic") > 0);
    }
}

#[test]
fn rust_s_own_allocator_serves_every_layout_and_threads_that_free_each_other_s_blocks() {
    let here = Box::new(7);
    assert_eq!(usable_bytes::<Scale>((&raw const *here).cast()), Some(16), "this program's blocks come from hz3");
    layouts_then_books::<Tiny>(70_000);
    layouts_then_books::<TinyHome>(70_000);
    layouts_then_books::<Fast>(129 << 20);
    every_layout::<Scale>(1 << 20);
    program(200);
    let before = GLOBAL.stats().live_bytes();
    program(2000);
    assert_eq!(check_accounts::<Scale>(), Ok(()));
    let after = GLOBAL.stats().live_bytes();
    assert!(after.abs_diff(before) < 64 << 10, "{before} bytes live before, {after} after");
    assert!(GLOBAL.stats().heaps > 0);
    GLOBAL.trim();
    assert_eq!(check_accounts::<Scale>(), Ok(()));
}
