//! Usage: reading a command line, and the one line that says why what was asked for can't be done.
//!
//! Exit codes: 0 success, 1 a failure, 2 a request that makes no sense.

use anyhow::Result;
use clap::Parser;
use clap::error::ErrorKind;
use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

/// The exit code of a request that makes no sense: unknown option, bad value, missing program.
pub const USAGE_EXIT_CODE: u8 = 2;

/// What a line about a mistake begins with, unless the program puts its name there.
const PREFIX: &str = "error";

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
    /// The user asked for the help text or the version.
    Help(String),
    /// The arguments are wrong, in one line.
    Usage(String),
}

/// A program's whole `main`: reads the command line, carries it out, and says on standard error in one line why that
/// can't be done. The line begins with `prefix`, or with `error`.
pub fn main<P: Parser>(prefix: Option<&str>, carry_out: impl FnOnce(P) -> Result<ExitCode>) -> ExitCode {
    // Whoever reads the output and stops has seen enough: that ends this program too, without a word.
    sigpipe::reset();
    let prefix = prefix.unwrap_or(PREFIX);
    match parse(std::env::args_os()) {
        Ok(arguments) => carry_out(arguments).unwrap_or_else(|error| {
            eprintln!("{prefix}: {error:#}");
            let is_usage = error.downcast_ref::<UsageError>().is_some();
            if is_usage { ExitCode::from(USAGE_EXIT_CODE) } else { ExitCode::FAILURE }
        }),
        Err(Stop::Help(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(Stop::Usage(line)) => {
            eprintln!("{prefix}: {line}");
            ExitCode::from(USAGE_EXIT_CODE)
        }
    }
}

/// Reads a command line, program name included.
pub fn parse<P: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<P, Stop> {
    P::try_parse_from(arguments).map_err(|error| {
        let text = error.render().to_string();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Help(text),
            _ => Stop::Usage(one_line(&text)),
        }
    })
}

/// Joins clap's error, its tips and the usage into one line.
fn one_line(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut part_ended = true;
    let text = text.strip_prefix("error: ").unwrap_or(text);
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
