//! Record: what an allocator notes about its program.

#[cfg(not(loom))]
pub mod heat;
#[cfg(not(loom))]
pub mod observer;
#[cfg(not(loom))]
pub mod profile;
