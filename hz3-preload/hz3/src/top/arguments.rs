//! Arguments of `top`.

use crate::lane::Lane;
use std::ffi::OsString;

/// Arguments of `top`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The process to look at; it was started with HZ3_STATS_PAGE set
    #[arg(value_name = "PID", required_unless_present = "run", conflicts_with = "run")]
    pub process: Option<u32>,
    /// Start PROGRAM on hz3, with a page, and look at it until it ends
    #[arg(long, requires = "program")]
    pub run: bool,
    /// The lane to run on
    #[arg(long, value_enum, default_value_t = Lane::Scale, requires = "run")]
    pub lane: Lane,
    /// Seconds between two views
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub interval: f64,
    /// Print one view as text and end, as is done without a terminal
    #[arg(long)]
    pub once: bool,
    /// Print one view as JSON and end
    #[arg(long, conflicts_with = "once")]
    pub json: bool,
    /// The program and its arguments, after `--`
    #[arg(last = true, value_name = "PROGRAM", requires = "run")]
    pub program: Vec<OsString>,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("from 0.1 to 3600".to_owned()) }
}
