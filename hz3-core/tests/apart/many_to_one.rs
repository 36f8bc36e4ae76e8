//! Producers of many sizes whose blocks one consumer mixes: what they take of their own spans for the sake of order stays
//! bounded, over all sizes. Alone in its process: what is cached is theirs.

use hz3_core::Scale;
use hz3_core::api::block;
use hz3_core::observe::books::check_accounts;
use hz3_core::observe::stats::collect;
use std::sync::mpsc::sync_channel;

const PRODUCERS: usize = 4;
const SIZES: std::ops::Range<usize> = 1..40;
const STEP: usize = 16;
/// Blocks of each size and producer per round: a magazine of the consumer's has slots of all producers.
const BLOCKS: usize = 5;
const ROUNDS: usize = 3000;
/// Bytes in caches at the end, at most. Chosen: the bounds of all producers and as much for caches.
const MOST_CACHED: usize = 2 * PRODUCERS * (1 << 20);

#[test]
fn producers_of_many_sizes_take_little_of_their_own() {
    apart!();
    let (send, receive) = sync_channel::<Vec<usize>>(1);
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|_| {
            let send = send.clone();
            std::thread::spawn(move || {
                for _ in 0..ROUNDS {
                    let blocks = SIZES.flat_map(|size| (0..BLOCKS).map(move |_| block::malloc::<Scale>(size * STEP)));
                    send.send(blocks.map(|block| block.expose_provenance()).collect()).unwrap();
                }
            })
        })
        .collect();
    drop(send);
    for blocks in receive {
        for block in blocks {
            // SAFETY: live, and this thread's to free.
            unsafe { block::free::<Scale>(std::ptr::with_exposed_provenance_mut(block)) };
        }
    }
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    assert_eq!(check_accounts::<Scale>(), Ok(()));
    let cached = collect::<Scale>().cached_bytes();
    assert!(cached <= MOST_CACHED, "{cached} bytes are cached");
}
