//! Documents: what README.md and docs/ say of themselves and of the sources, as far as a program can tell.
//!
//! ```text
//!   links      every relative link leads to a file, and its anchor to a heading; every page is in the contents
//!   options    every option of hz3-core is explained and has its place in the tuning guide, and no other is named
//!   messages   every text with which hz3 stops a process or warns is in the troubleshooting guide
//!   figures    tables and reports are those that the data beside them give
//! ```
//!
//! Outside rule: GitHub's anchors of headings (lower case, blanks become hyphens, punctuation goes).

use super::step::Step;
use crate::files::files_with;
use anyhow::{Context, Result, ensure};
use regex_lite::Regex;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Pages that must name every option.
const PAGES_OF_OPTIONS: [&str; 2] = ["docs/options.md", "docs/tuning.md"];
/// The page that must have every message.
const PAGE_OF_MESSAGES: &str = "docs/troubleshooting.md";
/// The book's contents.
const CONTENTS: &str = "docs/README.md";
/// What looks like an option and tells the tests and the command hz3 where the libraries lie.
const NO_OPTIONS: [&str; 1] = ["HZ3_PRELOAD_DIR"];

/// One step per kind of statement.
pub fn steps() -> Vec<Step> {
    vec![
        Step::new("documents/links", |session| Ok(check_links(&session.workspace.root)?)),
        Step::new("documents/options", |session| Ok(check_options(&session.workspace.root)?)),
        Step::new("documents/messages", |session| Ok(check_messages(&session.workspace.root)?)),
        Step::new("documents/figures", |session| Ok(session.evaluate(&["check-documents"])?)),
    ]
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a valid pattern")
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
}

/// README.md and every page under docs/, relative to the root.
fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut pages = vec![PathBuf::from("README.md")];
    pages.extend(files_with("md", &root.join("docs"))?.iter().map(|page| Path::new("docs").join(page)));
    Ok(pages)
}

/// The lines of a page that are neither in a fence nor code, with what stands between backticks taken out.
fn prose(text: &str) -> Vec<String> {
    let code = pattern("`[^`]*`");
    let mut is_code = false;
    text.lines()
        .filter(|line| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_fence && !is_code
        })
        .map(|line| code.replace_all(line, "``").into_owned())
        .collect()
}

/// The anchors of a page's headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut is_code = false;
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        if is_code || !line.starts_with('#') {
            continue;
        }
        let heading =
            pattern(r"\[([^\]]*)\]\([^)]*\)").replace_all(line.trim_start_matches('#').trim(), "$1").into_owned();
        let anchor: String = heading
            .to_lowercase()
            .chars()
            .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
            .map(|letter| if letter == ' ' { '-' } else { letter })
            .collect();
        let number = (1..).find(|number| !anchors.contains(&numbered(&anchor, *number))).unwrap_or(1);
        anchors.insert(numbered(&anchor, number));
    }
    anchors
}

/// The second heading of the same words ends in `-1`.
fn numbered(anchor: &str, number: usize) -> String {
    if number == 1 { anchor.to_owned() } else { format!("{anchor}-{}", number - 1) }
}

fn check_links(root: &Path) -> Result<()> {
    let link = pattern(r"\]\(([^)\s]+)\)");
    let mut faults = Vec::new();
    let mut listed = BTreeSet::new();
    for page in pages(root)? {
        let text = read(&root.join(&page))?;
        for line in prose(&text) {
            for target in link.captures_iter(&line).map(|found| found[1].to_owned()) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
                let folder = page.parent().unwrap_or(Path::new(""));
                let path = if file.is_empty() { page.clone() } else { folder.join(file) };
                if !root.join(&path).exists() {
                    faults.push(format!("{}: {target}: there is no such file", page.display()));
                } else if !anchor.is_empty() && !anchors(&read(&root.join(&path))?).contains(anchor) {
                    faults.push(format!("{}: {target}: there is no such heading", page.display()));
                }
                if page == Path::new(CONTENTS) {
                    listed.insert(path);
                }
            }
        }
    }
    let mut of_the_book = pages(root)?;
    of_the_book.retain(|page| page.parent() == Some(Path::new("docs")) && page != Path::new(CONTENTS));
    for page in of_the_book.iter().filter(|page| !listed.contains(*page)) {
        faults.push(format!("{CONTENTS} does not list {}", page.display()));
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn check_options(root: &Path) -> Result<()> {
    let source = read(&root.join("hz3-core/src/platform/options.rs"))?;
    let known: BTreeSet<String> =
        pattern(r#"name: b"([A-Z_]+)""#).captures_iter(&source).map(|name| format!("HZ3_{}", &name[1])).collect();
    ensure!(known.len() > 5, "hz3-core/src/platform/options.rs names no options as this check expects them");
    let option = pattern("HZ3_[A-Z][A-Z_]*[A-Z]");
    let named =
        |text: &str| -> BTreeSet<String> { option.captures_iter(text).map(|name| name[0].to_owned()).collect() };
    let mut faults = Vec::new();
    for page in PAGES_OF_OPTIONS {
        let named = named(&read(&root.join(page))?);
        faults.extend(known.difference(&named).map(|option| format!("{page} lacks {option}")));
    }
    for page in pages(root)? {
        for option in named(&read(&root.join(&page))?) {
            if !known.contains(&option) && !NO_OPTIONS.contains(&option.as_str()) {
                faults.push(format!("{}: {option} is no option", page.display()));
            }
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The texts that the sources give to the functions which stop a process or warn. What is told apart by `match` or `if`
/// before the call is not among them.
fn messages(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let call = pattern(r"\b(?:misuse|misuse_in_bin|misuse_of|impossible|warning)(?:::<[^(]*>)?\(([\s\S]*?)\)[;,]\n");
    let text = pattern(r#""([^"]*)""#);
    call.captures_iter(source)
        .flat_map(|call| {
            text.captures_iter(call.get(1).map_or("", |inner| inner.as_str()))
                .map(|text| text[1].to_owned())
                .collect::<Vec<_>>()
        })
        // A name of a function, a sign or a part of a size.
        .filter(|text| text.contains(' ') && text.trim().contains(' '))
        .collect()
}

fn check_messages(root: &Path) -> Result<()> {
    let page = read(&root.join(PAGE_OF_MESSAGES))?;
    let (mut faults, mut found) = (Vec::new(), 0);
    for folder in ["hz3-core/src", "hz3-preload/src"] {
        for file in files_with("rs", &root.join(folder))? {
            let path = root.join(folder).join(file);
            for message in messages(&read(&path)?) {
                found += 1;
                if !page.contains(message.trim()) {
                    faults.push(format!("{PAGE_OF_MESSAGES} lacks {:?} of {}", message.trim(), path.display()));
                }
            }
        }
    }
    ensure!(found > 5, "the sources call no function that stops or warns as this check expects it");
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A book of these files, each named by its path.
    fn book(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const README: (&str, &str) = ("README.md", "# hz3\n[docs](docs/a.md)\n");

    #[test]
    fn a_link_leads_to_a_file_and_a_heading() {
        let good = [
            README,
            (CONTENTS, "[a](a.md#one-two), [b](sub/b.md)"),
            ("docs/a.md", "# One, two\n"),
            ("docs/sub/b.md", "[a](../a.md)"),
        ];
        check_links(book(&good).path()).unwrap();
        for (text, fault) in [
            ("[a](a.md) [c](c.md)", "c.md: there is no such file"),
            ("[a](a.md#three)", "#three: there is no such heading"),
            ("no link", "does not list docs/a.md"),
        ] {
            let bad = [README, (CONTENTS, text), ("docs/a.md", "# One, two\n")];
            let error = check_links(book(&bad).path()).unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
        }
    }

    #[test]
    fn code_and_addresses_are_no_links_to_files() {
        let text = "[a](a.md) `[x](y)` [web](https://example.org/x)\n```\n[z](z.md)\n# no heading\n```\n";
        check_links(book(&[README, (CONTENTS, text), ("docs/a.md", "")]).path()).unwrap();
        assert!(anchors(text).is_empty());
    }

    #[test]
    fn headings_of_the_same_words_are_numbered() {
        let found = anchors("# `ulimit -v`, and more\n## Same\n## Same\n");
        assert!(["ulimit--v-and-more", "same", "same-1"].iter().all(|anchor| found.contains(*anchor)), "{found:?}");
    }

    #[test]
    fn an_option_that_is_not_explained_or_does_not_exist_is_a_fault() {
        let names = ["ONE", "TWO", "THREE_A", "THREE_B", "FOUR", "FIVE"];
        let source = names.map(|name| format!("name: b\"{name}\"")).join(",");
        let all = names.map(|name| format!("HZ3_{name}")).join(" ");
        let book_of = |tuning: &str| {
            book(&[
                README,
                ("hz3-core/src/platform/options.rs", &source),
                ("docs/options.md", &all),
                ("docs/tuning.md", tuning),
            ])
        };
        check_options(book_of(&all).path()).unwrap();
        let error = check_options(book_of(&all.replace("HZ3_TWO", "")).path()).unwrap_err().to_string();
        assert_eq!(error, "docs/tuning.md lacks HZ3_TWO");
        let error = check_options(book_of(&format!("{all} HZ3_NONE")).path()).unwrap_err().to_string();
        assert_eq!(error, "docs/tuning.md: HZ3_NONE is no option");
    }

    #[test]
    fn texts_of_faults_and_warnings_are_found_over_several_lines() {
        let source = "fn f() { misuse_of::<L>(\"malloc()\", \"write after free to\", bin);\n\
                      fault::warning::<O>(&[NAME,\n b\" is no option; ignored\"]);\n\
                      None => impossible::<O>(\"internal error\"),\n other(\"not this one\");\n}\n\
                      #[cfg(test)]\nmisuse::<O>(\"a test's own\");";
        assert_eq!(messages(source), ["write after free to", " is no option; ignored", "internal error"]);
    }
}
