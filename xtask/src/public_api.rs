//! Public API: docs/public-api.txt, every item of hz3-core that another crate can name.
//!
//! The items are read off the sources. A difference from the file is an error, so that no name, signature or field that
//! others may lean on changes unseen. What a change means for the version is in docs/rust.md.

mod listing;
mod signature;

use anyhow::{Context, Result, bail};
use hz3::Workspace;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

/// Where the file lies, from the workspace's root.
const FILE: &str = "docs/public-api.txt";

/// The sources that are read.
const SOURCE: &str = "hz3-core/src";

const HEADER: &str = "\
# What another crate can name in hz3-core: modules, items, fields, variants, methods and traits, one to a line, as the
# sources say it for a build without loom. A type that a macro of ours writes stands here by its name only.
# `cargo xtask public-api` compares this file, `cargo xtask public-api --update` rewrites it.
";

/// Arguments of `public-api`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Rewrite docs/public-api.txt instead of comparing
    #[arg(long)]
    update: bool,
}

/// `cargo xtask public-api`: compares hz3-core's public items with the file.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let root = Workspace::locate()?.root;
    if arguments.update {
        let file = root.join(FILE);
        std::fs::write(&file, text_of(&root)?).with_context(|| format!("can't write {}", file.display()))?;
        println!("written: {}", file.display());
    } else {
        check(&root)?;
        println!("as in {FILE}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Compares the sources under `root` with the file there; the error shows the lines that differ.
pub fn check(root: &Path) -> Result<()> {
    let file = root.join(FILE);
    let expected = std::fs::read_to_string(&file)
        .with_context(|| format!("{}: write it with `cargo xtask public-api --update`", file.display()))?;
    let found = text_of(root)?;
    if expected != found {
        bail!(
            "hz3-core's public items differ from {FILE} (if that is right: `cargo xtask public-api --update`, and \
             see docs/rust.md for the version)\n{}",
            difference(&expected, &found)
        );
    }
    Ok(())
}

fn text_of(root: &Path) -> Result<String> {
    let mut text = HEADER.to_owned();
    for line in listing::listing(&root.join(SOURCE))? {
        let _ = writeln!(text, "{line}");
    }
    Ok(text)
}

/// The lines that only one of the texts has.
fn difference(expected: &str, found: &str) -> String {
    let lines = |text| -> BTreeSet<&str> { str::lines(text).collect() };
    let (expected, found) = (lines(expected), lines(found));
    let gone = expected.difference(&found).map(|line| format!("- {line}"));
    let fresh = found.difference(&expected).map(|line| format!("+ {line}"));
    let shown: Vec<String> = gone.chain(fresh).collect();
    if shown.is_empty() { "the lines are the same, their order is not".to_owned() } else { shown.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy of the real crate's sources, with its listing as the blessed file.
    fn blessed_copy() -> tempfile::TempDir {
        fn copy(from: &Path, to: &Path) {
            std::fs::create_dir_all(to).unwrap();
            for entry in std::fs::read_dir(from).unwrap() {
                let entry = entry.unwrap();
                let to = to.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    copy(&entry.path(), &to);
                } else {
                    std::fs::copy(entry.path(), to).unwrap();
                }
            }
        }
        let root = tempfile::tempdir().unwrap();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(SOURCE), &root.path().join(SOURCE));
        std::fs::create_dir(root.path().join("docs")).unwrap();
        std::fs::write(root.path().join(FILE), text_of(root.path()).unwrap()).unwrap();
        root
    }

    fn replace(root: &Path, file: &str, from: &str, to: &str) {
        let path = root.join(SOURCE).join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }

    #[test]
    fn a_renamed_function_of_the_crate_is_a_difference_that_names_it_and_says_how_to_bless_it() {
        let root = blessed_copy();
        check(root.path()).unwrap();
        replace(root.path(), "global.rs", "pub fn trim(", "pub fn trimmed(");
        let error = check(root.path()).unwrap_err().to_string();
        assert!(error.contains("--update"), "{error}");
        let shown: Vec<&str> = error.lines().filter(|line| line.starts_with("- ") || line.starts_with("+ ")).collect();
        assert_eq!(shown.len(), 2, "{error}");
        assert!(shown[0].starts_with("- impl") && shown[0].contains("global::Hz3<L>: pub fn trim("), "{error}");
        assert!(shown[1].contains("pub fn trimmed("), "{error}");
    }

    #[test]
    fn a_lane_that_is_gone_and_a_changed_reexport_are_differences() {
        let root = blessed_copy();
        replace(root.path(), "lib.rs", "pub use global::Hz3;", "pub use global::Hz3 as Global;");
        let error = check(root.path()).unwrap_err().to_string();
        assert!(error.contains("- pub use Hz3") && error.contains("+ pub use Global"), "{error}");
        let root = blessed_copy();
        replace(root.path(), "lane.rs", "\n    Fast, label:", "\n    Faster, label:");
        let error = check(root.path()).unwrap_err().to_string();
        assert!(error.contains("- lane! lane::Fast\n") && error.contains("+ lane! lane::Faster"), "{error}");
    }

    #[test]
    fn what_nobody_outside_can_see_makes_no_difference() {
        let root = blessed_copy();
        replace(root.path(), "global.rs", "//!", "//! x\n//!");
        replace(root.path(), "stats/uses.rs", "mod tests {", "mod tests {\n    pub fn helper() {}\n");
        check(root.path()).unwrap();
    }
}
