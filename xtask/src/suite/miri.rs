//! Miri: the interpreter that sees undefined behaviour, on the parts of hz3-core that it gets through in minutes.
//!
//! It belongs to the nightly compiler. Where that lacks it, CI adds it; elsewhere the step is skipped and names the
//! command.

use super::rust_checks::expect_tests;
use super::session::Session;
use super::step::{Step, Stop, in_ci};
use hz3::process;
use hz3::workspace::{BUILD_TIME_LIMIT, variables_of_cargo_run};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Blocks are kept as numbers between two calls, memory is never given back at the end, and each borrow of a whole
/// allocator by the rules of stacked borrows takes as long as a test should. Ended borrows are forgotten ten times as often as
/// by default: each access walks all of those that aren't.
const FLAGS: &str = "-Zmiri-permissive-provenance -Zmiri-ignore-leaks -Zmiri-tree-borrows \
                     -Zmiri-tree-borrows-no-precise-interior-mut -Zmiri-provenance-gc=1000";

/// Parts of the names of hz3-core's own tests that are quick enough: those of whole modules and single ones.
const QUICK: [&str; 15] = [
    "depot::",
    "free_mark::",
    "heat::",
    "ids_that_were_not_handed_out",
    "magazine::",
    "observer::",
    "options::",
    "page_tag::",
    "pages_of_a_clean_run",
    "profile::tests::colliding",
    "rank::",
    "remote_stash::",
    "slot_that_was_never_carved",
    "sync::",
    "uses::",
];

const INSTALL: [&str; 7] = [
    "toolchain",
    "install",
    "nightly",
    "--profile=minimal",
    "--no-self-update",
    "--component=miri",
    "--component=rust-src",
];
/// Held while it is installed: steps run two at a time.
static INSTALLING: Mutex<()> = Mutex::new(());
const INSTALL_TIME_LIMIT: Duration = Duration::from_secs(300);

/// One step. The tests of `interpreted`, one per lane, run beside each other: an interpreter uses one processor, and is
/// slower the more it has run.
pub fn step() -> Step {
    Step::new("miri", |session| {
        require()?;
        expect_tests(miri(session).args(["--lib", "--"]).args(QUICK))?;
        let interpreted = || {
            let mut command = miri(session);
            command.args(["--test", "interpreted", "--"]);
            command
        };
        let listed = process::expect_success(interpreted().arg("--list"), BUILD_TIME_LIMIT)?.stdout_text();
        let tests: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
        if tests.is_empty() {
            return Err(Stop::failed(format!("no test is listed\n{listed}")));
        }
        std::thread::scope(|scope| {
            let run = |test| scope.spawn(move || expect_tests(interpreted().args(["--exact", test])));
            let running: Vec<_> = tests.into_iter().map(run).collect();
            running.into_iter().try_for_each(|test| test.join().expect("no panic").map(drop))
        })
    })
}

/// `cargo miri test` of hz3-core; which test, the caller adds.
fn miri(session: &Session) -> Command {
    let mut command = rustup(&["run", "nightly", "cargo", "miri", "test", "--package", "hz3-core", "--target-dir"]);
    command.arg(session.workspace.target.join("miri")).current_dir(&session.workspace.root);
    command.env("MIRIFLAGS", FLAGS).env("CARGO_TERM_COLOR", "never");
    command
}

/// A command of rustup's that knows nothing of the toolchain that runs us.
pub fn rustup(words: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(words).env_remove("LD_PRELOAD").env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTFLAGS");
    for variable in variables_of_cargo_run() {
        command.env_remove(variable);
    }
    command
}

/// Makes sure that there is Miri.
pub fn require() -> Result<(), Stop> {
    let is_there = || {
        let found = process::capture(&mut rustup(&["run", "nightly", "cargo", "miri", "--version"]), BUILD_TIME_LIMIT);
        found.is_ok_and(|captured| captured.status.success())
    };
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if is_there() {
        return Ok(());
    }
    if !in_ci() {
        return Err(Stop::Skipped(format!("Miri is missing: rustup {}", INSTALL.join(" "))));
    }
    process::expect_success(&mut rustup(&INSTALL), INSTALL_TIME_LIMIT)?;
    if is_there() { Ok(()) } else { Err(Stop::failed("nightly has no Miri")) }
}
