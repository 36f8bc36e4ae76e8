//! Row: one line of the evaluation, that is one workload with fixed arguments, run under every
//! allocator in turn.

use crate::usage::UsageError;
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// A workload with fixed arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Short name, unique among the rows: `t8-r50`, `sqlite3`.
    pub id: String,
    /// The name that tables and plots show.
    pub label: String,
    /// Which part of the evaluation the row belongs to.
    pub suite: Suite,
    /// What is run, as a person would type it, without paths.
    pub command: String,
    /// The remote-free benchmark's arguments; absent in the other suites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Arguments>,
}

/// A part of the evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// The remote-free benchmark.
    Remote,
    /// An allocator workload of the benchmark package.
    Workload,
    /// A whole program.
    Program,
    /// A scenario of `hz3-bench-memory`.
    Memory,
}

/// The arguments of `hz3-bench-mt-remote`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arguments {
    /// Number of threads.
    pub threads: u32,
    /// Iterations of each thread.
    pub iterations: u64,
    /// Slots of each thread.
    pub working_set: u32,
    /// Smallest block in bytes.
    pub min_bytes: u32,
    /// Largest block in bytes.
    pub max_bytes: u32,
    /// Share of the frees that another thread does, 0 to 100.
    pub remote_percent: u32,
    /// Messages that a ring between two threads holds.
    pub ring_slots: u32,
    /// Who allocates and who frees.
    pub pattern: Pattern,
}

/// Who allocates and who frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Every thread allocates, frees and sends to its right neighbour.
    Ring,
    /// Half the threads only allocate, the other half only free.
    Asymmetric,
}

/// Block sizes of the original's two matrices.
const SMALL: (u32, u32) = (16, 2048);
const MIXED: (u32, u32) = (16, 32_768);

/// The rows of `--quick`: one for each way in which the allocators differ most.
const QUICK: [&str; 6] = ["t1-r0", "t2-r50", "t8-r50", "t32-r0", "t32-r50", "t32-r0-32k"];

impl Arguments {
    /// The command line after the program's name.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = [
            u64::from(self.threads),
            self.iterations,
            u64::from(self.working_set),
            u64::from(self.min_bytes),
            u64::from(self.max_bytes),
            u64::from(self.remote_percent),
            u64::from(self.ring_slots),
        ]
        .iter()
        .map(u64::to_string)
        .collect();
        if self.pattern == Pattern::Asymmetric {
            words.extend(["--pattern".to_owned(), "asymmetric".to_owned()]);
        }
        words
    }

    /// Work of one run in iterations over all threads, for an estimate of its time.
    pub fn total_iterations(&self) -> f64 {
        f64::from(self.threads) * self.iterations as f64
    }
}

fn remote_row(threads: u32, remote_percent: u32, sizes: (u32, u32), pattern: Pattern) -> Row {
    let (min_bytes, max_bytes) = sizes;
    let (mut id, mut label) = match pattern {
        Pattern::Ring => (format!("t{threads}-r{remote_percent}"), format!("T={threads} R={remote_percent}")),
        Pattern::Asymmetric => (format!("t{threads}-asym"), format!("T={threads} asymmetric")),
    };
    if sizes == MIXED {
        id.push_str("-32k");
        label.push_str(&format!(" {min_bytes}–{max_bytes}"));
    }
    let arguments = Arguments {
        threads,
        iterations: 250_000,
        working_set: 400,
        min_bytes,
        max_bytes,
        remote_percent,
        ring_slots: 65_536,
        pattern,
    };
    let command = format!("hz3-bench-mt-remote {}", arguments.words().join(" "));
    Row { id, label, suite: Suite::Remote, command, arguments: Some(arguments) }
}

/// The full matrix of the remote-free benchmark: the original's minimal matrix and its additions,
/// and the rows that two cores and heavier remote traffic ask for.
pub fn remote_matrix() -> Vec<Row> {
    use Pattern::{Asymmetric, Ring};
    [
        (1, 0, SMALL, Ring),
        (2, 0, SMALL, Ring),
        (2, 50, SMALL, Ring),
        (2, 90, SMALL, Ring),
        (8, 0, SMALL, Ring),
        (8, 50, SMALL, Ring),
        (8, 90, SMALL, Ring),
        (32, 0, SMALL, Ring),
        (32, 50, SMALL, Ring),
        (32, 90, SMALL, Ring),
        (8, 50, MIXED, Ring),
        (32, 0, MIXED, Ring),
        (32, 50, MIXED, Ring),
        (2, 100, SMALL, Asymmetric),
        (8, 100, SMALL, Asymmetric),
    ]
    .map(|(threads, remote, sizes, pattern)| remote_row(threads, remote, sizes, pattern))
    .to_vec()
}

/// The rows of `--quick`.
pub fn quick_matrix() -> Vec<Row> {
    remote_matrix().into_iter().filter(|row| QUICK.contains(&row.id.as_str())).collect()
}

/// The rows named in `wanted`, in the order of `rows`; all of them when nothing is named.
///
/// # Errors
/// A [`UsageError`] that names the first unknown row and lists the known ones.
pub fn select(rows: Vec<Row>, wanted: &[String]) -> Result<Vec<Row>> {
    if let Some(unknown) = wanted.iter().find(|name| !rows.iter().any(|row| row.id == **name)) {
        let known: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        let message = format!("no row is named '{unknown}'; the rows are {}", known.join(", "));
        return Err(UsageError(message).into());
    }
    Ok(rows.into_iter().filter(|row| wanted.is_empty() || wanted.contains(&row.id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_holds_the_original_s_rows_and_no_row_twice() {
        let rows = remote_matrix();
        for id in ["t1-r0", "t8-r0", "t8-r50", "t32-r50", "t32-r0", "t32-r0-32k", "t32-r50-32k"] {
            assert_eq!(rows.iter().filter(|row| row.id == id).count(), 1, "{id}");
        }
        let mut ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), rows.len());
        assert_eq!(quick_matrix().len(), QUICK.len());
    }

    #[test]
    fn a_row_s_command_line_is_the_original_s() {
        let rows = remote_matrix();
        let row = rows.iter().find(|row| row.id == "t32-r50").unwrap();
        assert_eq!(row.command, "hz3-bench-mt-remote 32 250000 400 16 2048 50 65536");
        let asymmetric = rows.iter().find(|row| row.id == "t8-asym").unwrap();
        assert!(asymmetric.command.ends_with("--pattern asymmetric"));
    }

    #[test]
    fn an_unknown_row_is_a_usage_error_that_lists_the_known_ones() {
        let error = select(remote_matrix(), &["t3-r0".to_owned()]).unwrap_err();
        assert!(error.downcast_ref::<UsageError>().is_some());
        assert!(error.to_string().contains("'t3-r0'") && error.to_string().contains("t32-r90"));
    }

    #[test]
    fn selected_rows_keep_the_matrix_s_order() {
        let rows = select(remote_matrix(), &["t8-r0".to_owned(), "t1-r0".to_owned()]).unwrap();
        assert_eq!(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["t1-r0", "t8-r0"]);
    }
}
