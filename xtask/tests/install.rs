//! `install` and `dist`, and programs run through what they made.

#[path = "../../hz3-preload/hz3/tests/common/mod.rs"]
mod common;

use common::{Tested, text};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const XTASK: Tested = Tested { program: env!("CARGO_BIN_EXE_xtask"), prefix: "error", is_installed: false };

/// Prints what is loaded and preloaded and ends with an exit code of its own.
const SCRIPT: &str = "cat /proc/$$/maps; echo LD_PRELOAD=$LD_PRELOAD; exit 7";

/// The paths that a successful command prints.
fn paths_of(arguments: &[&str]) -> Vec<PathBuf> {
    let output = XTASK.run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

fn install(prefix: &Path) -> Vec<PathBuf> {
    paths_of(&["install", "--prefix", text(prefix)])
}

fn hz3(prefix: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(prefix.join("bin/hz3"));
    command.args(arguments).env_remove("LD_PRELOAD").output().expect("the command starts")
}

/// The command runs a program with the lane's library from `prefix` and passes its exit code on.
fn assert_works(prefix: &Path, lane: &str) {
    let output = hz3(prefix, &["--lane", lane, "sh", "-c", SCRIPT]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(7), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let library = prefix.canonicalize().unwrap().join(format!("lib/libhakozuna_hz3_{lane}.so"));
    assert!(printed.contains(&format!("LD_PRELOAD={}\n", library.display())), "{printed}");
    let file = library.canonicalize().unwrap();
    assert!(printed.lines().any(|line| line.ends_with(text(&file))), "{printed}");
    assert!(text(&file).ends_with(concat!(".so.", env!("CARGO_PKG_VERSION"))), "{}", file.display());
}

#[test]
fn an_installed_tree_runs_programs_on_either_lane_also_once_moved_linked_and_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("new/prefix");
    let paths = install(&prefix);
    assert!(paths.iter().all(|path| path.exists()), "{paths:?}");
    for name in ["LICENSE", "README.md", "docs/design.md"] {
        assert!(paths.contains(&prefix.join("share/doc/hz3").join(name)), "{name}");
    }
    assert_works(&prefix, "scale");
    assert_works(&prefix, "fast");
    assert_eq!(install(&prefix), paths, "a second time replaces the first");
    let left: Vec<_> = std::fs::read_dir(prefix.join("lib")).unwrap().collect();
    assert_eq!(left.len(), 11, "no drafts are left: {left:?}");

    let moved = folder.path().join("moved");
    std::fs::rename(&prefix, &moved).unwrap();
    assert_works(&moved, "scale");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(moved.join("bin/hz3"), &link).unwrap();
    let output = Command::new(&link).arg("--library").output().unwrap();
    let library = moved.canonicalize().unwrap().join("lib/libhakozuna_hz3_scale.so");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", library.display()));
}

#[test]
fn what_was_preloaded_before_comes_after_and_arguments_arrive_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path());
    let library = folder.path().canonicalize().unwrap().join("lib/libhakozuna_hz3_scale.so");
    let fast = library.with_file_name("libhakozuna_hz3_fast.so");
    let mut command = Command::new(folder.path().join("bin/hz3"));
    let output = command.args(["--", "sh", "-c", "echo $LD_PRELOAD; printf '<%s>' \"$@\"", "x", "a  b", "*", "--lane"]);
    let output = output.env("LD_PRELOAD", &fast).output().unwrap();
    let expected = format!("{}:{}\n<a  b><*><--lane>", library.display(), fast.display());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn the_command_says_in_one_line_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let spaced = folder.path().join("a folder");
    install(&spaced);
    let plain = folder.path().join("plain");
    std::fs::rename(&spaced, &plain).unwrap();
    let assert_fails = |prefix: &Path, arguments: &[&str], mention: &str| {
        let output = hz3(prefix, arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.starts_with("hz3: ") && message.contains(mention), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    };
    assert_fails(&plain, &[], "no program");
    assert_fails(&plain, &["--lane", "slow", "true"], "'slow'");
    assert_fails(&plain, &["--lane"], "'--lane <LANE>'");
    assert_fails(&plain, &["--lnae", "fast", "true"], "--lnae");
    assert_fails(&plain, &["hz3-no-such-program"], "hz3-no-such-program");
    let version = hz3(&plain, &["--version"]).stdout;
    assert_eq!(String::from_utf8(version).unwrap(), concat!("hz3 ", env!("CARGO_PKG_VERSION"), "\n"));
    std::fs::rename(&plain, &spaced).unwrap();
    assert_fails(&spaced, &["true"], "a space or a colon");
    std::fs::remove_file(spaced.join("lib/libhakozuna_hz3_fast.so")).unwrap();
    assert_fails(&spaced, &["--lane", "fast", "true"], "the library is missing");
}

#[test]
fn an_archive_unpacks_to_a_tree_that_works_and_is_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("hz3-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let make = |place: &str| {
        let output = folder.path().join(place);
        let paths = paths_of(&["dist", "--output", text(&output)]);
        let files = [format!("{name}.tar.gz"), format!("{name}.cdx.json"), "SHA256SUMS".to_owned()];
        assert_eq!(paths, files.map(|file| output.join(file)));
        paths[0].clone()
    };
    let (first, second) = (make("first"), make("second"));
    assert_checksums(&folder.path().join("first"), &name);
    assert!(std::fs::read(&first).unwrap() == std::fs::read(second).unwrap());
    let status = Command::new("tar").arg("-xzf").arg(&first).arg("-C").arg(folder.path()).status().unwrap();
    assert!(status.success());
    assert_works(&folder.path().join(&name), "scale");
    assert_works(&folder.path().join(&name), "fast");
    assert!(folder.path().join(&name).join("share/doc/hz3/LICENSE").is_file());
}

/// The checksums are those of the archive and of its bill of materials.
fn assert_checksums(folder: &Path, name: &str) {
    let check = || Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(folder).output().unwrap();
    let output = check();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    assert_eq!(printed, format!("{name}.cdx.json: OK\n{name}.tar.gz: OK\n"));
    let bill = folder.join(format!("{name}.cdx.json"));
    let text = std::fs::read_to_string(&bill).unwrap();
    std::fs::write(&bill, text.replacen("MIT", "BSD", 1)).unwrap();
    assert!(!check().status.success());
}

#[test]
fn a_mistake_gives_one_line_and_code_2() {
    XTASK.assert_one_line_and_code_2(&["install"], "--prefix");
    XTASK.assert_one_line_and_code_2(&["install", "--prefix", "/etc/passwd"], "not a folder");
    XTASK.assert_one_line_and_code_2(&["dist", "--outptu", "x"], "--outptu");
}
