//! Regions: blocks that go all at once, within a limit.

pub mod blocks;
pub mod index;
pub mod region;
