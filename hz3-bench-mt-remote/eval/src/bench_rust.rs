//! `bench-rust`: workloads of typical Rust programs under hz3 and others as the global allocator, in interleaved
//! rounds.

use crate::bench_programs::{launched, void};
use crate::extent::Extent;
use crate::global_allocator;
use crate::measurement::{File, Measurement, Plan};
use anyhow::{Context, Result};
use hz3::Workspace;
use hz3::record::{Allocator, Kind, ProcessFigures, Row, Run, SYSTEM, Suite, Wanted, row};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

const ROUNDS: u32 = 15;
const QUICK_ROUNDS: u32 = 6;

/// Arguments of `bench-rust`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    extent: Extent,
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    file: File,
}

/// The workloads: (name, threads, rounds, whether `--quick` has it), each with some tenths of a second of work.
const WORKLOADS: [(&str, u32, u32, bool); 10] = [
    ("collections", 1, 30, true),
    ("collections", 8, 8, false),
    ("messages", 2, 160, true),
    ("messages", 8, 40, false),
    ("trees", 2, 60, true),
    ("trees", 8, 15, false),
    ("buffers", 1, 120, true),
    ("buffers", 8, 30, false),
    ("parse", 2, 16, true),
    ("parse", 8, 5, false),
];

/// With `--quick` a run has this part of its rounds.
const QUICK_PART: u32 = 5;

/// What a program must be able to do before it is measured.
const TRIAL: &str = "hz3-bench-rust collections 1 1";

fn row(name: &str, threads: u32, rounds: u32) -> Row {
    Row {
        id: format!("{name}-t{threads}"),
        label: format!("{name} T={threads}"),
        suite: Suite::Workload,
        command: format!("hz3-bench-rust {name} {threads} {rounds}"),
        arguments: None,
    }
}

fn rows(extent: &Extent) -> Result<Vec<Row>> {
    let is_offered = |in_quick: bool| !extent.quick || in_quick || !extent.rows.is_empty();
    let offered = WORKLOADS.into_iter().filter(|(.., in_quick)| is_offered(*in_quick));
    let rows = offered
        .map(|(name, threads, rounds, _)| row(name, threads, if extent.quick { rounds / QUICK_PART } else { rounds }));
    row::select(rows.collect(), &extent.rows)
}

/// `cargo xtask bench-rust`.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let rows = rows(&arguments.extent)?;
    let workspace = Workspace::locate()?;
    let checker = RefCell::new(Checker::default());
    let programs;
    let measurement = if arguments.file.resume {
        let mut again = HashMap::new();
        let find_again = |wanted: Wanted| {
            let (field, found) = global_allocator::field(&workspace, &wanted)?;
            again = found;
            Ok(field.found)
        };
        let measurement = Measurement::resume(&workspace, &arguments.file, &[Kind::Rust], find_again)?;
        programs = again;
        measurement
    } else {
        let field;
        (field, programs) = global_allocator::field(&workspace, &arguments.wanted)?;
        let rounds = arguments.extent.rounds(ROUNDS, QUICK_ROUNDS);
        let plan = Plan { kind: Kind::Rust, rounds, rows, missing_rows: Vec::new() };
        let trial = Row { command: TRIAL.to_owned(), ..row("trial", 1, 1) };
        let verify = |allocator: &Allocator| {
            let run = run(&programs, &trial, allocator, &mut checker.borrow_mut())?;
            Ok(run.void.map_or(Ok(()), Err))
        };
        Measurement::begin(&workspace, field, &arguments.file, plan, verify)?
    };
    measurement.carry_out_and_report(|row, allocator| run(&programs, row, allocator, &mut checker.borrow_mut()))?;
    Ok(ExitCode::SUCCESS)
}

/// One run of an allocator's program: the launcher tells the time, the program its memory.
fn run(programs: &HashMap<String, PathBuf>, row: &Row, allocator: &Allocator, checker: &mut Checker) -> Result<Run> {
    let name = &allocator.record.name;
    let program = programs.get(name).with_context(|| format!("{name} has no program"))?;
    let (figures, text) = match launched(program, row, allocator)? {
        Ok(outcome) => outcome,
        Err(reason) => return Ok(void(reason)),
    };
    Ok(match checker.check(&row.id, name, &text) {
        Err(reason) => void(reason),
        Ok(peak_rss_mb) => {
            let figures = ProcessFigures { peak_rss_mb: Some(peak_rss_mb), ..figures };
            Run { process: Some(figures), ..Run::default() }
        }
    })
}

/// Checks what the programs print.
#[derive(Default)]
struct Checker {
    /// The first run's checksum of each row, by the row's id: all others must have the same.
    checksums: HashMap<String, String>,
}

impl Checker {
    /// The peak of resident memory in MB that a run of the allocator `name` printed among its `text`; else why the
    /// run counts for nothing.
    fn check(&mut self, row: &str, name: &str, text: &str) -> std::result::Result<f64, String> {
        let word = |line: &str, key: &str| {
            let words = text.lines().find(|text| text.starts_with(line)).into_iter().flat_map(str::split_whitespace);
            let mut values = words.filter_map(|word| word.split_once('=')).filter(|(name, _)| *name == key);
            values.next().map(|(_, value)| value.to_owned()).ok_or_else(|| format!("it printed no {key}"))
        };
        let checksum = word("workload=", "checksum")?;
        let served_by = word("[ALLOCATOR]", "name")?;
        if served_by != name {
            return Err(format!("the program is built with '{served_by}'"));
        }
        let c_library = word("[ALLOCATOR]", "c_library")?;
        if c_library != if name == SYSTEM { "yes" } else { "no" } {
            return Err(format!("blocks of the C library's malloc: '{c_library}'"));
        }
        let known = self.checksums.entry(row.to_owned()).or_insert_with(|| checksum.clone());
        if *known != checksum {
            return Err(format!("its checksum is {checksum}, that of the first run was {known}"));
        }
        let peak = word("[MEM]", "peak_rss_mb")?;
        peak.parse().ok().filter(|peak| *peak > 0.0).ok_or_else(|| format!("its peak of memory is '{peak}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "workload=trees threads=2 rounds=1 time=0.1 checksum=00ff\n[MEM] peak_rss_mb=2.5\n\
                        [ALLOCATOR] name=scale c_library=no\n";

    #[test]
    fn a_run_counts_only_with_the_right_allocator_and_the_others_checksum() {
        let mut checker = Checker::default();
        let mut check = |name: &str, text: &str| checker.check("trees-t2", name, text);
        assert_eq!(check("scale", TEXT), Ok(2.5));
        assert!(check("fast", TEXT).unwrap_err().contains("built with 'scale'"));
        assert!(check("scale", &TEXT.replace("=no", "=yes")).unwrap_err().contains("'yes'"));
        assert!(check("scale", &TEXT.replace("00ff", "00fe")).unwrap_err().contains("00fe"));
        assert!(check("scale", &TEXT.replace("2.5", "0.0")).unwrap_err().contains("'0.0'"));
        assert!(check("scale", "").unwrap_err().contains("no checksum"));
        assert!(check("system", &TEXT.replace("name=scale", "name=system")).unwrap_err().contains("'no'"));
        assert_eq!(check("system", &TEXT.replace("scale c_library=no", "system c_library=yes")), Ok(2.5));
    }

    #[test]
    fn quick_rows_are_some_of_all_with_less_work_and_any_can_be_named() {
        let of = |words: &[&str]| {
            use clap::Parser;
            #[derive(Parser)]
            struct Line {
                #[command(flatten)]
                extent: Extent,
            }
            let line = Line::parse_from(std::iter::once(&"x").chain(words));
            rows(&line.extent).unwrap().into_iter().map(|row| row.command).collect::<Vec<_>>()
        };
        let (all, quick) = (of(&[]), of(&["--quick"]));
        assert_eq!((all.len(), quick.len()), (10, 5));
        assert!(quick.iter().all(|command| !all.contains(command)));
        assert_eq!(of(&["--quick", "--rows", "parse-t8"]), ["hz3-bench-rust parse 8 1"]);
    }
}
