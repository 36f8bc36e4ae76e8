//! Files: what lies under a folder.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// All files and links under a folder and its folders, relative to it, sorted.
///
/// # Errors
/// A folder can't be read.
pub fn files_in(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        for entry in std::fs::read_dir(&path).with_context(|| format!("{}", path.display()))? {
            let entry = entry?;
            let found = if entry.file_type()?.is_dir() { &mut folders } else { &mut files };
            found.push(folder.join(entry.file_name()));
        }
    }
    files.sort();
    Ok(files)
}

/// As [`files_in`], those whose names end in `.extension`.
///
/// # Errors
/// As for [`files_in`].
pub fn files_with(extension: &str, root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = files_in(root)?;
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    Ok(files)
}
