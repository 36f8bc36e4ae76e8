//! The system refuses memory: null, nothing lost, and allocation works again. One test, because the fake
//! system's allowance is the process's.

use hz3_core::api::block;
use hz3_core::api::block::trim;
use hz3_core::api::size::usable_bytes;
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
        for (bytes, most) in [(16, 300), (1000, 300), (20_000, 100), (300_000, 50), (130 << 20, 10)] {
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

/// Where refusals hit a block that moves, it stays as it is, or moves all the same, with its contents.
fn refuse_at_every_request_of_a_move<L: Lane>() {
    const KIB: usize = 1 << 10;
    let sizes = [130 * KIB, 3000 * KIB, 20_000 * KIB, 40_000 * KIB].map(|bytes| bytes + 5);
    for requests in 0..14 {
        for (from, to) in sizes.iter().flat_map(|&from| sizes.map(|to| (from, to))) {
            // Its neighbours keep the block from growing in place.
            let [before, block, after] = [from, from, from].map(block::malloc::<L>);
            // SAFETY: live blocks of the lane; `block` is at least `from`, then `kept` bytes long.
            unsafe {
                block.write_bytes(7, from);
                Fake::refuse_after(requests);
                let moved = block::realloc::<L>(block, to);
                Fake::grant_all();
                let (place, kept) = if moved.is_null() { (block, from) } else { (moved, from.min(to)) };
                let contents = std::slice::from_raw_parts(place, kept);
                assert!(contents.iter().all(|&byte| byte == 7), "{from} to {to} after {requests} requests");
                assert!(usable_bytes::<L>(place).is_some_and(|usable| usable >= kept));
                assert_eq!(check_accounts::<L>(), Ok(()));
                for block in [before, place, after] {
                    block::free::<L>(block);
                }
            }
        }
    }
    trim::<L>();
    let stats = collect::<L>();
    assert_eq!((stats.large_bytes, stats.direct_blocks, stats.unreturned_bytes), (0, 0, 0), "{stats:?}");
}

#[test]
fn memory_that_is_refused_gives_null_and_leaves_the_rest_working() {
    refuse_at_every_request::<Tiny>();
    refuse_at_every_request::<TinyHome>();
    refuse_at_every_request::<TinyHardened>();
    refuse_at_every_request_of_a_move::<Tiny>();
    refuse_at_every_request_of_a_move::<TinyHardened>();
    assert!(collect::<TinyHardened>().refused_guards > 10, "{:?}", collect::<TinyHardened>());
    assert!(Fake::refused() > 10, "only {} refusals", Fake::refused());
}
