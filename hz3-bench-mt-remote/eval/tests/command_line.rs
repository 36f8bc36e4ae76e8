//! `hz3-eval` as a user meets it.

#[path = "../../../hz3-preload/hz3/tests/common/mod.rs"]
mod common;

use common::{Tested, text};

const EVAL: Tested = Tested { program: env!("CARGO_BIN_EXE_hz3-eval"), prefix: "error", is_installed: false };

#[test]
fn what_advise_recorded_can_be_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("results.json");
    let arguments = ["advise", "--peers", "system", "--lanes", "fast", "--time-limit", "1", "--output", text(&file)];
    let advised = EVAL.run(&[&arguments[..], &["--", "true"]].concat());
    assert!(advised.status.success(), "{}", String::from_utf8_lossy(&advised.stderr));
    let report = EVAL.run(&["report", text(&file)]);
    assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    assert!(folder.path().join("results/time.svg").is_file());
}

#[test]
fn a_mistake_gives_one_line_and_code_2() {
    EVAL.assert_one_line_and_code_2(&[], "subcommand");
    EVAL.assert_one_line_and_code_2(&["bench-mt", "--rows", "t3-r0"], "'t3-r0'");
    EVAL.assert_one_line_and_code_2(&["report", "/no/such/file"], "/no/such/file");
    EVAL.assert_one_line_and_code_2(&["build-peers", "--only", "nomalloc"], "'nomalloc'");
}
