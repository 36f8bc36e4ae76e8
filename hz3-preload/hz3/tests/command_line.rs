//! The command `hz3` as a user meets it.

extern crate hz3_tool as hz3;

mod common;

use common::{Tested, text};

const HZ3: Tested = Tested { program: env!("CARGO_BIN_EXE_hz3"), prefix: "hz3", is_installed: true };

#[test]
fn a_program_runs_on_the_lane_with_or_without_the_command_s_name() {
    let script = "echo ${LD_PRELOAD##*/}:$HZ3_PRELOAD_DIR; exit 7";
    let [short, long] = [&["--lane", "fast"][..], &["run", "--lane", "fast", "--"]].map(|before| {
        let output = HZ3.command(&[before, &["sh", "-c", script]].concat()).env_remove("LD_PRELOAD").output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    });
    assert_eq!(short, "libhakozuna_hz3_fast.so:\n", "the folder of the libraries is nobody else's business");
    assert_eq!(short, long);
}

#[test]
fn two_dashes_stand_before_a_program_that_has_a_command_s_name() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/echo", folder.path().join("top")).unwrap();
    let output = HZ3.command(&["--", "top", "--lane", "x"]).env("PATH", folder.path()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "--lane x\n");
}

#[test]
fn the_library_s_path_and_the_version_are_printed() {
    let printed = String::from_utf8(HZ3.run(&["--lane", "hardened", "--library"]).stdout).unwrap();
    assert!(printed.ends_with("/libhakozuna_hz3_hardened.so\n") && printed.lines().count() == 1, "{printed}");
    let version = String::from_utf8(HZ3.run(&["--version"]).stdout).unwrap();
    assert_eq!(version, concat!("hz3 ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn who_reads_only_the_start_of_the_output_gets_no_complaint() {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", r#"(sleep 0.2; exec "$0" --help) | true"#, HZ3.program]).env_remove("LD_PRELOAD");
    let output = shell.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_mistake_gives_one_line_and_code_2() {
    HZ3.assert_one_line_and_code_2(&[], "no program");
    HZ3.assert_one_line_and_code_2(&["--lane", "slow", "true"], "'slow'");
    HZ3.assert_one_line_and_code_2(&["--lane"], "'--lane <LANE>'");
    HZ3.assert_one_line_and_code_2(&["--lnae", "fast", "true"], "--lnae");
    HZ3.assert_one_line_and_code_2(&["hz3-no-such-program"], "hz3-no-such-program");
    HZ3.assert_one_line_and_code_2(&["run", "ls"], "-- <PROGRAM>");
    HZ3.assert_one_line_and_code_2(&["top"], "PID");
    HZ3.assert_one_line_and_code_2(&["report", "/no/such/file"], "/no/such/file");
    HZ3.assert_one_line_and_code_2(&["report", "/etc/passwd"], "no statistics");
    let folder = tempfile::tempdir().unwrap();
    let mut elsewhere = HZ3.command(&["true"]);
    let output = elsewhere.env(hz3::home::VARIABLE, folder.path()).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.starts_with("hz3: the library is missing: ") && message.contains(text(folder.path())), "{message}");
}
