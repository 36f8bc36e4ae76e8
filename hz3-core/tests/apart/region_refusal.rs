//! The system refuses memory for a region: null, its counts stay right, and it serves again. Alone: the fake system's
//! allowance is the process's.

use hz3_core::api::region;
use hz3_core::observe::books::check_accounts;
use hz3_core::observe::stats::collect;
use hz3_core::platform::fake::Fake;
use hz3_core::{Lane, Tiny, TinyHardened};

fn refuse_at_every_request<L: Lane>() {
    let mut refused = 0;
    for requests in 0..60 {
        for (bytes, most) in [(16, 300), (1000, 300), (20_000, 100), (300_000, 50), (130 << 20, 4)] {
            Fake::refuse_after(requests);
            let number = region::begin::<L>(0);
            let take = |number| {
                let block = region::allocate::<L>(number, bytes, 1);
                (!block.is_null()).then_some(block)
            };
            let blocks: Vec<_> =
                number.map(|number| (0..most).map_while(|_| take(number)).collect()).unwrap_or_default();
            Fake::grant_all();
            refused += usize::from(blocks.len() < most);
            let number = number.or_else(|| region::begin::<L>(0)).expect("recovery");
            assert_eq!(region::stats::<L>(Some(number)).live_blocks, blocks.len());
            assert_eq!(check_accounts::<L>(), Ok(()));
            assert!(take(number).is_some(), "no recovery after {requests} requests at {bytes} bytes");
            if let Some(&block) = blocks.first() {
                Fake::refuse_after(requests % 4);
                // SAFETY: a live block.
                let moved = unsafe { region::realloc::<L>(number, block, 2 * bytes, 1) };
                Fake::grant_all();
                assert_eq!(check_accounts::<L>(), Ok(()), "moved: {}", !moved.is_null());
            }
            // SAFETY: nothing uses the region any more.
            unsafe { region::end::<L>(number) };
            assert_eq!(check_accounts::<L>(), Ok(()));
        }
    }
    assert!(refused > 0, "nothing was ever refused");
    assert_eq!((collect::<L>().large_bytes, collect::<L>().direct_blocks), (0, 0));
}

#[test]
fn memory_that_is_refused_leaves_a_region_working() {
    apart!();
    refuse_at_every_request::<Tiny>();
    refuse_at_every_request::<TinyHardened>();
}
