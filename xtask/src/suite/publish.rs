//! Publish: the crate hz3, and hz3-core, which it re-exports, as crates.io would take them: what the packages hold and say
//! of themselves, their documentation, and programs that depend on the packed crates, as a registry's user has them.

use super::miri;
use super::session::Session;
use super::step::{Step, Stop};
use crate::files::files_in;
use anyhow::{Context, Result, ensure};
use hz3::process;
use hz3::workspace::BUILD_TIME_LIMIT;
use std::path::{Path, PathBuf};

/// The crates, and what each must have besides [`NEEDED`].
const CRATES: [(&str, &[&str]); 2] =
    [("hz3", &["CHANGELOG.md"]), ("hz3-core", &["build.rs", "examples/no_std.rs", "examples/threads.rs"])];

/// What every package must have.
const NEEDED: [&str; 4] = ["Cargo.toml", "LICENSE", "README.md", "src/lib.rs"];

/// The manifest's fields without which the registry refuses the package, or nobody finds it.
const FIELDS: [&str; 9] =
    ["name", "description", "documentation", "license", "readme", "keywords", "categories", "rust-version", "edition"];

/// A program on the crate: its allocator serves threads that free each other's blocks.
const PROGRAM: &str = r#"
use hz3::Hz3;

#[global_allocator]
static GLOBAL: Hz3 = Hz3::new();

fn main() {
    GLOBAL.start_background_thread();
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || (0..100_usize).for_each(|one| sender.send(vec![one; 50]).unwrap()));
    let sum: usize = receiver.into_iter().map(|all| all.iter().sum::<usize>()).sum();
    thread.join().unwrap();
    assert_eq!(sum, 50 * 99 * 100 / 2);
    assert_eq!(GLOBAL.stats().live_bytes() > 0, !cfg!(miri));
}
"#;

/// The steps.
pub fn steps() -> Vec<Step> {
    vec![
        Step::new("publish/package", |session| Ok(package(session)?)),
        Step::new("publish/program", |session| Ok(program(session)?)),
        Step::new("publish/miri", |session| {
            miri::require()?;
            let folder = lay_program(session, "miri", "")?;
            let mut command = miri::rustup(&["run", "nightly", "cargo", "miri", "run", "--offline", "--target-dir"]);
            command.arg(session.workspace.target.join("publish-miri")).current_dir(folder);
            process::expect_success(command.env("CARGO_TERM_COLOR", "never"), BUILD_TIME_LIMIT)?;
            Ok::<(), Stop>(())
        }),
        Step::new("publish/documentation", |session| Ok(documentation(session)?)),
    ]
}

/// Packs the crates as `cargo publish` does, all but the build: what it would build is built by the other steps.
fn package(session: &Session) -> Result<()> {
    let unpacked = unpack(session, "package")?;
    for (name, needed) in CRATES {
        let folder = unpacked.join(folder_of(name));
        let list: Vec<String> = files_in(&folder)?.iter().map(|file| file.to_string_lossy().into_owned()).collect();
        check_list(&list.join("\n"), needed)?;
        check_manifest(&std::fs::read_to_string(folder.join("Cargo.toml"))?)?;
    }
    let changes = std::fs::read_to_string(unpacked.join(folder_of("hz3")).join("CHANGELOG.md"))?;
    ensure!(changes == std::fs::read_to_string(session.workspace.root.join("CHANGELOG.md"))?, "another CHANGELOG.md");
    Ok(())
}

/// The program is built and runs; with a second version of the crate, cargo says why it is not.
fn program(session: &Session) -> Result<()> {
    let cargo = |folder: &Path| {
        let mut command = session.workspace.cargo();
        command.args(["run", "--quiet", "--offline", "--target-dir"]).arg(session.workspace.target.join("publish"));
        command.current_dir(folder);
        process::capture(&mut command, BUILD_TIME_LIMIT)
    };
    let run = cargo(&lay_program(session, "program", "")?)?;
    ensure!(run.status.success(), "{}", run.text());
    let second = unpack(session, "second")?.join(folder_of("hz3-core"));
    let manifest = second.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest)?;
    std::fs::write(&manifest, text.replacen(env!("CARGO_PKG_VERSION"), "99.0.0", 1))?;
    let line = format!("second = {{ package = \"hz3-core\", path = \"{}\" }}\n", second.display());
    let refused = cargo(&lay_program(session, "twice", &line)?)?.text();
    ensure!(refused.contains("links to the native library `hz3`"), "two versions are not refused by name:\n{refused}");
    Ok(())
}

/// A clean folder with a program that names the crate as its users do, and `more` dependencies. The registry has the
/// unpacked crates.
fn lay_program(session: &Session, name: &str, more: &str) -> Result<PathBuf> {
    let (folder, unpacked) = (session.empty_folder(name)?, unpack(session, "packed")?);
    std::fs::create_dir(folder.join("src"))?;
    std::fs::write(folder.join("src/main.rs"), PROGRAM)?;
    let mut manifest = format!(
        "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\nhz3 = \"0.1\"\n{more}\n\
         [patch.crates-io]\n"
    );
    for (one, _) in CRATES {
        manifest += &format!("{one} = {{ path = \"{}\" }}\n", unpacked.join(folder_of(one)).display());
    }
    std::fs::write(folder.join("Cargo.toml"), manifest)?;
    Ok(folder)
}

/// Packs the crates and unpacks them in an empty folder of that name.
fn unpack(session: &Session, name: &str) -> Result<PathBuf> {
    let folder = session.empty_folder(name)?;
    let mut command = session.workspace.cargo();
    command.args(["package", "--allow-dirty", "--offline", "--no-verify"]);
    command.args(CRATES.iter().flat_map(|(name, _)| ["--package", name]));
    process::expect_success(&mut command, BUILD_TIME_LIMIT)?;
    for (name, _) in CRATES {
        let file = session.workspace.target.join("package").join(format!("{}.crate", folder_of(name)));
        let packed = std::fs::File::open(&file).with_context(|| file.display().to_string())?;
        tar::Archive::new(flate2::read::GzDecoder::new(packed)).unpack(&folder)?;
    }
    Ok(folder)
}

/// The folder in the packed crate, which is also the packed crate's name.
fn folder_of(name: &str) -> String {
    format!("{name}-{}", env!("CARGO_PKG_VERSION"))
}

/// The package has what it needs, and nothing that only the workspace has a use for.
fn check_list(list: &str, more: &[&str]) -> Result<()> {
    for name in NEEDED.iter().chain(more) {
        ensure!(list.lines().any(|line| line == *name), "the package lacks {name}\n{list}");
    }
    let other = list.lines().find(|line| ["fuzz/", "hz3/", "target/"].iter().any(|folder| line.starts_with(folder)));
    ensure!(other.is_none(), "the package has {}", other.unwrap_or_default());
    Ok(())
}

/// The manifest as cargo normalised it: no field is inherited any more, no dependency is a path.
fn check_manifest(manifest: &str) -> Result<()> {
    for field in FIELDS {
        let stated = manifest.lines().find_map(|line| line.strip_prefix(field)?.trim_start().strip_prefix('='));
        let is_empty = stated.is_none_or(|value| ["\"\"", "[]", "false"].contains(&value.trim()));
        ensure!(!is_empty, "the manifest has no {field}\n{manifest}");
    }
    ensure!(manifest.contains("[package.metadata.docs.rs]"), "docs.rs is told nothing\n{manifest}");
    let path = manifest.lines().find(|line| line.starts_with("path = \"..") || line.contains("workspace = true"));
    ensure!(path.is_none(), "the manifest has {}", path.unwrap_or_default());
    Ok(())
}

/// The documentation is built without a warning: no link leads nowhere.
fn documentation(session: &Session) -> Result<()> {
    let mut command = session.workspace.cargo();
    command.args(["doc", "--no-deps"]).args(CRATES.iter().flat_map(|(name, _)| ["--package", name]));
    command.env("RUSTDOCFLAGS", "-D warnings");
    process::expect_success(&mut command, BUILD_TIME_LIMIT)?;
    // Each type has its page there, not a link to the other crate's, and no example names the other crate.
    let page = session.workspace.target.join("doc/hz3/struct.Hz3.html");
    let text = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    ensure!(text.contains("start_background_thread") && !text.contains("use </span>hz3_core"), "{}", page.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_needed_file_or_with_a_stray_one_is_refused() {
        let list = NEEDED.join("\n");
        check_list(&list, &[]).unwrap();
        assert!(check_list(&list, &["CHANGELOG.md"]).is_err());
        assert!(
            check_list(&list.replace("LICENSE", "LICENCE"), &[]).unwrap_err().to_string().contains("lacks LICENSE")
        );
        assert!(check_list(&format!("{list}\nfuzz/Cargo.toml"), &[]).is_err());
    }

    #[test]
    fn an_incomplete_manifest_is_refused() {
        let mut manifest: String = FIELDS.iter().map(|field| format!("{field} = \"x\"\n")).collect();
        manifest.push_str("[package.metadata.docs.rs]\n");
        check_manifest(&manifest).unwrap();
        let without = manifest.replace("license = \"x\"", "license = \"\"");
        assert!(check_manifest(&without).unwrap_err().to_string().contains("no license"));
        assert!(check_manifest(&manifest.replace("keywords", "keyword")).is_err());
        assert!(check_manifest(&format!("{manifest}path = \"../x\"\n")).is_err());
    }
}
