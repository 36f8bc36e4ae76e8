//! Planted: proves that the check can fail, by breaches planted in a copy of a package's sources.

use super::graph::Graph;
use super::rules::{Rules, faults, imports, rank};
use super::tree::{Package, Tree};
use crate::files::files_in;
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Plants an upward import, two files that import each other and an `impl` in another file, and demands that each is
/// named with its place.
///
/// # Errors
/// One is not named, or the package has no files for it.
pub fn check(package: &Package, rules: &Rules<'_>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    for file in files_in(&package.source)? {
        let copy = folder.path().join(&file);
        std::fs::create_dir_all(copy.parent().unwrap_or(&copy))?;
        std::fs::copy(package.source.join(&file), &copy).with_context(|| format!("{}", copy.display()))?;
    }
    let copied = |root: &std::path::PathBuf| Some(folder.path().join(root.strip_prefix(&package.source).ok()?));
    let copy = Package {
        base: folder.path().to_owned(),
        source: folder.path().to_owned(),
        roots: package.roots.iter().filter_map(copied).collect(),
        ..package.clone()
    };
    let tree = Tree::read(&copy)?;
    let before = faults(&tree, rules);
    let garden = Garden { tree: &tree, rules, imports: imports(&tree), folder: folder.path() };
    let expected = [garden.upward_import()?, garden.circle()?, garden.stray_impl()?];
    let mut found = faults(&Tree::read(&copy)?, rules);
    found.retain(|fault| !before.contains(fault));
    for alternatives in expected {
        let named = found.iter().any(|fault| alternatives.iter().any(|start| fault.starts_with(start.as_str())));
        ensure!(named, "not found: {}\nfound:\n{}", alternatives.join(", or "), found.join("\n"));
    }
    Ok(())
}

struct Garden<'a> {
    tree: &'a Tree,
    rules: &'a Rules<'a>,
    imports: Graph,
    folder: &'a Path,
}

impl Garden<'_> {
    /// A low file imports a high one. What the fault begins with.
    fn upward_import(&self) -> Result<Vec<String>> {
        let place = |file| rank(self.tree, self.rules, file);
        let (low, high) = self
            .pairs()
            .filter(|&(low, high)| place(low).zip(place(high)).is_some_and(|(low, high)| low < high))
            .find(|&(low, high)| !self.imports.has(low, high))
            .context("no two folders for an upward import")?;
        self.append(high, "pub struct PlantedAbove;")?;
        let line = self.append(low, &format!("use {}::PlantedAbove;", self.path(high)))?;
        Ok(vec![format!(
            "{}:{line}: {} uses {}, which lies above it",
            self.shown(low),
            self.name(low),
            self.name(high)
        )])
    }

    /// Of two files, one of which imports the other, the other imports the first, by another name from the crate's root.
    fn circle(&self) -> Result<Vec<String>> {
        let (user, used) = self
            .pairs()
            .filter(|&(user, used)| self.is_plain_import(user, used))
            .find(|&(user, used)| !self.imports.reaches(used, user))
            .context("no two files for a circle")?;
        self.append(user, "pub struct PlantedReturn;")?;
        self.append(self.tree.modules[0].file, &format!("pub use {}::PlantedReturn as PlantedDoor;", self.path(user)))?;
        let back = self.append(used, "use crate::PlantedDoor as PlantedRoom;")?;
        let (user_name, used_name) = (self.name(user), self.name(used));
        let there = self.imports.edges().find(|&(from, to, _)| (from, to) == (user, used)).map_or(0, |(.., line)| line);
        Ok(vec![
            format!(
                "{}:{back}: {used_name} uses {user_name}, which uses it: {user_name} → {used_name}",
                self.shown(used)
            ),
            format!(
                "{}:{there}: {user_name} uses {used_name}, which uses it: {used_name} → {user_name}",
                self.shown(user)
            ),
        ])
    }

    /// A file has methods for the type of a file that it imports.
    fn stray_impl(&self) -> Result<Vec<String>> {
        let found = self.pairs().find(|&(user, used)| self.is_plain_import(user, used));
        let (user, used) = found.context("no two files for an impl")?;
        self.append(used, "pub struct PlantedType;")?;
        let line = self.append(user, &format!("impl {}::PlantedType {{}}", self.path(used)))?;
        let block = format!("impl {}::PlantedType", self.path(used));
        Ok(vec![format!(
            "{}:{line}: {} has `{block}`, which belongs to {}",
            self.shown(user),
            self.name(user),
            self.name(used)
        )])
    }

    /// Whether one file imports another of the same folder.
    fn is_plain_import(&self, user: usize, used: usize) -> bool {
        let place = |file| rank(self.tree, self.rules, file);
        place(user) == place(used) && self.imports.has(user, used)
    }

    /// All pairs of files that have items, the crate's root left out.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let root = self.tree.modules[0].file;
        let files = move || {
            (0..self.tree.files.len()).filter(move |&file| file != root && !self.tree.files[file].is_transparent)
        };
        files().flat_map(move |one| files().map(move |other| (one, other)))
    }

    /// Adds a line to a file; returns its number.
    fn append(&self, file: usize, text: &str) -> Result<usize> {
        let path = self.folder.join(self.shown(file));
        let old = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let old = old.trim_end();
        std::fs::write(&path, format!("{old}\n{text}\n"))?;
        Ok(old.lines().count() + 1)
    }

    /// The path of a file's module.
    fn path(&self, file: usize) -> &str {
        self.tree.modules.iter().find(|module| module.file == file).map_or("crate", |module| &module.path)
    }

    fn name(&self, file: usize) -> &str {
        &self.tree.files[file].name
    }

    fn shown(&self, file: usize) -> &str {
        &self.tree.files[file].shown
    }
}
