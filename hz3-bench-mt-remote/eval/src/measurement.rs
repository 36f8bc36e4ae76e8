//! Measurement: carries out a schedule, records each run, and goes on after an interruption.

use crate::field::{Field, find};
use crate::report;
use crate::schedule::Schedule;
use anyhow::{Result, bail};
use hz3::record::{
    Allocator, Bound, ENDLESS, Header, Journal, Kind, Machine, Metric, Missing, Results, Row, Run, SCHEMA, Selection,
    Source, Wanted, load, median, print_missing, shown_arguments,
};
use hz3::{Lane, UsageError, Workspace, process};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Where a measurement's file lies, and whether it exists already.
#[derive(clap::Args, Clone, Debug)]
pub struct File {
    /// The results file [default: a new one in the build folder's results/]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Go on with the results file of an interrupted measurement [default: the newest one]
    #[arg(long, conflicts_with_all = ["lanes", "peers", "rows", "runs", "quick"])]
    pub resume: bool,
}

/// A measurement that is under way.
pub struct Measurement {
    /// What was recorded so far.
    pub results: Results,
    /// The allocators of the header, ready to run.
    pub allocators: Vec<Allocator>,
    /// The results file.
    pub path: PathBuf,
    journal: Journal,
}

/// What to measure, for a new measurement.
pub struct Plan {
    /// Which command measures.
    pub kind: Kind,
    /// Counted rounds per row.
    pub rounds: u32,
    /// The rows.
    pub rows: Vec<Row>,
    /// Rows that can't be measured here.
    pub missing_rows: Vec<Missing>,
}

/// What an attempt to run an allocator found: nothing amiss, or why it can't take part.
pub type Verified = std::result::Result<(), String>;

impl Measurement {
    /// Begins a new measurement: takes out and names the allocators that `verify` finds not to serve
    /// their runs, and writes the header.
    pub fn begin(
        workspace: &Workspace,
        field: Field,
        file: &File,
        plan: Plan,
        verify: impl Fn(&Allocator) -> Result<Verified>,
    ) -> Result<Measurement> {
        let Field { found, mut missing, required } = field;
        let mut allocators = Vec::new();
        for allocator in found {
            match verify(&allocator)? {
                Ok(()) => allocators.push(allocator),
                Err(reason) => {
                    let name = allocator.record.name.clone();
                    if required.contains(&name) {
                        return Err(UsageError(format!("{name} can't be measured: {reason}")).into());
                    }
                    missing.push(Missing { name, reason });
                }
            }
        }
        if allocators.is_empty() {
            return Err(UsageError("no allocator is left to measure".to_owned()).into());
        }
        if plan.rows.is_empty() {
            return Err(UsageError("no row is left to measure".to_owned()).into());
        }
        missing.extend(plan.missing_rows);
        print_missing(&missing);
        let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let path = file.output.clone().unwrap_or_else(|| {
            let time: String = started.chars().filter(char::is_ascii_alphanumeric).collect();
            folder(workspace).join(format!("{}-{time}.json", plan.kind.name()))
        });
        let header = Header {
            schema: SCHEMA,
            kind: plan.kind,
            started,
            machine: Machine::describe(),
            source: Source::describe(&workspace.root),
            arguments: shown_arguments(std::env::args().skip(1)),
            rounds: plan.rounds,
            allocators: allocators.iter().map(|allocator| allocator.record.clone()).collect(),
            missing,
            rows: plan.rows,
        };
        header.machine.warn_if_busy();
        let journal = Journal::create(&path, &header)?;
        let results = Results { header, runs: Vec::new() };
        Ok(Measurement { results, allocators, path, journal })
    }

    /// Goes on with an interrupted measurement of one of `kinds`, provided that its allocators, which
    /// `find_again` finds by the header's names, are still the same.
    pub fn resume(
        workspace: &Workspace,
        file: &File,
        kinds: &[Kind],
        find_again: impl FnOnce(Wanted) -> Result<Vec<Allocator>>,
    ) -> Result<Measurement> {
        let path = match &file.output {
            Some(path) => path.clone(),
            None => newest_interrupted(&folder(workspace), kinds)?,
        };
        let loaded = load(&path)?;
        let header = &loaded.results.header;
        let name = path.display();
        if !kinds.contains(&header.kind) {
            return Err(UsageError(format!("{name} is a file of {}", header.kind.name())).into());
        }
        if loaded.complete {
            return Err(UsageError(format!("{name} is complete: there is nothing to resume")).into());
        }
        let allocators = same_allocators(&find_again(named_in(header))?, header)?;
        let journal = Journal::reopen(&path, &loaded)?;
        eprintln!("resuming {name} after {} runs", loaded.results.runs.len());
        Ok(Measurement { results: loaded.results, allocators, path, journal })
    }

    /// [`Measurement::carry_out`], and the report of what came of it. Interrupts are caught.
    pub fn carry_out_and_report(self, run: impl FnMut(&Row, &Allocator) -> Result<Run>) -> Result<Results> {
        let path = self.path.clone();
        process::catch_interrupts()?;
        let results = self.carry_out(run)?;
        report::print(&results, &path)?;
        Ok(results)
    }

    /// Carries out what is left to do, one `run` after the other, and completes the file. The caller
    /// catches interrupts, so that a run that was cut short is not recorded.
    ///
    /// # Errors
    /// An interruption, and a run or a record that could not be made; what was recorded stays.
    pub fn carry_out(mut self, mut run: impl FnMut(&Row, &Allocator) -> Result<Run>) -> Result<Results> {
        let header = self.results.header.clone();
        let names: Vec<String> = header.allocators.iter().map(|record| record.name.clone()).collect();
        let mut schedule = Schedule::new(&header.rows, header.rounds, &names, &self.results.runs);
        for hung in self.results.runs.iter().filter(|run| is_endless(run)) {
            schedule.give_up(&hung.row, &hung.allocator);
        }
        let progress = progress_bar(schedule.len() as u64);
        let mut is_first = true;
        while let Some(step) = schedule.next() {
            let row = header.rows.iter().find(|row| row.id == step.row).expect("the row was scheduled");
            let allocator = self
                .allocators
                .iter()
                .find(|allocator| allocator.record.name == step.allocator)
                .expect("the allocator was scheduled");
            progress.set_message(format!(
                "{} round {}/{}, {}, {} left",
                row.label,
                step.round,
                header.rounds,
                step.allocator,
                humantime::format_duration(Duration::from_secs(schedule.time_left().as_secs()))
            ));
            if is_first && step.round > 0 {
                // A resumed round would begin on a cold machine, unlike every other counted one.
                run(row, allocator)?;
            }
            is_first = false;
            let start = Instant::now();
            let outcome = run(row, allocator);
            if process::interrupted() {
                progress.finish_and_clear();
                bail!("interrupted; the same command with --resume instead of its selection goes on");
            }
            let recorded =
                Run { row: step.row.clone(), allocator: step.allocator.clone(), round: step.round, ..outcome? };
            schedule.took(&step, start.elapsed());
            if let Some(reason) = &recorded.void {
                progress.suspend(|| {
                    eprintln!("void: {}, {}, round {}: {reason}", row.label, step.allocator, step.round);
                });
            }
            if is_endless(&recorded) {
                schedule.give_up(&step.row, &step.allocator);
            }
            self.journal.append(&recorded)?;
            self.results.runs.push(recorded);
            progress.inc(1);
            if schedule.next_row() != Some(step.row.as_str()) {
                progress.suspend(|| eprintln!("{}", summary(&self.results, row)));
            }
        }
        progress.finish_and_clear();
        self.journal.complete(&self.results)?;
        Ok(self.results)
    }
}

fn is_endless(run: &Run) -> bool {
    run.void.as_ref().is_some_and(|reason| reason.starts_with(ENDLESS))
}

/// Folder of results files that were not given a name.
fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("results")
}

fn progress_bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}").expect("the template is valid");
    ProgressBar::new(length).with_style(style)
}

/// One line that says how a row came out.
fn summary(results: &Results, row: &Row) -> String {
    let bounds = Bound::ALL.map(Metric::Bound);
    let metrics = bounds.into_iter().chain([Metric::OpsPerSecond, Metric::WallSeconds]);
    let figures = results.header.allocators.iter().filter_map(|record| {
        let metric = metrics.clone().find(|&metric| !results.values(&row.id, &record.name, metric).is_empty())?;
        let value = median(&results.values(&row.id, &record.name, metric))?;
        let unit = match metric {
            Metric::OpsPerSecond => " M/s",
            Metric::Bound(_) => "",
            _ => " s",
        };
        Some(format!("{} {}{unit}", record.name, metric.show(value)))
    });
    format!("{}: {}", row.label, figures.collect::<Vec<_>>().join(", "))
}

/// The newest file in `folder` that holds an interrupted measurement of one of `kinds`.
fn newest_interrupted(folder: &Path, kinds: &[Kind]) -> Result<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
        .filter(|entry| {
            load(&entry.path()).is_ok_and(|loaded| !loaded.complete && kinds.contains(&loaded.results.header.kind))
        })
        .max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok())
        .map(|entry| entry.path())
        .ok_or_else(|| UsageError("there is no interrupted measurement to resume".to_owned()).into())
}

/// The names in the header.
fn named_in(header: &Header) -> Wanted {
    let names: Vec<&String> = header.allocators.iter().map(|record| &record.name).collect();
    let (lanes, peers) =
        names.into_iter().partition::<Vec<_>, _>(|name| Lane::ALL.iter().any(|lane| lane.name() == **name));
    let lanes = Lane::ALL.into_iter().filter(|lane| lanes.iter().any(|name| **name == lane.name())).collect();
    Wanted { lanes, peers: peers.into_iter().cloned().collect() }
}

/// Finds preload libraries again, by the names of a header and with those that were given by path.
pub fn find_preloaded(workspace: &Workspace, given: &[String], mut wanted: Wanted) -> Result<Vec<Allocator>> {
    // A given one is no name that is known beforehand.
    wanted.peers.clear();
    Ok(find(workspace, &Selection { wanted, given: given.to_vec(), checked: false })?.0)
}

/// The header's allocators among those found; a mixture of two builds under one name is refused.
fn same_allocators(found: &[Allocator], header: &Header) -> Result<Vec<Allocator>> {
    let same = |record: &hz3::record::results::AllocatorRecord| {
        let again = found.iter().find(|allocator| allocator.record.name == record.name);
        match again {
            Some(allocator) if allocator.record == *record => Ok(allocator.clone()),
            Some(_) => Err(format!("{} has changed since the measurement began", record.name)),
            None => Err(format!("{} is no longer there (a given one needs its --peer again)", record.name)),
        }
    };
    let allocators: std::result::Result<Vec<_>, _> = header.allocators.iter().map(same).collect();
    allocators.map_err(|message| UsageError(format!("can't resume: {message}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hz3::record::Role;
    use hz3::record::results::synthetic::synthetic;

    /// A measurement of two rows by made-up allocators, whose runs are as fast as their number.
    fn measurement(path: &Path) -> Measurement {
        let mut header = synthetic(&[("a", Role::Peer), ("b", Role::Peer)], 2, |_, _, _| (1.0, 1.0)).header;
        header.rows.truncate(2);
        header.rounds = 3;
        let allocators =
            header.allocators.iter().map(|record| Allocator { record: record.clone(), library: None }).collect();
        let journal = Journal::create(path, &header).unwrap();
        Measurement { results: Results { header, runs: Vec::new() }, allocators, path: path.to_owned(), journal }
    }

    #[test]
    fn a_resumed_measurement_records_what_an_uninterrupted_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let whole = measurement(&folder.path().join("whole.json")).carry_out(|_, _| Ok(Run::default())).unwrap();
        assert_eq!(whole.runs.len(), 2 * 4 * 2);

        let path = folder.path().join("parts.json");
        let mut left = 5;
        let stopped = measurement(&path).carry_out(|_, _| {
            left -= 1;
            if left == 0 { bail!("power cut") } else { Ok(Run::default()) }
        });
        assert_eq!(stopped.unwrap_err().to_string(), "power cut");
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.results.runs.len(), 4);

        let journal = Journal::reopen(&path, &loaded).unwrap();
        let allocators = measurement(&folder.path().join("other.json")).allocators;
        let mut calls = 0;
        let resumed = Measurement { results: loaded.results, allocators, path: path.clone(), journal }
            .carry_out(|_, _| {
                calls += 1;
                Ok(Run::default())
            })
            .unwrap();
        assert_eq!(resumed, whole);
        assert_eq!(calls, 12 + 1, "one run more, unrecorded, warms the machine");
        assert!(load(&path).unwrap().complete);
    }

    #[test]
    fn a_pair_that_never_ends_is_tried_once() {
        let folder = tempfile::tempdir().unwrap();
        let results = measurement(&folder.path().join("results.json"))
            .carry_out(|row, allocator| {
                let hangs = row.id == "t1-r0" && allocator.record.name == "b";
                Ok(Run { void: hangs.then(|| format!("{ENDLESS} 1 s")), ..Run::default() })
            })
            .unwrap();
        assert_eq!(results.void_runs("t1-r0", "b").count(), 1);
        assert_eq!(results.runs.len(), 2 * 4 * 2 - 3);
    }

    #[test]
    fn only_an_interrupted_file_of_the_right_kind_is_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let newest = |kinds: &[Kind]| newest_interrupted(folder.path(), kinds);
        assert!(newest(&[Kind::Throughput]).is_err());
        measurement(&folder.path().join("complete.json")).carry_out(|_, _| Ok(Run::default())).unwrap();
        assert!(newest(&[Kind::Throughput]).is_err());
        let path = folder.path().join("interrupted.json");
        drop(measurement(&path));
        assert_eq!(newest(&[Kind::Throughput]).unwrap(), path);
        assert!(newest(&[Kind::Programs]).is_err());
    }
}
