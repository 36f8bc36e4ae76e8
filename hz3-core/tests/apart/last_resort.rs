//! Where the system refuses: mappings that it does not take back stay in the books until it does; a program that
//! probes for what can't be had leaves the other threads alone; and what gathers free memory comes to its end although
//! others go on making some.

use hz3_core::api::block;
use hz3_core::api::block::{malloc_aligned, malloc_zeroed, trim};
use hz3_core::observe::books::{check_accounts, check_runs};
use hz3_core::observe::stats::collect;
use hz3_core::pages::runs::Runs;
use hz3_core::pages::span::at;
use hz3_core::platform::atomic::{AtomicU32, Ordering};
use hz3_core::platform::fake::Fake;
use hz3_core::platform::options::Options;
use hz3_core::platform::os::Os;
use hz3_core::platform::units::SpanId;
use hz3_core::transfer::homeward::empty_depots;
use hz3_core::{Lane, Tiny};
use std::sync::Barrier;
use std::time::Instant;

const MIB: usize = 1 << 20;

fn write(block: *mut u8, bytes: usize) {
    assert!(!block.is_null(), "no block of {bytes} bytes");
    // SAFETY: a live block of that many bytes.
    unsafe { block.write_bytes(0xa5, bytes) };
}

fn free(block: *mut u8) {
    // SAFETY: a live block of the lane.
    unsafe { block::free::<Tiny>(block) };
}

/// The books hold together with that many bytes that the system did not take back.
fn expect_unreturned(bytes: usize) {
    assert_eq!(check_accounts::<Tiny>(), Ok(()));
    let stats = collect::<Tiny>();
    assert_eq!((stats.unreturned_bytes, stats.direct_blocks), (bytes, 0), "{stats:?}");
    assert_eq!(
        stats.mapped_bytes(),
        stats.committed_bytes + stats.direct_bytes + stats.unreturned_bytes + stats.metadata_bytes
    );
}

#[test]
fn a_mapping_that_the_system_does_not_take_back_serves_again_and_goes_later() {
    apart!();
    let first = block::malloc::<Tiny>(160 * MIB);
    write(first, 160 * MIB);
    Fake::refuse_after(0);
    free(first);
    expect_unreturned(160 * MIB);
    // Nothing else is to be had, and so even a wasteful fit will do.
    let second = block::malloc::<Tiny>(132 * MIB);
    assert_eq!(second, first);
    free(second);
    Fake::grant_all();
    // Its pages were not given back either, and still hold what was written.
    let third = malloc_zeroed::<Tiny>(152 * MIB);
    assert_eq!(third, first);
    // SAFETY: a live block of that many bytes.
    assert!(unsafe { std::slice::from_raw_parts(third, 152 * MIB) }.iter().all(|&byte| byte == 0));
    assert_eq!(collect::<Tiny>().direct_bytes, 160 * MIB);
    assert_eq!(collect::<Tiny>().unreturned_bytes, 0);
    Fake::refuse_after(0);
    free(third);
    Fake::grant_all();
    expect_unreturned(160 * MIB);
    assert!(trim::<Tiny>());
    expect_unreturned(0);
}

#[test]
fn the_ends_of_an_aligned_mapping_that_are_refused_stay_in_the_books() {
    apart!();
    // So that a descriptor is at hand.
    free(block::malloc::<Tiny>(160 * MIB));
    Fake::refuse_after(1);
    let block = malloc_aligned::<Tiny>(160 * MIB, 256 * MIB);
    Fake::grant_all();
    assert!(!block.is_null() && block.addr().is_multiple_of(256 * MIB));
    assert_eq!(collect::<Tiny>().unreturned_bytes, 256 * MIB);
    free(block);
    expect_unreturned(256 * MIB);
    trim::<Tiny>();
    expect_unreturned(0);
}

#[test]
fn mappings_that_are_refused_again_wait_in_line_and_all_of_them_go_in_the_end() {
    apart!();
    let blocks = [160, 200, 240, 280].map(|mib| block::malloc::<Tiny>(mib * MIB));
    Fake::refuse_after(0);
    for block in blocks {
        free(block);
    }
    trim::<Tiny>();
    expect_unreturned(880 * MIB);
    // From the middle of the line.
    assert_eq!(block::malloc::<Tiny>(196 * MIB), blocks[1]);
    free(blocks[1]);
    trim::<Tiny>();
    expect_unreturned(880 * MIB);
    Fake::grant_all();
    trim::<Tiny>();
    expect_unreturned(0);
}

#[test]
fn a_size_beyond_all_that_is_free_costs_nobody_a_cache() {
    apart!();
    let blocks: Vec<_> = (0..200).map(|_| block::malloc::<Tiny>(100)).collect();
    blocks.into_iter().for_each(free);
    assert!(collect::<Tiny>().magazine_bytes > 0);
    let trims = Tiny::allocator().trims();
    Fake::refuse_after(0);
    for _ in 0..1000 {
        assert!(block::malloc::<Tiny>(4 << 30).is_null());
    }
    Fake::grant_all();
    assert_eq!(Tiny::allocator().trims(), trims);
    assert!(collect::<Tiny>().magazine_bytes > 0, "even this thread's cache was emptied");
}

#[test]
fn a_thread_that_fails_again_and_again_asks_the_others_now_and_then() {
    apart!();
    // Every second one free: a lot in all, and no two together.
    let blocks: Vec<_> = (0..64).map(|_| block::malloc::<Tiny>(300_000)).collect();
    let (kept, freed): (Vec<_>, Vec<_>) = blocks.chunks(2).map(|pair| (pair[0], pair[1])).unzip();
    freed.into_iter().for_each(free);
    let (start, trims) = (Instant::now(), Tiny::allocator().trims());
    Fake::refuse_after(0);
    let mut served = Vec::new();
    while start.elapsed().as_millis() < 300 {
        served.extend(Some(block::malloc::<Tiny>(6 * MIB)).filter(|block| !block.is_null()));
    }
    Fake::grant_all();
    let asked = Tiny::allocator().trims() - trims;
    assert!(served.len() < 30, "{} served", served.len());
    let most = start.elapsed().as_millis() / 125 + 1;
    assert!(asked >= 1 && u128::from(asked) <= most, "asked {asked} times, {most} allowed");
    served.into_iter().chain(kept).for_each(free);
}

#[test]
fn a_failure_that_repeats_leaves_caches_and_free_memory_alone() {
    apart!();
    let blocks: Vec<_> = (0..20_000).map(|_| block::malloc::<Tiny>(1000)).collect();
    let (kept, freed): (Vec<_>, Vec<_>) = blocks.chunks(2).map(|pair| (pair[0], pair[1])).unzip();
    freed.into_iter().for_each(free);
    Fake::refuse_after(0);
    // What fills runs that are free already.
    let large: Vec<_> =
        std::iter::repeat_with(|| block::malloc::<Tiny>(MIB)).take_while(|block| !block.is_null()).collect();
    let purged = Tiny::allocator().pages.purged_bytes();
    let mut left_alone = 0;
    for _ in 0..50 {
        free(block::malloc::<Tiny>(1000));
        let before = collect::<Tiny>().magazine_bytes;
        assert!(block::malloc::<Tiny>(MIB).is_null());
        left_alone += usize::from(collect::<Tiny>().magazine_bytes == before);
    }
    assert!(left_alone > 25, "the cache stayed in {left_alone} of 50 failures");
    assert_eq!(Tiny::allocator().pages.purged_bytes(), purged);
    // The rest comes free, the last slots in the cache: the next request is served at once.
    kept.into_iter().for_each(free);
    let block = block::malloc::<Tiny>(MIB);
    Fake::grant_all();
    write(block, MIB);
    large.into_iter().chain([block]).for_each(free);
}

#[test]
fn what_is_freed_in_a_request_s_way_still_serves_it() {
    apart!();
    // The spans of these come together to pages again only when the caches are emptied.
    let blocks: Vec<_> = (0..20_000).map(|_| block::malloc::<Tiny>(1000)).collect();
    Fake::refuse_after(0);
    blocks.into_iter().for_each(free);
    let block = block::malloc::<Tiny>(4 * MIB);
    Fake::grant_all();
    write(block, 4 * MIB);
    free(block);
}

/// Runs that another thread takes and gives back, dirty, each time that one of them goes to the system.
static RUNS: Runs<Fake> = Runs::new(Options::new(1000, 64 << 20));
static MADE: AtomicU32 = AtomicU32::new(0);

fn make_a_dirty_run() {
    // Relaxed: a count.
    if MADE.fetch_add(1, Ordering::Relaxed) < 10_000
        && let Some(id) = RUNS.allocate(16, 1)
    {
        release(id);
    }
}

fn release(id: SpanId) {
    // SAFETY: the test's own run, which nothing uses.
    unsafe { RUNS.release(id, Fake::now_ms()) }
}

#[test]
fn a_purge_does_not_pursue_what_becomes_dirty_meanwhile() {
    apart!();
    let taken = [(); 3].map(|()| RUNS.allocate(16, 1).expect("memory"));
    taken.into_iter().for_each(release);
    Fake::call_at_purges(make_a_dirty_run);
    let purged = RUNS.purge(Fake::now_ms(), 0, usize::MAX);
    Fake::call_at_purges(|| {});
    // Relaxed: a count.
    let made = MADE.load(Ordering::Relaxed);
    assert!(purged >= 48 << 12 && made < 10, "{purged} bytes in {made} calls");
    assert_eq!(check_runs(&RUNS), Ok(()));
}

static ALIGNED: Runs<Fake> = Runs::new(Options::new(1000, 64 << 20));

#[test]
fn an_aligned_request_finds_every_run_that_fits_where_it_lies() {
    apart!();
    const PAGE: usize = 4096;
    let take = |pages, align_pages| ALIGNED.allocate(pages, align_pages);
    let ids: Vec<_> = (0..400)
        .map(|_| {
            let id = take(9, 1).expect("memory");
            take(1, 1).expect("what keeps it apart");
            id
        })
        .collect();
    // SAFETY: the test's own runs, here and below.
    let start = |id: SpanId| unsafe { (*at(&ALIGNED.spans, id)).start };
    let fitting = ids.iter().filter(|&&id| start(id).next_multiple_of(8 * PAGE) <= start(id) + PAGE).count();
    assert!(fitting > 50);
    Fake::refuse_after(0);
    while take(16, 1).is_some() {}
    // SAFETY: as above.
    ids.into_iter().for_each(|id| unsafe { ALIGNED.release(id, 0) });
    let found: Vec<_> = std::iter::from_fn(|| take(8, 8)).collect();
    // What was left of the last pages may fit too.
    assert!((fitting..fitting + 2).contains(&found.len()), "{} of {fitting}", found.len());
    assert!(found.into_iter().all(|id| start(id).is_multiple_of(8 * PAGE)));
    assert_eq!(check_runs(&ALIGNED), Ok(()));
}

#[test]
fn depots_are_emptied_in_the_end_although_another_thread_fills_them() {
    apart!();
    let (barrier, ended) = (Barrier::new(2), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            barrier.wait();
            // Relaxed: only to end.
            while ended.load(Ordering::Relaxed) == 0 {
                let blocks = [(); 64].map(|()| block::malloc::<Tiny>(64));
                blocks.into_iter().for_each(free);
            }
        });
        barrier.wait();
        for _ in 0..2000 {
            let allocator = Tiny::allocator();
            empty_depots(&allocator.pages, &allocator.exchange);
        }
        // Relaxed: as above.
        ended.store(1, Ordering::Relaxed);
    });
    trim::<Tiny>();
    assert_eq!(check_accounts::<Tiny>(), Ok(()));
}
