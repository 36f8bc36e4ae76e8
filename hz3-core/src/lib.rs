//! A general-purpose memory allocator for Linux. Free blocks travel between threads in magazines: dozens of blocks per
//! exchange.
//!
//! # As a Rust program's allocator
//!
//! ```
//! # use hz3_core as hz3;
//! use hz3::Hz3;
//!
//! #[global_allocator]
//! static GLOBAL: Hz3 = Hz3::new();
//!
//! let words: Vec<String> = "a few words".split(' ').map(str::to_owned).collect();
//! assert_eq!(words.len(), 3);
//! assert!(GLOBAL.stats().live_bytes() > 0);
//! ```
//!
//! [`Hz3`] is the scale lane; `Hz3<Fast>` and `Hz3<Hardened>` are the others. The C library's `malloc` is not replaced.
//! The crate needs Linux, stable Rust and `libc`, but not `std`. It reads these environment variables:
//! `HZ3_ARENA_SIZE`, `HZ3_BACKGROUND_THREAD` (1 takes effect in [`Hz3::start_background_thread`]), `HZ3_HARD_LIMIT`,
//! `HZ3_PURGE_DELAY_MS`, `HZ3_SHOW_ERRORS`, `HZ3_SOFT_LIMIT` and `HZ3_THP`.
//!
//! # Regions
//!
//! [`Region`] is memory of its own, within a limit, that goes all at once; with the feature `allocator-api2` an `Allocator`.
//!
//! # Inside
//!
//! Folders are layers; each imports only those below it:
//!
//! ```text
//! api         what programs call
//! lane        the lanes: each a choice of constants and types
//! process     start and end of threads, forks, the background thread
//! observe     counts, checks and samples of an allocator
//! allocator   the parts of one lane, put together
//! upkeep      decay: sends surplus magazines home, purges free memory
//! thread      a thread's heap
//! transfer    how free slots change hands
//! regions     blocks that go all at once, within a limit
//! record      what an allocator records about its program
//! hardening   the hardened lane's checks
//! pages       spans, runs and direct mappings
//! platform    the system, and tools for all layers
//! ```
//!
//! All of it is private. The feature `internals` opens it to `hz3-preload`, `xtask` and the tests, without stability.
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
#[cfg(all(feature = "internals", not(loom)))]
pub mod regions;
#[cfg(all(not(feature = "internals"), not(loom)))]
mod regions;
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
pub use api::limits::Limit;
#[cfg(not(loom))]
pub use api::region_handle::Region;
#[cfg(not(loom))]
pub use lane::{Fast, Hardened, Scale};
#[cfg(all(not(loom), feature = "internals"))]
pub use lane::{Tiny, TinyHardened, TinyHome};
#[cfg(not(loom))]
pub use observe::counts::Stats;
#[cfg(not(loom))]
pub use regions::region::RegionStats;
