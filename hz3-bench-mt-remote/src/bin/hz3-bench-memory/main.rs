//! `hz3-bench-memory`: whether memory that was freed goes back to the system.
//!
//! Each scenario is one of the complaints about allocators: memory that stays after a peak, memory that
//! gathers in a thread which only frees, memory that threads leave behind, memory of one size that is of
//! no use for another. Resident memory is the kernel's figure without the harness's own mappings. The
//! output has the lines of `bench_random_mixed_mt_remote_malloc`, and the bounds:
//!
//! ```text
//! hz3-bench-memory name=… … seed=…
//! ops=… time=… ops/s=… mallocs=… reallocs=… frees=… failed=…
//! [MEM] peak_rss_mb=… peak_live_mb=… rss_over_live=… rss_before_mb=… harness_mb=…
//! [RETURN] … [TRIM] … [BATCHES] … [PHASE] …                     figures of one scenario or another
//! [BOUND] name=… value=… limit=… ok|EXCEEDED
//! [ALLOCATOR] name=… path=… version=…
//! ```
//!
//! Exit status: 0; 1 if an allocation failed, the run could not be set up, or, with `--check`, a bound is
//! exceeded; 2 for bad arguments.

mod activity;
mod cache;
mod changing_sizes;
mod drifting_sizes;
mod fill_and_free;
mod one_reaper;
mod outcome;
mod phases;
mod thread_batches;
mod trim;

use clap::Parser;
use clap::error::ErrorKind;
use hz3_bench_mt_remote::allocator::Allocator;
use hz3_bench_mt_remote::arguments::first_paragraph;
use hz3_bench_mt_remote::memory::{self, Figure};
use hz3_bench_mt_remote::trace;
use outcome::{Outcome, megabytes, ratio};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

const NAME: &str = "hz3-bench-memory";

/// Shows whether the malloc that serves this process gives memory back
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
    /// Seed of all random choices
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// Write seconds, resident and live bytes to this file, a line every 10 ms
    #[arg(long, global = true, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Let the exit status be 1 when a bound is exceeded
    #[arg(long, global = true)]
    check: bool,
}

impl Arguments {
    fn check(&self) -> Result<(), String> {
        if self.trace.is_some() && matches!(self.scenario, Scenario::OneReaper(_)) {
            return Err("--trace: one-reaper writes none".to_owned());
        }
        self.scenario.check()
    }
}

/// A scenario.
#[derive(Debug, clap::Subcommand)]
enum Scenario {
    /// Fill memory with blocks of one size, free all, and see what stays resident
    FillAndFree(fill_and_free::Arguments),
    /// Many threads allocate, and one that never allocates frees everything
    OneReaper(one_reaper::Arguments),
    /// Short-lived threads that leave blocks to later ones
    ThreadBatches(thread_batches::Arguments),
    /// Live sets whose sizes drift from phase to phase
    Phases(phases::Arguments),
    /// A live set that is renewed all the time, while its sizes change
    ChangingSizes(changing_sizes::Arguments),
    /// A live set that is renewed all the time, while its sizes grow slowly
    DriftingSizes(drifting_sizes::Arguments),
}

impl Scenario {
    fn shown(&self) -> String {
        match self {
            Scenario::FillAndFree(arguments) => arguments.shown(),
            Scenario::OneReaper(arguments) => arguments.shown(),
            Scenario::ThreadBatches(arguments) => arguments.shown(),
            Scenario::Phases(arguments) => arguments.shown(),
            Scenario::ChangingSizes(arguments) => arguments.shown(),
            Scenario::DriftingSizes(arguments) => arguments.shown(),
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Scenario::ThreadBatches(arguments) => arguments.check(),
            _ => Ok(()),
        }
    }

    fn run(&self, seed: u64) -> io::Result<Outcome> {
        match self {
            Scenario::FillAndFree(arguments) => arguments.run(seed),
            Scenario::OneReaper(arguments) => arguments.run(seed),
            Scenario::ThreadBatches(arguments) => arguments.run(seed),
            Scenario::Phases(arguments) => arguments.run(seed),
            Scenario::ChangingSizes(arguments) => arguments.run(seed),
            Scenario::DriftingSizes(arguments) => arguments.run(seed),
        }
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return complain(2, &complaint(&error)),
    };
    if let Err(line) = arguments.check() {
        return complain(2, &line);
    }
    match measure(&arguments) {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::AllocationsFailed(failed)) => complain(1, &format!("{failed} allocations failed")),
        Ok(Verdict::Exceeded) if !arguments.check => ExitCode::SUCCESS,
        Ok(Verdict::Exceeded) => complain(1, "a bound is exceeded"),
        Err(error) => complain(1, &error.to_string()),
    }
}

/// What is wrong with a command line, in one line. A missing scenario makes the parser show its help, of
/// which the first paragraph says nothing of the kind.
fn complaint(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no scenario is given; --help lists them".to_owned();
    }
    first_paragraph(&error.to_string())
}

fn complain(status: u8, line: &str) -> ExitCode {
    eprintln!("{NAME}: {line}");
    ExitCode::from(status)
}

/// How a run ended.
enum Verdict {
    Fine,
    AllocationsFailed(u64),
    Exceeded,
}

/// Runs the scenario and prints the report.
fn measure(arguments: &Arguments) -> io::Result<Verdict> {
    println!("{NAME} {} seed={}", arguments.scenario.shown(), arguments.seed);
    let allocator = Allocator::serving_this_process();
    if let Some(path) = &arguments.trace {
        trace::write_to(File::create(path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?);
    }
    let rss_before = memory::of_this_process(Figure::Resident)?;
    let outcome = arguments.scenario.run(arguments.seed)?;
    let Outcome { tally, time, peak_resident, peak_live, harness, lines, bounds } = outcome;
    println!("{}", tally.line(time));
    println!(
        "[MEM] peak_rss_mb={:.3} peak_live_mb={:.3} rss_over_live={:.4} rss_before_mb={:.3} harness_mb={:.3}",
        megabytes(peak_resident),
        megabytes(peak_live),
        ratio(peak_resident, peak_live),
        megabytes(rss_before),
        megabytes(harness)
    );
    for line in lines {
        println!("{line}");
    }
    for bound in &bounds {
        println!("{bound}");
    }
    println!("[ALLOCATOR] name={} path={} version={}", allocator.name, allocator.path.display(), allocator.version);
    Ok(if tally.failed > 0 {
        Verdict::AllocationsFailed(tally.failed)
    } else if bounds.iter().all(outcome::Bound::holds) {
        Verdict::Fine
    } else {
        Verdict::Exceeded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once(NAME).chain(line.split_whitespace()))
    }

    #[test]
    fn every_scenario_frees_what_it_allocated_and_has_its_bounds() {
        for (line, names) in [
            ("fill-and-free --bytes 1024 --total-mb 8 --seconds 0", &["after", "after-trim"][..]),
            ("one-reaper --seconds 1 --total-mb 4 --producers 3", &["peak-over-live"]),
            ("thread-batches --threads 200 --batch 10", &["growth"]),
            ("phases --total-mb 16 --decay-ms 0 --threads 2", &["phase-end"]),
            ("changing-sizes --total-mb 64 --turns 1 --threads 2", &["peak-over-live"]),
            ("drifting-sizes --total-mb 64 --turns 2 --threads 2", &["peak-over-live"]),
        ] {
            let outcome = parsed(line).unwrap().scenario.run(7).unwrap();
            assert!(outcome.tally.mallocs > 0 && outcome.tally.mallocs == outcome.tally.frees, "{line}: {outcome:?}");
            assert_eq!(outcome.tally.failed, 0, "{line}");
            assert!(outcome.peak_resident > outcome.peak_live && outcome.peak_live > 0, "{line}: {outcome:?}");
            assert_eq!(outcome.bounds.iter().map(|bound| bound.name).collect::<Vec<_>>(), names, "{line}");
        }
    }

    #[test]
    fn a_wrong_argument_is_explained_in_one_line() {
        for line in ["", "fill", "fill-and-free", "fill-and-free --bytes 8", "phases --phases 11", "one-reaper --sed 1"]
        {
            let line = complaint(&parsed(line).unwrap_err());
            assert!(!line.contains('\n') && !line.starts_with("error"), "{line}");
        }
        let too_few = parsed("thread-batches --threads 100 --batch 50").unwrap().scenario;
        assert!(too_few.check().unwrap_err().contains("--batch (50)"));
        assert!(parsed("one-reaper --trace file").unwrap().check().unwrap_err().contains("--trace"));
        assert!(parsed("phases --trace file").unwrap().check().is_ok());
    }
}
