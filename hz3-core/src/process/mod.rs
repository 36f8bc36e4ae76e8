//! Process: the life of threads, forks and the background thread.

pub mod background;
pub mod fork;
pub mod lifecycle;
