//! Golden file: docs/hot-path.txt, the cost of the hit paths of `malloc` and `free` in each lane.
//!
//! The costs are read off the code of the release libraries. A difference from the file is an
//! error, so that no change of the hot paths goes unseen; the limits below hold whatever the file says.

use crate::disassembly::{Cost, Disassembly, Path};
use anyhow::{Context, Result, bail, ensure};
use hz3::{Lane, Workspace};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The checked functions, and how many instructions their hit paths may have. `free_beyond` is what `free` jumps to with a
/// block outside the near window.
const LIMITS: [(&str, usize); 3] = [("malloc", 14), ("free", 16), (BEYOND, 16)];
const BEYOND: &str = "free_beyond";

const HEADER: &str = "\
# What a hit costs: the longest way from the entry of `malloc` and `free` to a `ret` without a call,
# read off the code of the release libraries (x86-64). `free` jumps to `free_beyond`, after its first six instructions,
# with a block that lies outside the near window (hz3-core/src/pages/page_map.rs). The `ret` is one of the instructions;
# its load of the return address is not one of the loads.
# `cargo xtask golden` compares this file, `cargo xtask golden --update` rewrites it.
";

/// Arguments of `golden`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Rewrite docs/hot-path.txt instead of comparing
    #[arg(long)]
    update: bool,
}

/// `cargo xtask golden`: prints the hit paths and compares their costs with the golden file.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    let mut libraries = Vec::new();
    for lane in Lane::FOR_SPEED {
        libraries.push((lane, workspace.build_library(lane)?));
    }
    let measured = Measured::read(&libraries)?;
    print!("{}", measured.listing);
    let file = file(&workspace);
    if arguments.update {
        std::fs::write(&file, measured.golden_text()).with_context(|| format!("{}", file.display()))?;
        println!("written: {}", file.display());
    } else {
        measured.compare(&workspace)?;
        println!("as in {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether this machine's instructions are the ones that the golden file describes.
pub const fn applies_here() -> bool {
    cfg!(target_arch = "x86_64")
}

fn file(workspace: &Workspace) -> PathBuf {
    workspace.root.join("docs/hot-path.txt")
}

/// The hit paths of the built libraries.
pub struct Measured {
    rows: Vec<Row>,
    /// The instructions of each hit path, for a person.
    listing: String,
}

struct Row {
    lane: Lane,
    function: &'static str,
    cost: Cost,
}

impl Measured {
    /// Reads the libraries' code. A hit path over the limits, or with a stack frame, an atomic
    /// operation or a call, is an error.
    pub fn read(libraries: &[(Lane, PathBuf)]) -> Result<Measured> {
        let mut measured = Measured { rows: Vec::new(), listing: String::new() };
        let mut faults = Vec::new();
        for (lane, library) in libraries {
            let disassembly = Disassembly::read(library)?;
            for (function, limit) in LIMITS {
                let symbol = if function == BEYOND { own_symbol(&disassembly, function) } else { Some(function) };
                let symbol = symbol.with_context(|| format!("{}: no {function}", library.display()))?;
                let code = disassembly.function(symbol).with_context(|| format!("{}", library.display()))?;
                let Some(path) = code.hit_path() else {
                    faults.push(format!("{lane} {function}: no way to a `ret` without a call"));
                    continue;
                };
                let _ = writeln!(measured.listing, "{lane} {function}:");
                for instruction in &path.instructions {
                    let _ = writeln!(measured.listing, "    {:x}: {instruction}", instruction.ip());
                }
                faults.extend(faults_of(&path, limit).map(|fault| format!("{lane} {function}: {fault}")));
                measured.rows.push(Row { lane: *lane, function, cost: path.cost() });
            }
        }
        ensure!(faults.is_empty(), "{}\n{}", faults.join("\n"), measured.listing);
        Ok(measured)
    }

    /// Compares with the golden file.
    pub fn compare(&self, workspace: &Workspace) -> Result<()> {
        let file = file(workspace);
        let expected = std::fs::read_to_string(&file)
            .with_context(|| format!("{}: write it with `cargo xtask golden --update`", file.display()))?;
        let found = self.golden_text();
        if expected != found {
            bail!(
                "the hit paths differ from docs/hot-path.txt (if that is right: `cargo xtask golden --update`)\n\
                 the file:\n{}now:\n{}{}",
                table_of(&expected),
                table_of(&found),
                self.listing
            );
        }
        Ok(())
    }

    fn golden_text(&self) -> String {
        let mut text = HEADER.to_owned();
        let _ = writeln!(text, "lane   function     instructions  branches  loads  stores  atomics");
        for Row { lane, function, cost } in &self.rows {
            let _ = writeln!(
                text,
                "{:<5}  {:<11}  {:>12}  {:>8}  {:>5}  {:>6}  {:>7}",
                lane.name(),
                function,
                cost.instructions,
                cost.branches,
                cost.loads,
                cost.stores,
                cost.atomics
            );
        }
        text
    }
}

/// The mangled name of one of hz3's own functions.
fn own_symbol<'a>(disassembly: &'a Disassembly, function: &str) -> Option<&'a str> {
    disassembly.names().find(|name| name.contains(&format!("{}{function}", function.len())))
}

/// What is wrong with a hit path, whatever the golden file says.
fn faults_of(path: &Path<'_>, limit: usize) -> impl Iterator<Item = String> {
    let cost = path.cost();
    let too_long =
        (cost.instructions > limit).then(|| format!("{} instructions, at most {limit} are allowed", cost.instructions));
    let atomic = (cost.atomics > 0).then(|| "an atomic operation".to_owned());
    let frame = path.has_stack_frame().then(|| "a stack frame".to_owned());
    // Both hit paths move a magazine's top: a way without a store is some early return, and the
    // real hit path calls something.
    let no_store = (cost.stores == 0).then(|| "the only way without a call stores nothing".to_owned());
    [too_long, atomic, frame, no_store].into_iter().flatten()
}

fn table_of(golden: &str) -> String {
    golden.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disassembly::Function;

    fn faults(code: &[u8], limit: usize) -> Vec<String> {
        faults_of(&Function::decode(code, 0x1000).hit_path().unwrap(), limit).collect()
    }

    #[test]
    fn a_short_path_with_a_store_has_no_fault() {
        // mov [rdi], rax; ret
        assert!(faults(&[0x48, 0x89, 0x07, 0xc3], 2).is_empty());
    }

    #[test]
    fn length_atomics_frames_and_missing_stores_are_faults() {
        // lock inc dword ptr [rdi]; ret
        assert_eq!(faults(&[0xf0, 0xff, 0x07, 0xc3], 1).len(), 2);
        // push rax; pop rax; ret
        assert_eq!(faults(&[0x50, 0x58, 0xc3], 3), ["a stack frame"]);
        assert_eq!(faults(&[0xc3], 3).len(), 1);
    }

    #[test]
    fn the_golden_text_has_one_row_per_lane_and_function() {
        let cost = Cost { instructions: 13, branches: 2, loads: 5, stores: 1, atomics: 0 };
        let rows = vec![Row { lane: Lane::Fast, function: "malloc", cost }];
        let text = Measured { rows, listing: String::new() }.golden_text();
        assert_eq!(table_of(&text).lines().count(), 2);
        assert!(text.ends_with("fast   malloc                 13         2      5       1        0\n"), "{text}");
    }
}
