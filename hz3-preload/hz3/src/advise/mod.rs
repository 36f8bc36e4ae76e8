//! `advise`: the user's own program under the system's malloc, both lanes and the peers, until the data say
//! which is best or the time is up.

mod advice;
mod sequential;

use crate::home::{self, Home};
use crate::record::allocator::{Allocator, Peers, SYSTEM, Selection, find, print_missing};
use crate::record::journal::Journal;
use crate::record::launcher::{self, Launch, run_or_void};
use crate::record::machine::Machine;
use crate::record::results::{Header, Kind, Missing, Results, Role, SCHEMA, shown_arguments};
use crate::record::row::{Row, Suite};
use crate::record::run::Run;
use crate::usage::UsageError;
use crate::{doctor, process, run};
use advice::Look;
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sequential::Looks;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

/// A run under another allocator may take this many times what the system's malloc took, or
/// [`LEAST_LIMIT`]; then it hangs.
const LONGEST: u32 = 20;
const LEAST_LIMIT: Duration = Duration::from_secs(10);

/// What the loader says of a library that it does not load.
const NOT_PRELOADED: &str = "cannot be preloaded";

/// Below this a run is mostly the start of a process.
const SHORT_RUN: Duration = Duration::from_millis(20);

/// Arguments of `advise`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Seconds after which no further round begins
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    time_limit: u32,
    /// The share of such measurements whose statements all hold
    #[arg(long, default_value_t = 0.95, value_parser = confidence)]
    confidence: f64,
    /// Show what the program writes, which else is dropped, on standard error
    #[arg(long)]
    show_output: bool,
    /// The file that the program reads as its standard input
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// The file that gets every run's figures, for report and compare
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The exit code with which the program has done its work
    #[arg(long, value_name = "CODE", default_value_t = 0)]
    exit_code: u8,
    #[command(flatten)]
    selection: Selection,
    /// The program and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

fn confidence(text: &str) -> std::result::Result<f64, String> {
    let value = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.5..=0.9999).contains(&value) { Ok(value) } else { Err("it must lie between 0.5 and 0.9999".to_owned()) }
}

/// A program and how it is run.
struct Subject {
    launch: Launch,
    ends_well: String,
    show_output: bool,
    folder: tempfile::TempDir,
    /// Variables that the program does not inherit.
    own_variables: Vec<OsString>,
}

/// `advise -- PROGRAM ARGS`. The field is the lanes, what the system has, and what `peers` adds to the selection.
pub fn command(
    arguments: &Arguments,
    home: &dyn Home,
    peers: impl FnOnce(&Selection) -> Result<Peers>,
) -> Result<ExitCode> {
    let subject = Subject::new(arguments, home)?;
    let library_path = home.library_path();
    let mut selection = arguments.selection.clone();
    if !selection.wanted.peers.is_empty() {
        // Every statement is made against it.
        selection.wanted.peers.push(SYSTEM.to_owned());
    }
    let (mut allocators, missing) = find(home, &selection, peers(&selection)?)?;
    if let Some(library) = allocators.iter().find_map(|allocator| allocator.library.as_ref())
        && let Some(reason) = doctor::examine(&arguments.program[0], library, library_path.as_deref())?.stop()
    {
        let name = arguments.program[0].display();
        let message = format!("no preloaded allocator reaches {name}: {reason} (see {} doctor {name})", home.caller());
        return Err(UsageError(message).into());
    }
    // How hz3 is tuned is part of the question; the others' variables would be answers to another one.
    let options = hz3_options();
    for allocator in allocators.iter_mut().filter(|allocator| allocator.record.role == Role::Lane) {
        allocator.record.environment.extend(options.iter().cloned());
    }
    // The system's malloc runs first: what the program does under it is right.
    allocators.sort_by_key(|allocator| allocator.record.name != SYSTEM);
    process::catch_interrupts()?;
    let row = Row {
        id: "program".to_owned(),
        label: subject.label(),
        suite: Suite::Program,
        command: subject.label(),
        arguments: None,
    };
    let header = Header {
        schema: SCHEMA,
        kind: Kind::Programs,
        started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        machine: Machine::describe(),
        source: home.source(),
        arguments: shown_arguments(std::env::args().skip(1)),
        rounds: 0,
        allocators: allocators.iter().map(|allocator| allocator.record.clone()).collect(),
        missing,
        rows: vec![row],
    };
    let journal = arguments.output.as_ref().map(|path| Journal::create(path, &header)).transpose()?;
    let results = Results { header, runs: Vec::new() };
    let limit = Duration::from_secs(arguments.time_limit.into());
    let mut trial = Trial {
        results,
        journal,
        allocators,
        left_out: Vec::new(),
        longest: Duration::ZERO,
        subject: &subject,
        library_path,
        limit,
    };
    trial.carry_out(arguments.confidence)?;
    if let Some(path) = &arguments.output {
        println!("results: {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The user's variables that tune hz3.
fn hz3_options() -> Vec<(String, String)> {
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    all.filter(|(name, _)| name.starts_with("HZ3_") && name != home::VARIABLE).collect()
}

impl Subject {
    fn new(arguments: &Arguments, home: &dyn Home) -> Result<Subject> {
        let (name, rest) = arguments.program.split_first().context("clap requires a program")?;
        let program = run::find(name)?;
        if let Some(file) = &arguments.stdin {
            std::fs::File::open(file).map_err(|error| UsageError(format!("can't read {}: {error}", file.display())))?;
        }
        let launch = Launch { program, arguments: rest.to_vec(), stdin: arguments.stdin.clone(), ..Launch::default() };
        let folder = tempfile::tempdir().context("temporary folder")?;
        let ends_well = format!("exit code {}", arguments.exit_code);
        Ok(Subject {
            launch,
            ends_well,
            show_output: arguments.show_output,
            folder,
            own_variables: home.own_variables(),
        })
    }

    /// The command line, for the reader; of the program only its file name.
    fn label(&self) -> String {
        let name = self.launch.program.file_name().unwrap_or_default();
        let words = std::iter::once(name).chain(self.launch.arguments.iter().map(OsString::as_os_str));
        words.map(|word| word.display().to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Runs the program once; `Err` inside says how it failed.
    fn run(
        &self,
        allocator: &Allocator,
        library_path: Option<&OsString>,
        limit: Duration,
    ) -> Result<std::result::Result<Run, String>> {
        let mut launch = self.launch.clone();
        launch.environment = allocator.environment()?;
        if let Some(path) = library_path {
            launch.environment.push(("LD_LIBRARY_PATH".to_owned(), path.clone()));
        }
        let output = self.folder.path().join("output");
        launch.stdout = self.show_output.then(|| output.clone());
        let mut command = launch.command()?;
        for variable in &self.own_variables {
            command.env_remove(variable);
        }
        let captured = match run_or_void(&mut command, limit)? {
            Ok(captured) => captured,
            Err(reason) => return Ok(Err(reason)),
        };
        let complaints = captured.stderr_text();
        if self.show_output {
            let written = String::from_utf8_lossy(&std::fs::read(&output)?).into_owned();
            eprint!("--- under {}\n{written}{complaints}", allocator.record.name);
        }
        if let Some(line) = complaints.lines().find(|line| line.contains(NOT_PRELOADED)) {
            return Ok(Err(line.to_owned()));
        }
        let account = launcher::account(&captured)?;
        if account.ended() != self.ends_well {
            let said = complaints.lines().last().map_or_else(String::new, |line| format!(" ({line})"));
            return Ok(Err(format!("{}{said}", account.ended())));
        }
        Ok(Ok(Run { process: Some(account.figures), ..Run::default() }))
    }
}

/// A measurement that is under way.
struct Trial<'a> {
    results: Results,
    /// The file of the results, if one was asked for.
    journal: Option<Journal>,
    /// Those that still take part.
    allocators: Vec<Allocator>,
    left_out: Vec<String>,
    /// The longest run under the system's malloc.
    longest: Duration,
    subject: &'a Subject,
    library_path: Option<OsString>,
    limit: Duration,
}

impl Trial<'_> {
    /// Runs rounds, looks when a look is due, and prints what was found.
    fn carry_out(&mut self, confidence: f64) -> Result<()> {
        let count = self.allocators.len() as u32;
        // Every pair of allocators is compared twice, by time and by memory.
        let mut looks = Looks::new(confidence, count * (count - 1));
        let progress =
            ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}")?);
        let start = Instant::now();
        let mut round = 0;
        let error = loop {
            progress.set_message(format!("{}, round {round}", self.results.header.rows[0].label));
            let began = Instant::now();
            progress.suspend(|| self.run_round(round))?;
            progress.tick();
            if round == 0 {
                // Not earlier: an error of the user's is one line.
                print_missing(&self.results.header.missing);
                self.results.header.machine.warn_if_busy();
            }
            let took = began.elapsed();
            let is_due = round == looks.due();
            let is_late = start.elapsed() + took > self.limit;
            if is_due || is_late {
                let error = looks.take(round);
                if is_late || Look::new(&self.results, error, confidence)?.advice().is_settled {
                    break error;
                }
            }
            round += 1;
        };
        progress.finish_and_clear();
        self.results.header.rounds = round;
        if let Some(journal) = self.journal.take() {
            journal.complete(&self.results)?;
        }
        self.print(error, confidence, &looks, start.elapsed())
    }

    /// Runs the program once under every allocator, each round beginning with another one: who comes after
    /// whom stays, who comes first does not.
    fn run_round(&mut self, round: u32) -> Result<()> {
        let count = self.allocators.len();
        let order: Vec<Allocator> =
            (0..count).map(|place| self.allocators[(place + round as usize) % count].clone()).collect();
        for allocator in order {
            let name = allocator.record.name.clone();
            let limit = match self.longest {
                Duration::ZERO => self.limit,
                longest => (longest * LONGEST).max(LEAST_LIMIT),
            };
            let start = Instant::now();
            let outcome = self.subject.run(&allocator, self.library_path.as_ref(), limit)?;
            match outcome {
                Ok(run) => {
                    let row = self.results.header.rows[0].id.clone();
                    let run = Run { row, allocator: name.clone(), round, ..run };
                    if let Some(journal) = &mut self.journal {
                        journal.append(&run)?;
                    }
                    self.results.runs.push(run);
                    if name == SYSTEM {
                        self.longest = self.longest.max(start.elapsed());
                    }
                }
                Err(reason) if name == SYSTEM => {
                    let program = self.subject.label();
                    let when = if round == 0 { "" } else { ", though not in every run" };
                    let expected = &self.subject.ends_well;
                    let message = format!(
                        "{program}: {reason} under the system malloc{when}, in place of {expected} (see --exit-code)"
                    );
                    return Err(UsageError(message).into());
                }
                Err(reason) => self.leave_out(&name, round, &reason)?,
            }
        }
        Ok(())
    }

    /// An allocator under which the program does not do its work is measured no further.
    fn leave_out(&mut self, name: &str, round: u32, reason: &str) -> Result<()> {
        if reason.contains(NOT_PRELOADED) {
            return Err(UsageError(format!("{name}: {reason}")).into());
        }
        let line = format!(
            "{name}: left out: {reason} in round {round}, where the system malloc has {}",
            self.subject.ends_well
        );
        eprintln!("{line}");
        self.left_out.push(line);
        self.results.header.missing.push(Missing { name: name.to_owned(), reason: format!("left out: {reason}") });
        self.allocators.retain(|allocator| allocator.record.name != name);
        self.results.runs.retain(|run| run.allocator != name);
        self.results.header.allocators.retain(|record| record.name != name);
        if self.allocators.len() < 2 {
            bail!("no allocator is left to compare with the system malloc");
        }
        Ok(())
    }

    fn print(&self, error: f64, confidence: f64, looks: &Looks, time: Duration) -> Result<()> {
        let look = Look::new(&self.results, error, confidence)?;
        println!("{}\n\n{}", look.advice().line, look.table());
        let rounds = self.results.header.rounds;
        println!(
            "{rounds} rounds in {:.0} s after one that was dropped: medians ± half the interquartile range, and medians \
             of the rounds' ratios with intervals that hold together with {} % confidence.",
            time.as_secs_f64(),
            confidence * 100.0
        );
        if rounds < looks.first() {
            println!(
                "At least {} rounds are needed: try --time-limit {}, or fewer allocators (--peers).",
                looks.first(),
                (time.as_secs_f64() / f64::from(rounds + 1) * f64::from(looks.first() + 2)).ceil()
            );
        }
        if self.longest < SHORT_RUN {
            println!(
                "A run takes {} ms, most of which is the start of a process: give the program more work.",
                self.longest.as_millis()
            );
        }
        for line in &self.left_out {
            println!("{line}");
        }
        Ok(())
    }
}
