//! Signature: an item's tokens as a person would write them on one line, and what a `cfg` says of it.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use syn::punctuated::Punctuated;
use syn::{Attribute, Meta, Token};

/// Words that are followed by a type or a pattern: a bracket after them is not theirs.
const WORDS_BEFORE_BRACKETS: [&str; 9] = ["as", "const", "dyn", "for", "in", "mut", "pub", "unsafe", "where"];

/// The tokens on one line.
pub fn text(tokens: impl ToTokens) -> String {
    let mut atoms = Vec::new();
    split(tokens.to_token_stream(), &mut atoms);
    let mut text = String::new();
    let mut previous = String::new();
    let mut atoms = atoms.into_iter().peekable();
    while let Some(atom) = atoms.next() {
        // A list that is broken over lines ends in a comma, which on one line goes.
        if atom == "," && atoms.peek().is_none_or(|next| [")", "]", ">", "}"].contains(&next.as_str())) {
            continue;
        }
        if !text.is_empty() && is_apart(&previous, &atom) {
            text.push(' ');
        }
        text.push_str(&atom);
        previous = atom;
    }
    text
}

/// Whether a blank stands between two atoms. A `where` may follow the `!` of a function that does not return.
fn is_apart(previous: &str, next: &str) -> bool {
    if ["(", "[", "<", "&", "::", "#", "!", ".", "*"].contains(&previous) && next != "where"
        || [")", "]", ">", ",", ";", ":", "::", "?", ".", "!"].contains(&next) && previous != "->"
    {
        return false;
    }
    match next {
        "(" | "[" => !is_name(previous) && previous != ">" || WORDS_BEFORE_BRACKETS.contains(&previous),
        "<" => !is_name(previous),
        _ => true,
    }
}

fn is_name(atom: &str) -> bool {
    atom.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
}

/// Cuts tokens into atoms: names, literals, lifetimes, brackets, and signs of one or two characters.
fn split(tokens: TokenStream, atoms: &mut Vec<String>) {
    let mut pending = String::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::None => ("", ""),
                };
                atoms.push(open.to_owned());
                split(group.stream(), atoms);
                atoms.push(close.to_owned());
            }
            TokenTree::Punct(sign) => {
                pending.push(sign.as_char());
                let is_pair = ["::", "->", "=>", "==", "&&", "||"].contains(&pending.as_str());
                if sign.spacing() == Spacing::Alone || is_pair || !"':-=&|".contains(sign.as_char()) {
                    atoms.push(std::mem::take(&mut pending));
                }
            }
            // A lifetime is a quote and a name.
            TokenTree::Ident(name) => atoms.push(format!("{}{name}", std::mem::take(&mut pending))),
            TokenTree::Literal(literal) => atoms.push(literal.to_string()),
        }
    }
    atoms.retain(|atom| !atom.is_empty());
}

/// Whether the item is there in a build without loom, tests aside.
pub fn is_built(attributes: &[Attribute]) -> bool {
    conditions(attributes).all(|condition| value(&condition) != Some(false))
}

/// What of the item's attributes others depend on, each followed by a blank: its layout, whether more may be added to
/// it, and a condition that is the machine's.
pub fn promises(attributes: &[Attribute]) -> String {
    let kept = attributes.iter().filter(|attribute| {
        let path = attribute.path();
        path.is_ident("repr")
            || path.is_ident("non_exhaustive")
            || path.is_ident("cfg") && attribute.parse_args::<Meta>().is_ok_and(|condition| value(&condition).is_none())
    });
    kept.map(|attribute| format!("{} ", text(attribute))).collect()
}

fn conditions(attributes: &[Attribute]) -> impl Iterator<Item = Meta> {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).filter_map(|found| found.parse_args().ok())
}

/// A condition's value: `loom` and `test` are off, and what depends on the machine is open.
fn value(condition: &Meta) -> Option<bool> {
    match condition {
        Meta::Path(path) if path.is_ident("loom") || path.is_ident("test") => Some(false),
        Meta::List(list) => {
            let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()?;
            let values: Vec<Option<bool>> = parts.iter().map(value).collect();
            let decided_by = |deciding| match () {
                () if values.contains(&Some(deciding)) => Some(deciding),
                () if values.contains(&None) => None,
                () => Some(!deciding),
            };
            match () {
                () if list.path.is_ident("not") => Some(!values.first().copied().flatten()?),
                () if list.path.is_ident("all") => decided_by(false),
                () if list.path.is_ident("any") => decided_by(true),
                () => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_written_as_a_person_writes_them() {
        for line in [
            "pub unsafe fn f<'a, T: Sized + 'static>(&'a mut self, p: *mut T, n: usize) -> Option<&'a [T]>",
            "impl<O: Os, const N: usize> Shards<O> for [Shard<O>; N]",
            "fn g(f: impl Fn(usize) -> bool, h: unsafe extern \"C\" fn(*mut c_void)) -> ! where Self: Sized",
            "fn h() -> (u8, &'static [[u16; 2]; 4])",
            "fn i() -> <L as Lane>::Os",
            "#[cfg(target_arch = \"x86_64\")]",
        ] {
            assert_eq!(text(line.parse::<TokenStream>().unwrap()), line);
        }
        assert_eq!(text("fn f(\n a: u8,\n b: u8,\n)".parse::<TokenStream>().unwrap()), "fn f(a: u8, b: u8)");
    }

    #[test]
    fn a_condition_is_off_on_or_the_machine_s() {
        let value_of = |text: &str| value(&syn::parse_str(text).unwrap());
        assert_eq!(value_of("not(loom)"), Some(true));
        assert_eq!(value_of("all(test, not(loom))"), Some(false));
        assert_eq!(value_of("all(not(loom), target_arch = \"x86_64\")"), None);
        assert_eq!(value_of("any(loom, test)"), Some(false));
        assert_eq!(value_of("not(target_arch = \"x86_64\")"), None);
    }
}
