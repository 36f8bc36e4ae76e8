//! Listing: the public items of a crate, read off its sources.
//!
//! ```text
//!   lib.rs ── mod ──→ modules, public or not ──→ items, impl blocks
//!                     pub use ──→ the path under which a private module's item is public
//! ```
//!
//! An item is public when its module and all above it are, or when a public module re-exports it. What an impl block
//! holds belongs to its type, wherever the block stands.

use super::signature::{is_built, promises, text};
use anyhow::{Context, Result, bail, ensure};
use proc_macro2::{Span, TokenTree};
use quote::ToTokens;
use std::collections::BTreeMap;
use std::path::Path;
use syn::{
    Attribute, Fields, FnArg, Generics, Ident, ImplItem, Item, Pat, Signature, TraitItem, Type, UseTree, Visibility,
};

/// Stands in an item's tokens where its path belongs.
const PLACE: &str = "Place__";

/// The public items of the crate whose `src` folder is `source`, one to a line, sorted by their paths.
pub fn listing(source: &Path) -> Result<Vec<String>> {
    let mut krate = Crate::default();
    read_module(&mut krate.modules, source, &source.join("lib.rs"), Vec::new(), true)?;
    krate.find_reexports()?;
    krate.find_types();
    let mut lines = Vec::new();
    for module in &krate.modules {
        for item in &module.items {
            krate.list(module, item, &mut lines)?;
        }
    }
    ensure!(!lines.is_empty(), "{} has no public item", source.display());
    lines.sort();
    lines.dedup();
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

/// A module with its own items; what is under `cfg(test)` or `cfg(loom)` is left out.
struct Module {
    /// From the crate's root, which is empty.
    path: Vec<String>,
    is_public: bool,
    items: Vec<Item>,
}

/// Where a type or trait is defined, and where it is public.
struct Definition {
    module: Vec<String>,
    public_path: Option<String>,
}

#[derive(Default)]
struct Crate {
    modules: Vec<Module>,
    /// The public paths of private modules' items, by module and name.
    reexports: BTreeMap<(Vec<String>, String), String>,
    /// Types and traits, by name.
    types: BTreeMap<String, Vec<Definition>>,
}

/// Reads a file's module and those below it; `children` is the folder with the files of its own modules.
fn read_module(
    modules: &mut Vec<Module>,
    children: &Path,
    file: &Path,
    path: Vec<String>,
    is_public: bool,
) -> Result<()> {
    let source = std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    let parsed = syn::parse_file(&source).with_context(|| format!("{}", file.display()))?;
    add_module(modules, children, path, is_public, parsed.items)
}

fn add_module(
    modules: &mut Vec<Module>,
    children: &Path,
    path: Vec<String>,
    is_public: bool,
    mut items: Vec<Item>,
) -> Result<()> {
    items.retain(|item| attributes(item).is_none_or(is_built));
    for item in &mut items {
        let Item::Mod(module) = item else { continue };
        let name = module.ident.to_string();
        let is_public = is_public && is_pub(&module.vis);
        let own_path = [path.clone(), vec![name.clone()]].concat();
        let own_children = children.join(&name);
        if let Some((_, items)) = module.content.take() {
            add_module(modules, &own_children, own_path, is_public, items)?;
        } else {
            let flat = children.join(format!("{name}.rs"));
            let file = if flat.exists() { flat } else { own_children.join("mod.rs") };
            read_module(modules, &own_children, &file, own_path, is_public)?;
        }
    }
    modules.push(Module { path, is_public, items });
    Ok(())
}

impl Crate {
    fn module(&self, path: &[String]) -> Option<&Module> {
        self.modules.iter().find(|module| module.path == path)
    }

    /// The absolute path of what `path` means in a `use` of `module`; `None` for another crate's.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut base = module.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                let child = [module, &[first.to_owned()]].concat();
                self.module(&child)?;
            }
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn find_reexports(&mut self) -> Result<()> {
        let mut found = BTreeMap::new();
        for module in self.modules.iter().filter(|module| module.is_public) {
            for (path, name) in module.items.iter().flat_map(|item| uses(item, true)) {
                ensure!(name != "*", "`pub use` of everything in {}: its names can't be listed", path.join("::"));
                let Some(target) = self.absolute(&module.path, &path) else { continue };
                let Some((item, holder)) = target.split_last() else { continue };
                if self.module(holder).is_some_and(|holder| !holder.is_public) {
                    found.insert((holder.to_vec(), item.clone()), joined(&module.path, &name));
                }
            }
        }
        self.reexports = found;
        Ok(())
    }

    /// Where an item of this module is public.
    fn public_path(&self, module: &Module, name: &str, visibility: &Visibility) -> Option<String> {
        if module.is_public && is_pub(visibility) {
            return Some(joined(&module.path, name));
        }
        self.reexports.get(&(module.path.clone(), name.to_owned())).cloned()
    }

    fn find_types(&mut self) {
        let mut types: BTreeMap<String, Vec<Definition>> = BTreeMap::new();
        for module in &self.modules {
            for item in &module.items {
                let (name, visibility) = match item {
                    Item::Struct(item) => (item.ident.to_string(), &item.vis),
                    Item::Enum(item) => (item.ident.to_string(), &item.vis),
                    Item::Union(item) => (item.ident.to_string(), &item.vis),
                    Item::Trait(item) => (item.ident.to_string(), &item.vis),
                    Item::Type(item) => (item.ident.to_string(), &item.vis),
                    _ => continue,
                };
                let public_path = self.public_path(module, &name, visibility);
                types.entry(name).or_default().push(Definition { module: module.path.clone(), public_path });
            }
        }
        self.types = types;
    }

    /// The crate's type or trait that a path in this module names; `None` for one of another crate.
    fn definition(&self, module: &Module, path: &syn::Path) -> Result<Option<&Definition>> {
        let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        let Some(name) = parts.last() else { return Ok(None) };
        let imported = module.items.iter().flat_map(|item| uses(item, false)).find(|(_, local)| *local == parts[0]);
        let full = match &imported {
            Some((path, _)) => [path.as_slice(), &parts[1..]].concat(),
            None => parts.clone(),
        };
        let name = full.last().unwrap_or(name);
        let Some(known) = self.types.get(name) else { return Ok(None) };
        let holder = self.absolute(&module.path, &full).map(|path| path[..path.len() - 1].to_vec());
        let holder = holder.unwrap_or_else(|| module.path.clone());
        if let Some(found) = known.iter().find(|definition| definition.module == holder) {
            return Ok(Some(found));
        }
        // Another crate's of the same name.
        if full.len() > 1 && ["core", "libc", "crossbeam_utils"].contains(&full[0].as_str()) {
            return Ok(None);
        }
        // Re-exported, or brought in by a `use` of everything.
        match known.as_slice() {
            [only] => Ok(Some(only)),
            _ => bail!("{} in {}: several types have this name", parts.join("::"), module.path.join("::")),
        }
    }

    fn list(&self, module: &Module, item: &Item, lines: &mut Vec<(String, String)>) -> Result<()> {
        let add = &mut |path: &str, promises: String, line: String| {
            let line = line.replace(PLACE, path);
            lines.push((path.to_owned(), format!("{promises}{line}")));
        };
        let public = |name: &Ident, visibility: &Visibility| self.public_path(module, &name.to_string(), visibility);
        match item {
            Item::Mod(item) if module.is_public && is_pub(&item.vis) => {
                add(&joined(&module.path, &item.ident.to_string()), promises(&item.attrs), format!("pub mod {PLACE}"));
            }
            Item::Use(_) if module.is_public => {
                for (path, name) in uses(item, true) {
                    let target = self.absolute(&module.path, &path).unwrap_or(path).join("::");
                    add(&joined(&module.path, &name), String::new(), format!("pub use {PLACE} = {target}"));
                }
            }
            Item::Fn(item) => {
                if let Some(path) = public(&item.sig.ident, &item.vis) {
                    add(&path, promises(&item.attrs), format!("pub {}", function(&item.sig, PLACE)));
                }
            }
            Item::Const(item) => {
                if let Some(path) = public(&item.ident, &item.vis) {
                    add(&path, promises(&item.attrs), format!("pub const {PLACE}: {}", text(&item.ty)));
                }
            }
            Item::Static(item) => {
                if let Some(path) = public(&item.ident, &item.vis) {
                    let mutability = text(&item.mutability);
                    let line = format!("pub static {mutability} {PLACE}: {}", text(&item.ty)).replace("  ", " ");
                    add(&path, promises(&item.attrs), line);
                }
            }
            Item::Type(item) => {
                if let Some(path) = public(&item.ident, &item.vis) {
                    let line = format!("pub type {PLACE}{} = {}", generics(&item.generics), text(&item.ty));
                    add(&path, promises(&item.attrs), line);
                }
            }
            Item::Struct(item) => {
                if let Some(path) = public(&item.ident, &item.vis) {
                    let head = format!("pub struct {PLACE}{}", generics(&item.generics));
                    add(
                        &path,
                        promises(&item.attrs),
                        format!("{head}{}{}", shape(&item.fields), bounds(&item.generics)),
                    );
                    fields(&path, &item.fields, add);
                    derived(&path, &item.attrs, add);
                }
            }
            Item::Union(item) => {
                if let Some(path) = public(&item.ident, &item.vis) {
                    add(&path, promises(&item.attrs), format!("pub union {PLACE}{}", generics(&item.generics)));
                    fields(&path, &Fields::Named(item.fields.clone()), add);
                }
            }
            Item::Enum(item) => {
                if let Some(path) = public(&item.ident, &item.vis) {
                    let line = format!("pub enum {PLACE}{}{}", generics(&item.generics), bounds(&item.generics));
                    add(&path, promises(&item.attrs), line);
                    for variant in item.variants.iter().filter(|variant| is_built(&variant.attrs)) {
                        let number = variant.discriminant.as_ref();
                        let number = number.map_or(String::new(), |(_, value)| format!(" = {}", text(value)));
                        let line = format!("{PLACE}{}{number}", variant_shape(&variant.fields));
                        add(&format!("{path}::{}", variant.ident), promises(&variant.attrs), line);
                    }
                    derived(&path, &item.attrs, add);
                }
            }
            Item::Trait(item) => {
                if let Some(path) = public(&item.ident, &item.vis) {
                    let safety = if item.unsafety.is_some() { "unsafe " } else { "" };
                    let above = text(&item.supertraits);
                    let above = if above.is_empty() { above } else { format!(": {above}") };
                    let head = format!("pub {safety}trait {PLACE}{}{above}", generics(&item.generics));
                    add(&path, promises(&item.attrs), format!("{head}{}", bounds(&item.generics)));
                    for part in &item.items {
                        trait_item(&path, part, add)?;
                    }
                }
            }
            Item::Impl(item) => self.list_impl(module, item, add)?,
            // What a macro of ours defines is its first word; a macro with a path in front is another crate's.
            Item::Macro(item) if item.ident.is_none() && item.mac.path.segments.len() == 1 && module.is_public => {
                let name = item.mac.tokens.clone().into_iter().find_map(|token| match token {
                    TokenTree::Ident(name) => Some(name.to_string()),
                    _ => None,
                });
                let name = name.with_context(|| format!("{}: what does it define?", text(&item.mac.path)))?;
                add(&joined(&module.path, &name), String::new(), format!("{}! {PLACE}", text(&item.mac.path)));
            }
            Item::Macro(item) => {
                let is_exported = item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export"));
                if let Some(name) = item.ident.as_ref().filter(|_| is_exported) {
                    add(&name.to_string(), promises(&item.attrs), format!("macro {PLACE}!"));
                }
            }
            Item::ForeignMod(_) if module.is_public => {
                let has_public = text(item).contains("pub ");
                ensure!(!has_public, "{}: public foreign items can't be listed", module.path.join("::"));
            }
            _ => {}
        }
        Ok(())
    }

    fn list_impl(&self, module: &Module, item: &syn::ItemImpl, add: &mut Add<'_>) -> Result<()> {
        let own = match &*item.self_ty {
            Type::Path(own) if own.qself.is_none() => self.definition(module, &own.path)?,
            _ => None,
        };
        let path = own.and_then(|own| own.public_path.as_deref());
        // A private type's.
        if own.is_some() && path.is_none() {
            return Ok(());
        }
        let mut own_type = (*item.self_ty).clone();
        if let (Some(_), Type::Path(own)) = (path, &mut own_type)
            && let Some(mut last) = own.path.segments.last().cloned()
        {
            last.ident = place();
            own.path = syn::Path::from(last);
        }
        let safety = if item.unsafety.is_some() { "unsafe " } else { "" };
        let head = format!("{safety}impl{}", generics(&item.generics));
        let (own_type, bounds) = (text(&own_type), bounds(&item.generics));
        if let Some((of, _)) = &item.trait_ {
            let known = self.definition(module, of)?;
            let is_private = known.is_some_and(|known| known.public_path.is_none());
            // A foreign trait of a foreign type can't be; a type that a macro of ours wrote can.
            if is_private || (path.is_none() && known.is_none()) {
                return Ok(());
            }
            let path = path.or(known.and_then(|known| known.public_path.as_deref())).unwrap_or_default();
            let line = format!("{head} {} for {own_type}{bounds}", text(of));
            add(path, promises(&item.attrs), line.clone());
            for part in &item.items {
                if let ImplItem::Type(part) = part {
                    add(path, String::new(), format!("{line}: type {} = {}", part.ident, text(&part.ty)));
                }
            }
            return Ok(());
        }
        let Some(path) = path else { return Ok(()) };
        for part in &item.items {
            let (visibility, attributes, line) = match part {
                ImplItem::Fn(part) => (&part.vis, &part.attrs, function(&part.sig, &part.sig.ident.to_string())),
                ImplItem::Const(part) => (&part.vis, &part.attrs, format!("const {}: {}", part.ident, text(&part.ty))),
                ImplItem::Type(part) => (&part.vis, &part.attrs, format!("type {} = {}", part.ident, text(&part.ty))),
                _ => bail!("{}: a macro in an impl block can't be listed", module.path.join("::")),
            };
            if is_pub(visibility) && is_built(attributes) {
                add(path, promises(attributes), format!("{head} {own_type}{bounds}: pub {line}"));
            }
        }
        Ok(())
    }
}

/// Takes a line: the path it is sorted by and that takes the place of [`PLACE`], what its attributes promise, and its
/// text.
type Add<'a> = dyn FnMut(&str, String, String) + 'a;

fn trait_item(path: &str, item: &TraitItem, add: &mut Add<'_>) -> Result<()> {
    let default = |has_one: bool| if has_one { " = .." } else { "" };
    let (name, attributes, line) = match item {
        TraitItem::Fn(item) => {
            let line = format!("{}{}", function(&item.sig, PLACE), default(item.default.is_some()));
            (&item.sig.ident, &item.attrs, line)
        }
        TraitItem::Const(item) => {
            let line = format!("const {PLACE}: {}{}", text(&item.ty), default(item.default.is_some()));
            (&item.ident, &item.attrs, line)
        }
        TraitItem::Type(item) => {
            let above = text(&item.bounds);
            let above = if above.is_empty() { above } else { format!(": {above}") };
            (&item.ident, &item.attrs, format!("type {PLACE}{}{above}", generics(&item.generics)))
        }
        _ => bail!("{path}: a macro in a trait can't be listed"),
    };
    if is_built(attributes) {
        add(&format!("{path}::{name}"), promises(attributes), line);
    }
    Ok(())
}

/// What of a struct's fields stands in its own line: a tuple's types, and whether something is private.
fn shape(fields: &Fields) -> String {
    match fields {
        Fields::Unit => String::new(),
        Fields::Unnamed(fields) => {
            let types = fields
                .unnamed
                .iter()
                .map(|field| if is_pub(&field.vis) { format!("pub {}", text(&field.ty)) } else { "_".to_owned() });
            format!("({})", types.collect::<Vec<_>>().join(", "))
        }
        Fields::Named(fields) if fields.named.iter().all(|field| is_pub(&field.vis)) => " { }".to_owned(),
        Fields::Named(_) => " { .. }".to_owned(),
    }
}

fn variant_shape(fields: &Fields) -> String {
    let mut fields = fields.clone();
    fields.iter_mut().for_each(|field| field.attrs.clear());
    if let Fields::Named(_) = fields { format!(" {}", text(&fields)) } else { text(&fields) }
}

fn fields(path: &str, fields: &Fields, add: &mut Add<'_>) {
    for field in fields.iter().filter(|field| is_pub(&field.vis) && is_built(&field.attrs)) {
        if let Some(name) = &field.ident {
            add(&format!("{path}.{name}"), promises(&field.attrs), format!("pub {PLACE}: {}", text(&field.ty)));
        }
    }
}

fn derived(path: &str, attributes: &[Attribute], add: &mut Add<'_>) {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        if let Ok(list) = attribute.meta.require_list() {
            for name in text(&list.tokens).split(", ") {
                add(path, String::new(), format!("derive {name} for {PLACE}"));
            }
        }
    }
}

/// A function's signature under another name.
fn function(signature: &Signature, name: &str) -> String {
    let mut signature = signature.clone();
    signature.ident = place();
    // Whether a function changes its own copy of a parameter is nobody else's business.
    for input in &mut signature.inputs {
        if let FnArg::Typed(input) = input
            && let Pat::Ident(name) = &mut *input.pat
        {
            name.mutability = None;
        }
    }
    text(&signature).replacen(PLACE, name, 1)
}

fn generics(generics: &Generics) -> String {
    // Without the `where` clause.
    text(generics.to_token_stream())
}

fn bounds(generics: &Generics) -> String {
    let clause = generics.where_clause.as_ref().map(text).unwrap_or_default();
    if clause.is_empty() { clause } else { format!(" {clause}") }
}

fn place() -> Ident {
    Ident::new(PLACE, Span::call_site())
}

fn is_pub(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn joined(module: &[String], name: &str) -> String {
    module.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join("::")
}

/// What a `use` item brings in: the path, and the name it gets here, which is `*` for everything.
fn uses(item: &Item, only_public: bool) -> Vec<(Vec<String>, String)> {
    fn walk(tree: &UseTree, path: &[String], found: &mut Vec<(Vec<String>, String)>) {
        let with = |name: &Ident| [path, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(tree) => walk(&tree.tree, &with(&tree.ident), found),
            UseTree::Name(tree) if tree.ident == "self" => {
                found.push((path.to_vec(), path.last().cloned().unwrap_or_default()));
            }
            UseTree::Name(tree) => found.push((with(&tree.ident), tree.ident.to_string())),
            UseTree::Rename(tree) => found.push((with(&tree.ident), tree.rename.to_string())),
            UseTree::Glob(_) => found.push((path.to_vec(), "*".to_owned())),
            UseTree::Group(tree) => tree.items.iter().for_each(|tree| walk(tree, path, found)),
        }
    }
    let mut found = Vec::new();
    if let Item::Use(item) = item
        && (!only_public || is_pub(&item.vis))
    {
        walk(&item.tree, &[], &mut found);
    }
    found
}

fn attributes(item: &Item) -> Option<&[Attribute]> {
    Some(match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return None,
    })
}
