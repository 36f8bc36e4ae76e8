//! Peer build: the field's allocators, compiled from the sources that crates.io's sys crates carry.
//!
//! Each peer is the plain preload library that its authors ship, in its best reasonable build:
//! optimised, without checks but for two that are built for finding faults, with initial-exec thread-local storage. No forwarding layer of ours
//! stands before its entry points.
//!
//! ```text
//!   target/peers/source/       a generated package that depends on the sys crates, to fetch them
//!   target/peers/work/NAME/    objects
//!   target/peers/NAME.so       the library
//!   target/peers/NAME.json     its version and the environment it wants
//! ```

use crate::recipe::{RECIPES, Recipe};
use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use hz3::record::Missing;
use hz3::workspace::BUILD_TIME_LIMIT;
use hz3::{UsageError, Workspace, process};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Arguments of `build-peers`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Build only these, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Build again what is there already
    #[arg(long)]
    force: bool,
}

/// A peer that was built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Built {
    /// The peer's name.
    pub name: String,
    /// Version and origin.
    pub version: String,
    /// Variables that it is run with beside `LD_PRELOAD`.
    pub environment: Vec<(String, String)>,
    /// The compiler.
    pub compiler: String,
    /// The library.
    #[serde(skip)]
    pub library: PathBuf,
}

/// `cargo xtask build-peers`: builds what is missing and prints each library's path. A peer that
/// can't be built is named with the reason; the exit code is then 1.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let known: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
    if let Some(unknown) = arguments.only.iter().find(|name| !known.contains(&name.as_str())) {
        let message = format!("no peer is named '{unknown}'; the peers are {}", known.join(", "));
        return Err(UsageError(message).into());
    }
    let workspace = Workspace::locate()?;
    let folder = folder(&workspace.target);
    let wanted = RECIPES
        .iter()
        .filter(|recipe| arguments.only.is_empty() || arguments.only.iter().any(|name| name == recipe.name));
    let mut sources = None;
    let mut failed = false;
    for recipe in wanted {
        let library = folder.join(recipe.library());
        if arguments.force || read_built(&folder, recipe).is_none() {
            let sources = match &sources {
                Some(sources) => sources,
                None => sources.insert(fetch_sources(&workspace, &folder)?),
            };
            eprintln!("building {}", recipe.name);
            if let Err(error) = build(recipe, sources, &folder) {
                eprintln!("missing: {}: {error:#}", recipe.name);
                failed = true;
                continue;
            }
        }
        println!("{}", library.display());
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Every peer of those that `has_part` takes: the library, or why it is not there.
pub fn built(target: &Path, has_part: impl Fn(&Recipe) -> bool) -> Vec<Result<Built, Missing>> {
    let folder = folder(target);
    let one = |recipe: &Recipe| {
        read_built(&folder, recipe).ok_or_else(|| Missing {
            name: recipe.name.to_owned(),
            reason: "not built: cargo xtask build-peers".to_owned(),
        })
    };
    RECIPES.iter().filter(|recipe| has_part(recipe)).map(one).collect()
}

fn folder(target: &Path) -> PathBuf {
    target.join("peers")
}

fn read_built(folder: &Path, recipe: &Recipe) -> Option<Built> {
    let library = folder.join(recipe.library());
    let text = std::fs::read_to_string(library.with_extension("json")).ok()?;
    let built: Built = serde_json::from_str(&text).ok()?;
    (library.is_file() && built.version == recipe.version()).then_some(Built { library, ..built })
}

/// Where each sys crate's sources lie, by crate name.
pub type Sources = std::collections::HashMap<String, PathBuf>;

/// Lets cargo fetch the sys crates, by way of a generated package that depends on exactly them.
fn fetch_sources(workspace: &Workspace, folder: &Path) -> Result<Sources> {
    let package = folder.join("source");
    let mut manifest = String::from(
        "[package]\nname = \"peer-sources\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n\
         [lib]\npath = \"empty.rs\"\n\n[workspace]\n\n[dependencies]\n",
    );
    // Two builds of one allocator have one package.
    let packages: BTreeMap<&str, &str> =
        RECIPES.iter().map(|recipe| (recipe.package, recipe.package_version)).collect();
    for (package, version) in packages {
        writeln!(manifest, "{package} = \"={version}\"")?;
    }
    std::fs::create_dir_all(&package).with_context(|| format!("can't make {}", package.display()))?;
    std::fs::write(package.join("empty.rs"), "")?;
    std::fs::write(package.join("Cargo.toml"), manifest)?;
    let mut fetch = workspace.cargo();
    fetch.args(["fetch", "--manifest-path"]).arg(package.join("Cargo.toml"));
    process::expect_success(&mut fetch, BUILD_TIME_LIMIT).context("can't fetch the sys crates")?;
    let metadata = MetadataCommand::new()
        .manifest_path(package.join("Cargo.toml"))
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .context("can't read the sys crates' metadata")?;
    let folder_of = |package: cargo_metadata::Package| {
        let manifest = package.manifest_path.into_std_path_buf();
        let folder = manifest.parent().expect("a manifest lies in a folder").to_owned();
        (package.name.to_string(), folder)
    };
    Ok(metadata.packages.into_iter().map(folder_of).collect())
}

fn build(recipe: &Recipe, sources: &Sources, folder: &Path) -> Result<()> {
    let absent: Vec<&str> = recipe.tools.iter().copied().filter(|tool| which::which(tool).is_err()).collect();
    if !absent.is_empty() {
        bail!("needs {}: apt-get install {}", absent.join(", "), packages_of(&absent).join(" "));
    }
    let source = sources.get(recipe.package).context("cargo did not fetch its sources")?;
    let work = folder.join("work").join(recipe.name);
    if work.exists() {
        std::fs::remove_dir_all(&work).with_context(|| format!("can't clear {}", work.display()))?;
    }
    std::fs::create_dir_all(&work)?;
    let result = (recipe.build)(source, &work)?;
    let library = folder.join(recipe.library());
    std::fs::copy(&result, &library).with_context(|| format!("can't write {}", library.display()))?;
    check_that_it_loads(&library)?;
    let built = Built {
        name: recipe.name.to_owned(),
        version: recipe.version(),
        environment: recipe.environment(),
        compiler: recipe.tools[0].to_owned(),
        library: PathBuf::new(),
    };
    std::fs::write(library.with_extension("json"), serde_json::to_string_pretty(&built)?)?;
    Ok(())
}

/// The loader only warns about a preload library that it can't load, on standard error.
fn check_that_it_loads(library: &Path) -> Result<()> {
    let mut command = Command::new("true");
    command.env("LD_PRELOAD", library);
    let captured = process::expect_success(&mut command, BUILD_TIME_LIMIT)?;
    match captured.stderr_text().lines().next() {
        Some(complaint) => bail!("{complaint}"),
        None => Ok(()),
    }
}

/// Debian's packages of build tools.
fn packages_of(tools: &[&str]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = tools
        .iter()
        .map(|tool| match *tool {
            "clang" | "clang++" => "clang",
            "gcc" => "gcc",
            "g++" => "g++",
            "cmake" => "cmake",
            _ => "make",
        })
        .collect();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_counts_as_built_only_with_its_library_and_the_current_version() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = &RECIPES[0];
        let built = Built {
            name: recipe.name.to_owned(),
            version: recipe.version(),
            environment: recipe.environment(),
            compiler: "cc".to_owned(),
            library: PathBuf::new(),
        };
        let library = folder.path().join(recipe.library());
        let write = |built: &Built| {
            std::fs::write(library.with_extension("json"), serde_json::to_string(built).unwrap()).unwrap();
        };
        write(&built);
        assert_eq!(read_built(folder.path(), recipe), None);
        std::fs::write(&library, "").unwrap();
        assert_eq!(read_built(folder.path(), recipe).unwrap().library, library);
        write(&Built { version: "older".to_owned(), ..built });
        assert_eq!(read_built(folder.path(), recipe), None);
    }

    #[test]
    fn a_peer_that_is_not_built_is_missing_with_the_command_that_builds_it() {
        let folder = tempfile::tempdir().unwrap();
        for missing in built(folder.path(), |_| true) {
            assert!(missing.unwrap_err().reason.contains("build-peers"));
        }
    }

    #[test]
    fn a_library_that_the_loader_refuses_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("broken.so");
        std::fs::write(&library, "not a library").unwrap();
        let error = check_that_it_loads(&library).unwrap_err().to_string();
        assert!(error.contains("broken.so"), "{error}");
    }

    #[test]
    fn missing_tools_are_named_with_their_packages() {
        assert_eq!(packages_of(&["clang", "clang++", "make"]), ["clang", "make"]);
    }
}
