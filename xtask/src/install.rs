//! Install: the libraries, the header, a wrapper script, the licence and the documents, as a tree that works wherever it
//! lies.
//!
//! ```text
//!   bin/hz3                                   runs a program on hz3
//!   include/hz3.h                             for programs that are linked with hz3
//!   lib/libhakozuna_hz3_scale.a               the library for static programs
//!   lib/libhakozuna_hz3_scale.so              the SONAME, a link to
//!   lib/libhakozuna_hz3_scale.so.0.1.0        the library
//!   lib/pkgconfig/hz3.pc                      the scale lane, for pkg-config; hz3-fast.pc and hz3-hardened.pc
//!   share/doc/hz3/                            licence, README, docs
//!   share/man/man1/hz3.1                      the command's manual page
//! ```
//!
//! `install` writes the tree under a folder, `dist` into an archive or a Debian package.

use crate::arguments::UsageError;
use crate::debian::Packer;
use crate::files::files_in;
use crate::lane::Lane;
use crate::preload;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tempfile::NamedTempFile;

/// The version of all that is installed.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The wrapper; `@VERSION@` stands for the version.
const WRAPPER: &str = include_str!("hz3.sh");

/// The manual page of the wrapper; `@VERSION@` stands for the version.
const MANUAL: &str = include_str!("hz3.1");

/// The pkg-config file; `@VERSION@` and `@LANE@` stand for themselves.
const PACKAGE_FILE: &str = include_str!("../../hz3-preload/include/hz3.pc.in");

const DOCUMENTS: &str = "share/doc/hz3";

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
}

/// One file or link of the tree.
pub struct Entry {
    /// Where it lies in the tree.
    pub path: PathBuf,
    /// What it is.
    pub content: Content,
}

/// What lies at a path.
pub enum Content {
    /// A file.
    File {
        /// All of it.
        bytes: Vec<u8>,
        /// Whether it is a program.
        is_executable: bool,
    },
    /// A link to a path.
    Link(String),
}

impl Content {
    fn mode(&self) -> u32 {
        if matches!(self, Content::File { is_executable: true, .. }) { 0o755 } else { 0o644 }
    }
}

/// `cargo xtask install`: writes the tree and prints each path. What is there under these names is replaced.
pub fn install(arguments: &InstallArguments) -> Result<ExitCode> {
    let prefix = &arguments.prefix;
    if prefix.exists() && !prefix.is_dir() {
        return Err(UsageError(format!("--prefix {}: not a folder", prefix.display())).into());
    }
    for entry in tree(&Workspace::locate()?)? {
        let path = prefix.join(&entry.path);
        put(&path, &entry.content).with_context(|| format!("can't write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask dist`: writes the tree into an archive or a package and prints its path.
pub fn dist(arguments: &DistArguments) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    let folder = arguments.output.clone().unwrap_or_else(|| workspace.target.join("dist"));
    if arguments.deb {
        let packer = Packer::find(&workspace)?;
        println!("{}", packer.package(&workspace, &tree(&workspace)?, &folder)?.display());
        return Ok(ExitCode::SUCCESS);
    }
    let name = format!("hz3-{VERSION}-{}-linux", std::env::consts::ARCH);
    let archive = archive(&name, &tree(&workspace)?)?;
    let path = folder.join(format!("{name}.tar.gz"));
    put(&path, &Content::File { bytes: archive, is_executable: false })
        .with_context(|| format!("can't write {}", path.display()))?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// The whole tree, in the order of its paths.
fn tree(workspace: &Workspace) -> Result<Vec<Entry>> {
    let of_version =
        |text: &str, is_executable| Content::File { bytes: text.replace("@VERSION@", VERSION).into(), is_executable };
    let mut entries = vec![
        Entry { path: "bin/hz3".into(), content: of_version(WRAPPER, true) },
        Entry { path: "share/man/man1/hz3.1".into(), content: of_version(MANUAL, false) },
    ];
    for lane in Lane::ALL {
        let library = preload::build(workspace, lane)?;
        let versioned = format!("{}.{VERSION}", lane.library());
        entries.push(file(&library, format!("lib/{versioned}").into())?);
        entries.push(Entry { path: format!("lib/{}", lane.library()).into(), content: Content::Link(versioned) });
        let library = preload::build_static(workspace, lane)?;
        entries.push(file(&library, format!("lib/lib{}.a", lane.target()).into())?);
        let text = PACKAGE_FILE.replace("@VERSION@", VERSION).replace("@LANE@", lane.name());
        let name = if lane == Lane::Scale { "hz3".to_owned() } else { format!("hz3-{lane}") };
        entries.push(Entry {
            path: format!("lib/pkgconfig/{name}.pc").into(),
            content: Content::File { bytes: text.into_bytes(), is_executable: false },
        });
    }
    entries.push(file(&workspace.root.join("hz3-preload/include/hz3.h"), "include/hz3.h".into())?);
    let documents = Path::new(DOCUMENTS);
    for name in ["LICENSE", "README.md"] {
        entries.push(file(&workspace.root.join(name), documents.join(name))?);
    }
    for path in files_in(&workspace.root.join("docs"))? {
        let path = Path::new("docs").join(path);
        entries.push(file(&workspace.root.join(&path), documents.join(path))?);
    }
    entries.sort_by(|first, second| first.path.cmp(&second.path));
    Ok(entries)
}

fn file(source: &Path, path: PathBuf) -> Result<Entry> {
    let bytes = std::fs::read(source).with_context(|| format!("can't read {}", source.display()))?;
    Ok(Entry { path, content: Content::File { bytes, is_executable: false } })
}

/// Writes a file or a link beside its place and moves it there: a program that runs on the old library keeps
/// it, where writing into the file would change the code under its feet.
pub fn put(path: &Path, content: &Content) -> Result<()> {
    let folder = path.parent().context("a folder")?;
    std::fs::create_dir_all(folder)?;
    match content {
        Content::File { bytes, .. } => {
            let mut draft = NamedTempFile::new_in(folder)?;
            draft.write_all(bytes)?;
            draft.as_file().set_permissions(std::fs::Permissions::from_mode(content.mode()))?;
            draft.persist(path)?;
        }
        Content::Link(target) => {
            let draft = tempfile::Builder::new().make_in(folder, |draft| symlink(target, draft))?;
            draft.into_temp_path().persist(path)?;
        }
    }
    Ok(())
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

/// As `gzip -9n` does it: the same bytes give the same bytes.
pub fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}
