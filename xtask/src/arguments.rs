//! Arguments: what the user asked for, and the one line that says why it can't be done.

use crate::{doctor, evaluation, golden, install, layers, preload, public_api, run, soak, suite, top};
use clap::Parser;
use clap::error::ErrorKind;
use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

/// The exit code of a request that makes no sense: unknown option, bad value, missing program.
pub const USAGE_EXIT_CODE: u8 = 2;

/// Builds, runs, tests and measures hz3.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// One subcommand with its own arguments.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Build the preload libraries and print how to use them
    BuildPreload(preload::Arguments),
    /// Run a program on hz3
    Run(run::Arguments),
    /// Show live what a process's memory is used for
    Top(top::Arguments),
    /// Say what would stop or bend LD_PRELOAD for a program
    Doctor(doctor::Arguments),
    /// Install both libraries, a wrapper script and the documents
    Install(install::InstallArguments),
    /// Make an archive of what is installed
    Dist(install::DistArguments),
    /// Run everything that CI runs
    Test(suite::Arguments),
    /// Storm both lanes with random calls, threads, forks and signals for some minutes
    Soak(soak::Arguments),
    /// Compare the cost of the hit paths with docs/hot-path.txt
    Golden(golden::Arguments),
    /// Show which folders and files import which, and where that breaks a rule
    Layers(layers::Arguments),
    /// Compare hz3-core's public items with docs/public-api.txt
    PublicApi(public_api::Arguments),
    #[command(flatten)]
    Evaluation(evaluation::Command),
}

/// A request that makes no sense; shown as one line, exit code 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Why parsing ended without a command.
#[derive(Debug)]
pub enum Stop {
    /// The user asked for the help text.
    Help(String),
    /// The arguments are wrong, in one line.
    Usage(String),
}

impl Stop {
    /// Prints the help (exit code 0) or the error line (exit code 2).
    pub fn report(self) -> ExitCode {
        match self {
            Stop::Help(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Stop::Usage(line) => {
                eprintln!("{line}");
                ExitCode::from(USAGE_EXIT_CODE)
            }
        }
    }
}

/// Prints a command's error and gives its exit code: 2 for a [`UsageError`], 1 for all others.
pub fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    if error.downcast_ref::<UsageError>().is_some() { ExitCode::from(USAGE_EXIT_CODE) } else { ExitCode::FAILURE }
}

/// Reads a command line, program name included.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Stop> {
    match Arguments::try_parse_from(arguments) {
        Ok(arguments) => Ok(arguments.command),
        Err(error) => {
            let text = error.render().to_string();
            Err(match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Help(text),
                _ => Stop::Usage(one_line(&text)),
            })
        }
    }
}

/// Joins clap's error, its tips and the usage into one line.
fn one_line(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut part_ended = true;
    for line in text.lines().map(str::trim).take_while(|line| !line.starts_with("For more information")) {
        let starts_part = part_ended || line.starts_with("tip:");
        part_ended = line.is_empty();
        match parts.last_mut() {
            _ if line.is_empty() => {}
            Some(part) if !starts_part => *part = format!("{part} {line}"),
            _ => parts.push(line.replace("Usage:", "usage:")),
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage_line(words: &[&str]) -> String {
        match parse(words.iter().map(OsString::from)) {
            Err(Stop::Usage(line)) => line,
            other => panic!("expected a usage error, got {other:?}"),
        }
    }

    #[test]
    fn a_mistyped_option_gives_one_line_with_the_tip() {
        let line = usage_line(&["xtask", "build-preload", "--lan", "fast"]);
        assert!(line.starts_with("error: unexpected argument '--lan' found"), "{line}");
        assert!(line.contains("'--lane'"), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn a_bad_lane_gives_one_line_with_the_choices() {
        let line = usage_line(&["xtask", "run", "--lane", "slow", "--", "true"]);
        assert!(line.contains("'slow'") && line.contains("fast, scale"), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn a_missing_program_gives_one_line_that_names_it() {
        let line = usage_line(&["xtask", "run", "--lane", "fast"]);
        assert!(line.contains("<PROGRAM>"), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn a_program_without_the_two_dashes_gives_one_line() {
        let line = usage_line(&["xtask", "run", "ls"]);
        assert!(line.contains("'ls'") && line.contains("-- <PROGRAM>"), "{line}");
        assert!(!line.contains('\n'));
    }

    #[test]
    fn no_subcommand_and_an_unknown_one_give_one_line() {
        assert!(usage_line(&["xtask"]).contains("build-preload"));
        assert!(usage_line(&["xtask", "tset"]).contains("'tset'"));
    }

    #[test]
    fn options_after_the_two_dashes_belong_to_the_program() {
        let words = ["xtask", "run", "--lane", "fast", "--", "ls", "--lane", "-x"];
        match parse(words.iter().map(OsString::from)) {
            Ok(Command::Run(arguments)) => assert_eq!(arguments.program, ["ls", "--lane", "-x"]),
            other => panic!("expected a run, got {other:?}"),
        }
    }

    #[test]
    fn help_is_not_an_error() {
        assert!(matches!(parse(["xtask", "--help"].map(OsString::from)), Err(Stop::Help(_))));
    }
}
