//! Misuse: a pointer that is not a live block stops the process, with one line on standard error
//! that names the function, the fault and the pointer, and SIGABRT: what every lane promises, and what the hardened one does besides.

mod harness;

use harness::compiler::Program;
use harness::run::Run;
use harness::{Lane, any_malloc};
use std::os::unix::process::ExitStatusExt;

const PROGRAM: Program = Program::new("c/misuse.c");

/// Panics unless the case dies as a fault of `function` that names the case's pointer.
fn is_caught(lane: Lane, case: &str, function: &str) {
    let outcome = Run::new(&PROGRAM).argument(case).preload(&lane.library()).finish();
    let died_of = outcome.status.and_then(|status| status.signal());
    assert_eq!(died_of, Some(libc::SIGABRT), "not aborted: {outcome}");
    let pointer = outcome
        .stdout
        .strip_prefix("pointer ")
        .and_then(|text| text.strip_suffix('\n'))
        .unwrap_or_else(|| panic!("the program announced no pointer: {outcome}"));
    if any_malloc() {
        return;
    }
    let line =
        outcome.own_stderr().strip_suffix('\n').unwrap_or_else(|| panic!("no whole line on standard error: {outcome}"));
    assert!(!line.contains('\n'), "more than one line: {outcome}");
    assert!(line.starts_with("hz3: "), "not hz3's line: {outcome}");
    assert!(line.contains(function), "no {function}: {outcome}");
    let named = line.split(|character: char| !character.is_ascii_alphanumeric()).any(|word| word == pointer);
    assert!(named, "the line does not name {pointer}: {outcome}");
    assert!(!line.contains("c/misuse.c"), "a check of the program failed: {outcome}");
}

macro_rules! misuse_tests {
    (
        every_lane: { $($function:literal => [$($case:ident),+ $(,)?]),+ $(,)? },
        hardened: { $($hardened_function:literal => [$($hardened_case:ident),+ $(,)?]),+ $(,)? } $(,)?
    ) => {
        mod fast {
            use super::*;
            $($(
                #[test]
                fn $case() {
                    is_caught(Lane::Fast, stringify!($case), $function);
                }
            )+)+
        }
        mod scale {
            use super::*;
            $($(
                #[test]
                fn $case() {
                    is_caught(Lane::Scale, stringify!($case), $function);
                }
            )+)+
        }
        mod hardened {
            use super::*;
            $($(
                #[test]
                fn $case() {
                    is_caught(Lane::Hardened, stringify!($case), $function);
                }
            )+)+
            $($(
                #[test]
                fn $hardened_case() {
                    is_caught(Lane::Hardened, stringify!($hardened_case), $hardened_function);
                }
            )+)+
        }
        #[test]
        fn every_case_of_the_program_is_run() {
            harness::lists_every_case(
                &PROGRAM,
                &[$($(stringify!($case)),+),+, $($(stringify!($hardened_case)),+),+],
            );
        }
    };
}

misuse_tests! {
    every_lane: {
        "free(): invalid pointer" => [
            free_of_a_stack_pointer,
            free_of_a_static_pointer,
            free_of_an_unmapped_pointer,
            free_of_a_small_number,
            free_of_text,
            free_of_the_highest_address,
            free_of_a_mapping_of_the_program,
            free_inside_a_small_block_that_goes_home,
            free_inside_a_medium_block_that_goes_home,
            free_of_an_unaligned_pointer_that_goes_home,
            free_inside_a_large_block,
            free_of_an_unaligned_pointer_into_a_large_block,
            double_free_of_a_mapped_block,
        ],
        "free(): double free of" => [
            double_free_of_a_small_block_that_goes_home,
            double_free_of_a_medium_block_that_goes_home,
            a_handler_of_the_abort_allocates,
        ],
        "free(): double free or invalid pointer" => [
            double_free_of_a_large_block,
        ],
        "realloc(): double free or invalid pointer" => [
            realloc_of_a_freed_large_block,
        ],
        "realloc(): invalid pointer" => [
            realloc_inside_a_small_block,
            realloc_inside_a_big_block,
            realloc_of_a_stack_pointer,
        ],
        "malloc_usable_size(): invalid pointer" => [
            usable_size_inside_a_block,
        ],
    },
    hardened: {
        "free()" => [free_inside_a_block_then_many_frees],
        "free(): double free of" => [
            double_free_of_a_tiny_block,
            double_free_of_a_small_block,
            double_free_of_a_medium_block,
            double_free_of_a_big_block,
            double_free_of_a_block_never_written,
            double_free_of_a_reused_block,
            double_free_of_an_aligned_block,
            double_free_of_a_zeroed_block,
            double_free_of_what_realloc_left,
            double_free_interleaved_of_a_tiny_block,
            double_free_interleaved_of_a_small_block,
            double_free_interleaved_of_a_big_block,
            double_free_after_hundreds_of_tiny_blocks,
            double_free_after_hundreds_of_small_blocks,
            double_free_after_hundreds_of_big_blocks,
            double_free_of_a_block_at_home,
            double_free_by_another_thread_of_a_small_block,
            double_free_by_another_thread_of_a_big_block,
            double_free_of_what_another_thread_freed,
            double_free_of_blocks_in_depots,
            double_free_after_reuse_of_a_small_block,
            double_free_after_reuse_of_a_big_block,
        ],
        "free(): double free or invalid pointer" => [
            double_free_after_reuse_of_a_large_block,
        ],
        "free(): overflow past" => [
            overflow_of_a_tiny_block,
            overflow_of_a_small_block,
            overflow_of_a_small_block_with_room,
            overflow_of_a_medium_block,
            overflow_of_a_big_block,
            overflow_of_a_large_block,
            overflow_of_a_mapped_block,
            overflow_of_an_empty_block,
            overflow_found_by_free_sized,
            overflow_after_realloc_in_place,
        ],
        "realloc(): overflow past" => [
            overflow_found_by_realloc_of_a_small_block,
            overflow_found_by_realloc_of_a_large_block,
        ],
        "malloc(): write after free to" => [
            write_after_free_to_a_tiny_block,
            write_after_free_to_a_small_block,
            write_after_free_to_the_mark_of_a_small_block,
            write_after_free_to_a_medium_block,
            write_after_free_to_a_big_block,
            write_after_free_to_a_block_at_home,
        ],
        "free(): write after free to" => [
            write_after_free_to_a_block_whose_span_is_given_up,
        ],
        "free(): invalid pointer" => [
            free_inside_a_small_block_at_once,
            free_inside_a_big_block_at_once,
        ],
        "free(): wrong size for" => [
            free_sized_of_more_than_a_small_block,
            free_sized_of_less_than_a_medium_block,
            free_sized_of_more_than_a_large_block,
            free_sized_of_one_byte_less,
            free_sized_of_less_than_a_large_block,
            free_aligned_sized_of_more_than_a_block,
            sized_delete_of_more_than_a_block,
        ],
        "realloc(): use after free of" => [
            realloc_of_a_freed_small_block,
            realloc_of_a_freed_small_block_in_place,
            realloc_of_a_freed_big_block,
        ],
        "malloc_usable_size(): invalid pointer" => [
            usable_size_of_a_freed_block,
        ],
    },
}
