//! Regions under each lane's library: contents, limits, threads, forks, what is left of them, and misuse. And the example of
//! docs/c.md.

mod harness;

use harness::compiler::Program;
use harness::run::Run;
use harness::{Lane, any_malloc, lists_every_case};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

lane_tests! {
    Program::new("c/regions.c") => [
        blocks_of_every_size_come_and_go,
        what_is_asked_for_wrongly_is_refused,
        a_limit_is_met_and_left_again,
        threads_fill_a_region_to_its_limit,
        children_inherit_a_busy_region,
        a_hundred_thousand_regions_leave_nothing,
        ten_thousand_empty_regions_take_little,
        all_statistics_have_rows_of_regions,
        memory_of_a_region_goes_back,
    ],
}

const MISUSE: Program = Program::new("c/region_misuse.c");

/// Cases, and what the line on standard error says of the pointer, in every lane.
const EVERY_LANE: [(&str, &str); 12] = [
    ("a_small_block_is_freed_twice", "free(): double free of"),
    ("a_small_block_is_freed_twice_through_its_region", "hz3_region_free(): double free of"),
    ("a_large_block_is_freed_twice", "free(): double free or invalid pointer"),
    ("a_pointer_into_a_small_block_is_freed", "free(): invalid pointer"),
    ("a_plain_block_is_freed_through_a_region", "hz3_region_free(): not a block of the region:"),
    ("a_block_is_freed_through_no_region", "hz3_region_free(): no region for"),
    ("a_block_is_freed_through_another_region", "hz3_region_free(): not a block of the region:"),
    ("a_large_block_is_freed_through_another_region", "hz3_region_free(): not a block of the region:"),
    ("a_plain_block_is_resized_in_a_region", "hz3_region_realloc(): not a block of the region:"),
    ("a_freed_block_is_resized", "realloc(): use after free of"),
    ("a_destroyed_region_is_asked", "hz3_region_malloc(): destroyed region"),
    ("a_region_is_destroyed_twice", "hz3_region_destroy(): destroyed region"),
];
const HARDENED: [(&str, &str); 4] = [
    ("a_small_block_overflows", "free(): overflow past"),
    ("a_large_block_overflows", "free(): overflow past"),
    ("a_freed_block_is_written_to", "malloc(): write after free to"),
    ("a_block_of_a_span_that_is_given_up_is_written_to", "free(): write after free to"),
];

#[test]
fn misuse_of_regions_stops_the_process() {
    let names: Vec<&str> = EVERY_LANE.iter().chain(&HARDENED).map(|&(case, _)| case).collect();
    lists_every_case(&MISUSE, &names);
    if any_malloc() {
        return;
    }
    for lane in [Lane::Fast, Lane::Scale, Lane::Hardened] {
        let hardened = if matches!(lane, Lane::Hardened) { &HARDENED[..] } else { &[] };
        for (case, fault) in EVERY_LANE.iter().chain(hardened) {
            let outcome = Run::new(&MISUSE).argument(case).preload(&lane.library()).finish();
            let died_of = outcome.status.and_then(|status| status.signal());
            assert_eq!(died_of, Some(libc::SIGABRT), "not aborted: {outcome}");
            let pointer = outcome.stdout.trim_end().strip_prefix("pointer ").expect("a pointer");
            let line = format!("hz3: {fault} {pointer}");
            assert!(outcome.stderr.starts_with(&line), "not {line:?}: {outcome}");
        }
    }
}

/// The program that docs/c.md shows, linked with each lane.
#[test]
fn the_example_of_the_book_is_built_and_run() {
    if any_malloc() {
        return;
    }
    let book = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/c.md");
    let text = std::fs::read_to_string(book).expect("docs/c.md");
    let source = text.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a program in docs/c.md");
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("example");
    std::fs::create_dir_all(&folder).expect("cargo's folder for tests is writable");
    std::fs::write(folder.join("example.c"), source).expect("written");
    for lane in [Lane::Fast, Lane::Scale, Lane::Hardened] {
        let library = lane.library();
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let compiled = Command::new(compiler)
            .args(["-Wall", "-Wextra", "-Werror", "-o", "example", "example.c", "-I"])
            .arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
            .arg(&library)
            .current_dir(&folder)
            .output()
            .expect("a compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let output = Command::new(folder.join("example"))
            .env_remove("HZ3_PRELOAD_DIR")
            .env("LD_LIBRARY_PATH", library.parent().expect("a folder"))
            .output()
            .expect("the program that was just built can be run");
        let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{warned}");
        // The large block has 25 pages; the region keeps a page for each size of the small ones.
        assert_eq!(said, "in the region: 1 block of 102400 bytes, 110592 held of 1048576\n");
        assert!(warned.starts_with("beyond the limit: "), "{warned}");
    }
}
