//! Pages: what `install` lays out for man(1) and for the shells, read by the programs that it is for.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use crate::tree::{Content, put};
use crate::{files::files_in, manual};
use anyhow::{Context, Result, ensure};
use hz3::process;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const NEEDED: [Package; 2] =
    [Package { command: "bash", name: "bash" }, Package { command: "groff", name: "groff-base" }];
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Loads bash's completion and prints what it offers for a command line.
const COMPLETE: &str = r#". "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _hz3 hz3 "${@: -1}" "${@: -2:1}"
                          echo "${COMPREPLY[*]}""#;

/// Command lines, and what bash must offer for the last word.
const OFFERED: [(&[&str], &str); 4] = [
    (&["hz3", "do"], "doctor"),
    (&["hz3", "--la"], "--lane"),
    (&["hz3", "run", "--lane", "hard"], "hardened"),
    (&["hz3", "launch"], ""),
];

/// One step.
pub fn steps() -> Vec<Step> {
    vec![Step::new("dist/pages", pages_are_read)]
}

fn pages_are_read(session: &mut Session) -> Result<(), Stop> {
    package::require(&NEEDED)?;
    let folder = session.empty_folder("pages")?;
    for (path, bytes) in manual::files(&session.workspace.root)? {
        put(&folder.join(path), &Content::File { bytes, is_executable: false })?;
    }
    for page in files_in(&folder.join("share/man"))? {
        check_page(&folder.join("share/man").join(page))?;
    }
    check_a_fault_is_seen(&folder)?;
    let completions = folder.join("share/bash-completion/completions/hz3");
    for (words, offered) in OFFERED {
        let mut bash = Command::new("bash");
        bash.args(["-c", COMPLETE, "bash"]).arg(&completions).args(words).env_remove("LD_PRELOAD");
        let said = process::expect_success(&mut bash, TIME_LIMIT)?.stdout_text();
        if said.trim() != offered {
            return Err(Stop::failed(format!("bash offers {:?} for {words:?}, not {offered:?}", said.trim())));
        }
    }
    // The other shells only say that they can read theirs, where they are installed.
    for (shell, path) in
        [("zsh", "share/zsh/site-functions/_hz3"), ("fish", "share/fish/vendor_completions.d/hz3.fish")]
    {
        if which::which(shell).is_ok() {
            process::expect_success(Command::new(shell).arg("-n").arg(folder.join(path)), TIME_LIMIT)?;
        }
    }
    Ok(())
}

/// groff warns of nothing, and the page has a name, by which whatis(1) finds it.
fn check_page(page: &Path) -> Result<()> {
    let mut groff = Command::new("groff");
    groff.args(["-man", "-ww", "-Kutf8", "-Tutf8", "-P-cbou"]).arg(page).env_remove("LD_PRELOAD");
    let said = process::expect_success(&mut groff, TIME_LIMIT)?;
    ensure!(said.stderr_text().is_empty(), "{}: {}", page.display(), said.stderr_text());
    let text = said.stdout_text().split_whitespace().collect::<Vec<_>>().join(" ");
    let name = page.file_stem().context("a name")?.to_string_lossy();
    let is_named = text.contains(&format!(" NAME {name} - "));
    ensure!(is_named && text.contains("SEE ALSO"), "{}:\n{text}", page.display());
    Ok(())
}

fn check_a_fault_is_seen(folder: &Path) -> Result<()> {
    let page = folder.join("x.1");
    let text = b".TH X 1\n.SH NAME\nx \\- y\n.nosuchmacro\n.SH SEE ALSO\nz\n".to_vec();
    put(&page, &Content::File { bytes: text, is_executable: false })?;
    ensure!(check_page(&page).is_err(), "groff says nothing of an unknown macro");
    Ok(())
}
