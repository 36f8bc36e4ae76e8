//! `costs`: what one call costs as something else grows, of a small C program under every allocator.
//!
//! ```text
//! docs/results/costs/costs.c → data.tsv, a line per run, as it comes → README.md and a picture per kind of call
//! ```

use crate::gallery::Gallery;
use crate::plot::costs::{Curve, draw, time_label};
use anyhow::{Context, Result, ensure};
use hz3::record::{Selection, median};
use hz3::{Workspace, process};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

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
    let mut selection = arguments.selection.clone();
    if selection.wanted.peers.is_empty() {
        selection.wanted.peers = PEERS.map(str::to_owned).to_vec();
    }
    let gallery = Gallery::open(&selection, arguments.output.as_deref(), FOLDER)?;
    let folder = tempfile::tempdir().context("temporary folder")?;
    let program = compile(&gallery.workspace, folder.path())?;
    let rows = measure(&program, &gallery, arguments.rounds)?;
    gallery.finish(page(&gallery, arguments.rounds, &rows)?)
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
fn measure(program: &Path, gallery: &Gallery, rounds: u32) -> Result<Vec<Row>> {
    let list = process::expect_success(&mut Command::new(program), TIME_LIMIT)?.stdout_text();
    let mut data = gallery.data()?;
    writeln!(data, "round\tallocator\tkind\tvalue\tnanoseconds")?;
    let mut rows = Vec::new();
    for round in 1..=rounds {
        for line in list.lines() {
            let mut words = line.split(' ');
            let kind = words.next().unwrap_or_default();
            for word in words {
                for allocator in &gallery.allocators {
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

fn page(gallery: &Gallery, rounds: u32, rows: &[Row]) -> Result<String> {
    let mut text = gallery.heading("Costs");
    writeln!(
        text,
        "What one call costs as something else grows: [costs.c](costs.c), a new process for each figure, allocators in \
        turns, medians of {rounds} rounds, processor time. All runs: [data.tsv](data.tsv). A `–` is a function that the \
        allocator has not, or no room."
    )?;
    for (kind, title, axis) in KINDS {
        let curves: Vec<Curve> = gallery
            .styled()
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
        gallery.hang(&name, svg)?;
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
    use hz3::record::Role;

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
