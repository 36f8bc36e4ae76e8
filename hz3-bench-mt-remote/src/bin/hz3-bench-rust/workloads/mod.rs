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
mod work;

use std::hint::black_box;
use std::process::ExitCode;
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
}
