//! Command line: the arguments of `hz3`. The help, the manual pages and the shells' completions are made from them.

use crate::lane::Lane;
use crate::record::launcher;
use crate::{advise, doctor, report, run, top};
use clap::ValueHint;
use std::ffi::OsString;

/// What the exit status says.
pub const EXIT_STATUS: &str = "That of the program; 2 after a mistake in the arguments, or where the library or the \
                               program is missing; `doctor` ends with 1 where something stops LD_PRELOAD";

/// The variables of the environment that the command reads, and what they do.
pub const ENVIRONMENT: [(&str, &str); 3] = [
    ("LD_PRELOAD", "What is preloaded after the library"),
    ("HZ3_PRELOAD_DIR", "The folder of the libraries [default: ../lib or ../lib/hz3, seen from the command's folder]"),
    ("HZ3_*", "All others are options of the allocator, such as HZ3_SHOW_STATS=1"),
];

/// Runs a program on the memory allocator hz3, or carries out a command.
///
/// The library of a lane takes the place of the C library's malloc in the program, before whatever LD_PRELOAD has. A
/// program that is linked statically, or brings an allocator of its own, runs as before.
#[derive(clap::Parser, Debug)]
#[command(name = "hz3", version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(
    override_usage = "hz3 [--lane LANE] PROGRAM [ARGUMENT]...\n       hz3 [--lane LANE] --library\n       hz3 COMMAND",
    after_help = after_help()
)]
pub struct Arguments {
    /// The command, if it is not a program to run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The lane to run on
    #[arg(long, value_enum, default_value_t = Lane::Scale)]
    pub lane: Lane,
    /// Print the path of the lane's library and run nothing
    #[arg(long, conflicts_with = "program")]
    pub library: bool,
    /// The program and its arguments; `--` before one that has a command's name
    #[arg(trailing_var_arg = true, value_name = "PROGRAM", value_hint = ValueHint::CommandWithArguments)]
    pub program: Vec<OsString>,
}

/// What `hz3` does besides running a program.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
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

fn after_help() -> String {
    let width = ENVIRONMENT.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = format!("Exit status:\n  {EXIT_STATUS}\n\nEnvironment:");
    for (name, effect) in ENVIRONMENT {
        text.push_str(&format!("\n  {name:width$}  {effect}"));
    }
    text
}
