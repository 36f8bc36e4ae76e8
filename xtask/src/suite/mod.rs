//! Suite: every check that CI makes, as named steps that go on after a failure.

mod benchmark;
mod claims;
mod debian;
mod debian_rust;
mod debugger;
mod documents;
mod embedding;
mod emulated;
mod exports;
mod faults;
mod global_allocators;
mod imports;
mod large_pages;
mod layers;
mod left_out;
mod memory;
mod miri;
mod musl;
mod musl_cxx;
mod mutants;
mod neighbours;
mod package;
mod pages;
mod plug_ins;
mod processors;
mod profile;
mod programs;
mod publish;
mod recipes;
mod rust_checks;
mod session;
mod statistics;
mod step;
mod targets;
mod thread_batches;
mod top;
mod turns;
mod valgrind;

use crate::library_shape::Library;
use crate::{frames, golden, public_api, soak};
use anyhow::Result;
use hz3::{Lane, UsageError, preload, process};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use session::Session;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use step::{Step, Stop};
use turns::Turns;

/// Arguments of `test`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Only steps whose name contains TEXT; may be given several times
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Print the steps' names and run none; some run only where a filter names them
    #[arg(long)]
    list: bool,
}

/// `cargo xtask test`: runs the steps. Exit code 1 when one fails.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let mut steps = all_steps();
    if !arguments.filter.is_empty() {
        steps.retain(|step| arguments.filter.iter().any(|text| step.name.contains(text.as_str())));
        if steps.is_empty() {
            let message = format!("no step's name contains {:?} (see --list)", arguments.filter.join(", "));
            return Err(UsageError(message).into());
        }
    }
    if arguments.list {
        for step in &steps {
            println!("{}", step.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.filter.is_empty() {
        steps.retain(|step| !step.is_by_hand);
    }
    process::catch_interrupts()?;
    let mut session = Session::start()?;
    let summary = run_all(&steps, &mut session)?;
    summary.print();
    Ok(if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// First the turns, the longest before the others and in each the cheap checks first; last what needs the machine to itself.
fn all_steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for (turn, of_turn) in [
        ("workspace", workspace_steps()),
        ("loom", [rust_checks::loom_step()].into_iter().chain(mutants::steps()).collect()),
        ("miri", vec![miri::step()]),
        ("aarch64", [debian::foreign_step()].into_iter().chain(processors::aarch64_steps()).collect()),
        ("musl", musl::steps()),
        ("debian", debian::steps()),
        ("riscv64", processors::riscv64_steps().collect()),
        ("publish", publish::steps()),
        ("plug-ins", plug_ins::steps()),
        ("large pages", large_pages::steps()),
        ("programs", programs::steps()),
        ("global allocators", global_allocators::steps()),
        ("valgrind", valgrind::steps()),
        ("emulated", emulated::steps()),
        ("oldest Rust", vec![debian_rust::step()]),
        ("neighbours", neighbours::steps()),
        ("debugger", debugger::steps()),
        // They take a minute each, whatever runs beside them.
        ("soak", soak_steps()),
    ] {
        steps.extend(of_turn.into_iter().map(|step| step.in_turn(turn)));
    }
    steps.push(rust_checks::interface_step());
    steps.extend(recipes::steps());
    steps.extend(benchmark::steps());
    steps.extend(memory::steps());
    steps.extend(thread_batches::steps());
    steps.extend(statistics::steps());
    steps.extend(profile::steps());
    steps.extend(faults::steps());
    steps.extend(top::steps());
    steps
}

fn soak_steps() -> Vec<Step> {
    let step = |lane: Lane| {
        Step::new(format!("soak/{lane}"), move |session| {
            package::require(&[plug_ins::COMPILER])?;
            Ok(soak::one_minute(&session.workspace, lane)?)
        })
    };
    Lane::FOR_SPEED.map(step).into()
}

/// Checks of the sources, then the packages' tests, then what looks at the libraries, which are built here.
fn workspace_steps() -> Vec<Step> {
    let mut steps = rust_checks::source_steps();
    steps.extend(layers::steps());
    steps.push(Step::new("public-api", |session| Ok(public_api::check(&session.workspace)?)));
    steps.extend(documents::steps());
    steps.extend(claims::steps());
    steps.extend(rust_checks::test_steps());
    steps.push(targets::step());
    steps.push(rust_checks::workspace_step());
    for lane in Lane::ALL {
        steps.push(Step::new(format!("build/{lane}"), move |session| {
            session.library(lane)?;
            Ok(())
        }));
    }
    steps.push(Step::new("build/benchmarks", |session| {
        // What comes last measures, and finds them built.
        session.workspace.build_benchmark("hz3-bench-mt-remote")?;
        session.bench_memory()?;
        Ok(())
    }));
    for lane in Lane::ALL {
        steps.push(Step::new(format!("shape/{lane}"), move |session| {
            Ok(Library::read(&session.library(lane)?)?.check(&lane.library())?)
        }));
    }
    steps.extend(imports::steps());
    steps.extend(exports::steps());
    for lane in Lane::ALL {
        steps.push(Step::new(format!("frames/{lane}"), move |session| frames_step(session, lane)));
    }
    steps.push(Step::new("golden", golden_step));
    for lane in Lane::ALL {
        steps.push(Step::new(format!("run/{lane}"), move |session| run_step(session, lane)));
    }
    steps.extend(embedding::steps());
    steps.extend(pages::steps());
    steps
}

fn frames_step(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    if !golden::applies_here() {
        return Err(Stop::Skipped("only x86-64 instructions are read".to_owned()));
    }
    Ok(frames::check(&session.library(lane)?)?)
}

fn golden_step(session: &mut Session) -> Result<(), Stop> {
    if !golden::applies_here() {
        return Err(Stop::Skipped("docs/hot-path.txt describes x86-64 instructions".to_owned()));
    }
    let libraries = session.libraries(&Lane::FOR_SPEED)?;
    Ok(golden::Measured::read(&libraries)?.compare(&session.workspace)?)
}

/// `cargo xtask run` loads the lane's library into the program, after it what was preloaded before,
/// and passes the exit code on.
fn run_step(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    let other = session.library(Lane::ALL[usize::from(lane == Lane::ALL[0])])?;
    let library = session.library(lane)?;
    let mut command = Command::new(&session.own_program);
    command.args(["run", "--lane", lane.name(), "--", "sh", "-c"]);
    command.arg("cat /proc/$$/maps; echo LD_PRELOAD=$LD_PRELOAD; exit 7");
    command.env("LD_PRELOAD", &other);
    let captured = process::capture(&mut command, Duration::from_secs(120))?;
    let text = captured.text();
    let expected = format!("LD_PRELOAD={}", preload::with_preloaded(&library, Some(other.as_os_str()))?.display());
    if captured.status.code() != Some(7) {
        return Err(Stop::failed(format!("{} in place of exit code 7\n{text}", captured.status)));
    }
    if !text.contains(&lane.library()) || !text.lines().any(|line| line == expected) {
        return Err(Stop::failed(format!("the library is not loaded first: expected {expected}\n{text}")));
    }
    Ok(())
}

/// How the steps ended.
#[derive(Default)]
struct Summary {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Summary {
    fn count(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len())
    }

    /// Counts the step, and prints how it ended.
    fn note(&mut self, step: &Step, outcome: Result<(), Stop>, seconds: f64) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {seconds:6.1} s  {}", step.name);
            }
            Err(Stop::Failed(reason)) => {
                let lines: String = reason.lines().map(|line| format!("        | {line}\n")).collect();
                print!("FAILED  {seconds:6.1} s  {}\n{lines}", step.name);
                self.failed.push(step.name.clone());
            }
            Err(Stop::Skipped(reason)) => {
                println!("SKIPPED {seconds:6.1} s  {}: {reason}", step.name);
                self.skipped.push(step.name.clone());
            }
        }
    }

    fn ended(&self) -> usize {
        self.passed + self.failed.len() + self.skipped.len()
    }

    fn add(&mut self, other: Summary) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    fn print(&self) {
        println!();
        for (label, names) in [("failed", &self.failed), ("skipped", &self.skipped)] {
            if !names.is_empty() {
                println!("{label}: {}", names.join(", "));
            }
        }
        println!("{}", self.count());
    }
}

/// Runs the steps; an interrupt fails the running ones and ends the run. Those that have a turn come first, two at a time.
fn run_all(steps: &[Step], session: &mut Session) -> Result<Summary> {
    let (in_turns, alone): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(|step| step.turn.is_some());
    let display = Display { bars: MultiProgress::new(), started: AtomicUsize::new(0), steps: steps.len() };
    let turns = Turns::of(in_turns)?;
    let mut summary = std::thread::scope(|scope| {
        let work = || {
            let mut summary = Summary::default();
            while let Some((step, mut own)) = turns.take() {
                display.run(step, &mut own, &mut summary);
                turns.give_back(step, own);
            }
            summary
        };
        let other = scope.spawn(work);
        let mut summary = work();
        summary.add(other.join().expect("no panic"));
        summary
    });
    for step in alone {
        if !process::interrupted() {
            display.run(step, session, &mut summary);
        }
    }
    if process::interrupted() {
        println!("interrupted; {} steps not run", steps.len() - summary.ended());
    }
    Ok(summary)
}

/// What is seen of the run.
struct Display {
    bars: MultiProgress,
    started: AtomicUsize,
    steps: usize,
}

impl Display {
    /// Runs the step and notes how it ended.
    fn run(&self, step: &Step, session: &mut Session, summary: &mut Summary) {
        // Relaxed: it is only shown.
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let style = ProgressStyle::with_template("{spinner} {prefix} {msg} {elapsed}").expect("the template is valid");
        let spinner = self
            .bars
            .add(ProgressBar::new_spinner())
            .with_style(style)
            .with_prefix(format!("[{number}/{}]", self.steps))
            .with_message(step.name.clone());
        spinner.enable_steady_tick(Duration::from_millis(200));
        let start = Instant::now();
        let outcome = step.run(session);
        spinner.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        self.bars.suspend(|| summary.note(step, outcome, seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::atomic::AtomicBool;
    use std::sync::{Arc, Mutex, mpsc};

    #[test]
    fn the_steps_names_are_distinct() {
        let steps = all_steps();
        let names: HashSet<_> = steps.iter().map(|step| &step.name).collect();
        assert_eq!(names.len(), steps.len());
    }

    #[test]
    fn steps_of_two_turns_run_at_once_and_end_before_the_rest() {
        let ((to_one, from_two), (to_two, from_one)) = (mpsc::channel(), mpsc::channel());
        let [from_two, from_one] = [from_two, from_one].map(Mutex::new);
        let ended = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&ended);
        // Each waits for the other.
        let meet = |to: &mpsc::Sender<()>, from: &Mutex<mpsc::Receiver<()>>| {
            to.send(()).expect("the other listens");
            let met = from.lock().expect("no panic").recv_timeout(Duration::from_secs(60));
            met.map_err(|_| Stop::failed("it ran alone"))
        };
        let steps = [
            Step::new("rest", move |_| {
                has_ended
                    .load(Ordering::SeqCst)
                    .then_some(())
                    .ok_or_else(|| Stop::failed("it ran before the turns' end"))
            }),
            Step::new("one", move |_| meet(&to_one, &from_one)).in_turn("one"),
            Step::new("two", move |_| {
                meet(&to_two, &from_two)?;
                std::thread::sleep(Duration::from_millis(50));
                ended.store(true, Ordering::SeqCst);
                Ok(())
            })
            .in_turn("two"),
        ];
        let summary = run_all(&steps, &mut Session::start().unwrap()).unwrap();
        assert_eq!(summary.count(), "3 passed, 0 failed, 0 skipped", "{:?}", summary.failed);
    }

    #[test]
    fn steps_of_one_turn_run_in_order_and_share_a_session() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let step = |name: &'static str| {
            let log = Arc::clone(&log);
            Step::new(name, move |session| {
                let folder = session.empty_folder("folder")?;
                std::thread::sleep(Duration::from_millis(20));
                log.lock().expect("no panic").push((name, folder));
                Ok(())
            })
            .in_turn("one")
        };
        let steps = ["a", "b", "c"].map(step);
        let summary = run_all(&steps, &mut Session::start().unwrap()).unwrap();
        assert_eq!(summary.count(), "3 passed, 0 failed, 0 skipped");
        let log = log.lock().unwrap();
        assert_eq!(log.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(log.iter().all(|(_, folder)| *folder == log[0].1));
    }

    #[test]
    fn a_failing_step_does_not_stop_the_next_and_is_counted() {
        let steps = [
            Step::new("a", |_| Ok(())),
            Step::new("b", |_| Err(anyhow::anyhow!("broken").into())),
            Step::new("c", |_| Err(Stop::Skipped("no tool".to_owned()))),
            Step::new("d", |_| Ok(())),
        ];
        let summary = run_all(&steps, &mut Session::start().unwrap()).unwrap();
        // In CI a skipped step is a failed one.
        let expected = if step::in_ci() { "2 passed, 2 failed, 0 skipped" } else { "2 passed, 1 failed, 1 skipped" };
        assert_eq!(summary.count(), expected);
    }
}
