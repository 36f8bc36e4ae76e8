//! Transfer: how free slots change hands.

#[cfg(not(loom))]
pub mod carve;
pub mod depot;
#[cfg(not(loom))]
pub mod doubts;
#[cfg(not(loom))]
pub mod exchange;
#[cfg(not(loom))]
pub mod homeward;
#[cfg(not(loom))]
pub mod magazine;
#[cfg(not(loom))]
pub mod remote_stash;
#[cfg(not(loom))]
pub mod shard;
#[cfg(not(loom))]
pub mod spread;
