//! Forward: the commands that `hz3-eval` carries out, which is built when one is asked for.
//!
//! What only runs or builds hz3 need not wait until everything that measures and draws is compiled.

use anyhow::Result;
use hz3::Workspace;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

/// The package, and its program.
const NAME: &str = "hz3-eval";

/// The commands by name; `hz3-eval` knows their arguments.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Build the field's allocators as preload libraries
    BuildPeers(Arguments),
    /// Measure both lanes and the field with the remote-free benchmark
    BenchMt(Arguments),
    /// Measure whole programs and allocator workloads on both lanes and the field
    BenchPrograms(Arguments),
    /// Measure hz3 and the field as global allocators of Rust programs
    BenchRust(Arguments),
    /// Run a program of your own under every allocator and say which is best for it
    Advise(Arguments),
    /// Show live what a process's memory is used for
    Top(Arguments),
    /// Measure whether memory comes back on both lanes and the field
    BenchMemory(Arguments),
    /// Measure what single calls cost as something else grows, on all lanes and the field
    Costs(Arguments),
    /// Draw resident and live memory over time, on all lanes and the field
    MemoryCurves(Arguments),
    /// Commit faults of memory under every allocator and say what each does about them
    Faults(Arguments),
    /// Make tables and plots from a results file
    Report(Arguments),
    /// Show what changed between two results files
    Compare(Arguments),
}

/// Whatever follows the command's name.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// The command's own; `--help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// Replaces this process with `hz3-eval`, which gets this one's arguments as they were. Returns only on failure.
pub fn command() -> Result<ExitCode> {
    let mut command = std::process::Command::new(build(&Workspace::locate()?)?);
    // What it says of its usage then is what was typed.
    command.arg0("cargo xtask").args(std::env::args_os().skip(1));
    Err(command.exec().into())
}

/// Builds the program if need be and returns its path.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    workspace.build_program("dev", NAME, NAME)
}
