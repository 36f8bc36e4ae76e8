//! Session: what the steps of one run of the suite share.

use crate::forward;
use anyhow::{Context, Result, anyhow, ensure};
use hz3::record::tuning_variables;
use hz3::{Lane, Workspace, process};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// For one check of `hz3-eval`.
const TIME_LIMIT: Duration = Duration::from_secs(600);

/// The workspace, the libraries once they are built, and a scratch folder.
pub struct Session {
    /// Where the sources lie.
    pub workspace: Workspace,
    /// The path of the program that is running. Taken at the start: a later build may replace the file,
    /// and then the system has no name for ours any more.
    pub own_program: PathBuf,
    libraries: HashMap<Lane, Result<PathBuf, String>>,
    scratch: TempDir,
}

impl Session {
    /// Locates the workspace and makes the scratch folder.
    pub fn start() -> Result<Session> {
        Ok(Session {
            workspace: Workspace::locate()?,
            own_program: std::env::current_exe().context("own path")?,
            libraries: HashMap::new(),
            scratch: tempfile::Builder::new().prefix("hz3-test-").tempdir().context("scratch folder")?,
        })
    }

    /// The lane's library, built at the first call.
    pub fn library(&mut self, lane: Lane) -> Result<PathBuf> {
        let workspace = &self.workspace;
        self.libraries
            .entry(lane)
            .or_insert_with(|| workspace.build_library_quietly(lane).map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(|error| anyhow!(error))
    }

    /// Builds the benchmark of memory; its command, on which none of hz3's options has an influence.
    pub fn bench_memory(&self) -> Result<Command> {
        let mut command = Command::new(self.workspace.build_benchmark("hz3-bench-memory")?);
        for variable in tuning_variables() {
            command.env_remove(variable);
        }
        Ok(command)
    }

    /// Builds `hz3-eval`, so that no later command which is handed on to it waits for that.
    pub fn build_evaluation(&self) -> Result<PathBuf> {
        forward::build(&self.workspace)
    }

    /// A check that `hz3-eval` makes; its failure is an error that says what is wrong.
    pub fn evaluate(&self, arguments: &[&str]) -> Result<()> {
        let captured = process::capture(Command::new(self.build_evaluation()?).args(arguments), TIME_LIMIT)?;
        ensure!(captured.status.success(), "{}", captured.text().trim_start_matches("error: "));
        Ok(())
    }

    /// The libraries of `lanes`.
    pub fn libraries(&mut self, lanes: &[Lane]) -> Result<Vec<(Lane, PathBuf)>> {
        lanes.iter().map(|&lane| Ok((lane, self.library(lane)?))).collect()
    }

    /// An empty folder of that name, the same path at each call: what a program writes may depend on
    /// the folder it runs in.
    pub fn empty_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.scratch.path().join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        }
        std::fs::create_dir(&folder).with_context(|| format!("{}", folder.display()))?;
        Ok(folder)
    }

    /// A folder with all libraries side by side.
    pub fn folder_of_libraries(&mut self) -> Result<PathBuf> {
        let folder = self.empty_folder("libraries")?;
        for (lane, library) in self.libraries(&Lane::ALL)? {
            link(&library, &folder.join(lane.library()))?;
        }
        Ok(folder)
    }
}

fn link(original: &Path, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(original, link).with_context(|| format!("{}", link.display()))
}
