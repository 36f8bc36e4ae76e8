//! `bench_random_mixed_mt_remote_malloc`: measures the `malloc` and `free` that serve this process
//! when a share of the blocks is freed by another thread than the one that allocated them.
//!
//! ```text
//!   thread 0 ──ring 1──▶ thread 1 ──ring 2──▶ thread 2 ── … ──ring 0──▶ thread 0
//!   ws slots             ws slots             ws slots
//! ```
//!
//! Each thread owns `ws` slots and, in every iteration, first frees what its left neighbour sent, then
//! takes one slot at random: an empty one is filled by `malloc`, an occupied one is emptied by `free`
//! or by sending the block to the right neighbour.
//!
//! The allocator under test is whatever the dynamic linker bound `malloc` to, normally a library named
//! in `LD_PRELOAD`. Nothing that the threads share or walk while the clock runs comes from it: rings,
//! slots and counters are mapped pages (see [`mapping`]).
//!
//! Exit status: 0; 1 if an allocation failed or the run could not be set up; 2 for bad arguments.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

pub mod allocator;
pub mod arguments;
pub mod bench;
pub mod block;
pub mod clock;
pub mod crew;
pub mod draw;
pub mod latency;
pub mod live;
pub mod mapping;
pub mod memory;
pub mod piece;
pub mod report;
pub mod ring;
pub mod start_line;
pub mod trace;
pub mod worker;

use arguments::{Arguments, NAME, Refusal};

/// Runs the command with the command line `arguments` (the first is the program's own name), prints the
/// report to standard output and returns the exit status.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::read(arguments) {
        Ok(arguments) => arguments,
        Err(Refusal::Shown(text)) => {
            // `--help` and `--version`: a reader that has gone away is no error.
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(Refusal::Wrong(line)) => {
            eprintln!("{NAME}: {line}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("{NAME}: {failed} allocations failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One run: prints each line as soon as it is known and returns the number of failed allocations.
fn run(arguments: &Arguments) -> io::Result<u64> {
    // The first line is printed before the run, which also makes the output buffer exist before it.
    writeln!(io::stdout(), "{}", report::ArgumentsLine(arguments))?;
    let allocator = allocator::Allocator::serving_this_process();
    let result = bench::run(arguments)?;
    let failed = result.tally.failed;
    write!(io::stdout(), "{}", report::Report { arguments, allocator: &allocator, result: &result })?;
    Ok(failed)
}
