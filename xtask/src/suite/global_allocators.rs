//! Global allocators: `bench-rust` measures hz3 and the system's allocator in each of its workloads, and draws it.
//!
//! The crates beside them are left to people: they take minutes to fetch and build.

use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::process;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Three programs are built, with link-time optimisation.
const TIME_LIMIT: Duration = Duration::from_secs(600);

/// One step: the programs are built side by side.
pub fn steps() -> Vec<Step> {
    vec![Step::new("bench-rust", measured_and_drawn)]
}

fn measured_and_drawn(session: &mut Session) -> Result<(), Stop> {
    let file = session.empty_folder("bench-rust")?.join("results.json");
    let mut measure = Command::new(&session.own_program);
    measure.args(["bench-rust", "--quick", "--peers", "system", "--runs", "1", "--output"]).arg(&file);
    let printed = process::expect_success(&mut measure, TIME_LIMIT)?.text();
    check(&file).with_context(|| printed)?;
    let mut report = Command::new(&session.own_program);
    report.arg("report").arg(&file).arg("--output").arg(file.with_extension("again"));
    process::expect_success(&mut report, TIME_LIMIT)?;
    for picture in ["time.svg", "memory.svg"] {
        let text = std::fs::read_to_string(file.with_extension("again").join(picture)).context(picture)?;
        if !text.starts_with("<svg") || !text.contains("messages T=2") {
            return Err(Stop::failed(format!("{picture} does not show the rows")));
        }
    }
    Ok(())
}

/// Every row has a valid run with time and memory under each allocator, after one that was dropped.
fn check(file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).context("no results")?;
    let results: Value = serde_json::from_str(&text).context("the measurement is not complete")?;
    let list = |of: &Value, name: &str| of[name].as_array().cloned().unwrap_or_default();
    ensure!(results["kind"] == "bench-rust", "kind {}", results["kind"]);
    let names: Vec<Value> = list(&results, "allocators").iter().map(|record| record["name"].clone()).collect();
    ensure!(names == ["fast", "scale", "system"], "{names:?}");
    let rows = list(&results, "rows");
    ensure!(rows.len() == 5, "{} rows", rows.len());
    let runs = list(&results, "runs");
    ensure!(runs.len() == 2 * rows.len() * names.len(), "{} runs", runs.len());
    for run in &runs {
        ensure!(run["void"].is_null(), "{run}");
        for figure in ["wall_seconds", "peak_rss_mb"] {
            ensure!(run["process"][figure].as_f64().is_some_and(|value| value > 0.0), "no {figure}: {run}");
        }
    }
    Ok(())
}
