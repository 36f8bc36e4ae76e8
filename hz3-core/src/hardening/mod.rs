//! Hardening: the means of the hardened lane.

pub mod canary;
pub mod free_mark;
pub mod quarantine;
pub mod unwritten;
pub mod validation;
