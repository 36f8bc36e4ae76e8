//! Harness: compiles the C and C++ programs of this folder, runs them under a preload library, and
//! says what went wrong.
//!
//! - Each program is compiled once per test run, with `$CC` or `$CXX` (default `cc` and `c++`).
//! - Each (lane, program, case) is one test. A program that takes longer than [`TIME_LIMIT`] is
//!   killed together with everything it has started; the limit is there for hangs, nothing is
//!   decided by speed.
//! - The libraries are looked for in the folder that `HZ3_PRELOAD_DIR` names; `cargo xtask test`
//!   builds them and sets it.
//! - Variables of the tests' own that reach the programs begin with `PRELOAD_TEST_`: what begins with `HZ3_` is an
//!   option of the library, which reports one that it does not know.
//! - `PRELOAD_TEST_EMULATOR=qemu-…` runs programs and libraries for another processor, for which `CC` and `CXX` compile.
//! - `PRELOAD_TEST_ANY_MALLOC=1` lets the programs accept any allocator (see `c/check.h`), so that the
//!   tests can be tried against others, linked into such a folder under hz3's file names.

#![allow(dead_code, reason = "every test crate uses a part of the harness")]

pub mod compiler;
pub mod run;

use compiler::Program;
use run::{Outcome, Run};
use std::collections::BTreeSet;
use std::env;
use std::io::{Write, stderr};
use std::path::PathBuf;
use std::time::Duration;

/// How long one run may take before it counts as hung.
pub const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The exit status by which a program says that it can't be tried here.
const SKIPPED: i32 = 77;

/// A build of hz3.
#[derive(Clone, Copy, Debug)]
pub enum Lane {
    /// `libhakozuna_hz3_fast.so`
    Fast,
    /// `libhakozuna_hz3_scale.so`
    Scale,
    /// `libhakozuna_hz3_hardened.so`
    Hardened,
}

impl Lane {
    /// The absolute path of the lane's library.
    pub fn library(self) -> PathBuf {
        let name = match self {
            Lane::Fast => "libhakozuna_hz3_fast.so",
            Lane::Scale => "libhakozuna_hz3_scale.so",
            Lane::Hardened => "libhakozuna_hz3_hardened.so",
        };
        let folder = env::var_os("HZ3_PRELOAD_DIR").unwrap_or_else(|| {
            panic!(
                "HZ3_PRELOAD_DIR is not set: it names the folder that holds {name}; \
                 `cargo xtask test` builds the libraries and sets it"
            )
        });
        let path = PathBuf::from(folder).join(name);
        match path.canonicalize() {
            // The name given, not the link's target: the loader is to see hz3's file name.
            Ok(_) => std::path::absolute(&path).expect("the working directory is readable"),
            Err(error) => panic!("{}: {error}; `cargo xtask build-preload` builds it", path.display()),
        }
    }
}

/// True where the tests themselves are being tried with another allocator.
pub fn any_malloc() -> bool {
    env::var_os("PRELOAD_TEST_ANY_MALLOC").is_some_and(|value| value == "1")
}

/// Runs one case of a program under a lane; panics with the program's output unless it passes.
pub fn passes(lane: Lane, program: &Program, case: &str) {
    Run::new(program).argument(case).preload(&lane.library()).finish().expect_success();
}

/// Panics unless `listed` are exactly the cases that the program has.
pub fn lists_every_case(program: &Program, listed: &[&str]) {
    let output =
        run::emulated(&program.build()).arg("--list").output().expect("the program that was just built can be run");
    let text = String::from_utf8(output.stdout).expect("case names are ASCII");
    let present: BTreeSet<&str> = text.lines().collect();
    let listed: BTreeSet<&str> = listed.iter().copied().collect();
    assert_eq!(present, listed, "{}: cases of the program, cases that are run", program.source());
}

impl Outcome {
    /// What the program wrote to its standard error: without what an emulator adds of the signal that ended it.
    pub fn own_stderr(&self) -> &str {
        if !run::is_emulated() {
            return &self.stderr;
        }
        self.stderr.find("qemu: uncaught target signal ").map_or(&self.stderr, |at| &self.stderr[..at])
    }

    /// Panics unless the program ended with status 0. A skipped one is reported, loudly.
    pub fn expect_success(&self) {
        match self.status.and_then(|status| status.code()) {
            Some(0) => {}
            // Written past the test harness's capture, which hides what a passing test prints.
            Some(SKIPPED) => {
                let _ = writeln!(stderr(), "SKIPPED {}: {}", self.name, self.stderr.trim_end());
            }
            _ => panic!("{self}"),
        }
    }
}

/// One test per lane and case, and one that proves that no case was forgotten.
#[macro_export]
macro_rules! lane_tests {
    ($($program:expr => [$($case:ident),+ $(,)?]),+ $(,)?) => {
        mod fast {
            #[allow(unused_imports, reason = "not every table names programs of its parent")]
            use super::*;
            $($(
                #[test]
                fn $case() {
                    $crate::harness::passes($crate::harness::Lane::Fast, &$program, stringify!($case));
                }
            )+)+
        }
        mod scale {
            #[allow(unused_imports, reason = "not every table names programs of its parent")]
            use super::*;
            $($(
                #[test]
                fn $case() {
                    $crate::harness::passes($crate::harness::Lane::Scale, &$program, stringify!($case));
                }
            )+)+
        }
        mod hardened {
            #[allow(unused_imports, reason = "not every table names programs of its parent")]
            use super::*;
            $($(
                #[test]
                fn $case() {
                    $crate::harness::passes($crate::harness::Lane::Hardened, &$program, stringify!($case));
                }
            )+)+
        }
        #[test]
        fn every_case_of_every_program_is_run() {
            $($crate::harness::lists_every_case(&$program, &[$(stringify!($case)),+]);)+
        }
    };
}
