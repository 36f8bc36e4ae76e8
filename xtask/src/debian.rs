//! Debian package: the installed tree under /usr, packed by cargo-deb.
//!
//! What is in the package, and where, is listed in hz3-preload/Cargo.toml under `[package.metadata.deb]`; what Debian
//! wants besides (changelog, copyright, triggers, lintian's overrides) lies in hz3-preload/debian. Here the tree is put
//! where that list looks for it, as cargo-deb leaves the files there as they are: the libraries stripped, the man page
//! compressed.
//!
//! The libraries lie in usr/lib, not in a folder of the architecture's, because the command `hz3` finds them from its
//! own place, and a library that is preloaded is named by its path anyway. The same libraries, documents and time give
//! the same package.
//!
//! Outside rules: Debian Policy 4.6, chapters 8 (libraries) and 12 (documents); deb-triggers(5); the machine-readable
//! copyright format 1.0; reproducible-builds.org's SOURCE_DATE_EPOCH.

use crate::tree::{Content, Entry, compressed, put};
use anyhow::{Context, Result};
use hz3::{UsageError, Workspace, process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The package of the workspace whose manifest lists the contents.
const PACKAGE: &str = "hz3-preload";

/// The programs that make a package, and where Debian has them.
const TOOLS: [(&str, &str); 2] = [("dpkg-shlibdeps", "dpkg-dev"), ("xz", "xz-utils")];

/// How cargo installs cargo-deb. It runs for seconds, so it is built for a short build: without optimisation, and
/// without its own xz.
const INSTALL: &str = "install cargo-deb --version 3.8.0 --locked --debug --no-default-features --root";

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// cargo-deb, from the build folder's tools or from `PATH`.
pub struct Packer(PathBuf);

impl Packer {
    /// Finds all that makes a package, before anything is built.
    ///
    /// # Errors
    /// A usage error says which program is missing and how to get it.
    pub fn find(workspace: &Workspace) -> Result<Packer> {
        let tools = tools_folder(workspace);
        let own = which::which_in("cargo-deb", Some(tools.join("bin")), &workspace.root);
        let Ok(packer) = own.or_else(|_| which::which("cargo-deb")) else {
            let message = format!("--deb needs cargo-deb, which is missing: cargo {INSTALL} {}", tools.display());
            return Err(UsageError(message).into());
        };
        let strip = strip_program(workspace);
        let binutils =
            workspace.platform().map_or("binutils".to_owned(), |platform| format!("binutils for {platform}"));
        for (command, package) in TOOLS.into_iter().chain([(strip.as_str(), binutils.as_str())]) {
            if which::which(command).is_err() {
                return Err(UsageError(format!("--deb needs {command}, which is missing: install {package}")).into());
            }
        }
        Ok(Packer(packer))
    }

    /// Makes the package of a tree in `folder` and returns its path.
    ///
    /// # Errors
    /// A file can't be written, or one of the programs fails.
    pub fn package(&self, workspace: &Workspace, entries: &[Entry], folder: &Path) -> Result<PathBuf> {
        let tree = workspace.target.join(workspace.platform().unwrap_or("")).join("release/deb");
        if tree.exists() {
            std::fs::remove_dir_all(&tree).with_context(|| format!("{}", tree.display()))?;
        }
        // Debian's copyright file stands for the licence.
        for entry in entries.iter().filter(|entry| !entry.path.ends_with("LICENSE")) {
            // Debian's zsh looks elsewhere.
            let path = entry.path.to_string_lossy().replace("zsh/site-functions", "zsh/vendor-completions");
            let path = tree.join(path);
            match &entry.content {
                Content::File { bytes, is_executable } if entry.path.starts_with("share/man") => {
                    let content = Content::File { bytes: compressed(bytes)?, is_executable: *is_executable };
                    put(&path.with_added_extension("gz"), &content)
                }
                content => put(&path, content),
            }
            .with_context(|| format!("can't write {}", path.display()))?;
            strip(&strip_program(workspace), &path)?;
        }
        let mut command = Command::new(&self.0);
        command.args(["--package", PACKAGE, "--no-build", "--no-strip", "--output"]).arg(folder.join(""));
        if let Some(platform) = workspace.platform() {
            command.args(["--target", platform, "--variant", "cross"]);
        }
        command.current_dir(&workspace.root).env_remove("LD_PRELOAD");
        if std::env::var_os("SOURCE_DATE_EPOCH").is_none() {
            command.env("SOURCE_DATE_EPOCH", time_of_commit(workspace)?);
        }
        let printed = process::expect_success(&mut command, TIME_LIMIT)?.stdout_text();
        Ok(PathBuf::from(printed.trim_end()))
    }
}

/// Where programs are installed that only this workspace uses.
pub fn tools_folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("tools")
}

/// The command that installs cargo-deb where [`Packer::find`] looks first.
pub fn installation(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo();
    command.args(INSTALL.split(' ')).arg(tools_folder(workspace)).env("CARGO_PROFILE_DEV_DEBUG", "false");
    command
}

/// Seconds since 1970.
fn time_of_commit(workspace: &Workspace) -> Result<String> {
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(&workspace.root).env_remove("LD_PRELOAD");
    let time = process::expect_success(&mut git, TIME_LIMIT).map(|captured| captured.stdout_text().trim().to_owned());
    time.map_err(|_| {
        UsageError("there is no commit whose time the package could bear: set SOURCE_DATE_EPOCH".to_owned()).into()
    })
}

/// The program that strips what is built for the workspace's platform.
fn strip_program(workspace: &Workspace) -> String {
    let prefix = workspace.platform().map(|_| format!("{}-linux-gnu-", workspace.architecture()));
    prefix.unwrap_or_default() + "strip"
}

/// Takes out what only a debugger reads, from shared and static libraries; leaves all else alone.
fn strip(program: &str, path: &Path) -> Result<()> {
    let kind = if path.extension().is_some_and(|extension| extension == "a") {
        "--strip-debug"
    } else if path.to_string_lossy().contains(".so.") {
        "--strip-unneeded"
    } else {
        return Ok(());
    };
    let mut command = Command::new(program);
    command.args([kind, "--enable-deterministic-archives", "--remove-section=.comment", "--remove-section=.note"]);
    process::expect_success(command.arg(path).env_remove("LD_PRELOAD"), TIME_LIMIT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    const CHANGELOG: &str = include_str!("../../hz3-preload/debian/changelog");
    const COPYRIGHT: &str = include_str!("../../hz3-preload/debian/copyright");
    const LICENCE: &str = include_str!("../../LICENSE");

    #[test]
    fn the_changelog_begins_with_this_version() {
        assert!(CHANGELOG.starts_with(concat!("hz3 (", env!("CARGO_PKG_VERSION"), "-1) ")), "{CHANGELOG}");
    }

    #[test]
    fn the_copyright_file_has_the_licence_word_for_word() {
        // A `.` stands for an empty line.
        let words = |text: &'static str| text.split_whitespace().filter(|&word| word != ".").collect::<Vec<_>>();
        let (_, text) = COPYRIGHT.split_once("License: Expat").unwrap();
        assert!(words(LICENCE).ends_with(&words(text)));
        let holder = LICENCE.lines().find_map(|line| line.strip_prefix("Copyright (c) ")).unwrap();
        assert!(COPYRIGHT.contains(&format!("Copyright: {holder}\n")));
    }
}
