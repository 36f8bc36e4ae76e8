//! The command as its users run it: lines, figures, exit statuses.

use std::collections::HashMap;
use std::process::{Command, Output};

const NAME: &str = "bench_random_mixed_mt_remote_malloc";

fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hz3-bench-mt-remote"));
    command.args(line.split_whitespace()).env_remove("LD_PRELOAD");
    command
}

fn run(line: &str) -> Output {
    command(line).output().expect("the benchmark starts")
}

/// The lines of a successful run.
fn lines(line: &str) -> Vec<String> {
    let output = run(line);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{line:?} ended with {} and {errors:?}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The `key=value` words of the only line that starts with `first`.
fn figures(lines: &[String], first: &str) -> HashMap<String, String> {
    let matching: Vec<_> = lines.iter().filter(|line| line.starts_with(first)).collect();
    assert_eq!(matching.len(), 1, "lines that start with {first:?} in {lines:#?}");
    let words = matching[0].split_whitespace().filter_map(|word| word.split_once('='));
    words.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A figure as a number; a rate may carry a percent sign.
fn number(figures: &HashMap<String, String>, key: &str) -> f64 {
    let text = figures.get(key).unwrap_or_else(|| panic!("{key} is missing in {figures:?}"));
    text.trim_end_matches('%').parse().unwrap_or_else(|_| panic!("{key}={text} is no number"))
}

#[test]
fn a_run_prints_its_arguments_and_every_figure() {
    let lines = lines("3 20000 100 16 2048 50 32768 --seed 5");
    assert_eq!(
        lines[0],
        format!(
            "{NAME} threads=3 iters=20000 ws=100 min=16 max=2048 remote_pct=50 ring_slots=32768 seed=5 touch=ends \
             pattern=ring latency=off"
        )
    );

    let speed = figures(&lines, "ops=");
    assert_eq!(number(&speed, "ops"), number(&speed, "mallocs") + number(&speed, "frees"));
    assert_eq!(number(&speed, "mallocs"), number(&speed, "frees"));
    assert_eq!(number(&speed, "failed"), 0.0);
    let rate = number(&speed, "ops") / number(&speed, "time");
    assert!((number(&speed, "ops/s") / rate - 1.0).abs() < 0.01, "{speed:?}");

    let remote = figures(&lines, "[EFFECTIVE_REMOTE]");
    assert_eq!(number(&remote, "target"), 50.0);
    assert!((45.0..55.0).contains(&number(&remote, "actual")), "{remote:?}");
    // No thread sends more than 20,000 blocks, so no ring is ever full.
    assert_eq!(number(&remote, "fallback_rate"), 0.0);
    assert!(remote["fallback_rate"].ends_with('%'), "{remote:?}");
    assert_eq!(number(&remote, "sent"), number(&remote, "received"));

    let memory = figures(&lines, "[MEM]");
    let (rss, live) = (number(&memory, "peak_rss_mb"), number(&memory, "peak_live_mb"));
    // 3 threads with about 50 blocks of about 1 KiB each in their slots, and what is on its way.
    assert!(live > 0.1 && live < 30.0, "{memory:?}");
    assert!(rss >= number(&memory, "rss_before_mb") && rss > live, "{memory:?}");
    assert!((number(&memory, "rss_over_live") / (rss / live) - 1.0).abs() < 0.02, "{memory:?}");
    assert!(number(&memory, "harness_mb") <= number(&memory, "harness_mapped_mb"), "{memory:?}");

    let allocator = figures(&lines, "[ALLOCATOR]");
    assert_eq!(allocator["name"], "glibc");
    assert!(allocator["path"].contains("libc.so") && allocator["version"].starts_with("2."), "{allocator:?}");
    assert_eq!(lines.len(), 5, "{lines:#?}");
}

#[test]
fn one_thread_has_no_neighbour_to_send_to() {
    let remote = figures(&lines("1 5000 50 16 64 90"), "[EFFECTIVE_REMOTE]");
    assert_eq!((number(&remote, "target"), number(&remote, "sent")), (0.0, 0.0));
}

#[test]
fn latencies_are_printed_for_each_kind_of_call() {
    let lines = lines("2 20000 100 16 2048 50 --latency");
    let clock = figures(&lines, "[CLOCK]");
    assert!(number(&clock, "cost_ns") > 0.0 && number(&clock, "ns_per_tick") > 0.0, "{clock:?}");
    let speed = figures(&lines, "ops=");
    let mut frees = 0.0;
    for call in ["malloc", "local_free", "remote_free"] {
        let latency = figures(&lines, &format!("[LATENCY] call={call} "));
        let order = ["p50", "p99", "p99.9", "p99.99", "max"].map(|key| number(&latency, key));
        assert!(order[0] > 0.0 && order.is_sorted(), "{latency:?}");
        if call == "malloc" {
            assert_eq!(number(&latency, "count"), number(&speed, "mallocs"));
        } else {
            frees += number(&latency, "count");
        }
    }
    assert_eq!(frees, number(&speed, "frees"));
}

#[test]
fn the_asymmetric_pattern_sends_every_block_and_rarely_meets_a_full_ring() {
    let lines = lines("4 100000 400 16 2048 50 --pattern asymmetric");
    let remote = figures(&lines, "[EFFECTIVE_REMOTE]");
    assert_eq!((number(&remote, "target"), number(&remote, "local")), (100.0, 0.0));
    assert!(number(&remote, "fallback_rate") < 0.1, "{remote:?}");
    assert_eq!(number(&remote, "sent"), number(&remote, "received"));
}

#[test]
fn every_way_of_touching_runs() {
    for touch in ["none", "ends", "all"] {
        let lines = lines(&format!("1 2000 10 1 300000 0 --touch {touch}"));
        assert!(lines[0].contains(&format!(" touch={touch} ")), "{lines:?}");
    }
}

#[test]
fn a_bad_argument_gives_one_line_and_exit_status_2() {
    for (line, part) in [
        ("", "<THREADS>"),
        ("two 1 1 1 1 0", "'two'"),
        ("1 1 1 9 8 0", "<MIN>"),
        ("1 1 1 1 1 0 1000", "power of two"),
        ("1 1 1 1 1 0 --patern ring", "--patern"),
        ("1 1 1 1 1 0 --pattern asymmetric", "even"),
    ] {
        let output = run(line);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line:?}: {errors}");
        assert!(output.stdout.is_empty(), "{line:?} printed a report");
        assert_eq!(errors.lines().count(), 1, "{line:?}: {errors}");
        assert!(errors.starts_with(&format!("{NAME}: ")) && errors.contains(part), "{line:?}: {errors}");
    }
}

#[test]
fn help_goes_to_standard_output() {
    let help = lines("--help").join("\n");
    for word in ["<THREADS>", "[RING_SLOTS]", "--seed", "--touch", "--latency", "--pattern", "LD_PRELOAD"] {
        assert!(help.contains(word), "{word} is missing in {help}");
    }
}

#[test]
fn failed_allocations_are_counted_and_make_the_exit_status_1() {
    // Blocks of 1 GiB in an address space of 8 GiB: some allocations must fail.
    let benchmark = env!("CARGO_BIN_EXE_hz3-bench-mt-remote");
    let limited = format!("ulimit -v 8388608; exec {benchmark} 1 1000 100 1073741824 1073741824 0 --touch none");
    let output = Command::new("sh").args(["-c", &limited]).env_remove("LD_PRELOAD").output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let failed = number(&figures(&lines, "ops="), "failed");
    assert!(failed > 0.0, "{lines:?}");
    assert_eq!(errors, format!("{NAME}: {failed} allocations failed\n"));
}
