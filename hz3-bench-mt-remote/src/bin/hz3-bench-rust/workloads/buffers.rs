//! Buffers: vectors and strings that grow by appending, and zeroed buffers of which little is written.
//!
//! `realloc` and `alloc_zeroed`: what readers, encoders and growing results do. Several buffers grow in turn, so that
//! none finds free memory behind it by luck alone.

use super::work::{Random, in_threads, mix, mix_bytes};

/// Buffers that grow beside each other.
const BUFFERS: usize = 24; // chosen
/// Appends per round.
const APPENDS: usize = 30_000; // chosen
/// A buffer that is longer than this is taken away and another one begun.
const LONGEST: usize = 200_000; // chosen
/// Zeroed buffers per round.
const ZEROED: usize = 40; // chosen

/// Runs `rounds` rounds in each thread.
pub fn run(threads: usize, rounds: usize) -> u64 {
    in_threads(threads, |index| {
        let mut random = Random::new(index);
        (0..rounds).fold(0, |checksum, _| mix(mix(checksum, growing(&mut random)), zeroed(&mut random)))
    })
}

fn growing(random: &mut Random) -> u64 {
    let mut numbers: Vec<Vec<u32>> = (0..BUFFERS).map(|_| Vec::new()).collect();
    let mut texts: Vec<String> = (0..BUFFERS).map(|_| String::new()).collect();
    let mut kept: Vec<Box<[u32]>> = Vec::new();
    let mut checksum = 0;
    for step in 0..APPENDS as u32 {
        let index = random.below(BUFFERS);
        // Few buffers get most of it: some stay short, some become long.
        let more = 1 + random.below(1 << (index % 8));
        let numbers = &mut numbers[index];
        numbers.extend((0..more as u32).map(|number| number ^ step));
        if size_of_val(&numbers[..]) > LONGEST {
            // What remains is cut to its length and kept for a while.
            let mut whole = std::mem::take(numbers);
            whole.truncate(whole.len() / 2);
            kept.push(whole.into_boxed_slice());
        }
        let text = &mut texts[index];
        random.append_word(text, 8);
        if text.len() > LONGEST / 50 {
            checksum = mix_bytes(checksum, &text.as_bytes()[..16]);
            text.clear();
            text.shrink_to_fit();
        }
        if kept.len() > BUFFERS {
            checksum = kept.drain(..).fold(checksum, |checksum, numbers| mix(checksum, numbers.len() as u64));
        }
    }
    numbers.iter().fold(checksum, |checksum, numbers| mix(checksum, numbers.len() as u64))
}

/// Zeroed buffers from 64 bytes to 4 MiB, of which every sixteenth page is written: tables, images, arenas.
fn zeroed(random: &mut Random) -> u64 {
    let mut checksum = 0;
    let mut held: Vec<Vec<u8>> = Vec::new();
    for turn in 0..ZEROED {
        let bytes = 64 << random.below(16);
        let mut buffer = vec![0_u8; bytes + random.below(bytes)];
        for place in (0..buffer.len()).step_by(16 * 4096) {
            checksum = mix(checksum, u64::from(buffer[place]));
            buffer[place] = turn as u8;
        }
        held.push(buffer);
        if held.len() == 4 {
            let oldest = held.remove(0);
            checksum = mix(checksum, oldest.len() as u64 ^ u64::from(oldest[oldest.len() - 1]));
        }
    }
    checksum
}
