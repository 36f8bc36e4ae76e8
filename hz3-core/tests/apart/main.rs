//! Tests of the allocators from outside, each in a process of its own: a process has one allocator for each lane, and one
//! system. They are one program because each program compiles the allocators again.
#![cfg(not(any(loom, miri)))]

/// Runs the test that it begins in a process of its own, and ends it here.
macro_rules! apart {
    () => {
        fn here() {}
        if crate::is_done_apart(std::any::type_name_of_val(&here)) {
            return;
        }
    };
}

mod access;
mod cold_bins;
mod double_free;
mod drifting_sizes;
mod given_away;
mod growth;
mod hardened;
mod hardened_locked;
mod hardened_profile;
mod lanes;
mod large_pages;
mod last_resort;
mod many_to_one;
mod nested;
mod one_way;
mod pauses;
mod producer;
mod properties;
mod refusal;
mod region_refusal;
mod regions;
mod runs;
#[path = "../sequence/mod.rs"]
mod sequence;
mod sequence_of_processes;
mod vacated_spans;
mod windows;
mod write_after_free;

use std::process::Command;

/// Runs the test `name` of this program, with the variable, in another process. Panics if it fails.
fn run_apart(name: &str, variable: &str, value: &str) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let output = command.args(["--exact", name, "--nocapture"]).env(variable, value).output().expect("it runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}{errors}");
    assert!(output.status.success() && text.contains("1 passed"), "{name} with {variable}={value}");
}

/// Whether this is not the test's own process; then the test has run in one. `here` is a function in the test.
fn is_done_apart(here: &str) -> bool {
    const VARIABLE: &str = "TEST_APART";
    let test = here.strip_suffix("::here").and_then(|path| path.split_once("::"));
    let (_, name) = test.expect("a function of a test");
    if std::env::var_os(VARIABLE).is_some_and(|own| own == name) {
        return false;
    }
    run_apart(name, VARIABLE, name);
    true
}
