//! Valgrind: test programs under memcheck, with hz3's malloc left in place, without a complaint about hz3.
//!
//! memcheck puts an allocator of its own in a program's place. `--soname-synonyms=somalloc=nouserintercepts` has it leave
//! hz3's alone, so that what is looked at is hz3: no branch on a word that nobody wrote, no access outside what is
//! mapped, no wrong argument of a system call.
//!
//! The `tools` steps leave valgrind its way: its tools put an allocator in the place of the functions that they know, by
//! their addresses, and what hz3 makes of these must come from there.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use hz3::{Lane, process};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const VALGRIND: Package = Package { command: "valgrind", name: "valgrind" };
const GXX: Package = Package { command: "g++", name: "g++" };
/// Calls every form, and prints a line at its end.
const EVERY_FORM: &str = "xtask/programs/every_form.cpp";
const GCC: Package = Package { command: "gcc", name: "gcc" };
/// For one case, under a tool that makes all some fifty times slower.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// What valgrind exits with where it has complained.
const COMPLAINED: i32 = 99;

/// Programs of `hz3-preload/tests/c`, and a case of each. Chosen: what touches most of hz3 in a few seconds each.
const CASES: [(&str, &str); 2] =
    [("malloc", "blocks_from_libc_functions_can_be_freed"), ("keys", "destructors_allocate_and_free_in_every_round")];
/// More, in the lane that is recommended alone. The second: calls switch to stacks of their own, beside the threads' stacks.
const THREADS: [(&str, &str); 2] =
    [("threads", "blocks_outlive_the_thread_that_took_them"), ("threads", "threads_with_the_smallest_stack_allocate")];

/// Branches on a byte that nobody wrote.
const FAULTY: &str = "#include <unistd.h>\n\
    int main(void) { volatile char bytes[64]; return bytes[7] == 42 ? write(1, \"\", 1) != 1 : 0; }\n";

/// One step for each lane, and one that shows that a fault is reported.
pub fn steps() -> Vec<Step> {
    let mut steps = vec![Step::new("valgrind/control", |session| {
        package::require(&[VALGRIND, GCC])?;
        let folder = session.empty_folder("valgrind")?;
        let source = folder.join("faulty.c");
        std::fs::write(&source, FAULTY).map_err(anyhow::Error::from)?;
        let program = compile(&source, &folder)?;
        let library = session.library(Lane::Scale)?;
        match run(&program, None, &library)? {
            (Some(COMPLAINED), text) if text.contains("uninitialised") => Ok(()),
            (code, text) => Err(Stop::failed(format!("no complaint about a fault: exit code {code:?}\n{text}"))),
        }
    })];
    steps.extend(
        Lane::ALL.map(|lane| Step::new(format!("valgrind/{lane}"), move |session| programs_pass(session, lane))),
    );
    steps.extend(
        Lane::ALL.map(|lane| Step::new(format!("valgrind/tools/{lane}"), move |session| tools_pass(session, lane))),
    );
    steps
}

/// The tools that replace allocators, and how each is asked to fail on a complaint.
const TOOLS: [(&str, &[&str]); 4] = [
    ("memcheck", &["--leak-check=full", "--errors-for-leak-kinds=definite"]),
    ("helgrind", &[]),
    ("massif", &["--massif-out-file=/dev/null"]),
    ("dhat", &["--dhat-out-file=/dev/null"]),
];
/// A program that calls every form of `malloc`, `new` and their like passes under each tool without a complaint.
fn tools_pass(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    package::require(&[VALGRIND, GXX])?;
    let library = session.library(lane)?;
    let folder = session.empty_folder("valgrind")?;
    let program = folder.join("every_form");
    let mut compile = Command::new("g++");
    compile.args(["-std=c++17", "-g", "-O1", "-fno-builtin", "-pthread", "-o"]).arg(&program);
    compile.arg(session.workspace.root.join(EVERY_FORM)).arg("-ldl");
    process::expect_success(&mut compile, TIME_LIMIT)?;
    for (tool, arguments) in TOOLS {
        let mut command = Command::new("valgrind");
        command.arg(format!("--tool={tool}")).args(arguments);
        if tool == "memcheck" || tool == "helgrind" {
            command.arg(format!("--error-exitcode={COMPLAINED}"));
        }
        command.arg(&program).env("LD_PRELOAD", &library);
        let captured = process::capture(&mut command, TIME_LIMIT)?;
        let text = captured.text();
        if captured.status.code() != Some(0) || !text.contains("every form passed") {
            return Err(Stop::failed(format!("{tool}: {}\n{text}", captured.status)));
        }
    }
    Ok(())
}

fn programs_pass(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    package::require(&[VALGRIND, GCC])?;
    let library = session.library(lane)?;
    let folder = session.empty_folder("valgrind")?;
    for (name, case) in CASES.into_iter().chain(THREADS.into_iter().filter(|_| lane == Lane::Scale)) {
        let source = session.workspace.root.join("hz3-preload/tests/c").join(name).with_extension("c");
        let program = compile(&source, &folder)?;
        // The program itself makes sure that its malloc is hz3's.
        let (code, text) = run(&program, Some(case), &library)?;
        if code != Some(0) || text.contains("ERROR SUMMARY") && !text.contains("ERROR SUMMARY: 0 errors") {
            return Err(Stop::failed(format!("{name} {case}: exit code {code:?}\n{text}")));
        }
    }
    Ok(())
}

fn compile(source: &Path, folder: &Path) -> Result<PathBuf, Stop> {
    let program = folder.join(source.file_stem().unwrap_or_default());
    let mut command = Command::new("gcc");
    command.args(["-g", "-O1", "-pthread", "-o"]).args([&program, source]).arg("-ldl");
    process::expect_success(&mut command, TIME_LIMIT)?;
    Ok(program)
}

/// The exit code, and what the program and valgrind wrote.
fn run(program: &Path, case: Option<&str>, library: &Path) -> Result<(Option<i32>, String), Stop> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=memcheck", "--soname-synonyms=somalloc=nouserintercepts", "--leak-check=no"]);
    command.arg(format!("--error-exitcode={COMPLAINED}")).arg(program).args(case);
    command.env("LD_PRELOAD", library);
    let captured = process::capture(&mut command, TIME_LIMIT)?;
    Ok((captured.status.code(), captured.text()))
}
