//! Workspace: where the sources and the build results lie, and the cargo that builds them.

use crate::home::Home;
use crate::lane::Lane;
use crate::process;
use crate::record::machine::Source;
use anyhow::{Context, Result, bail};
use cargo_metadata::{Message, MetadataCommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A build from scratch on a slow machine stays far below this.
pub const BUILD_TIME_LIMIT: Duration = Duration::from_secs(900);

/// The package of the programs that measure.
const BENCHMARKS: &str = "hz3-bench-mt-remote";

/// A build that takes longer than this is shown on the terminal.
const QUIET_TIME: Duration = Duration::from_millis(700);

/// The workspace this program was built from.
pub struct Workspace {
    /// The folder of the workspace's Cargo.toml.
    pub root: PathBuf,
    /// The folder of the build results; follows `CARGO_TARGET_DIR` and cargo's configuration.
    pub target: PathBuf,
    cargo: PathBuf,
    /// What the libraries and the command are built for, where it is not this machine: a target's name.
    platform: Option<String>,
}

/// Flags of the compiler for shared libraries for musl: no static C library, and the linker's start files.
const MUSL_FLAGS: &str = "-Ctarget-feature=-crt-static -Clink-self-contained=no";
/// Links with musl, whose start files it knows. Debian's package musl-tools has it.
pub const MUSL_LINKER: &str = "musl-gcc";

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
            platform: None,
        })
    }

    /// The same sources, whose libraries and command are built for `platform`, a target's name such as
    /// `aarch64-unknown-linux-gnu`; `None`: for this machine.
    pub fn built_for(self, platform: Option<String>) -> Workspace {
        Workspace { platform, ..self }
    }

    /// The target's name, where it is not this machine's.
    pub fn platform(&self) -> Option<&str> {
        self.platform.as_deref()
    }

    /// The processor that is built for, as a target's name begins.
    pub fn architecture(&self) -> &str {
        let named = self.platform().and_then(|name| name.split('-').next());
        named.unwrap_or(std::env::consts::ARCH)
    }

    /// Whether what is built is for musl.
    pub fn is_for_musl(&self) -> bool {
        self.platform().is_some_and(|name| name.ends_with("-musl"))
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
    fn toolchain_libraries(&self) -> PathBuf {
        self.cargo.ancestors().nth(2).unwrap_or(Path::new("/")).join("lib")
    }

    /// Builds one of the programs that measure, and returns its path.
    pub fn build_benchmark(&self, name: &str) -> Result<PathBuf> {
        self.build("release", BENCHMARKS, name, name, &mut |_| {})
    }

    /// Builds the program `name` of a package, in a profile, and returns its path. Quiet; a build that takes long shows a
    /// spinner on a terminal.
    pub fn build_program(&self, profile: &str, package: &str, name: &str) -> Result<PathBuf> {
        with_spinner(name, |waiting| self.build(profile, package, name, name, waiting))
    }

    /// Builds the lane's library if it is missing or outdated and returns its path. Quiet; a build that
    /// takes long shows a spinner on a terminal.
    pub fn build_library(&self, lane: Lane) -> Result<PathBuf> {
        with_spinner(&lane.library(), |waiting| self.build("release", &lane.package(), &lane.target(), ".so", waiting))
    }

    /// As [`Workspace::build_library`], but shows nothing.
    pub fn build_library_quietly(&self, lane: Lane) -> Result<PathBuf> {
        self.build("release", &lane.package(), &lane.target(), ".so", &mut |_| {})
    }

    /// Builds the lane's static library, without what a static program can't have, and returns its path.
    pub fn build_static_library(&self, lane: Lane) -> Result<PathBuf> {
        let mut command = self.cargo();
        command.args(["rustc", "--profile", "release", "--package", &lane.package()]);
        command.args(["--lib", "--crate-type", "staticlib", "--features", "linked"]);
        self.result_of(command, &lane.package(), &lane.target(), ".a", &mut |_| {})
    }

    /// Builds one target of one package, in a cargo invocation of its own so that no other package's features reach it,
    /// and returns the path of the result whose name ends with `suffix`. `waiting` is told now and then how long it has
    /// taken so far.
    fn build(
        &self,
        profile: &str,
        package: &str,
        target: &str,
        suffix: &str,
        waiting: &mut dyn FnMut(Duration),
    ) -> Result<PathBuf> {
        let mut command = self.cargo();
        command.args(["build", "--profile", profile, "--package", package]);
        self.result_of(command, package, target, suffix, waiting)
    }

    /// Runs a build and returns the path of the target's result whose name ends with `suffix`.
    fn result_of(
        &self,
        mut command: Command,
        package: &str,
        target: &str,
        suffix: &str,
        waiting: &mut dyn FnMut(Duration),
    ) -> Result<PathBuf> {
        command.arg("--message-format=json-render-diagnostics");
        if let Some(platform) = &self.platform {
            command.args(["--target", platform]);
            // Libraries alone: a program's result has its own name.
            if self.is_for_musl() && suffix.starts_with('.') {
                command.envs(variables_of_musl(platform));
            }
        }
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

/// The variable that tells cargo the `setting` of a target, such as `LINKER`.
pub fn variable_of_target(platform: &str, setting: &str) -> String {
    format!("CARGO_TARGET_{}_{setting}", platform.to_uppercase().replace('-', "_"))
}

/// What makes cargo build shared libraries for musl, which by default are not to be had: programs are static ones there.
pub fn variables_of_musl(platform: &str) -> Vec<(String, String)> {
    let flags = variable_of_target(platform, "RUSTFLAGS");
    let before = std::env::var(&flags).unwrap_or_default();
    let mut variables = vec![(flags, format!("{before} {MUSL_FLAGS}").trim().to_owned())];
    let linker = variable_of_target(platform, "LINKER");
    if std::env::var_os(&linker).is_none() && platform.starts_with(std::env::consts::ARCH) {
        variables.push((linker, MUSL_LINKER.to_owned()));
    }
    variables
}

impl Home for Workspace {
    fn caller(&self) -> &str {
        "cargo xtask"
    }

    fn library(&self, lane: Lane) -> Result<PathBuf> {
        self.build_library(lane)
    }

    /// Without the entries that `cargo run` has added: the build folder's and the toolchain's. `None` when nothing is left.
    fn library_path(&self) -> Option<OsString> {
        let value = std::env::var_os("LD_LIBRARY_PATH")?;
        let kept = entries_of_the_user(&value, &self.target, &self.toolchain_libraries());
        if kept.is_empty() { None } else { std::env::join_paths(kept).ok() }
    }

    fn own_variables(&self) -> Vec<OsString> {
        variables_of_cargo_run()
    }

    fn source(&self) -> Source {
        Source::describe(&self.root)
    }
}

/// Lets `build` work, which tells the function that it is given how long it has taken so far: a build that takes long
/// shows a spinner on a terminal.
fn with_spinner<T>(name: &str, build: impl FnOnce(&mut dyn FnMut(Duration)) -> Result<T>) -> Result<T> {
    let mut spinner = None;
    let outcome = build(&mut |elapsed| {
        if elapsed >= QUIET_TIME {
            spinner
                .get_or_insert_with(|| {
                    ProgressBar::new_spinner()
                        .with_style(
                            ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is valid"),
                        )
                        .with_elapsed(elapsed)
                        .with_message(format!("building {name}"))
                })
                .tick();
        }
    });
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    outcome
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

fn entries_of_the_user(value: &OsStr, target: &Path, toolchain_libraries: &Path) -> Vec<PathBuf> {
    std::env::split_paths(value)
        .filter(|entry| {
            !entry.starts_with(target)
                && entry != toolchain_libraries
                && !entry.starts_with(toolchain_libraries.join("rustlib"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_user_s_own_library_folders_reach_the_program() {
        let value = OsStr::new("/t/debug:/t/debug/deps:/tc/lib/rustlib/x/lib:/tc/lib:/opt/lib");
        let kept = entries_of_the_user(value, Path::new("/t"), Path::new("/tc/lib"));
        assert_eq!(kept, [Path::new("/opt/lib")]);
    }
}
