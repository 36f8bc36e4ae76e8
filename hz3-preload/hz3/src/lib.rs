//! hz3: what users install beside the libraries, and what the other tools of this repository share with it.
//!
//! ```text
//!   command_line                         the arguments of the command
//!   run, doctor, top, advise, report     the commands
//!   record                               what a measurement records, and how runs are made and read
//!   workspace                            the sources, and cargo, which builds from them
//!   home, preload                        where the libraries lie: beside the installed program or in the sources' build
//!   process, lane, usage                 children, hz3's builds, command lines
//! ```
//!
//! Each layer uses those below it. The command `hz3` needs no sources; `hz3-eval` and `xtask` do.

#![forbid(unsafe_code)]

pub mod advise;
pub mod command_line;
pub mod doctor;
pub mod home;
pub mod lane;
pub mod preload;
pub mod process;
pub mod record;
pub mod report;
pub mod run;
pub mod top;
pub mod usage;
pub mod workspace;

pub use lane::Lane;
pub use usage::UsageError;
pub use workspace::Workspace;
