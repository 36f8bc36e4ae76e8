//! Record: what an allocator notes about its program.

pub mod heat;
pub mod observer;
pub mod pace;
pub mod profile;
