//! The system refuses memory: null, nothing lost, and allocation works again. One test, because the fake
//! system's allowance is the process's.

use hz3_core::api::block;
use hz3_core::api::block::trim;
use hz3_core::observe::books::check_accounts;
use hz3_core::observe::stats::collect;
use hz3_core::platform::fake::Fake;
use hz3_core::{Lane, Tiny, TinyHardened, TinyHome};

fn allocate_until_refused<L: Lane>(bytes: usize, most: usize) -> Vec<*mut u8> {
    let mut blocks = Vec::new();
    while blocks.len() < most {
        let block = block::malloc::<L>(bytes);
        if block.is_null() {
            break;
        }
        // SAFETY: a fresh block's first and last byte.
        unsafe {
            block.write(0xa5);
            block.add(bytes - 1).write(0xa5);
        }
        blocks.push(block);
    }
    blocks
}

fn refuse_at_every_request<L: Lane>() {
    let mut outlived = 0;
    for requests in 0..120 {
        for (bytes, most) in [(16, 300), (1000, 300), (20_000, 100), (300_000, 50), (40 << 20, 10)] {
            Fake::refuse_after(requests);
            // In a thread of its own, so that its heap comes and goes under refusal too.
            let blocks = std::thread::spawn(move || {
                let blocks = allocate_until_refused::<L>(bytes, most);
                blocks.into_iter().map(|block| block.expose_provenance()).collect::<Vec<_>>()
            })
            .join()
            .expect("no panic");
            outlived += usize::from(blocks.len() < most);
            for block in blocks {
                // SAFETY: live blocks of the lane.
                unsafe { block::free::<L>(std::ptr::with_exposed_provenance_mut(block)) };
            }
            Fake::grant_all();
            let again = allocate_until_refused::<L>(bytes, most);
            assert_eq!(again.len(), most, "no recovery after {requests} requests at {bytes} bytes");
            for block in again {
                // SAFETY: as above.
                unsafe { block::free::<L>(block) };
            }
            assert_eq!(check_accounts::<L>(), Ok(()));
            assert_eq!(collect::<L>().live_bytes(), 0);
        }
    }
    assert!(outlived > 0, "nothing was ever refused");
    trim::<L>();
    let stats = collect::<L>();
    assert_eq!(
        (stats.small_out_bytes, stats.small_span_bytes, stats.large_bytes, stats.direct_blocks),
        (0, 0, 0, 0),
        "{stats:?}"
    );
}

#[test]
fn memory_that_is_refused_gives_null_and_leaves_the_rest_working() {
    refuse_at_every_request::<Tiny>();
    refuse_at_every_request::<TinyHome>();
    refuse_at_every_request::<TinyHardened>();
    assert!(collect::<TinyHardened>().refused_guards > 10, "{:?}", collect::<TinyHardened>());
    assert!(Fake::refused() > 10, "only {} refusals", Fake::refused());
}
