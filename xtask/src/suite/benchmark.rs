//! Benchmark: a short run of hz3-bench-mt-remote without hz3 and on each lane, whose report must
//! name the right allocator and show next to no full rings.

use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::record::{BenchmarkOutput, FALLBACK_LIMIT_PERCENT};
use hz3::{Lane, process};
use std::process::Command;
use std::time::Duration;

/// Threads, iterations, slots, smallest and largest size, percentage of remote frees, ring slots.
const ARGUMENTS: [&str; 7] = ["8", "50000", "400", "16", "2048", "50", "65536"];

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// One step without hz3 and one per lane.
pub fn steps() -> Vec<Step> {
    let lanes = Lane::FOR_SPEED.into_iter().map(Some);
    std::iter::once(None)
        .chain(lanes)
        .map(|lane| {
            let name = lane.map_or("none", Lane::name);
            Step::new(format!("benchmark/{name}"), move |session| run(session, lane))
        })
        .collect()
}

fn run(session: &mut Session, lane: Option<Lane>) -> Result<(), Stop> {
    let program = session.workspace.build_benchmark("hz3-bench-mt-remote")?;
    let mut command = Command::new(program);
    command.args(ARGUMENTS).env_remove("LD_PRELOAD");
    if let Some(lane) = lane {
        command.env("LD_PRELOAD", session.library(lane)?);
    }
    let text = process::expect_success(&mut command, TIME_LIMIT)?.text();
    Ok(BenchmarkOutput::read(&text).and_then(|output| check(&output, lane)).with_context(|| text)?)
}

fn check(output: &BenchmarkOutput, lane: Option<Lane>) -> Result<()> {
    let (figures, served_by) = (&output.figures, &output.served_by);
    ensure!(figures.ops_per_second > 0.0, "no operations");
    let is_hz3 = served_by.name == "hz3";
    let is_right = lane.map_or(!is_hz3, |lane| is_hz3 && served_by.path.ends_with(lane.library()));
    ensure!(is_right, "the allocator is {served_by:?}");
    let fallback = figures.fallback_percent.context("no fallback_rate")?;
    ensure!(
        lane.is_none() || fallback < FALLBACK_LIMIT_PERCENT,
        "fallback_rate is {fallback} %, the limit is {FALLBACK_LIMIT_PERCENT} %"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "threads=8 iters=50000\n\
        ops=400000 time=0.01 ops/s=40000000.5 failed=0\n\
        [EFFECTIVE_REMOTE] target=50.0% actual=49.9% fallback_rate=0.05% sent=1 fallback=0\n\
        [ALLOCATOR] name=hz3 path=/lib/libhakozuna_hz3_scale.so version=1\n";

    fn checked(text: &str, lane: Option<Lane>) -> Result<()> {
        check(&BenchmarkOutput::read(text).unwrap(), lane)
    }

    #[test]
    fn a_report_is_checked_against_the_lane() {
        assert!(checked(TEXT, Some(Lane::Scale)).is_ok());
        assert!(checked(TEXT, Some(Lane::Fast)).is_err());
        assert!(checked(TEXT, None).is_err());
    }

    #[test]
    fn full_rings_and_a_foreign_allocator_fail() {
        assert!(checked(&TEXT.replace("0.05%", "0.10%"), Some(Lane::Scale)).is_err());
        let foreign = TEXT.replace("name=hz3", "name=glibc");
        assert!(checked(&foreign, Some(Lane::Scale)).is_err());
        assert!(checked(&foreign, None).is_ok());
    }
}
