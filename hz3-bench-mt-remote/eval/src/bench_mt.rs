//! `bench-mt`: the remote-free benchmark under every allocator, row by row, in interleaved rounds.

use crate::extent::Extent;
use crate::field::Field;
use crate::measurement::{File, Measurement, Plan, Verified, find_preloaded};
use crate::verdict::{judge, overall};
use anyhow::Result;
use hz3::Workspace;
use hz3::record::{
    Allocator, BenchmarkOutput, FALLBACK_LIMIT_PERCENT, Kind, Row, Run, SYSTEM, Selection, row, run_or_void,
};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The original's number of runs.
const ROUNDS: u32 = 30;

/// Rounds of `--quick`, just enough for a confidence interval.
const QUICK_ROUNDS: u32 = 6;

/// A run that takes longer than this hangs: the slowest takes a few seconds.
const RUN_TIME_LIMIT: Duration = Duration::from_secs(120);

/// Arguments of `bench-mt`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    extent: Extent,
    /// Record the time of single calls instead, and compare their tails
    #[arg(long)]
    latency: bool,
    /// Let the exit status follow the verdict: 0 GO, 1 NO-GO, 3 UNDECIDED
    #[arg(long, conflicts_with = "latency")]
    check: bool,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    file: File,
}

/// `cargo xtask bench-mt`.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    // What can't be measured is found out before anything is built.
    let rows = if arguments.extent.quick && arguments.extent.rows.is_empty() {
        row::quick_matrix()
    } else {
        row::select(row::remote_matrix(), &arguments.extent.rows)?
    };
    let workspace = Workspace::locate()?;
    let program = build(&workspace)?;
    let measurement = if arguments.file.resume {
        let kinds = if arguments.latency { &[Kind::Latency][..] } else { &[Kind::Throughput, Kind::Latency] };
        let find_again = |wanted| find_preloaded(&workspace, &arguments.selection.given, wanted);
        Measurement::resume(&workspace, &arguments.file, kinds, find_again)?
    } else {
        let plan = Plan {
            kind: if arguments.latency { Kind::Latency } else { Kind::Throughput },
            rounds: arguments.extent.rounds(ROUNDS, QUICK_ROUNDS),
            rows,
            missing_rows: Vec::new(),
        };
        let verify = |allocator: &Allocator| verify(&program, allocator);
        let field = Field::of_preloaded(&workspace, &arguments.selection)?;
        Measurement::begin(&workspace, field, &arguments.file, plan, verify)?
    };
    let latency = measurement.results.header.kind == Kind::Latency;
    let results = measurement.carry_out_and_report(|row, allocator| run(&program, row, allocator, latency))?;
    if arguments.check {
        return Ok(overall(&judge(&results)).exit_code());
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the benchmark and returns its path.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    workspace.build_benchmark("hz3-bench-mt-remote")
}

/// Whether the allocator serves a run: a preload library that can't be loaded is skipped by the
/// loader with no more than a warning.
pub fn verify(program: &Path, allocator: &Allocator) -> Result<Verified> {
    let mut command = Command::new(program);
    command.args(["1", "1000", "16", "16", "64", "0", "64"]);
    allocator.apply(&mut command)?;
    let captured = match run_or_void(&mut command, RUN_TIME_LIMIT)? {
        Ok(captured) => captured,
        Err(reason) => return Ok(Err(reason)),
    };
    let complaint = captured.stderr_text().lines().next().map(str::to_owned);
    if !captured.status.success() {
        let reason = complaint.unwrap_or_default();
        return Ok(Err(format!("the benchmark ends with {}: {reason}", captured.status)));
    }
    let output = BenchmarkOutput::read(&captured.stdout_text())?;
    Ok(serves(allocator, &output).map_err(|reason| complaint.unwrap_or(reason)))
}

/// Whether the run was served by `allocator`.
fn serves(allocator: &Allocator, output: &BenchmarkOutput) -> Verified {
    let path = &output.served_by.path;
    let is_right = match &allocator.library {
        Some(library) => path.canonicalize().ok() == library.canonicalize().ok(),
        None => path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libc")),
    };
    if is_right {
        return Ok(());
    }
    let wanted = if allocator.library.is_some() { "its library" } else { SYSTEM };
    Err(format!("malloc came from {} ({}), not from {wanted}", output.served_by.name, path.display()))
}

/// Runs the benchmark once.
fn run(program: &Path, row: &Row, allocator: &Allocator, latency: bool) -> Result<Run> {
    let mut command = Command::new(program);
    command.args(row.arguments.as_ref().expect("a row of the benchmark has its arguments").words());
    if latency {
        command.arg("--latency");
    }
    allocator.apply(&mut command)?;
    let captured = match run_or_void(&mut command, RUN_TIME_LIMIT)? {
        Ok(captured) => captured,
        Err(reason) => return Ok(Run { void: Some(reason), ..Run::default() }),
    };
    let output = match BenchmarkOutput::read(&captured.stdout_text()) {
        Ok(output) => output,
        Err(error) => {
            let complaint = captured.stderr_text().lines().next().unwrap_or_default().to_owned();
            let void = Some(format!("{}: {error:#} {complaint}", captured.status).trim_end().to_owned());
            return Ok(Run { void, ..Run::default() });
        }
    };
    Ok(judged(allocator, output, captured.status.success()))
}

/// The run with its figures, void where they must not count.
pub fn judged(allocator: &Allocator, output: BenchmarkOutput, success: bool) -> Run {
    let fallback = output.figures.fallback_percent.unwrap_or(0.0);
    let void = if output.failed > 0 {
        Some(format!("{} allocations failed", output.failed))
    } else if !success {
        Some("the benchmark failed".to_owned())
    } else if fallback >= FALLBACK_LIMIT_PERCENT {
        Some(format!("fallback rate {fallback:.2} %"))
    } else {
        serves(allocator, &output).err()
    };
    Run { void, benchmark: Some(output.figures), latency: output.latency, ..Run::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::ServedBy;
    use hz3::record::{AllocatorRecord, BenchmarkFigures, Role};

    fn allocator(library: Option<&str>) -> Allocator {
        let record = AllocatorRecord {
            name: "x".to_owned(),
            role: Role::Peer,
            version: String::new(),
            library: None,
            fingerprint: None,
            environment: Vec::new(),
        };
        Allocator { record, library: library.map(PathBuf::from) }
    }

    fn output(path: &str, failed: u64, fallback: f64) -> BenchmarkOutput {
        BenchmarkOutput {
            figures: BenchmarkFigures { fallback_percent: Some(fallback), ..BenchmarkFigures::default() },
            failed,
            latency: Vec::new(),
            served_by: ServedBy { name: "n".to_owned(), path: path.into(), version: String::new() },
        }
    }

    #[test]
    fn a_run_counts_unless_something_makes_it_void() {
        let system = allocator(None);
        let libc = "/lib/x86_64-linux-gnu/libc.so.6";
        assert_eq!(judged(&system, output(libc, 0, 0.0999), true).void, None);
        let void = |output, success| judged(&system, output, success).void.unwrap();
        assert!(void(output(libc, 0, 0.10), true).contains("fallback rate 0.10 %"));
        assert!(void(output(libc, 3, 0.0), false).contains("3 allocations failed"));
        assert!(void(output(libc, 0, 0.0), false).contains("failed"));
        assert!(void(output("/x/libother.so", 0, 0.0), true).contains("libother.so"));
    }

    #[test]
    fn a_void_run_keeps_its_figures_for_the_reader() {
        let run = judged(&allocator(None), output("/lib/libc.so.6", 0, 5.0), true);
        assert_eq!(run.benchmark.unwrap().fallback_percent, Some(5.0));
    }

    #[test]
    fn another_library_of_the_same_name_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| folder.path().join(name).join("libx.so"));
        for path in &paths {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let [first, second] = paths.each_ref().map(|path| path.to_str().unwrap());
        assert!(serves(&allocator(Some(first)), &output(first, 0, 0.0)).is_ok());
        assert!(serves(&allocator(Some(first)), &output(second, 0, 0.0)).is_err());
    }
}
