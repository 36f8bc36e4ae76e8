//! The C++ interface: every form of operator new and delete, new-handlers, exceptions, objects with
//! static and thread lifetime, and the containers, under each lane's library; compiled with the
//! compiler's own standard, with C++17, and with the runtime linked statically.

mod harness;

use harness::compiler::Program;

macro_rules! cxx_tests {
    ($flags:expr) => {
        $crate::lane_tests! {
            Program::new("cpp/operators.cpp").flags($flags) => [
                every_operator_comes_from_the_preloaded_library,
                plain_forms_pair_with_every_delete,
                array_forms_pair_with_every_delete,
                aligned_forms_pair_with_every_delete,
                new_of_nothing_returns_distinct_blocks,
                throwing_forms_throw_bad_alloc,
                nothrow_forms_return_null,
                delete_of_null_does_nothing,
                over_aligned_types_are_aligned,
            ],
            Program::new("cpp/new_handler.cpp").flags($flags) => [
                the_handler_is_called_until_it_removes_itself,
                the_handlers_exception_reaches_the_caller,
                a_handler_that_throws_makes_the_nothrow_forms_return_null,
                without_a_handler_bad_alloc_is_thrown_at_once,
                malloc_never_calls_the_handler,
                a_handler_that_frees_memory_makes_the_request_succeed,
                aligned_forms_of_small_alignments_succeed_after_the_handler,
                threads_call_the_handler_at_once,
            ],
            Program::new("cpp/exceptions.cpp").flags($flags) => [
                bad_alloc_unwinds_through_frames_that_own_memory,
                a_constructor_that_throws_gives_its_memory_back,
                containers_survive_a_failed_request,
                exceptions_travel_between_threads,
                threads_throw_at_once,
            ],
            Program::new("cpp/lifetime.cpp").flags($flags) => [
                static_objects_allocate_before_and_after_main,
                thread_locals_allocate_at_the_start_and_the_end_of_a_thread,
                a_thread_local_destructor_makes_another_thread_local,
                detached_threads_own_thread_locals_when_main_returns,
            ],
            Program::new("cpp/containers.cpp").flags($flags) => [
                threads_fill_containers_of_every_kind,
                threads_sort_and_format,
                messages_pass_between_threads,
                futures_bring_results_back,
                shared_and_over_aligned_objects_are_shared,
            ],
        }
    };
}

mod default_standard {
    use super::*;
    cxx_tests!(&[]);
}

mod cxx17 {
    use super::*;
    cxx_tests!(&["-std=c++17"]);
}

/// Such a program brings operator new itself and takes only malloc from hz3.
mod static_runtime {
    use super::*;
    lane_tests! {
        Program::new("cpp/exceptions.cpp").flags(&["-static-libstdc++", "-static-libgcc"]) => [
            bad_alloc_unwinds_through_frames_that_own_memory,
            a_constructor_that_throws_gives_its_memory_back,
            containers_survive_a_failed_request,
            exceptions_travel_between_threads,
            threads_throw_at_once,
        ],
    }
}

mod c_program {
    use super::*;
    lane_tests! {
        Program::new("c/cxx_library.c").plugin("cpp/plugin/failing.cpp") => [
            bad_alloc_reaches_a_cxx_library_of_a_c_program,
        ],
    }
}
