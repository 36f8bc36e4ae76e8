//! Record: what a measurement records, in memory and in its file, and how its runs are made.

pub mod allocator;
pub mod benchmark_output;
pub mod journal;
pub mod launcher;
pub mod machine;
pub mod markdown;
pub mod metric;
pub mod results;
pub mod row;
pub mod run;
pub mod statistics;

pub use allocator::{Allocator, Peers, SYSTEM, Selection, Wanted, print_missing, tuning_variables};
pub use benchmark_output::{BenchmarkOutput, FALLBACK_LIMIT_PERCENT, ServedBy};
pub use journal::{Journal, load};
pub use launcher::{ENDLESS, Launch, run_or_void};
pub use machine::{Machine, Source, output_of};
pub use markdown::{markdown_table, with_spread};
pub use metric::{Bound, Call, Metric, Quantile};
pub use results::{AllocatorRecord, Header, Kind, Missing, Results, Role, SCHEMA, shown_arguments};
pub use row::{Pattern, Row, Suite};
pub use run::{BenchmarkFigures, BoundFigures, LatencyFigures, ProcessFigures, Run};
pub use statistics::{
    FEWEST_VALUES, Interval, Ratio, change_against_controls, geometric_mean, median, paired_ratio, quantile, show_ratio,
};
