//! System: kernels, emulators and sandboxes that refuse calls, know less than others, or answer as if they had done
//! what they have not, under each lane's library.

mod harness;

use harness::compiler::Program;
use harness::run::Run;
use harness::{Lane, any_malloc, lists_every_case, passes};

const LANES: [Lane; 3] = [Lane::Fast, Lane::Scale, Lane::Hardened];

const IGNORES_ADVICE: Program = Program::new("c/system.c");
const IGNORES_GUARDS: Program = Program::new("c/system.c").flags(&["-DSYSTEM=2"]);
const KNOWS_NO_GUARDS: Program = Program::new("c/system.c").flags(&["-DSYSTEM=3"]);
const REFUSES_ONCE: Program = Program::new("c/system.c").flags(&["-DSYSTEM=4"]);
const HAS_UNKNOWN_PAGES: Program = Program::new("c/system.c").flags(&["-DSYSTEM=5"]);

#[test]
fn every_case_of_the_program_is_run() {
    let cases = [
        "blocks_of_calloc_are_zero",
        "a_freed_large_block_and_the_end_of_a_live_one_fault",
        "guards_leave_three_quarters_of_the_mappings",
        "a_large_request_that_is_refused_costs_nothing",
        "ordinary_work_gets_done",
    ];
    lists_every_case(&IGNORES_ADVICE, &cases);
}

#[test]
fn blocks_of_calloc_are_zero_where_advice_is_ignored() {
    for lane in LANES {
        for program in [&IGNORES_ADVICE, &IGNORES_GUARDS, &KNOWS_NO_GUARDS] {
            for delay in ["0", "1000"] {
                Run::new(program)
                    .argument("blocks_of_calloc_are_zero")
                    .variable("HZ3_PURGE_DELAY_MS", delay)
                    .preload(&lane.library())
                    .finish()
                    .expect_success();
            }
        }
    }
}

#[test]
fn guards_fault_where_their_advice_is_ignored_or_unknown() {
    for program in [&IGNORES_GUARDS, &KNOWS_NO_GUARDS] {
        passes(Lane::Hardened, program, "a_freed_large_block_and_the_end_of_a_live_one_fault");
    }
}

#[test]
fn guards_leave_three_quarters_of_the_mappings() {
    for program in [&IGNORES_GUARDS, &KNOWS_NO_GUARDS] {
        passes(Lane::Hardened, program, "guards_leave_three_quarters_of_the_mappings");
    }
}

#[test]
fn a_large_request_that_is_refused_costs_nothing() {
    for lane in LANES {
        passes(lane, &REFUSES_ONCE, "a_large_request_that_is_refused_costs_nothing");
    }
}

#[test]
fn pages_of_unknown_length_are_one_line_and_an_exit() {
    if any_malloc() {
        return;
    }
    for lane in LANES {
        let outcome =
            Run::new(&HAS_UNKNOWN_PAGES).argument("ordinary_work_gets_done").preload(&lane.library()).finish();
        assert_eq!(outcome.status.and_then(|status| status.code()), Some(1), "{outcome}");
        assert_eq!(
            outcome.stderr, "hz3: this system has pages of 131072 bytes; hz3 works with 4096, 16384 and 65536\n",
            "{outcome}"
        );
    }
}

mod filtered {
    use super::*;
    lane_tests! {
        Program::new("c/filters.c") => [
            mprotect_may_be_refused,
            advice_may_be_refused,
            kinds_of_advice_may_be_refused,
            mappings_may_not_be_changed,
            others_may_be_refused,
            some_calls_kill,
        ],
    }
}
