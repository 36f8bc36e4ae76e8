//! Cold bins: a thread gives the slots of bins that it hardly uses back to their spans.
//!
//! ```text
//! look      look      look          every 250 ms, on a slow path
//!   | r   s   |  ·  ·   |           r, s: slow paths of the bin, · hits only
//!             kept      sent home, into their spans
//! ```
//!
//! What a magazine holds was freed in any order and lies on as many pages as it has slots. In a bin that lives on hits
//! alone, a few dozen slots circulate for ever, and each keeps a page from going back to the system. Once at home they
//! are handed out by address, so that the bin's next slots lie side by side.

use crate::allocator::Allocator;
use crate::lane::Lane;
use crate::pages::bins::BINS;
use crate::platform::units::{Bin, elapsed_ms};
use crate::thread::heap::{Heap, unload};
use crate::transfer::homeward::Courier;
use crate::transfer::remote_stash::{RemoteStash, Sparse};

/// Milliseconds between two looks. Chosen: long against a time slice, short against the purge delay.
const LOOK_MS: u32 = 250;

/// Sends home what the magazines of those bins hold that took no slow path since the last look. Such a bin begins
/// with a small batch when it is used again. Looks at most once per `LOOK_MS`.
///
/// # Safety
/// The caller owns the heap.
pub unsafe fn drop_cold_bins<L: Lane>(allocator: &'static Allocator<L>, heap: *mut Heap<L>, now: u32) {
    // SAFETY: the caller's promise; each exclusive reference ends before the next one begins, and each magazine is
    // disposed of once.
    unsafe {
        if elapsed_ms((*heap).looked, now) < LOOK_MS {
            return;
        }
        (*heap).looked = now;
        (*heap).unsettled();
        let shard = (*heap).shard;
        // Nobody needed them since the last look, or they were freed since then, which is as good as: they make no span
        // young.
        let mut courier = Courier { allocator, shard, idle: true };
        let mut stash = Sparse::<256>::new();
        for bin in (1..BINS as u8).map(Bin) {
            let this = &mut *heap;
            let Some(active) = this.active.get_mut(usize::from(bin.0)) else { continue };
            if core::mem::replace(active, false) {
                continue;
            }
            this.balances.forget(bin);
            let magazines = unload(this.entry(bin));
            if let Some(batch) = this.batches.get_mut(usize::from(bin.0)) {
                *batch = 0;
            }
            for magazine in magazines.into_iter().flatten() {
                courier.unpack(bin, magazine.as_ptr(), &mut stash);
            }
        }
        stash.flush(&mut courier);
        (*heap).stash.flush(&mut courier);
        (*heap).settled();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::hot;
    use crate::lane::Fast;
    use crate::pages::span::at;
    use crate::process::lifecycle;

    const BYTES: usize = 3000;

    /// What a thread freed for others goes home with the cold bins, and as long as it lay in the stash nobody needed it: the
    /// pages go back to the system at the time at which they would have without it.
    #[test]
    fn what_lies_in_the_stash_goes_home_and_makes_no_span_young() {
        let allocator = Fast::allocator();
        let blocks = std::thread::spawn(|| [(); 2].map(|()| hot::malloc::<Fast>(BYTES).expose_provenance()));
        let [first, second] = blocks.join().unwrap();
        let tag = allocator.runs.arenas.tag_value(first);
        let owned = allocator.shard(tag.owner()).owned();
        // SAFETY: the span stays one of the lane's while `second` is live, and its shard's lock is held.
        let stamp = || (owned.lock(), unsafe { (*at(&allocator.runs.spans, tag.span())).stamp }).1;
        let heap = lifecycle::heap::<Fast>().unwrap();
        // SAFETY: the heap is this thread's; the first block is live, and given up here.
        unsafe {
            let mut courier = Courier { allocator, shard: (*heap).shard, idle: false };
            let slot = core::ptr::with_exposed_provenance_mut(first);
            (*heap).stash.put(tag.owner(), tag.bin(), slot, &mut courier);
            assert_eq!((*heap).stash.held(), 1);
        }
        let (freed, now) = (stamp(), stamp().wrapping_add(LOOK_MS * 10));
        owned.lock().set_aside(&allocator.runs.spans, now, u32::MAX, &mut 1);
        // SAFETY: the heap is this thread's.
        unsafe {
            (*heap).looked = now.wrapping_sub(LOOK_MS);
            drop_cold_bins(allocator, heap, now);
            assert_eq!((*heap).stash.held(), 0);
        }
        assert_eq!(stamp(), freed);
        let second = core::ptr::with_exposed_provenance_mut(second);
        // SAFETY: live, and given up here.
        unsafe { hot::free::<Fast>(second) };
    }
}
