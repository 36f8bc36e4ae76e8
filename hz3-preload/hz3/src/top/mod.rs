//! Top: a live view of what a process's memory is used for, from its shared statistics page. Without the feature `top`
//! there are its arguments alone, for the manual page.

mod arguments;
#[cfg(feature = "top")]
pub mod page_file;
#[cfg(feature = "top")]
mod view;
#[cfg(feature = "top")]
mod watch;

pub use arguments::Arguments;
#[cfg(feature = "top")]
pub use watch::command;
