//! Runs lie in windows wherever those can be had: out of the way, where the system has room, or in one mapping each. One
//! test, because the fake system's addresses are the process's.

use hz3_core::observe::books::check_runs;
use hz3_core::pages::runs::Runs;
use hz3_core::pages::span::at;
use hz3_core::platform::fake::Fake;
use hz3_core::platform::options::Options;
use hz3_core::platform::os::Os;
use hz3_core::platform::units::{PAGE_BYTES, SpanId};
use std::ops::Range;

/// Takes and returns runs while `taken` is not to be had, and returns where the first and the last one lay.
fn take_runs(runs: &Runs<Fake>, taken: Range<usize>) -> (usize, usize) {
    Fake::take(taken);
    let place = |id: SpanId| {
        // SAFETY: the test's own run.
        unsafe { (*at(&runs.spans, id)).start }
    };
    let ids: Vec<SpanId> =
        (0..200).map(|round| runs.allocate(100 + round % 7 * 90, 1).expect("memory, wherever it lies")).collect();
    for (&id, round) in ids.iter().zip(0_usize..) {
        let start = std::ptr::with_exposed_provenance_mut::<usize>(place(id));
        // SAFETY: the test's own run of 100 pages at least.
        unsafe {
            start.write(round);
            start.byte_add(99 * PAGE_BYTES).write(round);
        }
    }
    assert_eq!(check_runs(runs), Ok(()));
    let ends = (place(ids[0]), place(ids[199]));
    for (&id, round) in ids.iter().zip(0_usize..) {
        let start = std::ptr::with_exposed_provenance::<usize>(place(id));
        // SAFETY: the test's own run, which it gives up.
        unsafe {
            assert_eq!((start.read(), start.byte_add(99 * PAGE_BYTES).read()), (round, round));
            runs.release(id, 0);
        }
    }
    assert_eq!(check_runs(runs), Ok(()));
    let (reserved, committed) = runs.arenas.reserved_and_committed();
    assert!(committed <= reserved && committed < 600 << 20, "{committed} of {reserved}");
    ends
}

#[test]
fn runs_are_to_be_had_wherever_windows_lie() {
    apart!();
    static OUT_OF_THE_WAY: Runs<Fake> = Runs::new(Options::new(1000, 64 << 20));
    static OF_THE_SYSTEM: Runs<Fake> = Runs::new(Options::new(1000, 64 << 20));
    static WHOLE: Runs<Fake> = Runs::new(Options::new(1000, 64 << 20));
    static SHORT: Runs<Fake> = Runs::new(Options::new(1000, 4 << 20));
    let all = Fake::OUT_OF_THE_WAY.unwrap_or(0..0);
    if !all.is_empty() {
        let (first, last) = take_runs(&OUT_OF_THE_WAY, 0..0);
        assert!(all.contains(&first) && all.contains(&last));
    }
    let (first, last) = take_runs(&OF_THE_SYSTEM, all.clone());
    assert!(!all.contains(&first) && !all.contains(&last));
    take_runs(&WHOLE, 0..usize::MAX);
    // 64 MiB in the first window: the rest lies in further ones.
    let (first, last) = take_runs(&SHORT, 0..0);
    assert!(first.abs_diff(last) > 64 << 20);
    // What was begun in one way goes on in another.
    take_runs(&OUT_OF_THE_WAY, 0..usize::MAX);
    take_runs(&WHOLE, 0..0);
    for runs in [&OF_THE_SYSTEM, &SHORT] {
        gives_ends_back(runs);
    }
}

/// What is free at windows' ends is unmapped, but for a rest, and mapped again when it is needed.
fn gives_ends_back(runs: &Runs<Fake>) {
    let kept = runs.allocate(1, 1).expect("memory");
    // SAFETY: the test's own run.
    let start = std::ptr::with_exposed_provenance_mut::<usize>(unsafe { (*at(&runs.spans, kept)).start });
    // SAFETY: as above.
    unsafe { start.write(7) };
    let before = runs.arenas.reserved_and_committed().1;
    assert_eq!(runs.unmap_end(), 0, "nothing is clean yet");
    runs.purge(0, 0, usize::MAX);
    Fake::refuse_after(0);
    let refused = runs.unmap_end();
    Fake::grant_all();
    assert_eq!((refused, runs.arenas.reserved_and_committed().1), (0, before));
    assert_eq!(check_runs(runs), Ok(()));
    while runs.unmap_end() > 0 {
        assert_eq!(check_runs(runs), Ok(()));
    }
    let after = runs.arenas.reserved_and_committed().1;
    assert!(after < before / 2 && after <= 80 << 20, "{after} of {before}");
    // SAFETY: the test's own run, which it gives up.
    unsafe {
        assert_eq!(start.read(), 7);
        runs.release(kept, 0);
    }
    take_runs(runs, 0..0);
}
