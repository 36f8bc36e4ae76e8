//! musl: hz3 built for it, and run by its loader and in programs that are linked statically.
//!
//! ```text
//! LANE       the library's shape, programs of the C interface, and what doctor says
//! cxx        programs of the C++ interface, with the runtime that Alpine has
//! static     scale's archive in programs that lie still and that move (static-pie), and the crate in a Rust program
//! dist       the archive for systems with musl, unpacked and in use
//! ```
//!
//! Debian has no C++ runtime for musl ([`musl_cxx`] has one), and its Rust no `core`: that is built from its sources. The
//! archive has the command, which needs all of `std`: `rustup target add` has it, and elsewhere that step is not listed.

use super::debian_rust;
use super::embedding;
use super::musl_cxx::{self, START_FILES};
use super::package::{self, Package};
use super::rust_checks::{expect_cases, expect_tests, preload_tests};
use super::session::Session;
use super::step::{Step, Stop};
use crate::library_shape::Library;
use anyhow::Context;
use cargo_metadata::Message;
use hz3::workspace::{BUILD_TIME_LIMIT, MUSL_LINKER, variables_of_musl};
use hz3::{Lane, process};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const TARGET: &str = "x86_64-unknown-linux-musl";
const COMPILER: Package = Package { command: MUSL_LINKER, name: "musl-tools" };
const C_LIBRARY: &str = "/lib/ld-musl-x86_64.so.1";
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Test crates of hz3-preload, of which the lane's cases run: programs in C, and what of their names stands before the lane.
/// A case that only glibc can pass skips itself there, and says why.
const CASES: [(&str, &str); 4] = [
    ("preload_abi", ""),
    ("preload_stack", ""),
    ("preload_exhaustion", "in_64_mib_of_address_space::"),
    ("preload_misuse", ""),
];
/// Another, all of it in scale, and of its cases in the other lanes: for so many waits they would take a minute each.
const PROCESS: &str = "preload_process";
const PROCESS_CASES: &[&str] = &[
    "a_background_thread_does_not_outlive_the_others",
    "a_signal_handler_of_a_process_with_one_thread_forks",
    "a_vfork_child_executes_a_program",
    "allocation_is_no_cancellation_point",
    "blocks_outlive_the_thread_that_took_them",
    "children_of_a_threaded_process_start_threads",
    "constructors_and_destructors_allocate",
    "destructors_allocate_and_free_in_every_round",
    "exit_handlers_allocate",
    "handlers_of_every_stage_allocate",
    "libraries_that_allocate_come_and_go",
    "several_threads_fork_at_once",
];
/// Programs in C++, of every lane: what is compiled there takes longer than what runs.
const CXX_CASES: [&str; 2] = ["preload_cxx", "preload_replaced"];
/// What of them is left out: Alpine's static runtime is in no wheel. Threads that throw at once may hang, without hz3 too (once
/// in 60 runs): what GCC's unwinder remembers of libraries it changes in callbacks of dl_iterate_phdr(3), which glibc runs one
/// at a time, and musl does not.
const CXX_LEFT_OUT: [&str; 2] = ["static_runtime::", "threads_throw_at_once"];

/// The Rust program, and what it is compiled with beside [`CORE`].
const PROGRAM: &str = "xtask/programs/musl.rs";
const CRATES: [&str; 2] = ["hz3_core", "libc"];
/// The parts of the standard library, where they are built here.
const CORE: [&str; 3] = ["core", "alloc", "compiler_builtins"];

/// All steps.
pub fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Lane::ALL
        .map(|lane| Step::new(format!("musl/{lane}"), move |session| preloaded(session, lane)))
        .into_iter()
        .collect();
    steps.push(Step::new("musl/cxx", in_cxx));
    steps.push(Step::new("musl/static", linked));
    if debian_rust::has_standard_library(TARGET) {
        steps.push(Step::new("musl/dist", archived));
    }
    steps
}

/// The parts, and a cargo that builds with them, quickly.
fn cargo(session: &Session, words: &[&str]) -> Result<Command, Stop> {
    if !cfg!(target_arch = "x86_64") {
        return Err(Stop::Skipped("the parts are x86-64's".to_owned()));
    }
    package::require(&[COMPILER])?;
    let mut command = session.workspace.cargo();
    command.args(words).args(["--release", "--target", TARGET, "--target-dir"]);
    command.arg(session.workspace.target.join("musl"));
    if !debian_rust::has_standard_library(TARGET) {
        command.env("RUSTC", debian_rust::compiler_with_sources(session)?);
        command.arg("-Zbuild-std=core,alloc").env("RUSTC_BOOTSTRAP", "1");
    }
    // Archives are the same.
    command.envs(variables_of_musl(TARGET));
    for (option, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("DEBUG", "false")] {
        command.env(format!("CARGO_PROFILE_RELEASE_{option}"), value);
    }
    Ok(command)
}

/// Where cargo puts its results.
fn results(session: &Session) -> PathBuf {
    session.workspace.target.join("musl").join(TARGET).join("release")
}

fn preloaded(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    process::expect_success(&mut cargo(session, &["build", "--package", &lane.package()])?, BUILD_TIME_LIMIT)?;
    let library = results(session).join(lane.library());
    Library::read(&library)?.check_for_musl(&lane.library(), &Library::read(Path::new(C_LIBRARY))?)?;
    is_examined(session, lane)?;
    let in_c = |command: &mut Command| {
        command.env("CC", COMPILER.command);
    };
    let of_scale = [(PROCESS, "")].into_iter().filter(|_| lane == Lane::Scale);
    for (test, before) in CASES.into_iter().chain(of_scale) {
        let mut command = tests(session, test);
        in_c(&mut command);
        expect_tests(command.arg(format!("{before}{lane}::")))?;
    }
    if lane != Lane::Scale {
        expect_cases(session, lane, &results(session), &[(PROCESS, "", PROCESS_CASES)], in_c)?;
    }
    Ok(())
}

/// Programs in C++ beside Alpine's runtime.
fn in_cxx(session: &mut Session) -> Result<(), Stop> {
    let folder = musl_cxx::folder(session)?;
    for lane in Lane::ALL {
        process::expect_success(&mut cargo(session, &["build", "--package", &lane.package()])?, BUILD_TIME_LIMIT)?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path))).context("PATH")?;
    for test in CXX_CASES {
        let mut command = tests(session, test);
        command.args(CXX_LEFT_OUT.iter().flat_map(|text| ["--skip", text])).env("PATH", &path);
        expect_tests(command.env("CC", musl_cxx::C_COMPILER).env("CXX", musl_cxx::CXX_COMPILER))?;
    }
    Ok(())
}

/// Tests of programs under the libraries for musl; which, the caller adds.
fn tests(session: &Session, test: &str) -> Command {
    let mut command = preload_tests(session, &results(session), test);
    // The programs wait as often as they work.
    let at_once = 2 * std::thread::available_parallelism().map_or(1, NonZero::get);
    command.env("RUST_TEST_THREADS", at_once.to_string());
    command
}

/// `hz3 doctor` tells programs for musl, for glibc, and those that are linked statically.
fn is_examined(session: &Session, lane: Lane) -> Result<(), Stop> {
    let folder = session.empty_folder("musl-doctor")?;
    let doctor = session.workspace.build_program("dev", "hz3-tool", "hz3")?;
    for (compiler, option, code, expected) in [
        (COMPILER.command, "-O1", 0, format!("list has {} first", lane.library())),
        (COMPILER.command, "-static", 1, "statically linked".to_owned()),
        ("cc", "-O1", 1, "the library uses the C library musl".to_owned()),
    ] {
        let program = compile_program(&folder, compiler, option)?;
        let mut examine = Command::new(&doctor);
        examine.args(["doctor", "--lane", lane.name()]).arg(&program).env("HZ3_PRELOAD_DIR", results(session));
        let said = process::capture(examine.env_remove("LD_PRELOAD"), TIME_LIMIT)?;
        if said.status.code() != Some(code) || !said.text().contains(&expected) {
            return Err(Stop::failed(format!("{compiler} {option}: not {code} and {expected:?}:\n{}", said.text())));
        }
    }
    Ok(())
}

/// A program that allocates.
fn compile_program(folder: &Path, compiler: &str, option: &str) -> Result<PathBuf, Stop> {
    let (source, program) = (folder.join("program.c"), folder.join("program"));
    std::fs::write(&source, "#include <stdlib.h>\nint main(void) { free(malloc(1)); }\n")
        .map_err(anyhow::Error::from)?;
    process::expect_success(Command::new(compiler).arg(option).arg("-o").args([&program, &source]), TIME_LIMIT)?;
    Ok(program)
}

/// The command of the archive runs everywhere, and its libraries in programs for musl.
fn archived(session: &mut Session) -> Result<(), Stop> {
    package::require(&[COMPILER])?;
    let folder = session.empty_folder("musl-dist")?;
    let program = compile_program(&folder, COMPILER.command, "-O1")?;
    let mut dist = Command::new(&session.own_program);
    dist.args(["dist", "--target", TARGET, "--output"]).arg(&folder).env_remove("LD_PRELOAD");
    process::expect_success(&mut dist, BUILD_TIME_LIMIT)?;
    let name = format!("hz3-{}-x86_64-linux-musl", env!("CARGO_PKG_VERSION"));
    let mut unpack = Command::new("tar");
    unpack.arg("-xzf").arg(folder.join(format!("{name}.tar.gz"))).arg("-C").arg(&folder);
    process::expect_success(&mut unpack, TIME_LIMIT)?;
    let hz3 = folder.join(name).join("bin/hz3");
    for lane in Lane::ALL {
        let mut run = Command::new(&hz3);
        run.args(["--lane", lane.name()]).arg(&program).env_remove("LD_PRELOAD").env_remove("HZ3_PRELOAD_DIR");
        let said = process::expect_success(run.env("HZ3_VERBOSE", "1"), TIME_LIMIT)?.stderr_text();
        if !said.lines().next().is_some_and(|banner| banner.ends_with(&format!("lane {lane}"))) {
            return Err(Stop::failed(format!("{lane}: {said:?}")));
        }
    }
    Ok(())
}

fn linked(session: &mut Session) -> Result<(), Stop> {
    let (root, lane) = (&session.workspace.root, Lane::Scale);
    let header = std::fs::read_to_string(root.join("hz3-preload/include/hz3.h")).map_err(anyhow::Error::from)?;
    let folder = session.empty_folder("musl-static")?;
    let mut words = vec!["rustc", "--lib", "--crate-type", "staticlib", "--features", "linked"];
    let package = lane.package();
    words.extend(["--package", &package, "--message-format=json"]);
    let mut command = cargo(session, &words)?;
    let built = process::expect_success(&mut command, BUILD_TIME_LIMIT)?;

    let object = folder.join("embedding.o");
    let mut compile = Command::new(COMPILER.command);
    compile.args(["-O1", "-fno-builtin", "-Wall", "-Wextra", "-Werror", "-fPIE", "-c", "-o"]).arg(&object);
    compile.arg("-I").arg(root.join("hz3-preload/include")).arg(root.join("hz3-preload/tests/c/embedding.c"));
    process::expect_success(&mut compile, TIME_LIMIT)?;
    let archive = results(session).join(lane.library()).with_extension("a");
    for moves in [false, true] {
        let text = run_linked(&folder, &[&object, &archive], moves)?;
        embedding::is_the_table(&text, &header, lane)?;
    }

    let archive = folder.join("libprogram.a");
    let rustc = command.get_envs().find(|(name, _)| *name == "RUSTC").and_then(|(_, value)| value);
    let mut compile = Command::new(rustc.unwrap_or("rustc".as_ref()));
    compile.args(["--edition", "2024", "--crate-type", "staticlib", "--target", TARGET, "-Cpanic=abort", "-O"]);
    compile.args(["-Ctarget-feature=-crt-static", "-Zunstable-options"]).env("RUSTC_BOOTSTRAP", "1");
    compile.arg(format!("-Ldependency={}", results(session).join("deps").display()));
    for message in Message::parse_stream(built.stdout.as_slice()) {
        let Message::CompilerArtifact(artifact) = message.map_err(anyhow::Error::from)? else { continue };
        let name = artifact.target.name.replace('-', "_");
        let before = if CORE.contains(&name.as_str()) { "noprelude:" } else { "" };
        if !before.is_empty() || CRATES.contains(&name.as_str()) {
            let library = artifact.filenames.iter().find(|file| file.as_str().ends_with(".rlib"));
            compile.args(library.map(|library| format!("--extern={before}{name}={library}")));
        }
    }
    process::expect_success(compile.arg("-o").args([&archive, &root.join(PROGRAM)]), TIME_LIMIT)?;
    for moves in [false, true] {
        run_linked(&folder, &[&archive], moves)?;
    }
    Ok(())
}

/// Links a program statically and returns what it writes to standard output. `moves`: at an address of the kernel's choice,
/// for which Debian's `musl-gcc` has no start files.
fn run_linked(folder: &Path, parts: &[&Path], moves: bool) -> Result<String, Stop> {
    let program = folder.join("program");
    let start = |name: &str| format!("{START_FILES}/{name}");
    let mut link = Command::new(if moves { "cc" } else { COMPILER.command });
    link.arg("-o").arg(&program);
    if moves {
        link.args(["-static-pie", "-nostdlib", "-nostartfiles", &start("rcrt1.o"), &start("crti.o")]);
        link.args(parts).args([&start("libc.a"), "-lgcc", &start("crtn.o")]);
    } else {
        link.args(["-static", "-no-pie"]).args(parts);
    }
    process::expect_success(&mut link, TIME_LIMIT)?;
    let mut run = Command::new(&program);
    Ok(process::expect_success(run.env_remove("LD_PRELOAD"), TIME_LIMIT)?.stdout_text())
}
