//! Soak: processes of `hz3-soak` on the lanes, one per processor at a time, until the minutes are over.
//!
//! Each gets the plug-ins of all lanes. A third of them has the library of hooks (`hz3-preload/tests/c/plugin/hooks.c`)
//! preloaded before the lane's, a third after it.

use crate::build_preload::Choice;
use anyhow::{Context, Result, bail, ensure};
use hz3::workspace::BUILD_TIME_LIMIT;
use hz3::{Lane, Workspace, preload, process};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The program.
const NAME: &str = "hz3-soak";
/// How long one process storms, in seconds, unless less is left.
const PROCESS_SECONDS: u64 = 20; // chosen: several seeds a minute
/// A process that takes so much longer hangs.
const PATIENCE: Duration = Duration::from_secs(60); // chosen: more than a forked child's limit

/// Arguments of `soak`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// How long in all
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// The lanes, in turn
    #[arg(long, value_enum, default_value_t = Choice::All)]
    lane: Choice,
    /// The first process's seed; the others' follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where each process's line is appended [default: soak.txt in the target folder]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// `cargo xtask soak`. Exit code 1 on the first failure.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    let path = arguments.output.clone().unwrap_or_else(|| workspace.target.join("soak.txt"));
    process::catch_interrupts()?;
    let time = Duration::from_secs(60 * arguments.minutes);
    storm(&workspace, arguments.lane.lanes(), arguments.seed, time, &path)?;
    Ok(ExitCode::SUCCESS)
}

/// One minute of one lane, for the suite.
pub fn one_minute(workspace: &Workspace, lane: Lane) -> Result<()> {
    let path = workspace.target.join("soak.txt");
    storm(workspace, &[lane], 1, Duration::from_secs(60), &path)
}

/// What the processors' threads share.
struct Shared {
    next: u64,
    file: File,
    totals: BTreeMap<&'static str, BTreeMap<String, f64>>,
    failure: Option<String>,
}

/// What the processes run with.
struct Built {
    program: PathBuf,
    libraries: Vec<(Lane, PathBuf)>,
    plug_ins: Vec<PathBuf>,
    hooks: PathBuf,
}

impl Built {
    fn build(workspace: &Workspace, lanes: &[Lane]) -> Result<Self> {
        Ok(Self {
            program: workspace.build_benchmark(NAME)?,
            libraries: lanes.iter().map(|&lane| Ok((lane, workspace.build_library(lane)?))).collect::<Result<_>>()?,
            plug_ins: build_plug_ins(workspace)?,
            hooks: build_hooks(workspace)?,
        })
    }

    /// Process by process, the lanes take turns; each lane's processes, the places of the hooks.
    fn process(&self, number: u64) -> (Lane, &Path, Hooks) {
        let lanes = self.libraries.len() as u64;
        let (lane, library) = &self.libraries[(number % lanes) as usize];
        (*lane, library, Hooks::ALL[(number / lanes % Hooks::ALL.len() as u64) as usize])
    }

    fn command(&self, library: &Path, hooks: Hooks, seed: u64, seconds: u64) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command.args(["--seed", &seed.to_string(), "--seconds", &seconds.to_string()]);
        for plug_in in &self.plug_ins {
            command.arg("--plug-in").arg(plug_in);
        }
        command.env("LD_PRELOAD", hooks.preloaded(library, &self.hooks)?);
        Ok(command)
    }
}

/// Where the library of hooks is, as seen from the lane's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hooks {
    Nowhere,
    Before,
    After,
}

impl Hooks {
    const ALL: [Hooks; 3] = [Hooks::Nowhere, Hooks::Before, Hooks::After];

    /// The value of `LD_PRELOAD`.
    fn preloaded(self, library: &Path, hooks: &Path) -> Result<OsString> {
        match self {
            Hooks::Nowhere => preload::with_preloaded(library, None),
            Hooks::Before => preload::with_preloaded(hooks, Some(&preload::with_preloaded(library, None)?)),
            Hooks::After => preload::with_preloaded(library, Some(&preload::with_preloaded(hooks, None)?)),
        }
    }
}

/// Builds the plug-ins of all lanes, as the steps `plug-ins/…` do.
pub fn build_plug_ins(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut build = workspace.cargo();
    build.args(["build", "--package", "hz3-core"]);
    build.args(Lane::ALL.iter().flat_map(|lane| ["--example".to_owned(), format!("plug_in_{lane}")]));
    process::expect_success(&mut build, BUILD_TIME_LIMIT)?;
    let built = workspace.target.join("debug/examples");
    Ok(Lane::ALL.map(|lane| built.join(format!("libplug_in_{lane}.so"))).into())
}

/// A lazily bound call of the hooks would take 3 KiB of a coroutine's stack for the loader.
fn build_hooks(workspace: &Workspace) -> Result<PathBuf> {
    let library = workspace.target.join("libhz3_soak_hooks.so");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-O1", "-fno-builtin", "-pthread", "-fPIC", "-Wl,-z,now", "-o"]).arg(&library);
    compile.arg(workspace.root.join("hz3-preload/tests/c/plugin/hooks.c")).env_remove("LD_PRELOAD");
    process::expect_success(&mut compile, BUILD_TIME_LIMIT)?;
    Ok(library)
}

fn storm(workspace: &Workspace, lanes: &[Lane], seed: u64, time: Duration, path: &Path) -> Result<()> {
    let built = Built::build(workspace, lanes)?;
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.map_err(|error| hz3::usage::UsageError(format!("can't write {}: {error}", path.display())))?;
    let shared = Mutex::new(Shared { next: 0, file, totals: BTreeMap::new(), failure: None });
    let end = Instant::now() + time;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                loop {
                    let seconds = end.saturating_duration_since(Instant::now()).as_secs().min(PROCESS_SECONDS);
                    let number = {
                        let mut shared = shared.lock().expect("no thread panics");
                        if seconds == 0 || shared.failure.is_some() || process::interrupted() {
                            return;
                        }
                        shared.next += 1;
                        shared.next - 1
                    };
                    let (lane, library, hooks) = built.process(number);
                    let seed = seed.wrapping_add(number);
                    let outcome = built.command(library, hooks, seed, seconds).and_then(|mut command| {
                        let line = run(&mut command, lane, seconds);
                        line.with_context(|| format!("again: {}", process::line_of(&command)))
                    });
                    let mut shared = shared.lock().expect("no thread panics");
                    if let Err(error) = outcome.and_then(|line| shared.record(lane, &line)) {
                        shared.failure.get_or_insert(format!("{lane} lane, seed {seed}: {error:#}"));
                    }
                }
            });
        }
    });
    let shared = shared.into_inner().expect("no thread panics");
    for (lane, totals) in &shared.totals {
        let figures: Vec<_> = totals.iter().map(|(name, value)| format!("{name}={value:.0}")).collect();
        println!("total lane={lane} {}", figures.join(" "));
    }
    if let Some(failure) = shared.failure {
        bail!(failure);
    }
    ensure!(!process::interrupted(), "interrupted");
    ensure!(lanes.iter().all(|lane| shared.totals.contains_key(lane.name())), "a lane had no process");
    Ok(())
}

/// One process; its line.
fn run(command: &mut Command, lane: Lane, seconds: u64) -> Result<String> {
    let captured = process::capture(command, Duration::from_secs(seconds) + PATIENCE)?;
    line_of(&captured.text(), lane).with_context(|| captured.stderr_text().trim_end().to_owned()).and_then(|line| {
        ensure!(captured.status.success(), "{}: {}", captured.status, captured.stderr_text().trim_end());
        Ok(line)
    })
}

/// The line with the figures, if the lane served the process.
fn line_of(text: &str, lane: Lane) -> Result<String> {
    let find = |tag: &str| text.lines().find(|line| line.starts_with(tag));
    let allocator = find("[ALLOCATOR]").context("no [ALLOCATOR] line")?;
    ensure!(allocator.contains(&lane.library()), "another allocator served it: {allocator}");
    Ok(find("[SOAK] ").context("no [SOAK] line: it did not reach its end")?["[SOAK] ".len()..].to_owned())
}

impl Shared {
    /// Appends a process's line to the file and adds its figures up; of megabytes it keeps the largest.
    fn record(&mut self, lane: Lane, line: &str) -> Result<()> {
        println!("lane={lane} {line}");
        writeln!(self.file, "lane={lane} {line}").context("can't write the results file")?;
        let totals = self.totals.entry(lane.name()).or_default();
        *totals.entry("processes".to_owned()).or_default() += 1.0;
        for (name, value) in line.split(' ').filter_map(|word| word.split_once('=')).filter(|(name, _)| *name != "seed")
        {
            let value: f64 = value.parse().with_context(|| format!("not a figure: {name}={value}"))?;
            let total = totals.entry(name.to_owned()).or_default();
            *total = if name.ends_with("_mb") { total.max(value) } else { *total + value };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_only_from_the_right_lane_and_from_the_end() {
        let text = "[ALLOCATOR] name=hz3 path=/lib/libhakozuna_hz3_fast.so version=1\n[SOAK] seed=1 forks=2\n";
        assert_eq!(line_of(text, Lane::Fast).unwrap(), "seed=1 forks=2");
        assert!(line_of(text, Lane::Scale).is_err());
        assert!(line_of(&text.replace("[SOAK]", "[X]"), Lane::Fast).is_err());
    }

    #[test]
    fn each_lane_meets_each_place_of_the_hooks() {
        let libraries = Lane::ALL.map(|lane| (lane, PathBuf::from(format!("/{lane}.so")))).into();
        let built = Built { program: "/p".into(), libraries, plug_ins: vec!["/in.so".into()], hooks: "/h.so".into() };
        let mut met: Vec<_> = (0..9)
            .map(|number| {
                let (_, library, hooks) = built.process(number);
                let command = built.command(library, hooks, 1, 20).unwrap();
                let preloaded = command.get_envs().next().unwrap().1.unwrap().to_str().unwrap().to_owned();
                assert_eq!(command.get_args().last().unwrap(), "/in.so");
                preloaded
            })
            .collect();
        assert_eq!(met[..4], ["/fast.so", "/scale.so", "/hardened.so", "/h.so:/fast.so"]);
        assert_eq!(met[8], "/hardened.so:/h.so");
        met.sort();
        met.dedup();
        assert_eq!(met.len(), 9);
    }

    #[test]
    fn figures_add_up_and_megabytes_keep_their_largest() {
        let file = tempfile::tempfile().unwrap();
        let mut shared = Shared { next: 0, file, totals: BTreeMap::new(), failure: None };
        shared.record(Lane::Fast, "seed=1 forks=2 peak_live_mb=7").unwrap();
        shared.record(Lane::Fast, "seed=2 forks=3 peak_live_mb=5").unwrap();
        let totals = &shared.totals["fast"];
        assert_eq!((totals["forks"], totals["peak_live_mb"], totals["processes"]), (5.0, 7.0, 2.0));
        assert!(shared.record(Lane::Fast, "forks=many").is_err());
    }
}
