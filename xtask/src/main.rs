//! `cargo xtask`: builds, runs, tests and measures hz3.
//!
//! Each subcommand is one module. Exit codes: 0 success, 1 a build, a check or a test failed, 2 the
//! user asked for something that does not exist; `run` passes its program's own exit code on.

#![forbid(unsafe_code)]

mod arguments;
mod debian;
mod disassembly;
mod doctor;
mod evaluation;
mod files;
mod golden;
mod install;
mod lane;
mod layers;
mod library_shape;
mod preload;
mod process;
mod public_api;
mod run;
mod soak;
mod suite;
mod top;
mod workspace;

use arguments::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match arguments::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(stop) => return stop.report(),
    };
    let outcome = match command {
        Command::BuildPreload(arguments) => preload::command(&arguments),
        Command::Run(arguments) => run::command(&arguments),
        Command::Top(arguments) => top::command(&arguments),
        Command::Doctor(arguments) => doctor::command(&arguments),
        Command::Install(arguments) => install::install(&arguments),
        Command::Dist(arguments) => install::dist(&arguments),
        Command::Test(arguments) => suite::command(&arguments),
        Command::Soak(arguments) => soak::command(&arguments),
        Command::Golden(arguments) => golden::command(&arguments),
        Command::Layers(arguments) => layers::command(&arguments),
        Command::PublicApi(arguments) => public_api::command(&arguments),
        Command::Evaluation(command) => evaluation::command(&command),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => arguments::report(&error),
    }
}
