//! Exports: what a library shows to others, beside the table of docs/interface.md, both ways. That each function has an
//! address of its own is [`crate::library_shape`]'s.

use super::step::Step;
use crate::library_shape::Library;
use anyhow::{Context, Result, ensure};
use hz3::Lane;
use regex_lite::Regex;
use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = "docs/interface.md";

/// One step per lane.
pub fn steps() -> Vec<Step> {
    let step = |lane| {
        Step::new(format!("exports/{lane}"), move |session| {
            let library = Library::read(&session.library(lane)?)?;
            Ok(check(&session.workspace.root, library.exports())?)
        })
    };
    Lane::ALL.into_iter().map(step).collect()
}

fn check(root: &Path, exports: &BTreeSet<String>) -> Result<()> {
    let text = std::fs::read_to_string(root.join(PAGE)).context(PAGE)?;
    let mut faults = Vec::new();
    let mut rows = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [names, what, tried] = cells[..] else {
            faults.push(format!("{PAGE}: not three cells: {line}"));
            continue;
        };
        if what.is_empty() || tried.is_empty() {
            faults.push(format!("{PAGE}: an empty cell: {line}"));
        }
        for name in Regex::new("`([^`]+)`")?.captures_iter(names) {
            if !rows.insert(name[1].to_owned()) {
                faults.push(format!("{PAGE}: {} has two rows", &name[1]));
            }
        }
    }
    faults.extend(exports.difference(&rows).map(|name| format!("{PAGE} lacks {name}")));
    faults.extend(rows.difference(exports).map(|name| format!("{PAGE}: {name} is not exported")));
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(table: &str, exports: &[&str]) -> String {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("docs")).unwrap();
        std::fs::write(root.path().join(PAGE), table).unwrap();
        let exports = exports.iter().map(|&name| name.to_owned()).collect();
        check(root.path(), &exports).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn a_missing_a_further_and_a_double_row_are_found() {
        const TABLE: &str = "| `malloc` | a block | all |\n| `free`, `cfree` | back | all |\n";
        assert_eq!(faults(TABLE, &["malloc", "free", "cfree"]), "");
        assert!(faults(TABLE, &["malloc", "free", "cfree", "calloc"]).contains("lacks calloc"));
        assert!(faults(TABLE, &["malloc", "free"]).contains("cfree is not exported"));
        assert!(faults(&format!("{TABLE}| `free` | again | all |"), &["malloc", "free", "cfree"]).contains("two rows"));
        assert!(faults("| `free` | | all |", &["free"]).contains("an empty cell"));
    }
}
