//! Process: thread start and exit, fork, the background thread, and that their code stays loaded.

pub mod background;
pub mod fork;
pub mod keep_loaded;
pub mod lifecycle;
