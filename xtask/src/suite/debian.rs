//! Debian: the package of `cargo xtask dist --deb`, as dpkg sees it, unpacked and in use.

use super::embedding;
use super::package::{self, Package};
use super::processors::AARCH64;
use super::session::Session;
use super::step::{Step, Stop, in_ci};
use crate::debian::{Packer, installation, tools_folder};
use crate::files::files_in;
use anyhow::{Context, Result, ensure};
use goblin::elf::Elf;
use hz3::workspace::BUILD_TIME_LIMIT;
use hz3::{Lane, Workspace, process};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const TO_PACK: [Package; 5] = [
    Package { command: "dpkg-shlibdeps", name: "dpkg-dev" },
    Package { command: "git", name: "git" },
    Package { command: "sha256sum", name: "coreutils" },
    Package { command: "strip", name: "binutils" },
    Package { command: "xz", name: "xz-utils" },
];
const TO_USE: [Package; 5] = [
    Package { command: "cmake", name: "cmake" },
    Package { command: "dpkg-deb", name: "dpkg" },
    Package { command: "dpkg", name: "dpkg" },
    Package { command: "cc", name: "gcc" },
    Package { command: "pkg-config", name: "pkg-config" },
];
const LINTIAN: Package = Package { command: "lintian", name: "lintian" };

/// What the package must hold: the modes that dpkg lists, and the paths. The owner of all is root.
const FILES: [(&str, &str); 17] = [
    ("-rwxr-xr-x", "./usr/bin/hz3"),
    ("-rw-r--r--", "./usr/include/hz3.h"),
    ("-rw-r--r--", "./usr/lib/libhakozuna_hz3_scale.a"),
    ("-rw-r--r--", "./usr/lib/libhakozuna_hz3_hardened.so"),
    ("-rw-r--r--", "./usr/lib/cmake/hz3/hz3-config.cmake"),
    ("-rw-r--r--", "./usr/lib/pkgconfig/hz3.pc"),
    ("-rw-r--r--", "./usr/lib/pkgconfig/hz3-hardened.pc"),
    ("-rw-r--r--", "./usr/share/bash-completion/completions/hz3"),
    ("drwxr-xr-x", "./usr/share/doc/hz3/"),
    ("-rw-r--r--", "./usr/share/doc/hz3/changelog.Debian.gz"),
    ("-rw-r--r--", "./usr/share/doc/hz3/copyright"),
    ("-rw-r--r--", "./usr/share/doc/hz3/docs/install.md"),
    ("-rw-r--r--", "./usr/share/fish/vendor_completions.d/hz3.fish"),
    ("-rw-r--r--", "./usr/share/lintian/overrides/hz3"),
    ("-rw-r--r--", "./usr/share/man/man1/hz3.1.gz"),
    ("-rw-r--r--", "./usr/share/man/man3/libhz3.3.gz"),
    ("-rw-r--r--", "./usr/share/zsh/vendor-completions/_hz3"),
];

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Held while what makes packages is installed: steps run two at a time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// The package, and what lintian says of it.
pub fn steps() -> Vec<Step> {
    vec![Step::new("dist/deb", package_works), Step::new("dist/lintian", lintian)]
}

/// The package for AArch64.
pub fn foreign_step() -> Step {
    Step::new("dist/arm64", foreign_package_works)
}

fn dist(session: &Session, folder: &Path) -> Command {
    let mut dist = Command::new(&session.own_program);
    dist.args(["dist", "--deb", "--output"]).arg(folder).env_remove("LD_PRELOAD").env_remove("SOURCE_DATE_EPOCH");
    dist
}

/// What makes the package: in CI it is installed, elsewhere the step is skipped and says how.
fn require_packer(workspace: &Workspace) -> Result<(), Stop> {
    package::require(&TO_PACK)?;
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    match Packer::find(workspace) {
        Ok(_) => {}
        Err(_) if in_ci() => drop(process::expect_success(&mut installation(workspace), BUILD_TIME_LIMIT)?),
        Err(missing) => return Err(Stop::Skipped(missing.to_string())),
    }
    Ok(())
}

fn package_works(session: &mut Session) -> Result<(), Stop> {
    package::require(&TO_USE)?;
    require_packer(&session.workspace)?;
    session.libraries(&Lane::ALL)?;
    let folder = session.empty_folder("deb")?;
    names_a_missing_program(session, &folder)?;
    let package = package_of(&mut dist(session, &folder))?;
    is_the_same_again(session, &folder, &package)?;
    let contents = dpkg_deb("--contents", &package)?;
    check_contents(&contents)?;

    let root = folder.join("root");
    process::expect_success(Command::new("dpkg").arg("-x").arg(&package).arg(&root), TIME_LIMIT)?;
    let architecture = process::expect_success(Command::new("dpkg").arg("--print-architecture"), TIME_LIMIT)?;
    check_control(&dpkg_deb("--info", &package)?, architecture.stdout_text().trim(), &glibc_of(&root)?)?;
    check_bill(&folder, &root)?;
    for lane in Lane::ALL {
        command_preloads_its_library(&root.join("usr"), lane)?;
    }
    // The libraries were stripped on their way.
    embedding::link_and_run(&session.workspace.root, &root.join("usr"), &folder, &[("cc", "c")])?;
    Ok(embedding::build_with_cmake(&session.workspace.root, &root.join("usr"), &folder)?)
}

/// The package for AArch64: what it holds, and, emulated, the command, which finds its libraries, and each library.
fn foreign_package_works(session: &mut Session) -> Result<(), Stop> {
    package::require(&TO_USE)?;
    require_packer(&session.workspace)?;
    let variables = AARCH64.variables(session)?;
    let folder = session.empty_folder("deb")?;
    let mut dist = dist(session, &folder);
    dist.args(["--target", AARCH64.target]).envs(variables).env("CARGO_TARGET_DIR", AARCH64.folder(session));
    dist.env("CARGO_PROFILE_TOOL_OPT_LEVEL", "0");
    // The packer lies in the other build folder.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [tools_folder(&session.workspace).join("bin")].into_iter().chain(std::env::split_paths(&path));
    let package = package_of(dist.env("PATH", std::env::join_paths(path).context("PATH")?))?;
    check_contents(&dpkg_deb("--contents", &package)?)?;
    let root = folder.join("root");
    process::expect_success(Command::new("dpkg").arg("-x").arg(&package).arg(&root), TIME_LIMIT)?;
    check_control(&dpkg_deb("--info", &package)?, "arm64", &glibc_of(&root)?)?;
    let command = root.join("usr/bin/hz3");
    for lane in Lane::ALL {
        let run = |options: &[&str], words: &[&str]| {
            let mut emulator = Command::new("env");
            emulator
                .args(["-u", "LD_PRELOAD"])
                .args(AARCH64.emulated.split(' '))
                .args(options)
                .arg(&command)
                .args(words);
            process::expect_success(&mut emulator, TIME_LIMIT)
        };
        let library = run(&[], &["--lane", lane.name(), "--library"])?.stdout_text().trim_end().to_owned();
        let preload = format!("LD_PRELOAD={library}");
        let said = run(&["-E", &preload, "-E", "HZ3_VERBOSE=1"], &["--version"])?.text();
        if !said.contains(&format!(" lane {lane}\n")) {
            return Err(Stop::failed(format!("{library} does not serve\n{said}")));
        }
    }
    Ok(())
}

/// Runs `dist --deb`, which prints the package's path first.
fn package_of(dist: &mut Command) -> Result<PathBuf> {
    let paths = process::expect_success(dist, BUILD_TIME_LIMIT)?.stdout_text();
    let path = PathBuf::from(paths.lines().next().unwrap_or_default());
    ensure!(path.is_file(), "{} is no file", path.display());
    Ok(path)
}

fn dpkg_deb(question: &str, package: &Path) -> Result<String> {
    let mut command = Command::new("dpkg-deb");
    Ok(process::expect_success(command.arg(question).arg(package), TIME_LIMIT)?.stdout_text())
}

/// Without a program that packs: one line and exit code 2.
fn names_a_missing_program(session: &Session, folder: &Path) -> Result<()> {
    let captured = process::capture(dist(session, folder).env("PATH", folder), TIME_LIMIT)?;
    let error = captured.stderr_text();
    let is_told = captured.status.code() == Some(2) && error.lines().count() == 1 && error.contains("--deb needs ");
    ensure!(is_told, "without the programs: {}\n{}", captured.status, captured.text());
    Ok(())
}

/// The commit's time, when it is given by hand, makes the same package.
fn is_the_same_again(session: &Session, folder: &Path, package: &Path) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(&session.workspace.root);
    let time = process::expect_success(&mut git, TIME_LIMIT)?.stdout_text();
    let again = folder.join("again");
    let again = package_of(dist(session, &again).env("SOURCE_DATE_EPOCH", time.trim()))?;
    let is_same = std::fs::read(package).context("the package")? == std::fs::read(&again).context("the second")?;
    ensure!(is_same, "two packages of the same sources and time differ");
    Ok(())
}

fn check_contents(contents: &str) -> Result<()> {
    let rows: Vec<Vec<&str>> = contents.lines().map(|line| line.split_whitespace().collect()).collect();
    for (mode, path) in FILES {
        let has_it = rows.iter().any(|row| row.first() == Some(&mode) && row.last() == Some(&path));
        ensure!(has_it, "the package has no {mode} {path}\n{contents}");
    }
    let foreign = rows.iter().find(|row| row.get(1) != Some(&"0/0"));
    ensure!(foreign.is_none(), "not root's: {foreign:?}");
    Ok(())
}

/// The highest version of glibc whose symbols a library needs, such as `[2, 34]`.
fn glibc_needed(library: &[u8]) -> Result<Vec<u32>> {
    let elf = Elf::parse(library)?;
    let needs = elf.verneed.iter().flat_map(|section| section.iter());
    let names = needs.flat_map(|need| need.iter().map(|version| version.vna_name).collect::<Vec<_>>());
    let versions = names.filter_map(|name| {
        let numbers = elf.dynstrtab.get_at(name)?.strip_prefix("GLIBC_")?.split('.');
        numbers.map(|number| number.parse().ok()).collect()
    });
    versions.max().context("no symbol has a version of glibc")
}

/// As [`glibc_needed`], of all that an unpacked package has.
fn glibc_of(root: &Path) -> Result<String> {
    let mut glibc = Vec::new();
    let libraries = Lane::ALL.map(|lane| format!("usr/lib/{}", lane.library()));
    for file in libraries.iter().map(String::as_str).chain(["usr/bin/hz3"]) {
        glibc = glibc.max(glibc_needed(&std::fs::read(root.join(file)).context(file.to_owned())?)?);
    }
    Ok(glibc.iter().map(u32::to_string).collect::<Vec<_>>().join("."))
}

/// Every package that the files name, in the places where their code may panic, stands in the bill.
fn check_bill(folder: &Path, root: &Path) -> Result<()> {
    let name = format!("{}-linux.cdx.json", std::env::consts::ARCH);
    let mut bills = files_in(folder)?;
    bills.retain(|file| file.to_string_lossy().ends_with(&name) && file.components().count() == 1);
    ensure!(bills.len() == 1, "{} bills of materials", bills.len());
    let bill: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join(&bills[0])).context("the bill")?).context("JSON")?;
    let components = bill["components"].as_array().context("no components")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let listed: BTreeSet<String> =
        components.iter().map(|one| format!("{}-{}", text(&one["name"]), text(&one["version"]))).collect();
    let named = regex_lite::Regex::new(r"/registry/src/[^/]+/([A-Za-z0-9_.+-]+)/").context("a pattern")?;
    let mut found = BTreeSet::new();
    for file in ["usr/bin/hz3", "usr/lib/libhakozuna_hz3_scale.a"] {
        let bytes = std::fs::read(root.join(file)).context(file)?;
        let text = String::from_utf8_lossy(&bytes);
        found.extend(named.captures_iter(&text).map(|package| package[1].to_owned()));
    }
    ensure!(found.len() > 10, "the files name {} packages", found.len());
    let missing: Vec<&String> = found.difference(&listed).collect();
    ensure!(missing.is_empty(), "the bill of materials lacks {missing:?}");
    Ok(())
}

fn check_control(info: &str, architecture: &str, glibc: &str) -> Result<()> {
    for field in [
        "Package: hz3".to_owned(),
        concat!("Version: ", env!("CARGO_PKG_VERSION"), "-1").to_owned(),
        format!("Architecture: {architecture}"),
        "Section: libs".to_owned(),
    ] {
        ensure!(info.lines().any(|line| line.trim() == field), "the control file lacks {field:?}\n{info}");
    }
    let depends = info.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).unwrap_or("");
    let needed = format!("libc6 (>= {glibc})");
    ensure!(depends.split(", ").any(|one| one == needed), "the control file's Depends lacks {needed:?}\n{info}");
    ensure!(info.contains(" triggers "), "ldconfig is not triggered\n{info}");
    Ok(())
}

/// The unpacked command runs a program that is served by the library beside it, and that library's options work.
fn command_preloads_its_library(prefix: &Path, lane: Lane) -> Result<()> {
    let mut command = Command::new(prefix.join("bin/hz3"));
    command.args(["--lane", lane.name(), "cat", "/proc/self/maps"]).env_remove("LD_PRELOAD");
    let statistics = prefix.join(format!("{lane}.statistics"));
    let captured = process::expect_success(command.env("HZ3_STATS_FILE", &statistics), TIME_LIMIT)?;
    let statistics = std::fs::read_to_string(&statistics).with_context(|| format!("{lane}: no statistics"))?;
    ensure!(statistics.contains("live_small"), "{lane}: other statistics\n{statistics}");
    let library = prefix.join("lib").join(lane.library());
    let library = library.canonicalize().with_context(|| format!("{}", library.display()))?;
    ensure!(captured.stdout_text().contains(&*library.to_string_lossy()), "{lane}: not loaded\n{}", captured.text());
    Ok(())
}

/// No error and no warning beyond those that the package's own overrides explain.
fn lintian(session: &mut Session) -> Result<(), Stop> {
    package::require(&[LINTIAN])?;
    require_packer(&session.workspace)?;
    session.libraries(&Lane::ALL)?;
    let package = package_of(&mut dist(session, &session.empty_folder("deb")?))?;
    let mut command = Command::new(LINTIAN.command);
    command.args(["--allow-root", "--fail-on", "error,warning"]).arg(&package).env_remove("LD_PRELOAD");
    let captured = process::expect_success(&mut command, TIME_LIMIT)?;
    let is_quiet = !captured.stdout_text().contains(": hz3: ");
    if is_quiet { Ok(()) } else { Err(Stop::failed(captured.text())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_program_says_which_glibc_it_needs() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(glibc_needed(&own).unwrap() >= vec![2, 2]);
    }

    #[test]
    fn a_missing_field_and_a_foreign_file_are_noticed() {
        let info = concat!(
            "      26 bytes,     1 lines      triggers             \n Package: hz3\n Version: ",
            env!("CARGO_PKG_VERSION"),
            "-1\n Architecture: amd64\n Depends: libc6 (>= 2.34)\n Section: libs\n"
        );
        check_control(info, "amd64", "2.34").unwrap();
        assert!(check_control(info, "arm64", "2.34").is_err());
        assert!(check_control(info, "amd64", "2.3").is_err());
        assert!(check_control(&info.replace("triggers", "x"), "amd64", "2.34").is_err());
        let contents: String =
            FILES.iter().map(|(mode, path)| format!("{mode} 0/0  10 2026-11-24 22:16 {path}\n")).collect();
        check_contents(&contents).unwrap();
        assert!(check_contents(&contents.replace("-rwxr-xr-x", "-rw-r--r--")).is_err());
        assert!(check_contents(&format!("{contents}-rw-r--r-- 1000/0  1 2026-11-24 22:16 ./x\n")).is_err());
    }
}
