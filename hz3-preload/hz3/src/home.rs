//! Home: where the libraries lie and what else depends on how this program came to be.
//!
//! ```text
//!   Installed     bin/hz3 looks for lib/libhakozuna_hz3_LANE.so beside it
//!   Workspace     cargo builds the library from the sources first
//! ```

use crate::lane::Lane;
use crate::record::machine::Source;
use crate::usage::UsageError;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Names the folder of the libraries, instead of those beside the program. No option of the allocator's: programs do not
/// inherit it.
pub const VARIABLE: &str = "HZ3_PRELOAD_DIR";

/// Where the libraries lie, seen from the program's folder.
const FOLDERS: [&str; 3] = ["../lib", "../lib/hz3", "."];

/// What the commands need to know of the place they run in.
pub trait Home {
    /// What the user types before a command's name.
    fn caller(&self) -> &str;
    /// The path of the lane's library, which exists.
    fn library(&self, lane: Lane) -> Result<PathBuf>;
    /// `LD_LIBRARY_PATH` as the user's programs are to have it.
    fn library_path(&self) -> Option<OsString>;
    /// Variables of this process that the user's programs are not to inherit.
    fn own_variables(&self) -> Vec<OsString>;
    /// The version of hz3's sources.
    fn source(&self) -> Source;
}

/// The installed program, without the sources.
#[derive(Debug)]
pub struct Installed;

impl Home for Installed {
    fn caller(&self) -> &str {
        "hz3"
    }

    fn library(&self, lane: Lane) -> Result<PathBuf> {
        match std::env::var_os(VARIABLE) {
            Some(folder) => library_in(&[PathBuf::from(folder)], lane),
            None => {
                let own = std::env::current_exe().and_then(|own| own.canonicalize()).context("own path")?;
                let beside = own.parent().unwrap_or(Path::new("/"));
                library_in(&FOLDERS.map(|folder| beside.join(folder)), lane)
            }
        }
    }

    fn library_path(&self) -> Option<OsString> {
        std::env::var_os("LD_LIBRARY_PATH")
    }

    fn own_variables(&self) -> Vec<OsString> {
        vec![VARIABLE.into()]
    }

    fn source(&self) -> Source {
        Source { version: env!("CARGO_PKG_VERSION").to_owned(), ..Source::default() }
    }
}

/// The lane's library in the first of the folders that has it.
fn library_in(folders: &[PathBuf], lane: Lane) -> Result<PathBuf> {
    // Of the path only the folder: the file's own name may be a link to one with a version.
    let found = folders.iter().filter_map(|folder| Some(folder.canonicalize().ok()?.join(lane.library())));
    found.into_iter().find(|library| library.is_file()).ok_or_else(|| {
        let looked_in: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let looked_in = looked_in.join(", ");
        let message =
            format!("the library is missing: {} is not in {looked_in}; {VARIABLE} names its folder", lane.library());
        UsageError(message).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_in_the_first_folder_that_has_it_under_its_own_name() {
        let root = tempfile::tempdir().unwrap();
        let folders = ["lib", "lib/hz3"].map(|folder| root.path().join(folder));
        std::fs::create_dir_all(&folders[1]).unwrap();
        let error = library_in(&folders, Lane::Fast).unwrap_err();
        assert!(error.downcast_ref::<UsageError>().is_some());
        assert!(error.to_string().contains("libhakozuna_hz3_fast.so"), "{error}");
        std::fs::write(folders[1].join("x.so.1"), "").unwrap();
        std::os::unix::fs::symlink("x.so.1", folders[1].join(Lane::Fast.library())).unwrap();
        let library = library_in(&folders, Lane::Fast).unwrap();
        assert_eq!(library, folders[1].canonicalize().unwrap().join("libhakozuna_hz3_fast.so"));
    }
}
