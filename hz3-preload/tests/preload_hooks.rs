//! Hooks: another preloaded library stands in the place of the functions of libc that hz3 calls and allocates in each,
//! loaded before or after each lane's library. docs/calls.md lists the functions.

mod harness;

use harness::compiler::Program;
use harness::run::Run;
use harness::{Lane, lists_every_case};
use std::fs;

fn passes_in_both_orders(program: &Program, lane: Lane, case: &str) {
    let (library, hooks) = (lane.library(), program.build_plugin().expect("it has one"));
    for (order, libraries) in
        [[library.as_path(), hooks.as_path()], [hooks.as_path(), library.as_path()]].iter().enumerate()
    {
        let run = Run::new(program).argument(case).preload_all(libraries);
        match case {
            "everything_is_written_while_calls_allocate" => passes_with_every_option(run, &format!("{lane:?}-{order}")),
            "a_call_forks_while_the_page_is_made" => {
                run.variable("HZ3_STATS_PAGE", "1").variable("PRELOAD_TEST_FORK", "1").finish().expect_success()
            }
            _ => run.finish().expect_success(),
        }
    }
}

fn passes_with_every_option(run: Run, name: &str) {
    let folder = std::env::temp_dir().join(format!("hz3-hooks-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
    let files = ["STATS_PAGE", "PROFILE", "STATS_JSON", "STATS_FILE"];
    let run = files
        .iter()
        .fold(run, |run, file| run.variable(&format!("HZ3_{file}"), folder.join(file).to_str().expect("UTF-8")));
    let others = [
        ("PROFILE_INTERVAL", "64K"),
        ("PURGE_DELAY_MS", "200"),
        ("SHOW_STATS", "1"),
        ("BACKGROUND_THREAD", "1"),
        ("VERBOSE", "1"),
    ];
    let outcome = others.iter().fold(run, |run, (name, value)| run.variable(&format!("HZ3_{name}"), value)).finish();
    outcome.expect_success();
    assert!(outcome.stderr.contains("process_resident"), "no statistics at exit: {outcome}");
    let ends_of = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(ends_of("STATS_JSON").ends_with("]}\n"));
    assert!(ends_of("STATS_FILE").contains("freed by threads of shard"));
    assert!(ends_of("PROFILE").contains("MAPPED_LIBRARIES"));
    assert!(!folder.join("STATS_PAGE").exists(), "the page is still there");
    fs::remove_dir_all(&folder).expect("the folder is this test's");
}

macro_rules! in_both_orders {
    ($($module:ident, $program:expr => [$($case:ident),+ $(,)?]);+ $(;)?) => {
        $(mod $module {
            use super::*;
            mod fast {
                $(#[test]
                fn $case() {
                    super::super::passes_in_both_orders(&$program, Lane::Fast, stringify!($case));
                })+
                use super::*;
            }
            mod scale {
                $(#[test]
                fn $case() {
                    super::super::passes_in_both_orders(&$program, Lane::Scale, stringify!($case));
                })+
                use super::*;
            }
            mod hardened {
                $(#[test]
                fn $case() {
                    super::super::passes_in_both_orders(&$program, Lane::Hardened, stringify!($case));
                })+
                use super::*;
            }
            #[test]
            fn every_case_of_the_program_is_run() {
                lists_every_case(&$program, &[$(stringify!($case)),+]);
            }
        })+
    };
}

in_both_orders! {
    allocations, Program::new("c/hooked.c").plugin("c/plugin/hooks.c") => [
        four_threads_allocate_while_their_calls_allocate,
        one_thread_allocates_while_its_calls_allocate,
        blocks_pass_between_threads_while_calls_allocate,
        everything_is_written_while_calls_allocate,
        a_call_forks_while_the_page_is_made,
        a_misuse_ends_the_process_although_abort_allocates,
    ];
    forks, Program::new("c/fork_in_calls.c").plugin("c/plugin/calls.c") => [
        one_thread_forks_in_its_calls,
        threads_fork_in_their_calls_which_allocate,
        a_thread_forks_while_others_calls_allocate,
        a_fork_that_waits_for_a_purge_takes_no_processor_time,
    ];
}
