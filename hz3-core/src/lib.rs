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
//! [`Hz3`] is the scale lane; `Hz3<Fast>` and `Hz3<Hardened>` are the others. `malloc` of the C library stays what it is.
//! The crate needs Linux, stable Rust and `libc`, not `std`. These options of the environment hold here too:
//! `HZ3_ARENA_SIZE`, `HZ3_PURGE_DELAY_MS`, `HZ3_SHOW_ERRORS`, `HZ3_THP`, and `HZ3_BACKGROUND_THREAD` after
//! [`Hz3::start_background_thread`].
//!
//! # Inside
//!
//! Folders are layers. Each imports only those below it:
//!
//! ```text
//! api         what a caller can ask for
//! lane        the lanes: each a choice of constants and types
//! process     threads that start and end, forks, the background thread
//! observe     counts, checks and samples of an allocator
//! allocator   the parts of one lane, put together
//! upkeep      what happens with time
//! thread      one thread's share of the memory
//! transfer    how free slots change hands
//! record      what an allocator notes about its program
//! hardening   the means of the hardened lane
//! pages       where memory comes from
//! platform    what lies outside, and the tools that everything else is made with
//! ```
//!
//! All of it is private. The feature `internals` opens it to `hz3-preload`, `xtask` and the tests; what it opens may change
//! with any version.
//!
//! Nothing here allocates from elsewhere, blocks without bound, formats text or panics.

#![no_std]
#![cfg_attr(not(feature = "internals"), allow(dead_code, reason = "hz3-preload uses the rest"))]

#[cfg(any(test, miri))]
extern crate std;

#[cfg(all(feature = "internals", not(loom)))]
pub mod allocator;
#[cfg(all(not(feature = "internals"), not(loom)))]
mod allocator;
#[cfg(all(feature = "internals", not(loom)))]
pub mod api;
#[cfg(all(not(feature = "internals"), not(loom)))]
mod api;
#[cfg(all(feature = "internals", not(loom)))]
pub mod hardening;
#[cfg(all(not(feature = "internals"), not(loom)))]
mod hardening;
#[cfg(all(feature = "internals", not(loom)))]
pub mod lane;
#[cfg(all(not(feature = "internals"), not(loom)))]
mod lane;
#[cfg(all(feature = "internals", not(loom)))]
pub mod observe;
#[cfg(all(not(feature = "internals"), not(loom)))]
mod observe;
#[cfg(feature = "internals")]
pub mod pages;
#[cfg(not(feature = "internals"))]
mod pages;
#[cfg(feature = "internals")]
pub mod platform;
#[cfg(not(feature = "internals"))]
mod platform;
#[cfg(all(feature = "internals", not(loom)))]
pub mod process;
#[cfg(all(not(feature = "internals"), not(loom)))]
mod process;
#[cfg(all(feature = "internals", not(loom)))]
pub mod record;
#[cfg(all(not(feature = "internals"), not(loom)))]
mod record;
#[cfg(feature = "internals")]
pub mod thread;
#[cfg(not(feature = "internals"))]
mod thread;
#[cfg(feature = "internals")]
pub mod transfer;
#[cfg(not(feature = "internals"))]
mod transfer;
#[cfg(all(feature = "internals", not(loom)))]
pub mod upkeep;
#[cfg(all(not(feature = "internals"), not(loom)))]
mod upkeep;

#[cfg(not(loom))]
pub use allocator::Lane;
#[cfg(not(loom))]
pub use api::global_alloc::Hz3;
#[cfg(not(loom))]
pub use lane::{Fast, Hardened, Scale};
#[cfg(all(not(loom), feature = "internals"))]
pub use lane::{Tiny, TinyHardened, TinyHome};
#[cfg(not(loom))]
pub use observe::counts::Stats;
