//! Global allocator: one candidate of `bench-rust`, that is a small Rust program that is built with it.
//!
//! ```text
//!   target/global-allocators/NAME/     a generated package: Cargo.toml, and main.rs with the allocator's static
//!   target/global-allocators/build/    cargo's results
//! ```
//!
//! The programs differ in nothing else: their workloads are `hz3-bench-rust`'s own files, their profile is the
//! workspace's. Each is a package by itself, so that a crate that can't be had or built stops no other.

use crate::field::Field;
use anyhow::{Context, Result};
use hz3::record::{Allocator, AllocatorRecord, Missing, Role, Wanted, output_of};
use hz3::workspace::BUILD_TIME_LIMIT;
use hz3::{Lane, Workspace, process};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workloads, from the workspace's root.
const WORKLOADS: &str = "hz3-bench-mt-remote/src/bin/hz3-bench-rust/workloads/mod.rs";

/// As the workspace's own release profile.
const PROFILE: &str = "[profile.release]\nlto = \"fat\"\ncodegen-units = 1\npanic = \"abort\"\n";

/// A crate that offers a global allocator.
struct Offer {
    /// The name in tables: the crate's.
    name: &'static str,
    /// The crate and what carries its C or C++ sources, with their versions, pinned.
    packages: &'static [(&'static str, &'static str)],
    /// The static's type.
    kind: &'static str,
    /// Its value.
    value: &'static str,
    environment: &'static [(&'static str, &'static str)],
}

const OFFERS: [Offer; 5] = [
    Offer {
        name: "mimalloc",
        packages: &[("mimalloc", "0.1.52"), ("libmimalloc-sys", "0.1.49")],
        kind: "mimalloc::MiMalloc",
        value: "mimalloc::MiMalloc",
        environment: &[],
    },
    Offer {
        name: "tikv-jemallocator",
        packages: &[("tikv-jemallocator", "0.7.0"), ("tikv-jemalloc-sys", "0.7.1")],
        kind: "tikv_jemallocator::Jemalloc",
        value: "tikv_jemallocator::Jemalloc",
        environment: &[],
    },
    Offer {
        name: "snmalloc-rs",
        packages: &[("snmalloc-rs", "0.7.6"), ("snmalloc-sys", "0.7.6")],
        kind: "snmalloc_rs::SnMalloc",
        value: "snmalloc_rs::SnMalloc",
        environment: &[],
    },
    Offer {
        name: "tcmalloc-better",
        packages: &[("tcmalloc-better", "0.1.19"), ("libtcmalloc-sys", "0.1.14")],
        kind: "tcmalloc_better::TCMalloc",
        value: "tcmalloc_better::TCMalloc",
        // As for the preload library of the same sources: its per-CPU caches need the thread's restartable sequence.
        environment: &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")],
    },
    Offer {
        name: "smmalloc",
        packages: &[("smmalloc", "7.6.13")],
        kind: "smmalloc::Smalloc",
        value: "smmalloc::Smalloc::new()",
        environment: &[],
    },
];

/// A program to build.
struct Program {
    name: String,
    role: Role,
    version: String,
    dependencies: String,
    kind: String,
    value: String,
    environment: Vec<(String, String)>,
}

impl Program {
    fn of_lane(workspace: &Workspace, lane: Lane) -> Program {
        let mut kind = lane.name().to_owned();
        kind[..1].make_ascii_uppercase();
        Program {
            name: lane.name().to_owned(),
            role: Role::Lane,
            version: format!("hz3-core {}", env!("CARGO_PKG_VERSION")),
            dependencies: format!("hz3-core = {{ path = {:?} }}\n", workspace.root.join("hz3-core")),
            kind: format!("hz3_core::Hz3<hz3_core::{kind}>"),
            value: "hz3_core::Hz3::new()".to_owned(),
            environment: Vec::new(),
        }
    }

    fn of_system() -> Program {
        Program {
            name: hz3::record::allocator::SYSTEM.to_owned(),
            role: Role::System,
            version: output_of(Command::new("getconf").arg("GNU_LIBC_VERSION")),
            dependencies: String::new(),
            kind: "std::alloc::System".to_owned(),
            value: "std::alloc::System".to_owned(),
            environment: Vec::new(),
        }
    }

    fn of_offer(offer: &Offer) -> Program {
        let mut dependencies = String::new();
        for (index, (package, version)) in offer.packages.iter().enumerate() {
            // The first one is what its users depend on; the others only have their versions pinned.
            let features = if index == 0 { "" } else { ", default-features = false" };
            let _ = writeln!(dependencies, "{package} = {{ version = \"={version}\"{features} }}");
        }
        let versions: Vec<_> = offer.packages.iter().map(|(package, version)| format!("{package} {version}")).collect();
        Program {
            name: offer.name.to_owned(),
            role: Role::Peer,
            version: versions.join(", "),
            dependencies,
            kind: offer.kind.to_owned(),
            value: offer.value.to_owned(),
            environment: offer.environment.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        }
    }

    fn package(&self) -> String {
        format!("hz3-bench-rust-{}", self.name)
    }

    fn manifest(&self) -> String {
        format!(
            "[package]\nname = \"{}\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n[workspace]\n\n\
             [dependencies]\nlibc = \"0.2\"\n{}\n{PROFILE}",
            self.package(),
            self.dependencies
        )
    }

    fn source(&self, workloads: &Path) -> String {
        format!(
            "//! Written by `cargo xtask bench-rust`.\n\n#[global_allocator]\nstatic GLOBAL: {} = {};\n\n\
             #[path = {workloads:?}]\nmod workloads;\n\nfn main() -> std::process::ExitCode {{\n    \
             workloads::main({:?})\n}}\n",
            self.kind, self.value, self.name
        )
    }

    /// Builds the program; an error says in one line why that can't be done.
    fn build(&self, workspace: &Workspace) -> Result<std::result::Result<PathBuf, String>> {
        let folder = workspace.target.join("global-allocators");
        let package = folder.join(&self.name);
        std::fs::create_dir_all(package.join("src")).with_context(|| format!("can't make {}", package.display()))?;
        renew(&package.join("Cargo.toml"), &self.manifest())?;
        renew(&package.join("src/main.rs"), &self.source(&workspace.root.join(WORKLOADS)))?;
        let lock = package.join("Cargo.lock");
        if !lock.exists() {
            // What both need then has the same version, and needs no registry.
            std::fs::copy(workspace.root.join("Cargo.lock"), &lock).context("can't copy Cargo.lock")?;
        }
        let results = folder.join("build");
        let program = results.join("release").join(self.package());
        if !program.exists() {
            eprintln!("building {}", self.package());
        }
        let mut command = workspace.cargo();
        command.args(["build", "--release", "--quiet", "--manifest-path"]).arg(package.join("Cargo.toml"));
        command.arg("--target-dir").arg(&results);
        let captured = process::capture(&mut command, BUILD_TIME_LIMIT)?;
        Ok(if captured.status.success() { Ok(program) } else { Err(reason_in(&captured.stderr_text())) })
    }

    fn allocator(&self, program: &Path) -> Result<Allocator> {
        let bytes = std::fs::read(program).with_context(|| format!("can't read {}", program.display()))?;
        let record = AllocatorRecord {
            name: self.name.clone(),
            role: self.role,
            version: self.version.clone(),
            library: Some(self.package()),
            fingerprint: Some(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes))),
            environment: self.environment.clone(),
        };
        Ok(Allocator { record, library: None })
    }
}

/// Writes the file unless it holds that already: a newer one would be compiled again.
fn renew(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

/// The first error that cargo told of, and the last line, in which a build script's own complaint mostly stands.
fn reason_in(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().find(|line| line.starts_with("error")).or_else(|| lines.clone().next());
    let last = lines.next_back().filter(|last| Some(*last) != first);
    let parts: Vec<_> = first.into_iter().chain(last).collect();
    if parts.is_empty() { "cargo can't build it".to_owned() } else { parts.join("; ") }
}

/// Builds the programs that are wanted; their paths by the allocators' names. Lanes and the system's allocator must
/// be there, a crate that can't be built is missing.
pub fn field(workspace: &Workspace, wanted: &Wanted) -> Result<(Field, HashMap<String, PathBuf>)> {
    let lanes = wanted.lanes.iter().map(|&lane| Program::of_lane(workspace, lane));
    let others: Vec<Program> =
        std::iter::once(Program::of_system()).chain(OFFERS.iter().map(Program::of_offer)).collect();
    wanted.check(&others.iter().map(|program| program.name.as_str()).collect::<Vec<_>>())?;
    let mut field = Field { found: Vec::new(), missing: Vec::new(), required: Vec::new() };
    let mut programs = HashMap::new();
    for program in lanes.chain(others.into_iter().filter(|program| wanted.has(&program.name))) {
        match program.build(workspace)? {
            Ok(path) => {
                field.found.push(program.allocator(&path)?);
                if program.role != Role::Peer {
                    field.required.push(program.name.clone());
                }
                programs.insert(program.name, path);
            }
            Err(reason) if program.role == Role::Peer => field.missing.push(Missing { name: program.name, reason }),
            Err(reason) => anyhow::bail!("cargo can't build {}: {reason}", program.package()),
        }
    }
    Ok((field, programs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_names_its_allocator_and_pins_its_crates() {
        for offer in &OFFERS {
            let program = Program::of_offer(offer);
            let source = program.source(Path::new("/w/mod.rs"));
            assert!(source.contains(&format!("static GLOBAL: {} = {};", offer.kind, offer.value)), "{source}");
            assert!(source.contains(&format!("workloads::main(\"{}\")", offer.name)), "{source}");
            let manifest = program.manifest();
            for (package, version) in offer.packages {
                assert!(manifest.contains(&format!("{package} = {{ version = \"={version}\"")), "{manifest}");
                assert!(program.version.contains(version), "{}", program.version);
            }
        }
    }

    #[test]
    fn the_programs_have_the_workspace_s_profile() {
        let manifest = include_str!("../../../Cargo.toml");
        for line in PROFILE.lines() {
            assert!(manifest.contains(line), "{line}");
        }
    }

    #[test]
    fn a_failed_build_s_reason_is_its_first_error_and_its_last_line() {
        let text = "warning: x\nerror: failed to run custom build command for `y`\n\n  CMake is not installed\n";
        let reason = "error: failed to run custom build command for `y`; CMake is not installed";
        assert_eq!(reason_in(text), reason);
        assert_eq!(reason_in("error: no matching package\n"), "error: no matching package");
        assert_eq!(reason_in(""), "cargo can't build it");
    }
}
