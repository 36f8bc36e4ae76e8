//! Regions through their interface, in all lanes: blocks keep their contents, limits hold to the page, and what a region had
//! comes back when it ends.

use allocator_api2::boxed::Box as BoxIn;
use allocator_api2::vec::Vec as VecIn;
use hz3_core::api::size::usable_bytes;
use hz3_core::api::{block, region};
use hz3_core::observe::books::check_accounts;
use hz3_core::observe::stats::{block_bytes, collect};
use hz3_core::{Fast, Hardened, Lane, Region, RegionStats, Scale, Tiny, TinyHardened, TinyHome};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::Barrier;

const PAGE: usize = 4096;

#[derive(Clone, Copy)]
struct Block {
    start: *mut u8,
    bytes: usize,
    fill: u8,
}

impl Block {
    fn written(start: *mut u8, bytes: usize, fill: u8) -> Self {
        // SAFETY: a fresh block of that size.
        unsafe { start.write_bytes(fill, bytes) };
        Block { start, bytes, fill }
    }

    fn check(&self, upto: usize) {
        // SAFETY: a live block, filled when it was made.
        let contents = unsafe { std::slice::from_raw_parts(self.start, self.bytes.min(upto)) };
        assert!(contents.iter().all(|&byte| byte == self.fill), "{} bytes at {:?}", self.bytes, self.start);
    }
}

fn random_bytes(rng: &mut impl Rng) -> usize {
    match rng.random_range(0..100) {
        0..70 => rng.random_range(0..600),
        70..95 => rng.random_range(0..40_000),
        _ => rng.random_range(0..600_000),
    }
}

fn mixed_calls_in_several_regions<L: Lane>(seed: u64, limit: usize) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let numbers = [(); 3].map(|()| region::begin::<L>(limit).expect("memory"));
    let mut blocks: [Vec<Block>; 3] = [const { Vec::new() }; 3];
    for step in 0..3000 {
        let which = rng.random_range(0..3);
        let (number, own) = (numbers[which], &mut blocks[which]);
        let (bytes, fill) = (random_bytes(&mut rng), rng.random());
        match rng.random_range(0..8) {
            0..4 => {
                let align = if rng.random_range(0..4) == 0 { 1 << rng.random_range(0..15) } else { 1 };
                let start = if fill % 2 == 0 {
                    region::allocate::<L>(number, bytes, align)
                } else {
                    region::allocate_zeroed::<L>(number, bytes, align)
                };
                if start.is_null() {
                    assert!(limit > 0, "memory ran out");
                    continue;
                }
                assert!(start.addr() % align.max(16) == 0);
                if fill % 2 == 1 {
                    Block { start, bytes, fill: 0 }.check(usize::MAX);
                }
                assert!(usable_bytes::<L>(start).is_some_and(|usable| usable >= bytes));
                assert!(block_bytes::<L>(start).is_some_and(|counted| counted >= bytes));
                own.push(Block::written(start, bytes, fill));
            }
            4 if !own.is_empty() => {
                let index = rng.random_range(0..own.len());
                let old = own[index];
                // SAFETY: a live block of the region.
                let start = unsafe {
                    if fill % 2 == 0 {
                        region::realloc::<L>(number, old.start, bytes, 1)
                    } else {
                        block::realloc::<L>(old.start, bytes)
                    }
                };
                if start.is_null() {
                    assert!(limit > 0 && bytes > old.bytes, "memory ran out");
                    old.check(usize::MAX);
                    continue;
                }
                Block { start, ..old }.check(bytes);
                own[index] = Block::written(start, bytes, fill);
            }
            5.. if !own.is_empty() => {
                let old = own.swap_remove(rng.random_range(0..own.len()));
                old.check(usize::MAX);
                // SAFETY: a live block, given up here: by either function, in whichever thread.
                unsafe {
                    if fill % 2 == 0 { region::free::<L>(number, old.start) } else { block::free::<L>(old.start) }
                }
            }
            _ => {}
        }
        if step % 100 == 0 {
            assert_eq!(check_accounts::<L>(), Ok(()), "{} at {step} of {seed}", L::NAME);
            let stats = region::stats::<L>(Some(number));
            assert_eq!(stats.live_blocks, blocks[which].len());
            assert!(stats.live_bytes <= stats.held_bytes && stats.held_bytes <= stats.peak_bytes);
            assert!(limit == 0 || stats.peak_bytes <= limit);
        }
    }
    for (number, own) in numbers.into_iter().zip(blocks) {
        own.iter().for_each(|block| block.check(usize::MAX));
        // SAFETY: nothing uses the region any more.
        unsafe { region::end::<L>(number) };
    }
    assert_eq!(region::stats::<L>(None), RegionStats::default());
    assert_eq!(check_accounts::<L>(), Ok(()));
    assert_eq!(collect::<L>().large_bytes + collect::<L>().direct_bytes, 0);
}

#[test]
fn blocks_of_regions_keep_their_contents_and_end_with_them() {
    apart!();
    for (seed, limit) in [(1, 0), (2, 0), (3, 1 << 20), (4, 3 << 20)] {
        mixed_calls_in_several_regions::<Fast>(seed, limit);
        mixed_calls_in_several_regions::<Scale>(seed, limit);
        mixed_calls_in_several_regions::<Hardened>(seed, limit);
        mixed_calls_in_several_regions::<Tiny>(seed, limit);
        mixed_calls_in_several_regions::<TinyHome>(seed, limit);
        mixed_calls_in_several_regions::<TinyHardened>(seed, limit);
    }
}

/// Allocates until it fails.
fn fill<L: Lane>(number: u32, bytes: usize) -> Vec<*mut u8> {
    std::iter::from_fn(|| Some(region::allocate::<L>(number, bytes, 1)).filter(|block| !block.is_null())).collect()
}

fn limits_are_exact<L: Lane>() {
    const PAGES: usize = 100;
    let number = region::begin::<L>(PAGES * PAGE + PAGE - 1).expect("memory");
    let stats = || region::stats::<L>(Some(number));
    let trailer = if L::HARDENED { 8 } else { 0 };
    for bytes in [16, 64, 500, 1024, 3000, 4096, 20_000, 32_768, 65_536] {
        let mut blocks = fill::<L>(number, bytes - trailer);
        let slots = blocks.len();
        assert_eq!(stats().limit_bytes, PAGES * PAGE);
        assert!(stats().held_bytes <= PAGES * PAGE && stats().peak_bytes <= PAGES * PAGE);
        if PAGE % bytes == 0 || bytes % PAGE == 0 {
            assert_eq!(slots, PAGES * PAGE / bytes, "blocks of {bytes} bytes in {}", L::NAME);
        }
        // One that is freed makes room for one.
        for block in blocks.iter_mut().step_by(7) {
            // SAFETY: live, and given up; another one takes its place.
            unsafe { region::free::<L>(number, *block) };
            *block = region::allocate::<L>(number, bytes - trailer, 1);
            assert!(!block.is_null());
            assert!(region::allocate::<L>(number, bytes - trailer, 1).is_null());
        }
        let refused = stats().refused;
        assert!(refused > 0);
        // SAFETY: live, and given up.
        blocks.into_iter().for_each(|block| unsafe { block::free::<L>(block) });
        assert_eq!((stats().live_blocks, stats().live_bytes), (0, 0));
        // All of the limit is there for another size.
        let other = region::allocate::<L>(number, PAGES * PAGE, 1);
        assert!(!other.is_null() && region::allocate::<L>(number, 1, 1).is_null());
        // SAFETY: live, and given up.
        unsafe { region::free::<L>(number, other) };
    }
    assert!(region::allocate::<L>(number, PAGES * PAGE + 1, 1).is_null());
    assert!(region::allocate::<L>(number, usize::MAX, 1).is_null());
    assert_eq!(check_accounts::<L>(), Ok(()));
    // SAFETY: nothing uses the region any more.
    unsafe { region::end::<L>(number) };
    assert!(region::begin::<L>(PAGE - 1).is_none());
}

#[test]
fn a_limit_holds_to_the_page_and_frees_make_room() {
    apart!();
    limits_are_exact::<Fast>();
    limits_are_exact::<Scale>();
    limits_are_exact::<Hardened>();
}

fn threads_share_a_limit<L: Lane>() {
    const THREADS: usize = 4;
    const PAGES: usize = 256;
    let number = region::begin::<L>(PAGES * PAGE).expect("memory");
    let (start, full) = (Barrier::new(THREADS), Barrier::new(THREADS));
    let trailer = if L::HARDENED { 8 } else { 0 };
    for round in 0..10 {
        let bytes = [64, 256, 1024, 4096][round % 4];
        let total = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let blocks = fill::<L>(number, bytes - trailer);
                        full.wait();
                        let held = region::stats::<L>(Some(number)).held_bytes;
                        assert!(held <= PAGES * PAGE);
                        full.wait();
                        let count = blocks.len();
                        // SAFETY: live, and given up.
                        blocks.into_iter().for_each(|block| unsafe { block::free::<L>(block) });
                        count
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
        });
        assert_eq!(total, PAGES * PAGE / bytes, "round {round} in {}", L::NAME);
    }
    assert_eq!(check_accounts::<L>(), Ok(()));
    // SAFETY: nothing uses the region any more.
    unsafe { region::end::<L>(number) };
}

#[test]
fn threads_fill_a_region_to_its_limit_together() {
    apart!();
    threads_share_a_limit::<Fast>();
    threads_share_a_limit::<Hardened>();
}

#[test]
fn what_one_thread_takes_others_free_in_regions_that_come_and_go() {
    apart!();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
                for _ in 0..100 {
                    let region: Region = Region::new().expect("memory");
                    let blocks: Vec<_> = (0..200)
                        .map(|_| {
                            let layout = Layout::from_size_align(random_bytes(&mut rng).max(1), 8).expect("valid");
                            // SAFETY: the layout has bytes.
                            let block = unsafe { region.alloc(layout) };
                            // SAFETY: a fresh block.
                            unsafe { block.write_bytes(1, layout.size()) };
                            (block.expose_provenance(), layout)
                        })
                        .collect();
                    std::thread::scope(|inner| {
                        inner.spawn(|| {
                            for &(block, layout) in blocks.iter().step_by(2) {
                                // SAFETY: live, of that layout, and given up.
                                unsafe { region.dealloc(std::ptr::with_exposed_provenance_mut(block), layout) };
                            }
                        });
                    });
                    assert_eq!(region.stats().live_blocks, 100);
                }
            });
        }
    });
    assert_eq!(Region::<Scale>::stats_of_all(), RegionStats::default());
    assert_eq!(check_accounts::<Scale>(), Ok(()));
}

#[test]
fn ten_thousand_empty_regions_take_little_and_their_records_serve_again() {
    apart!();
    let records = || Fast::allocator().regions.mapped_bytes();
    let make = || (0..10_000).map(|_| region::begin::<Fast>(0).expect("memory")).collect::<Vec<_>>();
    let before = records();
    let numbers = make();
    assert!(records() - before <= 10_000 * PAGE / 2, "{}", records() - before);
    assert_eq!((region::stats::<Fast>(None).regions, region::stats::<Fast>(None).held_bytes), (10_000, 0));
    let blocks: Vec<_> = numbers.iter().map(|&number| region::allocate::<Fast>(number, 100, 1)).collect();
    assert!(blocks.iter().all(|block| !block.is_null()));
    assert_eq!(region::stats::<Fast>(None).held_bytes, 10_000 * PAGE);
    let most = records();
    for _ in 0..3 {
        // SAFETY: nothing uses the regions any more.
        numbers.iter().for_each(|&number| unsafe { region::end::<Fast>(number) });
        assert_eq!(make().len(), 10_000);
        assert_eq!(records(), most);
    }
    // SAFETY: as above.
    numbers.into_iter().for_each(|number| unsafe { region::end::<Fast>(number) });
    assert_eq!(check_accounts::<Fast>(), Ok(()));
}

fn a_vector_and_a_box<L: Lane>() {
    let region = Region::<L>::with_limit(8 << 20).expect("memory");
    let mut words: VecIn<String, &Region<L>> = VecIn::new_in(&region);
    for number in 0..10_000 {
        words.push(number.to_string());
    }
    assert!(words.iter().enumerate().all(|(number, word)| *word == number.to_string()));
    words.truncate(10);
    words.shrink_to_fit();
    let boxed = BoxIn::new_in([7_u8; 100_000], &region);
    let nothing: BoxIn<(), _> = BoxIn::new_in((), &region);
    assert_eq!((boxed[99_999], *nothing), (7, ()));
    assert_eq!(region.stats().live_blocks, 2);
    let mut bytes: VecIn<u8, &Region<L>> = VecIn::new_in(&region);
    assert!(bytes.try_reserve(9 << 20).is_err());
    assert!(bytes.try_reserve(1 << 20).is_ok());
    std::mem::forget((boxed, bytes));
    drop((words, nothing));
    // By value, it goes with what it holds.
    let mut own: VecIn<u64, Region<L>> = VecIn::new_in(region);
    own.extend(0..1000);
    assert_eq!(own.allocator().stats().live_blocks, 3);
    drop(own);
    assert_eq!(check_accounts::<L>(), Ok(()));
}

#[test]
fn collections_live_in_regions() {
    apart!();
    a_vector_and_a_box::<Fast>();
    a_vector_and_a_box::<Scale>();
    a_vector_and_a_box::<Hardened>();
}

#[test]
fn mappings_of_their_own_count_and_go_with_their_region() {
    apart!();
    const BYTES: usize = 130 << 20;
    let number = region::begin::<Fast>(3 * BYTES).expect("memory");
    let block = region::allocate::<Fast>(number, BYTES, 1);
    assert!(!block.is_null() && collect::<Fast>().direct_blocks == 1);
    // SAFETY: a live block.
    let grown = unsafe { region::realloc::<Fast>(number, block, 2 * BYTES, 1) };
    assert!(!grown.is_null());
    assert_eq!(region::stats::<Fast>(Some(number)).held_bytes, 2 * BYTES);
    // SAFETY: a live block.
    assert!(unsafe { region::realloc::<Fast>(number, grown, 3 * BYTES + 1, 1) }.is_null());
    // SAFETY: a live block.
    unsafe { block::free::<Fast>(grown) };
    assert_eq!(region::stats::<Fast>(Some(number)).held_bytes, 0);
    assert!(!region::allocate::<Fast>(number, BYTES, 1).is_null());
    // SAFETY: nothing uses the region any more.
    unsafe { region::end::<Fast>(number) };
    assert_eq!((collect::<Fast>().direct_blocks, check_accounts::<Fast>()), (0, Ok(())));
}
