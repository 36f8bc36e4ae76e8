//! Debian's Rust: a second compiler, unpacked from Debian's packages beside the build results, and not installed.
//!
//! Checked with it: that hz3-core builds with the oldest Rust that its manifest names. It also builds for other processors
//! and C libraries where the first compiler has no standard library for them.

use super::session::Session;
use super::step::{Step, Stop, in_ci};
use anyhow::{Context, Result, ensure};
use hz3::process;
use hz3::workspace::BUILD_TIME_LIMIT;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const DOWNLOAD_TIME_LIMIT: Duration = Duration::from_secs(300);
/// Held while something is unpacked: steps run two at a time.
static UNPACKING: Mutex<()> = Mutex::new(());

/// As `rust-version` in hz3-core's manifest.
const OLDEST: &str = "1.85";

/// One step: the crate, with and without its inside, is checked by the oldest compiler.
pub fn step() -> Step {
    Step::new("oldest-rust", |session| {
        let rustc = compiler(session, Some(OLDEST), None)?;
        for features in [&["--features", "internals"][..], &[]] {
            let mut command = session.workspace.cargo();
            command.args(["check", "--package", "hz3-core", "--offline", "--target-dir"]);
            command.arg(session.workspace.target.join("oldest-rust")).args(features).env("RUSTC", &rustc);
            process::expect_success(&mut command, BUILD_TIME_LIMIT)?;
        }
        Ok(())
    })
}

/// The compiler of that version, or the newest, with the standard library of one more processor, as Debian names it: a
/// script that starts the unpacked one. In CI it is downloaded.
pub fn compiler(session: &Session, version: Option<&str>, processor: Option<&str>) -> Result<PathBuf, Stop> {
    let name: Vec<&str> = [version.unwrap_or("newest")].into_iter().chain(processor).collect();
    let folder = session.workspace.target.join("debian-rust").join(name.join("-"));
    let script = folder.join("rustc");
    let unpacking = UNPACKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !script.exists() {
        if !in_ci() {
            let way = "CI=true has Debian's package rustc-web unpacked";
            return Err(Stop::Skipped(format!("Rust {} is missing: {way}", name.join(" for "))));
        }
        unpack(version, processor, &folder)?;
    }
    drop(unpacking);
    let stated = process::expect_success(Command::new(&script).arg("--version"), DOWNLOAD_TIME_LIMIT)?.stdout_text();
    if !stated.starts_with(&format!("rustc {}", version.map(|version| format!("{version}.")).unwrap_or_default())) {
        return Err(Stop::failed(format!("not Rust {}: {stated}", name.join(" "))));
    }
    Ok(script)
}

/// Whether the compiler that cargo uses has the target's standard library.
pub fn has_standard_library(target: &str) -> bool {
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir", "--target", target]).env_remove("LD_PRELOAD");
    process::capture(&mut command, DOWNLOAD_TIME_LIMIT)
        .is_ok_and(|found| Path::new(found.stdout_text().trim()).is_dir())
}

/// The newest compiler, with the sources of the standard library, to build that for a target which Debian has none for.
pub fn compiler_with_sources(session: &Session) -> Result<PathBuf, Stop> {
    let script = compiler(session, None, Some("arm64"))?;
    let folder = script.parent().unwrap_or(&script);
    let sources = folder.join("usr/lib/rustlib/src/rust");
    let _unpacking = UNPACKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !sources.join("library/core").is_dir() {
        if !in_ci() {
            return Err(Stop::Skipped(
                "Rust's sources are missing: CI=true has Debian's rust-web-src unpacked".to_owned(),
            ));
        }
        let stated =
            process::expect_success(Command::new(&script).arg("--version"), DOWNLOAD_TIME_LIMIT)?.stdout_text();
        let version = stated.split_whitespace().nth(1).unwrap_or_default();
        unpack_sources(version, folder)?;
    }
    Ok(script)
}

/// Unpacks the `library` folder of the sources of that version; the compiler's own are ten times as much.
fn unpack_sources(version: &str, folder: &Path) -> Result<()> {
    let run = |command: &mut Command| process::expect_success(command.current_dir(folder), DOWNLOAD_TIME_LIMIT);
    let offered = run(Command::new("apt-cache").args(["madison", "rust-web-src"]))?.stdout_text();
    let full = newest(&offered, version.rsplit_once('.').map(|(short, _)| short)).context(offered)?;
    run(Command::new("apt-get").args(["download", &format!("rust-web-src={full}")]))?;
    let unpack = "dpkg-deb --fsys-tarfile rust-web-src_*.deb | \
                  tar -x --wildcards './usr/lib/rustlib/src/*' './usr/src/*/library/*' && rm rust-web-src_*.deb";
    run(Command::new("sh").args(["-c", unpack])).map(drop)
}

fn unpack(version: Option<&str>, processor: Option<&str>, folder: &Path) -> Result<()> {
    let (full, packages) = packages(version)?;
    let scratch = folder.with_extension("part");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch)?;
    }
    std::fs::create_dir_all(&scratch)?;
    let run = |command: &mut Command| process::expect_success(command.current_dir(&scratch), DOWNLOAD_TIME_LIMIT);
    run(Command::new("apt-get").arg("download").args(&packages))?;
    if let Some(processor) = processor {
        // With lists of its own: the system stays as it is.
        let own_lists = scratch.join("lists");
        std::fs::create_dir_all(own_lists.join("lists/partial"))?;
        let apt = || {
            let mut command = Command::new("apt-get");
            for (option, value) in [
                ("Dir::State", own_lists.to_string_lossy().as_ref()),
                ("Dir::State::status", "/dev/null"),
                ("Dir::Cache", own_lists.to_string_lossy().as_ref()),
                ("APT::Architecture", processor),
                ("APT::Architectures", processor),
            ] {
                command.arg("-o").arg(format!("{option}={value}"));
            }
            command
        };
        // A source without packages for that processor is no obstacle.
        let _ = run(apt().arg("update"));
        run(apt().args(["download", &format!("libstd-rust-web-dev={full}")]))?;
        std::fs::remove_dir_all(own_lists)?;
    }
    for entry in std::fs::read_dir(&scratch)? {
        let archive = entry?.path();
        if archive.extension().is_some_and(|end| end == "deb") {
            run(Command::new("dpkg-deb").arg("--extract").args([&archive, &scratch]))?;
            std::fs::remove_file(archive)?;
        }
    }
    let script = "#!/bin/sh\nroot=${0%/*}/usr\nexport LD_LIBRARY_PATH=\"$root/lib/x86_64-linux-gnu\"\n\
                  exec \"$root/bin/rustc\" \"$@\"\n";
    std::fs::write(scratch.join("rustc"), script)?;
    std::fs::set_permissions(scratch.join("rustc"), std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&scratch, folder).with_context(|| format!("{}", folder.display()))
}

/// The full version, and the packages of that version of Rust: the compiler, the standard library, and LLVM's.
fn packages(version: Option<&str>) -> Result<(String, Vec<String>)> {
    let ask = |words: &[&str]| {
        let text = process::expect_success(Command::new("apt-cache").args(words), DOWNLOAD_TIME_LIMIT)?.stdout_text();
        anyhow::Ok(text)
    };
    let offered = ask(&["madison", "rustc-web"])?;
    let full = newest(&offered, version).with_context(|| format!("no rustc-web {version:?} in:\n{offered}"))?;
    let short: Vec<&str> = full.split('.').take(2).collect();
    let shared = format!("libstd-rust-web-{}={full}", short.join("."));
    let needs = ask(&["depends", &shared])?;
    let llvm =
        needs.lines().find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("libllvm")));
    let llvm = llvm.with_context(|| format!("no LLVM in:\n{needs}"))?.to_owned();
    ensure!(cfg!(target_arch = "x86_64"), "the script names x86-64's folder");
    let packages = vec![format!("rustc-web={full}"), format!("libstd-rust-web-dev={full}"), shared, llvm];
    Ok((full, packages))
}

/// The first package of that version of Rust, or of any, in what `apt-cache madison` says, which has the newest first.
fn newest(offered: &str, version: Option<&str>) -> Option<String> {
    let versions = offered.lines().filter_map(|line| line.split('|').nth(1));
    let mut fitting = versions
        .map(str::trim)
        .filter(|full| full.starts_with(&version.map(|version| format!("{version}.")).unwrap_or_default()));
    fitting.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_rust_is_the_manifest_s() {
        let root = hz3::Workspace::locate().unwrap().root;
        let manifest = std::fs::read_to_string(root.join("hz3-core/Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("\nrust-version = \"{OLDEST}\"\n")), "{OLDEST}");
    }

    #[test]
    fn a_version_is_told_from_its_neighbours() {
        let offered =
            " rustc-web | 1.96.0+dfsg1-1 | x\n rustc-web | 1.85.0+dfsg3-2 | x\n rustc-web | 1.85.0+dfsg3-1 | y\n";
        assert_eq!(newest(offered, Some("1.85")).as_deref(), Some("1.85.0+dfsg3-2"));
        assert_eq!(newest(offered, None).as_deref(), Some("1.96.0+dfsg1-1"));
        assert_eq!(newest(offered, Some("1.9")), None);
    }
}
