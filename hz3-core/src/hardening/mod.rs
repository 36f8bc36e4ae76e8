//! Hardening: the means of the hardened lane.

#[cfg(not(loom))]
pub mod canary;
#[cfg(not(loom))]
pub mod checked;
#[cfg(not(loom))]
pub mod free_mark;
#[cfg(not(loom))]
pub mod quarantine;
#[cfg(not(loom))]
pub mod validation;
