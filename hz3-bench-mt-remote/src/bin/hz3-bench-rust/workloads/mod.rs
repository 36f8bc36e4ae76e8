//! Workloads: what a program of `bench-rust` does, whichever global allocator it is built with.
//!
//! ```text
//! hz3-bench-rust WORKLOAD THREADS ROUNDS
//!
//! workload=… threads=… rounds=… time=… checksum=…
//! [MEM] peak_rss_mb=…
//! [ALLOCATOR] name=… c_library=yes|no
//! ```
//!
//! Each does a fixed amount of work, drawn from fixed seeds, so that time and memory compare between allocators and
//! the checksum is always the same. `c_library` says whether the C library's `malloc` serves the program's blocks,
//! which only the system's allocator wants.
//!
//! Nothing but `std` and `libc` is used: the programs are built outside the workspace.

mod buffers;
mod collections;
mod messages;
mod parse;
mod trees;

use std::hint::black_box;
use std::process::ExitCode;
use std::thread::scope;
use std::time::Instant;

/// A workload by its name: what it does in so many threads and rounds, which gives its checksum.
type Workload = (&'static str, fn(usize, usize) -> u64);

const WORKLOADS: [Workload; 5] = [
    ("collections", collections::run),
    ("messages", messages::run),
    ("trees", trees::run),
    ("buffers", buffers::run),
    ("parse", parse::run),
];

const USAGE: &str = "usage: hz3-bench-rust collections|messages|trees|buffers|parse THREADS ROUNDS";

/// Reads the command line, runs the workload and prints the report; `allocator` is the global allocator's name.
/// Exit code 2 for bad arguments.
pub fn main(allocator: &str) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(((name, run), threads, rounds)) = read(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let start = Instant::now();
    let checksum = run(threads, rounds);
    let time = start.elapsed().as_secs_f64();
    println!("workload={name} threads={threads} rounds={rounds} time={time:.6} checksum={checksum:016x}");
    let c_library = if is_served_by_the_c_library() { "yes" } else { "no" };
    println!("[MEM] peak_rss_mb={:.3}", peak_resident_kilobytes() as f64 / 1024.0);
    println!("[ALLOCATOR] name={allocator} c_library={c_library}");
    ExitCode::SUCCESS
}

fn read(words: &[String]) -> Option<(Workload, usize, usize)> {
    let [name, threads, rounds] = words else { return None };
    let workload = WORKLOADS.into_iter().find(|(known, _)| known == name)?;
    let number = |text: &str| text.parse().ok().filter(|number| (1..=10_000).contains(number));
    Some((workload, number(threads)?, number(rounds)?))
}

/// Whether a block of the global allocator is one of the C library's.
fn is_served_by_the_c_library() -> bool {
    const BYTES: usize = 100_000; // below the size from which the C library maps blocks by themselves
    let before = c_library_bytes();
    let block = black_box(vec![1_u8; BYTES]);
    let during = c_library_bytes();
    drop(block);
    during >= before + BYTES
}

/// Bytes that the C library's `malloc` has given out.
fn c_library_bytes() -> usize {
    // SAFETY: takes nothing and returns numbers.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// The most of this process that was ever resident; proc(5), `VmHWM`. (The kernel's figure for whoever waits for the
/// process may be that of the one that started it.)
fn peak_resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Runs `work` in each of `threads` threads, which get their numbers, and adds up what they return.
fn in_threads(threads: usize, work: impl Fn(usize) -> u64 + Sync) -> u64 {
    let work = &work;
    scope(|scope| {
        let members: Vec<_> = (0..threads).map(|index| scope.spawn(move || work(index))).collect();
        members.into_iter().map(|member| member.join().expect("no workload panics")).fold(0, u64::wrapping_add)
    })
}

/// Random numbers from a seed: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
struct Random(u64);

impl Random {
    /// Another sequence for every seed.
    fn new(seed: usize) -> Random {
        Random((seed as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.number()) * limit as u128) >> 64) as usize
    }

    /// Appends a word of 1 to `longest` letters.
    fn append_word(&mut self, text: &mut String, longest: usize) {
        for _ in 0..=self.below(longest) {
            text.push(char::from(b'a' + self.below(26) as u8));
        }
    }

    /// A word of 1 to `longest` letters.
    fn word(&mut self, longest: usize) -> String {
        let mut word = String::new();
        self.append_word(&mut word, longest);
        word
    }
}

/// Mixes a number into a checksum in which the order counts.
fn mix(checksum: u64, number: u64) -> u64 {
    (checksum ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
}

/// Mixes bytes into a checksum.
fn mix_bytes(checksum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(checksum, |checksum, &byte| mix(checksum, u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_work_has_the_same_checksum_and_other_work_another() {
        for (name, run) in WORKLOADS {
            let checksum = run(2, 2);
            assert_eq!(run(2, 2), checksum, "{name}");
            assert_ne!(run(2, 1), checksum, "{name}");
            assert_ne!(run(4, 2), checksum, "{name}");
        }
    }

    #[test]
    fn this_test_runs_on_the_c_library_s_malloc() {
        assert!(is_served_by_the_c_library());
    }

    #[test]
    fn what_was_touched_is_in_the_peak() {
        drop(black_box(vec![1_u8; 64 << 20]));
        assert!(peak_resident_kilobytes() > 64 << 10);
    }

    #[test]
    fn only_a_known_workload_with_two_numbers_is_run() {
        let read = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            super::read(&words).map(|((name, _), threads, rounds)| (name, threads, rounds))
        };
        assert_eq!(read("parse 2 3"), Some(("parse", 2, 3)));
        for line in ["", "parse", "parse 2", "parse 0 1", "parse 2 x", "parse 2 3 4", "larson 1 1"] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn words_have_at_least_one_and_at_most_so_many_letters() {
        let mut random = Random::new(1);
        let lengths: Vec<usize> = (0..1000).map(|_| random.word(5).len()).collect();
        assert_eq!((lengths.iter().min(), lengths.iter().max()), (Some(&1), Some(&5)));
    }
}
