//! The C interface: what POSIX, C23 and the glibc manual promise of every exported function, tried
//! by C programs under each lane's library.

mod harness;

use harness::Lane;
use harness::compiler::Program;
use harness::run::Run;

lane_tests! {
    Program::new("c/symbols.c") => [
        every_name_comes_from_the_preloaded_library,
        every_name_has_an_address_of_its_own,
        a_c_program_loads_no_cxx_runtime,
        operator_new_works_without_a_cxx_runtime,
        operator_new_aborts_without_a_cxx_runtime_and_without_memory,
    ],
    Program::new("c/malloc.c") => [
        malloc_of_zero_returns_distinct_blocks,
        malloc_beyond_every_limit_fails_with_enomem,
        what_exceeds_the_machine_is_refused_as_the_kernel_would,
        every_block_is_aligned_to_16_bytes,
        live_blocks_of_every_size_do_not_overlap,
        two_hundred_thousand_small_blocks_do_not_overlap,
        free_of_null_does_nothing,
        free_keeps_errno,
        freed_memory_is_used_again,
        blocks_from_libc_functions_can_be_freed,
    ],
    Program::new("c/calloc.c") => [
        calloc_fails_with_enomem_when_the_product_overflows,
        reallocarray_fails_with_enomem_when_the_product_overflows,
        calloc_of_zero_returns_distinct_blocks,
        calloc_is_zero_after_dirty_frees_of_the_same_size,
        calloc_is_zero_after_dirty_frees_of_other_sizes,
        calloc_is_zero_where_realloc_shrank_a_dirty_block,
        calloc_is_zero_after_a_trim,
        calloc_is_zero_after_dirty_frees_of_threads_that_ended,
        calloc_splits_its_product_in_any_way,
    ],
    Program::new("c/realloc.c") => [
        realloc_keeps_the_contents_from_every_size_class_to_every_other,
        realloc_of_null_is_malloc,
        realloc_to_zero_frees_and_returns_null,
        a_failed_realloc_leaves_the_block_alone,
        a_block_grown_byte_by_byte_keeps_its_contents,
        several_blocks_grown_in_turn_keep_their_contents,
        a_large_block_that_grows_and_shrinks_keeps_its_contents,
        an_aligned_block_keeps_its_contents_in_realloc,
        a_block_is_reallocated_by_another_thread,
    ],
    Program::new("c/alignment.c") => [
        posix_memalign_honours_every_power_of_two,
        aligned_alloc_honours_every_power_of_two,
        memalign_honours_every_power_of_two,
        valloc_and_pvalloc_align_to_the_page,
        live_aligned_blocks_do_not_overlap,
        posix_memalign_refuses_bad_alignments,
        posix_memalign_without_memory_says_so_in_errno_too_and_leaves_the_pointer,
        aligned_alloc_refuses_bad_alignments,
        memalign_refuses_or_rounds_up_bad_alignments,
        an_impossible_size_or_alignment_fails,
        freed_aligned_memory_is_used_again,
    ],
    Program::new("c/moves.c") => [
        blocks_that_grow_in_turn_move_pages_each_time,
        small_steps_move_pages_too,
        a_block_that_shrinks_and_grows_again_keeps_its_pages,
        pages_move_once_from_a_run_to_a_mapping,
        contents_are_kept_from_every_size_to_every_other,
        aligned_blocks_move_too,
        threads_move_blocks_while_others_fork,
        locked_memory_stays_locked,
        only_so_many_blocks_have_mappings_of_their_own,
        blocks_that_come_and_go_keep_their_memory_warm,
        a_hundred_thousand_mappings_are_told_apart,
    ],
    Program::new("c/large_blocks.c") => [
        a_mapping_that_comes_and_goes_is_touched_once,
        sizes_near_each_other_share_a_mapping,
        sparse_blocks_take_no_memory,
        what_is_missed_is_kept_from_then_on,
        one_long_block_goes_back_at_once,
        idle_mappings_go_back_while_little_is_allocated,
        a_kept_mapping_goes_back_in_pieces_as_others_take_memory,
        in_a_process_with_threads_idle_mappings_go_back_by_themselves,
        a_trim_gives_kept_mappings_back,
        kept_mappings_count_as_free,
        under_a_limit_kept_mappings_make_room,
        contents_are_kept_in_parts_of_mappings,
        a_forked_child_uses_what_was_kept,
        frames_through_a_queue_are_touched_once,
        large_blocks_that_churn_keep_their_memory,
        calloc_touches_little_of_what_was_little_used,
        calloc_keeps_the_memory_of_what_is_written_whole,
    ],
    Program::new("c/usable_size.c") => [
        usable_size_of_null_is_zero,
        every_usable_byte_can_be_written_without_harm_to_the_neighbours,
        every_usable_byte_is_kept_by_realloc,
        usable_size_covers_every_entry_point,
        small_requests_waste_at_most_an_eighth,
    ],
    Program::new("c/sized_free.c") => [
        free_sized_takes_blocks_of_every_size,
        free_aligned_sized_takes_blocks_of_every_alignment,
        cfree_frees,
        null_is_accepted_by_every_form,
    ],
    Program::new("c/private_names.c") => [
        blocks_pass_between_private_and_usual_names,
        private_names_fail_as_the_usual_ones,
    ],
    Program::new("c/introspection.c") => [
        malloc_trim_gives_free_memory_back,
        malloc_trim_leaves_live_blocks_alone,
        mallopt_answers_zero_or_one_and_changes_nothing_that_hurts,
        mallinfo2_follows_the_live_bytes,
        the_rows_of_a_quiet_process_add_up,
        other_threads_caches_are_not_live,
        mapped_bytes_are_what_the_system_counts,
        mallinfo_agrees_with_mallinfo2,
        malloc_stats_reports_on_stderr_only,
        malloc_info_writes_well_formed_xml,
        malloc_info_writes_to_the_stream_it_is_given,
        malloc_info_refuses_unknown_options,
        reports_work_while_other_threads_allocate,
    ],
}

#[test]
fn a_program_wraps_the_private_names() {
    for lane in [Lane::Fast, Lane::Scale, Lane::Hardened] {
        Run::new(&Program::new("c/wrapped.c")).preload(&lane.library()).finish().expect_success();
    }
}
