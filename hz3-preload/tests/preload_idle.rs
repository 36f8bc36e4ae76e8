//! Idle: freed memory goes back in processes that only hit, sleep or poll, by their own doing or by a thread of the
//! library's, in each lane.

mod harness;

use harness::compiler::Program;

lane_tests! {
    Program::new("c/idle.c") => [
        a_process_that_only_hits_shrinks,
        a_process_that_trickles_shrinks,
        a_process_that_sleeps_shrinks,
        small_blocks_freed_in_a_random_order_leave_little,
        few_long_blocks_leave_little,
        what_is_taken_again_at_once_stays,
        a_process_with_one_thread_stays_so,
        a_process_whose_threads_poll_shrinks,
        little_memory_needs_no_helper,
        a_helper_without_work_never_wakes,
        a_helper_ends_once_one_thread_is_left,
        a_child_has_one_thread_until_it_starts_others,
        a_process_ends_although_it_has_a_helper,
        a_filter_may_refuse_the_helper,
        no_helper_is_started_where_none_may_be,
    ],
}
