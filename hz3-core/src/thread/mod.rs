//! Thread: what each thread owns, and the registry of all threads' heaps.

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
