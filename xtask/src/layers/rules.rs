//! Rules: what the imports of a package's files must keep to, and the places where they don't.

use super::graph::Graph;
use super::scan::{Contents, Import};
use super::standard_methods;
use super::tree::{Target, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// What holds for one package beyond the rules for all.
#[derive(Clone, Copy, Default)]
pub struct Rules<'a> {
    /// The folders and files of the source folder, lowest first. Empty: any may use any.
    pub order: &'a [&'a str],
    /// The most files on a chain of imports.
    pub levels: Option<usize>,
}

/// All breaches, one to a line, sorted by place.
pub fn faults(tree: &Tree, rules: &Rules<'_>) -> Vec<String> {
    let mut faults = Faults { tree, found: BTreeSet::new() };
    let imports = imports(tree);
    let rank = |file: usize| rank(tree, rules, file);
    let upward = |from: usize, to: usize| rank(from).zip(rank(to)).is_some_and(|(from, to)| from < to);
    if !rules.order.is_empty() {
        faults.unplaced(rules);
    }
    for (from, to, line) in imports.edges().filter(|&(from, to, _)| upward(from, to)) {
        faults.add(from, line, format!("{} uses {}, which lies above it", faults.name(from), faults.name(to)));
    }
    for (from, to, line, method) in calls(tree) {
        if upward(from, to) {
            let (user, used) = (faults.name(from), faults.name(to));
            faults.add(from, line, format!("{user} uses {used}, which lies above it (its method `{method}`)"));
        }
    }
    // A circle through several folders has an upward import, which is told already.
    let downward = imports.filtered(|from, to| !upward(from, to));
    for knot in downward.knots() {
        for circle in downward.circles(&knot) {
            let way: Vec<&str> = circle.way_back.iter().map(|&file| faults.name(file)).collect();
            let text = format!("{} uses {}, which uses it: {}", faults.name(circle.from), way[0], way.join(" → "));
            faults.add(circle.from, circle.line, text);
        }
    }
    if let Some(most) = rules.levels {
        let counted = between_items(tree, &imports);
        let chain = counted.longest_chain();
        if chain.len() > most
            && let [first, second, ..] = chain[..]
        {
            let line =
                counted.edges().find(|&(from, to, _)| (from, to) == (first, second)).map_or(1, |(.., line)| line);
            let names: Vec<&str> = chain.iter().map(|&file| faults.name(file)).collect();
            let text = format!("a chain of {} files, more than {most}: {}", chain.len(), names.join(" → "));
            faults.add(first, line, text);
        }
    }
    faults.impls();
    let shown = |(file, line, text): (usize, usize, String)| format!("{}:{line}: {text}", tree.files[file].shown);
    let mut lines: Vec<(String, usize, String)> =
        faults.found.into_iter().map(|fault| (tree.files[fault.0].shown.clone(), fault.1, shown(fault))).collect();
    lines.sort();
    let mut lines: Vec<String> = lines.into_iter().map(|(.., line)| line).collect();
    let exists = |name: &&&str| tree.files.iter().any(|file| top_of(&file.name) == **name);
    lines.extend(
        rules
            .order
            .iter()
            .filter(|name| !exists(name))
            .map(|name| format!("the order of layers has {name}, and the sources have not")),
    );
    lines
}

/// The place in the order of a file's folder, or of the file itself where it lies in none.
pub fn rank(tree: &Tree, rules: &Rules<'_>, file: usize) -> Option<usize> {
    rules.order.iter().position(|name| *name == top_of(&tree.files[file].name))
}

/// The first folder of a file's name.
pub fn top_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// The graph without the files that only declare modules and import.
pub fn between_items(tree: &Tree, imports: &Graph) -> Graph {
    imports.filtered(|from, to| !tree.files[from].is_transparent && !tree.files[to].is_transparent)
}

/// The sets of files that import each other, by whatever way.
pub fn knots(tree: &Tree) -> Vec<Vec<&str>> {
    let knots = imports(tree).knots().into_iter();
    knots.map(|knot| knot.iter().map(|&file| tree.files[file].name.as_str()).collect()).collect()
}

/// Which file names items of which.
pub fn imports(tree: &Tree) -> Graph {
    let mut graph = Graph::default();
    for (index, module) in tree.modules.iter().enumerate() {
        let contents = &module.contents;
        let mut add = |targets: Vec<Target>, line: usize, modules_count: bool| {
            for target in targets {
                let Some(used) = tree.file_of(&target) else { continue };
                if !tree.files[used].is_transparent && (modules_count || !matches!(target, Target::Module(_))) {
                    graph.add(module.file, used, line);
                }
            }
        };
        for import in &contents.imports {
            // A module that is imported so that longer paths start with it is not used by that.
            add(tree.resolve(index, &import.path), import.line, !starts_paths(import, contents));
        }
        for mention in &contents.mentions {
            match &mention.path[..] {
                [name] if mention.is_macro => add(tree.resolve_macro(index, name), mention.line, false),
                path => add(tree.resolve(index, path), mention.line, false),
            }
        }
        for block in &contents.impls {
            let paths = block.of.iter().chain(&block.of_trait);
            paths.for_each(|path| add(tree.resolve(index, path), block.line, false));
        }
    }
    graph
}

fn starts_paths(import: &Import, contents: &Contents) -> bool {
    let Some(name) = &import.name else { return false };
    let starts = |path: &[String]| path.len() > 1 && path[0] == *name;
    contents.mentions.iter().any(|mention| starts(&mention.path))
        || contents.imports.iter().any(|import| starts(&import.path))
}

/// Calls of methods that one file of the package alone defines: user, definer, line, method.
fn calls(tree: &Tree) -> Vec<(usize, usize, usize, String)> {
    let mut definers: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (index, module) in tree.modules.iter().enumerate() {
        let mut define = |name| {
            definers.entry(name).or_default().insert(module.file);
        };
        module.contents.trait_methods.iter().for_each(|name| define(name));
        for block in &module.contents.impls {
            // The methods of a trait of this package are defined with the trait.
            let ours = block.of_trait.as_ref().is_some_and(|path| !tree.resolve(index, path).is_empty());
            if !ours {
                block.methods.iter().for_each(|name| define(name));
            }
        }
    }
    let mut calls = BTreeMap::new();
    for module in &tree.modules {
        for (name, line) in &module.contents.calls {
            if !standard_methods::has(name)
                && let Some(files) = definers.get(name.as_str())
                && files.len() == 1
                && let Some(&definer) = files.first()
                && definer != module.file
            {
                let first = calls.entry((module.file, definer)).or_insert((*line, name.clone()));
                *first = (*line, name.clone()).min(first.clone());
            }
        }
    }
    calls.into_iter().map(|((from, to), (line, name))| (from, to, line, name)).collect()
}

struct Faults<'a> {
    tree: &'a Tree,
    found: BTreeSet<(usize, usize, String)>,
}

impl<'a> Faults<'a> {
    fn add(&mut self, file: usize, line: usize, text: String) {
        self.found.insert((file, line, text));
    }

    fn name(&self, file: usize) -> &'a str {
        &self.tree.files[file].name
    }

    fn unplaced(&mut self, rules: &Rules<'_>) {
        let mut told = BTreeSet::new();
        for file in 0..self.tree.files.len() {
            let name = top_of(self.name(file));
            if rank(self.tree, rules, file).is_none() && told.insert(name) {
                self.add(file, 1, format!("{name} has no place in the order of layers"));
            }
        }
    }

    /// An `impl` block stands with its type, or with its trait.
    fn impls(&mut self) {
        for (index, module) in self.tree.modules.iter().enumerate() {
            for block in &module.contents.impls {
                let files = |path: &Vec<String>| -> Vec<usize> {
                    self.tree.resolve_type(index, path).iter().filter_map(|target| self.tree.file_of(target)).collect()
                };
                let mut of: Vec<usize> = block.of.iter().flat_map(files).collect();
                if of.is_empty() {
                    // `Option<Ours>` belongs to `Ours`.
                    of = block.of_arguments.iter().flat_map(files).collect();
                }
                let of_trait: Vec<usize> = block.of_trait.iter().flat_map(files).collect();
                let mut homes = [of, of_trait].concat();
                if homes.is_empty() {
                    homes = block.trait_arguments.iter().flat_map(files).collect();
                }
                if homes.is_empty() || homes.contains(&module.file) {
                    continue;
                }
                let own = self.name(module.file);
                let home = self.name(homes[0]);
                let written = |path: &Option<Vec<String>>| path.as_ref().map_or("_".to_owned(), |path| path.join("::"));
                let block_name = match &block.of_trait {
                    Some(_) => format!("impl {} for {}", written(&block.of_trait), written(&block.of)),
                    None => format!("impl {}", written(&block.of)),
                };
                self.add(module.file, block.line, format!("{own} has `{block_name}`, which belongs to {home}"));
            }
        }
    }
}
