//! Debian's Rust: a second compiler, unpacked from Debian's packages beside the build results, and not installed.
//!
//! Checked with it: that hz3-core builds with the oldest Rust that its manifest names.

use super::session::Session;
use super::step::{Step, Stop, in_ci};
use anyhow::{Context, Result, ensure};
use hz3::process;
use hz3::workspace::BUILD_TIME_LIMIT;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const DOWNLOAD_TIME_LIMIT: Duration = Duration::from_secs(300);

/// As `rust-version` in hz3-core's manifest.
const OLDEST: &str = "1.85";

/// One step: the crate, with and without its inside, is checked by the oldest compiler.
pub fn step() -> Step {
    Step::new("oldest-rust", |session| {
        let rustc = compiler(session, OLDEST)?;
        for features in [&["--features", "internals"][..], &[]] {
            let mut command = session.workspace.cargo();
            command.args(["check", "--package", "hz3-core", "--offline", "--target-dir"]);
            command.arg(session.workspace.target.join("oldest-rust")).args(features).env("RUSTC", &rustc);
            process::expect_success(&mut command, BUILD_TIME_LIMIT)?;
        }
        Ok(())
    })
}

/// The compiler of that version: a script that starts the unpacked one. In CI it is downloaded.
pub fn compiler(session: &Session, version: &str) -> Result<PathBuf, Stop> {
    let folder = session.workspace.target.join("debian-rust").join(version);
    let script = folder.join("rustc");
    if !script.exists() {
        if !in_ci() {
            let way = "CI=true has Debian's package rustc-web unpacked";
            return Err(Stop::Skipped(format!("Rust {version} is missing: {way}")));
        }
        unpack(version, &folder)?;
    }
    let stated = process::expect_success(Command::new(&script).arg("--version"), DOWNLOAD_TIME_LIMIT)?.stdout_text();
    if !stated.starts_with(&format!("rustc {version}.")) {
        return Err(Stop::failed(format!("not Rust {version}: {stated}")));
    }
    Ok(script)
}

fn unpack(version: &str, folder: &Path) -> Result<()> {
    let packages = packages(version)?;
    let scratch = folder.with_extension("part");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch)?;
    }
    std::fs::create_dir_all(&scratch)?;
    let run = |command: &mut Command| process::expect_success(command.current_dir(&scratch), DOWNLOAD_TIME_LIMIT);
    run(Command::new("apt-get").arg("download").args(&packages))?;
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

/// The packages of that version of Rust, each with its own: the compiler, the standard library, and LLVM's.
fn packages(version: &str) -> Result<Vec<String>> {
    let ask = |words: &[&str]| {
        let text = process::expect_success(Command::new("apt-cache").args(words), DOWNLOAD_TIME_LIMIT)?.stdout_text();
        anyhow::Ok(text)
    };
    let offered = ask(&["madison", "rustc-web"])?;
    let full = newest(&offered, version).with_context(|| format!("no rustc-web {version} in:\n{offered}"))?;
    let shared = format!("libstd-rust-web-{version}={full}");
    let needs = ask(&["depends", &shared])?;
    let llvm =
        needs.lines().find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("libllvm")));
    let llvm = llvm.with_context(|| format!("no LLVM in:\n{needs}"))?.to_owned();
    ensure!(cfg!(target_arch = "x86_64"), "the script names x86-64's folder");
    Ok(vec![format!("rustc-web={full}"), format!("libstd-rust-web-dev={full}"), shared, llvm])
}

/// The first package of that version of Rust in what `apt-cache madison` says, which has the newest first.
fn newest(offered: &str, version: &str) -> Option<String> {
    let versions = offered.lines().filter_map(|line| line.split('|').nth(1));
    let mut fitting = versions.map(str::trim).filter(|full| full.starts_with(&format!("{version}.")));
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
        assert_eq!(newest(offered, "1.85").as_deref(), Some("1.85.0+dfsg3-2"));
        assert_eq!(newest(offered, "1.9"), None);
    }
}
