//! `report`: the picture of what a process wrote where `HZ3_STATS_JSON` said.

pub mod canvas;
pub mod heat;
pub mod statistics_file;
pub mod text;

use crate::usage::UsageError;
use anyhow::{Context, Result};
use statistics_file::StatisticsFile;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `report`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// What a process wrote where HZ3_STATS_JSON said
    file: PathBuf,
    /// The folder of the picture [default: the file's own]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// `hz3 report FILE.json`.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let file = &arguments.file;
    let text =
        std::fs::read_to_string(file).map_err(|error| UsageError(format!("can't read {}: {error}", file.display())))?;
    if !StatisticsFile::is_meant(&text) {
        return Err(UsageError(format!("{} holds no statistics of a process", file.display())).into());
    }
    draw(file, &text, arguments.output.as_deref())
}

/// Draws the statistics `text` of `file`, beside it or in the folder that was asked for, and prints the picture's path.
pub fn draw(file: &Path, text: &str, folder: Option<&Path>) -> Result<ExitCode> {
    let statistics =
        StatisticsFile::read(text).map_err(|error| UsageError(format!("{}: {error:#}", file.display())))?;
    let beside = file.with_extension("svg");
    let picture = match (folder, beside.file_name()) {
        (Some(folder), Some(name)) => {
            std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
            folder.join(name)
        }
        _ => beside,
    };
    std::fs::write(&picture, heat::draw(&statistics)).with_context(|| format!("can't write {}", picture.display()))?;
    println!("{}", picture.display());
    Ok(ExitCode::SUCCESS)
}
