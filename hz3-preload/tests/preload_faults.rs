//! Fault injection: the system refuses the built libraries' calls for memory, every n-th or all from one on, in
//! each lane; see `c/faults.h` for how the calls are met.

mod harness;

use harness::compiler::Program;
use harness::{Lane, passes};

const PROGRAM: Program = Program::new("c/faults.c").flags(&["-rdynamic"]);

lane_tests! {
    PROGRAM => [
        one_thread_works,
        threads_come_and_go,
        a_process_forks,
        blocks_grow_and_shrink,
        the_process_starts_under_faults,
    ],
}

const FROM_START: [Program; 4] = [
    Program::new("c/faults.c").flags(&["-rdynamic", "-DFAULTS_FROM_START=1"]),
    Program::new("c/faults.c").flags(&["-rdynamic", "-DFAULTS_FROM_START=2"]),
    Program::new("c/faults.c").flags(&["-rdynamic", "-DFAULTS_FROM_START=3"]),
    Program::new("c/faults.c").flags(&["-rdynamic", "-DFAULTS_FROM_START=5"]),
];

#[test]
fn a_process_whose_first_calls_are_refused_works_in_the_fast_lane() {
    FROM_START.iter().for_each(|program| passes(Lane::Fast, program, "the_process_starts_under_faults"));
}

#[test]
fn a_process_whose_first_calls_are_refused_works_in_the_scale_lane() {
    FROM_START.iter().for_each(|program| passes(Lane::Scale, program, "the_process_starts_under_faults"));
}
