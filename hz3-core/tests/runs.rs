//! Runs never overlap, merge again, grow where they lie, and are found where they fit.

use hz3_core::observe::books::check_runs;
use hz3_core::pages::runs::Runs;
use hz3_core::pages::span::at;
use hz3_core::platform::linux::Linux;
use hz3_core::platform::options::Options;
use hz3_core::platform::units::{PAGE_BYTES, SpanId};
use rand::{Rng, SeedableRng};

/// Where the run `id` begins, and its pages.
fn place(runs: &Runs<Linux>, id: SpanId) -> (usize, usize) {
    // SAFETY: the test's own run.
    let span = unsafe { &*at(&runs.spans, id) };
    (span.start, span.pages as usize)
}

fn release(runs: &Runs<Linux>, id: SpanId, now: u32) {
    // SAFETY: the test's own run, which nothing uses.
    unsafe { runs.release(id, now) }
}

#[test]
fn random_runs_never_overlap_and_all_merge_again() {
    static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 256 << 20));
    let mut rng = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(7);
    let mut live: std::vec::Vec<(SpanId, usize, usize)> = std::vec::Vec::new();
    for round in 0..20_000_u32 {
        if live.is_empty() || rng.random_range(0..100) < 52 {
            let pages = 1 << rng.random_range(0..8);
            let pages = rng.random_range(1..=pages);
            let align = if rng.random_range(0..8) == 0 { 1 << rng.random_range(0..6) } else { 1 };
            let id = RUNS.allocate(pages, align).expect("memory");
            let (start, taken) = place(&RUNS, id);
            assert_eq!(taken, pages);
            assert_eq!(start % (align * PAGE_BYTES), 0);
            assert!(
                live.iter()
                    .all(|&(_, other, size)| start + pages * PAGE_BYTES <= other || other + size * PAGE_BYTES <= start)
            );
            live.push((id, start, pages));
        } else {
            let (id, ..) = live.swap_remove(rng.random_range(0..live.len()));
            release(&RUNS, id, round);
        }
        if round % 64 == 0 {
            RUNS.purge(round, 500, 1 << 20);
            assert_eq!(check_runs(&RUNS), Ok(()));
        }
    }
    for (id, ..) in live.drain(..) {
        release(&RUNS, id, 20_000);
    }
    RUNS.purge(40_000, 0, usize::MAX);
    assert_eq!(check_runs(&RUNS), Ok(()));
    assert_eq!(RUNS.free_bytes(), (0, RUNS.arenas.reserved_and_committed().1, 0));
}

#[test]
fn a_run_grows_into_the_free_pages_behind_it_and_shrinks_again() {
    static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 64 << 20));
    let id = RUNS.allocate(10, 1).expect("memory");
    // SAFETY: the test's own run, here and below.
    let extend = |pages| unsafe { RUNS.extend(id, pages) };
    assert!(extend(30));
    assert_eq!(place(&RUNS, id).1, 30);
    // SAFETY: as above.
    unsafe { RUNS.shrink(id, 5, 0) };
    assert_eq!(check_runs(&RUNS), Ok(()));
    let wall = RUNS.allocate(25, 1).expect("memory");
    assert!(!extend(6) || place(&RUNS, wall).0 != place(&RUNS, id).0 + 6 * PAGE_BYTES);
    release(&RUNS, id, 0);
    release(&RUNS, wall, 0);
    assert_eq!(check_runs(&RUNS), Ok(()));
}

/// A free run of each of these lengths, that can't grow together with another, in this order.
fn free_runs(runs: &Runs<Linux>, lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let run = |pages| {
        let id = runs.allocate(pages, 1).expect("memory");
        runs.allocate(1, 1).expect("memory");
        id
    };
    let ids: Vec<_> = lengths.map(run).collect();
    let starts = ids.iter().map(|&id| place(runs, id).0).collect();
    ids.into_iter().for_each(|id| release(runs, id, 0));
    starts
}

#[test]
fn the_one_run_that_fits_is_found_behind_any_number_that_do_not() {
    static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 8 << 30));
    let lengths = [67].into_iter().chain(std::iter::repeat_n(65, 10_000)).chain(68..400);
    let starts = free_runs(&RUNS, lengths);
    let committed = RUNS.arenas.reserved_and_committed();
    let take = |pages| place(&RUNS, RUNS.allocate(pages, 1).expect("memory"));
    assert_eq!(take(67), (starts[0], 67), "the only run of this length");
    assert_eq!(take(66).0, starts[10_001], "the shortest that is long enough");
    for pages in (69..400).rev() {
        assert_eq!(take(pages).0, starts[10_001 + pages - 68]);
    }
    for _ in 0..10_000 {
        take(65);
    }
    assert_eq!(RUNS.arenas.reserved_and_committed(), committed, "what is free serves first");
    assert_eq!(check_runs(&RUNS), Ok(()));
}

#[test]
fn lengths_of_all_kinds_come_and_go_in_any_order_and_the_least_that_fits_serves() {
    static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 8 << 30));
    let mut rng = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(11);
    let lengths: Vec<usize> = (0..3000)
        .map(|_| {
            let most = 1 << rng.random_range(1..10);
            1 + rng.random_range(0..most)
        })
        .collect();
    let mut model = std::collections::BTreeMap::<usize, Vec<usize>>::new();
    for (start, &length) in free_runs(&RUNS, lengths.iter().copied()).into_iter().zip(&lengths) {
        model.entry(length).or_default().push(start);
    }
    let mut taken: Vec<(SpanId, usize, usize)> = Vec::new();
    for round in 0..20_000 {
        if taken.is_empty() || (taken.len() < 1500 && rng.random_range(0..2) == 0) {
            // Of the length of one that is free: it leaves no rest.
            let wanted = lengths[rng.random_range(0..lengths.len())];
            let Some((&length, starts)) = model.range_mut(wanted..).next() else { continue };
            let id = RUNS.allocate(length, 1).expect("memory");
            let (start, _) = place(&RUNS, id);
            let at = starts.iter().position(|&free| free == start).expect("a run of this very length");
            starts.swap_remove(at);
            if starts.is_empty() {
                model.remove(&length);
            }
            taken.push((id, start, length));
        } else {
            let (id, start, length) = taken.swap_remove(rng.random_range(0..taken.len()));
            release(&RUNS, id, round);
            model.entry(length).or_default().push(start);
        }
        if round % 512 == 0 {
            assert_eq!(check_runs(&RUNS), Ok(()));
        }
    }
    assert_eq!(check_runs(&RUNS), Ok(()));
}
