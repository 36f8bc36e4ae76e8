//! `cargo xtask`: builds, runs, tests and installs hz3, and hands on to `hz3-eval` what measures it.
//!
//! Each subcommand is one module, here or in the library `hz3`. Exit codes: 0 success, 1 a build, a check or a test
//! failed, 2 the user asked for something that does not exist; `run` passes its program's own exit code on.

#![forbid(unsafe_code)]

mod arguments;
mod build_preload;
mod debian;
mod disassembly;
mod files;
mod forward;
mod frames;
mod golden;
mod install;
mod layers;
mod library_shape;
mod manual;
mod public_api;
mod sbom;
mod soak;
mod suite;
mod tree;

use anyhow::Result;
use arguments::{Arguments, Command};
use hz3::{Workspace, doctor, run, usage};
use std::process::ExitCode;

fn main() -> ExitCode {
    usage::main(None, carry_out)
}

fn carry_out(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::BuildPreload(arguments) => build_preload::command(&arguments),
        Command::Run(arguments) => run::command(&arguments, &Workspace::locate()?),
        Command::Doctor(arguments) => doctor::command(&arguments, &Workspace::locate()?),
        Command::Install(arguments) => install::install(&arguments),
        Command::Dist(arguments) => install::dist(&arguments),
        Command::Test(arguments) => suite::command(&arguments),
        Command::Soak(arguments) => soak::command(&arguments),
        Command::Golden(arguments) => golden::command(&arguments),
        Command::Layers(arguments) => layers::command(&arguments),
        Command::PublicApi(arguments) => public_api::command(&arguments),
        Command::Evaluation(_) => forward::command(),
    }
}
