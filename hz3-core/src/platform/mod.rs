//! Platform: what lies outside, and the tools that everything else is made with.

#[cfg(not(loom))]
pub mod abort;
#[cfg(not(loom))]
pub mod options;
pub mod os;
#[cfg(not(loom))]
pub mod prefetch;
pub mod rank;
pub mod seqlock;
pub mod sync;
pub mod table;
pub mod units;
