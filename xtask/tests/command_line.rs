//! The command line as a user meets it: one line on standard error, exit code 2.

use std::process::{Command, Output};

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().expect("xtask starts")
}

fn assert_one_line_and_code_2(arguments: &[&str], mention: &str) {
    let output = xtask(arguments);
    let message = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
    assert!(message.starts_with("error: ") && message.contains(mention), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_mistyped_option_gives_one_line_and_code_2() {
    assert_one_line_and_code_2(&["run", "--lnae", "fast", "--", "true"], "--lnae");
    assert_one_line_and_code_2(&["build-preload", "--lane", "slow"], "slow");
    assert_one_line_and_code_2(&["tset"], "tset");
    assert_one_line_and_code_2(&[], "subcommand");
}

#[test]
fn a_program_that_is_not_found_gives_one_line_and_code_2() {
    assert_one_line_and_code_2(&["run", "--", "hz3-no-such-program"], "hz3-no-such-program");
    assert_one_line_and_code_2(&["run", "--", "./hz3-no-such-program"], "./hz3-no-such-program");
    assert_one_line_and_code_2(&["run", "--", "/"], "/");
}

#[test]
fn a_filter_that_fits_no_step_gives_one_line_and_code_2() {
    assert_one_line_and_code_2(&["test", "--filter", "no such step"], "no such step");
}

#[test]
fn help_goes_to_standard_output() {
    let output = xtask(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).expect("text").contains("build-preload"));
}
