//! Functions replaced in part: by the program, or by a library that is preloaded before or after each lane's. What is
//! made of a replaced function goes on in it.

mod harness;

use harness::compiler::Program;
use harness::run::Run;
use harness::{Lane, lists_every_case};

const LANES: [Lane; 3] = [Lane::Fast, Lane::Scale, Lane::Hardened];

macro_rules! operators {
    ($($module:ident: $($flag:literal)+;)+) => {$(
        mod $module {
            use super::*;
            lane_tests! {
                Program::new("cpp/replaced.cpp").flags(&["-std=c++17", $($flag),+]) => [
                    every_form_calls_what_was_replaced,
                    every_aligned_form_calls_what_was_replaced,
                    what_a_replaced_form_throws_passes_or_becomes_null,
                    what_exceeds_every_heap_is_refused_by_the_forms_left,
                    objects_containers_and_algorithms_find_their_heap,
                ],
            }
        }
    )+};
}

operators! {
    plain: "-DREPLACED=REPLACED_PLAIN";
    plain_without_sizes: "-DREPLACED=REPLACED_PLAIN" "-fno-sized-deallocation";
    arrays: "-DREPLACED=REPLACED_ARRAY";
    aligned: "-DREPLACED=REPLACED_ALIGNED";
    aligned_arrays: "-DREPLACED=REPLACED_ALIGNED_ARRAY";
    nothrow: "-DREPLACED=REPLACED_NOTHROW";
    all: "-DREPLACED=(REPLACED_PLAIN|REPLACED_ARRAY|REPLACED_ALIGNED|REPLACED_ALIGNED_ARRAY)";
}

/// Runs every case with the program's plug-in preloaded before and after each lane's library.
fn passes_in_both_orders(program: &Program, cases: &[&str]) {
    lists_every_case(program, cases);
    let other = program.build_plugin().expect("it has one");
    for lane in LANES {
        let library = lane.library();
        for libraries in [[other.as_path(), library.as_path()], [library.as_path(), other.as_path()]] {
            for case in cases {
                // Before hz3's, the other library's malloc is the process's.
                let run = Run::new(program).argument(case).preload_all(&libraries);
                run.variable("PRELOAD_TEST_ANY_MALLOC", "1").finish().expect_success();
            }
        }
    }
}

#[test]
fn a_preloaded_library_replaces_operators() {
    passes_in_both_orders(
        &Program::new("cpp/replaced.cpp").flags(&["-std=c++17"]).plugin("cpp/plugin/operators.cpp"),
        &[
            "every_form_calls_what_was_replaced",
            "every_aligned_form_calls_what_was_replaced",
            "what_a_replaced_form_throws_passes_or_becomes_null",
            "what_exceeds_every_heap_is_refused_by_the_forms_left",
            "objects_containers_and_algorithms_find_their_heap",
        ],
    );
}

#[test]
fn a_preloaded_library_replaces_the_basic_c_functions() {
    passes_in_both_orders(
        &Program::new("c/compound.c").plugin("c/plugin/heap.c"),
        &[
            "further_functions_give_blocks_that_free_takes",
            "further_functions_take_blocks_that_malloc_gives",
            "further_functions_still_check_what_they_are_asked",
            "operators_pair",
        ],
    );
}
