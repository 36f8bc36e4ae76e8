//! Emulated: test programs under qemu-user, a system that answers 0 to advice that it does not carry out.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use hz3::record::tuning_variables;
use hz3::{Lane, process};
use std::env::consts::ARCH;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const COMPILER: Package = Package { command: "cc", name: "gcc" };
/// For one case, some ten times slower than without the emulator.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Programs of `hz3-preload/tests/c`, and a case of each.
const CASES: [(&str, &str); 4] = [
    ("system", "blocks_of_calloc_are_zero"),
    ("malloc", "blocks_from_libc_functions_can_be_freed"),
    ("threads", "blocks_outlive_the_thread_that_took_them"),
    ("fork", "many_children_live_at_once"),
];
/// One more, in the lane that has guards.
const GUARDS: (&str, &str) = ("system", "a_freed_large_block_and_the_end_of_a_live_one_fault");

/// One step for each lane.
pub fn steps() -> Vec<Step> {
    Lane::ALL
        .map(|lane| Step::new(format!("emulated/{lane}"), move |session| programs_pass(session, lane)))
        .into_iter()
        .collect()
}

fn programs_pass(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    // The system's own architecture, so that the library that was just built is what runs.
    let emulator = Package {
        command: match ARCH {
            "x86_64" => "qemu-x86_64",
            "aarch64" => "qemu-aarch64",
            _ => return Err(Stop::Skipped(format!("no emulator is named for {ARCH}"))),
        },
        name: "qemu-user",
    };
    package::require(&[COMPILER, emulator])?;
    let library = session.library(lane)?;
    let folder = session.empty_folder("emulated")?;
    for (name, case) in CASES.into_iter().chain((lane == Lane::Hardened).then_some(GUARDS)) {
        let source = session.workspace.root.join("hz3-preload/tests/c").join(name).with_extension("c");
        let program = compile(&source, &folder)?;
        // The program itself makes sure that its malloc is hz3's.
        let mut command = Command::new(emulator.command);
        for variable in tuning_variables() {
            command.env_remove(variable);
        }
        command.env_remove("LD_PRELOAD").arg("-E").arg(format!("LD_PRELOAD={}", library.display()));
        process::expect_success(command.arg(&program).arg(case), TIME_LIMIT)?;
    }
    Ok(())
}

fn compile(source: &Path, folder: &Path) -> Result<PathBuf, Stop> {
    let program = folder.join(source.file_stem().unwrap_or_default());
    let mut command = Command::new(COMPILER.command);
    // The emulator is the system here: the program adds nothing to what it does.
    command.args(["-O1", "-fno-builtin", "-pthread", "-DSYSTEM=0", "-o"]).args([&program, source]).arg("-ldl");
    process::expect_success(&mut command, TIME_LIMIT)?;
    Ok(program)
}
