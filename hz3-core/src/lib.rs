//! hz3's core: a general-purpose memory allocator for Linux whose free blocks travel between threads in
//! magazines, one exchange for dozens of blocks.
//!
//! # As a Rust program's allocator
//!
//! ```
//! use hz3_core::Hz3;
//!
//! #[global_allocator]
//! static GLOBAL: Hz3 = Hz3::new();
//!
//! let words: Vec<String> = "a few words".split(' ').map(str::to_owned).collect();
//! assert_eq!(words.len(), 3);
//! assert!(GLOBAL.stats().live_bytes() > 0);
//! ```
//!
//! [`Hz3`] is the scale lane; `Hz3<Fast>` is the other one. `malloc` of the C library stays what it is. The crate
//! needs Linux, stable Rust and `libc`, not `std`. The options of the environment (`HZ3_PURGE_DELAY_MS` and so on)
//! hold here too.
//!
//! # Inside
//!
//! A *lane* ([`Fast`], [`Scale`]) is the allocator under one choice of constants and policy; each has one
//! static [`allocator::Allocator`]. The interface is [`hot`] and [`slow`]; `hz3-preload` dresses it as C's
//! and C++'s. Modules are layers, from [`sync`] and [`units`] up to [`global`]; `cargo xtask test` checks that none
//! uses a higher one.
//!
//! Nothing here allocates from elsewhere, blocks without bound, formats text or panics.

#![no_std]

#[cfg(test)]
extern crate std;

#[cfg(not(loom))]
pub mod allocator;
#[cfg(not(loom))]
pub mod api;
#[cfg(not(loom))]
pub mod hardening;
#[cfg(not(loom))]
pub mod lane;
#[cfg(not(loom))]
pub mod observe;
pub mod pages;
pub mod platform;
#[cfg(not(loom))]
pub mod process;
#[cfg(not(loom))]
pub mod record;
pub mod thread;
pub mod transfer;
#[cfg(not(loom))]
pub mod upkeep;

#[cfg(not(loom))]
pub use allocator::Lane;
#[cfg(not(loom))]
pub use api::global_alloc::Hz3;
#[cfg(not(loom))]
pub use lane::{Fast, Hardened, Scale};
#[cfg(all(not(loom), any(test, feature = "internals")))]
pub use lane::{Tiny, TinyHardened, TinyHome};
