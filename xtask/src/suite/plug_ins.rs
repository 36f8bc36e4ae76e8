//! Plug-ins: shared libraries with an hz3 of their own that a program closes while its threads live on, in Rust, and with
//! hz3's static library in them.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use crate::soak::build_plug_ins;
use hz3::record::tuning_variables;
use hz3::{Lane, process};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What compiles programs and libraries in C.
pub const COMPILER: Package = Package { command: "cc", name: "gcc" };
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A case of the host with its options, and how often it runs: a plug-in that stays is closed in earnest once only.
struct Case {
    name: &'static str,
    options: &'static [(&'static str, &'static str)],
    runs: u32,
}

const CASES: [Case; 4] = [
    Case { name: "an_unused_plug_in_is_unloaded", options: &[], runs: 1 },
    Case { name: "threads_outlive_the_plug_ins", options: &[], runs: 30 },
    Case { name: "threads_outlive_the_plug_ins", options: &[("HZ3_BACKGROUND_THREAD", "1")], runs: 3 },
    Case {
        name: "background_threads_outlive_the_plug_ins",
        options: &[("HZ3_BACKGROUND_THREAD", "1"), ("HZ3_PURGE_DELAY_MS", "100")],
        runs: 3,
    },
];

/// A step for a program on the C library's malloc, and one for each preloaded lane.
pub fn steps() -> Vec<Step> {
    let mut steps = vec![Step::new("plug-ins/alone", |session| outlived(session, None))];
    for lane in Lane::ALL {
        steps.push(Step::new(format!("plug-ins/{lane}"), move |session| outlived(session, Some(lane))));
    }
    steps.push(Step::new("plug-ins/static-library", static_library));
    steps
}

/// Runs every case with the plug-ins of all lanes, one after another and all at once.
fn outlived(session: &mut Session, preloaded: Option<Lane>) -> Result<(), Stop> {
    package::require(&[COMPILER])?;
    let library = preloaded.map(|lane| session.library(lane)).transpose()?;
    let plug_ins = build_plug_ins(&session.workspace)?;
    let host = session.empty_folder("plug-ins")?.join("host");
    compile(session, "plug_ins", &host)?;
    let sets = plug_ins.chunks(1).chain([&plug_ins[..]]);
    for (plug_ins, case) in sets.flat_map(|set| CASES.map(|case| (set, case))) {
        for _ in 0..case.runs {
            let mut run = Command::new(&host);
            run.arg(case.name).args(plug_ins);
            without_options(&mut run);
            if let Some(library) = &library {
                run.env("LD_PRELOAD", library);
            }
            process::expect_success(run.envs(case.options.iter().copied()), TIME_LIMIT)?;
        }
    }
    Ok(())
}

/// The static library of each lane inside a shared one that nobody linked `-z nodelete`: loaded late and closed, and
/// preloaded, where the loader makes the first `malloc`.
fn static_library(session: &mut Session) -> Result<(), Stop> {
    package::require(&[COMPILER])?;
    let folder = session.empty_folder("static-library")?;
    let (late_load, constructors) = (folder.join("late_load"), folder.join("constructors"));
    compile(session, "late_load", &late_load)?;
    compile(session, "constructors", &constructors)?;
    for lane in Lane::ALL {
        let library = folder.join(lane.library());
        let mut link = Command::new("cc");
        link.args(["-shared", "-pthread", "-Wl,--gc-sections", "-Wl,--undefined=malloc,--undefined=hz3_version"]);
        link.arg(session.workspace.build_static_library(lane)?).arg("-o").arg(&library);
        process::expect_success(without_options(&mut link), TIME_LIMIT)?;
        process::expect_success(without_options(Command::new(&late_load).arg(&library)), TIME_LIMIT)?;
        let mut preloaded = Command::new(&constructors);
        process::expect_success(without_options(&mut preloaded).env("LD_PRELOAD", &library), TIME_LIMIT)?;
    }
    Ok(())
}

fn compile(session: &Session, source: &str, program: &Path) -> Result<(), Stop> {
    let mut compile = Command::new("cc");
    compile.args(["-O1", "-fno-builtin", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"]).arg(program);
    compile.arg(session.workspace.root.join("hz3-preload/tests/c").join(source).with_extension("c")).arg("-ldl");
    process::expect_success(without_options(&mut compile), TIME_LIMIT)?;
    Ok(())
}

fn without_options(command: &mut Command) -> &mut Command {
    for variable in tuning_variables() {
        command.env_remove(variable);
    }
    command.env_remove("LD_PRELOAD")
}
