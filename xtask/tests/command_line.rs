//! The command line as a user meets it: one line on standard error, exit code 2.

#[path = "../../hz3-preload/hz3/tests/common/mod.rs"]
mod common;

use common::Tested;

const XTASK: Tested = Tested { program: env!("CARGO_BIN_EXE_xtask"), prefix: "error", is_installed: false };

#[test]
fn a_mistyped_option_gives_one_line_and_code_2() {
    XTASK.assert_one_line_and_code_2(&["run", "--lnae", "fast", "--", "true"], "--lnae");
    XTASK.assert_one_line_and_code_2(&["build-preload", "--lane", "slow"], "slow");
    XTASK.assert_one_line_and_code_2(&["tset"], "tset");
    XTASK.assert_one_line_and_code_2(&[], "subcommand");
}

#[test]
fn a_program_that_is_not_found_gives_one_line_and_code_2() {
    XTASK.assert_one_line_and_code_2(&["run", "--", "hz3-no-such-program"], "hz3-no-such-program");
    XTASK.assert_one_line_and_code_2(&["run", "--", "./hz3-no-such-program"], "./hz3-no-such-program");
    XTASK.assert_one_line_and_code_2(&["run", "--", "/"], "/");
}

#[test]
fn a_filter_that_fits_no_step_gives_one_line_and_code_2() {
    XTASK.assert_one_line_and_code_2(&["test", "--filter", "no such step"], "no such step");
}

#[test]
fn what_hz3_eval_does_has_its_name_here_and_its_lines_name_this_program() {
    let output = XTASK.run(&["bench-mt", "--help"]);
    let printed = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("Usage: cargo xtask bench-mt") && printed.contains("--latency"), "{printed}");
    XTASK.assert_one_line_and_code_2(&["compare", "/no/such/file"], "usage: cargo xtask compare");
    XTASK.assert_one_line_and_code_2(&["report", "/no/such/file"], "can't read /no/such/file");
    XTASK.assert_one_line_and_code_2(&["advise", "--", "hz3-no-such-program"], "hz3-no-such-program");
}

#[test]
fn help_goes_to_standard_output() {
    let output = XTASK.run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).expect("text").contains("build-preload"));
}
