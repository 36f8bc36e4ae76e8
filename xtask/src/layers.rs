//! Layers: the modules of hz3-core in their order, and the check that a module uses no higher one.
//!
//! Every mention of `crate::module` (or of the same through `super`) counts, inside macros too;
//! comments, items under `#[cfg(test)]` and modules named `tests` do not.

use crate::files::files_with;
use anyhow::{Context, Result, ensure};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::path::Path;

/// The layers of hz3-core, lowest first. A module may use those of lower layers and of its own.
pub const HZ3_CORE: &[&[&str]] = &[
    &["sync"],
    &["hooks", "sequence", "publisher", "heap_states"],
    &["units", "prefetch"],
    &["extent"],
    &["bins"],
    &["os", "balance"],
    &["fault"],
    &["options"],
    &["table"],
    &["profile"],
    &["span"],
    &["page_tag"],
    &["mark", "canary"],
    &["arena"],
    &["run_lists"],
    &["runs"],
    &["depot", "heat"],
    &["magazine"],
    &["remote_stash", "quarantine"],
    &["shard"],
    // A lane is the choice of the others' constants and has the one allocator made of them.
    &["heap", "lane", "thread_pointer", "large", "held", "allocator", "courier", "upkeep"],
    &["background"],
    &["thread", "cold_bins", "one_way"],
    &["sampling"],
    &["slack", "checks"],
    // The hot paths end in the slow ones, and a slow path starts the hot one again.
    &["slow", "hot", "checked"],
    &["stats"],
    &["page"],
    &["global"],
];

/// Checks the sources of a crate, `source` being its `src` folder, against the order of its layers.
pub fn check(source: &Path, order: &[&[&str]]) -> Result<()> {
    let rank = |module: &str| order.iter().position(|layer| layer.contains(&module));
    let mut faults = Vec::new();
    let mut seen = Vec::new();
    for file in files_with("rs", source)? {
        let modules = module_path(&file);
        let Some(own) = modules.first().filter(|_| modules.last().is_none_or(|last| last != "tests")) else {
            continue;
        };
        let Some(own_rank) = rank(own) else {
            faults.push(format!("{}: module {own} has no place in the order of layers", file.display()));
            continue;
        };
        seen.push(own.clone());
        let path = source.join(&file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let uses = uses_in(&text, modules.len()).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        for (line, used) in uses {
            if rank(&used).is_some_and(|rank| rank > own_rank) {
                faults.push(format!("{}:{line}: {own} uses {used}, a higher layer", file.display()));
            }
        }
    }
    for name in order.iter().copied().flatten().filter(|name| !seen.iter().any(|seen| seen == *name)) {
        faults.push(format!("the order of layers names {name}, which is no module"));
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The module that a file holds, from the crate's root down; empty for the root itself.
fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        file.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        path.pop();
    }
    path
}

/// The top-level modules of its crate that a file names, with the lines. `depth` is the number of
/// modules around the file's contents.
fn uses_in(text: &str, depth: usize) -> Result<Vec<(usize, String)>> {
    let tokens: TokenStream = text.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut uses = Vec::new();
    collect(tokens, depth, &mut uses);
    Ok(uses)
}

fn collect(tokens: TokenStream, depth: usize, uses: &mut Vec<(usize, String)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if is_test_attribute(&tokens[at..]) {
            at = end_of_item(&tokens, at + 2);
        } else if let Some(after) = root_path(&tokens[at..], depth) {
            at += after;
            named_modules(&tokens[at..], uses);
        } else if let [TokenTree::Ident(word), TokenTree::Ident(_), TokenTree::Group(body), ..] = &tokens[at..]
            && word == "mod"
        {
            collect(body.stream(), depth + 1, uses);
            at += 3;
        } else {
            if let TokenTree::Group(group) = &tokens[at] {
                collect(group.stream(), depth, uses);
            }
            at += 1;
        }
    }
}

/// Whether the tokens begin with `#[cfg(test)]` or a `cfg` of several conditions that has `test`.
fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] = tokens else {
        return false;
    };
    let text = attribute.stream().to_string().replace(' ', "");
    hash.as_char() == '#'
        && attribute.delimiter() == Delimiter::Bracket
        && (text == "cfg(test)" || text.starts_with("cfg(all(test"))
}

/// The index after the item that starts at `at`: after its body or its semicolon.
fn end_of_item(tokens: &[TokenTree], at: usize) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        _ => false,
    };
    tokens[at..].iter().position(ends).map_or(tokens.len(), |end| at + end + 1)
}

/// Whether the tokens begin with a path to the crate's root, `crate::` or as many `super::` as there
/// are modules around; the number of tokens it takes.
fn root_path(tokens: &[TokenTree], depth: usize) -> Option<usize> {
    let is_word = |at: usize, word: &str| matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if ident == word);
    let is_colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    if is_word(0, "crate") && is_colon(1) && is_colon(2) {
        return Some(3);
    }
    let mut at = usize::from(is_word(0, "self") && is_colon(1) && is_colon(2)) * 3;
    let mut ups = 0;
    while is_word(at, "super") && is_colon(at + 1) && is_colon(at + 2) {
        at += 3;
        ups += 1;
    }
    (ups > 0 && ups == depth).then_some(at)
}

/// The first names of what follows a path to the root: one name, or those of a group in braces.
fn named_modules(tokens: &[TokenTree], uses: &mut Vec<(usize, String)>) {
    match tokens.first() {
        Some(TokenTree::Ident(name)) => uses.push((name.span().start().line, name.to_string())),
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let mut first = true;
            for token in group.stream() {
                match token {
                    TokenTree::Ident(name) if first => {
                        uses.push((name.span().start().line, name.to_string()));
                        first = false;
                    }
                    TokenTree::Punct(punct) if punct.as_char() == ',' => first = true,
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, depth: usize) -> Vec<String> {
        uses_in(text, depth).unwrap().into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn uses_paths_groups_and_macros_are_found() {
        let text = "
            // crate::comment
            use crate::span::Span;
            use crate::{depot::{Depot, Stack}, units};
            fn f() { crate::heap::g(); m!(x, $crate::slow::h()); }
            pub(crate) fn g() {}
        ";
        assert_eq!(names(text, 1), ["span", "depot", "units", "heap", "slow"]);
    }

    #[test]
    fn super_counts_where_it_means_the_root() {
        assert_eq!(names("use super::heap;", 1), ["heap"]);
        assert!(names("use super::heap;", 2).is_empty());
        assert_eq!(names("use super::super::heap;", 2), ["heap"]);
        assert_eq!(names("mod inner { use super::super::hot; use super::x; }", 1), ["hot"]);
    }

    #[test]
    fn tests_may_use_anything() {
        let text = "
            #[cfg(test)] use crate::hot;
            #[cfg(test)] mod tests { use crate::hot; }
            #[cfg(all(test, not(loom)))] mod more { use crate::hot; }
            use crate::span;
        ";
        assert_eq!(names(text, 1), ["span"]);
    }

    #[test]
    fn upward_uses_and_unknown_modules_are_reported_with_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("lib.rs", "pub mod low; pub mod high;");
        write("low.rs", "\nuse crate::high::X;");
        write("high.rs", "use crate::low::Y;");
        let error = check(folder.path(), &[&["low"], &["high"]]).unwrap_err().to_string();
        assert_eq!(error, "low.rs:2: low uses high, a higher layer");
        assert!(check(folder.path(), &[&["high"], &["low"]]).unwrap_err().to_string().starts_with("high.rs:1"));
        check(folder.path(), &[&["low", "high"]]).unwrap();
        let error = check(folder.path(), &[&["low"], &["middle"]]).unwrap_err().to_string();
        assert!(error.contains("module high has no place") && error.contains("names middle"), "{error}");
    }

    #[test]
    fn a_module_in_a_folder_belongs_to_the_folder_s_layer() {
        assert_eq!(module_path(Path::new("os/linux.rs")), ["os", "linux"]);
        assert_eq!(module_path(Path::new("os/mod.rs")), ["os"]);
        assert!(module_path(Path::new("lib.rs")).is_empty());
    }
}
