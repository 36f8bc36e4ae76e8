//! Random mixtures of all entry points in several threads that pass their blocks around, verified
//! byte by byte, under each lane's library. A failure shows the seed: set `HZ3_TEST_SEED` to it.

mod harness;

use harness::compiler::Program;

lane_tests! {
    Program::new("c/stress.c") => [
        threads_mix_every_entry_point_and_pass_blocks_around,
        short_lived_threads_mix_every_entry_point,
        some_threads_only_allocate_and_others_only_free,
    ],
}
