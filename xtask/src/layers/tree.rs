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
    /// The library's name, by which the programs beside it use it.
    pub library: Option<String>,
    /// The root file of each library and program, the library's first.
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
    /// Its path in its crate: `crate::os::linux`.
    pub path: String,
    parent: Option<usize>,
    children: HashMap<String, usize>,
}

/// All modules of a package, without those for tests.
pub struct Tree {
    pub files: Vec<File>,
    pub modules: Vec<Module>,
    library: Option<String>,
}

/// What a path leads to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    Module(usize),
    /// An item of that name in a module.
    Item(usize, String),
    /// Another crate, or an item of one.
    Outside,
}

impl Tree {
    /// Reads the package's crates from their root files down.
    ///
    /// # Errors
    /// A file can't be read, or a module has no file.
    pub fn read(package: &Package) -> Result<Tree> {
        let mut tree = Tree { files: Vec::new(), modules: Vec::new(), library: package.library.clone() };
        for root in &package.roots {
            let folder = root.parent().unwrap_or(FilePath::new(""));
            tree.read_file(package, root, folder, (None, "crate".to_owned()))?;
        }
        Ok(tree)
    }

    /// Reads a file and the modules that it declares, whose files lie in `folder`.
    fn read_file(
        &mut self,
        package: &Package,
        path: &FilePath,
        folder: &FilePath,
        within: (Option<usize>, String),
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
        self.add(package, contents, file, folder, within)
    }

    fn add(
        &mut self,
        package: &Package,
        mut contents: Contents,
        file: usize,
        folder: &FilePath,
        (parent, path): (Option<usize>, String),
    ) -> Result<usize> {
        let declared = std::mem::take(&mut contents.modules);
        let module = self.modules.len();
        self.modules.push(Module { file, contents, path, parent, children: HashMap::new() });
        for (name, line, inner) in declared {
            let inner_folder = folder.join(&name);
            let within = (Some(module), format!("{}::{name}", self.modules[module].path));
            let child = match inner {
                Some(inner) => self.add(package, inner, file, &inner_folder, within)?,
                None => {
                    let files = [folder.join(format!("{name}.rs")), inner_folder.join("mod.rs")];
                    let found = files.iter().find(|file| file.is_file());
                    let found = found
                        .ok_or_else(|| anyhow!("{}:{line}: no file has the module {name}", self.files[file].shown))?;
                    self.read_file(package, found, &inner_folder, within)?
                }
            };
            self.modules[module].children.insert(name, child);
        }
        Ok(module)
    }

    /// What of this package a path in `module` leads to, re-exports followed.
    pub fn resolve(&self, module: usize, path: &[String]) -> Vec<Target> {
        let mut targets = self.resolve_within(module, path, &mut HashSet::new());
        targets.retain(|target| *target != Target::Outside);
        targets
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
        let found = self.resolve(module, &[name.to_owned()]);
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

    /// The file that a target stands in; none for one outside.
    pub fn file_of(&self, target: &Target) -> Option<usize> {
        match target {
            Target::Module(module) | Target::Item(module, _) => Some(self.modules[*module].file),
            Target::Outside => None,
        }
    }

    fn resolve_within(&self, module: usize, path: &[String], asked: &mut HashSet<(usize, String)>) -> Vec<Target> {
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
                    Target::Item(..) | Target::Outside => next.push(target),
                    Target::Module(inner) => {
                        let found = self.lookup(inner, name, asked);
                        if index == 0 && found.is_empty() && self.library.as_ref() == Some(name) {
                            // The library's root is the first module.
                            next.push(Target::Module(0));
                        }
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

    /// What a module knows under a name. `asked` has the questions that are being answered.
    fn lookup(&self, module: usize, name: &str, asked: &mut HashSet<(usize, String)>) -> Vec<Target> {
        if !asked.insert((module, name.to_owned())) {
            return Vec::new();
        }
        let found = self.lookup_unasked(module, name, asked);
        asked.remove(&(module, name.to_owned()));
        found
    }

    fn lookup_unasked(&self, module: usize, name: &str, asked: &mut HashSet<(usize, String)>) -> Vec<Target> {
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
            let targets = self.resolve_within(module, &import.path, asked);
            match (&targets[..], &import.path[..]) {
                // `pub use libc` makes `crate::libc` a name of the other crate.
                ([], [_]) => found.push(Target::Outside),
                // An item of another crate that is re-exported is as one of this module.
                ([], _) => found.push(Target::Item(module, name.to_owned())),
                _ => found.extend(targets),
            }
        }
        if found.is_empty() {
            for import in contents.imports.iter().filter(|import| import.name.is_none()) {
                for target in self.resolve_within(module, &import.path, asked) {
                    if let Target::Module(source) = target {
                        found.extend(self.lookup(source, name, asked));
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
