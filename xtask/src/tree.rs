//! Tree: what is installed: the command, the libraries, the header, the licence and the documents. It works wherever it
//! lies.
//!
//! ```text
//!   bin/hz3                                   the command, which runs programs on hz3
//!   include/hz3.h                             for programs that are linked with hz3
//!   lib/cmake/hz3/                            find_package(hz3), for CMake
//!   lib/libhakozuna_hz3_scale.a               the library for static programs
//!   lib/libhakozuna_hz3_scale.so              the SONAME, a link to
//!   lib/libhakozuna_hz3_scale.so.0.1.0        the library
//!   lib/pkgconfig/hz3.pc                      the scale lane, for pkg-config; hz3-fast.pc and hz3-hardened.pc
//!   share/doc/hz3/                            licence, README, docs
//!   share/man, share/bash-completion, …       manual pages, and what shells complete
//! ```

use crate::files::files_in;
use crate::manual;
use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use hz3::{Lane, Workspace};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// The version of all that is installed.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The pkg-config file; `@VERSION@` and `@LANE@` stand for themselves.
const PACKAGE_FILE: &str = include_str!("../../hz3-preload/include/hz3.pc.in");

/// The files for CMake; `@VERSION@` stands for the version.
const CMAKE_FILES: [(&str, &str); 2] = [
    ("hz3-config.cmake", include_str!("../../hz3-preload/include/hz3-config.cmake.in")),
    ("hz3-config-version.cmake", include_str!("../../hz3-preload/include/hz3-config-version.cmake.in")),
];

/// The profile that the command is built in.
const PROFILE: &str = "tool";

const DOCUMENTS: &str = "share/doc/hz3";

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
    /// Its mode.
    pub fn mode(&self) -> u32 {
        if matches!(self, Content::File { is_executable: true, .. }) { 0o755 } else { 0o644 }
    }
}

/// The whole tree, in the order of its paths.
pub fn entries(workspace: &Workspace) -> Result<Vec<Entry>> {
    let command =
        std::fs::read(workspace.build_program(PROFILE, "hz3-tool", "hz3")?).context("can't read the command")?;
    let pages = manual::files(&workspace.root)?.into_iter();
    let mut entries: Vec<Entry> = pages
        .map(|(path, bytes)| Entry { path: path.into(), content: Content::File { bytes, is_executable: false } })
        .collect();
    entries.push(Entry { path: "bin/hz3".into(), content: Content::File { bytes: command, is_executable: true } });
    for lane in Lane::ALL {
        let library = workspace.build_library(lane)?;
        let versioned = format!("{}.{VERSION}", lane.library());
        entries.push(file(&library, format!("lib/{versioned}").into())?);
        entries.push(Entry { path: format!("lib/{}", lane.library()).into(), content: Content::Link(versioned) });
        let library = workspace.build_static_library(lane)?;
        entries.push(file(&library, format!("lib/lib{}.a", lane.target()).into())?);
        let text = PACKAGE_FILE.replace("@VERSION@", VERSION).replace("@LANE@", lane.name());
        let name = if lane == Lane::Scale { "hz3".to_owned() } else { format!("hz3-{lane}") };
        entries.push(Entry {
            path: format!("lib/pkgconfig/{name}.pc").into(),
            content: Content::File { bytes: text.into_bytes(), is_executable: false },
        });
    }
    for (name, text) in CMAKE_FILES {
        let bytes = text.replace("@VERSION@", VERSION).into_bytes();
        let content = Content::File { bytes, is_executable: false };
        entries.push(Entry { path: format!("lib/cmake/hz3/{name}").into(), content });
    }
    entries.push(file(&workspace.root.join("hz3-preload/include/hz3.h"), "include/hz3.h".into())?);
    let documents = Path::new(DOCUMENTS);
    for name in ["LICENSE", "README.md"] {
        entries.push(file(&workspace.root.join(name), documents.join(name))?);
    }
    let docs = workspace.root.join("docs");
    for path in files_in(&docs)? {
        entries.push(file(&docs.join(&path), documents.join("docs").join(path))?);
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

/// As `gzip -9n` does it: the same bytes give the same bytes.
pub fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}
