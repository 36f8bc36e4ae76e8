//! Process: the life of threads, forks and the background thread.

#[cfg(not(loom))]
pub mod background;
#[cfg(not(loom))]
pub mod lifecycle;
