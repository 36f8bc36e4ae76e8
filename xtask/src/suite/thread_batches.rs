//! Thread batches: threads that come and go leave nothing behind, on each lane; and where hz3 does not learn of their
//! ends, they do.
//!
//! A run of some seconds sees the process warm up, which the scenario's own bound, made for 100,000 threads, does not
//! allow for. The bound here does; what threads leave behind where nobody sees their end exceeds it by far.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::process::{self, Captured};
use hz3::{Lane, preload};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const COMPILER: Package = Package { command: "cc", name: "gcc" };
/// Far above what the scenario takes.
const TIME_LIMIT: Duration = Duration::from_secs(300);
const SCENARIO: [&str; 3] = ["thread-batches", "--threads", "20000"];
/// The same, for the step in which memory must grow.
const FEW: [&str; 3] = ["thread-batches", "--threads", "4000"];
/// The most by which resident memory may grow after the first tenth. Measured: 1.2 to 1.4; above 8 where no thread's end
/// is seen.
const LIMIT: f64 = 2.0;

/// For each lane a step, and one in which hz3 is told of no thread's end.
pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for lane in Lane::FOR_SPEED {
        steps.push(Step::new(format!("memory/thread-batches/{lane}"), move |session| {
            let (run, growth) = run(session, lane, SCENARIO, None)?;
            Ok(is_flat(&run, growth)?)
        }));
        steps.push(Step::new(format!("memory/thread-ends-unseen/{lane}"), move |session| {
            package::require(&[COMPILER])?;
            let shim = session.empty_folder("thread-ends-unseen")?.join("shim.so");
            let mut compile = Command::new("cc");
            compile.args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&shim);
            compile.arg(session.workspace.root.join("hz3-preload/tests/c/thread_ends_unseen.c")).arg("-ldl");
            process::expect_success(compile.env_remove("LD_PRELOAD"), TIME_LIMIT)?;
            let (run, growth) = run(session, lane, FEW, Some(&shim))?;
            Ok(grows(&run, growth)?)
        }));
    }
    steps
}

/// Runs a scenario, `shim` preloaded before the lane's library; returns by how much resident memory grew, too.
fn run(session: &mut Session, lane: Lane, scenario: [&str; 3], shim: Option<&Path>) -> Result<(Captured, f64), Stop> {
    let mut command = session.bench_memory()?;
    command.args(scenario);
    let library = session.library(lane)?;
    let preloaded = match shim {
        Some(shim) => preload::with_preloaded(shim, Some(library.as_os_str()))?,
        None => library.into(),
    };
    let captured = process::capture(command.env("LD_PRELOAD", preloaded), TIME_LIMIT)?;
    let text = captured.text();
    let served = text.lines().any(|line| line.starts_with("[ALLOCATOR]") && line.contains(&lane.library()));
    let growth = growth(&text).with_context(|| text.clone())?;
    if captured.status.success() && served {
        Ok((captured, growth))
    } else {
        Err(Stop::failed(format!("{}, or another allocator served it\n{text}", captured.status)))
    }
}

/// The most that was resident after the first tenth, in what was resident then.
fn growth(text: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.starts_with("[BATCHES]")).context("no [BATCHES] line")?;
    let figure = |name: &str| -> Result<f64> {
        let field = line.split(' ').find_map(|field| field.strip_prefix(name)).context("a figure is missing")?;
        Ok(field.parse()?)
    };
    let first_tenth = figure("first_tenth_mb=")?;
    ensure!(first_tenth > 0.0, "nothing was resident");
    Ok(figure("most_mb=")? / first_tenth)
}

fn is_flat(run: &Captured, growth: f64) -> Result<()> {
    ensure!(growth <= LIMIT, "resident memory grew to {growth:.2} times, limit {LIMIT}\n{}", run.text());
    Ok(())
}

fn grows(run: &Captured, growth: f64) -> Result<()> {
    ensure!(growth > LIMIT, "memory of dead threads was found again although nobody saw their end\n{}", run.text());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_read_from_the_scenario_s_own_line_and_never_from_silence() {
        let line = "[BATCHES] count=20 first_tenth_mb=40.000 end_mb=90.000 most_mb=100.000";
        assert_eq!(growth(&format!("ops=1\n{line}\n")).unwrap(), 2.5);
        assert!(growth(&line.replace("40.000", "0.000")).is_err());
        assert!(growth("[BOUND] name=growth value=1.0 limit=1.1 ok").is_err());
    }
}
