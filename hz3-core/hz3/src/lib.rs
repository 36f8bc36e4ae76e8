#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

#[doc(inline)]
pub use hz3_core::*;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/rust.md")]
struct ExamplesOfTheBook;
