//! `hz3-bench-rust`: workloads of typical Rust programs, here on Rust's own global allocator.
//!
//! `cargo xtask bench-rust` builds the same workloads with other global allocators: one small program each, whose
//! `main.rs` names the allocator and this file's module. They take what Rust programs take, not what a benchmark of
//! `malloc` calls by itself: collections, boxed messages, shared trees, growing buffers, parsed text.

mod workloads;

use std::process::ExitCode;

fn main() -> ExitCode {
    workloads::main("system")
}
