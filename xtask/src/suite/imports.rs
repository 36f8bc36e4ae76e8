//! Imports: what a library takes from others at run time, beside the table of docs/calls.md.
//!
//! ```text
//!   library      every name that the loader looks for elsewhere has a row, and every row such a name
//!   sources      a row's files mention its names, and no other file calls them
//! ```
//!
//! What the compiler and the start files bring in is called in no source. Tests are left out.

use super::step::{Step, Stop};
use crate::files::files_with;
use crate::golden;
use crate::library_shape::Library;
use anyhow::{Context, Result, ensure};
use hz3::Lane;
use regex_lite::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PAGE: &str = "docs/calls.md";
/// Where the called files lie; the first that has a name is meant.
const SOURCES: [&str; 2] = ["hz3-core/src", "hz3-preload/src"];
/// Take the place of Linux in tests.
const FOR_TESTS: [&str; 2] = ["platform/fake.rs", "platform/interpreted.rs"];
/// What a row says in place of files.
const NO_SOURCES: [&str; 2] = ["the compiler", "the start files"];

/// One step per lane.
pub fn steps() -> Vec<Step> {
    let step = |lane| {
        Step::new(format!("imports/{lane}"), move |session| {
            if !golden::applies_here() {
                return Err(Stop::Skipped(format!("{PAGE} lists what x86-64 libraries import")));
            }
            let library = Library::read(&session.library(lane)?)?;
            Ok(check(&session.workspace.root, library.imports())?)
        })
    };
    Lane::ALL.into_iter().map(step).collect()
}

/// The files of each name.
type Rows = BTreeMap<String, BTreeSet<String>>;

fn check(root: &Path, imports: &BTreeSet<String>) -> Result<()> {
    let text = std::fs::read_to_string(root.join(PAGE)).context(PAGE)?;
    let (rows, mut faults) = rows(&text)?;
    faults.extend(imports.iter().filter(|name| !rows.contains_key(*name)).map(|name| format!("{PAGE} lacks {name}")));
    faults.extend(
        rows.keys().filter(|name| !imports.contains(*name)).map(|name| format!("{PAGE}: {name} is not imported")),
    );
    faults.extend(misplaced(&sources(root)?, &rows));
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The table, and what is wrong with it by itself.
fn rows(text: &str) -> Result<(Rows, Vec<String>)> {
    let (mut rows, mut faults) = (Rows::new(), Vec::new());
    let code = Regex::new("`([^`]+)`")?;
    let quoted = |cell: &str| code.captures_iter(cell).map(|found| found[1].to_owned()).collect::<Vec<_>>();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [names, places, why] = cells[..] else {
            faults.push(format!("{PAGE}: not three cells: {line}"));
            continue;
        };
        let files: BTreeSet<String> = quoted(places).into_iter().collect();
        if files.is_empty() != NO_SOURCES.contains(&places) || why.is_empty() {
            faults.push(format!("{PAGE}: no place or no reason: {line}"));
        }
        for name in quoted(names) {
            if rows.insert(name.clone(), files.clone()).is_some() {
                faults.push(format!("{PAGE}: {name} has two rows"));
            }
        }
    }
    Ok((rows, faults))
}

/// The sources by name, without their tests.
fn sources(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut sources = BTreeMap::new();
    for folder in SOURCES {
        for file in files_with("rs", &root.join(folder))? {
            let text = std::fs::read_to_string(root.join(folder).join(&file))?;
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
            let name = file.display().to_string();
            if !FOR_TESTS.contains(&name.as_str()) {
                sources.entry(name).or_insert(text);
            }
        }
    }
    Ok(sources)
}

fn misplaced(sources: &BTreeMap<String, String>, rows: &Rows) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, files) in rows {
        let call = format!("libc::{name}(");
        for file in files {
            match sources.get(file) {
                None => faults.push(format!("{PAGE}: there is no {file}")),
                Some(text) if !mentions(text, name) => faults.push(format!("{PAGE}: {file} does not mention {name}")),
                Some(_) => {}
            }
        }
        let others = sources.iter().filter(|(file, text)| !files.contains(*file) && text.contains(&call));
        faults.extend(others.map(|(file, _)| format!("{PAGE}: {file} calls {name} too")));
    }
    faults
}

/// Whether `name` stands in `text` as a whole word.
fn mentions(text: &str, name: &str) -> bool {
    let of_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(of_word) && !text[at + name.len()..].starts_with(of_word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::Workspace;

    /// The faults of the real table with `old` replaced by `new`, for a library that imports what the table says, and
    /// `further`.
    fn faults(old: &str, new: &str, further: &[&str]) -> String {
        let from = Workspace::locate().unwrap().root;
        let text = std::fs::read_to_string(from.join(PAGE)).unwrap();
        assert!(text.contains(old), "no {old:?}");
        let mut imports: BTreeSet<String> = rows(&text).unwrap().0.into_keys().collect();
        imports.extend(further.iter().map(|&name| name.to_owned()));
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("docs")).unwrap();
        std::fs::write(root.path().join(PAGE), text.replacen(old, new, 1)).unwrap();
        for folder in SOURCES {
            std::fs::create_dir_all(root.path().join(folder).parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(from.join(folder), root.path().join(folder)).unwrap();
        }
        check(root.path(), &imports).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn the_table_agrees_with_the_sources() {
        assert_eq!(faults("", "", &[]), "");
    }

    #[test]
    fn what_the_table_lacks_and_what_is_gone_are_found() {
        for (old, new, further, fault) in [
            ("", "", &["sched_yield"][..], "docs/calls.md lacks sched_yield"),
            ("| `abort` |", "| `exit` |", &[], "lacks abort\ndocs/calls.md: exit is not imported"),
            ("| `fwrite` | `report.rs` |", "| `fwrite` | `c.rs` |", &[], "c.rs does not mention fwrite"),
            ("| `fwrite` | `report.rs` |", "| `fwrite` | `c.rs` |", &[], "report.rs calls fwrite too"),
            ("| `fwrite` | `report.rs` |", "| `fwrite` | `stream.rs` |", &[], "there is no stream.rs"),
            ("| `fwrite` | `report.rs` |", "| `fwrite` | somewhere |", &[], "no place or no reason"),
            ("| `fwrite` | `report.rs` |", "| `fwrite`, `mmap` | `report.rs` |", &[], "mmap has two rows"),
        ] {
            let found = faults(old, new, further);
            assert!(found.contains(fault), "{new}: {found}");
        }
    }
}
