//! Process: thread start and exit, fork, and the background thread.

pub mod background;
pub mod fork;
pub mod lifecycle;
