//! Manual: the pages for man(1), and what shells complete, made from what else says the same: the command's arguments, of
//! which `--help` is made, hz3.h, and the table of docs/options.md, which the step `claims/options` compares with the
//! sources.
//!
//! Outside rules: man-pages(7), groff_man(7); where bash-completion, zsh and fish look for files.

use anyhow::{Context, Result, ensure};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use hz3::command_line::{self, Arguments};
use roff::{Inline, Roff, bold, roman};
use std::path::Path;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MANUAL: &str = "hz3 manual";
const CHANGELOG: &str = include_str!("../../hz3-preload/debian/changelog");
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// What libhz3(3) says before it lists the functions of hz3.h.
const LIBRARY: &str = "hz3 is a memory allocator. Preloaded (see `hz3`(1)) or linked, its library replaces `malloc`(3), \
                       `free`(3), `operator new` and their families. Each lane is a library of its own: `scale` is for \
                       many threads that free each other's blocks, `fast` for few threads, `hardened` stops the process \
                       at a misuse of memory.";

/// How libhz3(3) says that programs are linked.
const LINKING: [&str; 3] = [
    "cc program.c $(pkg-config --cflags --libs hz3)",
    "find_package(hz3 REQUIRED)",
    "target_link_libraries(program hz3::scale)",
];

/// Where each shell looks for completions of `hz3`, below the prefix.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "share/bash-completion/completions/hz3"),
    (Shell::Fish, "share/fish/vendor_completions.d/hz3.fish"),
    (Shell::Zsh, "share/zsh/site-functions/_hz3"),
];

/// When this version was made.
fn date() -> Result<String> {
    let last = CHANGELOG.lines().find_map(|line| line.split_once(", ").filter(|_| line.starts_with(" -- ")));
    let words: Vec<&str> = last.map_or("", |(_, date)| date).split(' ').collect();
    let [day, month, year, ..] = words[..] else { anyhow::bail!("the package's changelog has no date") };
    let month = MONTHS.iter().position(|&name| name == month).context("a month")? + 1;
    Ok(format!("{year}-{month:02}-{day:0>2}"))
}

/// All pages and completions, with their paths below the prefix; `root` is the workspace's, whose hz3.h and options are read.
pub fn files(root: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let text = |name: &str| std::fs::read_to_string(root.join(name)).with_context(|| name.to_owned());
    let mut files = command_pages()?;
    let library = library_page(&text("hz3-preload/include/hz3.h")?, &text("docs/options.md")?)?;
    files.push(("share/man/man3/libhz3.3".to_owned(), library.into_bytes()));
    // Hidden commands would be offered too.
    let command = Arguments::command();
    let mut visible = Command::new("hz3").version(VERSION).disable_help_subcommand(true).args(command.get_arguments());
    visible = visible.subcommands(command.get_subcommands().filter(|one| !one.is_hide_set()));
    for (shell, path) in COMPLETIONS {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut visible, "hz3", &mut script);
        files.push((path.to_owned(), script));
    }
    Ok(files)
}

/// hz3(1), and a page for each of its commands, such as hz3-top(1).
fn command_pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = Arguments::command();
    command.build();
    let commands: Vec<&Command> = command.get_subcommands().filter(|one| !one.is_hide_set()).collect();
    let mut pages = vec![("hz3".to_owned(), &command)];
    pages.extend(commands.iter().map(|&one| (format!("hz3-{}", one.get_name()), one)));
    pages
        .iter()
        .map(|(name, page)| {
            let man = Man::new((*page).clone()).title(name.to_uppercase()).date(date()?);
            let man = man.source(format!("hz3 {VERSION}")).manual(MANUAL);
            let mut bytes = Vec::new();
            man.render_title(&mut bytes)?;
            man.render_name_section(&mut bytes)?;
            man.render_synopsis_section(&mut bytes)?;
            man.render_description_section(&mut bytes)?;
            man.render_options_section(&mut bytes)?;
            let mut rest = Roff::new();
            if name == "hz3" {
                man.render_subcommands_section(&mut bytes)?;
                rest.control("SH", ["EXIT STATUS"]).text(inline(command_line::EXIT_STATUS));
                rest.control("SH", ["ENVIRONMENT"]);
                for (variable, effect) in command_line::ENVIRONMENT {
                    rest.control("TP", []).text([bold(variable)]).text(inline(effect));
                }
            }
            let others = pages.iter().filter(|(other, _)| other != name).map(|(other, _)| format!("`{other}`(1), "));
            let also = others.collect::<String>() + "`libhz3`(3), `ld.so`(8)";
            rest.control("SH", ["SEE ALSO"]).text(inline(&also));
            rest.to_writer(&mut bytes)?;
            Ok((format!("share/man/man1/{name}.1"), bytes))
        })
        .collect()
}

/// libhz3(3): the functions and structures of hz3.h with its comments, and the options.
fn library_page(header: &str, options: &str) -> Result<String> {
    let (_, rest) = header.split_once("extern \"C\" {\n#endif\n").context("hz3.h without extern \"C\"")?;
    let (declarations, _) = rest.split_once("#ifdef __cplusplus").context("hz3.h without an end")?;
    let declarations: Vec<Declaration> = declarations.split("\n\n").filter_map(Declaration::read).collect();
    let functions: Vec<&str> = declarations.iter().flat_map(Declaration::functions).collect();
    ensure!(!functions.is_empty(), "hz3.h declares no function");

    let mut page = Roff::new();
    page.control("TH", ["LIBHZ3", "3", &date()?, &format!("hz3 {VERSION}"), MANUAL]);
    page.control("SH", ["NAME"]).text([roman("libhz3 - a memory allocator that scales with cross-thread frees")]);
    page.control("SH", ["SYNOPSIS"]).control("nf", []).text([bold("#include <hz3.h>")]);
    for function in &functions {
        page.text([bold(*function)]);
    }
    page.control("sp", []);
    for line in LINKING {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.control("SH", ["DESCRIPTION"]).text(inline(LIBRARY));
    for declaration in &declarations {
        declaration.write(&mut page);
    }
    page.control("SH", ["ENVIRONMENT"]);
    write_options(&mut page, options)?;
    page.control("SH", ["SEE ALSO"]).text(inline("`hz3`(1), `malloc`(3), `malloc_trim`(3), `mallopt`(3), `ld.so`(8)"));
    Ok(page.to_roff())
}

/// What stands between two empty lines of hz3.h: a comment, and what it is about.
struct Declaration<'a> {
    comment: String,
    lines: Vec<&'a str>,
}

impl<'a> Declaration<'a> {
    fn read(text: &'a str) -> Option<Declaration<'a>> {
        let text = text.trim();
        let (comment, code) = text.strip_prefix("/*").and_then(|rest| rest.split_once("*/")).unwrap_or(("", text));
        let words = comment.split_whitespace().filter(|&word| word != "*").collect::<Vec<_>>();
        let lines = code.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>();
        (!lines.is_empty()).then(|| Declaration { comment: words.join(" "), lines })
    }

    fn functions(&self) -> impl Iterator<Item = &'a str> {
        self.lines.iter().copied().filter(|line| line.ends_with(");"))
    }

    /// A structure or an enumeration with its members, or functions.
    fn write(&self, page: &mut Roff) {
        let head = self.lines[0].trim_end_matches([' ', '{', ';']);
        if self.functions().next().is_none() {
            page.control("SS", [head]).text(inline(&self.comment));
        }
        for (number, function) in self.functions().enumerate() {
            page.control(if number == 0 { "TP" } else { "TQ" }, []).text([bold(function)]);
        }
        if self.functions().next().is_some() {
            page.text(inline(&self.comment));
        }
        for line in &self.lines {
            if let Some((member, comment)) = line.split_once("/*") {
                let name = member.trim().trim_end_matches([';', ',']).trim_start_matches("size_t ");
                page.control("TP", []).text([bold(name)]).text(inline(comment.trim_end_matches("*/").trim()));
            }
        }
    }
}

/// The options, as their page's table has them, and what stands before it.
fn write_options(page: &mut Roff, options: &str) -> Result<()> {
    let (before, table) = options.split_once("\n| name |").context("docs/options.md without its table")?;
    for paragraph in before.split("\n\n").skip(1) {
        page.text(inline(&paragraph.replace('\n', " ")));
    }
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, values, default, effect] = cells[..] else { anyhow::bail!("not four cells: {row}") };
        page.control("TP", []).text(inline(&format!("{name}: {values} [default: {default}]"))).text(inline(effect));
    }
    Ok(())
}

/// A line of text in which words between backticks are bold, and links are their words alone.
fn inline(text: &str) -> Vec<Inline> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, (words, after))) =
        rest.split_once('[').and_then(|(before, link)| Some((before, link.split_once("](")?)))
    {
        let Some((_, after)) = after.split_once(')') else { break };
        plain.extend([before, words]);
        rest = after;
    }
    plain.push_str(rest);
    let parts = plain.replace('\u{2212}', "-");
    let parts = parts.split('`').enumerate();
    parts.map(|(place, part)| if place % 2 == 0 { roman(part) } else { bold(part) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::Workspace;

    #[test]
    fn the_library_s_page_has_every_function_and_member_of_the_header_and_every_option() {
        let text = |name| std::fs::read_to_string(Workspace::locate().unwrap().root.join(name)).unwrap();
        let (header, options) = (text("hz3-preload/include/hz3.h"), text("docs/options.md"));
        let page = library_page(&header, &options).unwrap().replace('\\', "");
        let mut words: Vec<&str> = header.lines().filter(|line| line.ends_with(");")).collect();
        words.extend(
            header.lines().filter_map(|line| line.trim().strip_prefix("size_t ")?.split_once(';')).map(|two| two.0),
        );
        let functions = words.len();
        words.extend(options.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()));
        assert!(functions > 50 && words.len() > functions + 10, "{words:?}");
        for word in words {
            assert!(page.contains(word), "{word}");
        }
        assert!(!page.contains("](") && !page.contains('`'), "markdown is left");
    }

    #[test]
    fn every_command_has_a_page_with_its_options_and_completions_offer_no_hidden_one() {
        let pages = command_pages().unwrap();
        for (name, option) in [("hz3", "library"), ("hz3-top", "interval"), ("hz3-advise", "confidence")] {
            let (_, page) = pages.iter().find(|(path, _)| *path == format!("share/man/man1/{name}.1")).unwrap();
            assert!(String::from_utf8_lossy(page).contains(&format!("\\-\\-{option}")), "{name}");
        }
        assert_eq!(pages.len(), 6);
        for (path, bytes) in files(&Workspace::locate().unwrap().root).unwrap() {
            assert!(!String::from_utf8_lossy(&bytes).contains("launch"), "{path}");
        }
    }

    #[test]
    fn links_and_backticks_become_words() {
        let text = |parts: Vec<Inline>| Roff::new().text(parts).render();
        assert!(text(inline("a [link](x.md#y) of `b`")).contains("a link of \\fBb\\fR"));
    }
}
