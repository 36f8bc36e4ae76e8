//! Systems with pages of 16 and 64 KiB: the fake system panics at a range that is not whole pages. Each size has a process of its
//! own, as a system has one.

use crate::access::is_readable;
use crate::{run_apart, sequence};
use hz3_core::api::block::{free, malloc, trim};
use hz3_core::api::region;
use hz3_core::api::size::usable_bytes;
use hz3_core::observe::books::{check_accounts, walk_runs};
use hz3_core::observe::stats::collect;
use hz3_core::pages::bins::BINS;
use hz3_core::platform::fake::Fake;
use hz3_core::{Lane, Tiny, TinyHardened, TinyHome};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

const VARIABLE: &str = "TEST_PAGE_BYTES";

/// Runs `body` with each size of pages, in a process that runs the test `name` alone.
fn with_each_size(name: &str, body: impl FnOnce(usize)) {
    if let Ok(bytes) = std::env::var(VARIABLE) {
        let bytes = bytes.parse().expect("a number");
        Fake::set_page_bytes(bytes);
        return body(bytes);
    }
    for bytes in [16 << 10, 64 << 10_usize] {
        run_apart(&format!("large_pages::{name}"), VARIABLE, &bytes.to_string());
    }
}

/// Every span and run that is no part of a shared page has whole pages.
fn expect_whole_runs<L: Lane>(page: usize) {
    let outcome = walk_runs(&L::allocator().pages.runs, |span| {
        let is_whole = span.start % page == 0 && span.bytes() % page == 0;
        let is_part = span.bytes() < page && span.start / page == (span.start + span.bytes() - 1) / page;
        if is_whole || is_part { Ok(()) } else { Err("a run that ends within a page") }
    });
    assert_eq!(outcome, Ok(()));
}

#[test]
fn any_calls_hold_and_books_close() {
    with_each_size("any_calls_hold_and_books_close", |_| {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        for turn in 0..12 {
            let mut steps = vec![0_u8; 4 * 1000];
            rng.fill(&mut steps[..]);
            match turn % 3 {
                0 => sequence::run::<Tiny>(&steps),
                1 => sequence::run::<TinyHome>(&steps),
                _ => sequence::run::<TinyHardened>(&steps),
            }
        }
    });
}

fn blocks_and_regions_share<L: Lane>(page: usize) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(page as u64);
    let mut blocks: Vec<*mut u8> = Vec::new();
    let mut regions: Vec<(u32, Vec<(*mut u8, u8)>)> = Vec::new();
    for step in 0..6000_u32 {
        let bytes = if step % 8 == 0 { rng.random_range(0..70_000) } else { rng.random_range(0..130) };
        match rng.random_range(0..16) {
            0..6 => {
                let block = malloc::<L>(bytes);
                // SAFETY: a fresh block.
                unsafe { block.write_bytes(step as u8, bytes) };
                blocks.push(block);
            }
            6..9 if !blocks.is_empty() => {
                let block = blocks.swap_remove(rng.random_range(0..blocks.len()));
                // SAFETY: a live block, given up here.
                unsafe { free::<L>(block) };
            }
            9 if regions.len() < 20 => regions.push((region::begin::<L>(0).expect("memory"), Vec::new())),
            10..15 if !regions.is_empty() => {
                let index = rng.random_range(0..regions.len());
                let (number, own) = &mut regions[index];
                let block = region::allocate::<L>(*number, bytes.max(1), 1);
                // SAFETY: a fresh block.
                unsafe { block.write_bytes(step as u8, bytes.max(1)) };
                own.push((block, step as u8));
            }
            15 if regions.len() > 10 => {
                let (number, own) = regions.swap_remove(rng.random_range(0..regions.len()));
                for (block, fill) in own {
                    // SAFETY: a live block of the region.
                    assert_eq!(unsafe { block.read() }, fill);
                }
                // SAFETY: nothing uses the region any more.
                unsafe { region::end::<L>(number) };
            }
            _ => {}
        }
        if step % 500 == 0 {
            assert_eq!(check_accounts::<L>(), Ok(()), "{} at {step}", L::NAME);
            expect_whole_runs::<L>(page);
        }
    }
    for block in blocks {
        // SAFETY: a live block, given up here.
        unsafe { free::<L>(block) };
    }
    for (number, _) in regions {
        // SAFETY: nothing uses the region any more.
        unsafe { region::end::<L>(number) };
    }
    trim::<L>();
    assert_eq!(check_accounts::<L>(), Ok(()));
    let stats = collect::<L>();
    assert_eq!((stats.small_span_bytes, stats.large_bytes, stats.dirty_bytes), (0, 0, 0), "{stats:?}");
}

#[test]
fn short_spans_of_bins_and_regions_share_pages() {
    with_each_size("short_spans_of_bins_and_regions_share_pages", |page| {
        blocks_and_regions_share::<Tiny>(page);
        blocks_and_regions_share::<TinyHome>(page);
        blocks_and_regions_share::<TinyHardened>(page);
    });
}

#[test]
fn small_blocks_take_little_more_than_with_pages_of_four_kibibytes() {
    with_each_size("small_blocks_take_little_more_than_with_pages_of_four_kibibytes", |page| {
        let metadata = collect::<Tiny>().metadata_bytes;
        for bytes in [16, 32, 48, 64, 80, 96, 112, 128, 144, 1024, 10_240, 18_000, 32 << 10] {
            let count = (8 << 20) / bytes;
            let blocks: Vec<_> = (0..count).map(|_| malloc::<Tiny>(bytes)).collect();
            let stats = collect::<Tiny>();
            let most = count * bytes * 9 / 8 + 2 * BINS * page;
            assert!(stats.small_span_bytes <= most, "{} bytes for {count} of {bytes}", stats.small_span_bytes);
            for block in blocks {
                // SAFETY: a live block, given up here.
                unsafe { free::<Tiny>(block) };
            }
        }
        // Descriptors of 128 bytes for 512 slots, and tags of 8 bytes for 4 KiB.
        assert!(collect::<Tiny>().metadata_bytes < metadata + (4 << 20));
    });
}

#[test]
fn whole_pages_between_live_blocks_go_back() {
    with_each_size("whole_pages_between_live_blocks_go_back", |page| {
        let mut blocks: Vec<_> = (0..4096).map(|_| malloc::<Tiny>(4096)).collect();
        blocks.sort_unstable();
        for block in &blocks {
            // SAFETY: a live block.
            unsafe { block.write_bytes(7, 4096) };
        }
        let (kept, others): (Vec<_>, Vec<_>) = blocks.into_iter().enumerate().partition(|(index, _)| index % 64 == 0);
        for (_, block) in others {
            // SAFETY: a live block, given up here.
            unsafe { free::<Tiny>(block) };
        }
        trim::<Tiny>();
        let stats = collect::<Tiny>();
        assert_eq!(check_accounts::<Tiny>(), Ok(()));
        assert!(stats.span_purged_bytes % page == 0 && stats.span_purged_bytes + stats.clean_bytes > 0);
        assert!(stats.small_span_bytes - stats.span_purged_bytes <= (kept.len() + 2) * page, "{stats:?}");
        for (_, block) in kept {
            // SAFETY: a live block, which no purge touched; given up here.
            unsafe {
                assert_eq!((block.read(), block.add(4095).read()), (7, 7));
                free::<Tiny>(block);
            }
        }
    });
}

#[test]
fn guards_are_whole_pages() {
    with_each_size("guards_are_whole_pages", |page| {
        for bytes in [33_000, 100_000, 5 << 20] {
            let block = malloc::<TinyHardened>(bytes);
            assert_eq!(usable_bytes::<TinyHardened>(block), Some(bytes));
            let end = block.expose_provenance() + bytes.next_multiple_of(page);
            assert!(is_readable(end - 1));
            assert!(!is_readable(end) && !is_readable(end + page - 1));
            // SAFETY: a live block, given up here.
            unsafe { free::<TinyHardened>(block) };
        }
        // Many at once: some wait with guards at their ends, and serve again.
        for turn in 0..3000 {
            let block = malloc::<TinyHardened>(33_000 + turn % 7 * 40_000);
            // SAFETY: a live block, given up here.
            unsafe {
                block.write_bytes(1, 33_000);
                free::<TinyHardened>(block);
            }
        }
        assert_eq!(check_accounts::<TinyHardened>(), Ok(()));
        assert_eq!(collect::<TinyHardened>().refused_guards, 0);
    });
}
