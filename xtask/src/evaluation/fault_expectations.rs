//! Fault expectations: what hz3 does about each fault of misuse_cases.c, by size and lane. The lanes for speed do the same.
//!
//! A step of the suite holds the lanes to it, in both directions: who makes hz3 notice more changes a line here.

use super::faults::Outcome::{self, Caught, Silent, Twice};
use crate::lane::Lane;

/// A fault's name and what is expected at the small, the medium and the large size.
pub type Expectations = [(&'static str, [Outcome; 3]); 14];

/// What is expected of `lane`.
pub fn expected_of(lane: Lane) -> &'static Expectations {
    match lane {
        Lane::Fast | Lane::Scale => &FOR_SPEED,
        Lane::Hardened => &HARDENED,
    }
}

static FOR_SPEED: Expectations = [
    ("no_fault", [Silent, Silent, Silent]),
    ("double_free_at_once", [Twice, Twice, Caught]),
    ("double_free_after_another", [Twice, Twice, Caught]),
    ("double_free_after_many", [Twice, Twice, Caught]),
    ("double_free_from_another_thread", [Twice, Twice, Caught]),
    ("free_of_an_interior_pointer", [Twice, Twice, Caught]),
    ("free_of_an_unaligned_pointer", [Twice, Silent, Caught]),
    ("free_of_a_stack_pointer", [Caught, Caught, Caught]),
    ("free_of_a_static_pointer", [Caught, Caught, Caught]),
    ("free_of_an_unmapped_pointer", [Caught, Caught, Caught]),
    ("realloc_of_a_freed_block", [Twice, Twice, Caught]),
    ("free_sized_with_a_wrong_size", [Silent, Silent, Silent]),
    ("overflow_into_the_neighbour", [Silent, Silent, Silent]),
    ("write_after_free", [Silent, Silent, Silent]),
];

static HARDENED: Expectations = [
    ("no_fault", [Silent, Silent, Silent]),
    ("double_free_at_once", [Caught, Caught, Caught]),
    ("double_free_after_another", [Caught, Caught, Caught]),
    ("double_free_after_many", [Caught, Caught, Caught]),
    ("double_free_from_another_thread", [Caught, Caught, Caught]),
    ("free_of_an_interior_pointer", [Caught, Caught, Caught]),
    ("free_of_an_unaligned_pointer", [Caught, Caught, Caught]),
    ("free_of_a_stack_pointer", [Caught, Caught, Caught]),
    ("free_of_a_static_pointer", [Caught, Caught, Caught]),
    ("free_of_an_unmapped_pointer", [Caught, Caught, Caught]),
    ("realloc_of_a_freed_block", [Caught, Caught, Caught]),
    ("free_sized_with_a_wrong_size", [Caught, Caught, Caught]),
    ("overflow_into_the_neighbour", [Caught, Silent, Silent]),
    ("write_after_free", [Caught, Caught, Silent]),
];
