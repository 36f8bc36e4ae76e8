//! Collections: each thread builds vectors, strings, hash maps and trees of small values, changes them, and drops
//! them.
//!
//! What most Rust programs do most of the time: many small blocks of few sizes, freed by the thread that made them,
//! some soon, some with everything else.

use super::work::{Random, in_threads, mix, mix_bytes};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

const LINES: usize = 4_000; // chosen
const WORDS_PER_LINE: usize = 12; // chosen
const LETTERS: usize = 20; // chosen
const KEYS: usize = 30_000; // chosen

/// Hash maps whose order is the same in each run.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// Runs `rounds` rounds in each thread.
pub fn run(threads: usize, rounds: usize) -> u64 {
    in_threads(threads, |index| {
        let mut random = Random::new(index);
        (0..rounds).fold(0, |checksum, _| mix(mix(checksum, lines(&mut random)), tree(&mut random)))
    })
}

/// Words in lines, and an index from each word to its lines.
fn lines(random: &mut Random) -> u64 {
    let text: Vec<Vec<String>> =
        (0..LINES).map(|_| (0..random.below(2 * WORDS_PER_LINE)).map(|_| random.word(LETTERS)).collect()).collect();
    let mut index: Map<String, Vec<u32>> = Map::default();
    for (number, line) in text.iter().enumerate() {
        for word in line {
            // The first three letters, so that words meet.
            let key: String = word.chars().take(3).collect();
            index.entry(key).or_default().push(number as u32);
        }
    }
    let joined: Vec<String> = text.iter().map(|line| line.join(" ")).collect();
    drop(text);
    let mut common: Vec<(&String, &Vec<u32>)> = index.iter().filter(|(_, lines)| lines.len() > 2).collect();
    common.sort_unstable();
    let checksum = common.iter().fold(0, |checksum, (word, lines)| {
        mix_bytes(mix(checksum, lines.iter().map(|&line| u64::from(line)).sum()), word.as_bytes())
    });
    joined.iter().fold(checksum, |checksum, line| mix(checksum, line.len() as u64))
}

/// An ordered map of boxed values, half of which are removed one by one.
fn tree(random: &mut Random) -> u64 {
    let mut map: BTreeMap<u64, Box<[u64]>> = BTreeMap::new();
    for key in 0..KEYS as u64 {
        let value = vec![key; 1 + random.below(8)].into_boxed_slice();
        map.insert(random.number(), value);
    }
    let mut checksum = 0;
    for turn in 0..KEYS / 2 {
        let removed = if turn % 2 == 0 { map.pop_first() } else { map.pop_last() };
        if let Some((key, value)) = removed {
            checksum = mix(checksum, key ^ value.len() as u64);
        }
    }
    map.values().fold(checksum, |checksum, value| mix(checksum, value.iter().sum()))
}
