//! Threads that take and return runs at once, from outside: while the system has memory, none is refused.

use hz3_core::observe::books::check_runs;
use hz3_core::pages::runs::Runs;
use hz3_core::platform::linux::Linux;
use hz3_core::platform::options::Options;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn a_run_is_never_refused_because_another_thread_was_faster() {
    apart!();
    const THREADS: usize = 6;
    const ROUNDS: u32 = 40_000;
    static RUNS: Runs<Linux> = Runs::new(Options::new(1000, 64 << 20));
    static REFUSED: AtomicUsize = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Nearly a segment: a second one seldom fits beside it, so that each return is fought over.
                    let pages = 400 + (thread * 7 + round as usize) % 100;
                    match RUNS.allocate(pages, 1) {
                        // SAFETY: the test's own run, which nothing uses.
                        Some(id) => unsafe { RUNS.release(id, round) },
                        // Relaxed: a count, read after the threads have ended.
                        None => {
                            REFUSED.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert_eq!(REFUSED.load(Ordering::Relaxed), 0);
    assert_eq!(check_runs(&RUNS), Ok(()));
}
