//! Left out: what test crates of hz3-preload run under an emulator, which is all but what is named here, with the reason.

/// A test crate of hz3-preload.
pub struct Tests {
    /// Its name.
    pub name: &'static str,
    /// Whether CI runs it; else only a filter that names it does.
    pub is_in_ci: bool,
    left_out: &'static [&'static [&'static str]],
}

impl Tests {
    /// What is left out, as [`super::rust_checks::expect_all_but`] takes it.
    pub fn names(&self) -> Vec<&'static str> {
        self.left_out.iter().copied().flatten().copied().collect()
    }
}

/// Resident memory and page faults are the emulator's own: it keeps a record of each page of an arena, and compiled code.
const MEMORY: &[&str] = &[
    "a_block_that_shrinks_and_grows_again_keeps_its_pages",
    "a_kept_mapping_goes_back_in_pieces_as_others_take_memory",
    "blocks_that_grow_in_turn_move_pages_each_time",
    "calloc_touches_little_of_what_was_little_used",
    "cfree_frees",
    "freed_aligned_memory_is_used_again",
    "freed_memory_is_used_again",
    "idle_mappings_go_back_while_little_is_allocated",
    "in_a_process_with_threads_idle_mappings_go_back_by_themselves",
    "malloc_trim_gives_free_memory_back",
    "mapped_bytes_are_what_the_system_counts",
    "pages_move_once_from_a_run_to_a_mapping",
    "realloc_to_zero_frees_and_returns_null",
    "small_steps_move_pages_too",
    "sparse_blocks_take_no_memory",
];

/// A hundred thousand mappings take the emulator more than a minute.
const MANY_MAPPINGS: &[&str] = &["a_hundred_thousand_mappings_are_told_apart"];

/// Threads that start in a child of a threaded process: an assertion of qemu 7.2's fails, with glibc's malloc too.
const THREADS_OF_CHILDREN: &[&str] = &[
    "a_handler_forks_in_turn",
    "a_handler_in_the_child_starts_a_thread",
    "children_fork_children_of_their_own",
    "children_of_a_threaded_process_start_threads",
    "several_threads_fork_at_once",
];

/// The program executes itself, which executes the emulator, without a program: with glibc's malloc too.
const EXECUTES_ITSELF: &[&str] = &["a_background_thread_does_not_outlive_the_others"];

/// Not finished after 40 seconds with glibc's malloc on a busy machine, or a measure of what threads keep.
const LONG: &[&str] = &[
    "a_signal_handler_of_a_process_with_one_thread_forks",
    "a_trim_takes_what_threads_keep_while_they_rest",
    "a_vfork_child_may_allocate_and_free",
    "detached_threads_start_one_another",
    "many_threads_that_work_keep_little_in_sum",
    "programs_are_spawned_by_a_threaded_process",
    "streams_are_flushed_while_others_read_and_fork",
    "three_hundred_live_threads_allocate",
    "threads_that_are_stopped_in_the_middle_of_a_call_lose_nothing_they_use",
    "twenty_thousand_threads_one_after_another_leave_nothing_behind",
    "two_thousand_live_threads_allocate",
    "what_threads_keep_while_they_rest_goes_after_a_while",
];

/// The crates that run.
pub const CRATES: [Tests; 5] = [
    Tests { name: "preload_abi", is_in_ci: false, left_out: &[MEMORY, MANY_MAPPINGS] },
    // The compilers' default is C++17.
    Tests { name: "preload_cxx", is_in_ci: false, left_out: &[&["default_standard::"]] },
    Tests { name: "preload_misuse", is_in_ci: true, left_out: &[] },
    Tests { name: "preload_process", is_in_ci: false, left_out: &[THREADS_OF_CHILDREN, EXECUTES_ITSELF, LONG] },
    Tests { name: "preload_stack", is_in_ci: false, left_out: &[&["exit_takes_little_stack"]] },
];
