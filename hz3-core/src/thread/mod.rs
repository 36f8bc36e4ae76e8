//! Thread: one thread's share of the memory.

#[cfg(not(loom))]
pub mod cold_bins;
#[cfg(not(loom))]
pub mod flow;
#[cfg(not(loom))]
pub mod heap;
pub mod hooks;
pub mod registry;
#[cfg(not(loom))]
pub(crate) mod tls;
