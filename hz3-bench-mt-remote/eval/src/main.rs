//! `hz3-eval`: measures both lanes against the field and says by stated rules how they stand.
//!
//! ```text
//!   bench-mt, bench-programs, bench-rust, bench-memory ──▶ results file (JSON) ──▶ report, compare
//!   field ◀── peer_build ◀── recipe              hz3::record                  table, plot, verdict
//!     └──▶ hz3::advise                                                        one program of the user's own, one line
//! ```
//!
//! `cargo xtask NAME` builds this program and hands its arguments on.

#![forbid(unsafe_code)]

mod bench_memory;
mod bench_mt;
mod bench_programs;
mod bench_rust;
mod compare;
mod costs;
mod extent;
mod fault_expectations;
mod fault_outcome;
mod faults;
mod field;
mod gallery;
mod global_allocator;
mod lane_table;
mod measurement;
mod memory_curves;
mod peer_build;
mod plot;
mod program;
mod program_inputs;
mod published;
mod recipe;
mod report;
mod schedule;
mod table;
mod verdict;

use anyhow::Result;
use hz3::record::launcher;
use hz3::{Workspace, advise, top, usage};
use std::process::ExitCode;

/// Measures hz3 and other allocators and says by stated rules how they stand.
#[derive(clap::Parser, Debug)]
#[command(arg_required_else_help = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
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
    /// Draw resident and live memory over time, on all lanes and the field
    MemoryCurves(memory_curves::Arguments),
    /// Measure what single calls cost as something else grows, on all lanes and the field
    Costs(costs::Arguments),
    /// Commit faults of memory under every allocator and say what each does about them
    Faults(faults::Arguments),
    /// Show live what a process's memory is used for
    Top(top::Arguments),
    /// Make tables and plots from a results file
    Report(report::Arguments),
    /// Show what changed between two results files
    Compare(compare::Arguments),
    /// Check that the documents' tables are those that their data give
    #[command(hide = true)]
    CheckDocuments,
    /// Hold a lane to what is expected of it when memory is misused
    #[command(hide = true)]
    CheckFaults(faults::CheckArguments),
    /// Run one program and report what the kernel counted for it
    #[command(name = launcher::SUBCOMMAND, hide = true)]
    Launch(launcher::Arguments),
}

fn main() -> ExitCode {
    usage::main(None, carry_out)
}

fn carry_out(arguments: Arguments) -> Result<ExitCode> {
    match &arguments.command {
        Command::BuildPeers(arguments) => peer_build::command(arguments),
        Command::BenchMt(arguments) => bench_mt::command(arguments),
        Command::BenchPrograms(arguments) => bench_programs::command(arguments),
        Command::BenchRust(arguments) => bench_rust::command(arguments),
        Command::Advise(arguments) => {
            let workspace = Workspace::locate()?;
            advise::command(arguments, &workspace, |selection| field::peers(&workspace, selection))
        }
        Command::BenchMemory(arguments) => bench_memory::command(arguments),
        Command::MemoryCurves(arguments) => memory_curves::command(arguments),
        Command::Costs(arguments) => costs::command(arguments),
        Command::Faults(arguments) => faults::command(arguments),
        Command::Top(arguments) => top::command(arguments, &Workspace::locate()?),
        Command::Report(arguments) => report::command(arguments),
        Command::Compare(arguments) => compare::command(arguments),
        Command::CheckDocuments => report::check(),
        Command::CheckFaults(arguments) => faults::check(arguments),
        Command::Launch(arguments) => launcher::command(arguments),
    }
}
