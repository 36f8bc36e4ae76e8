//! Observe: counts, checks and samples of an allocator.

pub mod books;
pub mod counts;
pub mod sampling;
pub mod stats;
pub mod stats_page;
