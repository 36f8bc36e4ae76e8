//! Any string of bytes as calls of every entry point, on both test lanes and both real ones.
#![no_main]

#[path = "../../tests/sequence/mod.rs"]
mod sequence;

use hz3_core::{Fast, Scale, Tiny, TinyHome};

libfuzzer_sys::fuzz_target!(|string: &[u8]| {
    sequence::run::<Tiny>(string);
    sequence::run::<TinyHome>(string);
    sequence::run::<Fast>(string);
    sequence::run::<Scale>(string);
});
