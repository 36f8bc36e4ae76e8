//! Run: what one run of one program under one allocator gave.

use serde::{Deserialize, Serialize};

/// One run of one row under one allocator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The row's id.
    pub row: String,
    /// The allocator's name.
    pub allocator: String,
    /// 0 is the warm-up round, which is dropped; counted rounds start at 1.
    pub round: u32,
    /// Why the run counts for nothing; absent for a valid run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
    /// What the benchmark or workload reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<BenchmarkFigures>,
    /// What the kernel reported about the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessFigures>,
    /// Time of single calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latency: Vec<LatencyFigures>,
}

/// What the benchmark or a workload reported about one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkFigures {
    /// Completed mallocs and frees.
    pub ops: u64,
    /// From the common start to the last thread's end.
    pub seconds: f64,
    /// `ops` per second.
    pub ops_per_second: f64,
    /// Share of the frees that another thread did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_percent: Option<f64>,
    /// Share of the sends that met a full ring and were freed locally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback_percent: Option<f64>,
    /// Largest resident size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_mb: Option<f64>,
    /// Largest sum of the sizes of live blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_live_mb: Option<f64>,
    /// Peak resident over peak live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_over_live: Option<f64>,
    /// The figures that have a bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<BoundFigures>,
}

/// A figure with the most that it may be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoundFigures {
    /// Which figure.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// The most that it may be.
    pub limit: f64,
}

/// What the kernel reported about one process and the children it waited for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessFigures {
    /// Wall-clock time.
    pub wall_seconds: f64,
    /// Processor time in user mode.
    pub user_seconds: f64,
    /// Processor time in the kernel.
    pub system_seconds: f64,
    /// Largest resident size of any one process; absent where it is too small to be told from what
    /// the process inherits from the one that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_mb: Option<f64>,
}

/// Time of one kind of call, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyFigures {
    /// `malloc`, `local_free` or `remote_free`.
    pub call: String,
    /// Number of calls timed.
    pub count: u64,
    /// Half the calls took no longer.
    pub p50: f64,
    /// 99 % of the calls took no longer.
    pub p99: f64,
    /// 99.9 % of the calls took no longer.
    pub p999: f64,
    /// 99.99 % of the calls took no longer.
    pub p9999: f64,
    /// The longest call.
    pub max: f64,
}
