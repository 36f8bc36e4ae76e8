//! Pauses: one call gives back what its time allows, in steps, and the rest later.

use hz3_core::Tiny;
use hz3_core::pages::page_heap::PageHeap;
use hz3_core::pages::span::at;
use hz3_core::platform::budget::Budget;
use hz3_core::platform::fake::Fake;
use hz3_core::platform::os::{Os, Waiter};
use std::sync::atomic::{AtomicUsize, Ordering};

const MIB: usize = 1 << 20;
/// Bytes of the kernel's work in one step.
const STEP: usize = 2 * MIB;

static PAGES: PageHeap<Tiny> = PageHeap::new();
static STEPS: AtomicUsize = AtomicUsize::new(0);

/// Each step takes longer than there is time.
fn take_two_milliseconds() {
    // Relaxed: one thread.
    STEPS.fetch_add(1, Ordering::Relaxed);
    let end = Fake::now_us() + 2000;
    while Fake::now_us() < end {
        Fake::nap();
    }
}

fn dirty() -> usize {
    PAGES.runs.free_bytes().0
}

#[test]
fn a_call_stops_once_its_time_is_over_and_the_next_goes_on() {
    apart!();
    let Some(id) = PAGES.runs.allocate(8 * STEP / 4096, 1) else { panic!("no memory") };
    // SAFETY: the span was just taken, its pages are committed, and nothing refers to them afterwards.
    unsafe {
        let start = core::ptr::with_exposed_provenance_mut::<u8>((*at(&PAGES.runs.spans, id)).start);
        start.write_bytes(1, 8 * STEP);
        PAGES.runs.release(id, Fake::now_ms());
    }
    assert_eq!(dirty(), 8 * STEP);
    Fake::call_at_purges(take_two_milliseconds);
    let now = Fake::now_ms();
    for calls in 1..=3 {
        assert_eq!(PAGES.purge_runs(now, 0, usize::MAX, &Budget::of_us::<Fake>(1000)), (STEP, true));
        assert_eq!((STEPS.load(Ordering::Relaxed), dirty()), (calls, (8 - calls) * STEP));
    }
    assert_eq!(PAGES.purge_runs(now, 0, STEP / 2, &Budget::unbounded()), (STEP, false));
    assert_eq!(PAGES.purge_runs(now, 0, usize::MAX, &Budget::unbounded()).0, 4 * STEP);
    assert_eq!(dirty(), 0);
}
