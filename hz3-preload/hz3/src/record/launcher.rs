//! Launcher: runs one program and reports what the kernel counted for it.
//!
//! The measuring process starts itself again as the launcher, and the launcher starts the program:
//! a process that is made inherits the largest resident size that its maker had so far, so the maker
//! must be small. A peak that is no larger than the launcher's own is left out.

use super::allocator::tuning_variables;
use super::run::ProcessFigures;
use crate::process;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use wait4::Wait4;

/// The hidden subcommand's name.
pub const SUBCOMMAND: &str = "launch-and-count";

/// Arguments of the hidden subcommand.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The file that the program reads as its standard input
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// The file that takes the program's standard output, which else is dropped
    #[arg(long, value_name = "FILE")]
    stdout: Option<PathBuf>,
    /// A variable of the program's environment
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<OsString>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// What the launcher prints.
#[derive(Serialize, Deserialize)]
pub struct Account {
    /// What the kernel counted.
    pub figures: ProcessFigures,
    exit_code: Option<i32>,
    #[serde(default)]
    signal: Option<i32>,
}

/// A program with everything it is started with.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What it reads as its standard input; nothing if absent.
    pub stdin: Option<PathBuf>,
    /// The file that takes its standard output, which else is dropped.
    pub stdout: Option<PathBuf>,
    /// Variables that are added to its environment.
    pub environment: Vec<(String, OsString)>,
}

/// The hidden subcommand: runs the program and prints one line of JSON.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let (program, rest) = arguments.program.split_first().context("no program")?;
    let stdin = match &arguments.stdin {
        Some(path) => Stdio::from(File::open(path).with_context(|| format!("can't read {}", path.display()))?),
        None => Stdio::null(),
    };
    let stdout = match &arguments.stdout {
        Some(path) => Stdio::from(File::create(path).with_context(|| format!("can't write {}", path.display()))?),
        None => Stdio::null(),
    };
    let mut command = Command::new(program);
    command.args(rest).stdin(stdin).stdout(stdout);
    for variable in &arguments.environment {
        let text = variable.to_str().context("a variable is not UTF-8")?;
        let (name, value) = text.split_once('=').context("a variable without a value")?;
        command.env(name, value);
    }
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("can't start {}", program.display()))?;
    let used = child.wait4()?;
    let wall_seconds = start.elapsed().as_secs_f64();
    // Its own peak after the start is the most that the program can have inherited.
    let floor_mb = own_peak_mb() * 1.02;
    let peak_rss_mb = used.rusage.maxrss as f64 / f64::from(1 << 20);
    let figures = ProcessFigures {
        wall_seconds: rounded(wall_seconds),
        user_seconds: rounded(used.rusage.utime.as_secs_f64()),
        system_seconds: rounded(used.rusage.stime.as_secs_f64()),
        peak_rss_mb: Some(rounded(peak_rss_mb)).filter(|peak| *peak > floor_mb),
    };
    let account = Account { figures, exit_code: used.status.code(), signal: used.status.signal() };
    println!("{}", serde_json::to_string(&account)?);
    Ok(ExitCode::SUCCESS)
}

/// Six decimals: microseconds, and about a byte.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn own_peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).and_then(|text| text.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}

impl Launch {
    /// The command that starts the launcher for this program.
    pub fn command(&self) -> Result<Command> {
        let own = std::env::current_exe().context("the path of this program")?;
        self.command_of(&own)
    }

    fn command_of(&self, launcher: &Path) -> Result<Command> {
        let mut command = Command::new(launcher);
        command.arg(SUBCOMMAND);
        for variable in tuning_variables() {
            command.env_remove(variable);
        }
        if let Some(stdin) = &self.stdin {
            command.arg("--stdin").arg(stdin);
        }
        if let Some(stdout) = &self.stdout {
            command.arg("--stdout").arg(stdout);
        }
        for (name, value) in &self.environment {
            let mut variable = OsString::from(format!("{name}="));
            variable.push(value);
            command.arg("--env").arg(variable);
        }
        command.arg("--").arg(&self.program).args(&self.arguments);
        Ok(command)
    }
}

/// The figures of a program that ran to its end, from the launcher's output.
///
/// # Errors
/// The reason for which the run does not count: the program failed.
pub fn read(captured: &process::Captured) -> Result<ProcessFigures> {
    let account = account(captured)?;
    if account.exit_code != Some(0) {
        bail!("{}: {}", account.ended(), last_line(captured));
    }
    Ok(account.figures)
}

/// What the launcher says of a program that ran to its end, whatever that was.
///
/// # Errors
/// The program could not be started.
pub fn account(captured: &process::Captured) -> Result<Account> {
    if !captured.status.success() {
        bail!("can't be launched: {}", last_line(captured));
    }
    serde_json::from_str(captured.stdout_text().trim()).context("the launcher's output")
}

fn last_line(captured: &process::Captured) -> String {
    captured.stderr_text().lines().last().unwrap_or_default().to_owned()
}

impl Account {
    /// How the program ended, in words.
    pub fn ended(&self) -> String {
        match (self.exit_code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "killed by a signal".to_owned(),
        }
    }
}

/// The beginning of the void reason of a run that was stopped because it did not end.
pub const ENDLESS: &str = "no end after";

/// Runs a child to its end; a child that never ends makes a void run, not an error.
pub fn run_or_void(command: &mut Command, limit: Duration) -> Result<std::result::Result<process::Captured, String>> {
    let start = Instant::now();
    match process::capture(command, limit) {
        Ok(captured) => Ok(Ok(captured)),
        Err(_) if start.elapsed() >= limit => Ok(Err(format!("{ENDLESS} {} s", limit.as_secs()))),
        Err(error) => Err(error),
    }
}

/// Runs a server for as long as its client takes, and gives the client's time and the server's output.
/// The client tells the server to end; where it fails, the server is killed.
pub fn serve(server: &mut Command, client: impl FnOnce() -> Result<Duration>) -> Result<(Duration, process::Captured)> {
    let mut output = tempfile::tempfile().context("temporary file")?;
    let mut errors = tempfile::tempfile().context("temporary file")?;
    server.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(errors.try_clone()?);
    let mut child = server.process_group(0).spawn().context("can't start the server")?;
    let outcome = client();
    if outcome.is_err() {
        // Fails only when the server has ended by itself. The launcher leads the server's group.
        let group = Pid::from_raw(i32::try_from(child.id()).context("process id")?);
        let _ = killpg(group, Signal::SIGKILL);
    }
    let status = child.wait()?;
    let time = outcome?;
    let captured =
        process::Captured { status, stdout: process::contents(&mut output)?, stderr: process::contents(&mut errors)? };
    Ok((time, captured))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn captured(stdout: &str, stderr: &str) -> process::Captured {
        let status = ExitStatus::from_raw(0);
        process::Captured { status, stdout: stdout.into(), stderr: stderr.into() }
    }

    fn account(exit_code: Option<i32>) -> String {
        let figures = ProcessFigures { wall_seconds: 1.5, peak_rss_mb: Some(20.0), ..ProcessFigures::default() };
        let signal = exit_code.is_none().then_some(11);
        serde_json::to_string(&Account { figures, exit_code, signal }).unwrap()
    }

    #[test]
    fn figures_of_a_program_that_succeeded_are_read() {
        let figures = read(&captured(&account(Some(0)), "")).unwrap();
        assert_eq!((figures.wall_seconds, figures.peak_rss_mb), (1.5, Some(20.0)));
    }

    #[test]
    fn a_program_that_failed_or_was_killed_counts_for_nothing_and_says_why() {
        let error = read(&captured(&account(Some(3)), "warning\nno such table\n")).unwrap_err().to_string();
        assert!(error.contains("exit code 3") && error.contains("no such table"), "{error}");
        let error = read(&captured(&account(None), "")).unwrap_err().to_string();
        assert!(error.contains("signal 11"), "{error}");
    }

    #[test]
    fn a_program_s_environment_and_files_reach_the_launcher() {
        let launch = Launch {
            program: "/bin/x".into(),
            arguments: vec!["--stdin".into()],
            stdin: Some("/in".into()),
            stdout: Some("/out".into()),
            environment: vec![("LD_PRELOAD".to_owned(), "/lib/y.so".into())],
        };
        let command = launch.command_of(Path::new("/xtask")).unwrap();
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_str().unwrap()).collect();
        let expected = [
            SUBCOMMAND,
            "--stdin",
            "/in",
            "--stdout",
            "/out",
            "--env",
            "LD_PRELOAD=/lib/y.so",
            "--",
            "/bin/x",
            "--stdin",
        ];
        assert_eq!(arguments, expected);
        assert!(
            command.get_envs().all(|(name, value)| name != "LD_PRELOAD" || value.is_none()),
            "the launcher itself is not preloaded"
        );
    }

    #[test]
    fn a_server_whose_client_fails_is_killed() {
        let mut server = Command::new("sleep");
        let start = Instant::now();
        let error = serve(server.arg("100"), || bail!("no answer")).unwrap_err();
        assert_eq!(error.to_string(), "no answer");
        assert!(start.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn a_run_that_takes_too_long_is_void_and_a_missing_program_is_an_error() {
        let mut endless = Command::new("sleep");
        let outcome = run_or_void(endless.arg("100"), Duration::from_millis(200)).unwrap();
        assert!(outcome.unwrap_err().starts_with(ENDLESS));
        let mut absent = Command::new("no-such-program-here");
        assert!(run_or_void(&mut absent, Duration::from_secs(5)).is_err());
    }
}
