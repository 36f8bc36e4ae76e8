//! Thread: one thread's share of the memory.

#[cfg(not(loom))]
pub mod cold_bins;
#[cfg(not(loom))]
pub mod flow;
#[cfg(not(loom))]
pub mod heap;
pub mod hooks;
#[cfg(not(loom))]
pub mod one_way;
pub mod registry;
#[cfg(not(loom))]
pub mod tls;
