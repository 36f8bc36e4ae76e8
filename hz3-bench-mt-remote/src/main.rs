//! The benchmark's command: everything it does is in the library beside it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    hz3_bench_mt_remote::main(std::env::args_os())
}
