//! Profile: what `HZ3_PROFILE` writes about programs whose allocations are known, in each lane, read by a reader of
//! the format and scaled as pprof does.

mod harness;

use harness::compiler::Program;
use harness::run::{Outcome, Run};
use harness::{Lane, any_malloc};
use std::fs;
use std::path::{Path, PathBuf};

const PROGRAM: Program = Program::new("c/profile.c");
/// Samples are random: at the least number compared here, 100, this is more than four standard deviations.
const TOLERANCE: f64 = 0.45;
const INTERVAL: f64 = 524_288.0;

/// A row: live blocks and bytes, all blocks and bytes, and the stack.
struct Row {
    counts: [f64; 4],
    frames: Vec<u64>,
}

fn parse(text: &str) -> Vec<Row> {
    let (rows, maps) = text.split_once("\nMAPPED_LIBRARIES:\n").expect("a list of libraries");
    assert!(maps.contains("libhakozuna_hz3_"), "no maps");
    let mut lines = rows.lines();
    let head = lines.next().expect("a head").strip_prefix("heap profile: ").expect("a head");
    assert!(head.ends_with("@ heap_v2/524288"), "{head}");
    let numbers = |text: &str| -> Vec<f64> {
        let words = text.split(|character: char| !character.is_ascii_digit()).filter(|word| !word.is_empty());
        words.map(|word| word.parse().expect("a number")).collect()
    };
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (counts, frames) = line.split_once('@').expect("a stack");
            let frames = frames.split_whitespace().map(|frame| {
                u64::from_str_radix(frame.strip_prefix("0x").expect("hexadecimal"), 16).expect("hexadecimal")
            });
            Row { counts: numbers(counts).try_into().expect("four counts"), frames: frames.collect() }
        })
        .collect()
}

/// As pprof scales a row of heap_v2.
fn scaled(blocks: f64, bytes: f64) -> f64 {
    if blocks == 0.0 { 0.0 } else { bytes / (1.0 - (-bytes / blocks / INTERVAL).exp()) }
}

fn folder(name: &str, lane: Lane) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("hz3-profile-{}-{name}-{lane:?}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
    folder
}

fn run(lane: Lane, case: &str, variables: &[(&str, &Path)]) -> Outcome {
    let run = Run::new(&PROGRAM).argument(case).preload(&lane.library());
    let run = variables.iter().fold(run, |run, (name, value)| run.variable(name, value.to_str().expect("ASCII")));
    let outcome = run.finish();
    outcome.expect_success();
    outcome
}

/// Compares each `bytes` line of the program with what the profile has for its site.
fn agrees(outcome: &Outcome, profile: &str) {
    let rows = parse(profile);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = outcome.stdout.lines().map(words).collect();
    let mut compared = 0;
    for line in lines.iter().filter(|line| line[0] == "bytes") {
        let site = lines.iter().find(|site| site[0] == "site" && site[1] == line[1]).expect("a site");
        let end = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("an address");
        let range = end(&site[2])..=end(&site[3]);
        let of_site = || rows.iter().filter(|row| row.frames.first().is_some_and(|frame| range.contains(frame)));
        let found: [f64; 2] = [0, 2].map(|at| of_site().map(|row| scaled(row.counts[at], row.counts[at + 1])).sum());
        for (found, expected) in found.into_iter().zip(&line[2..]) {
            let expected: f64 = expected.parse().expect("a number");
            let tolerance = expected * TOLERANCE.min(5.0 * (INTERVAL / expected.max(1.0)).sqrt());
            assert!((found - expected).abs() <= tolerance, "{}: {found} in place of {expected}\n{outcome}", line[1]);
            compared += 1;
        }
    }
    assert!(compared > 0, "{outcome}");
}

fn case_agrees(case: &str) {
    for lane in [Lane::Fast, Lane::Scale] {
        if any_malloc() {
            return;
        }
        let folder = folder(case, lane);
        let (file, other) = (folder.join("heap"), folder.join("other"));
        let outcome = run(lane, case, &[("HZ3_PROFILE", &file), ("OTHER_PROFILE", &other)]);
        assert!(outcome.stderr.is_empty(), "{outcome}");
        agrees(&outcome, &fs::read_to_string(&file).expect("a profile"));
        if other.exists() {
            agrees(&outcome, &fs::read_to_string(&other).expect("a profile"));
        }
        fs::remove_dir_all(&folder).expect("our own");
    }
}

#[test]
fn live_blocks_are_attributed_to_their_functions() {
    case_agrees("live_blocks_are_attributed_to_their_functions");
}

#[test]
fn freed_blocks_stay_in_the_cumulative_counts() {
    case_agrees("freed_blocks_stay_in_the_cumulative_counts");
}

#[test]
fn threads_are_sampled_and_others_free_their_blocks() {
    case_agrees("threads_are_sampled_and_others_free_their_blocks");
}

/// The one file is the parent's: the child writes none where the name has no process id.
#[test]
fn a_child_does_not_write_over_its_parent_s_profile() {
    case_agrees("a_child_has_its_own_profile_or_none");
}

#[test]
fn a_profile_is_written_on_demand() {
    case_agrees("a_profile_is_written_on_demand");
}

#[test]
fn each_process_has_a_file_where_the_name_has_its_id() {
    for lane in [Lane::Fast, Lane::Scale] {
        let folder = folder("id", lane);
        let outcome = run(lane, "a_child_has_its_own_profile_or_none", &[("HZ3_PROFILE", &folder.join("%p"))]);
        let line = outcome.stdout.lines().find(|line| line.starts_with("processes ")).expect("two ids");
        for id in line.split_whitespace().skip(1).filter(|_| !any_malloc()) {
            assert!(!parse(&fs::read_to_string(folder.join(id)).expect("a profile")).is_empty());
        }
        fs::remove_dir_all(&folder).expect("our own");
    }
}

#[test]
fn sampled_blocks_hold_what_they_should() {
    for lane in [Lane::Fast, Lane::Scale, Lane::Hardened] {
        let variables = [("HZ3_PROFILE", Path::new("/dev/null")), ("HZ3_PROFILE_INTERVAL", Path::new("1"))];
        run(lane, "sampled_blocks_hold_what_they_should", &variables);
        run(lane, "resized_blocks_count_with_their_size", &variables[..1]);
    }
}

#[test]
fn without_a_profile_there_is_none_to_write() {
    for lane in [Lane::Fast, Lane::Scale] {
        run(lane, "without_a_profile_there_is_none_to_write", &[]);
    }
}

#[test]
fn a_wrong_name_costs_one_line() {
    for lane in [Lane::Fast, Lane::Scale] {
        if any_malloc() {
            return;
        }
        for (name, said) in [("", "expected a path"), ("%d", "expected a path")] {
            let outcome = run(lane, "without_a_profile_there_is_none_to_write", &[("HZ3_PROFILE", Path::new(name))]);
            assert!(outcome.stderr.lines().count() == 1 && outcome.stderr.contains(said), "{outcome}");
        }
        let nowhere = ("HZ3_PROFILE", Path::new("/proc/no/such/folder"));
        let outcome = run(lane, "sampled_blocks_hold_what_they_should", &[nowhere]);
        assert!(
            outcome.stderr.lines().count() == 1
                && outcome
                    .stderr
                    .contains("HZ3_PROFILE: the file can't be written: there is no such folder: /proc/no/such/folder"),
            "{outcome}"
        );
    }
}
