//! Targets: what hz3-core is not made for is refused in one sentence, by the attribute and the macro of `platform/kernel.rs`.
//!
//! They are compiled alone, without `core`, which compilers have for few targets.

use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::process;
use std::process::Command;
use std::time::Duration;

const SOURCE: &str = "hz3-core/src/platform/kernel.rs";
const TAKEN: [&str; 6] = [
    "x86_64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-gnu",
    "aarch64-unknown-linux-musl",
    "riscv64gc-unknown-linux-gnu",
    "riscv64gc-unknown-linux-musl",
];
const REFUSED: [&str; 7] = [
    "riscv32gc-unknown-linux-gnu",
    "i686-unknown-linux-gnu",
    "x86_64-unknown-linux-gnux32",
    "aarch64_be-unknown-linux-gnu",
    "x86_64-unknown-freebsd",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
];
/// What the two need of `core`.
const HEAD: &str = "#![feature(no_core, rustc_attrs)]\n#![no_core]\n#![allow(internal_features)]\n\
                    #[rustc_builtin_macro]\nmacro_rules! compile_error { ($text:expr) => {{}}; }\n";
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// One step.
pub fn step() -> Step {
    Step::new("targets", |session| Ok::<(), Stop>(check(session)?))
}

fn check(session: &Session) -> Result<()> {
    let text = std::fs::read_to_string(session.workspace.root.join(SOURCE)).context(SOURCE)?;
    let start = text.find("#[cfg(not(all(").context("no attribute")?;
    let end = start + text[start..].find("\");\n").context("no macro")? + 4;
    let (_, sentence) = text[start..end].split_once("compile_error!(\"").context("no sentence")?;
    let sentence = sentence.trim_end().trim_end_matches("\");");
    let folder = session.empty_folder("targets")?;
    let source = folder.join("target.rs");
    std::fs::write(&source, format!("{HEAD}{}", &text[start..end]))?;
    for target in TAKEN.into_iter().chain(REFUSED) {
        let mut command = Command::new("rustc");
        command.args(["--edition", "2024", "--crate-type", "rlib", "--emit", "metadata", "--target", target, "-o"]);
        command.arg(folder.join("result")).arg(&source).env("RUSTC_BOOTSTRAP", "1").env_remove("LD_PRELOAD");
        let compiled = process::capture(&mut command, TIME_LIMIT)?;
        let errors: Vec<String> =
            compiled.text().lines().filter_map(|line| Some(line.strip_prefix("error: ")?.to_owned())).collect();
        let is_refused = REFUSED.contains(&target);
        ensure!(compiled.status.success() != is_refused, "{target}: {}", compiled.text());
        ensure!(!is_refused || errors.first().is_some_and(|error| error == sentence), "{target}: {errors:?}");
    }
    Ok(())
}
