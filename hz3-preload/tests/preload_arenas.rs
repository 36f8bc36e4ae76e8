//! Arenas: heaps that lie in many of them, under each lane's library.

mod harness;

use harness::Lane;
use harness::compiler::Program;
use harness::run::{Limit, Run};

const PROGRAM: Program = Program::new("c/arenas.c");
const LIMITED: Program = Program::new("c/arenas.c").limit(Limit::AddressSpace(4 << 30));

fn passes(lane: Lane, program: &Program, case: &str, variables: &[(&str, &str)]) {
    let run = variables.iter().fold(Run::new(program).argument(case), |run, (name, value)| run.variable(name, value));
    run.preload(&lane.library()).finish().expect_success();
}

macro_rules! arena_tests {
    ($($case:ident),+ $(,)?) => {
        arena_tests!(@lane fast, Fast, $($case),+);
        arena_tests!(@lane scale, Scale, $($case),+);
        arena_tests!(@lane hardened, Hardened, $($case),+);

        #[test]
        fn every_case_of_the_program_is_run() {
            harness::lists_every_case(&PROGRAM, &[$(stringify!($case)),+]);
        }
    };
    (@lane $module:ident, $lane:ident, $($case:ident),+) => {
        mod $module {
            mod in_small_arenas {
                $(
                    #[test]
                    fn $case() {
                        let size = [("HZ3_ARENA_SIZE", "4M")];
                        crate::passes(crate::Lane::$lane, &crate::PROGRAM, stringify!($case), &size);
                    }
                )+
            }
            mod in_limited_address_space {
                $(
                    #[test]
                    fn $case() {
                        crate::passes(crate::Lane::$lane, &crate::LIMITED, stringify!($case), &[]);
                    }
                )+
            }
        }
    };
}

arena_tests! {
    blocks_of_every_arena_are_freed_by_other_threads,
    misuse_is_noticed_in_every_arena,
    what_lies_between_the_arenas_is_no_block,
    addresses_that_are_not_used_cost_no_memory,
    a_heap_goes_round_what_is_in_the_way,
    a_heap_goes_on_elsewhere_if_there_is_no_way_round,
    threads_that_grow_at_once_get_blocks_of_their_own,
}
