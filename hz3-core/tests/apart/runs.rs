//! Runs never overlap, merge again, grow where they lie, and are found where they fit.

use hz3_core::observe::books::check_runs;
use hz3_core::pages::run_lists::class_of;
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
    apart!();
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
    apart!();
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

#[test]
fn one_run_that_fits_is_found_behind_many_that_do_not() {
    apart!();
    const SHORT: usize = 260;
    const LONG: usize = 262;
    assert_eq!(class_of(SHORT), class_of(LONG + 1), "lengths of one class");
    static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 64 << 20));
    let long = walled(&RUNS, LONG);
    let short = [(); 40].map(|()| walled(&RUNS, SHORT));
    let start = place(&RUNS, long).0;
    release(&RUNS, long, 0);
    short.into_iter().for_each(|id| release(&RUNS, id, 0));
    assert_eq!(RUNS.take_any(LONG + 1, 1), None);
    let before = RUNS.arenas.reserved_and_committed();
    let found = RUNS.allocate(LONG, 1).expect("the long one");
    assert_eq!((place(&RUNS, found).0, RUNS.arenas.reserved_and_committed()), (start, before));
    assert_eq!(RUNS.take_any(LONG, 1), None);
    assert!(RUNS.take_any(SHORT, 1).is_some());
    assert_eq!(check_runs(&RUNS), Ok(()));
}

/// A run that can't grow together with the next one.
fn walled(runs: &Runs<Linux>, pages: usize) -> SpanId {
    let id = runs.allocate(pages, 1).expect("memory");
    runs.allocate(1, 1).expect("memory");
    id
}

#[test]
fn a_run_is_found_by_its_length_whatever_lies_in_front() {
    apart!();
    static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 256 << 20));
    for (short, long, wanted) in [(104, 110, 109), (416, 446, 440), (1030, 1150, 1100)] {
        let long_run = walled(&RUNS, long);
        let short_runs: Vec<SpanId> = (0..12).map(|_| walled(&RUNS, short)).collect();
        let start = place(&RUNS, long_run).0;
        release(&RUNS, long_run, 0);
        short_runs.into_iter().for_each(|id| release(&RUNS, id, 0));
        let before = RUNS.arenas.reserved_and_committed();
        assert_eq!(place(&RUNS, RUNS.allocate(wanted, 1).expect("memory")).0, start);
        assert_eq!(RUNS.arenas.reserved_and_committed(), before);
    }
    assert_eq!(check_runs(&RUNS), Ok(()));
}

#[test]
fn among_like_lengths_the_run_freed_last_serves_first() {
    apart!();
    static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 64 << 20));
    let runs = [200, 204, 207, 203].map(|pages| walled(&RUNS, pages));
    let starts = runs.map(|id| place(&RUNS, id).0);
    for index in [0, 2, 1, 3] {
        release(&RUNS, runs[index], 0);
    }
    for expected in [3, 1, 2] {
        assert_eq!(place(&RUNS, RUNS.allocate(201, 1).expect("memory")).0, starts[expected]);
    }
    assert_eq!(check_runs(&RUNS), Ok(()));
}

#[test]
fn adjacent_dirty_and_clean_runs_serve_together_before_fresh_pages() {
    apart!();
    const PIECES: [(usize, bool); 5] = [(150, true), (150, false), (300, true), (100, false), (200, true)];
    static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 64 << 20));
    // Far more clean pages lie elsewhere.
    let elsewhere = RUNS.allocate(4000, 1).expect("memory");
    let wall = RUNS.allocate(1, 1).expect("memory");
    let pieces: std::vec::Vec<_> =
        PIECES.iter().map(|&(pages, is_dirty)| (RUNS.allocate(pages, 1).expect("memory"), is_dirty)).collect();
    let first = place(&RUNS, pieces[0].0).0;
    let end = place(&RUNS, pieces[4].0).0 + 200 * PAGE_BYTES;
    assert_eq!(end - first, 900 * PAGE_BYTES, "they adjoin");
    let other_wall = RUNS.allocate(1, 1).expect("memory");
    release(&RUNS, elsewhere, 0);
    pieces.iter().filter(|(_, is_dirty)| !is_dirty).for_each(|&(id, _)| release(&RUNS, id, 0));
    RUNS.purge(5000, 1000, usize::MAX);
    pieces.iter().filter(|(_, is_dirty)| *is_dirty).for_each(|&(id, _)| release(&RUNS, id, 5000));
    assert_eq!(check_runs(&RUNS), Ok(()));
    let dirty = RUNS.free_bytes().0;
    assert_eq!(dirty, 650 * PAGE_BYTES);

    // Around the longest one: behind it, before it, and a part of the first.
    let taken = RUNS.allocate(680, 1).expect("memory");
    let (start, pages) = place(&RUNS, taken);
    assert_eq!(pages, 680);
    assert!(start > first && start + pages * PAGE_BYTES <= end);
    assert_eq!(check_runs(&RUNS), Ok(()));
    // SAFETY: the test's own run.
    assert!(unsafe { !(*at(&RUNS.spans, taken)).zeroed });
    // What is left there is too short.
    let rest = RUNS.allocate(400, 1).expect("memory");
    assert!(!(first..end).contains(&place(&RUNS, rest).0));
    release(&RUNS, taken, 5000);
    // The pages that held memory, and those that did not.
    assert_eq!(check_runs(&RUNS), Ok(()));
    assert!(RUNS.free_bytes().0 >= dirty);
    for id in [rest, wall, other_wall] {
        release(&RUNS, id, 5000);
    }
    RUNS.purge(9000, 0, usize::MAX);
    assert_eq!(check_runs(&RUNS), Ok(()));
    assert_eq!(RUNS.free_bytes(), (0, RUNS.arenas.reserved_and_committed().1, 0));
}
