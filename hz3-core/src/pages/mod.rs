//! Pages: where memory comes from.

#[cfg(not(loom))]
pub mod arena;
#[cfg(not(loom))]
pub mod bins;
pub mod extent;
#[cfg(not(loom))]
pub mod guards;
#[cfg(not(loom))]
pub mod large;
#[cfg(not(loom))]
pub mod page_tag;
#[cfg(not(loom))]
pub mod run_lists;
#[cfg(not(loom))]
pub mod runs;
#[cfg(not(loom))]
pub mod span;
