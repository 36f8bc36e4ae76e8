//! Debian package: the installed tree under /usr, as dpkg takes it.
//!
//! ```text
//!   usr/bin, usr/include, usr/lib, usr/share     what `install` writes; the libraries stripped, the man page compressed
//!   usr/share/doc/hz3/copyright                  the licence in Debian's format, in place of LICENSE
//!   usr/share/doc/hz3/changelog.Debian.gz
//!   usr/share/lintian/overrides/hz3              what the checker of packages would hold against it, with the reasons
//!   DEBIAN/control, md5sums, triggers            for dpkg: what it is, what it needs, ldconfig after it
//! ```
//!
//! The libraries lie in usr/lib, not in a folder of the architecture's, because the command `hz3` finds them from its
//! own place, and a library that is preloaded is named by its path anyway. The same libraries, documents and time give
//! the same package.
//!
//! Outside rules: Debian Policy 4.6, chapters 5 (control), 8 (libraries) and 12 (documents); deb-triggers(5); the
//! machine-readable copyright format 1.0; reproducible-builds.org's SOURCE_DATE_EPOCH.

use crate::files::files_in;
use crate::tree::{Content, Entry, VERSION, put};
use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, GzBuilder};
use goblin::elf::Elf;
use goblin::elf::header::{EM_AARCH64, EM_X86_64};
use hz3::{UsageError, Workspace, process};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

const DESCRIPTION: &str = include_str!("debian/description");
const OVERRIDES: &str = include_str!("debian/lintian-overrides");
const MAINTAINER: &str = "hz3 maintainers <hz3@localhost>";

/// The first packing of a version. A version without it would be one that Debian itself wrote.
const REVISION: &str = "1";

/// The programs that make a package, and where Debian has them.
const TOOLS: [(&str, &str); 3] = [("dpkg-deb", "dpkg"), ("strip", "binutils"), ("md5sum", "coreutils")];

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Says which program is missing, before anything is built.
pub fn require_tools() -> Result<()> {
    for (command, package) in TOOLS {
        if which::which(command).is_err() {
            return Err(UsageError(format!("--deb needs {command}, which is missing: install {package}")).into());
        }
    }
    Ok(())
}

/// Makes the package of the tree in `folder` and returns its path.
pub fn package(workspace: &Workspace, entries: &[Entry], folder: &Path) -> Result<PathBuf> {
    let time = time_of_package(workspace)?;
    let needs = Needs::of_tree(entries)?;
    let drafts = tempfile::tempdir().context("scratch folder")?;
    let root = drafts.path().join("root");
    for entry in entries.iter().filter(|entry| !entry.path.ends_with("doc/hz3/LICENSE")) {
        let path = root.join("usr").join(&entry.path);
        match &entry.content {
            Content::File { bytes, .. } if entry.path.starts_with("share/man") => {
                put_file(&path.with_added_extension("gz"), compressed(bytes)?)?;
            }
            content => put(&path, content).with_context(|| format!("can't write {}", path.display()))?,
        }
        strip(&path)?;
    }
    let documents = root.join("usr/share/doc/hz3");
    let licence = std::fs::read_to_string(workspace.root.join("LICENSE")).context("LICENSE")?;
    put_file(&documents.join("copyright"), copyright(&licence)?.into_bytes())?;
    put_file(&documents.join("changelog.Debian.gz"), compressed(changelog(time).as_bytes())?)?;
    put_file(&root.join("usr/share/lintian/overrides/hz3"), OVERRIDES.into())?;
    let files = files_in(&root)?;
    let control = root.join("DEBIAN");
    put_file(&control.join("md5sums"), sums(&root, &files)?)?;
    put_file(&control.join("triggers"), b"activate-noawait ldconfig\n".to_vec())?;
    put_file(&control.join("control"), needs.control(&root, &files)?.into_bytes())?;
    settle(&root, time)?;

    let name = format!("hz3_{}_{}.deb", debian_version(), needs.architecture);
    let draft = drafts.path().join(&name);
    let mut command = Command::new("dpkg-deb");
    command.args(["--root-owner-group", "--build"]).arg(&root).arg(&draft).env_remove("LD_PRELOAD");
    // One thread: how xz cuts its input into blocks must not depend on the machine.
    command.env("SOURCE_DATE_EPOCH", time.to_string()).env("DPKG_DEB_THREADS_MAX", "1");
    process::expect_success(&mut command, TIME_LIMIT)?;
    let path = folder.join(&name);
    put_file(&path, std::fs::read(&draft).context(name)?)?;
    Ok(path)
}

/// The version as Debian orders it: a `-` would begin the revision, and a `~` comes before the end.
fn debian_version() -> String {
    format!("{}-{REVISION}", VERSION.replace('-', "~"))
}

fn put_file(path: &Path, bytes: Vec<u8>) -> Result<()> {
    put(path, &Content::File { bytes, is_executable: false }).with_context(|| format!("can't write {}", path.display()))
}

/// Seconds since 1970 that the package's files bear: `SOURCE_DATE_EPOCH`, else the commit's.
fn time_of_package(workspace: &Workspace) -> Result<u64> {
    if let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") {
        return seconds(&text.to_string_lossy()).ok_or_else(|| {
            UsageError(format!("SOURCE_DATE_EPOCH={}: not a number of seconds", text.display())).into()
        });
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(&workspace.root).env_remove("LD_PRELOAD");
    let committed = process::expect_success(&mut git, TIME_LIMIT).ok();
    committed.and_then(|captured| seconds(captured.stdout_text().trim())).ok_or_else(|| {
        UsageError("there is no commit whose time the package could bear: set SOURCE_DATE_EPOCH".to_owned()).into()
    })
}

/// Up to the year 9999, which is as far as a date is written here.
fn seconds(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&seconds| seconds < 253_402_300_800)
}

/// What the libraries and the command say of the machine that they run on.
#[derive(Debug, PartialEq)]
struct Needs {
    /// Debian's name of it.
    architecture: &'static str,
    /// The oldest C library that has all they use, such as `[2, 34]`.
    glibc: Vec<u32>,
}

impl Needs {
    fn of_tree(entries: &[Entry]) -> Result<Needs> {
        let mut all: Option<Needs> = None;
        for entry in entries {
            let Content::File { bytes, .. } = &entry.content else { continue };
            if !bytes.starts_with(b"\x7fELF") {
                continue;
            }
            let needs = Needs::of_library(bytes).with_context(|| format!("{}", entry.path.display()))?;
            all = Some(match all {
                None => needs,
                Some(other) => {
                    ensure!(other.architecture == needs.architecture, "the files are for several machines");
                    Needs { glibc: other.glibc.max(needs.glibc), ..needs }
                }
            });
        }
        all.context("the tree has no library and no program")
    }

    fn of_library(bytes: &[u8]) -> Result<Needs> {
        let elf = Elf::parse(bytes)?;
        let architecture = match elf.header.e_machine {
            EM_X86_64 => "amd64",
            EM_AARCH64 => "arm64",
            machine => bail!("ELF machine {machine} has no Debian architecture here"),
        };
        let names = elf.verneed.iter().flat_map(|files| files.iter()).flat_map(|file| {
            file.iter().filter_map(|version| elf.dynstrtab.get_at(version.vna_name)).collect::<Vec<_>>()
        });
        let glibc = names.filter_map(glibc_version).max().context("no symbol has a version of glibc")?;
        Ok(Needs { architecture, glibc })
    }

    fn control(&self, root: &Path, files: &[PathBuf]) -> Result<String> {
        let mut bytes = 0;
        for file in files {
            bytes += std::fs::symlink_metadata(root.join(file))?.len().next_multiple_of(1024);
        }
        let glibc: Vec<String> = self.glibc.iter().map(u32::to_string).collect();
        Ok(format!(
            "Package: hz3\nVersion: {}\nArchitecture: {}\nMaintainer: {MAINTAINER}\nInstalled-Size: {}\n\
             Depends: libc6 (>= {}), libgcc-s1\nSection: libs\nPriority: optional\n{DESCRIPTION}",
            debian_version(),
            self.architecture,
            bytes / 1024,
            glibc.join("."),
        ))
    }
}

/// The numbers of a symbol version such as `GLIBC_2.34`. glibc names abilities of its loader in the same way; the one
/// for compact relocations came with 2.36.
fn glibc_version(name: &str) -> Option<Vec<u32>> {
    match name.strip_prefix("GLIBC_")? {
        "ABI_DT_RELR" => Some(vec![2, 36]),
        numbers => numbers.split('.').map(|number| number.parse().ok()).collect(),
    }
}

/// Takes out what only a debugger reads, from shared and static libraries; leaves all else alone.
fn strip(path: &Path) -> Result<()> {
    let kind = if path.extension().is_some_and(|extension| extension == "a") {
        "--strip-debug"
    } else if path.to_string_lossy().contains(".so.") {
        "--strip-unneeded"
    } else {
        return Ok(());
    };
    let mut command = Command::new("strip");
    command.args([kind, "--enable-deterministic-archives", "--remove-section=.comment", "--remove-section=.note"]);
    process::expect_success(command.arg(path).env_remove("LD_PRELOAD"), TIME_LIMIT)?;
    Ok(())
}

/// The licence in Debian's format. Debian calls this MIT licence Expat.
fn copyright(licence: &str) -> Result<String> {
    let holder =
        licence.lines().find_map(|line| line.strip_prefix("Copyright (c) ")).context("LICENSE names nobody")?;
    let (_, text) = licence.split_once("Permission is hereby").context("LICENSE is not the MIT licence")?;
    let mut copyright = format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: hz3\n\
         Comment:\n \
         The libraries hold parts of Rust's core library and of the crates libc and\n \
         crossbeam-utils, each of which may be used under this licence too. So may what\n \
         the command holds of other crates, but for xxhash-rust, which is under the\n \
         Boost Software License 1.0.\n\n\
         Files: *\n\
         Copyright: {holder}\n\
         License: Expat\n"
    );
    for line in format!("Permission is hereby{text}").trim_end().lines() {
        let _ = writeln!(copyright, " {}", if line.is_empty() { "." } else { line });
    }
    Ok(copyright)
}

fn changelog(time: u64) -> String {
    format!(
        "hz3 ({}) unstable; urgency=medium\n\n  * hz3 {VERSION}, as `cargo xtask dist --deb` packs it.\n\n -- {MAINTAINER}  {}\n",
        debian_version(),
        mail_date(time)
    )
}

/// A date as mails have it (RFC 5322), in UTC.
fn mail_date(time: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // 2026-11-24T22:04:54Z
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time)).to_string();
    let day = DAYS[usize::try_from(time / 86_400 % 7).unwrap_or_default()];
    let month = text[5..7].parse().ok().and_then(|month: usize| MONTHS.get(month - 1)).unwrap_or(&"Jan");
    format!("{day}, {} {month} {} {} +0000", &text[8..10], &text[..4], &text[11..19])
}

fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

/// Calls `look` for everything under a folder and then for the folder itself.
fn each_path(folder: &Path, look: &mut impl FnMut(&Path, std::fs::FileType) -> Result<()>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each_path(&entry.path(), look)?;
        } else {
            look(&entry.path(), entry.file_type()?)?;
        }
    }
    look(folder, std::fs::metadata(folder)?.file_type())
}

fn sums(root: &Path, files: &[PathBuf]) -> Result<Vec<u8>> {
    let mut command = Command::new("md5sum");
    command.arg("--").args(files.iter().filter(|file| !root.join(file).is_symlink()));
    Ok(process::expect_success(command.current_dir(root).env_remove("LD_PRELOAD"), TIME_LIMIT)?.stdout)
}

/// Gives everything its time and the folders their mode, whatever the user's umask is.
fn settle(root: &Path, time: u64) -> Result<()> {
    let time = Timespec { tv_sec: time.try_into().context("a time")?, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    each_path(root, &mut |path, kind| {
        if kind.is_dir() {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_mails_have_it() {
        assert_eq!(mail_date(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(mail_date(1_795_557_804), "Tue, 24 Nov 2026 22:03:24 +0000");
        assert_eq!(seconds("1795557804"), Some(1_795_557_804));
        assert!(["", "-1", "1.5", "yesterday", "999999999999999"].iter().all(|text| seconds(text).is_none()));
    }

    #[test]
    fn a_later_version_of_glibc_is_the_greater_number() {
        let version = |name| glibc_version(name).unwrap();
        assert!(version("GLIBC_2.34") > version("GLIBC_2.4") && version("GLIBC_2.2.5") < version("GLIBC_2.3"));
        assert_eq!(version("GLIBC_ABI_DT_RELR"), [2, 36]);
        assert_eq!(glibc_version("GLIBC_PRIVATE"), None);
        assert_eq!(glibc_version("GCC_3.0"), None);
    }

    #[test]
    fn a_real_program_says_what_it_needs() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = Needs::of_library(&own).unwrap();
        assert!(needs.glibc >= vec![2, 2], "{needs:?}");
        let entry = |path: &str, bytes: &[u8]| Entry {
            path: path.into(),
            content: Content::File { bytes: bytes.to_vec(), is_executable: false },
        };
        assert_eq!(Needs::of_tree(&[entry("lib/a.so", &own), entry("lib/b.a", b"!<arch>\n")]).unwrap(), needs);
        assert!(Needs::of_tree(&[entry("lib/b.a", b"!<arch>\n")]).is_err());
    }

    #[test]
    fn the_licence_is_written_in_paragraphs() {
        let text = copyright("MIT License\n\nCopyright (c) 2026 Somebody\n\nPermission is hereby\n\nGIVEN\n").unwrap();
        assert!(
            text.ends_with("Copyright: 2026 Somebody\nLicense: Expat\n Permission is hereby\n .\n GIVEN\n"),
            "{text}"
        );
        assert!(copyright("All rights reserved").is_err());
    }
}
