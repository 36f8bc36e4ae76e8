//! Api: what a caller can ask for.

#[cfg(not(loom))]
pub mod global_alloc;
#[cfg(not(loom))]
pub mod hot;
#[cfg(not(loom))]
pub mod slack;
#[cfg(not(loom))]
pub mod slow;
