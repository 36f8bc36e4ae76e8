//! `build-preload`: builds the libraries for `LD_PRELOAD` and says how to use them.

use anyhow::Result;
use hz3::{Lane, Workspace, preload};
use std::process::ExitCode;

/// Arguments of `build-preload`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The lane to build
    #[arg(long, value_enum, default_value_t = Choice::All)]
    lane: Choice,
}

/// One lane or all.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Choice {
    /// The fast lane
    Fast,
    /// The scale lane
    Scale,
    /// The hardened lane
    Hardened,
    /// All of them
    All,
}

impl Choice {
    /// The lanes that are meant.
    pub fn lanes(self) -> &'static [Lane] {
        match self {
            Choice::Fast => &[Lane::Fast],
            Choice::Scale => &[Lane::Scale],
            Choice::Hardened => &[Lane::Hardened],
            Choice::All => &Lane::ALL,
        }
    }
}

/// `cargo xtask build-preload`: builds and prints each library's path and its `LD_PRELOAD` line.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    for &lane in arguments.lane.lanes() {
        let library = workspace.build_library(lane)?;
        println!("{}", library.display());
        println!("LD_PRELOAD={}", preload::with_preloaded(&library, None)?.display());
    }
    Ok(ExitCode::SUCCESS)
}
