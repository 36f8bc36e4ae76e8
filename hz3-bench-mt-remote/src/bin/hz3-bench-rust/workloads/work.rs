//! Work: threads, random numbers and checksums, which all workloads share.

use std::thread::scope;

/// Runs `work` in each of `threads` threads, which get their numbers, and adds up what they return.
pub fn in_threads(threads: usize, work: impl Fn(usize) -> u64 + Sync) -> u64 {
    let work = &work;
    scope(|scope| {
        let members: Vec<_> = (0..threads).map(|index| scope.spawn(move || work(index))).collect();
        members.into_iter().map(|member| member.join().expect("no workload panics")).fold(0, u64::wrapping_add)
    })
}

/// Random numbers from a seed: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub struct Random(u64);

impl Random {
    /// Another sequence for every seed.
    pub fn new(seed: usize) -> Random {
        Random((seed as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.number()) * limit as u128) >> 64) as usize
    }

    /// Appends a word of 1 to `longest` letters.
    pub fn append_word(&mut self, text: &mut String, longest: usize) {
        for _ in 0..=self.below(longest) {
            text.push(char::from(b'a' + self.below(26) as u8));
        }
    }

    /// A word of 1 to `longest` letters.
    pub fn word(&mut self, longest: usize) -> String {
        let mut word = String::new();
        self.append_word(&mut word, longest);
        word
    }
}

/// Mixes a number into a checksum in which the order counts.
pub fn mix(checksum: u64, number: u64) -> u64 {
    (checksum ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
}

/// Mixes bytes into a checksum.
pub fn mix_bytes(checksum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(checksum, |checksum, &byte| mix(checksum, u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_at_least_one_and_at_most_so_many_letters() {
        let mut random = Random::new(1);
        let lengths: Vec<usize> = (0..1000).map(|_| random.word(5).len()).collect();
        assert_eq!((lengths.iter().min(), lengths.iter().max()), (Some(&1), Some(&5)));
    }
}
