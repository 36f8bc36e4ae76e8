//! Package: a program that a step needs beyond Rust and a C compiler, and the Debian package that
//! brings it.
//!
//! In CI a missing package is installed; elsewhere the step is skipped and names the package.

use super::step::{Stop, in_ci};
use hz3::process;
use nix::unistd::Uid;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A command and the package that has it.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// The command to look for in `PATH`.
    pub command: &'static str,
    /// The Debian package to install.
    pub name: &'static str,
}

const INSTALL_TIME_LIMIT: Duration = Duration::from_secs(300);

/// Makes sure that all the commands exist; skips the step when one can't be had.
pub fn require(packages: &[Package]) -> Result<(), Stop> {
    require_or_install(packages, may_install())
}

/// Makes sure that `file` exists, which the Debian package `name` has; skips the step when it can't be had.
pub fn require_file(file: &Path, name: &str) -> Result<(), Stop> {
    if !file.exists() && may_install() {
        install(name)?;
    }
    if file.exists() { Ok(()) } else { Err(Stop::Skipped(format!("{} is missing: install {name}", file.display()))) }
}

fn may_install() -> bool {
    in_ci() && Uid::effective().is_root() && which::which("apt-get").is_ok()
}

fn require_or_install(packages: &[Package], may_install: bool) -> Result<(), Stop> {
    for package in packages {
        if which::which(package.command).is_ok() {
            continue;
        }
        if !may_install {
            return Err(Stop::Skipped(format!("{} is missing: install {}", package.command, package.name)));
        }
        install(package.name)?;
        if which::which(package.command).is_err() {
            return Err(Stop::failed(format!("{} has no {}", package.name, package.command)));
        }
    }
    Ok(())
}

fn install(name: &str) -> Result<(), Stop> {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env_remove("LD_PRELOAD");
        process::expect_success(&mut command, INSTALL_TIME_LIMIT)
    };
    let arguments = ["install", "--yes", "--no-install-recommends", name];
    // A fresh machine has no package lists yet.
    if apt(&arguments).is_err() {
        apt(&["update"])?;
        apt(&arguments)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_exists_is_not_skipped_and_a_missing_one_names_its_package() {
        require_or_install(&[Package { command: "sh", name: "dash" }], false).unwrap();
        let missing = Package { command: "hz3-no-such-command", name: "hz3-no-such-package" };
        match require_or_install(&[missing], false) {
            Err(Stop::Skipped(reason)) => assert!(reason.contains(missing.name)),
            other => panic!("expected a skipped step, got {other:?}"),
        }
    }
}
