//! Hooks: another preloaded library stands in the place of libc's calls to the kernel and allocates in each, loaded
//! before or after each lane's library.

mod harness;

use harness::compiler::Program;
use harness::run::Run;
use harness::{Lane, lists_every_case};

const PROGRAM: Program = Program::new("c/hooked.c").plugin("c/plugin/hooks.c");

fn passes_in_both_orders(lane: Lane, case: &str) {
    let (library, hooks) = (lane.library(), PROGRAM.build_plugin().expect("it has one"));
    for libraries in [[library.as_path(), hooks.as_path()], [hooks.as_path(), library.as_path()]] {
        Run::new(&PROGRAM).argument(case).preload_all(&libraries).finish().expect_success();
    }
}

macro_rules! in_both_orders {
    ($($case:ident),+ $(,)?) => {
        mod fast {
            $(#[test]
            fn $case() {
                super::passes_in_both_orders(super::Lane::Fast, stringify!($case));
            })+
        }
        mod scale {
            $(#[test]
            fn $case() {
                super::passes_in_both_orders(super::Lane::Scale, stringify!($case));
            })+
        }
        mod hardened {
            $(#[test]
            fn $case() {
                super::passes_in_both_orders(super::Lane::Hardened, stringify!($case));
            })+
        }
        #[test]
        fn every_case_of_the_program_is_run() {
            lists_every_case(&PROGRAM, &[$(stringify!($case)),+]);
        }
    };
}

in_both_orders!(
    four_threads_allocate_while_their_calls_allocate,
    one_thread_allocates_while_its_calls_allocate,
    blocks_pass_between_threads_while_calls_allocate,
);
