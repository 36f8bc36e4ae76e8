//! The table of sampled blocks: growth when it is half full, collisions, and removal from the middle of a search.

use super::*;
use crate::platform::linux::Linux;
use std::collections::HashMap;
use std::vec::Vec;

type Tested = Profile<Linux>;

/// Addresses whose search in a table of `capacity` places begins at one place.
fn colliding(profile: &Tested, count: usize) -> Vec<usize> {
    let samples = profile.samples.lock();
    let addresses = (1_usize..).map(|page| page << 12);
    let home = samples.search_start(1 << 12);
    addresses.filter(|&address| samples.search_start(address) == home).take(count).collect()
}

/// Panics unless exactly the blocks of `expected`, by address, are there, with their bytes.
fn holds(profile: &Tested, expected: &HashMap<usize, usize>) {
    for (&address, &bytes) in expected {
        assert_eq!(profile.bytes_of(address), Some(bytes), "{address:#x}");
    }
    let totals = profile.totals();
    let bytes: usize = expected.values().sum();
    assert_eq!((totals.live_blocks, totals.live_bytes), (expected.len() as u64, bytes as u64));
    let samples = profile.samples.lock();
    assert_eq!(samples.used, expected.len());
    assert!(samples.used * 2 <= samples.capacity, "{} in {}", samples.used, samples.capacity);
}

#[test]
fn a_full_table_grows_and_keeps_every_block() {
    let profile = Tested::new();
    let mut expected = HashMap::new();
    for block in 1..=3 * FIRST_CAPACITY {
        profile.add(block << 12, block, &[1, 2]);
        expected.insert(block << 12, block);
        // Just before and after each growth, which is at half of the capacity.
        if block.is_power_of_two() || (block - 1).is_power_of_two() {
            holds(&profile, &expected);
        }
    }
    holds(&profile, &expected);
    assert_eq!(profile.samples.lock().capacity, 8 * FIRST_CAPACITY);
    assert_eq!((profile.lost(), profile.bytes_of(5)), (0, None));
}

#[test]
fn colliding_blocks_are_found_whichever_is_removed() {
    let profile = Tested::new();
    assert_eq!(profile.bytes_of(1 << 12), None, "in a table without capacity");
    assert!(profile.take(1 << 12).is_none());
    profile.add(1 << 12, 1, &[7]);
    let addresses = colliding(&profile, 6);
    assert_eq!(addresses[0], 1 << 12);
    for removed in &addresses {
        let mut expected = HashMap::from([(1 << 12, 1)]);
        for (&address, bytes) in addresses.iter().zip(1..).skip(1) {
            profile.add(address, bytes, &[7]);
            expected.insert(address, bytes);
        }
        holds(&profile, &expected);
        let taken = profile.take(*removed).expect("it is there");
        assert_eq!(Some(taken.bytes), expected.remove(removed));
        assert_eq!((profile.bytes_of(*removed), profile.take(*removed).is_none()), (None, true));
        holds(&profile, &expected);
        profile.put_back(taken);
        expected.insert(*removed, taken.bytes);
        holds(&profile, &expected);
        for address in &addresses[1..] {
            assert!(profile.take(*address).is_some());
        }
    }
    let Counts { live_blocks, all_blocks, .. } = profile.totals();
    // What was put back is not counted as another block.
    assert_eq!((live_blocks, all_blocks), (1, 1 + 5 * addresses.len() as u64));
}

#[test]
fn a_search_goes_round_the_end_of_the_table_and_so_does_a_removal() {
    let profile = Tested::new();
    profile.add(1 << 12, 1, &[7]);
    assert!(profile.take(1 << 12).is_some());
    // Three blocks that belong to the last place, and three to the first, which those push on.
    let of_place = |wanted: usize| -> Vec<usize> {
        let samples = profile.samples.lock();
        (2_usize..).map(|page| page << 12).filter(|&address| samples.search_start(address) == wanted).take(3).collect()
    };
    let mut addresses = of_place(FIRST_CAPACITY - 1);
    addresses.extend(of_place(0));
    let mut expected = HashMap::new();
    for (&address, bytes) in addresses.iter().zip(10..) {
        profile.add(address, bytes, &[7]);
        expected.insert(address, bytes);
    }
    for address in [addresses[1], addresses[3], addresses[0], addresses[5], addresses[2], addresses[4]] {
        assert_eq!(profile.take(address).map(|sample| sample.bytes), expected.remove(&address));
        holds(&profile, &expected);
    }
}

#[test]
fn random_additions_and_removals_leave_what_a_map_would() {
    let profile = Tested::new();
    let mut expected = HashMap::new();
    let mut random = 0x1234_5678_9abc_def1_u64;
    for turn in 0..50_000_usize {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Few addresses, so that half of the turns find theirs.
        let address = (random as usize % 900 + 1) << 4;
        if expected.remove(&address).is_some() {
            assert!(profile.take(address).is_some(), "turn {turn}");
        } else {
            assert!(profile.take(address).is_none(), "turn {turn}");
            profile.add(address, turn, &[turn % 50]);
            expected.insert(address, turn);
        }
        if turn % 5_000 == 0 {
            holds(&profile, &expected);
        }
    }
    holds(&profile, &expected);
    let mut by_stack = 0;
    profile.each(|counts, _| by_stack += counts.live_blocks);
    assert_eq!(by_stack, expected.len() as u64);
}
