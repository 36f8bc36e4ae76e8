//! Blocks that travel one way, from a thread that allocates to one that frees, come back in the order in which they
//! left, so that blocks handed out one after the other stay neighbours in memory. Alone in its process, and each test with a
//! lane of its own: bins, depots and shards are those of the two threads.

use hz3_core::Lane;
use hz3_core::api::block;
use hz3_core::observe::books::check_accounts;
use hz3_core::{Fast, Scale};
use std::sync::mpsc::sync_channel;

const BYTES: usize = 64;
const IN_FLIGHT: usize = 4096;
const ROUNDS: usize = 200;
/// Successive blocks of the last round that are neighbours, at least, in hundredths.
const NEIGHBOURS: usize = 75;

#[test]
fn blocks_that_go_round_for_long_stay_neighbours_in_scale() {
    apart!();
    blocks_that_go_round_for_long_stay_neighbours::<Scale>();
}

#[test]
fn blocks_that_go_round_for_long_stay_neighbours_in_fast() {
    apart!();
    blocks_that_go_round_for_long_stay_neighbours::<Fast>();
}

fn blocks_that_go_round_for_long_stay_neighbours<L: Lane>() {
    let (send, receive) = sync_channel::<Vec<usize>>(1);
    let (done, wait) = sync_channel::<()>(1);
    let consumer = std::thread::spawn(move || {
        for blocks in receive {
            for block in blocks {
                // SAFETY: live, and this thread's to free.
                unsafe { block::free::<L>(std::ptr::with_exposed_provenance_mut(block)) };
            }
            done.send(()).unwrap();
        }
    });
    let mut last = Vec::new();
    for round in 0..ROUNDS {
        // A number that changes: no magazine begins where one began in the round before.
        let blocks: Vec<usize> = (0..IN_FLIGHT + round % 7)
            .map(|_| {
                let block = block::malloc::<L>(BYTES);
                assert!(!block.is_null());
                block.expose_provenance()
            })
            .collect();
        last.clone_from(&blocks);
        send.send(blocks).unwrap();
        wait.recv().unwrap();
    }
    drop(send);
    consumer.join().unwrap();
    let neighbours = last.windows(2).filter(|pair| pair[1] == pair[0] + BYTES).count();
    assert!(neighbours * 100 >= last.len() * NEIGHBOURS, "{neighbours} of {} are neighbours", last.len());
    assert_eq!(check_accounts::<L>(), Ok(()));
}
