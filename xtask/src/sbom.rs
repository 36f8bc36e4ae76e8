//! Bill of materials: which packages are linked into the command and the libraries, as CycloneDX has it in JSON.
//!
//! `cargo tree` says so for each of them, with the features it is built with; packages that only run while something is
//! built, such as macros, are not linked. The same sources and compiler give the same bill.
//!
//! Outside rules: CycloneDX 1.5; package URLs (purl-spec); SPDX licence expressions.

use crate::tree::VERSION;
use anyhow::{Context, Result};
use hz3::workspace::BUILD_TIME_LIMIT;
use hz3::{Lane, Workspace, process};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What the whole is called among the components.
const WHOLE: &str = concat!("pkg:generic/hz3@", env!("CARGO_PKG_VERSION"));

/// The bill of what is built.
pub fn bill(workspace: &Workspace) -> Result<Vec<u8>> {
    let lock = std::fs::read_to_string(workspace.root.join("Cargo.lock")).context("Cargo.lock")?;
    let compiler = Compiler::ask(workspace)?;
    let platform = workspace.platform().unwrap_or(&compiler.host);
    let rust = json!({
        "type": "library", "bom-ref": format!("pkg:generic/rust@{}", compiler.release), "name": "rust",
        "version": compiler.release, "purl": format!("pkg:generic/rust@{}", compiler.release),
        "description": "Rust's standard library", "licenses": [{"expression": "MIT OR Apache-2.0"}],
    });
    let mut shipped = vec![("hz3-tool".to_owned(), "bin/hz3".to_owned())];
    shipped
        .extend(Lane::ALL.map(|lane| (lane.package(), format!("lib/{}, lib/lib{}.a", lane.library(), lane.target()))));
    let (mut components, mut edges) = (BTreeMap::new(), BTreeMap::<String, BTreeSet<String>>::new());
    for (package, files) in shipped {
        let mut tree = workspace.cargo();
        tree.args(["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", "|{p}|{l}"]);
        tree.args(["--target", platform, "--package", &package]);
        let printed = process::expect_success(&mut tree, BUILD_TIME_LIMIT)?.stdout_text();
        let mut above: Vec<String> = Vec::new();
        for line in printed.lines() {
            let (depth, linked) = Linked::read(line).with_context(|| format!("cargo tree printed {line:?}"))?;
            above.truncate(depth);
            let mut component = linked.component(&lock);
            match above.last() {
                Some(user) => drop(edges.entry(user.clone()).or_default().insert(linked.reference())),
                None => {
                    component["properties"] = json!([{"name": "hz3:files", "value": files}]);
                    edges.entry(WHOLE.to_owned()).or_default().insert(linked.reference());
                    edges
                        .entry(linked.reference())
                        .or_default()
                        .insert(format!("pkg:generic/rust@{}", compiler.release));
                }
            }
            above.push(linked.reference());
            components.entry(linked.reference()).or_insert(component);
        }
    }
    let mut components: Vec<Value> = components.into_values().collect();
    components.push(rust);
    let whole = json!({"type": "application", "bom-ref": WHOLE, "name": "hz3", "version": VERSION, "purl": WHOLE,
                       "licenses": [{"expression": "MIT"}]});
    let edges: Vec<Value> = edges.iter().map(|(user, used)| json!({"ref": user, "dependsOn": used})).collect();
    let bill = json!({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": whole},
                      "components": components, "dependencies": edges});
    let mut bytes = serde_json::to_vec_pretty(&bill)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A package that is linked.
struct Linked<'a> {
    name: &'a str,
    version: &'a str,
    licence: &'a str,
}

impl<'a> Linked<'a> {
    /// A line of `cargo tree`, such as `2|libc v0.2.1|MIT`, and how deep it stands.
    fn read(line: &'a str) -> Option<(usize, Linked<'a>)> {
        let mut parts = line.trim_end_matches(" (*)").split('|');
        let depth = parts.next()?.parse().ok()?;
        let mut words = parts.next()?.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        Some((depth, Linked { name, version, licence: parts.next()? }))
    }

    fn reference(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn component(&self, lock: &str) -> Value {
        let reference = self.reference();
        let mut component = json!({"type": "library", "bom-ref": reference, "name": self.name, "version": self.version,
            "purl": reference, "licenses": [{"expression": self.licence.replace('/', " OR ")}]});
        if let Some(checksum) = self.checksum(lock) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        component
    }

    /// That of the packed crate, by Cargo.lock; the workspace's own packages have none.
    fn checksum<'l>(&self, lock: &'l str) -> Option<&'l str> {
        let head = format!("name = \"{}\"\nversion = \"{}\"\n", self.name, self.version);
        let entry = lock.split("[[package]]\n").find(|entry| entry.starts_with(&head))?;
        entry.lines().find_map(|line| line.strip_prefix("checksum = \"")?.strip_suffix('"'))
    }
}

/// The compiler that cargo uses.
struct Compiler {
    release: String,
    host: String,
}

impl Compiler {
    fn ask(workspace: &Workspace) -> Result<Compiler> {
        let name = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut command = Command::new(name);
        command.arg("-vV").current_dir(&workspace.root).env_remove("LD_PRELOAD");
        let said = process::expect_success(&mut command, BUILD_TIME_LIMIT)?.stdout_text();
        let field = |name| said.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        Ok(Compiler {
            release: field("release: ").context("no release of rustc")?,
            host: field("host: ").context("no host of rustc")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_tree_becomes_a_component() {
        let lock = "x\n\n[[package]]\nname = \"libc\"\nversion = \"0.2.1\"\nsource = \"y\"\nchecksum = \"12ab\"\n";
        let (depth, linked) = Linked::read("2|libc v0.2.1|MIT/Apache-2.0 (*)").unwrap();
        let component = linked.component(lock);
        assert_eq!((depth, component["purl"].as_str()), (2, Some("pkg:cargo/libc@0.2.1")));
        assert_eq!(component["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(component["hashes"][0]["content"], "12ab");
        let (depth, own) = Linked::read("0|hz3-core v0.1.0 (/x/hz3-core)|MIT").unwrap();
        assert_eq!((depth, own.reference().as_str()), (0, "pkg:cargo/hz3-core@0.1.0"));
        assert!(own.component(lock).get("hashes").is_none());
        assert!(Linked::read("libc v0.2.1").is_none());
    }

    #[test]
    fn what_only_builds_is_not_linked() {
        let bill: Value = serde_json::from_slice(&bill(&Workspace::locate().unwrap()).unwrap()).unwrap();
        let names: BTreeSet<&str> =
            bill["components"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        for linked in ["hz3-core", "hz3-preload-scale", "libc", "crossbeam-utils", "clap", "ratatui", "rust"] {
            assert!(names.contains(linked), "{linked}");
        }
        for other in ["clap_derive", "syn", "tar", "xtask", "loom", "proptest"] {
            assert!(!names.contains(other), "{other}");
        }
    }
}
