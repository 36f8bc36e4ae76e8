//! Options: what the environment variables that begin with `HZ3_` do to a program, seen from outside, in each
//! lane; and that a wrong one costs a line on standard error and nothing else.

mod harness;

use harness::compiler::Program;
use harness::run::{Outcome, Run};
use harness::{Lane, any_malloc};

const PROGRAM: Program = Program::new("c/options.c");

fn outcome(lane: Lane, variables: &[(&str, &str)], words: &[&str]) -> Outcome {
    let run = variables.iter().fold(Run::new(&PROGRAM), |run, (name, value)| run.variable(name, value));
    words.iter().fold(run, |run, word| run.argument(word)).preload(&lane.library()).finish()
}

/// Panics unless the program passes and says nothing.
fn passes(lane: Lane, variables: &[(&str, &str)], words: &[&str]) {
    let outcome = outcome(lane, variables, words);
    outcome.expect_success();
    let skipped = outcome.status.and_then(|status| status.code()) != Some(0);
    assert!(skipped || outcome.stderr.is_empty(), "not silent: {outcome}");
}

/// Panics unless the program passes and the library says one line for each of `lines`, which has every part of
/// the line's `parts`.
fn is_told(lane: Lane, variables: &[(&str, &str)], lines: &[&[&str]]) {
    let outcome = outcome(lane, variables, &["ordinary_work_gets_done"]);
    outcome.expect_success();
    if any_malloc() {
        return;
    }
    let said: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(said.len(), lines.len(), "{outcome}");
    for parts in lines {
        let fits = |line: &&&str| line.starts_with("hz3: ") && parts.iter().all(|part| line.contains(part));
        assert_eq!(said.iter().filter(fits).count(), 1, "no line with {parts:?}: {outcome}");
    }
}

/// A test in each lane: its name, what is set, the program's case and further arguments.
macro_rules! option_tests {
    ($($name:ident: [$($variable:literal = $value:literal),*] $case:ident $($argument:literal)*;)+) => {
        option_tests!(@lane fast, Fast, $($name: [$($variable = $value),*] $case $($argument)*;)+);
        option_tests!(@lane scale, Scale, $($name: [$($variable = $value),*] $case $($argument)*;)+);

        #[test]
        fn every_case_of_the_program_is_run() {
            harness::lists_every_case(&PROGRAM, &[
                $(stringify!($case),)+ "ordinary_work_gets_done_with_another_users_rights",
            ]);
        }
    };
    (@lane $module:ident, $lane:ident,
        $($name:ident: [$($variable:literal = $value:literal),*] $case:ident $($argument:literal)*;)+) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $name() {
                    passes(Lane::$lane, &[$(($variable, $value)),*], &[stringify!($case), $($argument),*]);
                }
            )+
        }
    };
}

option_tests! {
    no_variable_is_silent: [] ordinary_work_gets_done;
    other_variables_are_none_of_its_business: ["HZ4_PURGE_DELAY_MS" = "x", "XHZ3_THP" = "9", "HZ3" = "1"]
        ordinary_work_gets_done;
    a_delay_of_zero_gives_memory_back_at_once: ["HZ3_PURGE_DELAY_MS" = "0"] freed_memory_goes_back_at_once;
    a_delay_of_minus_one_keeps_memory: ["HZ3_PURGE_DELAY_MS" = "-1"] freed_memory_is_kept_until_a_trim;
    the_delay_is_a_second: [] freed_memory_goes_back_after_a_second;
    a_shorter_delay_gives_memory_back: ["HZ3_PURGE_DELAY_MS" = "100"] freed_memory_goes_back_after_a_second;
    an_idle_process_without_a_background_thread_keeps_little: [] an_idle_process_has_no_other_thread_and_keeps_little;
    a_background_thread_is_not_there_from_the_start: ["HZ3_BACKGROUND_THREAD" = "auto"]
        an_idle_process_has_no_other_thread_and_keeps_little;
    a_background_thread_that_is_not_wanted_is_not_there: ["HZ3_BACKGROUND_THREAD" = "0"]
        an_idle_process_has_no_other_thread_and_keeps_little;
    a_longer_delay_keeps_memory: ["HZ3_PURGE_DELAY_MS" = "60000"]
        an_idle_process_has_no_other_thread_and_keeps_its_memory;
    a_background_thread_has_nothing_to_do_where_memory_is_kept:
        ["HZ3_BACKGROUND_THREAD" = "1", "HZ3_PURGE_DELAY_MS" = "-1"]
        an_idle_process_has_no_other_thread_and_keeps_its_memory;
    a_background_thread_shrinks_an_idle_process: ["HZ3_BACKGROUND_THREAD" = "1"] an_idle_process_shrinks;
    a_background_thread_shrinks_an_idle_process_soon:
        ["HZ3_BACKGROUND_THREAD" = "1", "HZ3_PURGE_DELAY_MS" = "0"] an_idle_process_shrinks;
    a_background_thread_takes_no_signal: ["HZ3_BACKGROUND_THREAD" = "1"] the_background_thread_blocks_every_signal;
    a_child_has_a_background_thread: ["HZ3_BACKGROUND_THREAD" = "1", "HZ3_PURGE_DELAY_MS" = "300"]
        a_forked_child_has_a_background_thread_of_its_own;
    the_first_arena_has_64_mib: ["HZ3_ARENA_SIZE" = "64M"] the_first_arena_has_the_size_asked_for "67108864";
    the_first_arena_has_1_gib: ["HZ3_ARENA_SIZE" = "1048576k"] the_first_arena_has_the_size_asked_for "1073741824";
    the_first_arena_has_100_gib: ["HZ3_ARENA_SIZE" = "100G"] the_first_arena_has_the_size_asked_for "107374182400";
    a_small_first_arena_is_followed_by_others: ["HZ3_ARENA_SIZE" = "4M"] two_hundred_mib_live_in_many_small_arenas;
    huge_pages_are_asked_for: ["HZ3_THP" = "1"] memory_is_advised_as_asked "hg";
    huge_pages_are_refused: ["HZ3_THP" = "0"] memory_is_advised_as_asked "nh";
    huge_pages_are_left_to_the_system: [] memory_is_advised_as_asked "-";
}

#[test]
fn without_a_variable_the_first_arena_is_the_lane_s() {
    if any_malloc() {
        return;
    }
    passes(Lane::Fast, &[], &["the_first_arena_has_the_size_asked_for", "4294967296"]);
    passes(Lane::Scale, &[], &["the_first_arena_has_the_size_asked_for", "17179869184"]);
}

#[test]
fn an_unknown_name_costs_one_line() {
    for lane in [Lane::Fast, Lane::Scale] {
        is_told(lane, &[("HZ3_COLOUR", "blue")], &[&["HZ3_COLOUR", "ignored"]]);
        is_told(lane, &[("HZ3_", "")], &[&["HZ3_ ", "ignored"]]);
        is_told(lane, &[("HZ3_PURGE_DELAY", "1")], &[&["HZ3_PURGE_DELAY ", "ignored"]]);
    }
}

#[test]
fn a_malformed_value_costs_one_line_that_says_what_is_expected() {
    for lane in [Lane::Fast, Lane::Scale] {
        is_told(lane, &[("HZ3_PURGE_DELAY_MS", "soon")], &[&["HZ3_PURGE_DELAY_MS=soon", "expected milliseconds"]]);
        is_told(lane, &[("HZ3_PURGE_DELAY_MS", "")], &[&["HZ3_PURGE_DELAY_MS=", "expected milliseconds"]]);
        is_told(lane, &[("HZ3_ARENA_SIZE", "1M")], &[&["HZ3_ARENA_SIZE=1M", "expected a size"]]);
        is_told(lane, &[("HZ3_THP", "yes")], &[&["HZ3_THP=yes", "expected 0 or 1"]]);
        is_told(lane, &[("HZ3_BACKGROUND_THREAD", "2")], &[&["HZ3_BACKGROUND_THREAD=2", "expected 0, 1 or auto"]]);
        is_told(lane, &[("HZ3_SOFT_LIMIT", "most")], &[&["HZ3_SOFT_LIMIT=most", "expected a size", "auto"]]);
        is_told(lane, &[("HZ3_SOFT_LIMIT", "101%")], &[&["HZ3_SOFT_LIMIT=101%", "1% to 100%"]]);
        is_told(lane, &[("HZ3_HARD_LIMIT", "1000")], &[&["HZ3_HARD_LIMIT=1000", "expected a size from 1M"]]);
        is_told(
            lane,
            &[("HZ3_THP", "on"), ("HZ3_SPEED", "11"), ("HZ3_PURGE_DELAY_MS", "0")],
            &[&["HZ3_THP=on"], &["HZ3_SPEED "]],
        );
        let long = "9".repeat(5000);
        is_told(lane, &[("HZ3_ARENA_SIZE", &long)], &[&["HZ3_ARENA_SIZE=999", "expected a size", "ignored"]]);
    }
}

/// A wrong value leaves the default in place, and the other options as they were set.
#[test]
fn a_wrong_value_changes_nothing_else() {
    for lane in [Lane::Fast, Lane::Scale] {
        let wrong = ("HZ3_BACKGROUND_THREAD", "maybe");
        outcome(lane, &[wrong], &["an_idle_process_has_no_other_thread_and_keeps_little"]).expect_success();
        outcome(lane, &[wrong, ("HZ3_PURGE_DELAY_MS", "0")], &["freed_memory_goes_back_at_once"]).expect_success();
    }
}

mod with_another_users_rights {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::path::Path;
    use std::process::{Command, Output};

    const NOBODY: u32 = 65534;
    /// The program's exit status where it can't be tried.
    const SKIPPED: i32 = 77;

    fn run(program: &Path) -> Output {
        Command::new(program)
            .arg("ordinary_work_gets_done_with_another_users_rights")
            .env_remove("LD_PRELOAD")
            .env_remove("HZ3_PRELOAD_DIR")
            .envs([("HZ3_THP", "wrong"), ("HZ3_COLOUR", "blue"), ("HZ3_BACKGROUND_THREAD", "1")])
            .output()
            .expect("the program that was just built can be run")
    }

    /// `LD_PRELOAD` does not reach such a program, so the library is linked to it, from a folder that every
    /// user may read.
    fn ignores_the_environment(lane: Lane) {
        // SAFETY: takes and changes nothing.
        if unsafe { libc::geteuid() } != 0 || any_malloc() {
            let _ = writeln!(std::io::stderr(), "SKIPPED set-user-id program: only root can make one of another's");
            return;
        }
        let folder = std::env::temp_dir().join(format!("hz3-set-user-id-{}-{lane:?}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
        let library = folder.join(lane.library().file_name().expect("a file"));
        std::fs::copy(lane.library(), &library).expect("the library can be copied");
        for path in [&folder, &library] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("our own");
        }
        let linked: &'static str = library.display().to_string().leak();
        let search: &'static str = format!("-Wl,--no-as-needed,-rpath,{}", folder.display()).leak();
        let program = Program::new("c/options.c").flags(vec![search, linked].leak()).build();
        let copy = folder.join("program");
        std::fs::copy(&program, &copy).expect("the program can be copied");
        let plain = run(&copy);
        chown(&copy, Some(NOBODY), None).expect("root may");
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o4755)).expect("root may");
        let secure = run(&copy);
        std::fs::remove_dir_all(&folder).expect("our own");
        std::fs::remove_file(&program).expect("our own");
        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
        // Run with its own rights the case has nothing to try, but the library has read the environment.
        assert_eq!(plain.status.code(), Some(SKIPPED), "{}", said(&plain));
        assert_eq!(said(&plain).lines().filter(|line| line.starts_with("hz3: ")).count(), 2, "{}", said(&plain));
        if secure.status.code() == Some(SKIPPED) {
            let _ = writeln!(std::io::stderr(), "SKIPPED set-user-id program: {}", said(&secure));
            return;
        }
        assert_eq!((secure.status.code(), said(&secure).as_str()), (Some(0), ""));
    }

    #[test]
    fn the_fast_lane_ignores_the_environment() {
        ignores_the_environment(Lane::Fast);
    }

    #[test]
    fn the_scale_lane_ignores_the_environment() {
        ignores_the_environment(Lane::Scale);
    }
}

/// A table on standard error, and at the same time a file of each kind, named by the process.
#[test]
fn statistics_are_written_at_exit() {
    if any_malloc() {
        return;
    }
    for (lane, name) in [(Lane::Fast, "fast"), (Lane::Scale, "scale")] {
        let folder = std::env::temp_dir().join(format!("hz3-stats-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).expect("a fresh folder");
        let (table, json) = (folder.join("%p.txt"), folder.join("%p.json"));
        let path = |path: &std::path::Path| path.to_str().expect("the folder's name is text").to_owned();
        let variables = [("HZ3_SHOW_STATS", "1"), ("HZ3_STATS_FILE", &path(&table)), ("HZ3_STATS_JSON", &path(&json))];
        let outcome = outcome(lane, &variables, &["ordinary_work_gets_done"]);
        outcome.expect_success();
        let mut files: Vec<_> =
            std::fs::read_dir(&folder).expect("it is there").map(|entry| entry.expect("it is there").path()).collect();
        files.sort();
        assert!(files.len() >= 2, "{files:?}");
        let (mut tables, mut jsons) = (0, 0);
        for file in &files {
            let text = std::fs::read_to_string(file).expect("text");
            let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("text");
            assert!(stem.bytes().all(|byte| byte.is_ascii_digit()), "{file:?}");
            if file.extension().is_some_and(|extension| extension == "json") {
                jsons += 1;
                assert!(text.starts_with("{\"schema\":1,") && text.ends_with("]}\n"), "{text}");
                assert!(text.contains(&format!("\"lane\":\"{name}\",\"pid\":{stem},")), "{text}");
                assert!(text.contains("\"homeward_slots\":"), "{text}");
            } else {
                tables += 1;
                assert!(outcome.stderr.contains(&text), "{text}\n{outcome}");
                assert!(text.contains("committed_bytes"), "{text}");
            }
        }
        assert!(tables > 0 && tables == jsons, "{files:?}");
        std::fs::remove_dir_all(&folder).expect("it is this test's");
    }
}

#[test]
fn a_file_that_can_t_be_written_costs_one_line_and_errors_can_be_hidden() {
    for lane in [Lane::Fast, Lane::Scale] {
        let nowhere = ("HZ3_STATS_JSON", "/nonexistent/stats.json");
        let said = "HZ3_STATS_JSON: the file can't be written: there is no such folder: /nonexistent/stats.json";
        is_told(lane, &[nowhere], &[&[said]]);
        is_told(lane, &[("HZ3_STATS_FILE", "/proc")], &[&["HZ3_STATS_FILE", "it is a folder: /proc"]]);
        is_told(lane, &[("HZ3_STATS_FILE", "/dev/full")], &[&["HZ3_STATS_FILE", "no space for it there: /dev/full"]]);
        is_told(
            lane,
            &[("HZ3_STATS_PAGE", "/nonexistent/p")],
            &[&["HZ3_STATS_PAGE", "no such folder: /nonexistent/p"]],
        );
        is_told(lane, &[nowhere, ("HZ3_COLOUR", "blue"), ("HZ3_SHOW_ERRORS", "0")], &[]);
    }
}

/// The C library does not know its environment yet.
#[test]
fn options_are_read_where_the_first_block_comes_before_the_c_library() {
    const EARLY: Program = Program::new("c/early.c");
    if any_malloc() {
        return;
    }
    for lane in [Lane::Fast, Lane::Scale, Lane::Hardened] {
        let run = || Run::new(&EARLY).variable("HZ3_THP", "early").variable("PRELOAD_TEST_EMPTY", "");
        let outcome = run().preload(&lane.library()).finish();
        outcome.expect_success();
        assert_eq!(outcome.stderr, "hz3: HZ3_THP=early: expected 0 or 1; ignored\n", "{outcome}");
        // Only the first reading counts, and it has seen this one.
        let outcome = run().variable("HZ3_SHOW_ERRORS", "0").preload(&lane.library()).finish();
        outcome.expect_success();
        assert_eq!(outcome.stderr, "", "{outcome}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn options_are_read_where_the_first_block_is_an_ifunc_resolver_s() {
    const RESOLVER: Program = Program::new("c/ifunc.c");
    for lane in [Lane::Fast, Lane::Scale, Lane::Hardened].into_iter().filter(|_| !any_malloc()) {
        let outcome = Run::new(&RESOLVER).variable("HZ3_THP", "early").preload(&lane.library()).finish();
        outcome.expect_success();
        assert_eq!(outcome.stderr, "hz3: HZ3_THP=early: expected 0 or 1; ignored\n", "{outcome}");
    }
    harness::lists_every_case(&RESOLVER, &["blocks_of_a_resolver_are_as_others"]);
}

/// The program's cases pass in every lane, each with its setting of the variable.
fn each_setting_has_its_case(program: &Program, variable: &str, cases: [(&str, &str); 2]) {
    for lane in [Lane::Fast, Lane::Scale, Lane::Hardened].into_iter().filter(|_| !any_malloc()) {
        for (setting, case) in cases {
            let run = Run::new(program).argument(case).variable(variable, setting);
            run.preload(&lane.library()).finish().expect_success();
        }
    }
    harness::lists_every_case(program, &cases.map(|(_, case)| case));
}

/// The program stands in for prctl(2).
#[test]
fn mappings_have_names_for_who_asks() {
    const NAMES: Program = Program::new("c/names.c").flags(&["-rdynamic"]);
    let cases = [("1", "every_mapping_has_its_name"), ("0", "no_name_is_given")];
    each_setting_has_its_case(&NAMES, "HZ3_NAME_MAPS", cases);
}

/// The kernel says what it would leave out.
#[test]
fn core_dumps_are_small_for_who_asks() {
    const DUMPS: Program = Program::new("c/dumps.c");
    let cases = [("1", "core_dumps_hold_what_is_used_and_little_more"), ("0", "core_dumps_hold_everything")];
    each_setting_has_its_case(&DUMPS, "HZ3_SMALL_CORES", cases);
}

#[test]
fn a_verbose_library_says_its_lane_and_every_option() {
    for (lane, name) in [(Lane::Fast, "lane fast"), (Lane::Scale, "lane scale")] {
        is_told(
            lane,
            &[("HZ3_VERBOSE", "1"), ("HZ3_PURGE_DELAY_MS", "-1")],
            &[
                &[name],
                &["HZ3_PURGE_DELAY_MS=-1"],
                &["HZ3_ARENA_SIZE="],
                &["HZ3_THP=as the system has them"],
                &["HZ3_BACKGROUND_THREAD=auto"],
                &["HZ3_SHOW_ERRORS=1"],
                &["HZ3_SHOW_STATS=0"],
                &["HZ3_STATS_FILE="],
                &["HZ3_STATS_JSON="],
                &["HZ3_STATS_PAGE="],
                &["HZ3_PROFILE="],
                &["HZ3_PROFILE_INTERVAL=524288"],
                &["HZ3_SOFT_LIMIT=auto"],
                &["HZ3_HARD_LIMIT=0"],
                &["HZ3_DEEPBIND=clear"],
                &["HZ3_NAME_MAPS=0"],
                &["HZ3_SMALL_CORES=0"],
            ],
        );
    }
}
