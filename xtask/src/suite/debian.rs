//! Debian: the package of `cargo xtask dist --deb`, as dpkg sees it, unpacked and in use.

use super::embedding;
use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop, in_ci};
use anyhow::{Context, Result, ensure};
use hz3::{Lane, process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const NEEDED: [Package; 7] = [
    Package { command: "dpkg-deb", name: "dpkg" },
    Package { command: "dpkg", name: "dpkg" },
    Package { command: "strip", name: "binutils" },
    package::OBJDUMP,
    Package { command: "git", name: "git" },
    Package { command: "cc", name: "gcc" },
    Package { command: "pkg-config", name: "pkg-config" },
];
const LINTIAN: Package = Package { command: "lintian", name: "lintian" };

/// What the package must hold: the modes and owners that dpkg lists, and the paths.
const FILES: [(&str, &str); 12] = [
    ("-rwxr-xr-x root/root", "./usr/bin/hz3"),
    ("-rw-r--r-- root/root", "./usr/include/hz3.h"),
    ("-rw-r--r-- root/root", "./usr/lib/libhakozuna_hz3_scale.a"),
    ("-rw-r--r-- root/root", concat!("./usr/lib/libhakozuna_hz3_hardened.so.", env!("CARGO_PKG_VERSION"))),
    ("-rw-r--r-- root/root", "./usr/lib/pkgconfig/hz3.pc"),
    ("-rw-r--r-- root/root", "./usr/lib/pkgconfig/hz3-hardened.pc"),
    ("drwxr-xr-x root/root", "./usr/share/doc/hz3/"),
    ("-rw-r--r-- root/root", "./usr/share/doc/hz3/changelog.Debian.gz"),
    ("-rw-r--r-- root/root", "./usr/share/doc/hz3/copyright"),
    ("-rw-r--r-- root/root", "./usr/share/doc/hz3/docs/install.md"),
    ("-rw-r--r-- root/root", "./usr/share/lintian/overrides/hz3"),
    ("-rw-r--r-- root/root", "./usr/share/man/man1/hz3.1.gz"),
];

const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Builds the libraries too where they are not built yet.
const BUILD_TIME_LIMIT: Duration = Duration::from_secs(900);

/// The package, and what lintian says of it. Lintian comes with more than a hundred packages: where it is missing the
/// step is skipped, and CI, which may skip nothing and does not install it, does without the step.
pub fn steps() -> Vec<Step> {
    let mut steps = vec![Step::new("dist/deb", package_works)];
    if !in_ci() || which::which(LINTIAN.command).is_ok() {
        steps.push(Step::new("dist/lintian", lintian));
    }
    steps
}

fn dist(session: &Session, folder: &Path) -> Command {
    let mut dist = Command::new(&session.own_program);
    dist.args(["dist", "--deb", "--output"]).arg(folder).env_remove("LD_PRELOAD").env_remove("SOURCE_DATE_EPOCH");
    dist
}

fn package_works(session: &mut Session) -> Result<(), Stop> {
    package::require(&NEEDED)?;
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
    let mut objdump = Command::new("objdump");
    objdump.arg("-T").arg("bin/hz3").args(Lane::ALL.map(|lane| format!("lib/{}", lane.library())));
    let symbols = process::expect_success(objdump.current_dir(root.join("usr")), TIME_LIMIT)?.stdout_text();
    check_control(&dpkg_deb("--info", &package)?, architecture.stdout_text().trim(), &glibc_needed(&symbols)?)?;
    for lane in Lane::ALL {
        command_preloads_its_library(&root.join("usr"), lane)?;
    }
    // The libraries were stripped on their way.
    Ok(embedding::link_and_run(&session.workspace.root, &root.join("usr"), &folder, &[("cc", "c")])?)
}

/// Runs `dist --deb`, which prints the package's path.
fn package_of(dist: &mut Command) -> Result<PathBuf> {
    let path = process::expect_success(dist, BUILD_TIME_LIMIT)?.stdout_text();
    let path = PathBuf::from(path.trim_end());
    ensure!(path.is_file(), "{} is no file", path.display());
    Ok(path)
}

fn dpkg_deb(question: &str, package: &Path) -> Result<String> {
    let mut command = Command::new("dpkg-deb");
    Ok(process::expect_success(command.arg(question).arg(package), TIME_LIMIT)?.stdout_text())
}

/// Without dpkg-deb: one line and exit code 2.
fn names_a_missing_program(session: &Session, folder: &Path) -> Result<()> {
    let captured = process::capture(dist(session, folder).env("PATH", folder), TIME_LIMIT)?;
    let error = captured.stderr_text();
    let is_told = captured.status.code() == Some(2) && error.lines().count() == 1 && error.contains("dpkg-deb");
    ensure!(is_told, "without dpkg-deb: {}\n{}", captured.status, captured.text());
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
    let rows: Vec<(&str, &str)> = contents
        .lines()
        .filter_map(|line| {
            let (row, _link) = line.split_once(" -> ").unwrap_or((line, ""));
            Some((row.get(..20)?, row.split_whitespace().nth(5)?))
        })
        .collect();
    for file in FILES {
        ensure!(rows.contains(&file), "the package has no {} {}\n{contents}", file.0, file.1);
    }
    let foreign = rows.iter().find(|(owner, _)| !owner.ends_with(" root/root"));
    ensure!(foreign.is_none(), "not root's: {foreign:?}");
    for lane in Lane::ALL {
        let library = lane.library();
        let link = format!("./usr/lib/{library} -> {library}.{}", env!("CARGO_PKG_VERSION"));
        ensure!(contents.contains(&link), "the package has no {link}\n{contents}");
    }
    Ok(())
}

/// The highest version of glibc in what `objdump -T` prints.
fn glibc_needed(symbols: &str) -> Result<String> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let version = rest.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next()?;
        version.split('.').map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
    });
    let highest = versions.max().context("objdump shows no version of glibc")?;
    Ok(highest.iter().map(u32::to_string).collect::<Vec<_>>().join("."))
}

fn check_control(info: &str, architecture: &str, glibc: &str) -> Result<()> {
    for field in [
        "Package: hz3".to_owned(),
        concat!("Version: ", env!("CARGO_PKG_VERSION"), "-1").to_owned(),
        format!("Architecture: {architecture}"),
        format!("Depends: libc6 (>= {glibc}), libgcc-s1"),
        "Section: libs".to_owned(),
    ] {
        ensure!(info.lines().any(|line| line.trim() == field), "the control file lacks {field:?}\n{info}");
    }
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
    let library = prefix.join("lib").join(format!("{}.{}", lane.library(), env!("CARGO_PKG_VERSION")));
    let library = library.canonicalize().with_context(|| format!("{}", library.display()))?;
    ensure!(captured.stdout_text().contains(&*library.to_string_lossy()), "{lane}: not loaded\n{}", captured.text());
    Ok(())
}

/// No error and no warning beyond those that the package's own overrides explain.
fn lintian(session: &mut Session) -> Result<(), Stop> {
    package::require(&NEEDED[..3])?;
    if which::which(LINTIAN.command).is_err() {
        return Err(Stop::Skipped(format!("lintian is missing: install {}", LINTIAN.name)));
    }
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
    fn the_highest_glibc_is_found_by_number() {
        let symbols = "(GLIBC_2.2.5) f\n(GLIBC_2.34) g\n(GLIBC_2.4) h\n(GLIBC_PRIVATE) i\n";
        assert_eq!(glibc_needed(symbols).unwrap(), "2.34");
        assert!(glibc_needed("").is_err());
    }

    #[test]
    fn a_missing_field_and_a_foreign_file_are_noticed() {
        let info = concat!(
            "      26 bytes,     1 lines      triggers             \n Package: hz3\n Version: ",
            env!("CARGO_PKG_VERSION"),
            "-1\n Architecture: amd64\n Depends: libc6 (>= 2.34), libgcc-s1\n Section: libs\n"
        );
        check_control(info, "amd64", "2.34").unwrap();
        assert!(check_control(info, "arm64", "2.34").is_err());
        assert!(check_control(info, "amd64", "2.3").is_err());
        assert!(check_control(&info.replace("triggers", "x"), "amd64", "2.34").is_err());
        let mut contents: String =
            FILES.iter().map(|(mode, path)| format!("{mode}  10 2026-11-24 22:16 {path}\n")).collect();
        for lane in Lane::ALL {
            let library = lane.library();
            let link = format!("./usr/lib/{library} -> {library}.{}", env!("CARGO_PKG_VERSION"));
            contents += &format!("lrwxrwxrwx root/root  0 2026-11-24 22:16 {link}\n");
        }
        check_contents(&contents).unwrap();
        assert!(check_contents(&contents.replace("-rwxr-xr-x", "-rw-r--r--")).is_err());
        assert!(check_contents(&contents.replace("hz3_fast.so ->", "hz3_fast.so =>")).is_err());
        assert!(check_contents(&format!("{contents}-rw-r--r-- user/root  1 2026-11-24 22:16 ./x\n")).is_err());
    }
}
