//! Stack: what the library takes of its caller's stack, in each lane, plain and with everything on that watches it.

mod harness;

use harness::Lane;
use harness::compiler::Program;
use harness::run::Run;

const PROGRAM: Program = Program::new("c/stack.c").flags(&["-Wl,-z,now"]);

/// Bytes of a caller's stack, as `docs/design.md` promises.
const fn budget(lane: Lane) -> &'static str {
    match lane {
        Lane::Fast | Lane::Scale => "2048",
        Lane::Hardened => "3072",
    }
}

/// Upkeep is due all the time.
fn passes(lane: Lane, case: &str) {
    let run = Run::new(&PROGRAM).argument(case).argument(budget(lane)).variable("HZ3_PURGE_DELAY_MS", "20");
    run.preload(&lane.library()).finish().expect_success();
}

/// As [`passes`], with a statistics page, a heap profile of many samples and statistics at exit.
fn passes_observed(lane: Lane, case: &str) {
    let folder = std::env::temp_dir();
    let file =
        |ending: &str| format!("{}/hz3-stack-{}-{case}-{lane:?}-%p.{ending}", folder.display(), std::process::id());
    let outcome = Run::new(&PROGRAM)
        .argument(case)
        .argument(budget(lane))
        .variable("HZ3_PURGE_DELAY_MS", "20")
        .variable("HZ3_STATS_PAGE", &file("page"))
        .variable("HZ3_PROFILE", &file("heap"))
        .variable("HZ3_PROFILE_INTERVAL", "20000")
        .variable("HZ3_SHOW_STATS", "1")
        .preload(&lane.library())
        .finish();
    let own = format!("hz3-stack-{}-{case}-{lane:?}-", std::process::id());
    for entry in folder.read_dir().expect("the folder for temporary files can be read").flatten() {
        if entry.file_name().to_string_lossy().starts_with(&own) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    outcome.expect_success();
}

macro_rules! stack_tests {
    ($($case:ident),+ $(,)?) => {
        stack_tests!(@lane fast, Fast, passes, $($case),+);
        stack_tests!(@lane scale, Scale, passes, $($case),+);
        stack_tests!(@lane hardened, Hardened, passes, $($case),+);
        stack_tests!(@lane fast_observed, Fast, passes_observed, $($case),+);
        stack_tests!(@lane scale_observed, Scale, passes_observed, $($case),+);
        stack_tests!(@lane hardened_observed, Hardened, passes_observed, $($case),+);

        #[test]
        fn every_case_of_the_program_is_run() {
            harness::lists_every_case(&PROGRAM, &[$(stringify!($case)),+]);
        }
    };
    (@lane $module:ident, $lane:ident, $passes:ident, $($case:ident),+) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $case() {
                    $passes(Lane::$lane, stringify!($case));
                }
            )+
        }
    };
}

stack_tests! {
    allocation_takes_little_stack,
    reports_take_little_stack,
    a_threads_start_and_end_take_little_stack,
    exit_takes_little_stack,
    a_thread_with_the_smallest_stack_calls_exit,
    coroutines_of_four_kibibytes_allocate,
}
