//! Preload library: a lane as a shared object for `LD_PRELOAD`.

use crate::arguments::UsageError;
use crate::lane::Lane;
use crate::workspace::Workspace;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// A build that takes longer than this is shown on the terminal.
const QUIET_TIME: Duration = Duration::from_millis(700);

/// Arguments of `build-preload`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The lane to build
    #[arg(long, value_enum, default_value_t = Choice::All)]
    lane: Choice,
}

/// One lane or all.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Choice {
    /// The fast lane
    Fast,
    /// The scale lane
    Scale,
    /// The hardened lane
    Hardened,
    /// All of them
    All,
}

impl Choice {
    /// The lanes that are meant.
    pub fn lanes(self) -> &'static [Lane] {
        match self {
            Choice::Fast => &[Lane::Fast],
            Choice::Scale => &[Lane::Scale],
            Choice::Hardened => &[Lane::Hardened],
            Choice::All => &Lane::ALL,
        }
    }
}

/// `cargo xtask build-preload`: builds and prints each library's path and its `LD_PRELOAD` line.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    for &lane in arguments.lane.lanes() {
        let library = build(&workspace, lane)?;
        println!("{}", library.display());
        println!("LD_PRELOAD={}", with_preloaded(&library, None)?.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the lane's library if it is missing or outdated and returns its path. Quiet; a build that
/// takes long shows a spinner on a terminal.
pub fn build(workspace: &Workspace, lane: Lane) -> Result<PathBuf> {
    let mut spinner = None;
    let outcome = build_while(workspace, lane, |elapsed| {
        if elapsed >= QUIET_TIME {
            spinner
                .get_or_insert_with(|| {
                    ProgressBar::new_spinner()
                        .with_style(
                            ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is valid"),
                        )
                        .with_elapsed(elapsed)
                        .with_message(format!("building {}", lane.library()))
                })
                .tick();
        }
    });
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    outcome
}

/// As [`build`], but shows nothing: `waiting` is told now and then how long it has taken so far.
pub fn build_while(workspace: &Workspace, lane: Lane, waiting: impl FnMut(Duration)) -> Result<PathBuf> {
    workspace.build_release(&lane.package(), &lane.target(), ".so", waiting)
}

/// Builds the lane's static library, which comes of the same build, and returns its path.
pub fn build_static(workspace: &Workspace, lane: Lane) -> Result<PathBuf> {
    workspace.build_release(&lane.package(), &lane.target(), ".a", |_| {})
}

/// The value of `LD_PRELOAD` that loads `library` first and `existing` (an earlier value) after it.
/// A path that such a value can't express is a usage error: the loader splits at spaces and colons.
pub fn with_preloaded(library: &Path, existing: Option<&OsStr>) -> Result<OsString> {
    if library.as_os_str().as_bytes().iter().any(|byte| b" :".contains(byte)) {
        let message = format!(
            "LD_PRELOAD can't name {}: a space or a colon is in the path; set CARGO_TARGET_DIR to another folder",
            library.display()
        );
        return Err(UsageError(message).into());
    }
    let mut value = library.as_os_str().to_owned();
    if let Some(existing) = existing.filter(|existing| !existing.is_empty()) {
        value.push(":");
        value.push(existing);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_comes_before_what_was_preloaded_already() {
        let library = Path::new("/lib/a.so");
        assert_eq!(with_preloaded(library, None).unwrap(), "/lib/a.so");
        assert_eq!(with_preloaded(library, Some(OsStr::new(""))).unwrap(), "/lib/a.so");
        assert_eq!(with_preloaded(library, Some(OsStr::new("b.so"))).unwrap(), "/lib/a.so:b.so");
    }

    #[test]
    fn a_path_with_a_space_or_a_colon_is_refused() {
        for path in ["/my lib/a.so", "/my:lib/a.so"] {
            let error = with_preloaded(Path::new(path), None).unwrap_err();
            assert!(error.downcast_ref::<UsageError>().is_some());
        }
    }
}
