//! Tokens: how items, paths and attributes look among the tokens of a source file.

use proc_macro2::{Delimiter, Group, Ident, Spacing, TokenTree};

/// The segments of a path; the first may be `crate`, `self` or `super`.
pub type Path = Vec<String>;

/// The path that starts at `at`, its line and the index after it.
pub fn path_at(tokens: &[TokenTree], at: usize) -> Option<(Path, usize, usize)> {
    let Some(TokenTree::Ident(first)) = tokens.get(at) else { return None };
    let mut path = vec![first.to_string()];
    let mut after = at + 1;
    while is_colons(tokens, after)
        && let Some(TokenTree::Ident(next)) = tokens.get(after + 2)
    {
        path.push(next.to_string());
        after += 3;
    }
    Some((path, line(first), after))
}

/// The first path among the tokens of a type; `None` where a macro's variable stands in its place.
pub fn first_path(tokens: &[TokenTree]) -> Option<Path> {
    let mut at = 0;
    loop {
        match tokens.get(at)? {
            TokenTree::Ident(word) if word == "dyn" || word == "mut" || word == "const" => at += 1,
            TokenTree::Ident(_) => return path_at(tokens, at).map(|(path, ..)| path),
            TokenTree::Group(group) => return first_path(&inside(group)),
            TokenTree::Punct(punct) => match punct.as_char() {
                '\'' => at += 2,
                '$' if !is_word(tokens.get(at + 1), "crate") => return None,
                '$' | '&' | '*' | ':' | '!' => at += 1,
                _ => return None,
            },
            TokenTree::Literal(_) => return None,
        }
    }
}

/// The index after the `>` that closes the `<` at `at`.
pub fn end_of_generics(tokens: &[TokenTree], at: usize) -> usize {
    let mut open = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        let arrow = index > 0 && (is_punct(tokens.get(index - 1), '-') || is_punct(tokens.get(index - 1), '='));
        if is_punct(Some(token), '<') {
            open += 1;
        } else if is_punct(Some(token), '>') && !arrow {
            open -= 1;
            if open == 0 {
                return index + 1;
            }
        }
    }
    tokens.len()
}

/// The tokens in the brackets of the attribute at `at`, and the index after it.
pub fn attribute(tokens: &[TokenTree], at: usize) -> Option<(Vec<TokenTree>, usize)> {
    let open = at + 1 + usize::from(is_punct(tokens.get(at + 1), '!'));
    let group = tokens.get(open).and_then(group)?;
    (is_punct(tokens.get(at), '#') && group.delimiter() == Delimiter::Bracket).then(|| (inside(group), open + 1))
}

/// Whether the attribute is `test`, or a `cfg` that holds in tests alone.
pub fn needs_test(attribute: &[TokenTree]) -> bool {
    match attribute {
        [TokenTree::Ident(word)] => word == "test",
        [TokenTree::Ident(word), TokenTree::Group(condition)] if word == "cfg" => {
            holds_in_tests_alone(&inside(condition))
        }
        _ => false,
    }
}

fn holds_in_tests_alone(condition: &[TokenTree]) -> bool {
    let parts = |group| {
        let tokens = inside(group);
        tokens.split(|token| is_punct(Some(token), ',')).map(<[_]>::to_vec).collect::<Vec<_>>()
    };
    match condition {
        [TokenTree::Ident(word)] => word == "test",
        [TokenTree::Ident(word), TokenTree::Group(group)] if word == "all" => {
            parts(group).iter().any(|part| holds_in_tests_alone(part))
        }
        [TokenTree::Ident(word), TokenTree::Group(group)] if word == "any" => {
            parts(group).iter().filter(|part| !part.is_empty()).all(|part| holds_in_tests_alone(part))
        }
        _ => false,
    }
}

/// The index after the item, field, variant, arm or statement that starts at `at`.
pub fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while let Some((_, after)) = attribute(tokens, at) {
        at = after;
    }
    let mut first = at;
    while is_word(tokens.get(first), "pub")
        || matches!(tokens.get(first), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
    {
        first += 1;
    }
    let word = match tokens.get(first) {
        Some(TokenTree::Ident(word)) => word.to_string(),
        _ => String::new(),
    };
    let is_function = is_word(tokens.get(first + 1), "fn") || is_word(tokens.get(first + 1), "unsafe");
    let (by_brace, by_comma) = match word.as_str() {
        "const" if is_function => (true, false),
        "use" | "const" | "static" | "let" | "type" => (false, false),
        "extern" if is_word(tokens.get(first + 1), "crate") => (false, false),
        "fn" | "mod" | "struct" | "enum" | "union" | "trait" | "impl" | "unsafe" | "async" | "extern"
        | "macro_rules" => (true, false),
        _ => (true, true),
    };
    let mut open = 0_i32;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        let arrow = index > 0 && (is_punct(tokens.get(index - 1), '-') || is_punct(tokens.get(index - 1), '='));
        match token {
            TokenTree::Group(group) if by_brace && group.delimiter() == Delimiter::Brace => return index + 1,
            TokenTree::Punct(punct) => match punct.as_char() {
                ';' => return index + 1,
                ',' if by_comma && open <= 0 => return index + 1,
                '<' => open += 1,
                '>' if !arrow => open -= 1,
                _ => {}
            },
            _ => {}
        }
    }
    tokens.len()
}

/// Whether a call's arguments follow, or the types for one.
pub fn is_called(tokens: &[TokenTree], at: usize) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis)
        || (is_colons(tokens, at) && is_punct(tokens.get(at + 2), '<'))
}

/// Whether the token may end an item.
pub fn is_end(token: &TokenTree) -> bool {
    is_punct(Some(token), ';') || braces(token).is_some()
}

/// The group that the token is.
pub fn group(token: &TokenTree) -> Option<&Group> {
    if let TokenTree::Group(group) = token { Some(group) } else { None }
}

/// The group in braces that the token is.
pub fn braces(token: &TokenTree) -> Option<&Group> {
    group(token).filter(|group| group.delimiter() == Delimiter::Brace)
}

/// The tokens in a group.
pub fn inside(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

/// Whether the token is that punctuation.
pub fn is_punct(token: Option<&TokenTree>, character: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == character)
}

/// Whether the token is that word.
pub fn is_word(token: Option<&TokenTree>, word: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(ident)) if ident == word)
}

/// Whether `::` stands at `at`.
pub fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let joint = matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.spacing() == Spacing::Joint);
    joint && is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

/// The line that the word stands in.
pub fn line(ident: &Ident) -> usize {
    ident.span().start().line
}
