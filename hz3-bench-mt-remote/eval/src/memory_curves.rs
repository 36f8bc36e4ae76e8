//! `memory-curves`: resident and live memory over time, of the scenarios of `bench-memory` under every allocator.
//!
//! ```text
//! hz3-bench-memory --trace → data.tsv, a run's lines as it ends → README.md and a picture per scenario
//! ```

use crate::bench_memory::{NAME, curves};
use crate::gallery::Gallery;
use crate::plot::over_time::{Curve, draw};
use anyhow::{Context, Result};
use hz3::process;
use hz3::record::Selection;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Where the results lie by default.
const FOLDER: &str = "docs/results/memory/over-time";
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Most points of a curve that are kept.
const POINTS: usize = 300;
const MIB: f64 = (1 << 20) as f64;

/// Arguments of `memory-curves`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Write data.tsv, README.md and the pictures into this folder [default: docs/results/memory/over-time]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// `cargo xtask memory-curves`.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let gallery = Gallery::open(&arguments.selection, arguments.output.as_deref(), FOLDER)?;
    let program = gallery.workspace.build_benchmark(NAME)?;
    let folder = tempfile::tempdir().context("temporary folder")?;
    let trace = folder.path().join("trace");
    let mut data = gallery.data()?;
    writeln!(data, "scenario\tallocator\tseconds\tresident_mib\tlive_mib")?;
    let mut page = gallery.heading("Memory over time");
    page.push_str(
        "The scenarios of `bench-memory`, one run each: resident memory, with the tables of the program, every 10 ms, and live \
        memory of the first allocator's run. All points: [data.tsv](data.tsv).\n",
    );
    for (id, title, scenario) in curves() {
        let (mut drawn, mut live) = (Vec::new(), Vec::new());
        for (allocator, class) in gallery.styled() {
            let mut command = Command::new(&program);
            command.args(scenario.split(' ')).arg("--trace").arg(&trace);
            allocator.apply(&mut command)?;
            process::expect_success(&mut command, TIME_LIMIT)?;
            let points = read(&trace)?;
            let name = &allocator.record.name;
            for [seconds, resident, live] in &points {
                writeln!(data, "{id}\t{name}\t{seconds:.2}\t{resident:.0}\t{live:.0}")?;
            }
            if live.is_empty() {
                live = points.iter().map(|point| (point[0], point[2])).collect();
            }
            let points = points.iter().map(|point| (point[0], point[1])).collect();
            drawn.push(Curve { name: name.clone(), role: allocator.record.role, class, points });
        }
        println!("{id}");
        let Some(svg) = draw(title, &live, &drawn) else { continue };
        gallery.hang(&format!("{id}.svg"), svg)?;
        write!(page, "\n## {title}\n\n`{NAME} {scenario}`\n\n![{title}: memory over time]({id}.svg)\n")?;
    }
    gallery.finish(page)
}

/// Seconds, resident and live MiB, of at most [`POINTS`] lines: of as many neighbours the one with most resident.
fn read(trace: &Path) -> Result<Vec<[f64; 3]>> {
    let text = std::fs::read_to_string(trace).context("the trace")?;
    let lines: Result<Vec<[f64; 3]>> = text.lines().map(point).collect();
    let lines = lines?;
    let most = |group: &[[f64; 3]]| group.iter().copied().max_by(|first, second| first[1].total_cmp(&second[1]));
    Ok(lines.chunks(lines.len().div_ceil(POINTS).max(1)).filter_map(most).collect())
}

fn point(line: &str) -> Result<[f64; 3]> {
    let mut words = line.split('\t').map(str::parse::<f64>);
    let mut next = || words.next().and_then(Result::ok).with_context(|| format!("no point: {line:?}"));
    Ok([next()?, next()? / MIB, next()? / MIB])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_lines_the_highest_of_each_group_are_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines: Vec<_> = (0..1000).map(|step| format!("{step}\t{}\t1048576", (step % 7) << 20)).collect();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        let points = read(file.path()).unwrap();
        assert_eq!(points.len(), 250);
        assert!(points.iter().all(|point| point[1] >= 3.0 && point[2] == 1.0), "{points:?}");
        assert!(point("1\t2").is_err() && point("a\t2\t3").is_err());
    }
}
