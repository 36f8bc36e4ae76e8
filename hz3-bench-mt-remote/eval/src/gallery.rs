//! Gallery: a folder of results that a command measures and draws by itself: data.tsv, pictures, and a README.md that says what was run.

use crate::field::find;
use anyhow::{Context, Result};
use hz3::record::{Allocator, Machine, Role, Selection, Source, print_missing};
use hz3::report::canvas::PEER_COLOURS;
use hz3::{Lane, Workspace, process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

/// What is measured, and where the results go.
pub struct Gallery {
    /// The sources.
    pub workspace: Workspace,
    /// Those measured.
    pub allocators: Vec<Allocator>,
    folder: PathBuf,
}

impl Gallery {
    /// Finds the selected allocators, the hardened lane with the default ones, and makes the folder: `output`, or
    /// `folder` of the workspace. From here on, an interrupt ends the command between two runs.
    pub fn open(selection: &Selection, output: Option<&Path>, folder: &str) -> Result<Gallery> {
        let workspace = Workspace::locate()?;
        let mut selection = selection.clone();
        if selection.wanted.lanes == Lane::FOR_SPEED {
            selection.wanted.lanes.push(Lane::Hardened);
        }
        let (allocators, missing) = find(&workspace, &selection)?;
        print_missing(&missing);
        process::catch_interrupts()?;
        let folder = output.map_or_else(|| workspace.root.join(folder), Path::to_path_buf);
        std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        Ok(Gallery { workspace, allocators, folder })
    }

    /// The file of all figures.
    pub fn data(&self) -> Result<File> {
        let path = self.folder.join("data.tsv");
        File::create(&path).with_context(|| format!("{}", path.display()))
    }

    /// Writes a picture.
    pub fn hang(&self, name: &str, picture: String) -> Result<()> {
        std::fs::write(self.folder.join(name), picture).with_context(|| name.to_owned())
    }

    /// The beginning of the page: `title`, the sources, the machine, the command and the allocators.
    pub fn heading(&self, title: &str) -> String {
        let arguments: Vec<_> = std::env::args().skip(1).collect();
        let version = |allocator: &Allocator| format!("{} {}", allocator.record.name, allocator.record.version);
        let versions: Vec<_> = self.allocators.iter().map(version).collect();
        format!(
            "# {title}, {}\n\n- hz3 {}\n- {}\n- `cargo xtask {}`\n- {}\n\n",
            humantime::format_rfc3339_seconds(SystemTime::now()),
            Source::describe(&self.workspace.root).line(),
            Machine::describe().line(),
            arguments.join(" "),
            versions.join(", "),
        )
    }

    /// Writes the page, and says where.
    pub fn finish(&self, page: String) -> Result<ExitCode> {
        let path = self.folder.join("README.md");
        std::fs::write(&path, page).with_context(|| format!("{}", path.display()))?;
        println!("written: {}", path.display());
        Ok(ExitCode::SUCCESS)
    }

    /// The allocators, each with its style class: lanes and the system have their own, peers follow their order.
    pub fn styled(&self) -> impl Iterator<Item = (&Allocator, String)> {
        let mut peers = 0..;
        self.allocators.iter().map(move |allocator| match allocator.record.role {
            Role::Peer => (allocator, format!("peer{}", peers.next().unwrap_or(0) % PEER_COLOURS)),
            _ => (allocator, allocator.record.name.clone()),
        })
    }
}
