//! Properties: any sequence of calls of all entry points, by one thread or by several, keeps to the model in
//! `sequence`: no overlap, alignment, contents, zeros, usable sizes, and books that close. On every lane; and
//! the fuzzer's corpus is run again. A failure prints the shortest sequence of steps that was found.

use crate::sequence::{Step, run};
use hz3_core::{Fast, Hardened, Lane, Scale, Tiny, TinyHardened, TinyHome};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Sequences of each kind and lane. Chosen: all of them take some ten seconds in a debug build.
const CASES: u32 = 64;
const LONGEST: usize = 500;

/// `confine` changes a step's first byte, which holds its thread.
fn holds<L: Lane>(confine: fn(u8) -> u8) {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let steps = prop::collection::vec(any::<Step>(), 0..LONGEST);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        run::<L>(&steps.into_iter().flat_map(|[first, a, b, c]| [confine(first), a, b, c]).collect::<Vec<u8>>());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

macro_rules! on_every_lane {
    ($($lane:ident: $single:ident, $several:ident;)+) => {$(
        #[test]
        fn $single() {
            apart!();
            holds::<$lane>(|first| first & 15);
        }

        #[test]
        fn $several() {
            apart!();
            holds::<$lane>(|first| first);
        }
    )+};
}

on_every_lane! {
    Tiny: any_calls_of_one_thread_hold_on_tiny, any_calls_of_several_threads_hold_on_tiny;
    TinyHome: any_calls_of_one_thread_hold_on_tiny_home, any_calls_of_several_threads_hold_on_tiny_home;
    TinyHardened: any_calls_of_one_thread_hold_on_tiny_hardened, any_calls_of_several_threads_hold_on_tiny_hardened;
    Hardened: any_calls_of_one_thread_hold_on_hardened, any_calls_of_several_threads_hold_on_hardened;
    Fast: any_calls_of_one_thread_hold_on_fast, any_calls_of_several_threads_hold_on_fast;
    Scale: any_calls_of_one_thread_hold_on_scale, any_calls_of_several_threads_hold_on_scale;
}

#[test]
fn the_fuzzers_corpus_holds_on_every_lane() {
    apart!();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/sequences");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus is in the repository")
        .map(|entry| entry.expect("a folder that can be read").path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{} files in {folder}", files.len());
    for file in files {
        println!("{}", file.display());
        let string = std::fs::read(&file).expect("a file that can be read");
        run::<Tiny>(&string);
        run::<TinyHome>(&string);
        run::<TinyHardened>(&string);
        run::<Hardened>(&string);
        run::<Fast>(&string);
        run::<Scale>(&string);
    }
}
