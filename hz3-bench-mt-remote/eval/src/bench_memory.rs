//! `bench-memory`: whether memory comes back, under every allocator, in interleaved rounds.

use crate::bench_mt;
use crate::bench_programs::run_workload;
use crate::extent::Extent;
use crate::field::Field;
use crate::measurement::{File, Measurement, Plan, find_preloaded};
use crate::table::ONE_REAPER;
use anyhow::Result;
use hz3::Workspace;
use hz3::record::{Allocator, Kind, Row, Selection, Suite, row};
use std::process::ExitCode;

/// Memory varies little from run to run, and a round takes more than a minute per allocator.
const ROUNDS: u32 = 3;
const QUICK_ROUNDS: u32 = 1;

/// The program.
pub const NAME: &str = "hz3-bench-memory";

/// Arguments of `bench-memory`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    extent: Extent,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    file: File,
}

/// The rows whose memory over time is worth a picture.
const CURVES: [&str; 4] = ["fill-1k", "phases", "changing-sizes", "drifting-sizes"];

/// Id, title and arguments of each row with a picture.
pub fn curves() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let has_curve = |scenario: &&Scenario| CURVES.contains(&scenario.id);
    SCENARIOS.iter().filter(has_curve).map(|scenario| (scenario.id, scenario.label, scenario.full))
}

/// A row: its id, its label, its arguments, those with `--quick`, and whether that has it unless named.
struct Scenario {
    id: &'static str,
    label: &'static str,
    full: &'static str,
    quick: &'static str,
    in_quick: bool,
}

const SCENARIOS: [Scenario; 8] = [
    Scenario {
        id: "fill-1k",
        label: "fill and free, 1 KiB",
        full: "fill-and-free --bytes 1024",
        quick: "fill-and-free --bytes 1024 --total-mb 256 --seconds 2",
        in_quick: true,
    },
    Scenario {
        id: "fill-16k",
        label: "fill and free, 16 KiB",
        full: "fill-and-free --bytes 16384",
        quick: "fill-and-free --bytes 16384 --total-mb 256 --seconds 2",
        in_quick: false,
    },
    Scenario {
        id: "fill-1m",
        label: "fill and free, 1 MiB",
        full: "fill-and-free --bytes 1048576",
        quick: "fill-and-free --bytes 1048576 --total-mb 256 --seconds 2",
        in_quick: false,
    },
    Scenario {
        id: ONE_REAPER,
        label: "one reaper",
        full: "one-reaper",
        quick: "one-reaper --total-mb 128 --seconds 1",
        in_quick: true,
    },
    Scenario {
        id: "thread-batches",
        label: "thread batches",
        full: "thread-batches",
        quick: "thread-batches --threads 8000",
        in_quick: true,
    },
    Scenario {
        id: "phases",
        label: "phases",
        full: "phases",
        quick: "phases --total-mb 64 --phases 2 --poll",
        in_quick: true,
    },
    Scenario {
        id: "changing-sizes",
        label: "changing sizes",
        full: "changing-sizes",
        quick: "changing-sizes --total-mb 128",
        in_quick: true,
    },
    Scenario {
        id: "drifting-sizes",
        label: "drifting sizes",
        full: "drifting-sizes",
        quick: "drifting-sizes --total-mb 128 --turns 20",
        in_quick: true,
    },
];

impl Scenario {
    fn row(&self, quick: bool) -> Row {
        let arguments = if quick { self.quick } else { self.full };
        Row {
            id: self.id.to_owned(),
            label: self.label.to_owned(),
            suite: Suite::Memory,
            command: format!("{NAME} {arguments}"),
            arguments: None,
        }
    }
}

/// `cargo xtask bench-memory`.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let all = arguments.extent.rows.is_empty();
    let offered = SCENARIOS.iter().filter(|scenario| !arguments.extent.quick || scenario.in_quick || !all);
    let rows =
        row::select(offered.map(|scenario| scenario.row(arguments.extent.quick)).collect(), &arguments.extent.rows)?;
    let workspace = Workspace::locate()?;
    let benchmark = bench_mt::build(&workspace)?;
    let program = workspace.build_benchmark(NAME)?;
    let measurement = if arguments.file.resume {
        let find_again = |wanted| find_preloaded(&workspace, &arguments.selection.given, wanted);
        Measurement::resume(&workspace, &arguments.file, &[Kind::Memory], find_again)?
    } else {
        let rounds = arguments.extent.rounds(ROUNDS, QUICK_ROUNDS);
        let plan = Plan { kind: Kind::Memory, rounds, rows, missing_rows: Vec::new() };
        let verify = |allocator: &Allocator| bench_mt::verify(&benchmark, allocator);
        let field = Field::of_preloaded(&workspace, &arguments.selection)?;
        Measurement::begin(&workspace, field, &arguments.file, plan, verify)?
    };
    measurement.carry_out_and_report(|row, allocator| run_workload(&program, row, allocator))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_row_is_the_same_scenario_with_other_figures() {
        for scenario in &SCENARIOS {
            let [full, quick] = [false, true].map(|quick| scenario.row(quick));
            let name = |row: &Row| row.command.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(name(&full), name(&quick));
            assert_eq!(full.id, quick.id);
            assert_ne!(full.command, quick.command);
        }
    }

    #[test]
    fn the_row_whose_speed_is_shown_is_there() {
        assert!(SCENARIOS.iter().any(|scenario| scenario.id == ONE_REAPER));
    }
}
