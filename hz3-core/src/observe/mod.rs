//! Observe: counts, checks and samples of an allocator.

#[cfg(not(loom))]
pub mod sampling;
#[cfg(not(loom))]
pub mod stats;
#[cfg(not(loom))]
pub mod stats_page;
