//! The command `hz3`: runs programs on hz3, and shows what it does for them.

#![forbid(unsafe_code)]

use anyhow::Result;
use clap::CommandFactory;
use hz3_tool::command_line::{Arguments, Command};
use hz3_tool::home::{Home, Installed};
use hz3_tool::record::launcher;
use hz3_tool::usage::{self, UsageError};
use hz3_tool::{advise, doctor, preload, report, run, top};
use std::process::ExitCode;

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
