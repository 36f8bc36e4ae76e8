//! Record: what a measurement records, in memory and in its file, and how its runs are made.

pub mod allocator;
pub mod journal;
pub mod launcher;
pub mod machine;
pub mod markdown;
pub mod metric;
pub mod results;
pub mod row;
pub mod run;
pub mod statistics;
