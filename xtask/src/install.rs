//! `install` writes the tree of what is installed under a folder, `dist` into an archive or a Debian package.

use crate::debian::Packer;
use crate::files::files_in;
use crate::sbom;
use crate::tree::{Content, Entry, VERSION, compressed, entries, put};
use anyhow::{Context, Result};
use hz3::{UsageError, Workspace, process};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Arguments of `install`.
#[derive(clap::Args, Debug)]
pub struct InstallArguments {
    /// The folder that gets bin, lib and share, such as /usr/local
    #[arg(long, value_name = "DIR")]
    prefix: PathBuf,
}

/// Arguments of `dist`.
#[derive(clap::Args, Debug)]
pub struct DistArguments {
    /// The folder that gets the archive [default: the build folder's dist/]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Make a Debian package in place of the archive
    #[arg(long)]
    deb: bool,
    /// The target to build for, such as aarch64-unknown-linux-gnu [default: this machine]
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
}

const CHECKSUM_TIME_LIMIT: Duration = Duration::from_secs(60);

/// The checksums of all that a folder has of this version, for `sha256sum --check`.
const CHECKSUMS: &str = "SHA256SUMS";

/// `cargo xtask install`: writes the tree and prints each path. What is there under these names is replaced.
pub fn install(arguments: &InstallArguments) -> Result<ExitCode> {
    let prefix = &arguments.prefix;
    if prefix.exists() && !prefix.is_dir() {
        return Err(UsageError(format!("--prefix {}: not a folder", prefix.display())).into());
    }
    for entry in entries(&Workspace::locate()?)? {
        let path = prefix.join(&entry.path);
        put(&path, &entry.content).with_context(|| format!("can't write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask dist`: writes the tree into an archive or a package, beside it the bill of materials and the checksums, and
/// prints the paths.
pub fn dist(arguments: &DistArguments) -> Result<ExitCode> {
    let workspace = Workspace::locate()?.built_for(arguments.target.clone());
    if arguments.deb && workspace.is_for_musl() {
        return Err(UsageError("--deb: Debian's C library is glibc".to_owned()).into());
    }
    let folder = arguments.output.clone().unwrap_or_else(|| workspace.target.join("dist"));
    let system = if workspace.is_for_musl() { "linux-musl" } else { "linux" };
    let name = format!("hz3-{VERSION}-{}-{system}", workspace.architecture());
    let write = |name: String, bytes: Vec<u8>| {
        let path = folder.join(name);
        put(&path, &Content::File { bytes, is_executable: false })
            .with_context(|| format!("can't write {}", path.display()))?;
        println!("{}", path.display());
        anyhow::Ok(())
    };
    if arguments.deb {
        let packer = Packer::find(&workspace)?;
        println!("{}", packer.package(&workspace, &entries(&workspace)?, &folder)?.display());
    } else {
        write(format!("{name}.tar.gz"), archive(&name, &entries(&workspace)?)?)?;
    }
    write(format!("{name}.cdx.json"), sbom::bill(&workspace)?)?;
    write(CHECKSUMS.to_owned(), checksums(&folder)?)?;
    Ok(ExitCode::SUCCESS)
}

fn checksums(folder: &Path) -> Result<Vec<u8>> {
    let mut files = files_in(folder)?;
    files.retain(|file| {
        ["hz3-", "hz3_"].iter().any(|name| file.to_string_lossy().starts_with(&format!("{name}{VERSION}-")))
    });
    let mut command = Command::new("sha256sum");
    command.arg("--").args(files).current_dir(folder).env_remove("LD_PRELOAD");
    Ok(process::expect_success(&mut command, CHECKSUM_TIME_LIMIT)?.stdout)
}

/// The tree as a compressed tar archive under one folder; the same tree gives the same bytes.
fn archive(folder: &str, entries: &[Entry]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let path = Path::new(folder).join(&entry.path);
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.content.mode());
        header.set_mtime(0);
        match &entry.content {
            Content::File { bytes, .. } => {
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, path, &bytes[..])?;
            }
            Content::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, path, target)?;
            }
        }
    }
    compressed(&builder.into_inner()?)
}
