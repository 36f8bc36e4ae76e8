//! C++ for musl: compilers whose programs run on the C++ runtime that Alpine has.
//!
//! Debian has no such runtime. Wheels that Python's registry has for musl are built on Alpine and bring its runtime along,
//! under a name of their own; one of them is taken apart for it. It needs a newer musl than Debian 12 has
//! (`DT_RELR`, since 1.2.4): that is Debian 13's, unpacked beside it. g++ has its headers for glibc; what they take from
//! there, [`HEADER`] says of musl.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Stop, in_ci};
use anyhow::{Context, Result, bail};
use hz3::process;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const TO_COMPILE: Package = Package { command: "g++", name: "g++" };
const TO_FETCH: [Package; 2] =
    [Package { command: "pip3", name: "python3-pip" }, Package { command: "python3", name: "python3" }];

/// A small wheel with the runtime, that of GCC 14, and what it is built for.
const WHEEL: &str = "contourpy==1.4.0 --hash=sha256:3863ef2e2b13fe93f8c0ebb08ee400cb07153b8b0e91c5acb26e4537f283634f";
const PLATFORM: [&str; 4] = ["--platform", "musllinux_1_2_x86_64", "--python-version", "3.12"];
/// The libraries in it, as their names begin, and the names by which the linker looks for them.
const LIBRARIES: [(&str, &str); 2] = [("libstdc++-", "libstdc++.so"), ("libgcc_s-", "libgcc_s.so")];
/// Where apt finds the newer musl, and what the runtime calls it. The loader takes the name for itself; the linker looks
/// for a file.
const SOURCE: &str = "deb http://deb.debian.org/debian trixie main\n";
const C_LIBRARY: &str = "libc.musl-x86_64.so.1";

/// The folder of what programs are linked with.
pub const START_FILES: &str = "/usr/lib/x86_64-linux-musl";

/// The compilers' names in the folder, and what they are.
pub const C_COMPILER: &str = "alpine-gcc";
pub const CXX_COMPILER: &str = "alpine-g++";
const SCRIPTS: [(&str, &str); 2] = [
    (C_COMPILER, "exec musl-gcc \"$@\" \"-Wl,--dynamic-linker,$here/libc.so\"\n"),
    (
        CXX_COMPILER,
        r#"version=$(g++ -dumpversion)
exec g++ -nostdinc -nostdinc++ -isystem "/usr/include/c++/$version" \
    -isystem "/usr/include/x86_64-linux-gnu/c++/$version" -isystem "$(g++ -print-file-name=include)" \
    -isystem /usr/include/x86_64-linux-musl -include "$here/musl.h" "$@" -specs "$specs" \
    "-L$here" "-Wl,-rpath,$here,-rpath-link,$here,--dynamic-linker,$here/libc.so,--eh-frame-hdr" -lgcc_s
"#,
    ),
];
const HEADER: &str = "\
#define __GLIBC_PREREQ(major, minor) 1
#define __locale_t locale_t
#include <bits/c++config.h>
#undef _GLIBCXX_USE_PTHREAD_COND_CLOCKWAIT
#undef _GLIBCXX_USE_PTHREAD_MUTEX_CLOCKLOCK
#undef _GLIBCXX_USE_PTHREAD_RWLOCK_CLOCKLOCK
enum {
    _ISupper = 1, _ISlower = 2, _ISalpha = 4, _ISdigit = 8, _ISxdigit = 16, _ISspace = 32, _ISprint = 64,
    _IScntrl = 256, _ISpunct = 512, _ISblank = 1024
};
";

const TIME_LIMIT: Duration = Duration::from_secs(300);

/// A folder with the compilers, which run from there, and the runtime. In CI that is downloaded.
pub fn folder(session: &Session) -> Result<PathBuf, Stop> {
    package::require(&[TO_COMPILE])?;
    let folder = session.workspace.target.join("musl-cxx");
    if !folder.exists() {
        if !in_ci() {
            return Err(Stop::Skipped("Alpine's C++ runtime is missing: CI=true has it unpacked".to_owned()));
        }
        package::require(&TO_FETCH)?;
        unpack(&folder).context("Alpine's C++ runtime")?;
    }
    write_compilers(&folder).context("compilers")?;
    Ok(folder)
}

fn write_compilers(folder: &Path) -> Result<()> {
    std::fs::write(folder.join("musl.h"), HEADER)?;
    for (name, text) in SCRIPTS {
        let script = folder.join(name);
        let start = format!("#!/bin/sh\nhere=${{0%/*}}\nspecs={START_FILES}/musl-gcc.specs\n");
        std::fs::write(&script, start + text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Takes the libraries out of the wheel, where they lie in one folder, and puts musl beside them.
fn unpack(folder: &Path) -> Result<()> {
    let scratch = folder.with_extension("part");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch)?;
    }
    std::fs::create_dir_all(scratch.join("lists/partial"))?;
    let run = |command: &str, arguments: &[&str]| {
        let mut command = Command::new(command);
        process::expect_success(command.args(arguments).current_dir(&scratch).env_remove("LD_PRELOAD"), TIME_LIMIT)
    };
    std::fs::write(scratch.join("wheels"), WHEEL)?;
    let download = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"];
    run("pip3", &[&download[..], &PLATFORM, &["--requirement", "wheels"]].concat())?;
    let wheel = find(&scratch, |name| name.ends_with(".whl"))?;
    run("python3", &["-m", "zipfile", "--extract", &wheel.to_string_lossy(), "."])?;
    let libraries = find(&scratch, |name| name.ends_with(".libs"))?;
    for (beginning, link) in LIBRARIES {
        let library = find(&libraries, |name| name.starts_with(beginning))?;
        symlink(library.file_name().unwrap_or_default(), libraries.join(link))?;
    }

    // With lists of its own: the system stays as it is.
    std::fs::write(scratch.join("source.list"), SOURCE)?;
    let place = scratch.to_string_lossy();
    let options = [
        format!("Dir::Etc::sourcelist={place}/source.list"),
        "Dir::Etc::sourceparts=/dev/null".to_owned(),
        format!("Dir::State={place}"),
        "Dir::State::status=/dev/null".to_owned(),
        format!("Dir::Cache={place}"),
    ];
    let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
    run("apt-get", &[&options[..], &["update"]].concat())?;
    run("apt-get", &[&options[..], &["download", "musl"]].concat())?;
    run("sh", &["-c", "dpkg-deb --extract musl_*.deb musl"])?;
    std::fs::rename(scratch.join("musl").join(&START_FILES[1..]).join("libc.so"), libraries.join("libc.so"))?;
    symlink("libc.so", libraries.join(C_LIBRARY))?;
    std::fs::rename(&libraries, folder)?;
    Ok(std::fs::remove_dir_all(&scratch)?)
}

/// What lies in the folder by a name that fits.
fn find(folder: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if fits(&entry.file_name().to_string_lossy()) {
            return Ok(entry.path());
        }
    }
    bail!("{} lacks a file", folder.display())
}
