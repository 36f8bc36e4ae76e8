//! Random mixtures of all entry points in several threads that pass their blocks around, verified
//! byte by byte, and trims while threads are at work, under each lane's library. A failure shows the seed: set `PRELOAD_TEST_SEED` to it.

mod harness;

use harness::compiler::Program;

lane_tests! {
    Program::new("c/stress.c") => [
        threads_mix_every_entry_point_and_pass_blocks_around,
        short_lived_threads_mix_every_entry_point,
        some_threads_only_allocate_and_others_only_free,
    ],
    Program::new("c/trim.c") => [
        one_thread_trims_while_eight_allocate_and_free,
        several_threads_trim_while_others_come_and_go,
        children_are_forked_while_a_thread_trims,
        threads_give_their_caches_up_when_they_next_look,
    ],
}
