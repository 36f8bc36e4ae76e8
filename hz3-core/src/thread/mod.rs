//! Thread: what each thread owns, and the registry of all threads' heaps.

pub mod claim;
#[cfg(not(loom))]
pub mod cold_bins;
#[cfg(not(loom))]
pub mod flow;
#[cfg(not(loom))]
pub mod heap;
#[cfg(not(loom))]
pub mod heaps;
pub mod hooks;
pub mod loaded;
#[cfg(not(loom))]
pub mod misses;
pub mod registry;
#[cfg(not(loom))]
pub mod rest;
#[cfg(not(loom))]
pub(crate) mod tls;
