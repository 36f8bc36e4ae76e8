//! Public API: docs/public-api.txt, every item of hz3-core that another crate can name.
//!
//! rustdoc describes the crate as JSON, and the crate `public-api` makes lines of it. A difference from the file is an
//! error, so that no name, signature or field that others may lean on changes unseen. What a change means for the
//! version is in docs/rust.md.

use anyhow::{Context, Result, bail, ensure};
use hz3::workspace::BUILD_TIME_LIMIT;
use hz3::{Workspace, process};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the file lies, from the workspace's root.
const FILE: &str = "docs/public-api.txt";

/// The version of rustdoc's JSON that the `public-api` of xtask/Cargo.toml reads. Rust 1.95 writes it.
const FORMAT: u32 = 57;

const HEADER: &str = "\
# What another crate can name in hz3-core, one item to a line, as the crate `public-api` lists it; what the compiler
# implements by itself (Send, Sync, Unpin and so on) is left out.
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
    let workspace = Workspace::locate()?;
    if arguments.update {
        let file = workspace.root.join(FILE);
        std::fs::write(&file, listing(&workspace)?).with_context(|| format!("can't write {}", file.display()))?;
        println!("written: {}", file.display());
    } else {
        check(&workspace)?;
        println!("as in {FILE}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Compares the crate with the file; the error shows the lines that differ.
pub fn check(workspace: &Workspace) -> Result<()> {
    let file = workspace.root.join(FILE);
    let expected = std::fs::read_to_string(&file)
        .with_context(|| format!("{}: write it with `cargo xtask public-api --update`", file.display()))?;
    compare(&expected, &listing(workspace)?)
}

fn listing(workspace: &Workspace) -> Result<String> {
    let description = describe(workspace)?;
    check_format(&description)?;
    let items = public_api::Builder::from_rustdoc_json(&description)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .build()
        .with_context(|| description.display().to_string())?;
    Ok(format!("{HEADER}{items}"))
}

/// Has rustdoc write the description. A stable compiler needs the word RUSTC_BOOTSTRAP for that, and no nightly one;
/// a folder of its own keeps the word from all other builds.
fn describe(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.target.join("public-api");
    let mut command = workspace.cargo();
    command.args(["rustdoc", "--package", "hz3-core", "--lib", "--target-dir"]).arg(&target);
    command.args(["--", "-Z", "unstable-options", "--output-format", "json"]);
    command.env("RUSTC_BOOTSTRAP", "1").env_remove("CARGO_BUILD_TARGET").env_remove("RUSTDOCFLAGS");
    process::expect_success(&mut command, BUILD_TIME_LIMIT)?;
    Ok(target.join("doc/hz3_core.json"))
}

fn check_format(description: &Path) -> Result<()> {
    let text = std::fs::read_to_string(description).with_context(|| description.display().to_string())?;
    let json: serde_json::Value = serde_json::from_str(&text).context("rustdoc's JSON")?;
    let version = &json["format_version"];
    ensure!(
        *version == FORMAT,
        "rustdoc writes version {version} of its JSON, xtask reads {FORMAT}: take the release of public-api \
         that reads it (xtask/Cargo.toml), or another compiler"
    );
    Ok(())
}

fn compare(expected: &str, found: &str) -> Result<()> {
    if expected != found {
        bail!(
            "hz3-core's public items differ from {FILE} (if that is right: `cargo xtask public-api --update`, and \
             see docs/rust.md for the version)\n{}",
            difference(expected, found)
        );
    }
    Ok(())
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

    #[test]
    fn a_renamed_function_is_a_difference_that_names_both_and_says_how_to_bless_it() {
        let expected = "pub mod a\npub fn a::trim()\n";
        compare(expected, expected).unwrap();
        let error = compare(expected, "pub mod a\npub fn a::trimmed()\n").unwrap_err().to_string();
        assert!(error.contains("--update"), "{error}");
        assert!(error.ends_with("\n- pub fn a::trim()\n+ pub fn a::trimmed()"), "{error}");
    }

    #[test]
    fn another_format_than_the_one_that_is_read_is_an_error_that_names_both() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{{\"root\": 0, \"format_version\": {FORMAT}}}")).unwrap();
        check_format(file.path()).unwrap();
        std::fs::write(file.path(), "{\"root\": 0, \"format_version\": 1000}").unwrap();
        let error = check_format(file.path()).unwrap_err().to_string();
        assert!(error.contains("1000") && error.contains(&FORMAT.to_string()), "{error}");
    }
}
