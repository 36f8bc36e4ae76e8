//! Tree: the modules of a package's crates, and the file that a path in one of them leads to.

use super::scan::{Contents, scan};
use anyhow::{Context, Result, anyhow};
use std::collections::{HashMap, HashSet};
use std::path::{Path as FilePath, PathBuf};

/// Where a package's sources lie.
#[derive(Debug, Clone)]
pub struct Package {
    pub name: String,
    /// Faults name files relative to this folder.
    pub base: PathBuf,
    /// The folder whose files and folders are the layers.
    pub source: PathBuf,
    /// The root file of each library and program.
    pub roots: Vec<PathBuf>,
}

/// A source file.
pub struct File {
    /// Its path as faults show it.
    pub shown: String,
    /// Its path in the source folder without the extension: `os/linux`; `os` for `os/mod.rs`.
    pub name: String,
    /// Whether it only declares modules and imports.
    pub is_transparent: bool,
    path: PathBuf,
}

/// A module of a crate.
pub struct Module {
    pub file: usize,
    pub contents: Contents,
    parent: Option<usize>,
    children: HashMap<String, usize>,
}

/// All modules of a package, without those for tests.
pub struct Tree {
    pub files: Vec<File>,
    pub modules: Vec<Module>,
}

/// What a path leads to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    Module(usize),
    /// An item of that name in a module.
    Item(usize, String),
}

impl Tree {
    /// Reads the package's crates from their root files down.
    ///
    /// # Errors
    /// A file can't be read, or a module has no file.
    pub fn read(package: &Package) -> Result<Tree> {
        let mut tree = Tree { files: Vec::new(), modules: Vec::new() };
        for root in &package.roots {
            let folder = root.parent().unwrap_or(FilePath::new(""));
            tree.read_file(package, root, folder, None)?;
        }
        Ok(tree)
    }

    /// Reads a file and the modules that it declares, whose files lie in `folder`.
    fn read_file(
        &mut self,
        package: &Package,
        path: &FilePath,
        folder: &FilePath,
        parent: Option<usize>,
    ) -> Result<usize> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        let mut contents = scan(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        let file = self.files.iter().position(|file| file.path == path).unwrap_or_else(|| {
            let shown = path.strip_prefix(&package.base).unwrap_or(path).display().to_string();
            let name = name_of(path.strip_prefix(&package.source).unwrap_or(path));
            self.files.push(File { shown, name, is_transparent: !contents.has_items, path: path.to_owned() });
            self.files.len() - 1
        });
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            contents = Contents::default();
        }
        self.add(package, contents, file, folder, parent)
    }

    fn add(
        &mut self,
        package: &Package,
        mut contents: Contents,
        file: usize,
        folder: &FilePath,
        parent: Option<usize>,
    ) -> Result<usize> {
        let declared = std::mem::take(&mut contents.modules);
        let module = self.modules.len();
        self.modules.push(Module { file, contents, parent, children: HashMap::new() });
        for (name, line, inner) in declared {
            let inner_folder = folder.join(&name);
            let child = match inner {
                Some(inner) => self.add(package, inner, file, &inner_folder, Some(module))?,
                None => {
                    let files = [folder.join(format!("{name}.rs")), inner_folder.join("mod.rs")];
                    let found = files.iter().find(|file| file.is_file());
                    let found = found
                        .ok_or_else(|| anyhow!("{}:{line}: no file has the module {name}", self.files[file].shown))?;
                    self.read_file(package, found, &inner_folder, Some(module))?
                }
            };
            self.modules[module].children.insert(name, child);
        }
        Ok(module)
    }

    /// What a path in `module` leads to, re-exports followed. Nothing where it leads out of the package.
    pub fn resolve(&self, module: usize, path: &[String]) -> Vec<Target> {
        self.resolve_unseen(module, path, &mut HashSet::new())
    }

    /// The type or trait that a path in `module` leads to, aliases followed.
    pub fn resolve_type(&self, module: usize, path: &[String]) -> Vec<Target> {
        let mut targets = self.resolve(module, path);
        for _ in 0..8 {
            let followed: Vec<Target> = targets.iter().flat_map(|target| self.behind_alias(target)).collect();
            if followed == targets {
                break;
            }
            targets = followed;
        }
        targets
    }

    fn behind_alias(&self, target: &Target) -> Vec<Target> {
        if let Target::Item(module, name) = target
            && let Some((_, path)) = self.modules[*module].contents.aliases.iter().find(|(alias, _)| alias == name)
        {
            return self.resolve(*module, path);
        }
        vec![target.clone()]
    }

    /// The files with a macro of that name that `module` may invoke: its own or imported, or an earlier one of a
    /// module around it.
    pub fn resolve_macro(&self, module: usize, name: &str) -> Vec<Target> {
        let found = self.lookup(module, name, &mut HashSet::new());
        if !found.is_empty() {
            return found;
        }
        let mut around = self.modules[module].parent;
        while let Some(module) = around {
            if self.modules[module].contents.macros.contains(name) {
                return vec![Target::Item(module, name.to_owned())];
            }
            around = self.modules[module].parent;
        }
        Vec::new()
    }

    /// The file that a target stands in.
    pub fn file_of(&self, target: &Target) -> usize {
        let (Target::Module(module) | Target::Item(module, _)) = target;
        self.modules[*module].file
    }

    fn resolve_unseen(&self, module: usize, path: &[String], seen: &mut HashSet<(usize, String)>) -> Vec<Target> {
        let mut at = 0;
        let mut start = module;
        while let Some(word) = path.get(at) {
            match word.as_str() {
                "crate" => start = self.root_of(module),
                "self" => {}
                "super" => match self.modules[start].parent {
                    Some(parent) => start = parent,
                    None => return Vec::new(),
                },
                _ => break,
            }
            at += 1;
        }
        let mut targets = vec![Target::Module(start)];
        for (index, name) in path.iter().enumerate().skip(at) {
            let mut next = Vec::new();
            for target in targets {
                match target {
                    Target::Item(..) => next.push(target),
                    Target::Module(inner) => {
                        let found = self.lookup(inner, name, seen);
                        // A path that starts with a name that nobody here defines leads to another crate; further on
                        // the name is one that a macro defines.
                        if found.is_empty() && index > 0 {
                            next.push(Target::Item(inner, name.clone()));
                        }
                        next.extend(found);
                    }
                }
            }
            next.dedup();
            targets = next;
        }
        targets
    }

    /// What a module knows under a name.
    fn lookup(&self, module: usize, name: &str, seen: &mut HashSet<(usize, String)>) -> Vec<Target> {
        if !seen.insert((module, name.to_owned())) {
            return Vec::new();
        }
        let Module { contents, children, parent, .. } = &self.modules[module];
        let mut found: Vec<Target> = children.get(name).map(|&child| Target::Module(child)).into_iter().collect();
        if contents.names.contains(name) {
            found.push(Target::Item(module, name.to_owned()));
        } else if parent.is_none()
            && let Some(definer) = self.exporter_of(module, name)
        {
            found.push(Target::Item(definer, name.to_owned()));
        }
        for import in contents.imports.iter().filter(|import| import.name.as_deref() == Some(name)) {
            found.extend(self.resolve_unseen(module, &import.path, seen));
        }
        if found.is_empty() {
            for import in contents.imports.iter().filter(|import| import.name.is_none()) {
                for target in self.resolve_unseen(module, &import.path, seen) {
                    if let Target::Module(source) = target {
                        found.extend(self.lookup(source, name, seen));
                    }
                }
            }
        }
        found
    }

    /// The module of the crate `root` that exports a macro of that name: the crate's root has it.
    fn exporter_of(&self, root: usize, name: &str) -> Option<usize> {
        (root..self.modules.len()).find(|&module| {
            self.modules[module].contents.exported_macros.contains(name) && self.root_of(module) == root
        })
    }

    fn root_of(&self, mut module: usize) -> usize {
        while let Some(parent) = self.modules[module].parent {
            module = parent;
        }
        module
    }
}

fn name_of(path: &FilePath) -> String {
    let path = path.with_extension("");
    let module = if path.ends_with("mod") { path.parent().unwrap_or(&path) } else { &path };
    module.display().to_string()
}
