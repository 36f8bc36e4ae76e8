//! `advise` on programs whose answer is known.

extern crate hz3_tool as hz3;

mod common;

use common::{Tested, compile, skipped, text, try_compile};

const HZ3: Tested = Tested { program: env!("CARGO_BIN_EXE_hz3"), prefix: "hz3", is_installed: true };

/// A program that does little but allocate.
const ALLOCATES: &str = "
    #include <stdlib.h>
    int main(void) {
        static void *blocks[64];
        for (int i = 0; i < 200000; i++) {
            free(blocks[i % 64]);
            blocks[i % 64] = malloc(16 + i % 500);
        }
        return 0;
    }
";

/// A program that computes and never allocates.
const COMPUTES: &str = "
    int main(void) {
        volatile unsigned x = 1;
        for (int i = 0; i < 40000000; i++) x = x * 1664525 + 1013904223;
        return 0;
    }
";

/// glibc's malloc behind a delay of some hundred additions.
const SLOW: &str = "
    #include <stddef.h>
    extern void *__libc_malloc(size_t);
    void *malloc(size_t n) {
        for (volatile int i = 0; i < 400; i++);
        return __libc_malloc(n);
    }
";

/// A library under which every program ends before it begins.
const BROKEN: &str = "
    #include <unistd.h>
    __attribute__((constructor)) static void end(void) { _exit(3); }
";

/// The advice and everything else that is printed, after the exit code is checked.
fn advise(arguments: &[&str]) -> (String, String, String) {
    let output = HZ3.run(&[&["advise"], arguments].concat());
    let printed = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{printed}{complaints}");
    let line = printed.lines().next().unwrap_or_default().to_owned();
    assert!(line.starts_with("advice: "), "{printed}");
    (line, printed, complaints)
}

#[test]
fn a_slow_allocator_is_found_to_be_slow() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path(), "allocates", ALLOCATES, &[]);
    let slow = compile(folder.path(), "libslow.so", SLOW, &["-shared", "-fPIC"]);
    let peer = format!("slow={}", text(&slow));
    let arguments =
        ["--peers", "system", "--peer", &peer, "--lanes", "scale", "--time-limit", "40", "--", text(&program)];
    let (line, printed, _) = advise(&arguments);
    assert!(line.contains("times as fast as slow (95 %: "), "{printed}");
    let row = printed.lines().find(|line| line.starts_with("| slow |")).expect(&printed);
    let ratio = row.split('|').nth(3).unwrap().trim();
    let interval = ratio.split_once('[').expect(row).1;
    let low: f64 = interval.split_once(',').expect(row).0.parse().unwrap();
    assert!(low > 1.5, "slow is slower than the system malloc: {row}");
}

#[test]
fn a_program_that_does_not_allocate_is_no_reason_for_any_allocator() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path(), "computes", COMPUTES, &[]);
    // At this confidence the test itself is wrong in one of a thousand runs.
    let arguments = ["--peers", "system", "--confidence", "0.999", "--time-limit", "8", "--", text(&program)];
    let (line, printed, _) = advise(&arguments);
    let expected = ["advice: UNDECIDED: ", "advice: the system malloc: scale lane is within 2 %"];
    assert!(expected.iter().any(|expected| line.starts_with(expected)), "{printed}");
}

#[test]
fn an_allocator_under_which_the_program_fails_is_left_out_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path(), "allocates", ALLOCATES, &[]);
    let broken = compile(folder.path(), "libbroken.so", BROKEN, &["-shared", "-fPIC"]);
    let peer = format!("broken={}", text(&broken));
    let (_, printed, complaints) =
        advise(&["--peers", "system", "--peer", &peer, "--time-limit", "1", "--", text(&program)]);
    for text in [&printed, &complaints] {
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("broken: ")).collect();
        assert_eq!(lines, ["broken: left out: exit code 3 in round 0, where the system malloc has exit code 0"]);
    }
    assert!(!printed.contains("| broken |"), "{printed}");
}

#[test]
fn options_of_hz3_reach_its_lanes_alone_and_the_results_file_has_every_run() {
    let folder = tempfile::tempdir().unwrap();
    let (seen, file) = (folder.path().join("seen"), folder.path().join("results.json"));
    let script = format!("echo \"${{LD_PRELOAD##*/}} $HZ3_PURGE_DELAY_MS\" >>{}", text(&seen));
    let arguments = ["advise", "--peers", "system", "--lanes", "fast", "--time-limit", "1", "--output", text(&file)];
    let mut command = HZ3.command(&arguments);
    let output = command.args(["--", "sh", "-c", &script]).env("HZ3_PURGE_DELAY_MS", "7").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = std::fs::read_to_string(&seen).unwrap();
    let with = |line: &str| lines.lines().filter(|seen| *seen == line).count();
    let (system, fast) = (with(" "), with("libhakozuna_hz3_fast.so 7"));
    assert!(system > 1 && fast == system && system + fast == lines.lines().count(), "{lines}");

    let results: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(results["runs"].as_array().unwrap().len(), system + fast);
    assert_eq!(results["rounds"].as_u64().unwrap() + 1, system as u64);
    let environment = |index: usize| results["allocators"][index]["environment"].to_string();
    assert_eq!([environment(0), environment(1)], ["null", r#"[["HZ3_PURGE_DELAY_MS","7"]]"#]);
    let again = [&arguments[..], &["--", "true"]].concat();
    HZ3.assert_one_line_and_code_2(&again, "results.json exists");
}

#[test]
fn the_program_s_output_and_input_are_its_own_business() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    std::fs::write(&input, "a line of input\n").unwrap();
    let arguments = ["--peers", "system", "--lanes", "fast", "--time-limit", "1", "--stdin", text(&input)];
    let script = ["--", "sh", "-c", "cat; echo complaint >&2; exit 4"];
    let with = |more: &[&str]| advise(&[&arguments, more, &script].concat());
    let (_, printed, complaints) = with(&["--exit-code", "4"]);
    assert!(!printed.contains("a line of input") && !complaints.contains("complaint"), "{printed}{complaints}");
    let (_, printed, complaints) = with(&["--exit-code", "4", "--show-output"]);
    assert!(!printed.contains("a line of input"), "{printed}");
    assert!(complaints.contains("--- under fast\na line of input\ncomplaint\n"), "{complaints}");
}

#[test]
fn a_program_that_fails_anyway_or_that_no_library_reaches_gives_one_line_and_code_2() {
    let quick = ["advise", "--peers", "system", "--time-limit", "5", "--"];
    let with = |program: &[&str], mention: &str| HZ3.assert_one_line_and_code_2(&[&quick, program].concat(), mention);
    with(&["false"], "exit code 1 under the system malloc");
    with(&["sh", "-c", "echo reason >&2; kill -9 $$"], "killed by signal 9 (reason)");
    with(&["sleep", "100"], "no end after 5 s");
    let folder = tempfile::tempdir().unwrap();
    match try_compile(folder.path(), "static", "int main(void) { return 0; }", &["-static"]) {
        Ok(program) => with(&[text(&program)], "statically linked"),
        Err(complaint) => skipped("a static program (is libc.a installed?)", &complaint),
    }
}

#[test]
fn a_mistake_gives_one_line_and_code_2() {
    HZ3.assert_one_line_and_code_2(&["advise"], "<PROGRAM>");
    HZ3.assert_one_line_and_code_2(&["advise", "--", "hz3-no-such-program"], "hz3-no-such-program");
    HZ3.assert_one_line_and_code_2(&["advise", "--time-limit", "0", "--", "true"], "--time-limit");
    HZ3.assert_one_line_and_code_2(&["advise", "--confidence", "95", "--", "true"], "between 0.5 and 0.9999");
    HZ3.assert_one_line_and_code_2(&["advise", "--stdin", "/no/such/file", "--", "true"], "/no/such/file");
    HZ3.assert_one_line_and_code_2(&["advise", "--peers", "nomalloc", "--", "true"], "nomalloc");
    HZ3.assert_one_line_and_code_2(&["advise", "--peer", "x=/no/such.so", "--", "true"], "/no/such.so");
    let arguments = ["advise", "--peers", "system", "--peer", "x=/etc/passwd", "--", "true"];
    HZ3.assert_one_line_and_code_2(&arguments, "cannot be preloaded");
}
