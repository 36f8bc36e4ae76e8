//! `costs`: what one call costs as something else grows, of a small C program under every allocator.
//!
//! ```text
//! docs/results/costs/costs.c → data.tsv, a line per run, as it comes → README.md and a picture per kind of call
//! ```

use crate::field::find;
use crate::plot::costs::{Curve, draw, time_label};
use anyhow::{Context, Result, ensure};
use hz3::record::{Allocator, Machine, Role, Selection, Source, median, print_missing};
use hz3::report::canvas::PEER_COLOURS;
use hz3::{Lane, Workspace, process};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

/// Where the program lies, and its results by default.
const FOLDER: &str = "docs/results/costs";
/// A run takes up to a few seconds.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// The program's exit status where the allocator has no such function or no room.
const SKIPPED: i32 = 77;
/// The peers, unless others are named: of the distribution.
const PEERS: [&str; 3] = ["system", "jemalloc", "mimalloc2"];

/// The kinds of call: the program's name for it, a title, and what grows.
const KINDS: [(&str, &str, &str); 7] = [
    ("failing_malloc", "A malloc of 1 MiB that fails", "MiB of heap"),
    ("realloc_pair", "A realloc to a size and one to three quarters of it", "KiB, the larger size"),
    ("direct_free", "A free of a block of 32 MiB", "blocks of 32 MiB"),
    ("direct_usable_size", "A malloc_usable_size of a block of 32 MiB", "blocks of 32 MiB"),
    ("mallinfo2", "A mallinfo2", "threads that have allocated"),
    ("free", "A malloc and a free of 100 bytes, in arenas of 1 GB", "MiB of heap in front"),
    ("run_behind_runs", "A malloc and a free of 200 KiB", "free runs of less in front"),
];

/// Arguments of `costs`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// How often each cost is measured under each allocator, in turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Write data.tsv, README.md and the pictures into this folder [default: docs/results/costs]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// One run's cost.
struct Row {
    allocator: String,
    kind: String,
    value: u64,
    nanoseconds: f64,
}

/// `cargo xtask costs`.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    let mut selection = arguments.selection.clone();
    if selection.wanted.peers.is_empty() {
        selection.wanted.peers = PEERS.map(str::to_owned).to_vec();
    }
    if selection.wanted.lanes == Lane::FOR_SPEED {
        selection.wanted.lanes.push(Lane::Hardened);
    }
    let (allocators, missing) = find(&workspace, &selection)?;
    print_missing(&missing);
    process::catch_interrupts()?;
    let output = arguments.output.clone().unwrap_or_else(|| workspace.root.join(FOLDER));
    std::fs::create_dir_all(&output).with_context(|| format!("{}", output.display()))?;
    let folder = tempfile::tempdir().context("temporary folder")?;
    let program = compile(&workspace, folder.path())?;
    let rows = measure(&program, &allocators, arguments.rounds, &output.join("data.tsv"))?;
    let page = page(&workspace, &allocators, arguments.rounds, &rows, &output)?;
    let path = output.join("README.md");
    std::fs::write(&path, page).with_context(|| format!("{}", path.display()))?;
    println!("written: {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn compile(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let program = folder.join("costs");
    let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    // No call of the heap may be merged or dropped.
    command.args(["-O1", "-fno-builtin", "-pthread", "-o"]).arg(&program);
    command.arg(workspace.root.join(FOLDER).join("costs.c")).arg("-ldl").env_remove("LD_PRELOAD");
    process::expect_success(&mut command, Duration::from_secs(120))?;
    Ok(program)
}

/// Runs everything, allocators in turns, and writes each cost as it comes.
fn measure(program: &Path, allocators: &[Allocator], rounds: u32, file: &Path) -> Result<Vec<Row>> {
    let list = process::expect_success(&mut Command::new(program), TIME_LIMIT)?.stdout_text();
    let mut data = std::fs::File::create(file).with_context(|| format!("{}", file.display()))?;
    writeln!(data, "round\tallocator\tkind\tvalue\tnanoseconds")?;
    let mut rows = Vec::new();
    for round in 1..=rounds {
        for line in list.lines() {
            let mut words = line.split(' ');
            let kind = words.next().unwrap_or_default();
            for word in words {
                for allocator in allocators {
                    let mut command = Command::new(program);
                    allocator.apply(command.args([kind, word]))?;
                    let captured = process::capture(&mut command, TIME_LIMIT)?;
                    if captured.status.code() == Some(SKIPPED) {
                        continue;
                    }
                    ensure!(captured.status.success(), "{}: {}", process::line_of(&command), captured.status);
                    let text = captured.stdout_text();
                    let cost = text.split_whitespace().last().and_then(|word| word.parse().ok());
                    let nanoseconds: f64 = cost.with_context(|| format!("no cost in {text:?}"))?;
                    let name = &allocator.record.name;
                    writeln!(data, "{round}\t{name}\t{kind}\t{word}\t{nanoseconds}")?;
                    let value = word.parse().with_context(|| format!("no number: {word}"))?;
                    rows.push(Row { allocator: name.clone(), kind: kind.to_owned(), value, nanoseconds });
                }
            }
            println!("round {round}: {kind}");
        }
    }
    Ok(rows)
}

/// The medians of one kind of call, by allocator and value.
fn medians(rows: &[Row], kind: &str, allocator: &str) -> Vec<(u64, f64)> {
    let mut values: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.kind == kind && row.allocator == allocator) {
        values.entry(row.value).or_default().push(row.nanoseconds);
    }
    values.into_iter().filter_map(|(value, costs)| Some((value, median(&costs)?))).collect()
}

/// The style class of each allocator: lanes and the system have their own, peers follow their order.
pub fn classes(allocators: &[Allocator]) -> Vec<String> {
    let mut peers = 0..;
    let class = |allocator: &Allocator| match allocator.record.role {
        Role::Peer => format!("peer{}", peers.next().unwrap_or(0) % PEER_COLOURS),
        _ => allocator.record.name.clone(),
    };
    allocators.iter().map(class).collect()
}

fn page(workspace: &Workspace, allocators: &[Allocator], rounds: u32, rows: &[Row], folder: &Path) -> Result<String> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let versions: Vec<_> =
        allocators.iter().map(|allocator| format!("{} {}", allocator.record.name, allocator.record.version)).collect();
    let mut text = format!(
        "# Costs, {}\n\n- hz3 {}\n- {}\n- `cargo xtask {}`\n- {}\n\nWhat one call costs as something else grows: \
        [costs.c](costs.c), a new process for each figure, allocators in turns, medians of {rounds} rounds, \
        processor time. All runs: [data.tsv](data.tsv). A `–` is a function that the allocator has not, or no room.\n",
        humantime::format_rfc3339_seconds(SystemTime::now()),
        Source::describe(&workspace.root).line(),
        Machine::describe().line(),
        arguments.join(" "),
        versions.join(", "),
    );
    for (kind, title, axis) in KINDS {
        let curves: Vec<Curve> = allocators
            .iter()
            .zip(classes(allocators))
            .map(|(allocator, class)| Curve {
                name: allocator.record.name.clone(),
                role: allocator.record.role,
                class,
                points: medians(rows, kind, &allocator.record.name)
                    .into_iter()
                    .map(|(value, cost)| (value as f64, cost))
                    .collect(),
            })
            .collect();
        let Some(svg) = draw(title, axis, rounds, &curves) else { continue };
        let name = format!("{}.svg", kind.replace('_', "-"));
        std::fs::write(folder.join(&name), svg).with_context(|| name.clone())?;
        write!(text, "\n## {title}\n\n![{title}, over {axis}]({name})\n\n{}", table(axis, &curves))?;
    }
    Ok(text)
}

fn table(axis: &str, curves: &[Curve]) -> String {
    let mut values: Vec<f64> = curves.iter().flat_map(|curve| &curve.points).map(|point| point.0).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let names: Vec<_> = curves.iter().map(|curve| curve.name.as_str()).collect();
    let mut text = format!("| {axis} | {} |\n|---:|{}\n", names.join(" | "), "---:|".repeat(names.len()));
    for value in values {
        let cell = |curve: &Curve| {
            let cost = curve.points.iter().find(|point| point.0.total_cmp(&value).is_eq());
            cost.map_or_else(|| "–".to_owned(), |point| time_label(point.1))
        };
        let cells: Vec<_> = curves.iter().map(cell).collect();
        text += &format!("| {value} | {} |\n", cells.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(allocator: &str, value: u64, nanoseconds: f64) -> Row {
        Row { allocator: allocator.to_owned(), kind: "free".to_owned(), value, nanoseconds }
    }

    #[test]
    fn a_table_has_the_medians_and_a_dash_where_there_is_none() {
        let rows = [row("fast", 10, 5.0), row("fast", 10, 3.0), row("fast", 10, 4.0), row("system", 20, 1e3)];
        let curves = ["fast", "system"].map(|name| Curve {
            name: name.to_owned(),
            role: Role::Lane,
            class: name.to_owned(),
            points: medians(&rows, "free", name).into_iter().map(|(value, cost)| (value as f64, cost)).collect(),
        });
        let table = table("MiB", &curves);
        assert!(table.ends_with("| 10 | 4 ns | – |\n| 20 | – | 1 µs |\n"), "{table}");
    }

    #[test]
    fn every_kind_of_the_program_has_a_title() {
        let source = include_str!("../../../docs/results/costs/costs.c");
        for (kind, _, _) in KINDS {
            assert_eq!(source.matches(&format!("{{\"{kind}\", ")).count(), 1, "{kind}");
        }
        assert_eq!(source.matches("    {\"").count(), KINDS.len());
    }
}
