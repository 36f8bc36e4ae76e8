//! Left out: what test crates of hz3-preload run under an emulator, which is all but what is named here, with the reason.

/// A test crate of hz3-preload.
pub struct Tests {
    /// Its name.
    pub name: &'static str,
    /// With which pages CI runs it, in KiB; else only a filter that names it does.
    in_ci: &'static [usize],
    left_out: &'static [&'static [&'static str]],
    /// With larger pages besides.
    left_out_of_large_pages: &'static [&'static [&'static str]],
}

/// Those of most systems.
const USUAL_PAGES: usize = 4;

impl Tests {
    /// Whether CI runs it with pages of so many bytes, or the usual ones.
    pub fn is_in_ci(&self, large_pages: Option<usize>) -> bool {
        self.in_ci.contains(&large_pages.map_or(USUAL_PAGES, |bytes| bytes >> 10))
    }

    /// What is left out, as [`super::rust_checks::expect_all_but`] takes it.
    pub fn names(&self, large_pages: Option<usize>) -> Vec<&'static str> {
        let besides = large_pages.map_or(&[][..], |_| self.left_out_of_large_pages);
        self.left_out.iter().chain(besides).copied().flatten().copied().collect()
    }
}

/// Resident memory, page faults and mappings are the emulator's own as well.
const MEMORY: &[&str] = &[
    "a_block_that_shrinks_and_grows_again_keeps_its_pages",
    "blocks_that_grow_in_turn_move_pages_each_time",
    "calloc_touches_little_of_what_was_little_used",
    "cfree_frees",
    "mapped_bytes_are_what_the_system_counts",
    "only_so_many_blocks_have_mappings_of_their_own",
    "pages_move_once_from_a_run_to_a_mapping",
    "small_steps_move_pages_too",
    "sparse_blocks_take_no_memory",
];
/// The same of many threads.
const MEMORY_OF_THREADS: &[&str] = &[
    "a_trim_takes_what_threads_keep_while_they_rest",
    "many_threads_that_work_keep_little_in_sum",
    "three_hundred_live_threads_allocate",
    "two_thousand_live_threads_allocate",
    "what_threads_keep_while_they_rest_goes_after_a_while",
];

/// A hundred thousand mappings, twenty thousand threads: the emulator is killed, or takes minutes.
const MANY: &[&str] = &["a_hundred_thousand_mappings_are_told_apart"];
const MANY_THREADS: &[&str] = &["twenty_thousand_threads_one_after_another_leave_nothing_behind"];

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

/// Hangs with glibc's malloc too.
const IN_A_HANDLER: &[&str] = &["a_signal_handler_of_a_process_with_one_thread_forks"];

/// Takes a minute, in hardened more than two.
const SLOW: &[&str] = &["streams_are_flushed_while_others_read_and_fork"];

/// The emulator's vfork is a fork without handlers: locks of other threads stay taken in the child.
const VFORK: &[&str] = &["a_vfork_child_may_allocate_and_free"];

/// The emulator carries out no limit on address space.
const LIMITS: &[&str] = &[
    "a_handler_that_frees_memory_makes_the_request_succeed",
    "aligned_forms_of_small_alignments_succeed_after_the_handler",
];

/// Statistics at exit ask which pages are resident: qemu 7.2's `mincore` writes a byte for each page of 4 KiB, of whatever length
/// the program's are, past the end of what a program has for it, with glibc's malloc too.
const RESIDENT_PAGES: &[&str] = &["fast_observed::", "scale_observed::", "hardened_observed::"];

/// Of the 16 MiB that may stay resident the emulator takes 16.5 to 17.1 MB for itself; by its statistics hz3 holds nothing then.
const TRIMMED: &[&str] = &["malloc_trim_gives_free_memory_back"];

/// The emulator keeps what it translated of each: in 550 rounds 20 MB, with glibc's malloc too.
const LIBRARIES: &[&str] = &["libraries_that_allocate_come_and_go"];

const PROCESS: &[&[&str]] =
    &[MEMORY_OF_THREADS, MANY_THREADS, THREADS_OF_CHILDREN, EXECUTES_ITSELF, IN_A_HANDLER, SLOW, VFORK];

/// The crates that run.
pub const CRATES: [Tests; 5] = [
    Tests { name: "preload_abi", in_ci: &[], left_out: &[MEMORY, MANY], left_out_of_large_pages: &[TRIMMED] },
    // The compilers' default is C++17.
    Tests {
        name: "preload_cxx",
        in_ci: &[],
        left_out: &[&["default_standard::"], LIMITS],
        left_out_of_large_pages: &[],
    },
    Tests { name: "preload_misuse", in_ci: &[4, 64], left_out: &[], left_out_of_large_pages: &[] },
    Tests { name: "preload_process", in_ci: &[], left_out: PROCESS, left_out_of_large_pages: &[LIBRARIES] },
    Tests {
        name: "preload_stack",
        in_ci: &[],
        left_out: &[&["exit_takes_little_stack"]],
        left_out_of_large_pages: &[RESIDENT_PAGES],
    },
];
