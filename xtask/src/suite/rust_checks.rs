//! Rust checks: formatting, lints and the tests that cargo runs.

use super::session::Session;
use super::step::{Step, Stop};
use hz3::{Lane, process};
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Compiling from scratch on a slow machine, and a loom model, stay far below this.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// Formatting and lints.
pub fn source_steps() -> Vec<Step> {
    vec![
        Step::new("format", |session| cargo(session, &["fmt", "--all", "--", "--check", "--color", "never"])),
        Step::new("clippy/std", |session| {
            let packages = ["hz3", "hz3-core", "hz3-preload", "hz3-bench-mt-remote", "hz3-tool", "hz3-eval", "xtask"];
            let mut arguments = vec!["clippy", "--all-targets"];
            arguments.extend(packages.iter().flat_map(|package| ["--package", package]));
            arguments.extend(["--", "-D", "warnings"]);
            expect_as_tests(session, &arguments)
        }),
        // The libraries have their own panic handler, which a test target would collide with.
        Step::new("clippy/preload", |session| {
            for package in ["hz3-preload-fast", "hz3-preload-scale", "hz3-preload-hardened"] {
                cargo(session, &["clippy", "--package", package, "--", "-D", "warnings"])?;
            }
            Ok(())
        }),
    ]
}

/// What somebody who knows Rust and not this repository types first: features of all packages come together there, and
/// nothing is optimised away.
pub fn workspace_step() -> Step {
    Step::new("build/workspace", |session| cargo(session, &["build", "--workspace"]))
}

/// The packages' own tests.
pub fn test_steps() -> Vec<Step> {
    let test =
        |package| Step::new(format!("unit/{package}"), move |session| cargo(session, &["test", "--package", package]));
    ["hz3", "hz3-core", "hz3-bench-mt-remote", "hz3-tool", "hz3-eval", "xtask"].map(test).into()
}

/// The models of the lock-free structures.
pub fn loom_step() -> Step {
    Step::new("loom", |session| {
        let mut command = loom_command(session);
        command.args(["--no-fail-fast", "--test", "loom_*"]);
        expect_tests(&mut command).map(drop)
    })
}

/// The C and C++ interface, by programs that run under each library.
pub fn interface_step() -> Step {
    Step::new("interface", |session| {
        let folder = session.folder_of_libraries()?;
        let mut command = session.workspace.cargo();
        command.args(["test", "--no-fail-fast", "--package", "hz3-preload"]);
        // The programs wait as often as they work.
        let at_once = 2 * std::thread::available_parallelism().map_or(1, NonZero::get);
        command.env("RUST_TEST_THREADS", at_once.to_string()).env("HZ3_PRELOAD_DIR", folder);
        expect_tests(&mut command).map(drop)
    })
}

/// `cargo test` of hz3-core under the model checker; which test, the caller adds. They share what it depends on.
pub fn loom_command(session: &Session) -> Command {
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" --cfg loom");
    let mut command = session.workspace.cargo();
    command.args(["test", "--release", "--package", "hz3-core"]);
    // The models need no link-time optimisation, and are built sooner without it.
    command.env("RUSTFLAGS", flags.trim()).env("CARGO_PROFILE_RELEASE_LTO", "off");
    command.arg("--target-dir").arg(session.workspace.target.join("loom"));
    // Of what they depend on, only the checker's own code runs long.
    for setting in ["'*'.opt-level = 0", "loom.opt-level = 3", "generator.opt-level = 3"] {
        command.args(["--config", &format!("profile.release.package.{setting}")]);
    }
    command
}

fn cargo(session: &Session, arguments: &[&str]) -> Result<(), Stop> {
    process::expect_success(session.workspace.cargo().args(arguments), TIME_LIMIT)?;
    Ok(())
}

/// As [`cargo`]; programs unwind, as tests must: what both depend on is compiled once.
fn expect_as_tests(session: &Session, arguments: &[&str]) -> Result<(), Stop> {
    let mut command = session.workspace.cargo();
    process::expect_success(command.args(arguments).env("CARGO_PROFILE_DEV_PANIC", "unwind"), TIME_LIMIT)?;
    Ok(())
}

/// Runs `cargo test`, and returns how many tests passed; none at all is a failure too. A failure shows all but those.
pub fn expect_tests(command: &mut Command) -> Result<usize, Stop> {
    let captured = process::capture(command, TIME_LIMIT)?;
    let text = captured.text();
    if !captured.status.success() {
        let lines: Vec<&str> = text.lines().filter(|line| !is_passed_test(line)).collect();
        return Err(Stop::failed(lines.join("\n")));
    }
    match passed_tests(&text) {
        0 => Err(Stop::failed(format!("no test has run\n{text}"))),
        passed => Ok(passed),
    }
}

/// A test crate of hz3-preload, what stands before the lane in the names of its tests, and cases.
pub type Cases = (&'static str, &'static str, &'static [&'static str]);

/// Runs tests of that crate of hz3-preload under the libraries in `folder`; which, the caller adds.
pub fn preload_tests(session: &Session, folder: &Path, test: &str) -> Command {
    let mut command = session.workspace.cargo();
    command.args(["test", "--no-fail-fast", "--package", "hz3-preload", "--test", test, "--"]);
    command.env("HZ3_PRELOAD_DIR", folder);
    command
}

/// Runs `cases` under the lane's library in `folder`, as `prepare` tells the tests to.
pub fn expect_cases(
    session: &Session,
    lane: Lane,
    folder: &Path,
    cases: &[Cases],
    prepare: impl Fn(&mut Command),
) -> Result<(), Stop> {
    for (test, before, cases) in cases {
        let mut command = preload_tests(session, folder, test);
        command.arg("--exact").args(cases.iter().map(|case| format!("{before}{lane}::{case}")));
        prepare(&mut command);
        let ran = expect_tests(&mut command)?;
        if ran != cases.len() {
            return Err(Stop::failed(format!("{test} has {ran} of the {} named tests", cases.len())));
        }
    }
    Ok(())
}

/// Runs the tests of that crate of hz3-preload under the libraries in `folder`, except those `left_out`: cases, in whatever
/// module and lane, and whole modules, whose names end in `::`. A name that stands for no test is a failure.
pub fn expect_all_but(
    session: &Session,
    folder: &Path,
    test: &str,
    left_out: &[&str],
    prepare: impl Fn(&mut Command),
) -> Result<(), Stop> {
    let cargo = |words: &[&str]| {
        let mut command = preload_tests(session, folder, test);
        command.args(words);
        prepare(&mut command);
        command
    };
    let listed = process::expect_success(&mut cargo(&["--list"]), TIME_LIMIT)?.stdout_text();
    let tests: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    if let Some(unknown) = left_out.iter().find(|name| !tests.iter().any(|test| stands_for(name, test))) {
        return Err(Stop::failed(format!("{test} has no test {unknown} to leave out")));
    }
    let chosen: Vec<&str> =
        tests.into_iter().filter(|test| !left_out.iter().any(|name| stands_for(name, test))).collect();
    let ran = expect_tests(cargo(&["--exact"]).args(&chosen))?;
    if ran != chosen.len() {
        return Err(Stop::failed(format!("{ran} of {} tests of {test} have run", chosen.len())));
    }
    Ok(())
}

/// Whether `name`, a case or, with `::` at its end, a module, is that of the test or has it.
fn stands_for(name: &str, test: &str) -> bool {
    let (modules, case) = test.rsplit_once("::").unwrap_or(("", test));
    match name.strip_suffix("::") {
        Some(module) => modules.split("::").any(|part| part == module),
        None => case == name,
    }
}

fn is_passed_test(line: &str) -> bool {
    line.starts_with("test ") && line.ends_with(" ... ok")
}

/// Adds up the `N passed` of the harness's result lines.
fn passed_tests(text: &str) -> usize {
    text.lines()
        .filter_map(|line| line.strip_prefix("test result: ok. "))
        .filter_map(|rest| rest.split_once(" passed")?.0.parse::<usize>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_a_case_in_every_lane_or_for_a_module() {
        assert!(stands_for("forks", "scale::forks") && stands_for("forks", "forks"));
        assert!(!stands_for("forks", "scale::forks_in_turn") && !stands_for("scale", "scale::forks"));
        assert!(stands_for("cxx17::", "cxx17::fast::forks") && stands_for("fast::", "cxx17::fast::forks"));
        assert!(!stands_for("cxx17::", "default_standard::fast::cxx17"));
    }

    #[test]
    fn the_passed_tests_of_all_targets_are_added_up() {
        let text = "running 2 tests\n\
                    test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n\
                    test result: ok. 11 passed; 0 failed; 0 ignored; 0 measured\n";
        assert_eq!(passed_tests(text), 13);
        assert_eq!(passed_tests("test result: ok. 0 passed; 0 failed;"), 0);
    }
}
