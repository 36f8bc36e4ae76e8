//! Fault expectations: what hz3 does about each fault of misuse_cases.c, by size and lane. The lanes for speed
//! do the same.
//!
//! A step of the suite holds the lanes to it, in both directions: who makes hz3 notice more changes a line here.

use crate::fault_outcome::Outcome;
use hz3::Lane;

/// A fault's name and what is expected at the small, the medium and the large size: one of the outcomes there.
pub type Expectations = [(&'static str, [&'static [Outcome]; 3]); 18];

const CAUGHT: &[Outcome] = &[Outcome::Caught];
const TWICE: &[Outcome] = &[Outcome::Twice];
const SILENT: &[Outcome] = &[Outcome::Silent];
/// A fault of the processor, at a page without access.
const CRASH: &[Outcome] = &[Outcome::Crash];
/// By its canary, or by the guard page before that, where the block lies near its span's end.
const CAUGHT_OR_CRASH: &[Outcome] = &[Outcome::Caught, Outcome::Crash];

/// Noticed where the block's span is being vacated by then: that depends on the spans taken, and on time.
const TWICE_OR_CAUGHT: &[Outcome] = &[Outcome::Twice, Outcome::Caught];

/// What is expected of `lane`.
pub fn expected_of(lane: Lane) -> &'static Expectations {
    match lane {
        Lane::Fast | Lane::Scale => &FOR_SPEED,
        Lane::Hardened => &HARDENED,
    }
}

static FOR_SPEED: Expectations = [
    ("no_fault", [SILENT, SILENT, SILENT]),
    ("double_free_at_once", [TWICE, TWICE, CAUGHT]),
    ("double_free_after_another", [TWICE, TWICE, CAUGHT]),
    ("double_free_after_many", [TWICE, TWICE_OR_CAUGHT, CAUGHT]),
    ("double_free_from_another_thread", [TWICE, TWICE, CAUGHT]),
    ("free_of_an_interior_pointer", [TWICE, TWICE, CAUGHT]),
    ("free_of_an_unaligned_pointer", [TWICE, SILENT, CAUGHT]),
    ("free_of_a_stack_pointer", [CAUGHT, CAUGHT, CAUGHT]),
    ("free_of_a_static_pointer", [CAUGHT, CAUGHT, CAUGHT]),
    ("free_of_an_unmapped_pointer", [CAUGHT, CAUGHT, CAUGHT]),
    ("realloc_of_a_freed_block", [TWICE, TWICE, CAUGHT]),
    ("free_sized_with_a_wrong_size", [SILENT, SILENT, SILENT]),
    ("overflow_into_the_neighbour", [SILENT, SILENT, SILENT]),
    ("overflow_by_one_byte", [SILENT, SILENT, SILENT]),
    ("overflow_by_a_page", [SILENT, SILENT, SILENT]),
    ("write_after_free", [SILENT, SILENT, SILENT]),
    ("use_after_free_shortly_after", [SILENT, SILENT, SILENT]),
    ("double_free_after_reuse", [TWICE, TWICE, TWICE]),
];

static HARDENED: Expectations = [
    ("no_fault", [SILENT, SILENT, SILENT]),
    ("double_free_at_once", [CAUGHT, CAUGHT, CAUGHT]),
    ("double_free_after_another", [CAUGHT, CAUGHT, CAUGHT]),
    ("double_free_after_many", [CAUGHT, CAUGHT, CAUGHT]),
    ("double_free_from_another_thread", [CAUGHT, CAUGHT, CAUGHT]),
    ("free_of_an_interior_pointer", [CAUGHT, CAUGHT, CAUGHT]),
    ("free_of_an_unaligned_pointer", [CAUGHT, CAUGHT, CAUGHT]),
    ("free_of_a_stack_pointer", [CAUGHT, CAUGHT, CAUGHT]),
    ("free_of_a_static_pointer", [CAUGHT, CAUGHT, CAUGHT]),
    ("free_of_an_unmapped_pointer", [CAUGHT, CAUGHT, CAUGHT]),
    ("realloc_of_a_freed_block", [CAUGHT, CAUGHT, CAUGHT]),
    ("free_sized_with_a_wrong_size", [CAUGHT, CAUGHT, CAUGHT]),
    ("overflow_into_the_neighbour", [CAUGHT, CAUGHT, CRASH]),
    ("overflow_by_one_byte", [CAUGHT, CAUGHT, CRASH]),
    ("overflow_by_a_page", [CAUGHT_OR_CRASH, CAUGHT_OR_CRASH, CRASH]),
    ("write_after_free", [CAUGHT, CAUGHT, CRASH]),
    ("use_after_free_shortly_after", [CAUGHT, CAUGHT, CRASH]),
    ("double_free_after_reuse", [CAUGHT, CAUGHT, CAUGHT]),
];
