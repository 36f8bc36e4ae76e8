//! Workspace: where the sources and the build results lie, and the cargo that builds them.

use crate::process;
use anyhow::{Context, Result, bail};
use cargo_metadata::{Message, MetadataCommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A build from scratch on a slow machine stays far below this.
pub const BUILD_TIME_LIMIT: Duration = Duration::from_secs(900);

/// The workspace this program was built from.
pub struct Workspace {
    /// The folder of the workspace's Cargo.toml.
    pub root: PathBuf,
    /// The folder of the build results; follows `CARGO_TARGET_DIR` and cargo's configuration.
    pub target: PathBuf,
    cargo: PathBuf,
}

impl Workspace {
    /// Asks cargo for the folders.
    pub fn locate() -> Result<Workspace> {
        let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from(env!("CARGO")), PathBuf::from);
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let metadata = MetadataCommand::new()
            .cargo_path(&cargo)
            .manifest_path(&manifest)
            .no_deps()
            .exec()
            .with_context(|| format!("cargo metadata of {}", manifest.display()))?;
        Ok(Workspace {
            root: metadata.workspace_root.into_std_path_buf(),
            target: metadata.target_directory.into_std_path_buf(),
            cargo,
        })
    }

    /// A cargo command in the workspace's root that knows nothing of the cargo that started us, and
    /// runs on the system's own allocator.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        command.current_dir(&self.root).env_remove("LD_PRELOAD").env("CARGO_TERM_COLOR", "never");
        for variable in variables_of_cargo_run() {
            command.env_remove(variable);
        }
        command
    }

    /// The library folder of the toolchain that cargo belongs to.
    pub fn toolchain_libraries(&self) -> PathBuf {
        self.cargo.ancestors().nth(2).unwrap_or(Path::new("/")).join("lib")
    }

    /// Builds one target of one package in the release profile, in a cargo invocation of its own so
    /// that no other package's features reach it, and returns the path of the result whose name
    /// ends with `suffix`. `waiting` is told now and then how long it has taken so far.
    pub fn build_release(
        &self,
        package: &str,
        target: &str,
        suffix: &str,
        waiting: impl FnMut(Duration),
    ) -> Result<PathBuf> {
        let mut command = self.cargo();
        command.args(["build", "--release", "--package", package]);
        command.arg("--message-format=json-render-diagnostics");
        let captured = process::capture_while(&mut command, BUILD_TIME_LIMIT, waiting)?;
        if !captured.status.success() {
            bail!("cargo can't build {package}\n{}", captured.stderr_text().trim_end());
        }
        for message in Message::parse_stream(captured.stdout.as_slice()) {
            if let Message::CompilerArtifact(artifact) = message.context("cargo's messages")?
                && artifact.target.name == target
            {
                let files = artifact.filenames.into_iter().chain(artifact.executable);
                if let Some(file) = files.into_iter().find(|file| file.as_str().ends_with(suffix)) {
                    return Ok(file.into_std_path_buf());
                }
            }
        }
        bail!("cargo built {package} without a result named *{target}*{suffix}")
    }
}

/// The variables that `cargo run` sets for the program it runs, as far as they describe that
/// program's package.
pub fn variables_of_cargo_run() -> Vec<OsString> {
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| {
            name.to_str().is_some_and(|name| {
                name == "CARGO" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
            })
        })
        .collect()
}
