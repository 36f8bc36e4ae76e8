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

pub mod depot;
pub mod extent;
pub mod heap_states;
pub mod hooks;
pub mod os;
pub mod sequence;
pub mod sync;
pub mod table;
pub mod units;

#[cfg(not(loom))]
pub mod allocator;
#[cfg(not(loom))]
pub mod arena;
#[cfg(not(loom))]
pub mod background;
#[cfg(not(loom))]
pub mod balance;
#[cfg(not(loom))]
pub mod bins;
#[cfg(not(loom))]
pub mod canary;
#[cfg(not(loom))]
pub mod checked;
#[cfg(not(loom))]
pub mod checks;
#[cfg(not(loom))]
pub mod cold_bins;
#[cfg(not(loom))]
pub mod courier;
#[cfg(not(loom))]
pub mod fault;
#[cfg(not(loom))]
pub mod global;
#[cfg(not(loom))]
pub mod heap;
#[cfg(not(loom))]
pub mod heat;
#[cfg(not(loom))]
pub mod held;
#[cfg(not(loom))]
pub mod hot;
#[cfg(not(loom))]
pub mod lane;
#[cfg(not(loom))]
pub mod large;
#[cfg(not(loom))]
pub mod magazine;
#[cfg(not(loom))]
pub mod mark;
#[cfg(not(loom))]
pub mod one_way;
#[cfg(not(loom))]
pub mod options;
#[cfg(not(loom))]
pub mod page;
#[cfg(not(loom))]
pub mod page_tag;
#[cfg(not(loom))]
pub mod prefetch;
#[cfg(not(loom))]
pub mod profile;
#[cfg(not(loom))]
pub mod publisher;
#[cfg(not(loom))]
pub mod quarantine;
#[cfg(not(loom))]
pub mod remote_stash;
#[cfg(not(loom))]
pub mod run_lists;
#[cfg(not(loom))]
pub mod runs;
#[cfg(not(loom))]
pub mod sampling;
#[cfg(not(loom))]
pub mod shard;
#[cfg(not(loom))]
pub mod slack;
#[cfg(not(loom))]
pub mod slow;
#[cfg(not(loom))]
pub mod span;
#[cfg(not(loom))]
pub mod stats;
#[cfg(not(loom))]
pub mod thread;
#[cfg(not(loom))]
pub mod thread_pointer;
#[cfg(not(loom))]
pub mod upkeep;

#[cfg(not(loom))]
pub use global::Hz3;
#[cfg(not(loom))]
pub use lane::{Fast, Hardened, Lane, Scale, Tiny, TinyHardened, TinyHome};
