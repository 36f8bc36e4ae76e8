//! Hooks: another preloaded library stands in the place of libc's calls to the kernel and allocates in each, loaded
//! before or after each lane's library.

mod harness;

use harness::compiler::Program;
use harness::run::Run;
use harness::{Lane, lists_every_case};

fn passes_in_both_orders(program: &Program, lane: Lane, case: &str) {
    let (library, hooks) = (lane.library(), program.build_plugin().expect("it has one"));
    for libraries in [[library.as_path(), hooks.as_path()], [hooks.as_path(), library.as_path()]] {
        Run::new(program).argument(case).preload_all(&libraries).finish().expect_success();
    }
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
    ];
    forks, Program::new("c/fork_in_calls.c").plugin("c/plugin/calls.c") => [
        one_thread_forks_in_its_calls,
        threads_fork_in_their_calls_which_allocate,
        a_thread_forks_while_others_calls_allocate,
        a_fork_that_waits_for_a_purge_takes_no_processor_time,
    ];
}
