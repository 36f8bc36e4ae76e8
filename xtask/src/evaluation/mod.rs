//! Evaluation: measures both lanes against the field and says by stated rules how they stand.
//!
//! ```text
//!   bench-mt, bench-programs, bench-rust, bench-memory ──▶ results file (JSON) ──▶ report, compare
//!   allocator ◀── peer_build                   journal, results        table, plot, verdict, statistics
//!       └──▶ advise ──▶ sequential, advice                             one program of the user's own, one line
//! ```

mod advice;
mod advise;
mod allocator;
mod bench_memory;
mod bench_mt;
mod bench_programs;
mod bench_rust;
mod benchmark_output;
mod compare;
mod extent;
mod fault_expectations;
mod faults;
mod global_allocator;
mod journal;
mod lane_table;
mod launcher;
mod machine;
mod measurement;
mod metric;
mod peer_build;
mod plot;
mod program;
mod program_inputs;
mod published;
mod recipe;
mod report;
mod results;
mod row;
mod schedule;
mod sequential;
mod statistics;
pub mod statistics_file;
mod table;
mod verdict;

pub use bench_memory::build as build_bench_memory;
pub use faults::check_lane as check_faults;
pub use machine::{chosen, text_of};
pub use report::check_documents;

use anyhow::Result;
use std::process::ExitCode;

/// The subcommands of the evaluation.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Build the field's allocators as preload libraries
    BuildPeers(peer_build::Arguments),
    /// Measure both lanes and the field with the remote-free benchmark
    BenchMt(Box<bench_mt::Arguments>),
    /// Measure whole programs and allocator workloads on both lanes and the field
    BenchPrograms(Box<bench_programs::Arguments>),
    /// Measure hz3 and the field as global allocators of Rust programs
    BenchRust(Box<bench_rust::Arguments>),
    /// Run a program of your own under every allocator and say which is best for it
    Advise(Box<advise::Arguments>),
    /// Measure whether memory comes back on both lanes and the field
    BenchMemory(Box<bench_memory::Arguments>),
    /// Commit faults of memory under every allocator and say what each does about them
    Faults(faults::Arguments),
    /// Make tables and plots from a results file
    Report(report::Arguments),
    /// Show what changed between two results files
    Compare(compare::Arguments),
    /// Run one program and report what the kernel counted for it
    #[command(hide = true)]
    Launch(launcher::Arguments),
}

/// Carries out one subcommand.
pub fn command(command: &Command) -> Result<ExitCode> {
    match command {
        Command::BuildPeers(arguments) => peer_build::command(arguments),
        Command::BenchMt(arguments) => bench_mt::command(arguments),
        Command::BenchPrograms(arguments) => bench_programs::command(arguments),
        Command::BenchRust(arguments) => bench_rust::command(arguments),
        Command::Advise(arguments) => advise::command(arguments),
        Command::BenchMemory(arguments) => bench_memory::command(arguments),
        Command::Faults(arguments) => faults::command(arguments),
        Command::Report(arguments) => report::command(arguments),
        Command::Compare(arguments) => compare::command(arguments),
        Command::Launch(arguments) => launcher::command(arguments),
    }
}
