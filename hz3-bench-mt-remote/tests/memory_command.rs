//! `hz3-bench-memory` as its users run it: lines, bounds, exit statuses.

use std::process::{Command, Output};

fn run(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hz3-bench-memory"));
    command.args(line.split_whitespace()).env_remove("LD_PRELOAD");
    command.output().expect("the program starts")
}

/// The words of the only line that starts with `first`.
fn words<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with(first)).collect();
    assert_eq!(lines.len(), 1, "lines that start with {first:?} in {text}");
    lines[0].split_whitespace().collect()
}

/// A figure of such a line.
fn number(words: &[&str], key: &str) -> f64 {
    let value = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{key} is missing in {words:?}")).parse().expect("a number")
}

#[test]
fn a_run_prints_its_figures_and_its_bounds() {
    let output = run("fill-and-free --bytes 65536 --total-mb 128 --seconds 0 --seed 3");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{text}");
    assert!(
        text.starts_with("hz3-bench-memory name=fill-and-free bytes=65536 total_mb=128 seconds=0 poll=false seed=3\n")
    );
    let memory = words(&text, "[MEM]");
    assert_eq!(number(&memory, "peak_live_mb").floor(), 128.0, "{memory:?}");
    assert!(number(&memory, "peak_rss_mb") > 128.0, "{memory:?}");
    let returned = words(&text, "[RETURN]");
    let after = words(&text, "[BOUND] name=after ");
    assert!((number(&returned, "after_over_peak") - number(&after, "value")).abs() < 1e-3, "{text}");
    assert_eq!(number(&after, "limit"), 0.1);
    // The C library's malloc has a malloc_trim, which gives such blocks back.
    assert!(words(&text, "[TRIM]").contains(&"malloc_trim=called"));
    assert_eq!(words(&text, "[BOUND] name=after-trim ").last(), Some(&"ok"), "{text}");
    assert!(words(&text, "[ALLOCATOR]").contains(&"name=glibc"));
}

#[test]
fn an_exceeded_bound_fails_only_a_check() {
    // Four MiB are so little that what every process holds exceeds a twentieth of them.
    let line = "fill-and-free --bytes 65536 --total-mb 4 --seconds 0";
    let output = run(line);
    assert!(String::from_utf8_lossy(&output.stdout).contains(" EXCEEDED\n"), "{output:?}");
    assert_eq!(output.status.code(), Some(0));
    let checked = run(&format!("{line} --check"));
    assert_eq!(checked.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&checked.stderr), "hz3-bench-memory: a bound is exceeded\n");
}

#[test]
fn a_phase_is_printed_with_its_memory() {
    let output = run("phases --total-mb 16 --phases 2 --threads 2 --decay-ms 10");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let worst = (1..=2).map(|number| words(&text, &format!("[PHASE] number={number} ")));
    let worst = worst.map(|words| number(&words, "rss_over_live")).fold(0.0, f64::max);
    assert!(worst > 1.0, "{text}");
    assert_eq!(number(&words(&text, "[BOUND]"), "value"), worst);
}

#[test]
fn a_bad_argument_gives_one_line_and_exit_status_2() {
    for (line, part) in [
        ("", "--help"),
        ("forget", "'forget'"),
        ("fill-and-free", "--bytes"),
        ("fill-and-free --bytes 8", "8 is not in"),
        ("one-reaper --producers 0", "'--producers"),
        ("thread-batches --threads 300 --batch 200", "--batch (200)"),
        ("phases --phasse 3", "--phasse"),
    ] {
        let output = run(line);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line:?}: {errors}");
        assert!(output.stdout.is_empty(), "{line:?} printed a report");
        assert_eq!(errors.lines().count(), 1, "{line:?}: {errors}");
        assert!(errors.starts_with("hz3-bench-memory: ") && errors.contains(part), "{line:?}: {errors}");
    }
}
