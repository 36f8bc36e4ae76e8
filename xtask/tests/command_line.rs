//! The command line as a user meets it: one line on standard error, exit code 2.

mod common;

use common::{assert_one_line_and_code_2, xtask};

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
