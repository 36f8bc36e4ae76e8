//! Extent: how much of a benchmark is measured.

/// The arguments that say how much; a resumed measurement has its own.
#[derive(clap::Args, Clone, Debug)]
pub struct Extent {
    /// Fewer or smaller rows and fewer rounds, for a first look
    #[arg(long)]
    pub quick: bool,
    /// Rows by id, separated by commas: only these; an unknown one lists them
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    pub rows: Vec<String>,
    /// Counted rounds per row; one more runs first and is dropped [default: the command's own, fewer with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: Option<u32>,
}

impl Extent {
    /// The counted rounds: what was asked for, else `full`, or `quick` with `--quick`.
    pub fn rounds(&self, full: u32, quick: u32) -> u32 {
        self.runs.unwrap_or(if self.quick { quick } else { full })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_that_were_asked_for_go_before_the_command_s_own() {
        let rounds = |quick, runs| Extent { quick, rows: Vec::new(), runs }.rounds(30, 6);
        assert_eq!([rounds(false, None), rounds(true, None)], [30, 6]);
        assert_eq!([rounds(false, Some(2)), rounds(true, Some(2))], [2, 2]);
    }
}
