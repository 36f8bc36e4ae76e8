//! Memory: short scenarios of hz3-bench-memory on each lane, which must keep their bounds, and one with
//! the return of memory switched off, which must not.
//!
//! Only memory decides. Where memory may take its time to go back, the scenario looks again and again
//! until it has gone or the deadline is over, so that a slow machine takes longer and does not fail.

use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::Lane;
use hz3::process::{self, Captured};
use std::time::Duration;

/// Far above what any scenario takes, its deadlines included.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// The scenarios by name: large enough that the process's own few MiB do not count, small enough for CI.
const SCENARIOS: [(&str, &str); 5] = [
    ("fill-1k", "fill-and-free --bytes 1024 --total-mb 256 --seconds 20 --poll"),
    ("fill-16k", "fill-and-free --bytes 16384 --total-mb 256 --seconds 20 --poll"),
    ("fill-1m", "fill-and-free --bytes 1048576 --total-mb 256 --seconds 20 --poll"),
    ("one-reaper", "one-reaper --total-mb 128 --seconds 2"),
    ("phases", PHASES),
];

/// Those whose bounds the hardened lane, which keeps holes, meets too.
const IN_ALL_LANES: [(&str, &str); 2] =
    [("changing-sizes", "changing-sizes --total-mb 192"), ("drifting-sizes", "drifting-sizes --total-mb 192")];

/// Live sets of drifting sizes. Looks again and again until the bound holds, as the filling ones do; not for so long
/// that the last phase would keep it where cold bins stay with their threads (docs/decisions/cold-bins.md).
const PHASES: &str = "phases --total-mb 256 --decay-ms 8000 --poll";
/// The first phases of the same, for the step in which the bound must not hold.
const FEW_PHASES: &str = "phases --phases 4 --total-mb 128 --decay-ms 2000 --poll";

/// The one that must fail where memory never goes back, however often it looks.
const FILL: &str = "fill-and-free --bytes 1048576 --total-mb 256 --seconds 3 --poll";

/// For each lane a step per scenario, and one with the return of memory switched off.
pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for lane in Lane::ALL {
        for (name, scenario) in IN_ALL_LANES {
            steps.push(Step::new(format!("memory/{name}/{lane}"), move |session| {
                Ok(keeps_its_bounds(&run(session, lane, scenario, &[])?, lane)?)
            }));
        }
    }
    for lane in Lane::FOR_SPEED {
        for (name, scenario) in SCENARIOS {
            steps.push(Step::new(format!("memory/{name}/{lane}"), move |session| {
                Ok(keeps_its_bounds(&run(session, lane, scenario, &[])?, lane)?)
            }));
        }
        steps.push(Step::new(format!("memory/switched-off/{lane}"), move |session| {
            let off = [("HZ3_PURGE_DELAY_MS", "-1")];
            exceeds_its_bound(&run(session, lane, FILL, &off)?, "after")?;
            Ok(exceeds_its_bound(&run(session, lane, FEW_PHASES, &off)?, "phase-end")?)
        }));
    }
    steps
}

fn run(session: &mut Session, lane: Lane, scenario: &str, environment: &[(&str, &str)]) -> Result<Captured, Stop> {
    let mut command = session.bench_memory()?;
    command.args(scenario.split(' ')).arg("--check");
    command.env("LD_PRELOAD", session.library(lane)?).envs(environment.iter().copied());
    Ok(process::capture(&mut command, TIME_LIMIT)?)
}

fn keeps_its_bounds(run: &Captured, lane: Lane) -> Result<()> {
    let text = run.text();
    ensure!(run.status.success(), "{}\n{text}", run.status);
    ensure!(bounds(&text).next().is_some(), "no bound was looked at\n{text}");
    let allocator = text.lines().find(|line| line.starts_with("[ALLOCATOR]")).context("no [ALLOCATOR] line")?;
    ensure!(allocator.contains(&lane.library()), "another allocator served it: {allocator}");
    Ok(())
}

/// The bound that has to do with what is switched off must be the one that fails.
fn exceeds_its_bound(run: &Captured, name: &str) -> Result<()> {
    let text = run.text();
    let bound = bounds(&text).find(|line| line.contains(&format!(" name={name} "))).context("the bound is missing")?;
    ensure!(bound.ends_with(" EXCEEDED"), "memory went back although that is switched off\n{text}");
    ensure!(run.status.code() == Some(1), "{} in place of exit code 1\n{text}", run.status);
    Ok(())
}

fn bounds(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.starts_with("[BOUND]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const KEPT: &str = "[BOUND] name=after value=0.0300 limit=0.1000 ok\n\
        [ALLOCATOR] name=hz3 path=/lib/libhakozuna_hz3_scale.so version=1\n";

    fn captured(code: i32, stdout: &str) -> Captured {
        Captured { status: ExitStatus::from_raw(code << 8), stdout: stdout.into(), stderr: Vec::new() }
    }

    #[test]
    fn bounds_are_kept_by_the_right_lane_with_success_and_not_by_silence() {
        assert!(keeps_its_bounds(&captured(0, KEPT), Lane::Scale).is_ok());
        assert!(keeps_its_bounds(&captured(0, KEPT), Lane::Fast).is_err());
        assert!(keeps_its_bounds(&captured(1, KEPT), Lane::Scale).is_err());
        assert!(keeps_its_bounds(&captured(0, &KEPT.replace("[BOUND]", "[MEM]")), Lane::Scale).is_err());
    }

    #[test]
    fn a_switched_off_return_must_be_noticed_as_such() {
        let exceeded = KEPT.replace("0.0300", "0.9900").replace(" ok", " EXCEEDED");
        assert!(exceeds_its_bound(&captured(1, &exceeded), "after").is_ok());
        assert!(exceeds_its_bound(&captured(0, &exceeded), "after").is_err());
        assert!(exceeds_its_bound(&captured(1, KEPT), "after").is_err());
        assert!(exceeds_its_bound(&captured(1, ""), "after").is_err(), "a crash is not what is asked for");
    }
}
