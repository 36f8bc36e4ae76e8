//! Processes and threads: fork, exit, thread start and end, loading and unloading, signals, in
//! programs whose threads allocate all the time, under each lane's library.

mod harness;

use harness::compiler::Program;
use harness::run::Run;
use harness::{Lane, lists_every_case};

lane_tests! {
    Program::new("c/constructors.c") => [constructors_and_destructors_allocate],
    Program::new("c/fork.c") => [
        children_of_a_threaded_process_allocate_and_free_its_blocks,
        children_of_a_threaded_process_start_threads,
        several_threads_fork_at_once,
        children_fork_children_of_their_own,
        many_children_live_at_once,
        a_child_has_room_that_its_parents_threads_left,
        a_vfork_child_executes_a_program,
        a_vfork_child_may_allocate_and_free,
        programs_are_spawned_by_a_threaded_process,
        a_signal_handler_of_a_process_with_one_thread_forks,
        streams_are_flushed_while_others_read_and_fork,
    ],
    Program::new("c/atfork.c") => [
        handlers_of_every_stage_allocate,
        hundreds_of_handlers_allocate,
        a_handler_in_the_child_starts_a_thread,
        a_handler_forks_in_turn,
    ],
    Program::new("c/threads.c") => [
        blocks_outlive_the_thread_that_took_them,
        twenty_thousand_threads_one_after_another_leave_nothing_behind,
        detached_threads_start_one_another,
        three_hundred_live_threads_allocate,
        two_thousand_live_threads_allocate,
        threads_with_the_smallest_stack_allocate,
        allocation_is_no_cancellation_point,
        cancelled_threads_free_in_their_cleanup_handlers,
    ],
    Program::new("c/keys.c") => [
        destructors_allocate_and_free,
        destructors_allocate_and_free_in_every_round,
        a_thread_first_allocates_in_a_destructor,
        a_destructor_that_never_stops_does_no_harm,
    ],
    Program::new("c/exit.c").plugin("c/plugin/at_exit.c") => [
        exit_is_called_while_threads_allocate,
        exit_is_called_by_a_thread_while_others_allocate,
        the_main_thread_ends_before_the_others,
        quick_exit_runs_handlers_that_allocate,
        main_returns_while_detached_threads_allocate,
        exit_handlers_allocate,
        a_destructor_that_runs_last_forks,
        a_background_thread_does_not_outlive_the_others,
    ],
    Program::new("c/libraries.c").plugin("c/plugin/allocating.c") => [
        libraries_that_allocate_come_and_go,
        libraries_come_and_go_while_threads_allocate,
        a_missing_library_is_refused,
    ],
    Program::new("c/resting.c") => [
        what_threads_keep_while_they_rest_goes_after_a_while,
        a_trim_takes_what_threads_keep_while_they_rest,
        many_threads_that_work_keep_little_in_sum,
        trims_beside_threads_at_full_speed_disturb_nothing,
        forks_beside_trims_disturb_nothing,
        threads_that_are_stopped_in_the_middle_of_a_call_lose_nothing_they_use,
    ],
    Program::new("c/signals.c") => [
        alarms_at_a_high_rate_disturb_nothing,
        signals_to_every_allocating_thread_disturb_nothing,
        handlers_on_an_alternate_stack_disturb_nothing,
        a_stopped_and_continued_process_goes_on,
    ],
}

#[test]
fn hz3_loaded_late_and_closed_again_is_harmless() {
    Run::new(&Program::new("c/late_load.c"))
        .argument(Lane::Fast.library())
        .argument(Lane::Scale.library())
        .finish()
        .expect_success();
}

#[test]
fn a_statically_linked_program_is_unaffected() {
    let program = Program::new("c/static_program.c").flags(&["-static", "-fno-pie"]);
    for lane in [Lane::Fast, Lane::Scale] {
        Run::new(&program).preload(&lane.library()).finish().expect_success();
    }
}

const DEEPBIND: Program = Program::new("c/deepbind.c")
    .flags(&["-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN/deepbind"])
    .plugin("c/plugin/deep_bound.c");

#[test]
fn deep_bound_libraries_share_the_heap() {
    let cases = [
        "blocks_pass_to_and_from_a_deep_bound_library",
        "the_callers_paths_are_searched",
        "what_is_not_there_is_refused",
        "threads_open_at_once",
    ];
    let kept = "the_flag_is_kept_on_request";
    let folder = DEEPBIND.build().with_file_name("deepbind");
    std::fs::create_dir_all(folder).expect("cargo's folder for tests is writable");
    lists_every_case(&DEEPBIND, &[&cases[..], &[kept]].concat());
    for lane in [Lane::Fast, Lane::Scale, Lane::Hardened] {
        for case in cases {
            Run::new(&DEEPBIND).argument(case).preload(&lane.library()).finish().expect_success();
        }
        let run = Run::new(&DEEPBIND).argument(kept).preload(&lane.library());
        run.variable("HZ3_DEEPBIND", "keep").finish().expect_success();
    }
}
