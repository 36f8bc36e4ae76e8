//! `hz3-bench-workload`: allocator workloads after the field's well-known patterns.
//!
//! Each workload does a fixed amount of work, so that time and memory compare between allocators. The
//! output has the lines of `bench_random_mixed_mt_remote_malloc`:
//!
//! ```text
//! hz3-bench-workload name=… threads=… rounds=… seed=…
//! ops=… time=… ops/s=… mallocs=… reallocs=… frees=… failed=…
//! [MEM] peak_rss_mb=… peak_live_mb=… rss_over_live=… rss_before_mb=…
//! [ALLOCATOR] name=… path=… version=…
//! ```
//!
//! Exit status: 0; 1 if an allocation failed or the run could not be set up; 2 for bad arguments.

mod false_sharing;
mod growing;
mod handover;
mod large_blocks;
mod larson;
mod one_size;
mod thread_churn;

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};
use hz3_bench_mt_remote::allocator::Allocator;
use hz3_bench_mt_remote::arguments::first_paragraph;
use hz3_bench_mt_remote::crew::Outcome;
use hz3_bench_mt_remote::memory::{self, Figure};
use std::io;
use std::process::ExitCode;

const NAME: &str = "hz3-bench-workload";

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// A server whose threads replace random blocks and hand their sets on to their successors
    Larson,
    /// Half the threads allocate blocks of one size, the other half free them
    OneSize,
    /// Neighbouring objects are given to different threads, which free and allocate again
    PassiveFalseSharing,
    /// Each thread allocates, writes and frees small objects of its own
    ActiveFalseSharing,
    /// Random working sets of mixed sizes up to 1 MiB, with blocks that change hands
    Handover,
    /// Blocks of 5 to 25 MiB are replaced at random
    LargeBlocks,
    /// Short-lived threads that leave blocks to their successors
    ThreadChurn,
    /// Buffers that grow by appending
    Growing,
}

/// Runs an allocator workload under the malloc that serves this process
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Arguments {
    /// The workload
    #[arg(value_enum)]
    workload: Workload,
    /// Number of threads, 1 to 1024
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// How often each thread does its part, 1 to 1000000
    #[arg(default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{NAME}: {}", first_paragraph(&error.to_string()));
            return ExitCode::from(2);
        }
    };
    if arguments.workload == Workload::OneSize && !arguments.threads.is_multiple_of(2) {
        eprintln!("{NAME}: one-size needs an even number of threads, not {}", arguments.threads);
        return ExitCode::from(2);
    }
    match measure(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("{NAME}: {failed} allocations failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<Outcome> {
    let Arguments { threads, rounds, seed, .. } = *arguments;
    match arguments.workload {
        Workload::Larson => larson::run(threads, rounds, seed),
        Workload::OneSize => one_size::run(threads, rounds, seed),
        Workload::PassiveFalseSharing => false_sharing::passive(threads, rounds, seed),
        Workload::ActiveFalseSharing => false_sharing::active(threads, rounds, seed),
        Workload::Handover => handover::run(threads, rounds, seed),
        Workload::LargeBlocks => large_blocks::run(threads, rounds, seed),
        Workload::ThreadChurn => thread_churn::run(threads, rounds, seed),
        Workload::Growing => growing::run(threads, rounds, seed),
    }
}

/// Runs the workload, prints the report and returns the number of failed allocations.
fn measure(arguments: &Arguments) -> io::Result<u64> {
    let name = arguments.workload.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let Arguments { threads, rounds, seed, .. } = arguments;
    println!("{NAME} name={name} threads={threads} rounds={rounds} seed={seed}");
    let allocator = Allocator::serving_this_process();
    let rss_before = memory::of_this_process(Figure::Resident)?;
    let Outcome { tally, time, peak_live_bytes } = run(arguments)?;
    let peak_rss = memory::of_this_process(Figure::PeakResident)?;
    println!("{}", tally.line(time));
    let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "[MEM] peak_rss_mb={:.3} peak_live_mb={:.3} rss_over_live={:.4} rss_before_mb={:.3}",
        megabytes(peak_rss),
        megabytes(peak_live_bytes),
        peak_rss as f64 / peak_live_bytes.max(1) as f64,
        megabytes(rss_before)
    );
    println!("[ALLOCATOR] name={} path={} version={}", allocator.name, allocator.path.display(), allocator.version);
    Ok(tally.failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(workload: Workload, threads: u32) -> Outcome {
        let arguments = Arguments { workload, threads, rounds: 1, seed: 7 };
        run(&arguments).unwrap()
    }

    #[test]
    fn every_workload_frees_what_it_allocated() {
        for &workload in Workload::value_variants() {
            let Outcome { tally, peak_live_bytes, .. } = outcome(workload, 2);
            assert!(tally.mallocs > 0, "{workload:?}");
            assert_eq!(tally.mallocs, tally.frees, "{workload:?}");
            assert_eq!(tally.failed, 0, "{workload:?}");
            assert!(peak_live_bytes > 0, "{workload:?}");
        }
    }

    #[test]
    fn equal_seeds_do_equal_work() {
        for workload in [Workload::Larson, Workload::ThreadChurn, Workload::Growing, Workload::LargeBlocks] {
            assert_eq!(outcome(workload, 1).tally, outcome(workload, 1).tally, "{workload:?}");
        }
    }

    #[test]
    fn a_wrong_argument_is_explained_in_one_line() {
        for words in [&["x"][..], &["x", "larsen", "1"], &["x", "larson", "0"], &["x", "larson", "1", "--sed", "1"]] {
            let line = first_paragraph(&Arguments::try_parse_from(words).unwrap_err().to_string());
            assert!(!line.contains('\n') && !line.starts_with("error"), "{line}");
        }
    }
}
