//! The command `hz3`: runs programs on hz3, and shows what it does for them.

#![forbid(unsafe_code)]

use anyhow::Result;
use clap::CommandFactory;
use hz3::home::{Home, Installed};
use hz3::lane::Lane;
use hz3::record::launcher;
use hz3::usage::{self, UsageError};
use hz3::{advise, doctor, preload, report, run, top};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs a program on the memory allocator hz3, or carries out a command.
#[derive(clap::Parser, Debug)]
#[command(name = "hz3", version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(
    override_usage = "hz3 [--lane LANE] PROGRAM [ARGUMENT]...\n       hz3 [--lane LANE] --library\n       hz3 COMMAND"
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The lane to run on
    #[arg(long, value_enum, default_value_t = Lane::Scale)]
    lane: Lane,
    /// Print the path of the lane's library and run nothing
    #[arg(long, conflicts_with = "program")]
    library: bool,
    /// The program and its arguments; `--` before one that has a command's name
    #[arg(trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Run a program on hz3
    Run(run::Arguments),
    /// Show live what a process's memory is used for
    Top(top::Arguments),
    /// Say what would stop or bend LD_PRELOAD for a program
    Doctor(doctor::Arguments),
    /// Run a program of your own under every allocator and say which is best for it
    Advise(Box<advise::Arguments>),
    /// Draw what a process wrote where HZ3_STATS_JSON said
    Report(report::Arguments),
    /// Run one program and report what the kernel counted for it
    #[command(name = launcher::SUBCOMMAND, hide = true)]
    Launch(launcher::Arguments),
}

fn main() -> ExitCode {
    usage::main(Some("hz3"), carry_out)
}

fn carry_out(arguments: Arguments) -> Result<ExitCode> {
    match &arguments.command {
        Some(Command::Run(arguments)) => run::command(arguments, &Installed),
        Some(Command::Top(arguments)) => top::command(arguments, &Installed),
        Some(Command::Doctor(arguments)) => doctor::command(arguments, &Installed),
        Some(Command::Advise(arguments)) => advise::command(arguments, &Installed, |_| Ok(Vec::new())),
        Some(Command::Report(arguments)) => report::command(arguments),
        Some(Command::Launch(arguments)) => launcher::command(arguments),
        None if arguments.library => {
            let library = Installed.library(arguments.lane)?;
            // A path that can't be preloaded is of no use to who asks.
            preload::with_preloaded(&library, None)?;
            println!("{}", library.display());
            Ok(ExitCode::SUCCESS)
        }
        None if arguments.program.is_empty() => {
            let usage = Arguments::command().render_usage().to_string();
            let usage: Vec<&str> = usage.trim_start_matches("Usage: ").lines().map(str::trim).collect();
            Err(UsageError(format!("no program; usage: {}", usage.join(", "))).into())
        }
        None => run::program(&arguments.program, arguments.lane, &Installed),
    }
}
