//! Run: a program on hz3, in place of this process.

use crate::home::Home;
use crate::lane::Lane;
use crate::preload;
use crate::usage::UsageError;
use anyhow::Result;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The lane to run on
    #[arg(long, value_enum, default_value_t = Lane::Scale)]
    lane: Lane,
    /// The program and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// `run`: replaces this process with the program. Returns only on failure.
pub fn command(arguments: &Arguments, home: &dyn Home) -> Result<ExitCode> {
    program(&arguments.program, arguments.lane, home)
}

/// Replaces this process with the program that `words` begin with, so that signals and the exit status are the program's
/// own. Returns only on failure.
pub fn program(words: &[OsString], lane: Lane, home: &dyn Home) -> Result<ExitCode> {
    let (path, mut command) = preloaded(words, lane, home)?;
    let error = command.exec();
    Err(UsageError(format!("can't run {}: {error}", path.display())).into())
}

/// The path of the program that `words` begin with, and the command that runs it on the lane.
pub fn preloaded(words: &[OsString], lane: Lane, home: &dyn Home) -> Result<(PathBuf, Command)> {
    let (name, rest) = words.split_first().ok_or_else(|| UsageError("no program".to_owned()))?;
    let program = find(name)?;
    let library = home.library(lane)?;
    let existing = std::env::var_os("LD_PRELOAD");
    let mut command = Command::new(&program);
    command.arg0(name).args(rest);
    command.env("LD_PRELOAD", preload::with_preloaded(&library, existing.as_deref())?);
    for variable in home.own_variables() {
        command.env_remove(variable);
    }
    match home.library_path() {
        Some(path) => command.env("LD_LIBRARY_PATH", path),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
    Ok((program, command))
}

/// The program's path: `name` itself when it has a slash, else the first match in `PATH`.
pub fn find(name: &OsString) -> Result<PathBuf> {
    which::which(name).map_err(|_| UsageError(format!("program not found: {}", name.display())).into())
}
