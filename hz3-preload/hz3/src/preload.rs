//! Preload library: a lane as a shared object for `LD_PRELOAD`.

use crate::home::Home;
use crate::lane::Lane;
use crate::record::machine::Source;
use crate::usage::UsageError;
use crate::workspace::{Workspace, variables_of_cargo_run, with_spinner};
use anyhow::Result;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Builds the lane's library if it is missing or outdated and returns its path. Quiet; a build that
/// takes long shows a spinner on a terminal.
pub fn build(workspace: &Workspace, lane: Lane) -> Result<PathBuf> {
    with_spinner(&lane.library(), |waiting| build_while(workspace, lane, waiting))
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

impl Home for Workspace {
    fn caller(&self) -> &str {
        "cargo xtask"
    }

    fn library(&self, lane: Lane) -> Result<PathBuf> {
        build(self, lane)
    }

    fn library_path(&self) -> Option<OsString> {
        self.library_path_of_the_user()
    }

    fn own_variables(&self) -> Vec<OsString> {
        variables_of_cargo_run()
    }

    fn source(&self) -> Source {
        Source::describe(&self.root)
    }
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
