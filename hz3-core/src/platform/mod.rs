//! Platform: the operating system, and the primitives that everything else is built on.

#[cfg(not(loom))]
pub mod abort;
#[cfg(not(any(loom, miri)))]
mod advice;
pub mod atomic;
pub mod budget;
#[cfg(not(any(loom, miri)))]
mod cgroup;
#[cfg(not(loom))]
pub mod clock;
#[cfg(all(not(loom), feature = "internals"))]
pub mod fake;
pub mod forks;
#[cfg(not(loom))]
pub mod helper;
#[cfg(not(loom))]
pub mod kernel;
#[cfg(not(loom))]
pub mod libc_inside;
#[cfg(not(any(loom, miri)))]
pub mod linux;
#[cfg(miri)]
#[path = "interpreted.rs"]
pub mod linux;
pub mod lock;
#[cfg(not(loom))]
pub mod options;
pub mod os;
#[cfg(not(loom))]
pub mod own_stack;
#[cfg(not(loom))]
pub mod prefetch;
pub mod rank;
pub mod seqlock;
pub mod system_page;
pub mod table;
pub mod transit;
pub mod units;
#[cfg(not(loom))]
mod valgrind;
