//! Preload: the value of `LD_PRELOAD` that loads a library.

use crate::usage::UsageError;
use anyhow::Result;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
