//! Scan: what one source file says, read off its tokens: modules, names, imports, paths, calls, `impl` blocks.
//!
//! Macro bodies are scanned like other code. Comments, items under `#[cfg(test)]` and `#[test]` functions are not.

use super::tokens::{
    Path, attribute, braces, end_of_generics, end_of_item, first_path, group, inside, is_called, is_colons, is_end,
    is_punct, is_word, line, needs_test, path_at,
};
use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use std::collections::HashSet;

/// What a module says.
#[derive(Default, Debug)]
pub struct Contents {
    /// Names of items that it defines.
    pub names: HashSet<String>,
    /// Names of its `macro_rules!`; also among the other names.
    pub macros: HashSet<String>,
    /// Those with `#[macro_export]`.
    pub exported_macros: HashSet<String>,
    /// `type NAME = PATH`.
    pub aliases: Vec<(String, Path)>,
    /// Imports, those inside functions included.
    pub imports: Vec<Import>,
    /// All other paths, single names included.
    pub mentions: Vec<Mention>,
    /// Calls of methods and of associated functions, with their lines.
    pub calls: Vec<(String, usize)>,
    /// `impl` blocks.
    pub impls: Vec<Impl>,
    /// Names of the functions that its traits declare.
    pub trait_methods: HashSet<String>,
    /// Its modules: name, line, and the contents where they stand in this file.
    pub modules: Vec<(String, usize, Option<Contents>)>,
    /// Whether it has items other than imports and modules.
    pub has_items: bool,
}

/// One name of a `use`.
#[derive(Debug)]
pub struct Import {
    /// What is imported, or, for a glob, from where.
    pub path: Path,
    /// The name it gets here; `None` for a glob.
    pub name: Option<String>,
    pub line: usize,
}

/// A path outside of `use`.
#[derive(Debug)]
pub struct Mention {
    pub path: Path,
    pub line: usize,
    /// Whether it names a macro that is invoked.
    pub is_macro: bool,
}

/// The head of an `impl` block, and what functions it has.
#[derive(Debug)]
pub struct Impl {
    pub line: usize,
    /// The type; `None` where it has no name (a tuple, a macro's `$type`).
    pub of: Option<Path>,
    /// The paths among the type's arguments.
    pub of_arguments: Vec<Path>,
    /// The trait, for an `impl TRAIT for TYPE`.
    pub of_trait: Option<Path>,
    /// The paths among the trait's arguments.
    pub trait_arguments: Vec<Path>,
    pub methods: Vec<String>,
}

/// Reads a file's text.
///
/// # Errors
/// The text is no sequence of Rust's tokens.
pub fn scan(text: &str) -> Result<Contents, proc_macro2::LexError> {
    let tokens: TokenStream = text.parse()?;
    let mut contents = Contents::default();
    scan_tokens(&tokens.into_iter().collect::<Vec<_>>(), Place::Module, &mut contents);
    Ok(contents)
}

/// What the tokens stand in.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Directly in a module.
    Module,
    /// In braces, where items may stand.
    Braces,
    /// In parentheses or brackets.
    Other,
}

fn scan_tokens(tokens: &[TokenTree], place: Place, contents: &mut Contents) {
    let mut at = 0;
    while at < tokens.len() {
        at = scan_one(tokens, at, place, contents);
    }
}

/// Scans what starts at `at`; returns where the next starts.
fn scan_one(tokens: &[TokenTree], at: usize, place: Place, contents: &mut Contents) -> usize {
    if let Some((attribute, after)) = attribute(tokens, at) {
        if needs_test(&attribute) {
            let inner = is_punct(tokens.get(at + 1), '!');
            return if inner { tokens.len() } else { end_of_item(tokens, after) };
        }
        scan_tokens(&attribute, Place::Other, contents);
        return after;
    }
    match &tokens[at] {
        TokenTree::Group(group) => {
            let in_repetition = at > 0 && is_punct(tokens.get(at - 1), '$');
            let braces = group.delimiter() == Delimiter::Brace || in_repetition;
            scan_tokens(&inside(group), if braces { Place::Braces } else { Place::Other }, contents);
            at + 1
        }
        // `a..b` has no field.
        TokenTree::Punct(dot) if dot.as_char() == '.' && is_punct(tokens.get(at + 1), '.') => at + 2,
        TokenTree::Punct(dot) if dot.as_char() == '.' => {
            let Some(TokenTree::Ident(name)) = tokens.get(at + 1) else { return at + 1 };
            if is_called(tokens, at + 2) {
                contents.calls.push((name.to_string(), line(name)));
            }
            at + 2
        }
        TokenTree::Punct(quote) if quote.as_char() == '\'' => at + 2,
        // `<T as Trait>::name(` and `$type::name(`.
        TokenTree::Punct(_) if is_colons(tokens, at) => match path_at(tokens, at + 2) {
            Some((path, line, after)) => {
                if is_called(tokens, after) {
                    contents.calls.extend(path.last().map(|name| (name.clone(), line)));
                }
                after
            }
            None => at + 2,
        },
        TokenTree::Punct(dollar) if dollar.as_char() == '$' && !is_word(tokens.get(at + 1), "crate") => {
            at + if matches!(tokens.get(at + 1), Some(TokenTree::Ident(_))) { 2 } else { 1 }
        }
        TokenTree::Punct(dollar) if dollar.as_char() == '$' => at + 1,
        TokenTree::Ident(word) => scan_word(&word.to_string(), tokens, at, place, contents),
        _ => at + 1,
    }
}

/// Scans what starts with a word.
fn scan_word(word: &str, tokens: &[TokenTree], at: usize, place: Place, contents: &mut Contents) -> usize {
    let in_module = place == Place::Module;
    let name = match tokens.get(at + 1) {
        Some(TokenTree::Ident(name)) if name == "mut" => match tokens.get(at + 2) {
            Some(TokenTree::Ident(name)) => Some(name),
            _ => None,
        },
        Some(TokenTree::Ident(name)) => Some(name),
        _ => None,
    };
    match (word, name) {
        ("use", _) if !is_punct(tokens.get(at + 1), '<') => {
            if let Some(end) = tokens[at..].iter().position(|token| is_punct(Some(token), ';'))
                && imports(&tokens[at..=at + end], &mut contents.imports)
            {
                return at + end + 1;
            }
            return at + 1;
        }
        ("extern", Some(name)) if name == "crate" => return end_of_item(tokens, at),
        ("mod", Some(name)) if in_module => {
            let inner = match tokens.get(at + 2) {
                Some(TokenTree::Group(body)) => {
                    let mut inner = Contents::default();
                    scan_tokens(&inside(body), Place::Module, &mut inner);
                    contents.has_items |= inner.has_items;
                    Some(inner)
                }
                _ => None,
            };
            contents.modules.push((name.to_string(), line(name), inner));
            return at + 3;
        }
        ("macro_rules", _) if is_punct(tokens.get(at + 1), '!') => {
            if let Some(TokenTree::Ident(name)) = tokens.get(at + 2) {
                contents.has_items = true;
                contents.names.insert(name.to_string());
                contents.macros.insert(name.to_string());
                let before = tokens[..at].iter().rev().take_while(|token| !is_end(token));
                if before.filter_map(group).any(|group| group.stream().to_string().contains("macro_export")) {
                    contents.exported_macros.insert(name.to_string());
                }
            }
            return at + 3;
        }
        ("struct" | "enum" | "union" | "trait" | "type" | "fn" | "const" | "static", Some(name)) => {
            if in_module && name != "fn" {
                contents.has_items = true;
                contents.names.insert(name.to_string());
                if word == "type"
                    && let Some(equals) = tokens[at..].iter().position(|token| is_punct(Some(token), '='))
                    && let Some(path) = first_path(&tokens[at + equals + 1..])
                {
                    contents.aliases.push((name.to_string(), path));
                }
            }
            if word == "trait"
                && let Some(body) = tokens[at..].iter().find_map(braces)
            {
                contents.trait_methods.extend(functions(&inside(body)));
            }
            return at + 1;
        }
        ("impl", _) if starts_item(tokens, at, place) => {
            contents.has_items = true;
            contents.impls.extend(impl_head(&tokens[at..]));
            return at + 1;
        }
        _ => {}
    }
    let (path, line, after) = path_at(tokens, at).expect("a word starts a path");
    let invoked = is_punct(tokens.get(after), '!')
        && matches!(tokens.get(after + 1), Some(TokenTree::Group(_) | TokenTree::Ident(_)));
    contents.has_items |= invoked && in_module;
    if path.len() > 1 && is_called(tokens, after) {
        contents.calls.extend(path.last().map(|name| (name.clone(), line)));
    }
    contents.mentions.push(Mention { path, line, is_macro: invoked });
    after
}

/// All paths among the tokens.
fn all_paths(tokens: &[TokenTree]) -> Vec<Path> {
    let mut contents = Contents::default();
    scan_tokens(tokens, Place::Other, &mut contents);
    contents.mentions.into_iter().map(|mention| mention.path).collect()
}

/// The `impl` block that starts the tokens.
fn impl_head(tokens: &[TokenTree]) -> Option<Impl> {
    let TokenTree::Ident(word) = &tokens[0] else { return None };
    let end = tokens.iter().position(|token| braces(token).is_some())?;
    let methods = functions(&inside(group(&tokens[end])?));
    let start = if is_punct(tokens.get(1), '<') { end_of_generics(tokens, 1) } else { 1 };
    let head = tokens.get(start..end)?;
    let head = &head[..head.iter().position(|token| is_word(Some(token), "where")).unwrap_or(head.len())];
    let separator = (0..head.len()).find(|&at| is_word(head.get(at), "for") && !is_punct(head.get(at + 1), '<'));
    let (of_trait, of) = match separator {
        Some(at) => (Some(&head[..at]), &head[at + 1..]),
        None => (None, head),
    };
    // A macro's variable: the type stands where the macro is used.
    if is_punct(of.first(), '$') {
        return None;
    }
    let arguments = |tokens: &[TokenTree]| {
        let from = tokens.iter().position(|token| is_punct(Some(token), '<'));
        from.map_or_else(Vec::new, |from| all_paths(&tokens[from..]))
    };
    Some(Impl {
        line: line(word),
        of: first_path(of),
        of_arguments: arguments(of),
        of_trait: of_trait.and_then(first_path),
        trait_arguments: of_trait.map_or_else(Vec::new, arguments),
        methods,
    })
}

/// The names of the functions that stand directly in a block, without those for tests.
fn functions(tokens: &[TokenTree]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match attribute(tokens, at) {
            Some((attribute, after)) if needs_test(&attribute) => at = end_of_item(tokens, after),
            Some((_, after)) => at = after,
            None => {
                if let [TokenTree::Ident(word), TokenTree::Ident(name), ..] = &tokens[at..]
                    && word == "fn"
                {
                    names.push(name.to_string());
                }
                at += 1;
            }
        }
    }
    names
}

/// Adds the names of a `use`; false where it can't be read, as with a macro's variables.
fn imports(tokens: &[TokenTree], imports: &mut Vec<Import>) -> bool {
    let stream = tokens.iter().filter(|token| !is_punct(Some(token), '$')).cloned().collect();
    match syn::parse2::<syn::ItemUse>(stream) {
        // A path that starts with `::` leads out of the package.
        Ok(item) if item.leading_colon.is_some() => true,
        Ok(item) => {
            imports_of_tree(&item.tree, &mut Vec::new(), imports);
            true
        }
        Err(_) => false,
    }
}

fn imports_of_tree(tree: &syn::UseTree, path: &mut Path, imports: &mut Vec<Import>) {
    let depth = path.len();
    match tree {
        syn::UseTree::Path(part) => {
            path.push(part.ident.to_string());
            imports_of_tree(&part.tree, path, imports);
        }
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| imports_of_tree(tree, path, imports)),
        syn::UseTree::Glob(glob) => {
            let line = glob.star_token.span.start().line;
            imports.push(Import { path: path.clone(), name: None, line });
        }
        syn::UseTree::Name(syn::UseName { ident }) => import_name(path, ident, ident, imports),
        syn::UseTree::Rename(syn::UseRename { ident, rename, .. }) => import_name(path, ident, rename, imports),
    }
    path.truncate(depth);
}

fn import_name(path: &mut Path, ident: &Ident, rename: &Ident, imports: &mut Vec<Import>) {
    let is_self = ident == "self" && !path.is_empty();
    if !is_self {
        path.push(ident.to_string());
    }
    let name = if rename == "self" { path.last().cloned() } else { Some(rename.to_string()) };
    imports.push(Import { path: path.clone(), name, line: line(ident) });
}

/// Whether an item may start at `at`: an `impl` elsewhere is a type.
fn starts_item(tokens: &[TokenTree], at: usize, place: Place) -> bool {
    match at.checked_sub(1).map(|before| &tokens[before]) {
        None => place != Place::Other,
        Some(TokenTree::Ident(word)) => word == "unsafe" || word == "default",
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            at >= 2 && (is_punct(tokens.get(at - 2), '#') || is_punct(tokens.get(at - 2), '!'))
        }
        Some(token) => is_end(token),
    }
}
