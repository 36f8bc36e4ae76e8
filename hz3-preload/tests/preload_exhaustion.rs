//! Memory that runs out: limits on address space and data, from the start and set at run time, and
//! locked memory, under each lane's library.

mod harness;

use harness::compiler::Program;
use harness::run::Limit;

const MIB: u64 = 1 << 20;

/// Every case of the program, some of which write all the memory that the limit leaves.
macro_rules! exhaustion_tests {
    ($limit:expr) => {
        $crate::lane_tests! {
            Program::new("c/exhaustion.c").limit($limit) => [
                ordinary_work_gets_done,
                small_blocks_run_out_and_come_back,
                large_blocks_run_out_and_come_back,
                freed_memory_serves_every_other_size,
                a_failure_costs_small_blocks_no_cache_and_holds_until_memory_is_freed,
                every_entry_point_fails_with_enomem_when_nothing_is_left,
                threads_run_out_together_and_recover,
                a_thread_that_starts_when_nothing_is_left_survives,
                a_child_made_when_nothing_is_left_can_free_and_allocate,
            ],
        }
    };
}

mod in_64_mib_of_address_space {
    use super::*;
    exhaustion_tests!(Limit::AddressSpace(64 * MIB));
}

mod in_128_mib_of_address_space {
    use super::*;
    exhaustion_tests!(Limit::AddressSpace(128 * MIB));
}

mod in_64_mib_of_data {
    use super::*;
    exhaustion_tests!(Limit::Data(64 * MIB));
}

/// To write all of this much memory again and again would take too long: large blocks only.
mod in_1_gib_of_address_space {
    use super::*;
    use harness::{Lane, passes};

    const PROGRAM: Program = Program::new("c/exhaustion.c").limit(Limit::AddressSpace(1024 * MIB));

    #[test]
    fn ordinary_work_gets_done_in_the_fast_lane() {
        passes(Lane::Fast, &PROGRAM, "ordinary_work_gets_done");
    }

    #[test]
    fn ordinary_work_gets_done_in_the_scale_lane() {
        passes(Lane::Scale, &PROGRAM, "ordinary_work_gets_done");
    }

    #[test]
    fn large_blocks_run_out_and_come_back_in_the_fast_lane() {
        passes(Lane::Fast, &PROGRAM, "large_blocks_run_out_and_come_back");
    }

    #[test]
    fn large_blocks_run_out_and_come_back_in_the_scale_lane() {
        passes(Lane::Scale, &PROGRAM, "large_blocks_run_out_and_come_back");
    }
}

mod limited_at_run_time {
    use super::*;
    lane_tests! {
        Program::new("c/late_limit.c") => [
            a_long_block_finds_room_after_a_trim,
            malloc_fails_and_recovers_under_a_late_address_space_limit,
            malloc_fails_and_recovers_under_a_limit_below_the_present_size,
            malloc_fails_and_recovers_under_a_late_data_limit,
            what_is_freed_below_an_address_space_limit_is_there_for_others,
            what_is_freed_below_a_data_limit_is_there_for_others,
            requests_beyond_a_data_limit_leave_nothing_behind,
            threads_run_out_together_under_a_late_limit,
            the_program_s_own_calls_work_under_a_late_limit,
            nearly_all_that_a_late_limit_leaves_is_to_be_had,
            a_limit_that_is_raised_bit_by_bit_wears_nothing_out,
            what_is_mapped_is_little_more_than_what_is_used,
            what_is_mapped_shrinks_with_what_is_used,
            locked_memory_is_little_more_than_what_is_used,
            mlockall_before_allocation_locks_what_is_used,
            mlockall_after_allocation_locks_what_is_used,
        ],
    }
}

mod with_every_mapping_taken {
    use super::*;
    lane_tests! {
        Program::new("c/map_count.c") => [
            every_size_is_served_without_a_further_mapping,
            a_process_that_has_used_every_size_goes_on,
            blocks_grow_and_shrink_across_every_size,
            blocks_from_before_are_freed_and_their_memory_goes_back,
        ],
    }
}

/// The same where pieces of memory carry advice, which keeps unlike ones from growing into each other.
mod with_every_mapping_taken_and_advice {
    use super::*;
    use harness::Lane;
    use harness::run::Run;

    fn every_size_is_served(huge_pages: &str) {
        for lane in [Lane::Fast, Lane::Scale] {
            Run::new(&Program::new("c/map_count.c"))
                .argument("every_size_is_served_without_a_further_mapping")
                .variable("HZ3_THP", huge_pages)
                .preload(&lane.library())
                .finish()
                .expect_success();
        }
    }

    #[test]
    fn every_size_is_served_in_huge_pages() {
        every_size_is_served("1");
    }

    #[test]
    fn every_size_is_served_without_huge_pages() {
        every_size_is_served("0");
    }
}
