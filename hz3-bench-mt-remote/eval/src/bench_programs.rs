//! `bench-programs`: whole programs and allocator workloads under every allocator, in interleaved
//! rounds.

use crate::bench_mt;
use crate::extent::Extent;
use crate::field::Field;
use crate::measurement::{File, Measurement, Plan, find_preloaded};
use crate::program::{Drive, PROGRAMS, Ready};
use crate::program_inputs::Inputs;
use anyhow::{Context, Result, bail};
use hz3::record::{
    Allocator, BenchmarkOutput, ENDLESS, Kind, Launch, Missing, ProcessFigures, Row, Run, Selection, Suite, launcher,
    row, run_or_void,
};
use hz3::{Lane, Workspace, process};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const ROUNDS: u32 = 10;
const QUICK_ROUNDS: u32 = 6;

/// No run takes longer unless it hangs: the slowest take some seconds.
const RUN_TIME_LIMIT: Duration = Duration::from_secs(180);

/// How long a server may take until it answers.
const SERVER_START_LIMIT: Duration = Duration::from_secs(10);

/// Arguments of `bench-programs`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    extent: Extent,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    file: File,
}

/// The workloads: (name, threads, rounds), each with some tenths of a second of work.
const WORKLOADS: [(&str, u32, u32); 12] = [
    ("larson", 1, 5),
    ("larson", 8, 2),
    ("one-size", 2, 3),
    ("one-size", 8, 1),
    ("passive-false-sharing", 2, 3),
    ("active-false-sharing", 2, 3),
    ("handover", 2, 3),
    ("handover", 8, 1),
    ("large-blocks", 1, 2),
    ("thread-churn", 2, 2),
    ("growing", 1, 2),
    ("growing", 8, 1),
];

fn workload_row((name, threads, rounds): (&str, u32, u32)) -> Row {
    Row {
        id: format!("{name}-t{threads}"),
        label: format!("{name} T={threads}"),
        suite: Suite::Workload,
        command: format!("hz3-bench-workload {name} {threads} {rounds}"),
        arguments: None,
    }
}

/// `cargo xtask bench-programs`.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let program_row = |id: &str| Row {
        id: id.to_owned(),
        label: String::new(),
        suite: Suite::Program,
        command: String::new(),
        arguments: None,
    };
    let all = PROGRAMS.iter().map(|program| program_row(program.id)).chain(WORKLOADS.map(workload_row));
    let wanted: Vec<String> =
        row::select(all.collect(), &arguments.extent.rows)?.into_iter().map(|row| row.id).collect();
    let workspace = Workspace::locate()?;
    let benchmark = bench_mt::build(&workspace)?;
    let workload = workspace.build_benchmark("hz3-bench-workload")?;
    let inputs = Inputs::write(&workspace.target.join("results/inputs"))?;
    let (programs, missing_rows) = prepare(&workspace, &inputs, &wanted)?;
    let measurement = if arguments.file.resume {
        let find_again = |wanted| find_preloaded(&workspace, &arguments.selection.given, wanted);
        Measurement::resume(&workspace, &arguments.file, &[Kind::Programs], find_again)?
    } else {
        let rows = programs
            .iter()
            .map(|program| program.row.clone())
            .chain(WORKLOADS.map(workload_row).into_iter().filter(|row| wanted.contains(&row.id)));
        let rounds = arguments.extent.rounds(ROUNDS, QUICK_ROUNDS);
        let plan = Plan { kind: Kind::Programs, rounds, rows: rows.collect(), missing_rows };
        let verify = |allocator: &Allocator| bench_mt::verify(&benchmark, allocator);
        let field = Field::of_preloaded(&workspace, &arguments.selection)?;
        Measurement::begin(&workspace, field, &arguments.file, plan, verify)?
    };
    measurement.carry_out_and_report(|row, allocator| match row.suite {
        Suite::Workload => run_workload(&workload, row, allocator),
        Suite::Program | Suite::Remote | Suite::Memory => {
            let program = programs.iter().find(|program| program.row.id == row.id);
            let program = program.with_context(|| format!("{} is no longer there", row.id))?;
            run_program(program, allocator)
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The programs that can be measured here, and the others with the reason.
fn prepare(workspace: &Workspace, inputs: &Inputs, wanted: &[String]) -> Result<(Vec<Ready>, Vec<Missing>)> {
    let library = workspace.build_library(Lane::Scale)?;
    let (mut ready, mut missing) = (Vec::new(), Vec::new());
    for program in PROGRAMS.iter().filter(|program| wanted.iter().any(|id| id == program.id)) {
        match program.prepare(inputs, &library)? {
            Ok(program) => ready.push(program),
            Err(absent) => missing.push(absent),
        }
    }
    Ok((ready, missing))
}

/// A run that counts for nothing.
pub fn void(reason: String) -> Run {
    Run { void: Some(reason), ..Run::default() }
}

/// Runs what a row's command names under the allocator: what the launcher counted and what the program
/// printed; else why the run counts for nothing.
pub fn launched(
    program: &Path,
    row: &Row,
    allocator: &Allocator,
) -> Result<std::result::Result<(ProcessFigures, String), String>> {
    let folder = tempfile::tempdir().context("temporary folder")?;
    let report = folder.path().join("report");
    let launch = Launch {
        program: program.to_owned(),
        arguments: row.command.split(' ').skip(1).map(Into::into).collect(),
        stdout: Some(report.clone()),
        environment: allocator.environment()?,
        ..Launch::default()
    };
    let figures = match run_or_void(&mut launch.command()?, RUN_TIME_LIMIT)? {
        Ok(captured) => launcher::read(&captured),
        Err(reason) => return Ok(Err(reason)),
    };
    Ok(match figures {
        Ok(figures) => Ok((figures, std::fs::read_to_string(&report)?)),
        Err(error) => Err(format!("{error:#}")),
    })
}

/// One run of a workload, or of another program that prints the benchmark's lines: it reports calls and
/// live bytes, the launcher time and memory.
pub fn run_workload(program: &Path, row: &Row, allocator: &Allocator) -> Result<Run> {
    let (figures, text) = match launched(program, row, allocator)? {
        Ok(outcome) => outcome,
        Err(reason) => return Ok(void(reason)),
    };
    let output = BenchmarkOutput::read(&text)?;
    let run = bench_mt::judged(allocator, output, true);
    Ok(Run { process: Some(figures), ..run })
}

fn run_program(program: &Ready, allocator: &Allocator) -> Result<Run> {
    let mut launch = program.launch.clone();
    launch.environment.extend(allocator.environment()?);
    let figures = match program.drive {
        Drive::Alone => match run_or_void(&mut launch.command()?, RUN_TIME_LIMIT)? {
            Ok(captured) => launcher::read(&captured),
            Err(reason) => return Ok(void(reason)),
        },
        Drive::Redis => serve_redis(launch),
    };
    Ok(match figures {
        Ok(figures) => Run { process: Some(figures), ..Run::default() },
        Err(error) => void(format!("{error:#}").replace('\n', "; ")),
    })
}

/// Runs the server under the allocator and its client under the system's malloc. The wall time is the
/// client's, everything else the server's.
fn serve_redis(mut launch: Launch) -> Result<ProcessFigures> {
    let folder = tempfile::tempdir().context("temporary folder")?;
    let socket = folder.path().join("redis");
    launch.arguments.push(socket.clone().into());
    let mut command = launch.command()?;
    command.current_dir(folder.path());
    let cli = |words: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(&socket).args(words);
        command
    };
    let (time, captured) = launcher::serve(&mut command, || {
        let start = Instant::now();
        while !process::capture(&mut cli(&["ping"]), RUN_TIME_LIMIT)?.status.success() {
            if start.elapsed() > SERVER_START_LIMIT {
                bail!("the server does not answer");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut client = Command::new("redis-benchmark");
        client.arg("-s").arg(&socket).args(["-q", "-n", "60000", "-P", "16", "-r", "50000", "-d", "200"]);
        client.args(["-t", "set,get,lpush,lpop,sadd,hset,zadd"]);
        let start = Instant::now();
        let captured = process::capture(&mut client, RUN_TIME_LIMIT)
            .map_err(|error| error.context(format!("{ENDLESS} {} s", RUN_TIME_LIMIT.as_secs())))?;
        let time = start.elapsed();
        if !captured.status.success() {
            bail!("redis-benchmark: {}", captured.text());
        }
        process::capture(&mut cli(&["shutdown", "nosave"]), RUN_TIME_LIMIT)?;
        Ok(time)
    })?;
    let figures = launcher::read(&captured)?;
    Ok(ProcessFigures { wall_seconds: time.as_secs_f64(), ..figures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_ids_of_their_own() {
        let mut ids: Vec<String> = WORKLOADS.map(workload_row).into_iter().map(|row| row.id).collect();
        ids.extend(PROGRAMS.iter().map(|program| program.id.to_owned()));
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn a_workload_s_command_is_name_threads_rounds() {
        assert_eq!(workload_row(("larson", 8, 2)).command, "hz3-bench-workload larson 8 2");
    }
}
