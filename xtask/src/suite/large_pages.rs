//! Large pages: programs under each lane on a system that says that its pages have 16 or 64 KiB. A library in libc's place says
//! so, maps at multiples of that, and stops a process where hz3 names a range that is not whole pages
//! (`tests/c/plugin/large_pages.c`).

use super::rust_checks::{Cases, expect_cases};
use super::session::Session;
use super::step::{Step, Stop};
use hz3::Lane;

/// Lengths in KiB.
const LENGTHS: [usize; 2] = [16, 64];

/// What divides memory, gives it back, guards it, or has a stack or a mapping of its own.
const CASES: [Cases; 7] = [
    (
        "preload_abi",
        "",
        &[
            "aligned_blocks_move_too",
            "blocks_from_libc_functions_can_be_freed",
            "blocks_that_grow_in_turn_move_pages_each_time",
            "calloc_is_zero_after_a_trim",
            "calloc_is_zero_after_dirty_frees_of_other_sizes",
            "calloc_is_zero_where_realloc_shrank_a_dirty_block",
            "live_blocks_of_every_size_do_not_overlap",
            "posix_memalign_honours_every_power_of_two",
            "the_rows_of_a_quiet_process_add_up",
            "valloc_and_pvalloc_align_to_the_page",
        ],
    ),
    ("preload_idle", "", &["a_process_that_only_hits_shrinks", "a_process_that_sleeps_shrinks"]),
    (
        "preload_misuse",
        "",
        &[
            "double_free_of_a_large_block",
            "double_free_of_a_mapped_block",
            "double_free_of_a_small_block_that_goes_home",
            "free_inside_a_large_block",
            "free_inside_a_medium_block_that_goes_home",
            "realloc_of_a_freed_large_block",
        ],
    ),
    (
        "preload_process",
        "",
        &[
            "blocks_outlive_the_thread_that_took_them",
            "children_of_a_threaded_process_allocate_and_free_its_blocks",
            "many_children_live_at_once",
        ],
    ),
    ("preload_regions", "", &["blocks_of_every_size_come_and_go", "memory_of_a_region_goes_back"]),
    ("preload_stack", "", &["reports_take_little_stack"]),
    ("preload_stress", "", &["several_threads_trim_while_others_come_and_go"]),
];

/// One step for each length and lane.
pub fn steps() -> Vec<Step> {
    let each = |length| {
        Lane::ALL.map(move |lane| {
            Step::new(format!("large-pages/{length}k/{lane}"), move |session| programs_pass(session, lane, length))
        })
    };
    LENGTHS.into_iter().flat_map(each).collect()
}

fn programs_pass(session: &mut Session, lane: Lane, length: usize) -> Result<(), Stop> {
    let folder = session.folder_of_libraries()?;
    expect_cases(session, lane, &folder, &CASES, |command| {
        command.env("PRELOAD_TEST_PAGES", length.to_string());
    })
}
