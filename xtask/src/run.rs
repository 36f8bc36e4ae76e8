//! Run: a program on hz3, in place of this process.

use crate::arguments::UsageError;
use crate::lane::Lane;
use crate::preload;
use crate::workspace::{Workspace, variables_of_cargo_run};
use anyhow::Result;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
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

/// `cargo xtask run`: builds the lane's library if need be and replaces this process with the
/// program, so that signals and the exit status are the program's own. Returns only on failure.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let (name, rest) = arguments.program.split_first().expect("clap requires a program");
    let program = find(name)?;
    let workspace = Workspace::locate()?;
    let library = preload::build(&workspace, arguments.lane)?;
    let existing = std::env::var_os("LD_PRELOAD");
    let mut command = Command::new(&program);
    command.arg0(name).args(rest);
    command.env("LD_PRELOAD", preload::with_preloaded(&library, existing.as_deref())?);
    for variable in variables_of_cargo_run() {
        command.env_remove(variable);
    }
    if let Some(path) = library_path_of_the_user(&workspace) {
        command.env("LD_LIBRARY_PATH", path);
    } else {
        command.env_remove("LD_LIBRARY_PATH");
    }
    let error = command.exec();
    Err(UsageError(format!("can't run {}: {error}", program.display())).into())
}

/// The program's path: `name` itself when it has a slash, else the first match in `PATH`.
pub fn find(name: &OsString) -> Result<PathBuf> {
    which::which(name).map_err(|_| UsageError(format!("program not found: {}", name.display())).into())
}

/// `LD_LIBRARY_PATH` without the entries that `cargo run` has added: the build folder's and the
/// toolchain's. `None` when nothing is left.
pub fn library_path_of_the_user(workspace: &Workspace) -> Option<OsString> {
    let value = std::env::var_os("LD_LIBRARY_PATH")?;
    let kept = entries_of_the_user(&value, &workspace.target, &workspace.toolchain_libraries());
    if kept.is_empty() { None } else { std::env::join_paths(kept).ok() }
}

fn entries_of_the_user(value: &OsStr, target: &Path, toolchain_libraries: &Path) -> Vec<PathBuf> {
    std::env::split_paths(value)
        .filter(|entry| {
            !entry.starts_with(target)
                && entry != toolchain_libraries
                && !entry.starts_with(toolchain_libraries.join("rustlib"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_user_s_own_library_folders_reach_the_program() {
        let value = OsStr::new("/t/debug:/t/debug/deps:/tc/lib/rustlib/x/lib:/tc/lib:/opt/lib");
        let kept = entries_of_the_user(value, Path::new("/t"), Path::new("/tc/lib"));
        assert_eq!(kept, [Path::new("/opt/lib")]);
    }
}
