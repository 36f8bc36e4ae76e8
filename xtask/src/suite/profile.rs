//! Profile: a heap profile, opened by the readers that its format is meant for.

use super::package::{self, Package};
use super::session::Session;
use super::step::{Step, Stop};
use anyhow::{Context, Result, ensure};
use hz3::{Lane, process};
use std::process::Command;
use std::time::Duration;

const CC: Package = Package { command: "cc", name: "gcc" };
/// Both are Perl scripts that call `nm` and `addr2line`.
const READERS: [Package; 2] = [
    Package { command: "google-pprof", name: "google-perftools" },
    Package { command: "jeprof", name: "libjemalloc-dev" },
];
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// One step per lane.
pub fn steps() -> Vec<Step> {
    let step = |lane| Step::new(format!("profile/{lane}"), move |session| is_read(session, lane));
    Lane::FOR_SPEED.into_iter().map(step).collect()
}

fn is_read(session: &mut Session, lane: Lane) -> Result<(), Stop> {
    package::require(&[CC])?;
    package::require(&READERS)?;
    let library = session.library(lane)?;
    let folder = session.empty_folder("profile")?;
    let (program, profile) = (folder.join("program"), folder.join("heap"));
    let source = session.workspace.root.join("hz3-preload/tests/c/profile.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-fno-builtin", "-pthread"]).arg(source).arg("-o").arg(&program).arg("-ldl");
    process::expect_success(&mut compiler, TIME_LIMIT)?;
    let mut run = Command::new(&program);
    run.arg("live_blocks_are_attributed_to_their_functions");
    run.env("HZ3_PROFILE", &profile).env("LD_PRELOAD", library);
    process::expect_success(&mut run, TIME_LIMIT)?;
    for reader in READERS {
        let mut command = Command::new(reader.command);
        command.arg("--text").arg(&program).arg(&profile).env_remove("LD_PRELOAD");
        let captured = process::capture(&mut command, TIME_LIMIT)?;
        shows_the_shares(&captured.stdout_text())
            .with_context(|| format!("{}\n{}", reader.command, captured.text()))?;
    }
    Ok(())
}

/// The program has 450 MiB in one function and 150 in the other.
fn shows_the_shares(text: &str) -> Result<()> {
    for (site, expected) in [("site_b", 450.0), ("site_a", 150.0)] {
        let line = text.lines().find(|line| line.ends_with(site)).with_context(|| format!("no {site}"))?;
        let found: f64 = line.split_whitespace().next().unwrap_or_default().parse().context("a number of MiB")?;
        ensure!((found - expected).abs() < expected * 0.3, "{site}: {found} MiB in place of {expected}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_shares_are_noticed() {
        let text = "Total: 604.6 MB\n 448.9 74.3% 74.3% 448.9 74.3% site_b\n 155.6 25.7% 100.0% 155.6 25.7% site_a\n";
        assert!(shows_the_shares(text).is_ok());
        assert!(shows_the_shares(&text.replace("155.6 25", "15.6 25")).is_err());
        assert!(shows_the_shares("").is_err());
    }
}
