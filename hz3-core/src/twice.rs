//! Twice: whether a magazine that is about to leave a heap holds a slot that was freed twice.
//!
//! ```text
//! slots   | a | b | c | … | x | y |       of the magazine, and the first of the one that was filled after it
//! bits    0 0 1 0 0 0 1 0 1 0 0 1 …       each slot's place, under one of several factors
//! ```
//!
//! Two equal slots meet at their place under every factor; strangers meet now and then under one, next to never under
//! all. The first factor without a meeting ends the look, which is the first of all three times out of four. Only where
//! all four saw one is each slot compared with each, so that the answer is exact either way.
//!
//! It costs some 100 ns for a magazine of 62 slots, once per spill (`docs/decisions/double-free-at-spill.md`).

use crate::magazine::MAX_SLOTS;

/// How many slots of the younger magazine are looked at: a slot freed again with fewer than these frees between is
/// found wherever the border between two magazines falls, where the younger one was empty when the older one was full.
/// Chosen: the slip that is most common frees twice at once, and a look at all of them would cost as much again.
pub const ACROSS: usize = 8;

/// Chosen: of 70 random slots, some pair meets in one look out of four; the bits are 1 KiB of the stack.
const PLACE_BITS: u32 = 13;
const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = (1 << PLACE_BITS) / WORD_BITS;

/// Chosen, the first so that neighbours lie far apart (2^64 over the golden ratio and over 16): odd numbers that scatter multiples of 16, each in a way of its own.
const FACTORS: [u64; 4] = [0x09e3_779b_97f4_a7c1, 0x0c2b_2ae3_d27d_4eb5, 0x0165_667b_19e3_779f, 0x085e_bca7_7c2b_2ae7];

/// Enters `slots`; how many found their place taken.
#[inline(always)]
fn enter(bits: &mut [u64; WORDS], slots: &[*mut u8], factor: u64) -> u64 {
    let mut met = 0;
    for &slot in slots {
        let place = ((slot.addr() as u64).wrapping_mul(factor) >> (u64::BITS - PLACE_BITS)) as usize;
        let word = &mut bits[place / WORD_BITS % WORDS];
        let before = *word;
        // No branch on it: whether a place is taken can't be guessed.
        met += before >> (place % WORD_BITS) & 1;
        *word = before | 1 << (place % WORD_BITS);
    }
    met
}

/// A slot that lies twice in `oldest`, of at most [`MAX_SLOTS`], and the first [`ACROSS`] of `younger`.
#[inline(never)]
pub fn first_twice(oldest: &[*mut u8], younger: &[*mut u8]) -> Option<*mut u8> {
    let oldest = oldest.get(..MAX_SLOTS).unwrap_or(oldest);
    let younger = younger.get(..ACROSS).unwrap_or(younger);
    for factor in FACTORS {
        let mut bits = [0; WORDS];
        if enter(&mut bits, oldest, factor) + enter(&mut bits, younger, factor) == 0 {
            return None;
        }
    }
    find(oldest, younger)
}

/// [`first_twice`] by comparing each with each.
#[cold]
fn find(oldest: &[*mut u8], younger: &[*mut u8]) -> Option<*mut u8> {
    let mut rest = oldest;
    while let Some((&slot, later)) = rest.split_first() {
        if later.contains(&slot) || younger.contains(&slot) {
            return Some(slot);
        }
        rest = later;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::without_provenance_mut;
    use proptest::prelude::*;
    use std::vec::Vec;

    const BASE: usize = 0x7f12_3450_0000;

    /// `count` slots of `bytes` each, one behind the other from `start` on.
    fn slots(start: usize, bytes: usize, count: usize) -> Vec<*mut u8> {
        (0..count).map(|index| without_provenance_mut(start + index * bytes)).collect()
    }

    #[test]
    fn a_slot_that_lies_twice_in_a_magazine_is_found_at_every_pair_of_places() {
        for bytes in [16, 48, 64, 320, 2048, 4096, 32768] {
            for count in [2, 4, 15, MAX_SLOTS] {
                for (i, j) in (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j))) {
                    let mut oldest = slots(BASE, bytes, count);
                    oldest[j] = oldest[i];
                    assert_eq!(first_twice(&oldest, &[]), Some(oldest[i]), "{bytes} bytes, {i} and {j} of {count}");
                }
            }
        }
    }

    #[test]
    fn a_slot_that_lies_in_the_first_places_of_the_younger_magazine_too_is_found() {
        for (i, j) in (0..MAX_SLOTS).flat_map(|i| (0..ACROSS).map(move |j| (i, j))) {
            let oldest = slots(BASE, 64, MAX_SLOTS);
            let mut younger = slots(BASE + (1 << 20), 64, MAX_SLOTS);
            younger[j] = oldest[i];
            assert_eq!(first_twice(&oldest, &younger), Some(oldest[i]), "{i} and {j}");
        }
    }

    #[test]
    fn strangers_that_meet_under_every_factor_raise_no_alarm() {
        let place = |slot: usize, factor: u64| (slot as u64).wrapping_mul(factor) >> (u64::BITS - PLACE_BITS);
        let mut strangers = Vec::new();
        for (region, factor) in FACTORS.into_iter().enumerate() {
            let first = BASE + (region << 30);
            let second =
                (1..1 << 26).map(|index| first + index * 16).find(|&it| place(it, factor) == place(first, factor));
            strangers.extend([first, second.expect("a pair that meets")].map(without_provenance_mut::<u8>));
        }
        for factor in FACTORS {
            assert!(enter(&mut [0; WORDS], &strangers, factor) > 0, "{factor:x} sees no meeting");
        }
        assert_eq!(first_twice(&strangers, &[]), None);
        strangers.push(strangers[2]);
        assert_eq!(first_twice(&strangers, &[]), Some(strangers[2]));
    }

    #[test]
    fn nothing_is_found_in_nothing() {
        assert_eq!(first_twice(&[], &[]), None);
        assert_eq!(first_twice(&slots(BASE, 16, 1), &[]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn there_is_an_alarm_where_each_compared_with_each_says_so_and_nowhere_else(
            numbers in prop::collection::vec(0usize..3000, 0..2 * MAX_SLOTS),
            bytes in prop::sample::select(&[16usize, 48, 80, 1024, 32768][..]),
            oldest_count in 0usize..=MAX_SLOTS,
        ) {
            let all: Vec<*mut u8> = numbers.iter().map(|number| without_provenance_mut(BASE + number * bytes)).collect();
            let (oldest, younger) = all.split_at(oldest_count.min(all.len()));
            let near = &younger[..younger.len().min(ACROSS)];
            prop_assert_eq!(first_twice(oldest, younger), find(oldest, near));
        }

        #[test]
        fn slots_that_differ_raise_no_alarm(
            numbers in prop::collection::hash_set(0usize..1 << 30, 0..2 * MAX_SLOTS),
            oldest_count in 0usize..=MAX_SLOTS,
        ) {
            let all: Vec<*mut u8> = numbers.iter().map(|number| without_provenance_mut(BASE + number * 16)).collect();
            let (oldest, younger) = all.split_at(oldest_count.min(all.len()));
            prop_assert_eq!(first_twice(oldest, younger), None);
        }
    }
}
