//! Upkeep: what happens with time.

#[cfg(not(loom))]
pub mod round;
