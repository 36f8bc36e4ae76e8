//! Cold bins: what a thread hardly uses goes home, and makes no span young.

use hz3_core::allocator::thread_heap;
use hz3_core::api::block;
use hz3_core::pages::slot::Slot;
use hz3_core::pages::span::at;
use hz3_core::thread::cold_bins::{LOOK_MS, send_cold_bins_home};
use hz3_core::transfer::homeward::Homeward;
use hz3_core::transfer::remote_stash::RemoteStash;
use hz3_core::{Fast, Lane};
use std::ptr::with_exposed_provenance_mut;

const BYTES: usize = 3000;

/// What a thread freed for others goes home with the cold bins, and as long as it lay in the stash nobody needed it: the
/// pages go back to the system at the time at which they would have without it.
#[test]
fn what_lies_in_the_stash_goes_home_and_makes_no_span_young() {
    apart!();
    let allocator = Fast::allocator();
    let blocks = std::thread::spawn(|| [(); 2].map(|()| block::malloc::<Fast>(BYTES).expose_provenance()));
    let [first, second] = blocks.join().unwrap();
    let (pages, exchange) = (&allocator.pages, &allocator.exchange);
    let tag = pages.tag(first);
    let owned = exchange.shard(tag.owner()).owned();
    // SAFETY: the span stays one of the lane's while `second` is live, and its shard's lock is held.
    let stamp = || (owned.lock(), unsafe { (*at(pages.spans(), tag.span())).stamp }).1;
    let heap = thread_heap::<Fast>().unwrap();
    // SAFETY: the heap is this thread's; the first block is live, and given up here.
    unsafe {
        let slot = Slot::new(with_exposed_provenance_mut(first));
        Homeward::new(pages, exchange, (*heap).shard.get()).send_slot(tag.bin(), slot, &(*heap).stash);
        assert_eq!((*heap).stash.slot_count(), 1);
    }
    let (freed, now) = (stamp(), stamp().wrapping_add(LOOK_MS * 10));
    owned.lock().take_next_with_holes(pages.spans(), 1, now, u32::MAX, &mut 1);
    // SAFETY: the heap is this thread's.
    unsafe {
        (*heap).last_look_ms.set(now.wrapping_sub(LOOK_MS));
        send_cold_bins_home(pages, exchange, &*heap, now);
        assert_eq!((*heap).stash.slot_count(), 0);
    }
    assert_eq!(stamp(), freed);
    let second = with_exposed_provenance_mut(second);
    // SAFETY: live, and given up here.
    unsafe { block::free::<Fast>(second) };
}
