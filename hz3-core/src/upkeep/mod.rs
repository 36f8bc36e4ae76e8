//! Upkeep: what happens with time.

pub mod holes;
pub mod round;
pub mod schedule;
pub mod trim;
