//! `faults`: commits a program's faults under every allocator, one process each, and says what became of them.

use crate::fault_expectations::expected_of;
use crate::fault_outcome::Outcome;
use crate::field::find;
use anyhow::{Context, Result, bail, ensure};
use hz3::record::{Allocator, Machine, Selection, Source, print_missing, tuning_variables};
use hz3::{Lane, Workspace, process};
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

/// One size of each kind of block: small, medium, large.
const SIZES: [(&str, usize); 3] = [("small", 64), ("medium", 20_000), ("large", 1 << 20)];

/// A run takes some hundredths of a second.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The name of the hardened allocator that comes with a compiler and is taken besides the peers.
const SCUDO: &str = "scudo";

/// Arguments of `faults`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// How often each fault is committed: where addresses are random, so is what a fault meets
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Write README.md with the table into this folder, besides printing it
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// The compiled program, in a folder of its own.
struct Program {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Program {
    fn compile(workspace: &Workspace) -> Result<Program> {
        let folder = tempfile::tempdir().context("temporary folder")?;
        let path = folder.path().join("misuse_cases");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(compiler);
        // As the tests of the preload libraries compile theirs: no call of the heap may be merged or dropped.
        command.args(["-O1", "-fno-builtin", "-pthread", "-o"]).arg(&path);
        command.arg(workspace.root.join("hz3-preload/tests/c/misuse_cases.c"));
        command.env_remove("LD_PRELOAD");
        process::expect_success(&mut command, Duration::from_secs(120))?;
        Ok(Program { path, _folder: folder })
    }

    fn faults(&self) -> Result<Vec<String>> {
        let list = process::expect_success(Command::new(&self.path).arg("--list"), TIME_LIMIT)?;
        Ok(list.stdout_text().lines().map(str::to_owned).collect())
    }

    /// Makes sure that `prepare` gives the program this library's malloc.
    fn is_served_by(&self, library: &Path, prepare: &dyn Fn(&mut Command) -> Result<()>) -> Result<()> {
        let mut command = Command::new(&self.path);
        prepare(command.arg("--library"))?;
        let text = process::expect_success(&mut command, TIME_LIMIT)?.stdout_text();
        let name = library.file_name().context("a library's file name")?.to_string_lossy();
        ensure!(text.trim_end().ends_with(&*name), "{name} does not serve malloc, but {}", text.trim_end());
        Ok(())
    }

    fn run(&self, fault: &str, size: usize, prepare: &dyn Fn(&mut Command) -> Result<()>) -> Result<Outcome> {
        let mut command = Command::new(&self.path);
        prepare(command.arg(fault).arg(size.to_string()))?;
        let start = Instant::now();
        let captured = match process::capture(&mut command, TIME_LIMIT) {
            Ok(captured) => captured,
            Err(_) if start.elapsed() >= TIME_LIMIT && !process::interrupted() => return Ok(Outcome::Hang),
            Err(error) => return Err(error),
        };
        let has_message = captured.stderr.iter().any(|byte| !byte.is_ascii_whitespace());
        let outcome = Outcome::of(captured.status.code(), captured.status.signal(), has_message);
        outcome.with_context(|| format!("{fault} {size}: {}\n{}", captured.status, captured.text()))
    }

    fn run_at_all_sizes(&self, fault: &str, prepare: &dyn Fn(&mut Command) -> Result<()>) -> Result<[Outcome; 3]> {
        let mut outcomes = [Outcome::Silent; 3];
        for ((_, size), outcome) in SIZES.iter().zip(&mut outcomes) {
            *outcome = self.run(fault, *size, prepare)?;
        }
        Ok(outcomes)
    }
}

/// `cargo xtask faults`.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    let mut selection = Selection { checked: true, ..arguments.selection.clone() };
    let has_scudo = selection.given.iter().any(|given| given.starts_with("scudo="));
    if selection.wanted.peers.is_empty()
        && !has_scudo
        && let Some(library) = scudo(Path::new("/usr/lib"))
    {
        selection.given.push(format!("{SCUDO}={}", library.display()));
    }
    let (mut allocators, missing) = find(&workspace, &selection)?;
    for allocator in allocators.iter_mut().filter(|allocator| allocator.record.name == SCUDO) {
        // .../lib/clang/VERSION/lib/linux/FILE
        let version = allocator.library.as_ref().and_then(|library| library.ancestors().nth(3)?.file_name());
        if let Some(version) = version {
            allocator.record.version = format!("standalone, of LLVM {}", version.display());
        }
    }
    print_missing(&missing);
    process::catch_interrupts()?;
    let program = Program::compile(&workspace)?;
    for allocator in &allocators {
        if let Some(library) = &allocator.library {
            program.is_served_by(library, &|command| allocator.apply(command))?;
        }
    }
    let mut rows = Vec::new();
    for fault in program.faults()? {
        let mut cells = vec![[const { Vec::new() }; 3]; allocators.len()];
        for _ in 0..arguments.runs {
            for (allocator, cells) in allocators.iter().zip(&mut cells) {
                let outcomes = program.run_at_all_sizes(&fault, &|command| allocator.apply(command))?;
                for (cell, outcome) in cells.iter_mut().zip(outcomes) {
                    cell.push(outcome);
                }
            }
        }
        rows.push((fault, cells));
    }
    let table = table(&allocators, &rows);
    print!("{table}");
    if let Some(folder) = &arguments.output {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        let path = folder.join("README.md");
        let text = page(&workspace, &allocators, arguments.runs, &table);
        std::fs::write(&path, text).with_context(|| format!("{}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `check-faults`.
#[derive(clap::Args, Debug)]
pub struct CheckArguments {
    /// The lane to hold to what is expected of it
    #[arg(value_enum)]
    lane: Lane,
}

/// `check-faults`: holds the lane to what is expected of it.
pub fn check(arguments: &CheckArguments) -> Result<ExitCode> {
    let workspace = &Workspace::locate()?;
    let lane = arguments.lane;
    let library = &workspace.build_library(lane)?;
    let prepare = |command: &mut Command| {
        for variable in tuning_variables() {
            command.env_remove(variable);
        }
        command.env("LD_PRELOAD", library);
        Ok(())
    };
    let program = Program::compile(workspace)?;
    program.is_served_by(library, &prepare)?;
    let faults = program.faults()?;
    let expectations = expected_of(lane);
    ensure!(faults == expectations.map(|(fault, _)| fault), "the program's faults are {}", faults.join(", "));
    let mut differences = String::new();
    for (fault, expected) in *expectations {
        let outcomes = program.run_at_all_sizes(fault, &prepare)?;
        for (((kind, _), outcome), expected) in SIZES.iter().zip(outcomes).zip(expected) {
            if !expected.contains(&outcome) {
                let expected: Vec<_> = expected.iter().map(|outcome| outcome.word()).collect();
                writeln!(differences, "{fault}, {kind}: {} in place of {}", outcome.word(), expected.join(" or "))?;
            }
        }
    }
    if !differences.is_empty() {
        bail!("{differences}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The newest compiler's standalone scudo: `llvm-N/lib/clang/VERSION/lib/linux/`.
fn scudo(folder: &Path) -> Option<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let mut paths: Vec<_> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let file = format!("lib/linux/libclang_rt.scudo_standalone-{}.so", std::env::consts::ARCH);
    let compilers = entries(folder).into_iter().filter(|path| path.to_string_lossy().contains("/llvm-"));
    let versions = compilers.flat_map(|compiler| entries(&compiler.join("lib/clang")));
    versions.map(|version| version.join(&file)).rfind(|path| path.is_file())
}

/// The outcomes of one cell's runs, the most frequent first, with their numbers where they differ.
fn cell(outcomes: &[Outcome]) -> String {
    let mut counts: Vec<(Outcome, usize)> = Vec::new();
    for &outcome in outcomes {
        match counts.iter_mut().find(|(known, _)| *known == outcome) {
            Some((_, count)) => *count += 1,
            None => counts.push((outcome, 1)),
        }
    }
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    match counts[..] {
        [(outcome, _)] => outcome.word().to_owned(),
        _ => counts.iter().map(|(outcome, count)| format!("{} {count}", outcome.word())).collect::<Vec<_>>().join(", "),
    }
}

fn table(allocators: &[Allocator], rows: &[(String, Vec<[Vec<Outcome>; 3]>)]) -> String {
    let names: Vec<_> = allocators.iter().map(|allocator| allocator.record.name.as_str()).collect();
    let mut text = format!("| fault | size | {} |\n|---|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for (fault, outcomes) in rows {
        for (index, (kind, _)) in SIZES.iter().enumerate() {
            let words: Vec<_> = outcomes.iter().map(|sizes| cell(&sizes[index])).collect();
            text += &format!("| {} | {kind} | {} |\n", fault.replace('_', " "), words.join(" | "));
        }
    }
    text
}

fn page(workspace: &Workspace, allocators: &[Allocator], runs: u32, table: &str) -> String {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let versions: Vec<_> =
        allocators.iter().map(|allocator| format!("{} {}", allocator.record.name, allocator.record.version)).collect();
    let sizes = SIZES.map(|(kind, size)| format!("{kind} {size}")).join(", ");
    format!(
        "# Faults, {date}\n\n- hz3 {source}\n- {machine}\n- `cargo xtask {command}`\n- {versions}\n\n\
        What each allocator does about one fault of the program and in the ordinary use of the heap after it \
        (`hz3-preload/tests/c/misuse_cases.c`), a new process each time, {runs} times for each cell, with no option set. \
        Where the runs differ, each outcome has its number of runs. \
        Sizes in bytes: {sizes}.\n\n\
        - `caught`: SIGABRT with a message\n- `crash`: another signal, or SIGABRT without a message\n\
        - `twice`: one address was served twice at a time\n\
        - `changed`: a block taken afterwards did not keep its bytes\n\
        - `warned`: a message, and the program went on\n\
        - `silent`: nothing seen; the heap may still be damaged\n\
        - `hang`: no end within {limit} s\n- `–`: no such function\n\n{table}",
        date = humantime::format_rfc3339_seconds(SystemTime::now()),
        source = Source::describe(&workspace.root).line(),
        machine = Machine::describe().line(),
        command = arguments.join(" "),
        versions = versions.join(", "),
        limit = TIME_LIMIT.as_secs(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_differ_are_counted_the_most_frequent_first() {
        assert_eq!(cell(&[Outcome::Caught; 3]), "caught");
        assert_eq!(cell(&[Outcome::Silent, Outcome::Twice, Outcome::Twice]), "twice 2, silent 1");
    }

    #[test]
    fn scudo_is_found_in_a_compiler_s_folder_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(scudo(folder.path()), None);
        let file = format!("libclang_rt.scudo_standalone-{}.so", std::env::consts::ARCH);
        let path = folder.path().join("llvm-14/lib/clang/14.0.6/lib/linux").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(scudo(folder.path()), Some(path));
    }
}
