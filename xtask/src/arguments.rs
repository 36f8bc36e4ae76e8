//! Arguments: what the user asked for.

use crate::{build_preload, forward, golden, install, layers, public_api, soak, suite};
use hz3::{doctor, run};
#[cfg(test)]
use std::ffi::OsString;

/// Builds, runs, tests and measures hz3.
#[derive(clap::Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = false)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One subcommand with its own arguments.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Build the preload libraries and print how to use them
    BuildPreload(build_preload::Arguments),
    /// Run a program on hz3
    Run(run::Arguments),
    /// Say what would stop or bend LD_PRELOAD for a program
    Doctor(doctor::Arguments),
    /// Install the libraries, the command hz3 and the documents
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
    Evaluation(forward::Command),
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::usage::{Stop, parse};

    fn usage_line(words: &[&str]) -> String {
        match parse::<Arguments>(words.iter().map(OsString::from)) {
            Err(Stop::Usage(line)) => line,
            other => panic!("expected a usage error, got {other:?}"),
        }
    }

    #[test]
    fn a_mistyped_option_gives_one_line_with_the_tip() {
        let line = usage_line(&["xtask", "build-preload", "--lan", "fast"]);
        assert!(line.starts_with("unexpected argument '--lan' found"), "{line}");
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
        match parse::<Arguments>(words.iter().map(OsString::from)) {
            Ok(Arguments { command: Command::Run(arguments) }) => assert_eq!(arguments.program, ["ls", "--lane", "-x"]),
            other => panic!("expected a run, got {other:?}"),
        }
    }

    #[test]
    fn what_another_program_does_gets_all_its_arguments() {
        for words in [&["xtask", "bench-mt", "--help"][..], &["xtask", "advise", "--peers", "system", "--", "ls", "-l"]]
        {
            let arguments: Arguments = parse(words.iter().map(OsString::from)).unwrap();
            assert!(matches!(arguments.command, Command::Evaluation(_)), "{arguments:?}");
        }
    }

    #[test]
    fn help_is_not_an_error() {
        assert!(matches!(parse::<Arguments>(["xtask", "--help"].map(OsString::from)), Err(Stop::Help(_))));
    }
}
