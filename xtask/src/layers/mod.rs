//! Layers: proves that the folders of a package import only downwards and that no two of its files import each other.
//!
//! File a *uses* file b where a path in a, a `use` included, leads to an item that b defines; re-exports, renamed imports
//! and globs are followed, macro bodies are read, code for tests is not. A `mod` declaration is no use, and a file that
//! only declares and re-exports is never used: its users use what lies behind it.
//!
//! Method calls need no resolving. An inherent `impl` stands in the file of its type, and an `impl` of a trait in the
//! file of the type or of the trait; so a called method is defined where its type or its trait is. The value came
//! from a function, a field or a static, and the file of that one names the type: every call follows a chain of
//! paths. What is left are generic parameters and associated types, and their traits are named where they are bound.
//! The file that calls need not name the type itself, though. So a call of a method that only one file of the package
//! defines is held against the order of the folders as well. A name that several files define, or that the standard
//! library has too, is passed over.

mod graph;
mod planted;
mod rules;
mod scan;
mod standard_methods;
#[cfg(test)]
mod tests;
mod tokens;
mod tree;

pub use tree::Package;

use anyhow::{Context, Result, bail};
use cargo_metadata::{MetadataCommand, TargetKind};
use graph::Graph;
use hz3::{UsageError, Workspace};
use rules::Rules;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use tree::Tree;

/// The package with an order of folders.
pub const ORDERED: &str = "hz3-core";

/// The folders of hz3-core, and the files beside them, lowest first.
const HZ3_CORE: Rules<'static> = Rules {
    order: &[
        "platform",
        "pages",
        "hardening",
        "regions",
        "record",
        "transfer",
        "thread",
        "upkeep",
        "allocator",
        "observe",
        "process",
        "lane",
        "api",
        "lib",
    ],
    levels: Some(10),
};

/// Arguments of `layers`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Only this package of the workspace
    #[arg(long)]
    package: Option<String>,
    /// Print what FILE imports, and what that imports, each file once and in the order of the imports
    #[arg(long, value_name = "FILE")]
    from: Option<String>,
}

/// `cargo xtask layers`: prints the layers and what breaks their rules. Exit code 1 when something does.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let mut packages = packages()?;
    packages.retain(|package| arguments.package.as_ref().is_none_or(|name| *name == package.name));
    if packages.is_empty() {
        let name = arguments.package.as_deref().unwrap_or_default();
        return Err(UsageError(format!("the workspace has no package {name}")).into());
    }
    if let Some(file) = &arguments.from {
        return walk(&packages, file);
    }
    let mut sound = true;
    for package in &packages {
        let tree = Tree::read(package)?;
        println!("{}", package.name);
        print!("{}", drawn(&tree, &rules_of(package)));
        for knot in rules::knots(&tree) {
            println!("{} files import each other: {}", knot.len(), knot.join(" "));
        }
        for fault in rules::faults(&tree, &rules_of(package)) {
            sound = false;
            println!("{fault}");
        }
        println!();
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Demands that a package keeps to its rules; the error has the breaches, one to a line.
///
/// # Errors
/// It doesn't, or its sources can't be read.
pub fn check(package: &Package) -> Result<()> {
    let found = rules::faults(&Tree::read(package)?, &rules_of(package));
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    Ok(())
}

/// Demands that the check finds a breach of each kind, planted in a copy of a package.
///
/// # Errors
/// It doesn't, or there is no place for one.
pub fn check_planted(package: &Package) -> Result<()> {
    planted::check(package, &rules_of(package))
}

/// The rules for a package.
fn rules_of(package: &Package) -> Rules<'static> {
    if package.name == ORDERED { HZ3_CORE } else { Rules::default() }
}

/// The packages of the workspace, as cargo knows them.
///
/// # Errors
/// Cargo can't read the workspace.
pub fn packages() -> Result<Vec<Package>> {
    let root = Workspace::locate()?.root;
    let manifest = root.join("Cargo.toml");
    let metadata = MetadataCommand::new()
        .manifest_path(&manifest)
        .no_deps()
        .exec()
        .with_context(|| format!("cargo metadata of {}", manifest.display()))?;
    let is_ours = |kind: &TargetKind| {
        !matches!(kind, TargetKind::Test | TargetKind::Bench | TargetKind::Example | TargetKind::CustomBuild)
    };
    let packages = metadata.workspace_packages().into_iter().map(|package| Package {
        name: package.name.to_string(),
        base: root.clone(),
        source: package.manifest_path.with_file_name("src").into_std_path_buf(),
        library: package
            .targets
            .iter()
            .find(|target| {
                target
                    .kind
                    .iter()
                    .any(|kind| ["lib", "rlib", "cdylib", "staticlib"].map(TargetKind::from).contains(kind))
            })
            .map(|target| target.name.replace('-', "_")),
        roots: package
            .targets
            .iter()
            .filter(|target| target.kind.iter().any(is_ours))
            .map(|target| target.src_path.clone().into_std_path_buf())
            .collect(),
    });
    Ok(packages.collect())
}

/// The names of the files on each level.
type Levels<'a> = BTreeMap<usize, BTreeSet<&'a str>>;

/// The folders in their order, highest first, with the files on each level; a file in no folder stands by itself.
fn drawn(tree: &Tree, rules: &Rules<'_>) -> String {
    let levels = rules::between_items(tree, &rules::imports(tree)).levels();
    let mut folders: BTreeMap<(Option<usize>, &str), Levels<'_>> = BTreeMap::new();
    for (index, file) in tree.files.iter().enumerate().filter(|(_, file)| !file.is_transparent) {
        let place = rules::rank(tree, rules, index);
        let has_folder = place.is_some() || file.name.contains('/');
        let folder = if has_folder { rules::top_of(&file.name) } else { "." };
        let level = levels.get(&index).copied().unwrap_or(1);
        folders.entry((place, folder)).or_default().entry(level).or_default().insert(&file.name);
    }
    let mut text = String::new();
    for ((_, folder), levels) in folders.iter().rev() {
        let _ = writeln!(text, "  {folder}");
        for (level, files) in levels.iter().rev() {
            let within = |name: &&str| name.strip_prefix(&format!("{folder}/")).unwrap_or(name).to_owned();
            let _ = writeln!(text, "    {level:2}  {}", files.iter().map(within).collect::<Vec<_>>().join(" "));
        }
    }
    text
}

/// Prints what a file of one of the packages reaches.
fn walk(packages: &[Package], file: &str) -> Result<ExitCode> {
    for package in packages {
        let tree = Tree::read(package)?;
        let is_meant =
            |found: &tree::File| found.name == file || found.shown == file || Path::new(&found.shown).ends_with(file);
        if let Some(start) = tree.files.iter().position(is_meant) {
            let imports = rules::imports(&tree);
            step(&tree, &imports, start, 0, &mut BTreeSet::new());
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(UsageError(format!("no package has a file {file}")).into())
}

fn step(tree: &Tree, imports: &Graph, file: usize, depth: usize, seen: &mut BTreeSet<usize>) {
    if seen.insert(file) {
        println!("{:indent$}{}", "", tree.files[file].shown, indent = depth * 2);
        for used in imports.used_by(file) {
            step(tree, imports, used, depth + 1, seen);
        }
    }
}
